//! Long work, one piece at a time, beside the loop: it goes on observing and renewing meanwhile.

mod bootstrap;
mod copy;
mod life;
mod rewind;

pub use bootstrap::initdb;
pub use copy::clone;
pub use life::{
    Demotion, demote, promote, restart, start_primary, start_primary_within, start_standby,
};
pub use rewind::{RewindPlan, rewind};

use crate::clock;
use crate::failsafe::Desk;
use crate::keeper::Keeper;
use crate::postgres::{Error, Server};
use node_agent_core::observed::{Job, JobKind};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

/// What a job came to.
#[derive(Debug)]
pub struct Outcome {
    /// Which job.
    pub job: Job,
    /// Why it failed.
    pub result: Result<(), String>,
}

/// What jobs work with.
#[derive(Clone)]
pub struct Tools {
    /// PostgreSQL.
    pub server: Arc<Server>,
    /// The lease.
    pub keeper: Arc<Keeper>,
    /// `false` from a promotion until its checkpoint is done.
    pub checkpointed: Arc<AtomicBool>,
    /// The promises of failsafe mode.
    pub failsafe: Arc<Desk>,
}

/// The job under way, if any.
pub struct Jobs {
    current: Option<(Job, JoinHandle<Result<(), String>>)>,
    done: Arc<Notify>,
}

impl Jobs {
    /// None; `done` is notified when one ends.
    #[must_use]
    pub fn new(done: Arc<Notify>) -> Self {
        Self { current: None, done }
    }

    /// The job under way.
    #[must_use]
    pub fn current(&self) -> Option<Job> {
        self.current.as_ref().map(|(job, _)| *job)
    }

    /// Begins a job. Refused while another one runs.
    pub fn begin(
        &mut self,
        kind: JobKind,
        work: impl Future<Output = Result<(), String>> + Send + 'static,
    ) {
        if self.current.is_some() {
            tracing::error!(?kind, "a second job was to begin; it is not begun");
            return;
        }
        let done = self.done.clone();
        let task = tokio::spawn(async move {
            let result = work.await;
            done.notify_one();
            result
        });
        self.current = Some((Job { kind, since: clock::boot() }, task));
    }

    /// The outcome of a job that has ended since the last call.
    pub async fn reap(&mut self) -> Option<Outcome> {
        if !self.current.as_ref().is_some_and(|(_, task)| task.is_finished()) {
            return None;
        }
        let (job, task) = self.current.take()?;
        let result = match task.await {
            Ok(result) => result,
            Err(error) => Err(format!("the work itself failed: {error}")),
        };
        Some(Outcome { job, result })
    }
}

/// An error with its hint, in one line.
fn told(error: &Error) -> String {
    format!("{error}; {}", error.hint())
}
