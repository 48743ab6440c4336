//! When a standby that sessions wait for is lost, and not merely slow.
//!
//! A host that dies without a word leaves its connection open: PostgreSQL waits for it until
//! `wal_sender_timeout` has passed. The primary's agent looks at the waiting sessions a few times
//! a second. A standby is *stuck* while sessions wait in every look and what it has flushed does
//! not move; then its agent is asked for any answer at all. Without one, and stuck for a second,
//! it is *lost*: `/sync` and the names go on without it (rule 140). It is found again when what it
//! has flushed moves, or when it connects anew. A standby whose agent answers is never lost,
//! however slow it is, and nobody is asked while nothing waits.

use crate::time::Boot;
use node_agent_wire::{Lsn, MemberName};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Between two looks while nothing waits.
pub const LOOK_IDLE: Duration = Duration::from_millis(500);
/// Between two looks while sessions wait.
pub const LOOK_WAITING: Duration = Duration::from_millis(150);
/// How long an agent may take to answer.
pub const ANSWER_MAX: Duration = Duration::from_millis(500);
/// Stuck for so long, and the agent is asked.
const ASK_AFTER: Duration = Duration::from_millis(400);
/// Stuck for so long without an answer of the agent, and it is lost.
const LOST_AFTER: Duration = Duration::from_millis(1000);

/// One look at the primary.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Look {
    /// When it was begun.
    pub at: Boot,
    /// Sessions wait for synchronous replication.
    pub waiting: bool,
    /// Flushed on the primary up to here.
    pub written: Lsn,
    /// What each connected standby has flushed.
    pub flushed: BTreeMap<MemberName, Lsn>,
}

/// What follows from a look.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// The loop must look at once: a standby that is waited for is not connected, or is lost.
    pub act: bool,
    /// Agents to be asked for any answer.
    pub ask: BTreeSet<MemberName>,
}

/// A standby whose position does not move.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Stuck {
    since: Boot,
    flushed: Lsn,
    asking: bool,
    silent: bool,
}

/// What is remembered between two looks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stalls {
    stuck: BTreeMap<MemberName, Stuck>,
    /// With the position at which each was lost.
    lost: BTreeMap<MemberName, Lsn>,
}

impl Stalls {
    /// Standbys that are not to be waited for.
    #[must_use]
    pub fn lost(&self) -> BTreeSet<MemberName> {
        self.lost.keys().cloned().collect()
    }

    /// Takes a look. `awaited`: the standbys that PostgreSQL waits for.
    pub fn look(&mut self, look: &Look, awaited: &BTreeSet<MemberName>) -> Outcome {
        // Connected anew, or it acknowledges again.
        self.lost.retain(|name, at| look.flushed.get(name) == Some(at));
        if !look.waiting {
            self.stuck.clear();
            return Outcome::default();
        }
        self.stuck.retain(|name, _| awaited.contains(name));
        let mut outcome = Outcome::default();
        for name in awaited {
            match look.flushed.get(name) {
                Some(flushed) => self.follow(look, name, *flushed, &mut outcome),
                None => {
                    self.stuck.remove(name);
                    outcome.act = true;
                }
            }
        }
        outcome
    }

    fn follow(&mut self, look: &Look, name: &MemberName, flushed: Lsn, outcome: &mut Outcome) {
        if flushed >= look.written {
            self.stuck.remove(name);
            return;
        }
        let begun = Stuck { since: look.at, flushed, asking: false, silent: false };
        let stuck = self.stuck.entry(name.clone()).or_insert_with(|| begun.clone());
        if stuck.flushed != flushed {
            *stuck = Stuck { asking: stuck.asking, ..begun };
            return;
        }
        let age = look.at.since(stuck.since);
        if stuck.silent && age >= LOST_AFTER {
            self.lost.insert(name.clone(), flushed);
            outcome.act = true;
        } else if age >= ASK_AFTER && !stuck.asking && !stuck.silent {
            stuck.asking = true;
            outcome.ask.insert(name.clone());
        }
    }

    /// The agent's answer, or none, to a question that was asked at this moment.
    pub fn answered(&mut self, name: &MemberName, asked_at: Boot, answered: bool) {
        let Some(stuck) = self.stuck.get_mut(name) else { return };
        stuck.asking = false;
        // A question from before it was stuck says nothing.
        let counts = asked_at >= stuck.since;
        stuck.silent = counts && !answered;
        if counts && answered {
            // It lives: it is asked again only after another while.
            stuck.since = asked_at;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AHEAD: Lsn = Lsn(1000);

    fn at(ms: u64) -> Boot {
        Boot(ms * 1_000_000)
    }

    fn look(ms: u64, waiting: bool, pg2: Option<u64>) -> Look {
        let flushed = pg2.map(|lsn| ("pg2".into(), Lsn(lsn))).into_iter().collect();
        Look { at: at(ms), waiting, written: AHEAD, flushed }
    }

    fn awaited() -> BTreeSet<MemberName> {
        ["pg2".into()].into()
    }

    /// Looks every 150 ms until `end`; the agent gives this answer half a second after it is asked.
    fn run(stalls: &mut Stalls, end: u64, answers: bool, pg2: impl Fn(u64) -> u64) -> Option<u64> {
        let mut asked = None;
        for ms in (0..=end).step_by(150) {
            if let Some(when) = asked.filter(|when| ms >= *when + 500) {
                stalls.answered(&"pg2".into(), at(when), answers);
                asked = None;
            }
            let outcome = stalls.look(&look(ms, true, Some(pg2(ms))), &awaited());
            if !outcome.ask.is_empty() {
                assert_eq!(asked, None, "asked twice at a time");
                asked = Some(ms);
            }
            if outcome.act {
                return Some(ms);
            }
        }
        None
    }

    #[test]
    fn a_host_that_died_is_lost_within_a_second_and_a_half() {
        let mut stalls = Stalls::default();
        let lost = run(&mut stalls, 3000, false, |_| 500).expect("it is lost");
        assert!((1000..=1500).contains(&lost), "after {lost} ms");
        assert_eq!(stalls.lost(), awaited());
    }

    #[test]
    fn a_slow_standby_whose_agent_answers_is_not_lost() {
        let mut stalls = Stalls::default();
        assert_eq!(run(&mut stalls, 60_000, true, |_| 500), None);
        assert!(stalls.lost().is_empty());
    }

    #[test]
    fn a_standby_that_acknowledges_is_not_lost_whatever_its_agent_does() {
        let mut stalls = Stalls::default();
        assert_eq!(run(&mut stalls, 60_000, false, |ms| ms / 600), None);
    }

    #[test]
    fn nobody_is_asked_while_nothing_waits() {
        let mut stalls = Stalls::default();
        for ms in (0..10_000).step_by(500) {
            assert_eq!(stalls.look(&look(ms, false, Some(5)), &awaited()), Outcome::default());
        }
        // The time without waiting does not count.
        let outcome = stalls.look(&look(10_000, true, Some(5)), &awaited());
        assert_eq!(outcome, Outcome::default());
    }

    #[test]
    fn a_standby_that_is_not_connected_is_acted_on_at_once() {
        let outcome = Stalls::default().look(&look(0, true, None), &awaited());
        assert!(outcome.act && outcome.ask.is_empty());
    }

    #[test]
    fn a_standby_that_has_everything_is_not_waited_for() {
        let mut stalls = Stalls::default();
        assert_eq!(run(&mut stalls, 5000, false, |_| AHEAD.0), None);
    }

    #[test]
    fn it_is_found_again_when_it_acknowledges_or_connects_anew() {
        for again in [Some(501), None] {
            let mut stalls = Stalls::default();
            run(&mut stalls, 3000, false, |_| 500).expect("it is lost");
            stalls.look(&look(4000, false, Some(500)), &BTreeSet::new());
            assert_eq!(stalls.lost(), awaited(), "nothing has changed");
            stalls.look(&look(5000, false, again), &BTreeSet::new());
            assert!(stalls.lost().is_empty(), "{again:?}");
        }
    }

    #[test]
    fn an_answer_to_an_old_question_does_not_count() {
        let mut stalls = Stalls::default();
        stalls.look(&look(1000, true, Some(5)), &awaited());
        stalls.answered(&"pg2".into(), at(500), false);
        let outcome = stalls.look(&look(2500, true, Some(5)), &awaited());
        assert!(!outcome.act && outcome.ask.len() == 1, "{outcome:?}");
    }
}
