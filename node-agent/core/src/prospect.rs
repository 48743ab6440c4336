//! What following a source would do to the data directory of this node: the comparison that is made
//! when it happens, as the answer to a question that is asked beforehand. Nothing follows from it.

use crate::divergence::{OwnEnd, SourceHistory, Verdict, verdict};
use crate::observed::Observed;
use crate::postgres::Postgres;
use crate::reinit::interrupted_replaceable;
use crate::rewind::{end_of_own_wal, obstacle, starves};
use node_agent_wire::{Lsn, TimelineId};

/// What would become of the directory while a rejoin of its datacenter is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It follows as it is.
    Follow,
    /// It is rewound.
    Rewind {
        /// The last common timeline.
        timeline: TimelineId,
        /// The end of what is common.
        fork: Lsn,
    },
    /// It is replaced by a new copy.
    Copy {
        /// As of a rewind; `None`: nothing that only this node has is lost.
        lost: Option<(TimelineId, Lsn)>,
    },
    /// Nothing, before an operator has done something.
    Operator,
    /// It can't be told now.
    Unknown,
}

impl Fate {
    /// Its stable name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Follow => "follow",
            Self::Rewind { .. } => "rewind",
            Self::Copy { .. } => "copy",
            Self::Operator => "operator",
            Self::Unknown => "unknown",
        }
    }

    /// Where what only this node has begins.
    #[must_use]
    pub fn lost(self) -> Option<(TimelineId, Lsn)> {
        match self {
            Self::Rewind { timeline, fork } => Some((timeline, fork)),
            Self::Copy { lost } => lost,
            Self::Follow | Self::Operator | Self::Unknown => None,
        }
    }
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prospect {
    /// What would happen.
    pub fate: Fate,
    /// One line of why.
    pub why: String,
}

impl Prospect {
    fn new(fate: Fate, why: impl Into<String>) -> Self {
        Self { fate, why: why.into() }
    }

    /// The same where the local WAL does not reach back to a checkpoint before the fork: pg_rewind
    /// fails without it, and the open rejoin has the directory copied then. An archive may have it.
    #[must_use]
    pub fn without_wal_before_the_fork(self, archived: bool) -> Self {
        match self.fate {
            Fate::Rewind { timeline, fork } if !archived => {
                let why = "pg_rewind needs a checkpoint before that, whose WAL is gone here";
                let lost = Some((timeline, fork));
                Self::new(Fate::Copy { lost }, format!("{}; {why}", self.why))
            }
            Fate::Rewind { .. }
            | Fate::Follow
            | Fate::Copy { .. }
            | Fate::Operator
            | Fate::Unknown => self,
        }
    }
}

/// What following `source` would do, by what was observed.
#[must_use]
pub fn prospect(observed: &Observed, source: &SourceHistory) -> Prospect {
    let unknown = |why: &str| Prospect::new(Fate::Unknown, why);
    if let Some(job) = observed.job {
        return unknown(&format!("{:?} is under way", job.kind));
    }
    match &observed.postgres {
        Postgres::NoData => {
            return Prospect::new(Fate::Copy { lost: None }, "there is no data directory");
        }
        Postgres::Unreadable(why) if interrupted_replaceable(observed) => {
            return Prospect::new(Fate::Copy { lost: None }, why.clone());
        }
        Postgres::Unreadable(why) => {
            let why = format!("{why}; empty it, or reinitialize this member (patronictl reinit)");
            return Prospect::new(Fate::Operator, why);
        }
        Postgres::Unresponsive { .. } => return unknown("PostgreSQL does not answer"),
        Postgres::Stopped(_) | Postgres::Starting { .. } | Postgres::Running(_) => {}
    }
    let history = match &source.answer {
        Ok(history) => history,
        Err(why) => return unknown(&format!("nobody to compare with: {why}")),
    };
    let (Some(own), Some(verdict)) = (end_of_own_wal(observed), verdict(observed, source)) else {
        return unknown("PostgreSQL is starting; its history is not known yet");
    };
    let left = |timeline, fork, twice: Option<TimelineId>| {
        let left = Left { timeline, fork, twice };
        diverged(observed, history.timeline, own, &left)
    };
    match verdict {
        Verdict::InHistory if drops(observed, source, own) => {
            let why = format!("the source has no more WAL from {} on", own.lsn);
            Prospect::new(Fate::Copy { lost: None }, why)
        }
        Verdict::InHistory => {
            Prospect::new(Fate::Follow, format!("all of it up to {} is in the source", own.lsn))
        }
        Verdict::Diverged { timeline, fork } => left(timeline, fork, None),
        Verdict::BegunTwice { timeline, parent, fork } => left(parent, fork, Some(timeline)),
        Verdict::Unproven { timeline } => Prospect::new(
            Fate::Operator,
            format!(
                "nobody can tell whether timeline {timeline} is the same one here and in the \
                 source; to give up what is here: patronictl reinit"
            ),
        ),
        Verdict::CanNotTell => {
            unknown("it crashed as primary, and the source is on the same timeline")
        }
    }
}

fn drops(observed: &Observed, source: &SourceHistory, own: OwnEnd) -> bool {
    let waits = match &observed.postgres {
        Postgres::Running(_) => starves(observed),
        Postgres::Stopped(_) => true,
        Postgres::NoData
        | Postgres::Unreadable(_)
        | Postgres::Starting { .. }
        | Postgres::Unresponsive { .. } => false,
    };
    waits && source.has_dropped_after(own)
}

struct Left {
    timeline: TimelineId,
    fork: Lsn,
    twice: Option<TimelineId>,
}

fn diverged(observed: &Observed, source: TimelineId, own: OwnEnd, left: &Left) -> Prospect {
    let Left { timeline, fork, twice } = *left;
    let beyond = own.lsn.bytes_since(fork);
    let least = if own.exact { "" } else { "at least " };
    let mut why = format!("{least}{beyond} bytes beyond {fork} on timeline {timeline} are its own");
    if let Some(twice) = twice {
        why = format!("{why}: both began timeline {twice} there");
    }
    let lost = Some((timeline, fork));
    if let Some(obstacle) = obstacle(observed, source, twice.is_some()) {
        return Prospect::new(Fate::Copy { lost }, format!("{why}; {obstacle}"));
    }
    if observed.directory.rewind_failed {
        return Prospect::new(Fate::Copy { lost }, format!("{why}; pg_rewind failed"));
    }
    Prospect::new(Fate::Rewind { timeline, fork }, why)
}
