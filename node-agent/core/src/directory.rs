//! How the data directory came to be, how far it can be trusted, and what replacing it has come to.

use crate::beginning::Beginnings;
use node_agent_wire::{Lsn, TimelineId};

/// What is known of the data directory beside what PostgreSQL and its control file say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Directory {
    /// pg_rewind had begun to change the files and did not finish.
    pub rewind_interrupted: bool,
    /// The last pg_rewind failed, and its source was healthy before and after.
    pub rewind_failed: bool,
    /// Where the WAL of a stopped primary ends, read from the segments themselves.
    pub wal_end: Option<WalEnd>,
    /// PostgreSQL ran already when this agent started, and no cluster in the DCS was known since.
    pub found_running: bool,
    /// PostgreSQL runs and no guard is its parent: somebody else started it.
    pub unguarded: bool,
    /// A configured method fills an empty directory without a server to copy from.
    pub leaderless_copy: bool,
    /// pg_rewind takes no standby for its source (before PostgreSQL 14).
    pub rewinds_to_primary_only: bool,
    /// How far the copy under way is.
    pub progress: Option<Progress>,
    /// Why the last rewind or copy failed, until one succeeds.
    pub work_failed: Option<String>,
    /// How the timelines of the local history begin, as far as that is known.
    pub beginnings: Beginnings,
}

/// The end of a stopped server's WAL, as pg_waldump finds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WalEnd {
    /// Which stop it belongs to: the checkpoint in the control file.
    pub checkpoint: Lsn,
    /// The timeline that was read.
    pub timeline: TimelineId,
    /// The beginning of the last whole record, or why it can't be told.
    pub last_record: Result<Lsn, String>,
}

/// How far a copy of another server is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Bytes that have arrived.
    pub done_bytes: u64,
    /// Bytes expected, an estimate.
    pub total_bytes: u64,
}

impl std::fmt::Display for Progress {
    /// `12 of 340 MB (3 %)`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        const MB: u64 = 1024 * 1024;
        let (done, total) = (self.done_bytes, self.total_bytes.max(self.done_bytes));
        let percent = done.saturating_mul(100).checked_div(total).unwrap_or(0);
        write!(f, "{} of {} MB ({percent} %)", done / MB, total / MB)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_for_people() {
        let mb = |done: u64, total: u64| {
            Progress { done_bytes: done << 20, total_bytes: total << 20 }.to_string()
        };
        assert_eq!(mb(12, 340), "12 of 340 MB (3 %)");
        // The total is an estimate of the source's.
        assert_eq!(mb(12, 10), "12 of 12 MB (100 %)");
        assert_eq!(mb(0, 0), "0 of 0 MB (0 %)");
    }
}
