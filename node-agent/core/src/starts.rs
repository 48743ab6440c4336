//! Starts of PostgreSQL that come to nothing: told apart from a stop that was asked for, counted,
//! and spaced, so that a server that dies in recovery is not started without an end.

use crate::decision::Decision;
use crate::observed::{JobKind, Observed};
use crate::postgres::Postgres;
use crate::rule::Rule;
use crate::time::Boot;
use std::time::Duration;

/// A standby that ends earlier than this after it began to answer has not really come up: it dies
/// as soon as its replay reaches what it can't read.
const STEADY: Duration = Duration::from_secs(10);
/// The longest pause between two starts.
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// What is shown of the server's log, characters.
const SAID_MAX: usize = 300;

/// The last end of a PostgreSQL that had not come up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EarlyEnd {
    /// How many in a row.
    pub count: u32,
    /// When the last one was seen.
    pub at: Boot,
    /// Why, in the words of its log.
    pub said: String,
}

/// Between the `count`-th end in a row and the next start.
#[must_use]
pub fn pause(count: u32) -> Duration {
    match count {
        0 => Duration::ZERO,
        // Whatever it was may be over in a second.
        more => Duration::from_secs(1_u64 << (more - 1).min(5)).min(PAUSE_MAX),
    }
}

/// The wait before PostgreSQL is started again; `None`: it may be started now.
pub(crate) fn wait(observed: &Observed) -> Option<Decision> {
    let end = observed.health.early_end.as_ref()?;
    let left = pause(end.count).saturating_sub(observed.now.since(end.at));
    if left.is_zero() {
        return None;
    }
    let why = format!(
        "PostgreSQL has ended {} before it came up: {}; correct that, it is started again after a \
         pause",
        if end.count == 1 { "once".to_owned() } else { format!("{} times in a row", end.count) },
        end.said
    );
    Some(Decision::wait(Rule::StartPause, why, left, "the next start"))
}

/// The lines of a server's log, or of an error, that say why it ended.
#[must_use]
pub fn last_words(log: &str) -> String {
    let fatal = |line: &str| {
        let at = line.find("PANIC: ").or_else(|| line.find("FATAL: "))?;
        line.get(at..).map(|words| words.split_whitespace().collect::<Vec<_>>().join(" "))
    };
    let mut lines: Vec<String> = log.lines().filter_map(fatal).collect();
    // Sessions that came too early say nothing of the cause.
    lines.retain(|line| !line.contains("the database system is"));
    // The rest of such a log may hold statements, and these secrets.
    let said = lines.pop().unwrap_or_else(|| "its log gives no reason".to_owned());
    said.chars().take(SAID_MAX).collect()
}

/// How far the present life of PostgreSQL has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Phase {
    /// Nothing was started here, or it was stopped on purpose.
    #[default]
    Quiet,
    /// Started, and not seen to answer yet.
    Begun,
    /// It answers since then.
    Up { since: Boot, standby: bool },
}

/// What is remembered from one look to the next.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Starts {
    phase: Phase,
    count: u32,
    at: Boot,
    said: String,
}

impl Starts {
    /// A start is begun whose outcome nobody waits for.
    pub fn begun(&mut self) {
        self.phase = Phase::Begun;
    }

    /// Long work has ended; what PostgreSQL is to be expected to do now.
    pub fn work_ended(&mut self, kind: JobKind, failed: bool) {
        match kind {
            JobKind::Start if !failed => {}
            JobKind::Start | JobKind::Restart | JobKind::CopySlots if failed => self.begun(),
            JobKind::Start
            | JobKind::Restart
            | JobKind::CopySlots
            | JobKind::Bootstrap
            | JobKind::Clone
            | JobKind::Rewind
            | JobKind::Demote
            | JobKind::Promote => self.phase = Phase::Quiet,
        }
    }

    /// Takes a look into account. True when PostgreSQL has ended early since the last one: then
    /// [`Self::because`] is to be told why.
    pub fn saw(&mut self, now: Boot, work: bool, postgres: &Postgres) -> bool {
        match postgres {
            Postgres::Running(running) => {
                let since = match self.phase {
                    Phase::Up { since, .. } => since,
                    Phase::Quiet | Phase::Begun => now,
                };
                self.phase = Phase::Up { since, standby: running.in_recovery };
                if !running.in_recovery || now.since(since) >= STEADY {
                    self.count = 0;
                }
                false
            }
            Postgres::Starting { .. } | Postgres::Unresponsive { .. } => false,
            Postgres::NoData | Postgres::Unreadable(_) => {
                *self = Self::default();
                false
            }
            Postgres::Stopped(_) if work => false,
            Postgres::Stopped(_) => {
                let early = match self.phase {
                    Phase::Quiet => false,
                    Phase::Begun => true,
                    Phase::Up { since, standby } => standby && now.since(since) < STEADY,
                };
                self.phase = Phase::Quiet;
                if early {
                    (self.count, self.at) = (self.count.saturating_add(1), now);
                }
                early
            }
        }
    }

    /// Why the last early end was, in the words of [`last_words`].
    pub fn because(&mut self, said: String) {
        self.said = said;
    }

    /// The fact for a decision.
    #[must_use]
    pub fn early_end(&self) -> Option<EarlyEnd> {
        let end = EarlyEnd { count: self.count, at: self.at, said: self.said.clone() };
        (self.count > 0).then_some(end)
    }
}

#[cfg(test)]
#[path = "starts_tests.rs"]
mod tests;
