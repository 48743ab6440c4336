//! Removal: a standby datacenter leaves the federation for good, and stays read-only.

use super::{
    Answer, Outcome, Request, conclude, leader_runs, no_operation, parent, reachable, record_of,
    step, unknown_dc,
};
use crate::guards::{Checklist, Refusal};
use crate::inventory::Inventory;
use crate::links;
use crate::plan::{Plan, Step, StepKind};
use node_agent_wire::DcName;
use node_agent_wire::federation::{FederationRecord, OperationKind};
use std::collections::BTreeSet;

/// Plans the removal of `dc`.
#[must_use]
pub fn plan(inventory: &Inventory, dc: &DcName, request: &Request) -> Answer {
    let mut list = Checklist::default();
    if !inventory.sites.contains_key(dc) {
        list.refuse("datacenter", unknown_dc(inventory, dc));
        return conclude(list, || None);
    }
    let Some(newest) = inventory.newest() else {
        list.refuse("records", Refusal::NoRecord { dc: dc.clone() });
        return conclude(list, || None);
    };
    if newest.primary == *dc {
        list.refuse("datacenter", Refusal::RemovesPrimary { dc: dc.clone() });
        return conclude(list, || None);
    }
    list.check("operation", no_operation(inventory));
    if list.refusals().is_empty() && gone(inventory, newest, dc) {
        let why = format!("{dc} is not a member of the federation");
        return Answer { checklist: list, outcome: Outcome::NothingToDo(why) };
    }
    let primary = newest.primary.clone();
    let others: BTreeSet<DcName> =
        newest.members.keys().filter(|other| *other != dc && **other != primary).cloned().collect();
    for other in others.iter().chain([&primary]) {
        list.check(&format!("{other} record"), at_epoch(inventory, other, newest));
    }
    list.check(&format!("{primary} leader"), leader_runs(inventory, &primary));
    for other in &others {
        let wishes = inventory.sites.get(other).is_some_and(|s| s.follows.as_ref() == Some(dc));
        if wishes || links::configured(inventory, other) == Some(dc) {
            let (dc, by) = (dc.clone(), other.clone());
            list.refuse(format!("{other} source"), Refusal::Followed { dc, by });
        }
    }
    match reachable(inventory, dc) {
        Ok(_) => list.ok(format!("{dc} etcd"), "answers: it is fenced first"),
        Err(refusal) if request.force => {
            let note = format!("{refusal}; it is not told (--force)");
            list.warn(format!("{dc} etcd"), note);
        }
        Err(refusal) => {
            let (dc, why) = (dc.clone(), refusal.to_string());
            list.refuse(format!("{dc} etcd"), Refusal::Untold { dc, why });
        }
    }
    let epoch = newest.epoch;
    conclude(list, || {
        Some(Plan {
            id: request.id.clone(),
            kind: OperationKind::Remove,
            from: Some(dc.clone()),
            to: primary.clone(),
            primary: primary.clone(),
            followers: others,
            next_epoch: epoch,
            parent: parent(inventory),
            by: request.by.clone(),
            made_at_us: request.now_us,
            evidence: Vec::new(),
            approvals: Vec::new(),
            waived_vaults: std::collections::BTreeSet::new(),
            quote: None,
            expected_loss: None,
            steps: steps(dc),
        })
    })
}

/// Nobody counts it as a member any more, itself included.
fn gone(inventory: &Inventory, newest: &FederationRecord, dc: &DcName) -> bool {
    let told = inventory.view(dc).is_some_and(|view| {
        view.record().is_none_or(|record| !record.is_member() && record.fence.is_some())
    });
    told && !newest.members.contains_key(dc)
}

fn at_epoch(
    inventory: &Inventory,
    dc: &DcName,
    newest: &FederationRecord,
) -> Result<String, Refusal> {
    let record = record_of(inventory, dc)?;
    if record.epoch == newest.epoch {
        return Ok(format!("epoch {}", record.epoch));
    }
    let detail = format!("{dc} is at epoch {}, {} at {}", record.epoch, newest.dc, newest.epoch);
    Err(Refusal::Disagreement { detail, behind: Some(dc.clone()) })
}

/// The steps of a removal.
#[must_use]
pub fn steps(dc: &DcName) -> Vec<Step> {
    vec![
        step(
            StepKind::Take,
            [
                "no other operation in the records",
                "writes the operation into the records of the others",
                "the operation is removed",
                "the records hold the operation",
            ],
            false,
        ),
        step(
            StepKind::Detach,
            [
                "the records hold the operation",
                &format!("fences {dc}, which stops following and stays read-only"),
                "",
                &format!("the record of {dc} says that it was removed"),
            ],
            false,
        ),
        step(
            StepKind::Forget,
            [
                &format!("{dc} is fenced, or does not answer"),
                &format!("takes {dc} out of every record, and its slot out of every configuration"),
                "",
                &format!("no record names {dc} as a member"),
            ],
            false,
        ),
        step(
            StepKind::DropSlots,
            [
                &format!("no configuration names the slot of {dc}"),
                "waits until every agent has dropped it",
                "",
                &format!("no node keeps WAL for {dc}"),
            ],
            false,
        ),
        step(
            StepKind::Close,
            [
                "the slots are gone",
                "removes the operation from the records, adds it to the history",
                "",
                "no operation in progress",
            ],
            false,
        ),
    ]
}
