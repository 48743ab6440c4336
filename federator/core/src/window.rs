//! A switchover that begins later: when it may begin, and whether it still is what was agreed to.
//!
//! Nothing is written before it begins, so whatever happens meanwhile is found by looking again.

use crate::guards::{Checklist, Refusal, Verdict};
use crate::inventory::Inventory;
use crate::plan::Plan;
use crate::planner::{Answer, Outcome};
use node_agent_wire::schedule::{ScheduleError, parse};
use node_agent_wire::{DcName, Epoch};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// How long after the time of `--at` it may still begin, in microseconds: one minute.
pub const AT_GRACE_US: i64 = 60_000_000;

/// When it may begin, in microseconds since the Unix epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// Not before.
    pub from_us: i64,
    /// Not after.
    pub to_us: i64,
}

/// A window that can't be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WindowError {
    /// One of its times.
    #[error("\"{text}\": {why}")]
    Time {
        /// As it was given.
        text: String,
        /// What is wrong with it.
        why: ScheduleError,
    },
    /// Not two times.
    #[error(
        "\"{0}\" is not a window: give begin and end as \
         2030-01-31T02:00:00+01:00/2030-01-31T04:00:00+01:00"
    )]
    Shape(String),
    /// The end comes first.
    #[error("the window \"{0}\" ends before it begins")]
    Reversed(String),
    /// It is over.
    #[error("\"{text}\" is over since {} s", ago_us / 1_000_000)]
    Over {
        /// As it was given.
        text: String,
        /// For how long, in microseconds.
        ago_us: i64,
    },
}

/// How a moment lies to a window; microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// It begins in so long.
    Ahead(i64),
    /// It may begin now.
    Open,
    /// It ended so long ago.
    Over(i64),
}

impl Window {
    /// That of `--at`: the time, and a minute for looking again.
    ///
    /// # Errors
    /// No point in time with a zone, or one that has passed.
    pub fn at(text: &str, now_us: i64) -> Result<Self, WindowError> {
        let from_us = time(text)?;
        Self { from_us, to_us: from_us.saturating_add(AT_GRACE_US) }.still(text, now_us)
    }

    /// That of `--window`: begin and end with a slash between.
    ///
    /// # Errors
    /// Not two points in time with a zone, in the wrong order, or over.
    pub fn between(text: &str, now_us: i64) -> Result<Self, WindowError> {
        let (from, to) = text.split_once('/').ok_or_else(|| WindowError::Shape(text.to_owned()))?;
        let window = Self { from_us: time(from)?, to_us: time(to)? };
        if window.to_us <= window.from_us {
            return Err(WindowError::Reversed(text.to_owned()));
        }
        window.still(text, now_us)
    }

    fn still(self, text: &str, now_us: i64) -> Result<Self, WindowError> {
        match self.place(now_us) {
            Place::Over(ago_us) => Err(WindowError::Over { text: text.to_owned(), ago_us }),
            Place::Ahead(_) | Place::Open => Ok(self),
        }
    }

    /// Where `now_us` lies.
    #[must_use]
    pub fn place(self, now_us: i64) -> Place {
        if now_us < self.from_us {
            Place::Ahead(self.from_us.saturating_sub(now_us))
        } else if now_us <= self.to_us {
            Place::Open
        } else {
            Place::Over(now_us.saturating_sub(self.to_us))
        }
    }
}

fn time(text: &str) -> Result<i64, WindowError> {
    parse(text).map_err(|why| WindowError::Time { text: text.trim().to_owned(), why })
}

/// How far apart two lines of a countdown are, in microseconds, when so much is left.
#[must_use]
pub fn line_every(left_us: i64) -> i64 {
    const SECOND: i64 = 1_000_000;
    match left_us / SECOND {
        ..30 => 10 * SECOND,
        30..300 => 30 * SECOND,
        300..3600 => 300 * SECOND,
        3600.. => 3600 * SECOND,
    }
}

/// What an operator has agreed to, without what changes by itself: ids, times, revisions, who leads
/// a datacenter. Its fields are written in this order: that is what is hashed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Agreed {
    /// Of this form.
    pub version: u32,
    /// Who gives the role up.
    pub from: Option<DcName>,
    /// Who gets it.
    pub to: DcName,
    /// The epoch that it begins.
    pub next_epoch: Epoch,
    /// The other datacenters that follow at once: each one that answers.
    pub followers: BTreeSet<DcName>,
    /// The steps.
    pub steps: Vec<String>,
    /// The checks that warned.
    pub warnings: BTreeSet<String>,
}

impl Agreed {
    /// Of a plan and the checklist that was shown with it.
    #[must_use]
    pub fn of(plan: &Plan, checklist: &Checklist) -> Self {
        let warned = |verdict: &Verdict| match verdict {
            Verdict::Warning(_) => true,
            Verdict::Ok(_) | Verdict::Refused(_) => false,
        };
        let warnings = checklist.0.iter().filter(|finding| warned(&finding.verdict));
        Self {
            version: 1,
            from: plan.from.clone(),
            to: plan.to.clone(),
            next_epoch: plan.next_epoch,
            followers: plan.followers.clone(),
            steps: plan.steps.iter().map(|step| step.kind.name().to_owned()).collect(),
            warnings: warnings.map(|finding| finding.check.clone()).collect(),
        }
    }

    /// The canonical form: what is hashed.
    #[must_use]
    pub fn canonical(&self) -> String {
        // Strings, numbers and lists only: it has a JSON form.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// What is different in `now`, in words; empty when it is the same.
    #[must_use]
    pub fn differences(&self, now: &Self) -> Vec<String> {
        let mut found = Vec::new();
        if (&self.from, &self.to) != (&now.from, &now.to) {
            let name = |dc: &Option<DcName>| dc.as_ref().map_or("-".into(), ToString::to_string);
            found.push(format!(
                "it was to go from {} to {}, now from {} to {}",
                name(&self.from),
                self.to,
                name(&now.from),
                now.to
            ));
        }
        if self.next_epoch != now.next_epoch {
            found.push(format!(
                "it was to begin epoch {}, now {}: the primary datacenter has changed since",
                self.next_epoch, now.next_epoch
            ));
        }
        for dc in self.followers.difference(&now.followers) {
            found.push(format!("{dc} does not answer any more and would not follow"));
        }
        for dc in now.followers.difference(&self.followers) {
            found.push(format!("{dc} did not answer then and would follow now"));
        }
        if self.steps != now.steps {
            found.push("its steps are others".to_owned());
        }
        for check in now.warnings.difference(&self.warnings) {
            // A datacenter that fell silent is told above.
            if !self.followers.contains(&DcName::new(check)) {
                found.push(format!("the check \"{check}\" warns now"));
            }
        }
        if found.is_empty() && self != now {
            found.push("a check that warned then does not warn any more".to_owned());
        }
        found
    }
}

/// What follows from looking again within the window.
#[derive(Clone, Debug, PartialEq)]
#[allow(clippy::large_enum_variant, reason = "one exists for each command")]
pub enum Again {
    /// It is what was agreed to.
    Begin(Plan),
    /// It is something else now: what, in words.
    Differs(Vec<String>),
    /// Something stands in the way that may pass before the window ends.
    NotYet(Vec<Refusal>),
}

/// Compares what the planner says now with what was agreed to.
#[must_use]
pub fn again(agreed: &Agreed, answer: Answer, inventory: &Inventory) -> Again {
    match answer.outcome {
        Outcome::Plan(plan) => {
            let found = agreed.differences(&Agreed::of(&plan, &answer.checklist));
            if found.is_empty() { Again::Begin(plan) } else { Again::Differs(found) }
        }
        Outcome::NothingToDo(why) => Again::Differs(vec![why]),
        Outcome::Refused(list) => {
            let newest = inventory.newest().map(|record| record.epoch);
            match newest.filter(|epoch| epoch.next() != agreed.next_epoch) {
                // That does not pass by itself.
                Some(epoch) => Again::Differs(vec![format!(
                    "it was to begin epoch {}, and epoch {epoch} has begun since",
                    agreed.next_epoch
                )]),
                None => Again::NotYet(list),
            }
        }
    }
}

#[cfg(test)]
#[path = "window_tests.rs"]
mod tests;
