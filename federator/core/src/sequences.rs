//! How far a sequence is advanced after a promotion that may have lost transactions: values that
//! the lost primary handed out must not be handed out again.

/// The smallest gap that may be configured. PostgreSQL logs a sequence 32 values ahead
/// (`SEQ_LOG_VALS` in `sequence.c`): a smaller gap would be lost in that.
pub const GAP_MIN: u64 = 32;

/// One sequence, as `pg_sequences` has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sequence {
    /// Its schema.
    pub schema: String,
    /// Its name.
    pub name: String,
    /// The last value that was logged; `None` before the first one.
    pub last: Option<i64>,
    /// The first value.
    pub start: i64,
    /// The step, never 0; negative counts down.
    pub increment: i64,
    /// The smallest value.
    pub min: i64,
    /// The largest value.
    pub max: i64,
    /// Whether it begins anew at its end.
    pub cycle: bool,
}

/// What becomes of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Advance {
    /// This is its last value now.
    To(i64),
    /// It has fewer values left than the gap, and does not begin anew. It is left alone: an error
    /// at each `nextval` would be worse than a value that may come twice.
    NoRoom {
        /// How many are left.
        left: u64,
    },
}

/// The value after `gap` further calls of `nextval`.
#[must_use]
pub fn advance(sequence: &Sequence, gap: u64) -> Advance {
    let step = i128::from(sequence.increment);
    let (min, max) = (i128::from(sequence.min), i128::from(sequence.max));
    // The first call yields the start: as if the value before it had been the last one.
    let last = sequence.last.map_or(i128::from(sequence.start) - step, i128::from);
    let (begin, end) = if step > 0 { (min, max) } else { (max, min) };
    // How many steps stay within the bounds.
    let room = ((end - last) / step).max(0);
    let gap = i128::from(gap);
    let value = if gap <= room {
        last + gap * step
    } else if sequence.cycle {
        let period = (max - min) / step.abs() + 1;
        begin + (gap - room - 1) % period * step
    } else {
        return Advance::NoRoom { left: u64::try_from(room).unwrap_or(u64::MAX) };
    };
    // Within min and max by the arithmetic above, so within an i64.
    Advance::To(i64::try_from(value).unwrap_or(sequence.max))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sequence(last: Option<i64>, increment: i64, min: i64, max: i64, cycle: bool) -> Sequence {
        let start = if increment > 0 { min } else { max };
        let (schema, name) = ("public".into(), "s".into());
        Sequence { schema, name, last, start, increment, min, max, cycle }
    }

    #[test]
    fn values() {
        let (low, high) = (i64::MIN, i64::MAX);
        for (last, increment, min, max, cycle, gap, expected) in [
            (Some(10), 1, 1, high, false, 1000, Advance::To(1010)),
            (None, 1, 1, high, false, 1000, Advance::To(1000)),
            (Some(10), 10, 1, high, false, 100, Advance::To(1010)),
            (Some(-10), -1, low, -1, false, 1000, Advance::To(-1010)),
            (None, -1, low, -1, false, 1000, Advance::To(-1000)),
            (Some(90), 1, 1, 100, false, 10, Advance::To(100)),
            (Some(90), 1, 1, 100, false, 11, Advance::NoRoom { left: 10 }),
            (Some(100), 1, 1, 100, false, 32, Advance::NoRoom { left: 0 }),
            (Some(90), 1, 1, 100, true, 11, Advance::To(1)),
            (Some(90), 1, 1, 100, true, 111, Advance::To(1)),
            (Some(8), 4, 1, 10, true, 1, Advance::To(1)),
            (Some(-99), -1, -100, -1, true, 2, Advance::To(-1)),
            (Some(high), 1, 1, high, false, 32, Advance::NoRoom { left: 0 }),
            (Some(low), -1, low, high, true, 1, Advance::To(high)),
            (Some(0), high, low, high, true, u64::MAX, Advance::To(low + high)),
        ] {
            let sequence = sequence(last, increment, min, max, cycle);
            assert_eq!(advance(&sequence, gap), expected, "{sequence:?} by {gap}");
        }
    }

    /// `nextval` as PostgreSQL does it.
    fn next(sequence: &Sequence) -> Option<i64> {
        let Some(last) = sequence.last else { return Some(sequence.start) };
        let next = i128::from(last) + i128::from(sequence.increment);
        if (i128::from(sequence.min)..=i128::from(sequence.max)).contains(&next) {
            return i64::try_from(next).ok();
        }
        let begin = if sequence.increment > 0 { sequence.min } else { sequence.max };
        sequence.cycle.then_some(begin)
    }

    proptest! {
        #[test]
        fn it_is_what_that_many_calls_of_nextval_would_leave(
            increment in prop_oneof![-9_i64..=-1, 1_i64..=9],
            (min, width) in (-50_i64..50, 1_i64..60),
            place in proptest::option::of(0_i64..60),
            cycle in any::<bool>(),
            gap in 1_u64..200,
        ) {
            let max = min + width;
            let last = place.map(|place| min + place % (width + 1));
            let mut walked = sequence(last, increment, min, max, cycle);
            let answer = advance(&walked, gap);
            for done in 0..gap {
                match next(&walked) {
                    Some(value) => walked.last = Some(value),
                    None => {
                        prop_assert_eq!(answer, Advance::NoRoom { left: done });
                        return Ok(());
                    }
                }
            }
            prop_assert_eq!(Some(answer), walked.last.map(Advance::To));
        }
    }
}
