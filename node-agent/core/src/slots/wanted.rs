//! Which slots belong on this node.

use crate::observed::{Cluster, Observed};
use crate::source;
use node_agent_wire::dynamic::{ClusterKind, PermanentSlot};
use node_agent_wire::{Lsn, MemberName, SlotName};
use std::collections::BTreeMap;

/// Why a slot belongs here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Want {
    /// A member streams by it, or would if this node led.
    Member {
        /// It is this node that the member streams from now.
        streams_here: bool,
        /// How far the member has come, by its own word.
        position: Option<Lsn>,
    },
    /// It waits for a member that is away.
    Away,
    /// The configuration names it: a physical one.
    Permanent,
    /// The configuration names it: a logical one.
    Logical {
        /// Its database.
        database: String,
        /// Its output plugin.
        plugin: String,
    },
}

/// The slots of this node, by name. A permanent slot goes before a member's of the same name, but
/// not before this node's own name.
#[must_use]
pub fn here(observed: &Observed, cluster: &Cluster) -> BTreeMap<SlotName, Want> {
    let mut wanted = members(observed, cluster);
    let own = SlotName::from_name(observed.me.name.as_str());
    wanted.extend(permanent(observed, cluster).filter(|(name, _)| *name != own));
    wanted
}

/// Whether this node is the leader of the cluster.
pub(super) fn leads(observed: &Observed, cluster: &Cluster) -> bool {
    cluster.leader.as_ref() == Some(&observed.me.name)
}

fn members(observed: &Observed, cluster: &Cluster) -> BTreeMap<SlotName, Want> {
    let me = &observed.me.name;
    let own = SlotName::from_name(me.as_str());
    let retains = !cluster.config.member_slots_ttl.is_zero();
    let mut wanted = BTreeMap::new();
    if retains && (leads(observed, cluster) || !observed.me.nofailover) {
        for name in retained(observed, cluster) {
            wanted.insert(name, Want::Away);
        }
    }
    for member in cluster.members.values().filter(|m| m.name != *me) {
        let slot = SlotName::from_name(member.name.as_str());
        let streams_here = source::streams_from(cluster, member, me);
        let kept = retains && (!observed.me.nofailover || leads(observed, cluster));
        if member.nostream() {
            wanted.remove(&slot);
        } else if streams_here || kept {
            let position = member.data.xlog_location;
            wanted.insert(slot, Want::Member { streams_here, position });
        }
    }
    wanted.remove(&own);
    wanted
}

/// Slots of members that are away: on the leader those that were here within `member_slots_ttl`, on
/// a standby those that the leader names.
fn retained(observed: &Observed, cluster: &Cluster) -> Vec<SlotName> {
    let ttl = cluster.config.member_slots_ttl;
    if !leads(observed, cluster) {
        return cluster.status.retain_slots.iter().cloned().collect();
    }
    let lately = observed.slots.seen.iter().filter(|(_, at)| observed.now.since(**at) <= ttl);
    lately.map(|(name, _)| name.clone()).collect()
}

/// Permanent slots. Nodes that never lead have none, and logical ones are for a cluster that
/// accepts writes, where WAL is streamed.
fn permanent(observed: &Observed, cluster: &Cluster) -> impl Iterator<Item = (SlotName, Want)> {
    let standby = cluster.config.standby_cluster.is_some();
    let barred = observed.me.nofailover && !leads(observed, cluster);
    let streams = !behind_archive(cluster, &observed.me.name, observed.me.nostream);
    let kind = if standby { ClusterKind::Standby } else { ClusterKind::Primary };
    let slots = cluster.config.slots.iter().filter(move |_| !barred);
    slots.filter_map(move |(name, slot)| {
        let want = match slot {
            PermanentSlot::Physical { only } => {
                only.is_none_or(|only| only == kind).then_some(Want::Permanent)?
            }
            PermanentSlot::Logical { database, plugin } => (!standby && streams)
                .then(|| Want::Logical { database: database.clone(), plugin: plugin.clone() })?,
        };
        Some((name.clone(), want))
    })
}

/// WAL reaches the member through the archive somewhere on its way, so that no feedback reaches the
/// leader.
pub(super) fn behind_archive(cluster: &Cluster, member: &MemberName, nostream: bool) -> bool {
    if nostream {
        return true;
    }
    let mut at = cluster.members.get(member);
    for _ in 0..cluster.members.len() {
        let Some(member) = at else { return false };
        if cluster.leader.as_ref() == Some(&member.name) {
            return false;
        }
        if member.nostream() {
            return true;
        }
        at = member.replicatefrom().and_then(|name| cluster.members.get(&name));
    }
    false
}
