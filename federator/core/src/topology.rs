//! The role of each datacenter, and everything that is wrong, each in one line with what to type.

use crate::grants;
use crate::inventory::{DcView, Fact, Inventory};
use crate::links;
use crate::resume::{Direction, open_operations, title};
use crate::runway;
use node_agent_wire::federation::FederationRecord;
use node_agent_wire::member::state;
use node_agent_wire::{DcName, Epoch, SlotName};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};

/// The part that a datacenter plays now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum DcRole {
    /// The primary datacenter, free to write.
    Primary,
    /// The primary datacenter, fenced.
    FencedPrimary,
    /// A standby datacenter.
    Standby,
    /// It was primary, and is fenced until it rejoins.
    FormerPrimary,
    /// Another datacenter began a later epoch, and this one does not know it yet.
    Outdated,
    /// It was removed from the federation.
    Removed,
    /// It has no record.
    Unjoined,
    /// It does not answer.
    Unknown,
}

impl DcRole {
    /// The word in tables.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Primary => "primary",
            Self::FencedPrimary => "primary (fenced)",
            Self::Standby => "standby",
            Self::FormerPrimary => "former primary",
            Self::Outdated => "outdated",
            Self::Removed => "removed",
            Self::Unjoined => "not joined",
            Self::Unknown => "unknown",
        }
    }
}

/// The role of `dc` in the newest epoch known.
#[must_use]
pub fn role(inventory: &Inventory, dc: &DcName) -> DcRole {
    let Some(view) = inventory.view(dc) else { return DcRole::Unknown };
    if inventory.is_removed(dc) {
        return DcRole::Removed;
    }
    let (Some(record), Some(newest)) = (view.record(), inventory.newest()) else {
        return DcRole::Unjoined;
    };
    if record.epoch < newest.epoch {
        return DcRole::Outdated;
    }
    match (record.names_us(), record.fence.is_some()) {
        (true, false) => DcRole::Primary,
        (true, true) => DcRole::FencedPrimary,
        (false, false) => DcRole::Standby,
        (false, true) => DcRole::FormerPrimary,
    }
}

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Somebody should know.
    Notice,
    /// Degraded.
    Warning,
    /// Somebody is needed now.
    Critical,
}

/// One problem in one line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// How bad it is.
    pub severity: Severity,
    /// What is wrong.
    pub text: String,
    /// What to type or look at next.
    pub next: String,
}

fn problem(severity: Severity, text: String, next: impl Into<String>) -> Problem {
    Problem { severity, text, next: next.into() }
}

/// Everything that is wrong, the worst first.
#[must_use]
pub fn problems(inventory: &Inventory) -> Vec<Problem> {
    let mut list = Vec::new();
    conflicts(inventory, &mut list);
    operations(inventory, &mut list);
    runways(inventory, &mut list);
    for dc in inventory.sites.keys() {
        match inventory.dcs.get(dc) {
            Some(Fact::Known(view)) => of_datacenter(inventory, dc, view, &mut list),
            Some(Fact::Unknown { why, .. }) => unreachable(inventory, dc, why, &mut list),
            None => {}
        }
    }
    grants::problems(inventory, &mut list);
    list.sort_by_key(|p| std::cmp::Reverse(p.severity));
    list
}

fn unreachable(inventory: &Inventory, dc: &DcName, why: &str, list: &mut Vec<Problem>) {
    let primary = inventory.primary() == Some(dc);
    let target = inventory.sites.keys().find(|other| role(inventory, other) == DcRole::Standby);
    let next = match target.filter(|_| primary) {
        Some(target) if inventory.newest().is_some_and(|record| record.needs_grants(dc)) => {
            format!("check its network first; if it is lost: federator promote {target}")
        }
        Some(target) => format!(
            "check its network first; if it is lost: federator promote {target} --attest 'REASON'"
        ),
        None => "check its etcd and the network to it".to_owned(),
    };
    let severity = if primary { Severity::Critical } else { Severity::Warning };
    list.push(problem(severity, format!("{dc} does not answer: {why}"), next));
}

/// One epoch claimed by two datacenters: nothing but an operator can settle that.
fn conflicts(inventory: &Inventory, list: &mut Vec<Problem>) {
    let mut claims: BTreeMap<Epoch, &FederationRecord> = BTreeMap::new();
    for (dc, record) in inventory.records() {
        if record.federation != inventory.federation || record.dc != *dc {
            list.push(problem(
                Severity::Critical,
                format!(
                    "the record in {dc} is of federation {}, datacenter {}",
                    record.federation, record.dc
                ),
                "check scope and namespace of the datacenter in the settings",
            ));
            continue;
        }
        let first = claims.entry(record.epoch).or_insert(record);
        if first.primary != record.primary {
            list.push(problem(
                Severity::Critical,
                format!(
                    "epoch {} is claimed twice: {} names {}, {} names {}",
                    record.epoch, first.dc, first.primary, record.dc, record.primary
                ),
                "both stay read-only; choose one: federator resolve --keep DC",
            ));
        }
    }
    let writers: Vec<&str> = inventory
        .views()
        .filter(|(_, view)| view.nodes.values().any(|n| n.known().is_some_and(|n| n.writable)))
        .map(|(dc, _)| dc.as_str())
        .collect();
    if writers.len() > 1 {
        list.push(problem(
            Severity::Critical,
            format!("nodes of more than one datacenter accept writes: {}", writers.join(", ")),
            "federator fence the one that is not to be primary, at once",
        ));
    }
}

fn operations(inventory: &Inventory, list: &mut Vec<Problem>) {
    for open in open_operations(inventory) {
        let operation = &open.operation;
        let text = format!("{} by {} is open", title(operation), operation.by);
        let (text, next) = match open.direction {
            Direction::Either => (text, "federator resume, or federator abort"),
            Direction::Forward => (format!("{text} and committed"), "federator resume"),
            Direction::Back => (format!("{text} and being aborted"), "federator abort"),
            Direction::Over => (format!("{text} here, closed there"), "federator resume clears it"),
            Direction::Unknown => (
                format!("{text}; {} does not answer", operation.to),
                "federator resume when it answers",
            ),
        };
        list.push(problem(Severity::Warning, text, next));
    }
}

fn of_datacenter(inventory: &Inventory, dc: &DcName, view: &DcView, list: &mut Vec<Problem>) {
    if let Some(why) = &view.record_error {
        let text = format!("the federation record of {dc} can't be read: {why}");
        list.push(problem(Severity::Critical, text, "restore the key `federation` there"));
        return;
    }
    let role = role(inventory, dc);
    match role {
        DcRole::Removed => return removed(dc, view, list),
        DcRole::Unjoined => {
            let text = format!("{dc} has no federation record");
            let next = if inventory.newest().is_some() {
                format!("federator add-dc {dc}, or take it out of the settings")
            } else {
                "federator setup".to_owned()
            };
            return list.push(problem(Severity::Warning, text, next));
        }
        DcRole::Outdated if away(view) => {
            let newest = inventory.newest();
            let epoch = newest.map_or(Epoch::default(), |n| n.epoch);
            let text = format!("{dc} has not taken epoch {epoch} over yet");
            let next = format!("its agents do that by themselves; if not: federator rejoin {dc}");
            list.push(problem(Severity::Notice, text, next));
        }
        DcRole::Outdated | DcRole::FormerPrimary => {
            let newest = inventory.newest();
            let primary = newest.map_or("another datacenter", |n| n.primary.as_str());
            let text = format!("{dc} was left behind: {primary} is primary now");
            list.push(problem(Severity::Warning, text, format!("federator rejoin {dc}")));
        }
        DcRole::FencedPrimary => fenced_primary(dc, view, list),
        DcRole::Primary => primary(inventory, dc, view, list),
        DcRole::Standby => standby(inventory, dc, view, list),
        DcRole::Unknown => {}
    }
    if view.leader.is_none() {
        let why = waits(view);
        let severity = if role == DcRole::Primary { Severity::Critical } else { Severity::Warning };
        list.push(problem(
            severity,
            format!("{dc} has no leader{why}"),
            "look at its agents' logs",
        ));
    }
    members(dc, view, list);
    slots(inventory, dc, view, list);
}

/// How long each datacenter may be away.
fn runways(inventory: &Inventory, list: &mut Vec<Problem>) {
    let Some(newest) = inventory.newest() else { return };
    for dc in inventory.sites.keys() {
        list.extend(runway::problems(inventory, dc, newest.policies.runway_warning_s));
    }
}

/// What the agents say that they wait for: the leader first, the others wait for it.
fn waits(view: &DcView) -> String {
    let live = view.nodes.iter().filter_map(|(n, f)| Some((n, f.known()?.why.clone())));
    let published = view.members.iter().filter_map(|(n, m)| Some((n, m.why.clone()?)));
    let said: Vec<_> = live.chain(published).filter(|(_, why)| !why.is_empty()).collect();
    let leaders = said.iter().find(|(name, _)| view.leader.as_ref() == Some(*name));
    leaders.or(said.first()).map_or(String::new(), |(name, why)| format!("; {name}: {why}"))
}

fn fenced_primary(dc: &DcName, view: &DcView, list: &mut Vec<Problem>) {
    let Some(fence) = view.record().and_then(|r| r.fence.as_ref()) else { return };
    if view.operation().is_some() {
        return; // The open operation says what to do.
    }
    let state = if fence.ack.is_some() { "acknowledged" } else { "not acknowledged yet" };
    let text = format!("{dc} is primary and fenced ({state}): {}", fence.reason);
    let next = format!("federator fence --lift {dc}, or promote another datacenter");
    list.push(problem(Severity::Critical, text, next));
}

fn primary(inventory: &Inventory, dc: &DcName, view: &DcView, list: &mut Vec<Problem>) {
    if view.dynamic().standby_cluster.is_some() {
        list.push(problem(
            Severity::Critical,
            format!("{dc} is the primary datacenter, but its configuration has standby_cluster"),
            format!("take it out by hand: patronictl edit-config (scope {})", scope(inventory, dc)),
        ));
    } else if view.leader.is_some() && !view.leader_writes() {
        let text = format!("{dc} is primary and accepts no writes{}", waits(view));
        list.push(problem(Severity::Critical, text, "look at its leader's log"));
    }
}

fn scope<'i>(inventory: &'i Inventory, dc: &DcName) -> &'i str {
    inventory.sites.get(dc).map_or("", |s| s.scope.as_str())
}

/// A datacenter that was removed and stands in the settings still.
fn removed(dc: &DcName, view: &DcView, list: &mut Vec<Problem>) {
    let knows = view.record().is_some_and(|record| !record.is_member());
    if knows {
        let text = format!("{dc} was removed from the federation");
        let next = format!("take it out of the settings; to take it back: federator add-dc {dc}");
        list.push(problem(Severity::Notice, text, next));
    } else {
        let text = format!("{dc} was removed from the federation and does not know it");
        list.push(problem(Severity::Warning, text, format!("federator remove-dc {dc}")));
    }
}

/// A standby datacenter that was out of reach when the primary one changed.
fn away(view: &DcView) -> bool {
    view.record().is_some_and(|record| !record.names_us() && record.fence.is_none())
}

fn standby(inventory: &Inventory, dc: &DcName, view: &DcView, list: &mut Vec<Problem>) {
    let Some(record) = view.record() else { return };
    if view.dynamic().standby_cluster.is_none() {
        let text = format!(
            "{dc} is read-only: its record names {} as primary and standby_cluster is missing \
             from its configuration",
            record.primary
        );
        return list.push(problem(Severity::Critical, text, format!("federator rejoin {dc}")));
    }
    let streams = view.leader_node().map(|n| n.replication_state == "streaming");
    let source = links::configured(inventory, dc).unwrap_or(&record.primary);
    let planned = links::planned(inventory, dc, &record.primary, &BTreeSet::new());
    if source != planned && inventory.view(source).is_none() {
        let text = format!("{dc} follows {source}, which does not answer");
        let next = format!("federator rejoin {dc} makes it follow {planned}");
        list.push(problem(Severity::Warning, text, next));
    } else if view.leader.is_some() && streams == Some(false) {
        let text = format!("{dc} does not stream from {source}{}", waits(view));
        list.push(problem(Severity::Warning, text, "look at its standby leader's log"));
    } else if view.leader.is_some() && !record.streamed {
        let text = format!("{dc} was not confirmed streaming in epoch {}", record.epoch);
        let next = match record.operation {
            Some(_) => "federator resume".to_owned(),
            None => format!("its agents confirm it when it streams; if not: federator rejoin {dc}"),
        };
        list.push(problem(Severity::Notice, text, next));
    } else if source != planned && record.operation.is_none() {
        let text = format!("{dc} follows {source}, and is to follow {planned}");
        list.push(problem(Severity::Notice, text, format!("federator rejoin {dc}")));
    }
}

fn members(dc: &DcName, view: &DcView, list: &mut Vec<Problem>) {
    for (name, data) in &view.members {
        match view.nodes.get(name) {
            Some(Fact::Unknown { why, .. }) => {
                let text = format!("the agent of {name} ({dc}) does not answer: {why}");
                list.push(problem(Severity::Warning, text, "look at the host and its agent"));
            }
            Some(Fact::Known(node)) if node.state != state::RUNNING => {
                let why =
                    if node.why.is_empty() { String::new() } else { format!(": {}", node.why) };
                let text = format!("{name} ({dc}) is in state {}{why}", node.state);
                list.push(problem(Severity::Notice, text, "wait, or look at its log"));
            }
            Some(Fact::Known(_)) | None => {}
        }
        if data.pause == Some(true) && view.leader.as_ref() == Some(name) {
            let text = format!("{dc} is paused (maintenance mode)");
            list.push(problem(Severity::Notice, text, "patronictl resume when done"));
        }
    }
}

/// The slots that `dc`'s nodes should keep for the other datacenters, and what is wrong with them.
#[must_use]
pub fn slot_faults(inventory: &Inventory, dc: &DcName, view: &DcView) -> Vec<String> {
    let wanted: Vec<&SlotName> = view
        .record()
        .map(|r| r.members.iter().filter(|(other, _)| *other != dc).map(|(_, e)| &e.slot))
        .into_iter()
        .flatten()
        .collect();
    let configured = view.dynamic().slots;
    let mut faults = Vec::new();
    for slot in wanted {
        // A standby keeps the slots of the others from the first switchover's preparation on.
        if role(inventory, dc) != DcRole::Primary && !configured.contains_key(slot) {
            continue;
        }
        for (name, _) in view.promotable() {
            let Some(node) = view.nodes.get(name).and_then(Fact::known) else { continue };
            match node.slots.get(slot.as_str()) {
                None if node.state == state::RUNNING => {
                    faults.push(format!("{slot} missing on {name}"));
                }
                Some(there) if there.wal_status == "lost" => {
                    faults.push(format!("{slot} lost on {name}"));
                }
                None | Some(_) => {}
            }
        }
    }
    faults
}

fn slots(inventory: &Inventory, dc: &DcName, view: &DcView, list: &mut Vec<Problem>) {
    let mut faults = slot_faults(inventory, dc, view);
    faults.truncate(3);
    for fault in faults {
        let lost = fault.contains(" lost ");
        let severity = if lost { Severity::Warning } else { Severity::Notice };
        let next = if lost {
            "the standby may need a new base backup: federator rejoin it"
        } else {
            "wait for its agent to create it; its log says why not"
        };
        list.push(problem(severity, format!("slot {fault} ({dc})"), next));
    }
}

#[cfg(test)]
#[path = "topology_tests.rs"]
mod tests;
