//! Median, minimum and maximum of a few values. Pure.

use serde::Serialize;

/// What is said of the values of one metric.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Summary {
    /// The middle one; of an even number the mean of the two in the middle.
    pub median: f64,
    /// The smallest.
    pub min: f64,
    /// The largest.
    pub max: f64,
}

impl Summary {
    /// Of these values; `None` when there are none.
    #[must_use]
    pub fn of(values: &[f64]) -> Option<Self> {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let (min, max) = (*sorted.first()?, *sorted.last()?);
        let middle = sorted.len() / 2;
        let upper = *sorted.get(middle)?;
        let even = sorted.len().is_multiple_of(2);
        let lower = if even { sorted.get(middle.checked_sub(1)?) } else { None };
        let median = lower.map_or(upper, |lower| f64::midpoint(*lower, upper));
        Some(Self { median, min, max })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Wanted = Option<(f64, f64, f64)>;

    #[test]
    fn the_middle_and_the_ends() {
        let cases: &[(&[f64], Wanted)] = &[
            (&[], None),
            (&[2.0], Some((2.0, 2.0, 2.0))),
            (&[3.0, 1.0], Some((2.0, 1.0, 3.0))),
            (&[9.0, 1.0, 2.0], Some((2.0, 1.0, 9.0))),
            (&[4.0, 1.0, 3.0, 2.0], Some((2.5, 1.0, 4.0))),
        ];
        for (values, wanted) in cases {
            let seen = Summary::of(values).map(|s| (s.median, s.min, s.max));
            assert_eq!(seen, *wanted, "{values:?}");
        }
    }
}
