//! What one node observes of its own PostgreSQL.

use crate::time::Boot;
use node_agent_wire::{Lsn, MemberName, SlotName, SystemId, TimelineId};

/// The state field of the control file (`pg_controldata`, "Database cluster state").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ControlState {
    /// `shut down`: a primary that stopped cleanly.
    ShutDown,
    /// `shut down in recovery`: a standby that stopped cleanly.
    ShutDownInRecovery,
    /// `shutting down`.
    ShuttingDown,
    /// `in crash recovery`.
    InCrashRecovery,
    /// `in archive recovery`: a standby that runs or died.
    InArchiveRecovery,
    /// `in production`: a primary that runs or died.
    InProduction,
    /// `starting up`.
    StartingUp,
}

/// What the control file says (PostgreSQL manual, pg_controldata).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ControlData {
    /// The state.
    pub state: ControlState,
    /// The database system.
    pub system_id: SystemId,
    /// Timeline of the latest checkpoint.
    pub timeline: TimelineId,
    /// Where the latest checkpoint record begins.
    pub checkpoint: Lsn,
    /// Minimum recovery ending location; zero when not in recovery.
    pub min_recovery_end: Lsn,
    /// Timeline of `min_recovery_end`; zero when there is none.
    pub min_recovery_timeline: TimelineId,
    /// Whether pg_rewind can work: data checksums or `wal_log_hints` are on.
    pub rewindable: bool,
}

impl ControlData {
    /// Whether this data directory was a primary when it stopped or died.
    #[must_use]
    pub fn was_primary(&self) -> bool {
        match self.state {
            ControlState::ShutDown
            | ControlState::ShuttingDown
            | ControlState::InCrashRecovery
            | ControlState::InProduction => true,
            ControlState::ShutDownInRecovery
            | ControlState::InArchiveRecovery
            | ControlState::StartingUp => false,
        }
    }
}

/// A replication slot as `pg_replication_slots` shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlotFact {
    /// Its name.
    pub name: SlotName,
    /// Physical, not logical.
    pub physical: bool,
    /// In use by a walsender.
    pub active: bool,
    /// WAL is kept from here.
    pub restart_lsn: Option<Lsn>,
    /// Of a logical slot: its consumer has everything up to here.
    pub confirmed_lsn: Option<Lsn>,
    /// Of a logical slot: its database.
    pub database: Option<String>,
    /// Of a logical slot: its output plugin.
    pub plugin: Option<String>,
    /// Rows that newer transactions than this need are kept.
    pub xmin: Option<u32>,
    /// The same for the system catalogues.
    pub catalog_xmin: Option<u32>,
    /// PostgreSQL 17 and later: kept in step by PostgreSQL itself (`failover`, or `synced` from the
    /// primary).
    pub failover: bool,
    /// PostgreSQL 17 and later: it was taken over from the primary, and is kept in step with that.
    pub synced: bool,
    /// One of those that a former primary has kept, on a standby that is to take them over from its
    /// primary (`sync_replication_slots`): PostgreSQL takes none over while it has one of its own
    /// of that name.
    pub left_over: bool,
    /// Nothing can be read from it any more: what it needs is gone (`wal_status` `lost`, or
    /// invalidated as PostgreSQL 16 and later say).
    pub lost: bool,
    /// Why, where PostgreSQL says it: 17 and later.
    pub invalidation: Option<String>,
    /// `reserved`, `extended`, `unreserved` or `lost`; empty when PostgreSQL does not say.
    pub wal_status: String,
}

impl SlotFact {
    /// Why nothing can be read from it any more, in PostgreSQL's word; of use where it is lost.
    #[must_use]
    pub fn why_lost(&self) -> &str {
        match &self.invalidation {
            Some(reason) => reason,
            None if self.wal_status == "lost" => "wal_removed",
            None => "conflicting",
        }
    }
}

/// A connected standby as `pg_stat_replication` shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Walsender {
    /// The standby's member name, by its `application_name`.
    pub application_name: String,
    /// `streaming`, `catchup`, …
    pub state: String,
    /// `sync`, `quorum`, `potential` or `async`.
    pub sync_state: String,
    /// Written there up to here.
    pub write_lsn: Option<Lsn>,
    /// Flushed there up to here.
    pub flush_lsn: Option<Lsn>,
    /// Replayed there up to here.
    pub replay_lsn: Option<Lsn>,
    /// The user that replicates.
    pub usename: String,
    /// Where it connects from.
    pub client_addr: Option<String>,
    /// `sync_priority`.
    pub sync_priority: i32,
}

/// The WAL receiver of a standby as `pg_stat_wal_receiver` shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Walreceiver {
    /// `streaming`, `waiting`, …
    pub status: String,
    /// The host that it receives from.
    pub host: Option<String>,
    /// The port there.
    pub port: Option<u16>,
    /// The last end of WAL that the sender reported.
    pub latest_end_lsn: Option<Lsn>,
    /// The timeline that it receives.
    pub timeline: Option<TimelineId>,
}

/// A server that answers queries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Running {
    /// Read-only.
    pub in_recovery: bool,
    /// Primary: the timeline it writes. Standby: the timeline of the last WAL received or replayed.
    pub timeline: TimelineId,
    /// Primary: flushed up to here. Standby: the further one of received and replayed.
    pub lsn: Lsn,
    /// Standby: received and flushed up to here.
    pub receive_lsn: Option<Lsn>,
    /// Standby: replay has come to the end of the local WAL since PostgreSQL was started, so that
    /// `lsn` counts all of it.
    pub wal_read: bool,
    /// Standby: replayed up to here.
    pub replay_lsn: Option<Lsn>,
    /// Standby: replay is paused.
    pub replay_paused: bool,
    /// Standby: commit time of the last transaction replayed, microseconds since the Unix epoch.
    pub replayed_commit_at_us: Option<i64>,
    /// Standby: the receiver, when there is one.
    pub receiver: Option<Walreceiver>,
    /// Connected standbys.
    pub senders: Vec<Walsender>,
    /// All slots.
    pub slots: Vec<SlotFact>,
    /// `synchronous_standby_names` in force.
    pub sync_names: String,
    /// The database system.
    pub system_id: SystemId,
    /// `server_version_num`.
    pub server_version: u32,
    /// `pg_postmaster_start_time()`, microseconds since the Unix epoch.
    pub started_at_us: i64,
    /// Parameters wait for a restart.
    pub pending_restart: bool,
    /// Standby: replay is paused because the primary's settings were raised above this server's;
    /// only a restart with the raised values helps (PostgreSQL manual, 27.4.3).
    pub outgrown: bool,
    /// `max_slot_wal_keep_size` in bytes (manual, section 20.6.1); `None`: unlimited.
    pub slot_wal_limit_bytes: Option<u64>,
    /// `restore_command` is set.
    pub restores: bool,
}

/// The server on this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Postgres {
    /// The data directory is absent or empty.
    NoData,
    /// A data directory that can't be used, with the reason.
    Unreadable(String),
    /// No process.
    Stopped(ControlData),
    /// The process lives and does not accept connections yet.
    Starting {
        /// When it was started, or first seen so.
        since: Boot,
        /// It was started as a standby.
        standby: bool,
        /// The control file.
        control: ControlData,
    },
    /// Answers.
    Running(Box<Running>),
    /// The process lives and a query has passed its deadline.
    Unresponsive {
        /// The first query that did not come back.
        since: Boot,
        /// It was writable when last asked.
        writable: bool,
    },
}

impl Postgres {
    /// The server, when it answers.
    #[must_use]
    pub fn running(&self) -> Option<&Running> {
        match self {
            Self::Running(running) => Some(running),
            Self::NoData
            | Self::Unreadable(_)
            | Self::Stopped(_)
            | Self::Starting { .. }
            | Self::Unresponsive { .. } => None,
        }
    }

    /// Whether it answers and does not accept writes.
    #[must_use]
    pub fn is_standby(&self) -> bool {
        self.running().is_some_and(|running| running.in_recovery)
    }

    /// Whether the server may be accepting writes: a fact, or what must be feared.
    #[must_use]
    pub fn may_write(&self) -> bool {
        match self {
            Self::NoData | Self::Unreadable(_) | Self::Stopped(_) => false,
            Self::Starting { standby, .. } => !standby,
            Self::Running(running) => !running.in_recovery,
            Self::Unresponsive { writable, .. } => *writable,
        }
    }

    /// The database system, where the data directory tells.
    #[must_use]
    pub fn system_id(&self) -> Option<&SystemId> {
        match self {
            Self::Stopped(control) | Self::Starting { control, .. } => Some(&control.system_id),
            Self::Running(running) => Some(&running.system_id),
            Self::NoData | Self::Unreadable(_) | Self::Unresponsive { .. } => None,
        }
    }
}

/// Another member's PostgreSQL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// The member.
    pub name: MemberName,
    /// Its host.
    pub host: String,
    /// Its port.
    pub port: u16,
}

/// Where a standby gets its WAL from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Upstream {
    /// A member of this cluster.
    Member {
        /// Its name.
        name: MemberName,
        /// Host and port of its PostgreSQL.
        host: String,
        /// Port.
        port: u16,
    },
    /// The remote primary of a standby cluster: hosts in order.
    Remote {
        /// Hosts with their ports.
        hosts: Vec<(String, u16)>,
        /// The slot there.
        slot: Option<SlotName>,
        /// It is the leader of a standby cluster itself, hence read-only.
        cascade: bool,
    },
    /// The archive only: WAL comes by `restore_command`.
    Archive {
        /// The member whose history and data count meanwhile; absent where there is no server to
        /// ask, in a standby cluster that has nothing but the archive.
        of: Option<Peer>,
    },
    /// Nobody: read-only, waiting.
    Nobody,
}
