//! May this node be promoted now?

use crate::handover;
use crate::observed::Observed;
use crate::postgres::Postgres;
use crate::right::{RightToWrite, WriteBlocked};
use crate::sync;
use crate::waits::{Form, Waits};
use node_agent_wire::dynamic::SynchronousMode;
use node_agent_wire::status::SyncState;
use node_agent_wire::{Epoch, Revision};

/// Proof that this node may be promoted: it holds the lease, the datacenter has the right to
/// write, PostgreSQL is a running standby, and `/sync` is in line.
#[derive(Debug, PartialEq, Eq)]
pub struct Eligible {
    right: RightToWrite,
}

impl Eligible {
    /// The epoch that the promotion happens under.
    #[must_use]
    pub fn epoch(&self) -> Option<Epoch> {
        self.right.epoch()
    }
}

/// Why not, and what would help.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotYet {
    /// The lease is not held.
    NoLease,
    /// The datacenter has no right to write.
    Blocked(WriteBlocked),
    /// PostgreSQL is not a running standby.
    NotAStandby,
    /// It has less than its datacenter was handed by a switchover.
    Lacks(String),
    /// `/sync` must be written first.
    WriteSync {
        /// The value.
        sync: SyncState,
        /// Over this revision.
        over: Revision,
    },
    /// `synchronous_standby_names` must be set first.
    SetNames(String),
}

/// Checks everything that a promotion needs.
///
/// # Errors
/// What is missing.
pub fn eligible(observed: &Observed) -> Result<Eligible, NotYet> {
    if !observed.holds_lease() {
        return Err(NotYet::NoLease);
    }
    let right = RightToWrite::check(observed).map_err(NotYet::Blocked)?;
    let (Some(cluster), Postgres::Running(running)) =
        (observed.cluster.known(), &observed.postgres)
    else {
        return Err(NotYet::NotAStandby);
    };
    if !running.in_recovery {
        return Err(NotYet::NotAStandby);
    }
    if let Some(why) = handover::lacks(observed, cluster) {
        return Err(NotYet::Lacks(why));
    }
    let mode = cluster.config.effective_sync_mode();
    if (mode != SynchronousMode::Off || cluster.sync.value.active())
        && let Some(sync) = sync::takeover(&observed.me.name, &cluster.sync.value)
    {
        return Err(NotYet::WriteSync { sync, over: cluster.sync.revision });
    }
    // Names left over from an earlier life as primary would let the first commit wait for ever.
    let strict = mode != SynchronousMode::Off && cluster.config.synchronous_mode_strict;
    let form = match mode {
        SynchronousMode::Quorum => Form::Quorum,
        SynchronousMode::On | SynchronousMode::Off => Form::Plain,
    };
    let names = Waits::default().render(form, strict);
    let ours = mode != SynchronousMode::Off || observed.sync_names_ours;
    if ours && running.sync_names != names {
        return Err(NotYet::SetNames(names));
    }
    Ok(Eligible { right })
}
