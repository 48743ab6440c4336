//! The other datacenters, as a standby datacenter deals with them by itself: it takes a later epoch
//! over, follows the datacenter that is its source in that epoch, notes that it streams, and keeps
//! the slots of the others where they are needed. So a datacenter that was away while the primary
//! one changed catches up with the change when it is back, and nobody has to type anything.

use crate::decision::Tend;
use crate::observed::{Cluster, Observed, RecordView};
use crate::postgres::{Postgres, Running};
use crate::right::WriteBlocked;
use node_agent_wire::dynamic::StandbyCluster;
use node_agent_wire::federation::FederationRecord;
use node_agent_wire::member::split_host_port;
use node_agent_wire::position::Position;
use node_agent_wire::{DcName, Lsn, SlotName};
use std::collections::{BTreeMap, BTreeSet};

/// PostgreSQL's port where an address gives none.
const POSTGRES_PORT: u16 = 5432;

/// What was seen of another datacenter beside its record, at the last look that succeeded.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Abroad {
    /// Where PostgreSQL of its members listens, the leader first.
    pub hosts: Vec<(String, u16)>,
    /// Where that of its leader listens.
    pub leader: Option<(String, u16)>,
    /// How far its slots are, by its own `/status`.
    pub slots: BTreeMap<SlotName, Lsn>,
    /// Its leader's position.
    pub position: Option<Position>,
}

/// Where PostgreSQL of other datacenters listens, by the configuration, the record and what was
/// seen of them.
#[must_use]
pub fn servers(observed: &Observed) -> BTreeSet<(String, u16)> {
    let mut found: BTreeSet<(String, u16)> =
        observed.config.standby_cluster.iter().flat_map(StandbyCluster::hosts).collect();
    if let Some(record) = &observed.last_record {
        let known = record.members.keys().chain(observed.abroad.keys());
        let others = known.filter(|dc| **dc != record.dc);
        found.extend(others.flat_map(|dc| addresses(observed, record, dc)));
    }
    found
}

/// The record of another datacenter that knows a later epoch than `record`, which names another
/// primary than itself. `None` also when two claim that epoch, or when it names this datacenter: no
/// agent makes its own datacenter primary.
#[must_use]
pub fn later_epoch<'o>(
    observed: &'o Observed,
    record: &FederationRecord,
) -> Option<(&'o DcName, &'o FederationRecord)> {
    let known = observed.peers.iter().filter_map(|(dc, fact)| Some((dc, fact.known()?)));
    let later: Vec<_> = known
        .filter(|(_, peer)| peer.federation == record.federation && peer.epoch > record.epoch)
        .collect();
    let newest = later.iter().map(|(_, peer)| peer.epoch).max()?;
    let mut claims = later.into_iter().filter(|(_, peer)| peer.epoch == newest);
    let (dc, first) = claims.next()?;
    let alone = claims.all(|(_, peer)| peer.primary == first.primary);
    (alone && first.primary != record.dc).then_some((dc, first))
}

/// What a standby datacenter changes by itself in its settled state.
pub(crate) fn tend(observed: &Observed, cluster: &Cluster, blocked: &WriteBlocked) -> Option<Tend> {
    let RecordView::Present(keyed) = &cluster.record else { return None };
    if !matches!(blocked, WriteBlocked::NamesAnother { .. }) {
        return None;
    }
    let record = &keyed.value;
    // While an operation holds the record, the federator does all of this, in its order.
    if record.operation.is_some() || cluster.config.pause || !record.is_member() {
        return None;
    }
    let source = source(observed, record)?;
    let abroad = observed.abroad.get(source)?;
    if let Some(hosts) = stale_hosts(observed, cluster, record, (source, abroad)) {
        let slot = record.members.get(&record.dc)?.slot.clone();
        let cascade = *source != record.primary;
        return Some(Tend::FollowDatacenter { hosts, slot, cascade, under: keyed.revision });
    }
    let streams = !record.streamed && streams_from(observed, record, source, abroad);
    streams.then(|| {
        let record = Box::new(FederationRecord { streamed: true, ..record.clone() });
        Tend::ReplaceRecord { record, over: keyed.revision }
    })
}

/// The datacenter to stream from, as long as its own record, read now, agrees with this one.
/// `None`: it does not answer, or it does not agree.
fn source<'o>(observed: &'o Observed, record: &'o FederationRecord) -> Option<&'o DcName> {
    let answer = |dc: &DcName| observed.peers.get(dc).and_then(|fact| fact.known());
    let agrees = |peer: &FederationRecord| {
        peer.federation == record.federation
            && (peer.epoch, &peer.primary) == (record.epoch, &record.primary)
            && peer.fence.is_none()
            && peer.is_member()
    };
    let wish = record.source_of(&record.dc, |_| true);
    // Silence is no reason to leave the source that the settings name.
    let known = answer(wish)?;
    let primary = &record.primary;
    if agrees(known) {
        // A standby datacenter is followed once it streams itself; until then nothing changes.
        return (wish == primary || known.streamed).then_some(wish);
    }
    // A former primary that waits for its rejoin may hold what is no part of the history.
    let barred = known.fence.is_some() || !known.is_member();
    (barred && wish != primary && answer(primary).is_some_and(agrees)).then_some(primary)
}

/// The hosts that `standby_cluster` should name, where it names those of another datacenter, or
/// lacks nodes that the source has got meanwhile. Addresses that nobody in the federation
/// publishes (a virtual address, a proxy) are an operator's choice and stay.
fn stale_hosts(
    observed: &Observed,
    cluster: &Cluster,
    record: &FederationRecord,
    (source, abroad): (&DcName, &Abroad),
) -> Option<Vec<(String, u16)>> {
    let standby = cluster.config.standby_cluster.as_ref()?;
    let configured: BTreeSet<(String, u16)> = standby.hosts().into_iter().collect();
    let live: BTreeSet<(String, u16)> = abroad.hosts.iter().cloned().collect();
    let cascade = *source != record.primary;
    // In a cascade only the leader will do: PostgreSQL can't tell it from the others there.
    let wanted = if cascade { abroad.leader.iter().cloned().collect() } else { live.clone() };
    let right = wanted.is_subset(&configured) && (!cascade || configured.len() == 1);
    if configured.is_empty() || wanted.is_empty() || (right && standby.cascade == cascade) {
        return None;
    }
    let elsewhere = record.members.keys().filter(|dc| *dc != source);
    let others: BTreeSet<(String, u16)> =
        elsewhere.flat_map(|dc| addresses(observed, record, dc)).collect();
    let ours = !configured.is_disjoint(&live);
    let theirs = configured.iter().all(|host| others.contains(host));
    let hosts = abroad.hosts.iter().filter(|host| wanted.contains(host)).cloned();
    (ours || theirs).then(|| hosts.collect())
}

/// Where a node of a datacenter at the end of a cascade rewinds to: the primary datacenter. `None`:
/// it follows that one, or does not know its nodes.
#[must_use]
pub fn primary_of_cascade(observed: &Observed) -> Option<Vec<(String, u16)>> {
    observed.config.standby_cluster.as_ref().filter(|standby| standby.cascade)?;
    let record = observed.cluster.known()?.record.get()?;
    let hosts = &observed.abroad.get(&record.primary)?.hosts;
    (!hosts.is_empty()).then(|| hosts.clone())
}

/// Every address that a datacenter's nodes have or had.
fn addresses(
    observed: &Observed,
    record: &FederationRecord,
    dc: &DcName,
) -> BTreeSet<(String, u16)> {
    let recorded = record.members.get(dc).into_iter().flat_map(|entry| entry.nodes.values());
    let recorded = recorded.filter_map(|node| split_host_port(&node.postgres, POSTGRES_PORT));
    let seen = observed.abroad.get(dc).into_iter().flat_map(|abroad| abroad.hosts.iter().cloned());
    recorded.chain(seen).collect()
}

/// This node receives the source's WAL, on the timeline of the source's leader, which says itself
/// that it acts in the record's epoch.
fn streams_from(
    observed: &Observed,
    record: &FederationRecord,
    source: &DcName,
    abroad: &Abroad,
) -> bool {
    let (Postgres::Running(running), Some(position)) = (&observed.postgres, &abroad.position)
    else {
        return false;
    };
    let Some(receiver) = running.receiver.as_ref().filter(|r| r.status == "streaming") else {
        return false;
    };
    let from = receiver.host.clone().zip(receiver.port);
    let leads = position.epoch == Some(record.epoch)
        && (position.writable || *source != record.primary)
        && position.timeline == Some(running.timeline)
        && receiver.timeline == position.timeline;
    leads && from.is_some_and(|from| abroad.hosts.contains(&from))
}

/// How far the slot of another datacenter may move on this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SlotRule {
    /// It is no datacenter's slot.
    NotOurs,
    /// Its datacenter is ahead of this one: it needs nothing before what is replayed here.
    Ahead,
    /// Its datacenter streams from here: its consumer moves it on the leader, the leader's
    /// `/status` on the other nodes.
    Here,
    /// Its datacenter streams from elsewhere: as far as its source says. `None`: not known, so
    /// nothing is given up.
    Elsewhere(Option<Lsn>),
}

/// The rule for the slot `name`. A datacenter that streams from somewhere else must find here
/// what it has not received yet, when it is led to here.
#[must_use]
pub fn slot_rule(observed: &Observed, cluster: &Cluster, name: &SlotName) -> SlotRule {
    let Some(record) = cluster.record.get() else { return SlotRule::NotOurs };
    let owner = record.members.iter().find(|(dc, entry)| entry.slot == *name && **dc != record.dc);
    let Some((owner, _)) = owner else { return SlotRule::NotOurs };
    if *owner == record.primary {
        return SlotRule::Ahead;
    }
    let source = record.source_of(owner, |_| true);
    if *source == record.dc {
        return SlotRule::Here;
    }
    // This datacenter lies behind the owner: what the owner has, it sent here.
    if behind(record, &record.dc, owner) {
        return SlotRule::Ahead;
    }
    let told = observed.abroad.get(source).and_then(|abroad| abroad.slots.get(name).copied());
    SlotRule::Elsewhere(told)
}

/// Whether `dc` gets its WAL through `through`.
fn behind(record: &FederationRecord, dc: &DcName, through: &DcName) -> bool {
    let mut at = dc;
    for _ in 0..record.members.len() {
        at = record.source_of(at, |_| true);
        if at == through {
            return true;
        }
    }
    false
}

/// The position itself; `here` is where this node stands.
#[must_use]
pub(crate) fn slot_target(
    observed: &Observed,
    cluster: &Cluster,
    running: &Running,
    name: &SlotName,
    leads: bool,
) -> Option<Option<Lsn>> {
    let here = if running.in_recovery { running.replay_lsn } else { Some(running.lsn) };
    let told = cluster.status.slots.get(name).copied().filter(|_| running.in_recovery);
    match slot_rule(observed, cluster, name) {
        SlotRule::NotOurs => None,
        SlotRule::Ahead => Some(here.filter(|_| running.in_recovery)),
        SlotRule::Here => Some(told.filter(|_| !leads).zip(here).map(|(a, b)| a.min(b))),
        SlotRule::Elsewhere(source) => {
            let told = if leads { source } else { told };
            Some(told.zip(here).map(|(a, b)| a.min(b)))
        }
    }
}

/// Whether the slot `name` of another datacenter may be made anew on this standby: its owner does
/// not stream from here, and has everything that is replayed here.
#[must_use]
pub(crate) fn replaceable(
    observed: &Observed,
    cluster: &Cluster,
    running: &Running,
    name: &SlotName,
    leads: bool,
) -> bool {
    let Some(here) = running.replay_lsn.filter(|_| running.in_recovery) else { return false };
    let told = cluster.status.slots.get(name).copied().filter(|_| !leads);
    let known = match slot_rule(observed, cluster, name) {
        SlotRule::NotOurs => None,
        SlotRule::Ahead => return true,
        SlotRule::Here => told,
        SlotRule::Elsewhere(source) if leads => source,
        SlotRule::Elsewhere(_) => told,
    };
    known.is_some_and(|at| at >= here)
}
