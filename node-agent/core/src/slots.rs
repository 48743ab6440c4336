//! Which replication slots this node has, and how far they may move.

use crate::observed::{Cluster, Observed};
use crate::postgres::{Running, SlotFact};
use node_agent_wire::dynamic::PermanentSlot;
use node_agent_wire::{Lsn, SlotName};
use std::collections::BTreeSet;
use std::time::Duration;

/// Patroni's default of `member_slots_ttl`: how long the slot of a member that is away is kept.
pub const MEMBER_SLOT_TTL: Duration = Duration::from_secs(1800);

/// One change of a slot; each is idempotent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SlotChange {
    /// Create a physical slot that reserves WAL at once.
    Create(SlotName),
    /// Drop it: nobody needs it any more.
    Drop(SlotName),
    /// Move its `restart_lsn` forward.
    Advance(SlotName, Lsn),
}

/// The changes that bring the slots of a running server to what the cluster wants.
#[must_use]
pub fn changes(observed: &Observed, cluster: &Cluster, running: &Running) -> Vec<SlotChange> {
    if !cluster.config.use_slots {
        return Vec::new();
    }
    let own = SlotName::from_name(observed.me.name.as_str());
    let permanent: BTreeSet<SlotName> = cluster
        .config
        .slots
        .iter()
        .filter(|(_, kind)| matches!(kind, PermanentSlot::Physical { .. }))
        .map(|(name, _)| name.clone())
        .filter(|name| *name != own)
        .collect();
    let members: BTreeSet<SlotName> = cluster
        .members
        .keys()
        .map(|name| SlotName::from_name(name.as_str()))
        .filter(|name| *name != own)
        .collect();
    let mut changes: Vec<SlotChange> = permanent
        .union(&members)
        .filter(|name| !running.slots.iter().any(|s| s.name == **name))
        .map(|name| SlotChange::Create(name.clone()))
        .collect();
    for slot in running.slots.iter().filter(|s| s.physical && !s.active) {
        let wanted = permanent.contains(&slot.name) || members.contains(&slot.name);
        if wanted && slot.wal_status == "lost" {
            // What it kept is gone: a new one serves the next standby, this one nobody.
            changes.push(SlotChange::Drop(slot.name.clone()));
        } else if !wanted && forgotten(observed, cluster, &slot.name) {
            changes.push(SlotChange::Drop(slot.name.clone()));
        } else if running.in_recovery
            && let Some(to) = advance_to(cluster, running, slot, permanent.contains(&slot.name))
        {
            changes.push(SlotChange::Advance(slot.name.clone(), to));
        }
    }
    changes
}

/// Nobody has used the name for [`MEMBER_SLOT_TTL`], as far as this agent has seen.
fn forgotten(observed: &Observed, cluster: &Cluster, slot: &SlotName) -> bool {
    if cluster.config.pause {
        return false;
    }
    let last_seen = observed
        .members_seen
        .iter()
        .filter(|(name, _)| SlotName::from_name(name.as_str()) == *slot)
        .map(|(_, at)| *at)
        .max()
        .unwrap_or(observed.started_at);
    observed.now.since(last_seen) > MEMBER_SLOT_TTL
}

/// On a standby: as far as the leader's own slot of that name, never beyond what is replayed here.
/// A permanent slot that the leader does not report belongs to a datacenter that is ahead of this
/// one (the way back of a switchover): it needs nothing before what is replayed here.
fn advance_to(
    cluster: &Cluster,
    running: &Running,
    slot: &SlotFact,
    permanent: bool,
) -> Option<Lsn> {
    let replayed = running.replay_lsn?;
    let standby_cluster = cluster.config.standby_cluster.is_some();
    let target = if permanent && standby_cluster {
        replayed
    } else {
        *cluster.status.slots.get(&slot.name)?
    };
    let target = target.min(replayed);
    let behind = slot.restart_lsn.is_none_or(|at| at < target);
    (behind && target > Lsn(0)).then_some(target)
}
