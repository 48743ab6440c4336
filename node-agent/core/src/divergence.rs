//! Has this data directory left the history of its source? Judged by the content of both
//! histories and by positions, never by a timeline's number (PostgreSQL manual, section 26.3.6),
//! and where these are equal by how the timelines begin.

use crate::beginning::{Beginnings, Past, Proof, SameWal, prove, shared};
use crate::observed::Observed;
use crate::postgres::{ControlData, ControlState, Postgres, Upstream};
use crate::rewind::end_of_own_wal;
use crate::time::Boot;
use node_agent_wire::history::TimelineHistory;
use node_agent_wire::{Lsn, TimelineId};

/// The history of an upstream, as it answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceHistory {
    /// Whom it was asked of.
    pub upstream: Upstream,
    /// When.
    pub at: Boot,
    /// Its history, or why there is none.
    pub answer: Result<TimelineHistory, String>,
    /// How its timelines begin, as far as it knows.
    pub beginnings: Beginnings,
    /// Its WAL beside the local one, where beginnings are not known.
    pub same_wal: Option<SameWal>,
    /// The beginning of the oldest WAL that it still has, where it tells.
    pub wal_since: Option<Lsn>,
}

impl SourceHistory {
    /// What comes after `end` is gone there, for certain.
    #[must_use]
    pub fn has_dropped_after(&self, end: OwnEnd) -> bool {
        end.exact && self.wal_since.is_some_and(|since| end.lsn < since)
    }
}

/// The end of the local WAL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OwnEnd {
    /// On this timeline.
    pub timeline: TimelineId,
    /// Everything before this position is there. Known to be the very end when `exact`.
    pub lsn: Lsn,
    /// `false` for a primary that died: there may be more WAL than the control file tells.
    pub exact: bool,
}

/// Where the local WAL ends, by what is observed of PostgreSQL.
#[must_use]
pub fn own_end(postgres: &Postgres) -> Option<OwnEnd> {
    match postgres {
        Postgres::Running(running) => {
            Some(OwnEnd { timeline: running.timeline, lsn: running.lsn, exact: true })
        }
        Postgres::Stopped(control) => Some(end_of_control(control)),
        // A standby that replays what it has: it may need its source to become consistent.
        Postgres::Starting { standby: true, control, .. } => {
            Some(end_of_control(control)).filter(|end| end.exact)
        }
        Postgres::NoData
        | Postgres::Unreadable(_)
        | Postgres::Starting { standby: false, .. }
        | Postgres::Unresponsive { .. } => None,
    }
}

fn end_of_control(control: &ControlData) -> OwnEnd {
    // Set by recovery and by a promotion, cleared by the first checkpoint as primary. A primary
    // that died between the two has the timeline of its promotion here only.
    let recovered = control.min_recovery_end > control.checkpoint;
    let timeline = if recovered && control.min_recovery_timeline.0 > 0 {
        control.min_recovery_timeline
    } else {
        control.timeline
    };
    match control.state {
        // The shutdown checkpoint is the last record; it begins at `checkpoint`.
        ControlState::ShutDown => OwnEnd {
            timeline: control.timeline,
            lsn: Lsn(control.checkpoint.0.saturating_add(1)),
            exact: true,
        },
        ControlState::ShutDownInRecovery
        | ControlState::InArchiveRecovery
        | ControlState::StartingUp => {
            OwnEnd { timeline, lsn: control.min_recovery_end.max(control.checkpoint), exact: true }
        }
        ControlState::ShuttingDown | ControlState::InCrashRecovery | ControlState::InProduction => {
            OwnEnd {
                timeline,
                lsn: Lsn(control.min_recovery_end.max(control.checkpoint).0.saturating_add(1)),
                exact: false,
            }
        }
    }
}

/// The answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// All of the local WAL is part of the source's history.
    InHistory,
    /// The local WAL beyond `fork` on `timeline` is not: it must be rewound or copied anew.
    Diverged {
        /// The last common timeline.
        timeline: TimelineId,
        /// The end of what is common.
        fork: Lsn,
    },
    /// A crashed primary whose source is still on the same timeline: nobody can tell yet.
    CanNotTell,
    /// The source began `timeline` at the same position as the local history has it, by another
    /// promotion: nothing after `fork` is common, though the histories are equal.
    BegunTwice {
        /// The timeline that two servers began.
        timeline: TimelineId,
        /// The timeline before it, which is common.
        parent: TimelineId,
        /// The end of what is common.
        fork: Lsn,
    },
    /// Nobody can tell whether `timeline` is the same one in both: its beginning is not known.
    Unproven {
        /// The newest timeline that both have.
        timeline: TimelineId,
    },
}

/// What is known of the local WAL and of the source says this; `None` when too little is known.
#[must_use]
pub fn verdict(observed: &Observed, source: &SourceHistory) -> Option<Verdict> {
    let own = end_of_own_wal(observed)?;
    let mine = Past {
        history: observed.own_history.as_ref()?,
        beginnings: &observed.directory.beginnings,
    };
    let history = source.answer.as_ref().ok()?;
    let theirs = Past { history, beginnings: &source.beginnings };
    let standby = match &observed.postgres {
        Postgres::Running(running) => running.in_recovery,
        Postgres::NoData
        | Postgres::Unreadable(_)
        | Postgres::Stopped(_)
        | Postgres::Starting { .. }
        | Postgres::Unresponsive { .. } => false,
    };
    // What a standby has received since is its source's.
    let same_wal = source
        .same_wal
        .filter(|wal| standby || wal.until >= common_end(own, mine.history, history));
    Some(judge(own, mine, theirs, same_wal.as_ref()))
}

/// Compares what two servers say of their pasts.
#[must_use]
pub fn judge(own: OwnEnd, mine: Past<'_>, theirs: Past<'_>, same_wal: Option<&SameWal>) -> Verdict {
    let mut both = shared(mine.history, theirs.history);
    // Of a timeline that it has nothing of, the local server may get any.
    both.retain(|s| !(own.exact && own.timeline == s.timeline && own.lsn <= s.at));
    match prove(&both, mine.beginnings, theirs.beginnings, same_wal) {
        Proof::Same => compare(own, mine.history, theirs.history),
        Proof::Twice(step) => {
            let (timeline, parent) = (step.timeline, step.parent);
            Verdict::BegunTwice { timeline, parent, fork: step.at }
        }
        Proof::Open(timeline) => Verdict::Unproven { timeline },
    }
}

/// The end of what both have by the numbers and positions of their histories.
#[must_use]
pub fn common_end(own: OwnEnd, own_history: &TimelineHistory, source: &TimelineHistory) -> Lsn {
    match compare(own, own_history, source) {
        Verdict::Diverged { fork, .. } => fork.min(own.lsn),
        Verdict::InHistory
        | Verdict::CanNotTell
        | Verdict::BegunTwice { .. }
        | Verdict::Unproven { .. } => own.lsn,
    }
}

/// Compares the local history and end with the source's history, by numbers and positions: what is
/// equal there may still be two timelines, see [`judge`].
#[must_use]
pub fn compare(own: OwnEnd, own_history: &TimelineHistory, source: &TimelineHistory) -> Verdict {
    let mut mine = own_history.ancestors.iter();
    let mut theirs = source.ancestors.iter();
    // The end of what both have so far; the very beginning when not even that.
    let mut common = Verdict::Diverged { timeline: own.timeline, fork: Lsn(0) };
    loop {
        match (mine.next(), theirs.next()) {
            (Some(a), Some(b)) if a == b => {
                common = Verdict::Diverged { timeline: a.timeline, fork: a.ended_at };
            }
            (Some(a), Some(b)) if a.timeline == b.timeline => {
                return Verdict::Diverged {
                    timeline: a.timeline,
                    fork: a.ended_at.min(b.ended_at),
                };
            }
            // The local timeline ended where the source's last one goes on.
            (Some(a), None) if a.timeline == source.timeline => {
                return Verdict::Diverged { timeline: a.timeline, fork: a.ended_at };
            }
            (None, Some(b)) if b.timeline == own.timeline => {
                let inside = own.exact && own.lsn <= b.ended_at;
                return if inside {
                    Verdict::InHistory
                } else {
                    Verdict::Diverged { timeline: b.timeline, fork: b.ended_at }
                };
            }
            (None, None) if own.timeline == source.timeline => {
                return if own.exact { Verdict::InHistory } else { Verdict::CanNotTell };
            }
            // Another branch: whatever came after the common past is not in the source.
            (Some(_) | None, Some(_) | None) => return common,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn history(timeline: u32, ends: &[(u32, u64)]) -> TimelineHistory {
        let ancestors = ends
            .iter()
            .map(|(t, l)| node_agent_wire::history::Ancestor {
                timeline: TimelineId(*t),
                ended_at: Lsn(*l),
            })
            .collect();
        TimelineHistory { timeline: TimelineId(timeline), ancestors }
    }

    fn end(timeline: u32, lsn: u64) -> OwnEnd {
        OwnEnd { timeline: TimelineId(timeline), lsn: Lsn(lsn), exact: true }
    }

    fn diverged(timeline: u32, fork: u64) -> Verdict {
        Verdict::Diverged { timeline: TimelineId(timeline), fork: Lsn(fork) }
    }

    #[test]
    fn table() {
        let one = history(1, &[]);
        let two = history(2, &[(1, 100)]);
        for (name, own, mine, source, expected) in [
            ("same timeline", end(1, 90), &one, &one, Verdict::InHistory),
            ("behind the switch", end(1, 100), &one, &two, Verdict::InHistory),
            ("beyond the switch", end(1, 101), &one, &two, diverged(1, 100)),
            ("the source is older", end(2, 150), &two, &one, diverged(1, 100)),
            (
                "same number, another past",
                end(2, 150),
                &history(2, &[(1, 120)]),
                &two,
                diverged(1, 100),
            ),
            (
                "two switches on",
                end(1, 80),
                &one,
                &history(3, &[(1, 100), (2, 200)]),
                Verdict::InHistory,
            ),
            (
                "left on the second of three",
                end(2, 250),
                &two,
                &history(3, &[(1, 100), (2, 200)]),
                diverged(2, 200),
            ),
            (
                "another second timeline",
                end(3, 150),
                &history(3, &[(1, 100)]),
                &two,
                diverged(1, 100),
            ),
            (
                "another branch, and the source went on from its own",
                end(3, 150),
                &history(3, &[(1, 100)]),
                &history(4, &[(1, 100), (2, 200)]),
                diverged(1, 100),
            ),
            (
                "two branches of one past",
                end(5, 150),
                &history(5, &[(1, 100), (3, 120)]),
                &history(4, &[(1, 100), (2, 200)]),
                diverged(1, 100),
            ),
        ] {
            assert_eq!(compare(own, mine, source), expected, "{name}");
        }
    }

    #[test]
    fn a_crashed_primary_is_never_taken_for_clean() {
        let crashed = OwnEnd { exact: false, ..end(1, 90) };
        let (one, two) = (history(1, &[]), history(2, &[(1, 100)]));
        assert_eq!(compare(crashed, &one, &two), diverged(1, 100));
        assert_eq!(compare(crashed, &one, &one), Verdict::CanNotTell);
    }
}
