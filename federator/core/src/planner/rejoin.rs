//! Rejoin: a former primary datacenter, returned or fenced, becomes a standby of the present one.

use super::{
    Answer, Outcome, Request, agent_answers, conclude, leader_runs, parent, reachable, record_of,
    step, unknown_dc,
};
use crate::guards::{Checklist, Refusal};
use crate::inventory::{DcView, Inventory};
use crate::links;
use crate::plan::{Plan, Step, StepKind};
use crate::quote;
use crate::resume::{Direction, open_operations};
use node_agent_wire::DcName;
use node_agent_wire::federation::{FederationRecord, OperationKind};
use std::collections::BTreeSet;

/// Plans the rejoin of `dc`.
#[must_use]
pub fn plan(inventory: &Inventory, dc: &DcName, request: &Request) -> Answer {
    let mut list = Checklist::default();
    if !inventory.sites.contains_key(dc) {
        list.refuse("datacenter", unknown_dc(inventory, dc));
        return conclude(list, || None);
    }
    let record = record_of(inventory, dc);
    list.check(&format!("{dc} record"), record.clone().map(|r| format!("epoch {}", r.epoch)));
    let Some(newest) = inventory.newest() else {
        return conclude(list, || None);
    };
    let primary = newest.primary.clone();
    if primary == *dc {
        let (dc, epoch) = (dc.clone(), newest.epoch);
        list.refuse("datacenter", Refusal::AlreadyPrimary { dc, epoch });
        return conclude(list, || None);
    }
    // What the target has closed already is cleared on the way.
    match open_operations(inventory).iter().find(|o| o.direction != Direction::Over) {
        None => list.ok("operation", "none in progress"),
        Some(open) => list.refuse(
            "operation",
            Refusal::OperationOpen {
                operation: open.operation.id.clone(),
                kind: open.operation.kind,
                by: open.operation.by.clone(),
            },
        ),
    }
    let own = record_of(inventory, &primary).map(|r| format!("primary at epoch {}", r.epoch));
    list.check(&format!("{primary} record"), own);
    list.check(&format!("{primary} leader"), leader_runs(inventory, &primary));
    list.check(&format!("{primary} agent"), agent_answers(inventory, &primary));
    list.check("database system", same_system(inventory, dc, &primary));
    if let (Ok(record), Ok(view), true) =
        (&record, reachable(inventory, dc), list.refusals().is_empty())
        && let Some(why) = joined(record, newest, view)
        && in_place(inventory, dc, &primary)
    {
        return Answer { checklist: list, outcome: Outcome::NothingToDo(why) };
    }
    let epoch = newest.epoch;
    conclude(list, || {
        Some(Plan {
            id: request.id.clone(),
            kind: OperationKind::Rejoin,
            from: None,
            to: dc.clone(),
            primary: primary.clone(),
            followers: BTreeSet::new(),
            next_epoch: epoch,
            parent: parent(inventory),
            by: request.by.clone(),
            made_at_us: request.now_us,
            evidence: Vec::new(),
            approvals: Vec::new(),
            expected_loss: None,
            waived_vaults: BTreeSet::new(),
            quote: quote::of(inventory, dc, &primary),
            steps: steps(dc, &primary),
        })
    })
}

fn same_system(inventory: &Inventory, dc: &DcName, primary: &DcName) -> Result<String, Refusal> {
    let id = |dc| inventory.view(dc).and_then(|v| v.initialize.clone());
    match (id(primary), id(dc)) {
        (Some(a), Some(b)) if a != b => {
            Err(Refusal::OtherSystem { a: primary.clone(), a_id: a, b: dc.clone(), b_id: b })
        }
        (Some(a), Some(_)) => Ok(format!("{a} in both")),
        (Some(_), None) => Ok(format!("{dc} is empty")),
        (None, _) => Err(Refusal::NoLeader { dc: primary.clone() }),
    }
}

/// Its configuration names the datacenter that it is to follow, or an address that an operator
/// chose.
pub(super) fn in_place(inventory: &Inventory, dc: &DcName, primary: &DcName) -> bool {
    let planned = links::planned(inventory, dc, primary, &BTreeSet::new());
    links::configured(inventory, dc).is_none_or(|source| source == planned)
}

/// Why nothing has to be done, when the datacenter is a standby already.
fn joined(record: &FederationRecord, newest: &FederationRecord, view: &DcView) -> Option<String> {
    let settled = record.epoch == newest.epoch
        && record.fence.is_none()
        && record.operation.is_none()
        && record.streamed
        && view.dynamic().standby_cluster.is_some();
    let streams = view.leader_node().is_some_and(|n| n.replication_state == "streaming");
    (settled && streams).then(|| {
        format!("{} already streams from {} at epoch {}", record.dc, newest.primary, newest.epoch)
    })
}

/// The steps of a rejoin.
#[must_use]
pub fn steps(dc: &DcName, primary: &DcName) -> Vec<Step> {
    vec![
        step(
            StepKind::Supersede,
            [
                &format!("{primary} is primary at a later epoch, or at the same one"),
                &format!("brings the record of {dc} to the present epoch, fenced"),
                "",
                &format!("no agent of {dc} has the right to write"),
            ],
            false,
        ),
        step(
            StepKind::Take,
            [
                "no other operation in the records",
                &format!("writes the operation into the records of {dc} and {primary}"),
                "the operation is removed",
                "both records hold the operation",
            ],
            false,
        ),
        step(
            StepKind::Slots,
            [
                &format!("the leader of {primary} runs"),
                &format!("slot for {dc} on every node of {primary}"),
                "",
                "every node reports the slot",
            ],
            false,
        ),
        step(
            StepKind::Demoted,
            [
                &format!("the record of {dc} names {primary}"),
                &format!("waits until no node of {dc} accepts writes"),
                "",
                "all nodes are read-only",
            ],
            false,
        ),
        step(
            StepKind::Standby,
            [
                &format!("no node of {dc} accepts writes"),
                &format!("configures {dc} as standby cluster of {primary}, lifts its fence"),
                "",
                "the agents rewind, or take a new base backup",
            ],
            false,
        ),
        step(
            StepKind::Stream,
            [
                &format!("{dc} is configured as standby cluster"),
                &format!("waits until every node of {dc} streams"),
                "",
                &format!("{dc} streams from {primary}"),
            ],
            false,
        ),
        step(
            StepKind::Close,
            [
                "it streams",
                "removes the operation from the records, adds it to the history",
                "",
                "no operation in progress",
            ],
            false,
        ),
    ]
}
