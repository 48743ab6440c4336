//! The right to write: invariant I1 as a value that only [`RightToWrite::check`] can make.

use crate::grants;
use crate::observed::{Observed, RecordView};
use crate::time::Fact;
use node_agent_wire::federation::FederationRecord;
use node_agent_wire::{DcName, Epoch};
use std::time::Duration;

/// Proof that this datacenter may accept writes at this moment, by all that is known here.
#[derive(Debug, PartialEq, Eq)]
pub struct RightToWrite {
    epoch: Option<Epoch>,
}

/// Why this datacenter may not accept writes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WriteBlocked {
    /// The DCS is not readable, so the record is not known.
    #[error("the DCS of this datacenter can't be read")]
    DcsUnknown,
    /// The record can't be read.
    #[error("the federation record can't be read ({0}): read-only until it is repaired")]
    RecordUnreadable(String),
    /// A fence is set.
    #[error("fenced for epoch {epoch}: {reason}")]
    Fenced {
        /// The epoch that the fence makes room for.
        epoch: Epoch,
        /// Why it was set.
        reason: String,
    },
    /// The record names another datacenter, and this one is set up as its standby.
    #[error("{primary} is the primary datacenter at epoch {epoch}")]
    NamesAnother {
        /// The primary datacenter.
        primary: DcName,
        /// The epoch.
        epoch: Epoch,
    },
    /// The record names another datacenter, but `standby_cluster` is not configured (I6).
    #[error(
        "the federation record names {primary} as primary at epoch {epoch}, but standby_cluster is \
         not configured here: read-only. To follow it: federator rejoin. To take over: federator \
         switchover or promote"
    )]
    HandEdited {
        /// The primary datacenter.
        primary: DcName,
        /// The epoch.
        epoch: Epoch,
    },
    /// `standby_cluster` is configured.
    #[error("standby_cluster is configured")]
    StandbyCluster,
    /// Another datacenter's record is at a later epoch (I7).
    #[error("{dc} knows epoch {epoch} with primary {primary}: this datacenter's epoch is over")]
    Superseded {
        /// Whose record says so.
        dc: DcName,
        /// The later epoch.
        epoch: Epoch,
        /// Its primary.
        primary: DcName,
    },
    /// Another datacenter claims the same epoch.
    #[error(
        "{dc} claims epoch {epoch} for {primary} too: both stay read-only until an operator decides"
    )]
    Conflict {
        /// Whose record says so.
        dc: DcName,
        /// The epoch that is claimed twice.
        epoch: Epoch,
        /// The other claimant.
        primary: DcName,
    },
    /// The other datacenters have not been asked yet since this agent started.
    #[error("waiting for the first answer of {0}")]
    PeersNotAsked(DcName),
    /// Nobody has led this datacenter for too long.
    #[error(
        "nobody has led this datacenter for {} s: waiting until another datacenter confirms epoch \
         {epoch}, or: federator confirm", leaderless_for.as_secs()
    )]
    ColdStart {
        /// The epoch that needs confirmation.
        epoch: Epoch,
        /// How long.
        leaderless_for: Duration,
    },
    /// Lease mode without a majority of grants, or with one that is about to end.
    #[error(
        "isolation is `lease` and this datacenter holds no majority of site grants for epoch \
         {epoch} ({missing})"
    )]
    NoGrants {
        /// The epoch.
        epoch: Epoch,
        /// What the other voters say.
        missing: String,
    },
}

impl RightToWrite {
    /// Checks the record, the other datacenters' records and the configuration.
    ///
    /// # Errors
    /// The first reason against, the most telling first.
    pub fn check(observed: &Observed) -> Result<Self, WriteBlocked> {
        let Some(cluster) = observed.cluster.known() else { return Err(WriteBlocked::DcsUnknown) };
        let standby = cluster.config.standby_cluster.is_some();
        let record = match &cluster.record {
            RecordView::Unreadable(why) => return Err(WriteBlocked::RecordUnreadable(why.clone())),
            RecordView::Absent if standby => return Err(WriteBlocked::StandbyCluster),
            RecordView::Absent => return Ok(Self { epoch: None }),
            RecordView::Present(keyed) => &keyed.value,
        };
        if let Some(fence) = &record.fence {
            return Err(WriteBlocked::Fenced { epoch: fence.epoch, reason: fence.reason.clone() });
        }
        if !record.names_us() {
            let (primary, epoch) = (record.primary.clone(), record.epoch);
            return Err(if standby {
                WriteBlocked::NamesAnother { primary, epoch }
            } else {
                WriteBlocked::HandEdited { primary, epoch }
            });
        }
        check_peers(observed, record)?;
        if standby {
            return Err(WriteBlocked::StandbyCluster);
        }
        grants::check(observed, record)
            .map_err(|missing| WriteBlocked::NoGrants { epoch: record.epoch, missing })?;
        if !observed.postgres.may_write() {
            check_start(observed, record)?;
        }
        Ok(Self { epoch: Some(record.epoch) })
    }

    /// The epoch under which the right was checked; `None` outside a federation.
    #[must_use]
    pub fn epoch(&self) -> Option<Epoch> {
        self.epoch
    }
}

pub(crate) fn check_peers(
    observed: &Observed,
    record: &FederationRecord,
) -> Result<(), WriteBlocked> {
    for (dc, fact) in &observed.peers {
        let Some(peer) = fact.known() else { continue };
        if peer.federation != record.federation {
            continue;
        }
        let (dc, epoch, primary) = (dc.clone(), peer.epoch, peer.primary.clone());
        if peer.epoch > record.epoch {
            return Err(WriteBlocked::Superseded { dc, epoch, primary });
        }
        if peer.epoch == record.epoch && peer.primary != record.primary {
            return Err(WriteBlocked::Conflict { dc, epoch, primary });
        }
    }
    Ok(())
}

/// What must hold before a datacenter that is not writing begins to: every other datacenter has
/// been asked at least once, and a long silence needs somebody's word.
fn check_start(observed: &Observed, record: &FederationRecord) -> Result<(), WriteBlocked> {
    for (dc, fact) in &observed.peers {
        if let Fact::Unknown { tried: false, .. } = fact {
            return Err(WriteBlocked::PeersNotAsked(dc.clone()));
        }
    }
    if let Some(dc) =
        record.members.keys().find(|dc| **dc != record.dc && !observed.peers.contains_key(*dc))
    {
        return Err(WriteBlocked::PeersNotAsked(dc.clone()));
    }
    let confirmed_here =
        record.confirmed.as_ref().filter(|c| c.epoch == record.epoch).map_or(i64::MIN, |c| c.at_us);
    let claimed = record.claim.as_ref().map_or(i64::MIN, |c| c.at_us);
    let wrote =
        observed.cluster.known().and_then(|c| c.position.as_ref()?.wrote_at_us).unwrap_or(i64::MIN);
    let last = confirmed_here.max(claimed).max(wrote);
    let leaderless_us = observed.wall_us.saturating_sub(last);
    let leaderless_for = Duration::from_micros(u64::try_from(leaderless_us).unwrap_or(0));
    if leaderless_for.as_secs() <= record.policies.cold_start_after_s {
        return Ok(());
    }
    let peer_confirms = observed.peers.values().filter_map(Fact::known).any(|peer| {
        peer.federation == record.federation
            && peer.epoch == record.epoch
            && peer.primary == record.dc
    });
    let alone = record.members.len() < 2;
    if peer_confirms || alone {
        return Ok(());
    }
    Err(WriteBlocked::ColdStart { epoch: record.epoch, leaderless_for })
}
