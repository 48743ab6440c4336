//! What the loop tells the keeper.

use crate::failsafe::Question;
use node_agent_wire::position::{Consumers, PrimarySeen};
use node_agent_wire::{Epoch, Lsn, TimelineId};
use std::time::Duration;

/// What the loop knows and each beat carries.
#[derive(Clone, Debug, Default)]
pub struct BeatFacts {
    /// PostgreSQL accepts writes.
    pub writable: bool,
    /// The epoch that the leader acts under.
    pub epoch: Option<Epoch>,
    /// End of WAL.
    pub lsn: Option<Lsn>,
    /// Replayed up to here.
    pub replay_lsn: Option<Lsn>,
    /// The timeline.
    pub timeline: Option<TimelineId>,
    /// Commit time of the last transaction, see [`Position::commit_at_us`].
    pub commit_at_us: Option<i64>,
    /// When these were observed.
    pub at_us: i64,
    /// Highest WAL rate of the last minute, bytes a second.
    pub wal_rate_max: u64,
    /// The last look at the primary datacenter.
    pub primary_seen: Option<PrimarySeen>,
    /// The logical slots of a primary in a federation.
    pub consumers: Option<Consumers>,
    /// State of the WAL receiver.
    pub link: Option<String>,
    /// When a leader of this datacenter was last writable.
    pub wrote_at_us: Option<i64>,
    /// Maintenance mode: PostgreSQL may go on when the lease can't be renewed.
    pub unattended: bool,
    /// The DCS has this node's mark of that from before.
    pub was_unattended: bool,
    /// The TTL of this node's beat that the DCS has from before; zero when it is another's. The
    /// guard may still go by it.
    pub was_ttl: Duration,
    /// Whom to ask when the DCS is out of reach; nobody when absent.
    pub failsafe: Option<Question>,
}

impl BeatFacts {
    pub(super) fn news(&self) -> (bool, bool, Option<Epoch>, Option<(Epoch, TimelineId)>) {
        let seen = self.primary_seen.as_ref().map(|seen| (seen.epoch, seen.timeline));
        (self.writable, self.unattended, self.epoch, seen)
    }
}
