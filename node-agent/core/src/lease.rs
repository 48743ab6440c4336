//! The leader lease: what the keeper asks of the store, and what each answer means.
//!
//! A beat is one transaction: if the leader key holds this node's name, a new `position`. The right
//! to lead lasts from the moment that the last committed beat was *sent* for a TTL, less the time
//! that stopping PostgreSQL takes; whoever observes the beats counts from when they *saw* it, for a
//! TTL that is not shorter, so delay only helps. Each transaction names the beat that it follows,
//! so that it fails when anybody has beaten since, also when it reaches the store late.

use crate::time::Boot;
use node_agent_wire::Revision;
use std::time::Duration;

/// The time that stopping PostgreSQL may take, inside the TTL.
#[must_use]
pub fn stop_margin(ttl: Duration) -> Duration {
    (ttl / 10).clamp(Duration::from_millis(500), Duration::from_secs(2))
}

/// The TTLs of one beat.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ttls {
    /// What it says: so long its observers wait.
    pub carried: Duration,
    /// What its sender counts with once it is committed.
    pub counted: Duration,
}

/// The TTLs of the next beat. `in_force`: what the last right was counted with that the guard may
/// still go by. A lower TTL is counted with at first, and carried only when that is in force:
/// whoever reads a beat must not wait less than an earlier one lasts.
#[must_use]
pub fn ttls(configured: Duration, in_force: Duration) -> Ttls {
    Ttls { carried: configured.max(in_force), counted: configured }
}

/// What is in force after a committed beat. `told`: the guard has taken its deadline, or needs
/// none.
#[must_use]
pub fn in_force(before: Duration, counted: Duration, told: bool) -> Duration {
    if told { counted } else { counted.max(before) }
}

/// Where the right ends that a beat, or a round of asking the members, gives. `ttl`: what is
/// counted with, never more than the observers of the last beat wait.
#[must_use]
pub fn right_until(sent: Boot, ttl: Duration) -> Boot {
    sent + ttl.saturating_sub(stop_margin(ttl))
}

/// One transaction of the keeper.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Request {
    /// Renew the right. One that reaches the store late must not replace a later one, which may
    /// carry a higher TTL.
    Beat {
        /// The beat that it follows.
        over: Revision,
    },
    /// Take the key of a lost leader, if it is still that one's and nobody has beaten since.
    Replace {
        /// The last beat that was seen.
        over: Revision,
    },
    /// Take the absent key, if nobody has beaten since this node looked: whoever has may still
    /// lead, even if the key has vanished again. Revision 0: there was no `position`.
    Acquire {
        /// The last beat that was seen.
        over: Revision,
    },
    /// Take the key that holds this node's name already. One that reaches the store late must not
    /// replace a later beat, which may carry a higher TTL.
    TakeBack {
        /// The last beat that was seen.
        over: Revision,
    },
    /// Put back the key that vanished before its time, if nobody has beaten since.
    PutBack {
        /// This node's last beat.
        over: Revision,
    },
    /// Give the key up. One that reaches the store late, after this node took the key anew, must
    /// not end that.
    Release {
        /// The beat that it ends.
        over: Revision,
    },
}

/// What must hold when a transaction reaches the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    /// The leader key holds this node's name.
    KeyIsOurs,
    /// The leader key holds the name of the leader that is lost.
    KeyIsTheLost,
    /// There is no leader key.
    KeyIsAbsent,
    /// `position` was last written at this revision; 0 when there is none.
    PositionAt(Revision),
}

/// What becomes of the leader key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyWrite {
    /// It stays.
    Stays,
    /// It holds this node's name.
    Put,
    /// It goes.
    Deleted,
}

impl Request {
    /// All of them must hold, or nothing is written.
    #[must_use]
    pub fn conditions(self) -> Vec<Condition> {
        match self {
            Self::Beat { over } | Self::TakeBack { over } | Self::Release { over } => {
                vec![Condition::KeyIsOurs, Condition::PositionAt(over)]
            }
            Self::Replace { over } => vec![Condition::KeyIsTheLost, Condition::PositionAt(over)],
            Self::Acquire { over } | Self::PutBack { over } => {
                vec![Condition::KeyIsAbsent, Condition::PositionAt(over)]
            }
        }
    }

    /// What it does with the leader key; `position` is written by all of them.
    #[must_use]
    pub fn key(self) -> KeyWrite {
        match self {
            Self::Beat { .. } => KeyWrite::Stays,
            Self::Acquire { .. }
            | Self::Replace { .. }
            | Self::TakeBack { .. }
            | Self::PutBack { .. } => KeyWrite::Put,
            Self::Release { .. } => KeyWrite::Deleted,
        }
    }

    /// Whether the `position` that it writes says that the key was given up.
    #[must_use]
    pub fn releases(self) -> bool {
        self.key() == KeyWrite::Deleted
    }
}

/// How the store answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Written, at this revision.
    Written(Revision),
    /// A condition did not hold.
    Refused,
    /// No answer: it may have been written, and may still be.
    Nothing,
}

/// What is to follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// This node leads until then; the revision is that of its last beat.
    Held {
        /// The end of the right.
        until: Boot,
        /// The beat.
        beat: Revision,
    },
    /// This next. What a put-back gives counts from when the beat was sent.
    Then(Request),
    /// The members are asked in the store's place, where failsafe mode allows it.
    AskMembers,
    /// This node leads no more.
    Lost(&'static str),
    /// The key was not taken.
    NotTaken,
    /// The key was given up.
    Released,
    /// The beat to follow or to end is not the one that this node knows: the store is read once.
    /// Then [`after_look`], or the key is given up over what is found, if it is still this node's.
    LookAgain,
    /// Nothing changes: what was written shows in the next read, and the right lasts as before.
    Unknown,
}

/// What the answer to a transaction means. `sent`: when it was sent; `ttl`: what its beat is
/// counted with.
#[must_use]
pub fn outcome(request: Request, answer: Answer, sent: Boot, ttl: Duration) -> Outcome {
    match (request, answer) {
        (Request::Release { .. }, Answer::Written(_)) => Outcome::Released,
        (Request::Release { .. } | Request::Beat { .. }, Answer::Refused) => Outcome::LookAgain,
        (_, Answer::Written(beat)) => Outcome::Held { until: right_until(sent, ttl), beat },
        (Request::Beat { .. }, Answer::Nothing) => Outcome::AskMembers,
        (_, Answer::Nothing) => Outcome::Unknown,
        (Request::PutBack { .. }, Answer::Refused) => ANOTHER,
        (Request::Acquire { over }, Answer::Refused) => Outcome::Then(Request::TakeBack { over }),
        (Request::TakeBack { .. } | Request::Replace { .. }, Answer::Refused) => Outcome::NotTaken,
    }
}

const ANOTHER: Outcome = Outcome::Lost("another node holds the leader key");

/// Whose the leader key is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holder {
    /// This node's.
    Ours,
    /// There is none: it vanished (a lease revoked early).
    Nobody,
    /// Another node's.
    Another,
}

/// What follows a beat that was refused, by what the store holds. The answer to the one before may
/// have been lost: then the next follows what is there. `last`: the last beat of this node that it
/// knows to be committed.
#[must_use]
pub fn after_look(holder: Holder, position: Revision, last: Option<Revision>) -> Outcome {
    match holder {
        Holder::Ours => Outcome::Then(Request::Beat { over: position }),
        Holder::Nobody => last.map_or(ANOTHER, |over| Outcome::Then(Request::PutBack { over })),
        Holder::Another => ANOTHER,
    }
}

/// Whether the loop has shown lately that it is alive: a hung agent must not keep the lease.
#[must_use]
pub fn loop_alive(alive_at: Boot, now: Boot, ttl: Duration) -> bool {
    now.since(alive_at) <= ttl
}

/// Whether a beat may be sent.
///
/// # Errors
/// Why this node leads no more. In maintenance mode (`kept`) nobody has taken over meanwhile.
pub fn may_beat(now: Boot, held_until: Boot, kept: bool) -> Result<(), &'static str> {
    if now < held_until || kept {
        return Ok(());
    }
    Err("the lease's deadline has passed without a renewal")
}

/// Whether the word of the members moves the end of the right: not when it was given up, has
/// ended, or lasts longer already.
#[must_use]
pub fn may_extend(held_until: Option<Boot>, now: Boot, until: Boot) -> bool {
    held_until.is_some_and(|held| now < held && held < until)
}

/// The TTL that a round of asking the members counts with: never more than what the last beat told
/// its observers.
#[must_use]
pub fn asking_ttl(configured: Duration, beat: Duration) -> Duration {
    configured.min(beat)
}

/// The mark of maintenance mode in the next beat, `unattended`: PostgreSQL may go on without the
/// lease, and nobody else leads before this node says that it has stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    /// The beat carries it.
    Carried,
    /// It does not; there was none.
    Absent,
    /// It goes with this beat, once the guard has a deadline again, where it needs one; otherwise
    /// it stays. So whoever reads a beat without it knows that the guard stops PostgreSQL in time.
    EndsAfter {
        /// The deadline; `None` where PostgreSQL does not write.
        deadline: Option<Boot>,
    },
}

/// `wanted`: maintenance mode lets PostgreSQL go on; `kept`: the last committed beat had the mark;
/// `armed`: PostgreSQL writes, or may.
#[must_use]
pub fn mark(wanted: bool, kept: bool, armed: bool, now: Boot, held_until: Boot) -> Mark {
    match (wanted, kept) {
        (true, _) => Mark::Carried,
        (false, false) => Mark::Absent,
        // The guard takes no deadline that has passed.
        (false, true) if held_until <= now => Mark::Carried,
        (false, true) => Mark::EndsAfter { deadline: armed.then_some(held_until) },
    }
}

/// The mark in the beat that takes the key. A mark of an earlier life (`was`) stays until the guard
/// has a deadline again.
#[must_use]
pub fn mark_of_acquisition(wanted: bool, kept: bool, was: bool) -> bool {
    wanted || kept || was
}

/// What the guard is told after a committed beat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GuardOrder {
    /// Its deadline is lifted: only a committed mark does that.
    Lift,
    /// Its deadline.
    Deadline(Boot),
    /// Nothing: PostgreSQL does not write.
    Nothing,
}

/// See [`GuardOrder`]. `marked`: the beat had the mark of maintenance mode.
#[must_use]
pub fn guard_order(marked: bool, armed: bool, until: Boot) -> GuardOrder {
    match (marked, armed) {
        (true, _) => GuardOrder::Lift,
        (false, true) => GuardOrder::Deadline(until),
        (false, false) => GuardOrder::Nothing,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TTL: Duration = Duration::from_secs(30);
    const SENT: Boot = Boot(1_000_000_000_000);
    const R: fn(i64) -> Revision = Revision;

    #[test]
    fn what_each_answer_means() {
        let held = Outcome::Held { until: SENT + Duration::from_secs(28), beat: R(9) };
        let another = Outcome::Lost("another node holds the leader key");
        let over = R(7);
        let take_back = Outcome::Then(Request::TakeBack { over });
        for (request, answer, expected) in [
            (Request::Beat { over }, Answer::Written(R(9)), held),
            (Request::Beat { over }, Answer::Nothing, Outcome::AskMembers),
            (Request::Beat { over }, Answer::Refused, Outcome::LookAgain),
            (Request::PutBack { over }, Answer::Written(R(9)), held),
            (Request::PutBack { over }, Answer::Refused, another),
            (Request::PutBack { over }, Answer::Nothing, Outcome::Unknown),
            (Request::Acquire { over }, Answer::Written(R(9)), held),
            (Request::Acquire { over }, Answer::Refused, take_back),
            (Request::Acquire { over }, Answer::Nothing, Outcome::Unknown),
            (Request::Replace { over }, Answer::Written(R(9)), held),
            (Request::Replace { over }, Answer::Refused, Outcome::NotTaken),
            (Request::Replace { over }, Answer::Nothing, Outcome::Unknown),
            (Request::TakeBack { over }, Answer::Written(R(9)), held),
            (Request::TakeBack { over }, Answer::Refused, Outcome::NotTaken),
            (Request::Release { over }, Answer::Written(R(9)), Outcome::Released),
            (Request::Release { over }, Answer::Refused, Outcome::LookAgain),
            (Request::Release { over }, Answer::Nothing, Outcome::Unknown),
        ] {
            let got = outcome(request, answer, SENT, TTL);
            assert_eq!(got, expected, "{request:?} {answer:?}");
        }
        let put_back = Outcome::Then(Request::PutBack { over });
        for (holder, last, expected) in [
            (Holder::Ours, Some(over), Outcome::Then(Request::Beat { over: R(8) })),
            (Holder::Nobody, Some(over), put_back),
            (Holder::Nobody, None, another),
            (Holder::Another, Some(over), another),
        ] {
            assert_eq!(after_look(holder, R(8), last), expected, "{holder:?}");
        }
    }

    #[test]
    fn a_lower_ttl_is_carried_once_it_is_counted_with_and_a_higher_one_at_once() {
        let seconds = Duration::from_secs;
        let pair = |carried, counted| Ttls { carried: seconds(carried), counted: seconds(counted) };
        assert_eq!(ttls(seconds(20), seconds(60)), pair(60, 20));
        assert_eq!(in_force(seconds(60), seconds(20), false), seconds(60), "the guard has the old");
        assert_eq!(in_force(seconds(60), seconds(20), true), seconds(20));
        assert_eq!(ttls(seconds(20), seconds(20)), pair(20, 20));
        assert_eq!(ttls(seconds(60), seconds(20)), pair(60, 60));
        assert_eq!(ttls(seconds(20), Duration::ZERO), pair(20, 20), "nothing is in force");
    }

    #[test]
    fn every_transaction_names_the_beat_that_it_follows() {
        let over = R(7);
        for request in [
            Request::Acquire { over },
            Request::Replace { over },
            Request::PutBack { over },
            Request::Release { over },
            Request::TakeBack { over },
            Request::Beat { over },
        ] {
            assert!(request.conditions().contains(&Condition::PositionAt(over)), "{request:?}");
        }
        for request in
            [Request::Beat { over }, Request::TakeBack { over }, Request::Release { over }]
        {
            assert!(request.conditions().contains(&Condition::KeyIsOurs), "{request:?}");
        }
    }

    #[test]
    fn the_margin_is_a_tenth_within_bounds() {
        for (ttl, margin) in [(3, 500), (5, 500), (12, 1200), (30, 2000)] {
            let got = stop_margin(Duration::from_secs(ttl));
            assert_eq!(got, Duration::from_millis(margin), "{ttl} s");
        }
    }

    #[test]
    fn the_mark_goes_only_after_the_guard_has_a_deadline_that_lies_ahead() {
        let until = SENT + TTL;
        let ends = |deadline| Mark::EndsAfter { deadline };
        for (wanted, kept, armed, now, expected) in [
            (true, false, true, SENT, Mark::Carried),
            (true, true, true, until, Mark::Carried),
            (false, false, true, SENT, Mark::Absent),
            (false, true, true, SENT, ends(Some(until))),
            (false, true, false, SENT, ends(None)),
            (false, true, true, until, Mark::Carried),
            (false, true, false, until, Mark::Carried),
        ] {
            assert_eq!(mark(wanted, kept, armed, now, until), expected);
        }
    }

    #[test]
    fn the_members_move_a_right_that_is_held_and_only_forward() {
        let (now, until) = (SENT, SENT + TTL);
        let at = |offset: u64| Some(SENT + Duration::from_secs(offset));
        assert!(may_extend(at(1), now, until));
        assert!(!may_extend(None, now, until), "given up");
        assert!(!may_extend(Some(now), now, until), "ended");
        assert!(!may_extend(at(30), now, until), "as long already");
    }
}
