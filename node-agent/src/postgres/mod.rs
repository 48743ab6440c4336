//! The only place that touches PGDATA, PostgreSQL's processes or SQL.
//!
//! [`Server`] is the PostgreSQL of this node. Each call carries a deadline or has one of its own,
//! and an [`Error`] says what was tried, on what, and (`hint`) what the operator can do. Nothing
//! is decided here: facts go out (`observe`), effects come in.
//!
//! The postmaster is the child of the guard (`node-agent-guard`), which stops it when the deadline
//! that it was given passes. Files beside the data directory `D` of member `N`:
//! `.N.guard` (the guard's socket), `N.log` (output of guard and server), `.N.pgpass` (passwords
//! for libpq, unless `postgresql.pgpass` names another), `.N.incomplete` (a directory that a
//! killed agent left half written), `N.divergence-*` (what a rewind discarded).

pub mod effective;
pub mod error;
mod skeleton;

pub use effective::Effective;
pub use error::Error;

use node_agent_core::postgres::{ControlData, Upstream};
use node_agent_core::time::Boot;
use node_agent_wire::history::TimelineHistory;
use node_agent_wire::{Lsn, SystemId, TimelineId};

/// How to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopMode {
    /// Sessions end, a shutdown checkpoint is written, walsenders ship everything (SIGINT).
    Fast,
    /// At once, without a checkpoint (SIGQUIT).
    Immediate,
}

/// What to start as.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum StartAs<'a> {
    /// Read-write, with the guard armed from the first moment.
    Primary {
        /// When the guard stops the server unless it hears of a later deadline.
        deadline: Boot,
    },
    /// Read-only behind an upstream; the guard is not armed.
    Standby(&'a Upstream),
}

/// Who another server is, asked over SQL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoteIdentity {
    /// The host that answered.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// The database system.
    pub system_id: SystemId,
    /// Read-only.
    pub in_recovery: bool,
    /// The timeline that it writes, or received last.
    pub timeline: TimelineId,
    /// Flushed (primary), or received or replayed, up to here.
    pub lsn: Lsn,
}

/// Where a clone has got to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Bytes that have arrived.
    pub done_bytes: u64,
    /// Bytes expected, an estimate.
    pub total_bytes: u64,
}
