//! Long work, one piece at a time, beside the loop: it goes on observing and renewing meanwhile.

mod bootstrap;
mod copy;
mod demote;
mod life;
mod rewind;
mod slots;

pub use bootstrap::bootstrap;
pub use copy::{CopyPlan, ReinitPlan, clone, reinit};
pub use demote::{Farewell, demote};
pub use life::{promote, restart, start_primary, start_primary_within, start_standby};
pub use rewind::{RewindPlan, rewind};
pub use slots::{SlotCopy, copy_slots};

use crate::clock;
use crate::failsafe::Desk;
use crate::grants::GrantKeeper;
use crate::keeper::Keeper;
use crate::postgres::{Error, Server};
use node_agent_core::directory::Progress;
use node_agent_core::observed::{Job, JobKind};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};
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
    /// The site grants.
    pub grants: Arc<GrantKeeper>,
    /// `false` from a promotion until its checkpoint is done.
    pub checkpointed: Arc<AtomicBool>,
    /// The promises of failsafe mode.
    pub failsafe: Arc<Desk>,
    /// How far the copy under way is.
    pub progress: Arc<Gauge>,
    /// The last pg_rewind failed while its source was well.
    pub rewind_failed: Arc<AtomicBool>,
}

/// How far a copy is: written by the job, read by whoever is asked.
#[derive(Debug, Default)]
pub struct Gauge(Mutex<Option<Progress>>);

impl Gauge {
    /// The last progress, while a copy is under way.
    #[must_use]
    pub fn read(&self) -> Option<Progress> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, progress: Option<Progress>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = progress;
    }
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

    /// Ends a copy or a rewind that is under way, with its programs; any other work is finished
    /// first. Returns what still runs.
    pub async fn cancel_copy(&mut self) -> Option<Job> {
        let (job, task) = self.current.take()?;
        match job.kind {
            JobKind::Clone | JobKind::Rewind => {
                tracing::warn!(work = ?job.kind, "cancelled: a new copy was asked for by force");
                task.abort();
                let _cancelled_is_fine = task.await;
                None
            }
            JobKind::Bootstrap
            | JobKind::Demote
            | JobKind::Start
            | JobKind::Promote
            | JobKind::Restart
            | JobKind::CopySlots => {
                self.current = Some((job, task));
                Some(job)
            }
        }
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
pub(crate) fn told(error: &Error) -> String {
    format!("{error}; {}", error.hint())
}
