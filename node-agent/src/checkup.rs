//! How PostgreSQL of a primary is: does it accept sessions, and has it room on its disks.
//!
//! The state of the postmaster's process and of the disks costs two or three system calls and is
//! looked at in each pass. A session of its own is opened only where
//! `primary_unresponsive_timeout` asks for it, beside the loop, which never waits for it.

use crate::clock;
use crate::postgres::Server;
use node_agent_core::postgres::Postgres;
use node_agent_core::sick::{DiskFull, Health};
use node_agent_core::time::Boot;
use node_agent_wire::dynamic::Dynamic;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;

/// The longest that a new session may take before the server counts as silent.
const SESSION_MAX: Duration = Duration::from_secs(5);
/// The shortest pause between two sessions.
const PAUSE_MIN: Duration = Duration::from_millis(500);

#[derive(Default)]
struct State {
    asking: bool,
    asked_at: Boot,
    /// When the question was put that was not answered.
    unanswered_since: Option<Boot>,
    stopped_since: Option<Boot>,
    disk_full: Option<DiskFull>,
}

/// What was found so far.
#[derive(Clone)]
pub struct Checkup {
    state: Arc<Mutex<State>>,
    wake: Arc<Notify>,
}

impl Checkup {
    /// Nothing yet; `wake` is notified when a session is missed, or comes again.
    #[must_use]
    pub fn new(wake: Arc<Notify>) -> Self {
        Self { state: Arc::default(), wake }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Plain values: none is half written when a holder panics.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The facts of this pass; begins what is due for the next ones.
    #[must_use]
    pub fn look(&self, server: &Arc<Server>, postgres: &Postgres, config: &Dynamic) -> Health {
        let now = clock::boot();
        let disk = server.full_disk();
        let serves = matches!(postgres, Postgres::Running(_) | Postgres::Unresponsive { .. });
        if !serves || !postgres.may_write() {
            let mut state = self.state();
            state.unanswered_since = None;
            state.stopped_since = None;
            let disk_full = state.note_disk(disk, now);
            return Health { disk_full, ..Health::default() };
        }
        let stopped = server.is_stopped_by_signal();
        let mut state = self.state();
        let since = *state.stopped_since.get_or_insert(now);
        state.stopped_since = stopped.then_some(since);
        let disk_full = state.note_disk(disk, now);
        match config.primary_unresponsive_timeout {
            Some(timeout) => {
                let pause = (timeout / 4).clamp(PAUSE_MIN, config.timing.loop_wait.max(PAUSE_MIN));
                if !state.asking && now.since(state.asked_at) >= pause {
                    state.asking = true;
                    state.asked_at = now;
                    self.ask(server, (timeout / 2).clamp(PAUSE_MIN, SESSION_MAX));
                }
            }
            None => state.unanswered_since = None,
        }
        let silent_since = match (state.unanswered_since, state.stopped_since) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
        Health { silent_since, disk_full, ..Health::default() }
    }

    fn ask(&self, server: &Arc<Server>, deadline: Duration) {
        let (server, checkup, began) = (server.clone(), self.clone(), clock::boot());
        tokio::spawn(async move {
            let attends = server.attends(deadline).await;
            let mut state = checkup.state();
            state.asking = false;
            let before = state.unanswered_since;
            state.unanswered_since = (!attends).then(|| before.unwrap_or(began));
            let news = before != state.unanswered_since;
            drop(state);
            if news {
                checkup.wake.notify_one();
            }
        });
    }
}

impl State {
    fn note_disk(&mut self, found: Option<String>, now: Boot) -> Option<DiskFull> {
        let since = self.disk_full.as_ref().map_or(now, |full| full.since);
        self.disk_full = found.map(|what| DiskFull { since, what });
        self.disk_full.clone()
    }
}
