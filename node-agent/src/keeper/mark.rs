//! The mark of maintenance mode in the beats, and the guard's deadline that goes with it.
//!
//! Only a committed mark lifts the deadline; and the guard has one again before the first beat
//! without the mark is sent. So whoever reads a beat without it knows that the guard stops
//! PostgreSQL in time.

use super::Thread;
use crate::postgres::GuardClient;
use node_agent_core::lease::{Mark, mark};
use node_agent_core::time::Boot;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::Duration;

impl Thread {
    pub(super) fn kept(&self) -> bool {
        self.shared.kept.load(Ordering::SeqCst)
    }

    /// Notes it where the next agent finds it; `true` when that was possible.
    pub(super) fn set_kept(&mut self, kept: bool) -> bool {
        let noted = if kept {
            std::fs::write(&self.mark_file, "maintenance mode: no deadline\n")
        } else {
            match std::fs::remove_file(&self.mark_file) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(e),
                Ok(()) | Err(_) => Ok(()),
            }
        };
        if let Err(error) = noted {
            let path = self.mark_file.display();
            tracing::warn!(%error, %path, "the mark of maintenance mode was not noted");
            if kept {
                return false;
            }
        }
        self.shared.kept.store(kept, Ordering::SeqCst);
        true
    }

    /// Whether the next beat carries the mark.
    pub(super) fn next_mark(&mut self, now: Boot, until: Boot) -> bool {
        let wanted = {
            let facts = self.shared.facts.lock().unwrap_or_else(PoisonError::into_inner);
            facts.unattended
        };
        let armed = self.shared.armed.load(Ordering::SeqCst);
        match mark(wanted, self.kept(), armed, now, until) {
            Mark::Carried => true,
            Mark::Absent => false,
            Mark::EndsAfter { deadline } => {
                if deadline.is_some_and(|deadline| !self.tell_guard(deadline)) {
                    return true;
                }
                tracing::info!("the end of maintenance mode: the guard has a deadline again");
                !self.set_kept(false)
            }
        }
    }

    /// A beat with the mark is committed: the guard has no deadline from now on. Told with each
    /// beat, because a restart of PostgreSQL brings a new guard with a deadline.
    pub(super) fn lift(&mut self) {
        let first = !self.kept();
        if first && !self.set_kept(true) {
            return;
        }
        // A connection that is no more belonged to the guard before a restart.
        for _ in 0..2 {
            if self.guard.is_none() {
                let wait = Duration::from_millis(100);
                self.guard = GuardClient::connect(&self.guard_socket, wait).ok();
            }
            if self.guard.as_mut().is_some_and(|guard| guard.disarm().is_err()) {
                self.guard = None;
            }
        }
        if first {
            tracing::info!("maintenance mode: PostgreSQL may go on without the agent's lease");
        }
    }
}
