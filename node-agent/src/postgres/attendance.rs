//! Whether the postmaster attends to new sessions. The agent's own session says nothing of that:
//! its backend serves it even while the postmaster hangs or is stopped by a signal.

use super::family::ProcessStat;
use super::process::Postmaster;
use super::session::Session;
use super::{Error, Server};
use std::time::Duration;

impl Server {
    /// Opens a session and closes it. `false`: nobody answered within `deadline`. Any answer of the
    /// server counts, a refusal for too many sessions as well.
    pub async fn attends(&self, deadline: Duration) -> bool {
        let Ok(target) = self.local_target("") else { return true };
        match Session::connect(&target, deadline, deadline).await {
            Ok(_) => true,
            Err(Error::Connect { code, .. }) => code.is_some(),
            Err(Error::Deadline { .. }) => false,
            // Nothing that the server did or did not do.
            Err(_) => true,
        }
    }

    /// The postmaster was stopped by a signal (SIGSTOP) or a debugger: it accepts nobody.
    #[must_use]
    pub fn is_stopped_by_signal(&self) -> bool {
        let Ok(Some(postmaster)) = Postmaster::find(&self.places) else { return false };
        ProcessStat::of(postmaster.file.pid).is_some_and(|stat| matches!(stat.state, 'T' | 't'))
    }
}
