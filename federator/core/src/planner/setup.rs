//! Setup: the standby datacenters join the federation. All findings at once.

use super::rejoin::in_place;
use super::{
    Answer, Outcome, Request, agent_answers, belongs, conclude, leader_runs, no_operation, parent,
    reachable, records_agree, step, unknown_dc,
};
use crate::grants;
use crate::guards::{Checklist, Refusal};
use crate::inventory::{DcView, Fact, Inventory};
use crate::plan::{Plan, Step, StepKind};
use node_agent_wire::federation::{Operation, OperationKind, Policies};
use node_agent_wire::{DcName, SlotName};
use std::collections::{BTreeMap, BTreeSet};

/// Plans the setup with `primary`, or with the one datacenter that has a running primary.
#[must_use]
pub fn plan(inventory: &Inventory, primary: Option<&DcName>, request: &Request) -> Answer {
    plan_for(inventory, primary, None, request)
}

/// Plans that one more datacenter joins, or one that was removed comes back.
#[must_use]
pub fn plan_one(inventory: &Inventory, dc: &DcName, request: &Request) -> Answer {
    let mut list = Checklist::default();
    if !inventory.sites.contains_key(dc) {
        list.refuse("datacenter", unknown_dc(inventory, dc));
        return conclude(list, || None);
    }
    match inventory.newest().cloned() {
        Some(newest) => plan_for(inventory, Some(&newest.primary), Some(dc), request),
        None => {
            list.refuse("records", Refusal::NoFederation);
            conclude(list, || None)
        }
    }
}

/// The datacenters that a setup found open makes standbys.
#[must_use]
pub fn joining(inventory: &Inventory, operation: &Operation, primary: &DcName) -> BTreeSet<DcName> {
    let sites = inventory.sites.keys().filter(|dc| *dc != primary);
    let holds = |dc: &DcName| {
        let held = inventory.view(dc).and_then(DcView::operation);
        held.is_some_and(|held| held.id == operation.id)
    };
    let open = |dc: &DcName| !inventory.is_removed(dc) && !joined(inventory, dc);
    sites.filter(|dc| **dc == operation.to || holds(dc) || open(dc)).cloned().collect()
}

fn plan_for(
    inventory: &Inventory,
    primary: Option<&DcName>,
    only: Option<&DcName>,
    request: &Request,
) -> Answer {
    let mut list = Checklist::default();
    let primary = match choose(inventory, primary) {
        Ok(primary) => primary,
        Err(refusal) => {
            reachability(&mut list, inventory, only);
            list.refuse("primary", refusal);
            return conclude(list, || None);
        }
    };
    let others = inventory.sites.keys().filter(|dc| **dc != primary);
    let (removed, others): (BTreeSet<&DcName>, BTreeSet<&DcName>) = others
        .filter(|dc| only.is_none_or(|only| only == *dc))
        .partition(|dc| only.is_none() && inventory.is_removed(dc));
    for dc in removed {
        list.warn(format!("{dc}"), format!("was removed; to take it back: federator add-dc {dc}"));
    }
    let standbys: BTreeSet<DcName> = others.into_iter().cloned().collect();
    if standbys.is_empty() {
        list.refuse("datacenters", Refusal::Alone(primary.clone()));
    }
    reachability(&mut list, inventory, only);
    list.check("operation", no_operation(inventory));
    records(&mut list, inventory, &primary);
    list.check(&format!("{primary} leader"), leader_runs(inventory, &primary));
    list.check(&format!("{primary} agent"), agent_answers(inventory, &primary));
    names(&mut list, inventory);
    if let Some(source) = inventory.view(&primary) {
        if source.dynamic().pause {
            list.refuse(format!("{primary} pause"), Refusal::Paused { dc: primary.clone() });
        }
        rewindable(&mut list, &primary, source);
        for dc in &standbys {
            if let Some(standby) = inventory.view(dc) {
                on_its_own(&mut list, dc, standby);
                compatible(&mut list, (&primary, source), (dc, standby));
            }
        }
    }
    // New policies are written like a setup, while the primary answers: its checks are the same.
    // Grants that are there stay: a datacenter may need them until isolation is changed.
    let stale = inventory.records().any(|(_, record)| {
        let there = &record.policies.grants;
        let grants = request.policies.grants.clone().or_else(|| there.clone());
        record.policies != Policies { grants, ..request.policies.clone() }
    });
    if stale {
        list.warn("policies", "the records hold others than the settings: they are written anew");
    }
    let leased = request.policies.grants.is_some() || grants::in_records(inventory);
    if leased {
        list.ok("site grants", grants::intent(inventory));
    }
    let stale = stale || !grants::settled(inventory);
    let done = |dc: &DcName| joined(inventory, dc) && in_place(inventory, dc, &primary);
    let open: BTreeSet<DcName> = standbys.into_iter().filter(|dc| stale || !done(dc)).collect();
    if open.is_empty() && list.refusals().is_empty() {
        let why = "every datacenter streams already".to_owned();
        return Answer { checklist: list, outcome: Outcome::NothingToDo(why) };
    }
    let epoch = inventory.newest().map_or(node_agent_wire::Epoch(1), |r| r.epoch);
    conclude(list, || {
        let plain = steps(&primary, &open);
        let steps = if leased { with_grants(plain, &primary) } else { plain };
        Some(Plan {
            id: request.id.clone(),
            kind: OperationKind::Setup,
            from: None,
            to: open.first()?.clone(),
            primary: primary.clone(),
            next_epoch: epoch,
            parent: parent(inventory),
            by: request.by.clone(),
            made_at_us: request.now_us,
            evidence: Vec::new(),
            approvals: Vec::new(),
            expected_loss: None,
            waived_vaults: std::collections::BTreeSet::new(),
            quote: None,
            steps,
            followers: open,
        })
    })
}

/// A cluster that writes and is no member would lose what it wrote.
fn on_its_own(list: &mut Checklist, dc: &DcName, view: &DcView) {
    let outside = view.record().is_none_or(|record| !record.is_member());
    if outside && view.leader_writes() && view.dynamic().standby_cluster.is_none() {
        list.refuse(format!("{dc} data"), Refusal::WritesOnItsOwn { dc: dc.clone() });
    }
}

fn joined(inventory: &Inventory, dc: &DcName) -> bool {
    inventory.view(dc).is_some_and(|view| {
        let streamed = view.record().is_some_and(|r| r.streamed && r.members.contains_key(dc));
        streamed && view.dynamic().standby_cluster.is_some()
    })
}

fn choose(inventory: &Inventory, asked: Option<&DcName>) -> Result<DcName, Refusal> {
    if let Some(dc) = asked {
        let known = inventory.sites.contains_key(dc);
        return if known { Ok(dc.clone()) } else { Err(unknown_dc(inventory, dc)) };
    }
    if let Some(primary) = inventory.primary() {
        return Ok(primary.clone());
    }
    let writers: Vec<&DcName> = inventory
        .views()
        .filter(|(_, view)| view.leader_writes() && view.dynamic().standby_cluster.is_none())
        .map(|(dc, _)| dc)
        .collect();
    match writers.as_slice() {
        [one] => Ok((*one).clone()),
        none_or_many => {
            let names: Vec<&str> = none_or_many.iter().map(|dc| dc.as_str()).collect();
            let found = if names.is_empty() { "none".into() } else { names.join(", ") };
            Err(Refusal::PrimaryUnclear { found })
        }
    }
}

/// Every datacenter answers: each has to know of each other one. For one that joins, those that
/// are no members do not matter.
fn reachability(list: &mut Checklist, inventory: &Inventory, only: Option<&DcName>) {
    for dc in inventory.newest().into_iter().flat_map(|newest| newest.members.keys()) {
        if !inventory.sites.contains_key(dc) {
            list.refuse("settings", Refusal::NotInSettings { dc: dc.clone() });
        }
    }
    let needed = |dc: &&DcName| only.is_none_or(|only| *dc == only || inventory.is_member(dc));
    for dc in inventory.sites.keys().filter(needed) {
        list.check(&format!("{dc} etcd"), reachable(inventory, dc).map(|_| "answers".into()));
    }
}

fn records(list: &mut Checklist, inventory: &Inventory, primary: &DcName) {
    for (dc, view) in inventory.views() {
        if let Some(why) = &view.record_error {
            let (dc, why) = (dc.clone(), why.clone());
            list.refuse("record", Refusal::BadRecord { dc, why });
        } else if let Some(record) = view.record() {
            list.check(
                &format!("{dc} record"),
                belongs(inventory, dc, record)
                    .map(|()| format!("of this federation, epoch {}", record.epoch)),
            );
        }
    }
    let Some(newest) = inventory.newest() else {
        return list.ok("records", "none yet");
    };
    if newest.primary == *primary {
        list.check("records agree", records_agree(inventory));
    } else {
        let detail = format!(
            "{} is primary at epoch {}; move the role by a switchover",
            newest.primary, newest.epoch
        );
        list.refuse("records", Refusal::Disagreement { detail, behind: None });
    }
}

/// Member names and slot names are unique across the datacenters: PostgreSQL would count a remote
/// standby of the same `application_name` as the local synchronous one.
fn names(list: &mut Checklist, inventory: &Inventory) {
    let mut members: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    let mut slots: BTreeMap<SlotName, Vec<String>> = BTreeMap::new();
    for (dc, site) in &inventory.sites {
        slots.entry(site.slot.clone()).or_default().push(format!("datacenter {dc}"));
        for name in inventory.view(dc).into_iter().flat_map(|view| view.members.keys()) {
            members.entry(name.as_str()).or_default().push(dc.as_str());
            let slot = SlotName::from_name(name.as_str());
            slots.entry(slot).or_default().push(format!("member {name} of {dc}"));
        }
    }
    let mut clean = true;
    for (name, places) in members.iter().filter(|(_, places)| places.len() > 1) {
        clean = false;
        list.refuse(
            "member names",
            Refusal::Collision {
                what: "member name".into(),
                name: (*name).to_owned(),
                places: places.join(", "),
            },
        );
    }
    for (slot, places) in slots.iter().filter(|(_, places)| places.len() > 1) {
        clean = false;
        list.refuse(
            "slot names",
            Refusal::Collision {
                what: "slot name".into(),
                name: slot.to_string(),
                places: places.join(", "),
            },
        );
    }
    if clean {
        list.ok("names", "member and slot names are unique");
    }
}

fn rewindable(list: &mut Checklist, primary: &DcName, source: &DcView) {
    match &source.sql {
        Some(Fact::Known(sql)) => {
            if sql.data_checksums || sql.wal_log_hints {
                list.ok("rewind", "data checksums or wal_log_hints are on");
            } else {
                list.warn(
                    "rewind",
                    format!(
                        "neither data checksums nor wal_log_hints are on in {primary}: a former \
                         primary will need a new base backup"
                    ),
                );
            }
            match &sql.replication_login_error {
                None => list.ok("replication login", format!("works on {primary}")),
                Some(why) => {
                    list.warn("replication login", format!("could not be tried from here: {why}"));
                }
            }
        }
        Some(Fact::Unknown { why, .. }) => {
            let (dc, why) = (primary.clone(), why.clone());
            list.refuse("SQL", Refusal::SqlFailed { dc, why });
        }
        None => {
            let (dc, why) = (primary.clone(), "not asked".to_owned());
            list.refuse("SQL", Refusal::SqlFailed { dc, why });
        }
    }
}

fn compatible(
    list: &mut Checklist,
    (primary, source): (&DcName, &DcView),
    (dc, standby): (&DcName, &DcView),
) {
    match (&source.initialize, &standby.initialize) {
        (Some(a), Some(b)) if !b.as_str().is_empty() && a != b => {
            list.refuse(
                format!("{dc} data"),
                Refusal::OtherSystem {
                    a: primary.clone(),
                    a_id: a.clone(),
                    b: dc.clone(),
                    b_id: b.clone(),
                },
            );
        }
        (_, Some(id)) if !id.as_str().is_empty() => {
            list.ok(format!("{dc} data"), "the same database system");
        }
        (_, Some(_) | None) => list.ok(format!("{dc} data"), "empty: it will be cloned"),
    }
    let version = |view: &DcView| {
        view.nodes.values().filter_map(Fact::known).map(|n| n.server_version / 10_000).max()
    };
    match (version(source).filter(|v| *v > 0), version(standby).filter(|v| *v > 0)) {
        (Some(a), Some(b)) if a != b => list.refuse(
            format!("{dc} version"),
            Refusal::Incompatible {
                what: "the major version".into(),
                dc: dc.clone(),
                found: b.to_string(),
                primary: primary.clone(),
                expected: a.to_string(),
            },
        ),
        (Some(a), Some(_)) => list.ok(format!("{dc} version"), format!("{a} in both")),
        (_, None) | (None, _) => {
            list.warn(format!("{dc} version"), "not known before its PostgreSQL runs");
        }
    }
    let (Some(a), Some(b)) = (source.sql(), standby.sql()) else { return };
    if !b.collation_version.is_empty() && a.collation_version != b.collation_version {
        list.warn(
            format!("{dc} collation"),
            format!(
                "version {} of the operating system's collation, {primary} has {}: after a change \
                 of primary indexes on text may be wrong until they are rebuilt",
                b.collation_version, a.collation_version
            ),
        );
    }
    for (setting, needed) in &a.capacity {
        if let Some(found) = b.capacity.get(setting).filter(|found| *found < needed) {
            list.refuse(
                format!("{dc} {setting}"),
                Refusal::Incompatible {
                    what: setting.clone(),
                    dc: dc.clone(),
                    found: found.to_string(),
                    primary: primary.clone(),
                    expected: needed.to_string(),
                },
            );
        }
    }
}

/// The steps of a setup.
#[must_use]
pub fn steps(primary: &DcName, standbys: &BTreeSet<DcName>) -> Vec<Step> {
    let names: Vec<&str> = standbys.iter().map(DcName::as_str).collect();
    let names = names.join(", ");
    vec![
        step(
            StepKind::Record,
            [
                "every etcd answers",
                &format!("creates the federation record in {primary} and {names}"),
                "",
                &format!("every record names {primary} as primary"),
            ],
            false,
        ),
        step(
            StepKind::Take,
            [
                "no other operation in the records",
                "writes the operation into the records",
                "the operation is removed",
                "the records hold the operation",
            ],
            false,
        ),
        step(
            StepKind::Slots,
            [
                &format!("the leader of {primary} runs"),
                &format!("a slot for each of {names} on every node of {primary}"),
                "",
                "every node reports the slots",
            ],
            false,
        ),
        step(
            StepKind::Standby,
            [
                &format!("the slots are on {primary}"),
                &format!("configures {names} as standby cluster of the one that it follows"),
                "",
                "their agents clone and stream",
            ],
            false,
        ),
        step(
            StepKind::Stream,
            [
                &format!("{names} configured"),
                "waits until they stream and all their nodes run",
                "",
                &format!("{names} streams"),
            ],
            false,
        ),
        step(
            StepKind::Close,
            [
                "they stream",
                "removes the operation from the records, adds it to the history",
                "",
                "no operation in progress",
            ],
            false,
        ),
    ]
}

/// The steps of a setup with site grants.
#[must_use]
pub fn with_grants(mut steps: Vec<Step>, primary: &DcName) -> Vec<Step> {
    let words = [
        &format!("the leader of {primary} takes the site grants"),
        "makes isolation in the records what the settings say",
        "",
        &format!("{primary} writes under a majority of the grants, where that is asked for"),
    ];
    let at = steps.iter().position(|s| s.kind == StepKind::Close).unwrap_or(steps.len());
    steps.insert(at, step(StepKind::Isolate, words, false));
    steps
}
