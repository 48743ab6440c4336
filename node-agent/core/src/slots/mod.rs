//! Which replication slots this node has, and how far they may move (behaviour 14).
//!
//! The leader says what is kept: `/status` has the position of every slot that counts, and in
//! `retain_slots` the names of those that wait for members. With `member_slots_ttl` above zero
//! every node that may become leader keeps them all, moved along by `/status`, so that a standby
//! finds its WAL wherever it is led to.
//!
//! [`wanted`] says which slots belong here; this module compares them with those that are there.

pub mod logical;
pub mod native;
pub mod wanted;
pub mod without_dcs;

use crate::abroad;
use crate::observed::{Cluster, Observed};
use crate::postgres::{Running, SlotFact};
use crate::time::Boot;
use logical::LeaderSlots;
use node_agent_wire::dynamic::{Dynamic, IgnoredSlot};
use node_agent_wire::status::Status;
use node_agent_wire::{Lsn, MemberName, SlotName};
use std::collections::{BTreeMap, BTreeSet};
use wanted::Want;

/// What the agent remembers of slots between two passes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SlotMemory {
    /// When a slot of this name was last seen to belong to a member; for a name that is only known
    /// from `retain_slots`, when it was first seen there.
    pub seen: BTreeMap<SlotName, Boot>,
    /// Copying logical slots failed: not again before this.
    pub copy_after: Option<Boot>,
    /// The last look at the leader's slots.
    pub leader: Option<LeaderSlots>,
    /// Logical slots of this standby, with the oldest catalogue rows of the leader's own when the
    /// leader began to keep those that this standby needs.
    pub kept_since: BTreeMap<SlotName, u32>,
}

/// One change of a slot; each is idempotent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SlotChange {
    /// Create a physical slot that reserves WAL at once.
    Create(SlotName),
    /// Create a logical slot.
    CreateLogical {
        /// Its name.
        name: SlotName,
        /// Its database.
        database: String,
        /// Its output plugin.
        plugin: String,
    },
    /// Drop it: nobody needs it any more, or it serves nobody.
    Drop(SlotName),
    /// Move the `restart_lsn` of a physical slot forward.
    Advance(SlotName, Lsn),
    /// Move a logical slot forward, from within its database.
    AdvanceLogical {
        /// Its name.
        name: SlotName,
        /// Its database.
        database: String,
        /// To here.
        to: Lsn,
    },
}

impl SlotChange {
    /// The slot.
    #[must_use]
    pub fn name(&self) -> &SlotName {
        match self {
            Self::Create(name)
            | Self::CreateLogical { name, .. }
            | Self::Drop(name)
            | Self::Advance(name, _)
            | Self::AdvanceLogical { name, .. } => name,
        }
    }
}

/// The changes that bring the slots of a running server to what the cluster wants.
#[must_use]
pub fn changes(observed: &Observed, cluster: &Cluster, running: &Running) -> Vec<SlotChange> {
    if !cluster.config.use_slots {
        return Vec::new();
    }
    let wanted = wanted::here(observed, cluster);
    let leads = wanted::leads(observed, cluster);
    let missing = wanted.iter().filter(|(name, _)| find(running, name).is_none());
    let mut changes: Vec<SlotChange> =
        missing.filter_map(|(name, want)| create(name, want, running)).collect();
    for slot in running.slots.iter().filter(|s| !s.active) {
        let change = match wanted.get(&slot.name) {
            None => unknown(observed, (cluster, running), slot),
            Some(want) => upkeep(observed, (cluster, running), slot, want, leads),
        };
        changes.extend(change);
    }
    changes
}

fn find<'a>(running: &'a Running, name: &SlotName) -> Option<&'a SlotFact> {
    running.slots.iter().find(|slot| slot.name == *name)
}

fn create(name: &SlotName, want: &Want, running: &Running) -> Option<SlotChange> {
    match want {
        // The leader has kept it all the time, or it is of no use.
        Want::Away => running.in_recovery.then(|| SlotChange::Create(name.clone())),
        Want::Member { .. } | Want::Permanent => Some(SlotChange::Create(name.clone())),
        Want::Logical { database, plugin } if !running.in_recovery => {
            Some(SlotChange::CreateLogical {
                name: name.clone(),
                database: database.clone(),
                plugin: plugin.clone(),
            })
        }
        // A standby copies the leader's: see `logical`.
        Want::Logical { .. } => None,
    }
}

/// A slot that nothing here asks for is dropped, unless somebody else cares for it. PostgreSQL
/// cares for those that survive a failover, except where one is in its own way. What consumers
/// have while the datacenter is fenced stays: the fence may be lifted again.
fn unknown(
    observed: &Observed,
    (cluster, running): (&Cluster, &Running),
    slot: &SlotFact,
) -> Option<SlotChange> {
    let stranded = native::stranded(observed, cluster, running, slot);
    let native = slot.failover && !slot.left_over && !stranded;
    let fenced = cluster.record.get().is_some_and(|record| record.fence.is_some());
    let foreign = native
        || (fenced && !slot.physical)
        || cluster.config.pause
        || ignored(&cluster.config, slot);
    (!foreign).then(|| SlotChange::Drop(slot.name.clone()))
}

/// The configuration says that the agent leaves it alone: every attribute given matches.
fn ignored(config: &Dynamic, slot: &SlotFact) -> bool {
    let kind = if slot.physical { "physical" } else { "logical" };
    let fits = |given: &Option<String>, value: Option<&str>| {
        given.as_ref().is_none_or(|given| value == Some(given.as_str()))
    };
    let matches = |entry: &IgnoredSlot| {
        fits(&entry.name, Some(slot.name.as_str()))
            && fits(&entry.kind, Some(kind))
            && fits(&entry.database, slot.database.as_deref())
            && fits(&entry.plugin, slot.plugin.as_deref())
    };
    config.ignore_slots.iter().any(matches)
}

/// What an inactive slot that belongs here needs.
fn upkeep(
    observed: &Observed,
    (cluster, running): (&Cluster, &Running),
    slot: &SlotFact,
    want: &Want,
    leads: bool,
) -> Option<SlotChange> {
    let drop = || Some(SlotChange::Drop(slot.name.clone()));
    let advance = |to: Lsn| {
        let behind = slot.restart_lsn.is_none_or(|at| at < to);
        (behind && to > Lsn(0)).then(|| SlotChange::Advance(slot.name.clone(), to))
    };
    // PostgreSQL's own survives a failover whatever its name says; an error tells of the clash.
    if slot.failover || ignored(&cluster.config, slot) {
        return None;
    }
    match want {
        Want::Logical { database, plugin } => {
            let same = !slot.physical
                && slot.database.as_ref() == Some(database)
                && slot.plugin.as_ref() == Some(plugin);
            if !same || (slot.lost && running.in_recovery) {
                return drop();
            }
            logical::advance(cluster, running, slot)
        }
        Want::Away if !slot.physical || slot.lost => drop(),
        Want::Away => advance(standby_target(cluster, running, &slot.name)?),
        Want::Member { .. } | Want::Permanent if !slot.physical => drop(),
        // What it kept is gone, or it never kept anything: a new one serves the next standby, this
        // one nobody.
        Want::Member { .. } | Want::Permanent if slot.lost || slot.restart_lsn.is_none() => drop(),
        Want::Member { streams_here: true, .. } => None,
        // Nobody streams from it, so nothing would ever move the rows that it holds back.
        Want::Member { streams_here: false, .. } if slot.xmin.or(slot.catalog_xmin).is_some() => {
            drop()
        }
        Want::Member { streams_here: false, position } => {
            // The leader goes by what that member says of itself.
            let here = running.replay_lsn.filter(|_| running.in_recovery).unwrap_or(running.lsn);
            let told = position.map(|at| at.min(here));
            advance(if leads { told } else { standby_target(cluster, running, &slot.name) }?)
        }
        // The rows that its datacenter needed while it streamed from here would be held back for
        // ever, here and, by this node's feedback, on the primary: a new one holds back none.
        Want::Permanent
            if slot.xmin.or(slot.catalog_xmin).is_some()
                && abroad::replaceable(observed, cluster, running, &slot.name, leads) =>
        {
            drop()
        }
        Want::Permanent => advance(permanent_target(observed, cluster, running, (slot, leads))?),
    }
}

/// As far as the leader's own slot of the name, never beyond what is replayed here.
fn standby_target(cluster: &Cluster, running: &Running, name: &SlotName) -> Option<Lsn> {
    if !running.in_recovery {
        return None;
    }
    Some(cluster.status.slots.get(name).copied()?.min(running.replay_lsn?))
}

/// A permanent slot moves by its consumer on the leader, and with that on the standbys; that of
/// another datacenter of the federation as [`abroad`] says. Without a federation one that a
/// standby cluster keeps belongs to a cluster that is ahead of this one (the way back of a
/// switchover): it needs nothing before what is replayed here.
fn permanent_target(
    observed: &Observed,
    cluster: &Cluster,
    running: &Running,
    (slot, leads): (&SlotFact, bool),
) -> Option<Lsn> {
    if let Some(target) = abroad::slot_target(observed, cluster, running, &slot.name, leads) {
        return target;
    }
    if !running.in_recovery {
        return None;
    }
    if cluster.config.standby_cluster.is_some() {
        return running.replay_lsn;
    }
    standby_target(cluster, running, &slot.name)
}

/// `slots` and `retain_slots` of `/status`, as the leader writes them (contract A.4). Without
/// `member_slots_ttl` only permanent slots are told.
#[must_use]
pub fn publish(observed: &Observed, cluster: &Cluster, running: &Running) -> Status {
    let mut status = Status {
        optime: Some(running.lsn),
        other: cluster.status.other.clone(),
        ..Status::default()
    };
    let wanted = wanted::here(observed, cluster);
    let members_too = !cluster.config.member_slots_ttl.is_zero();
    for slot in &running.slots {
        let told = match wanted.get(&slot.name) {
            Some(Want::Logical { .. } | Want::Permanent) => true,
            Some(Want::Member { .. } | Want::Away) => members_too,
            None => false,
        };
        let at = if slot.physical { slot.restart_lsn } else { slot.confirmed_lsn };
        if let Some(at) = at.filter(|_| told && !slot.lost) {
            status.slots.insert(slot.name.clone(), at);
        }
    }
    if members_too {
        // The pseudo slot of the leader itself: what the others must keep for it.
        status.slots.insert(SlotName::from_name(observed.me.name.as_str()), running.lsn);
        let kept =
            wanted.into_iter().filter(|(_, want)| matches!(want, Want::Member { .. } | Want::Away));
        status.retain_slots = kept.map(|(name, _)| name).collect();
    }
    status
}

/// Names that two members, or a member and a permanent slot, both claim. Only one of them can
/// have the slot.
#[must_use]
pub fn clashes(cluster: &Cluster) -> BTreeMap<SlotName, BTreeSet<MemberName>> {
    let mut owners: BTreeMap<SlotName, BTreeSet<MemberName>> = BTreeMap::new();
    for name in cluster.members.keys() {
        owners.entry(SlotName::from_name(name.as_str())).or_default().insert(name.clone());
    }
    let permanent = &cluster.config.slots;
    owners.retain(|slot, names| names.len() > 1 || permanent.contains_key(slot));
    owners
}
