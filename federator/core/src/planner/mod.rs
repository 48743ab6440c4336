//! Planners: pure functions from an inventory and an intent to a plan, or to refusals.

pub mod fence;
pub mod promotion;
pub mod rejoin;
pub mod removal;
pub mod resolve;
pub mod setup;
pub mod switchover;

use crate::grants;
use crate::guards::{Checklist, Refusal};
use crate::inventory::{DcView, Fact, Inventory};
use crate::plan::{Parent, Plan, Step, StepKind};
use crate::resume::open_operations;
use node_agent_wire::federation::{FederationRecord, Operation, OperationKind, Policies};
use node_agent_wire::{DcName, OperationId};
use std::collections::BTreeSet;

/// Who asks, when, and under which id: inputs, because a planner has no clock and no chance.
#[derive(Clone, Debug)]
pub struct Request {
    /// The id of the operation to be.
    pub id: OperationId,
    /// The operator.
    pub by: String,
    /// Microseconds since the Unix epoch.
    pub now_us: i64,
    /// The operator insists where that is allowed.
    pub force: bool,
    /// What the federation agreed on, by the settings.
    pub policies: Policies,
}

/// What a planner answers, always with its checklist.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// What was looked at.
    pub checklist: Checklist,
    /// The outcome.
    pub outcome: Outcome,
}

/// The outcome of planning.
#[derive(Clone, Debug, PartialEq)]
#[allow(clippy::large_enum_variant, reason = "one exists for each command")]
pub enum Outcome {
    /// Do this.
    Plan(Plan),
    /// Nothing has to be done, and why.
    NothingToDo(String),
    /// Not now.
    Refused(Vec<Refusal>),
}

/// Ends planning: the plan when nothing stands in the way.
pub(crate) fn conclude(checklist: Checklist, plan: impl FnOnce() -> Option<Plan>) -> Answer {
    let refusals = checklist.refusals();
    if !refusals.is_empty() {
        return Answer { checklist, outcome: Outcome::Refused(refusals) };
    }
    let outcome = match plan() {
        Some(plan) => Outcome::Plan(plan),
        // Reached only when a fact that a check has just confirmed is missing.
        None => Outcome::Refused(vec![Refusal::Change {
            reason: "the inventory is not complete enough to plan from".into(),
        }]),
    };
    Answer { checklist, outcome }
}

/// A datacenter of the settings that answers.
pub(crate) fn reachable<'i>(inventory: &'i Inventory, dc: &DcName) -> Result<&'i DcView, Refusal> {
    match inventory.dcs.get(dc) {
        Some(Fact::Known(view)) => Ok(view),
        Some(Fact::Unknown { why, .. }) => {
            Err(Refusal::Unreachable { dc: dc.clone(), why: why.clone() })
        }
        None => Err(unknown_dc(inventory, dc)),
    }
}

/// Not a datacenter of the settings.
#[must_use]
pub fn unknown_dc(inventory: &Inventory, dc: &DcName) -> Refusal {
    let known: Vec<&str> = inventory.sites.keys().map(DcName::as_str).collect();
    Refusal::UnknownDc { dc: dc.clone(), known: known.join(", ") }
}

/// A usable record of this federation.
pub(crate) fn record_of<'i>(
    inventory: &'i Inventory,
    dc: &DcName,
) -> Result<&'i FederationRecord, Refusal> {
    let view = reachable(inventory, dc)?;
    if let Some(why) = &view.record_error {
        return Err(Refusal::BadRecord { dc: dc.clone(), why: why.clone() });
    }
    let record = view.record().ok_or_else(|| Refusal::NoRecord { dc: dc.clone() })?;
    belongs(inventory, dc, record)?;
    Ok(record)
}

pub(crate) fn belongs(
    inventory: &Inventory,
    dc: &DcName,
    record: &FederationRecord,
) -> Result<(), Refusal> {
    let bad = |why: String| Err(Refusal::BadRecord { dc: dc.clone(), why });
    if record.federation != inventory.federation {
        return bad(format!("it belongs to the federation {}", record.federation));
    }
    if record.dc != *dc {
        return bad(format!("it is the record of {}", record.dc));
    }
    Ok(())
}

/// No operation is open in any record that can be read.
pub(crate) fn no_operation(inventory: &Inventory) -> Result<String, Refusal> {
    match open_operations(inventory).first() {
        None => Ok("none in progress".into()),
        Some(open) => Err(Refusal::OperationOpen {
            operation: open.operation.id.clone(),
            kind: open.operation.kind,
            by: open.operation.by.clone(),
        }),
    }
}

/// Every record that can be read names the same primary at the same epoch.
pub(crate) fn records_agree(inventory: &Inventory) -> Result<String, Refusal> {
    let Some(newest) = inventory.newest() else {
        return Err(Refusal::Disagreement { detail: "there is none".into(), behind: None });
    };
    for (dc, record) in inventory.records().filter(|(dc, _)| newest.members.contains_key(*dc)) {
        belongs(inventory, dc, record)?;
        if (record.epoch, &record.primary) != (newest.epoch, &newest.primary) {
            let detail = format!(
                "{dc} knows {} at epoch {}, {} knows {} at epoch {}",
                record.primary, record.epoch, newest.dc, newest.primary, newest.epoch
            );
            let behind = (record.epoch < newest.epoch).then(|| dc.clone());
            return Err(Refusal::Disagreement { detail, behind });
        }
    }
    Ok(format!("{} is primary at epoch {}", newest.primary, newest.epoch))
}

/// The leader holds its key, and its PostgreSQL runs.
pub(crate) fn leader_runs(inventory: &Inventory, dc: &DcName) -> Result<String, Refusal> {
    let view = reachable(inventory, dc)?;
    match &view.leader {
        Some(leader) if view.leader_runs() => Ok(format!("{leader} leads {dc}")),
        Some(_) | None => Err(Refusal::NoLeader { dc: dc.clone() }),
    }
}

/// The leader's agent answers: an operation can't do without it.
pub(crate) fn agent_answers(inventory: &Inventory, dc: &DcName) -> Result<String, Refusal> {
    let view = reachable(inventory, dc)?;
    let leader = view.leader.as_ref().ok_or_else(|| Refusal::NoLeader { dc: dc.clone() })?;
    match view.nodes.get(leader) {
        Some(Fact::Known(_)) => Ok(format!("the agent of {leader} answers")),
        Some(Fact::Unknown { why, .. }) => {
            Err(Refusal::AgentSilent { dc: dc.clone(), why: why.clone() })
        }
        None => Err(Refusal::AgentSilent {
            dc: dc.clone(),
            why: format!("{leader} publishes no gRPC address"),
        }),
    }
}

/// The standby datacenters beside `but`, as far as they answer and have a record.
pub(crate) fn followers(inventory: &Inventory, but: &[&DcName]) -> BTreeSet<DcName> {
    let members = inventory.records().map(|(dc, _)| dc).filter(|dc| inventory.is_member(dc));
    members.filter(|dc| !but.contains(dc)).cloned().collect()
}

/// Says which other datacenters are not there to follow the change.
pub(crate) fn warn_of_silent(list: &mut Checklist, inventory: &Inventory, but: &[&DcName]) {
    for dc in inventory.sites.keys().filter(|dc| !but.contains(dc)) {
        if inventory.view(dc).is_none() && inventory.is_member(dc) {
            let note = "does not answer: its agents follow the change when it is back";
            list.warn(format!("{dc}"), note);
        }
    }
}

pub(crate) fn parent(inventory: &Inventory) -> Parent {
    Parent {
        revisions: inventory.revisions(),
        epoch: inventory.newest().map(|r| r.epoch).unwrap_or_default(),
    }
}

/// The plan of an operation that is in the records already, for its resumption: the same steps,
/// each of which recognises what is done.
#[must_use]
pub fn rebuild(operation: &Operation, inventory: &Inventory) -> Plan {
    let primary = inventory.primary().cloned().unwrap_or_else(|| operation.to.clone());
    let mut but = vec![&operation.to];
    but.extend(operation.from.as_ref());
    let followers = match operation.kind {
        OperationKind::Setup => setup::joining(inventory, operation, &primary),
        OperationKind::Switchover | OperationKind::Promotion => followers(inventory, &but),
        OperationKind::Remove => inventory
            .newest()
            .into_iter()
            .flat_map(|newest| newest.members.keys())
            .filter(|dc| !but.contains(dc))
            .cloned()
            .collect(),
        OperationKind::Rejoin | OperationKind::Fence => BTreeSet::new(),
    };
    let former = operation.from.clone().unwrap_or_else(|| primary.clone());
    let former_answers = inventory.view(&former).is_some_and(|view| view.record().is_some());
    let steps = match operation.kind {
        OperationKind::Setup if grants::in_records(inventory) => {
            setup::with_grants(setup::steps(&primary, &followers), &primary)
        }
        OperationKind::Setup => setup::steps(&primary, &followers),
        OperationKind::Switchover => {
            switchover::steps(&former, &operation.to, operation.pre_sync.is_some())
        }
        OperationKind::Promotion => {
            let record = inventory.view(&operation.to).and_then(|view| view.record());
            let policies = record.map(|record| record.policies.clone()).unwrap_or_default();
            let extent = promotion::Extent::of(operation, &policies, former_answers);
            promotion::steps(&former, &operation.to, extent)
        }
        OperationKind::Rejoin | OperationKind::Fence => rejoin::steps(&operation.to, &primary),
        OperationKind::Remove => removal::steps(&former),
    };
    Plan {
        id: operation.id.clone(),
        kind: operation.kind,
        from: operation.from.clone(),
        to: operation.to.clone(),
        primary: match operation.kind {
            OperationKind::Switchover | OperationKind::Promotion => former,
            OperationKind::Setup
            | OperationKind::Rejoin
            | OperationKind::Fence
            | OperationKind::Remove => primary,
        },
        followers,
        next_epoch: operation.next_epoch,
        parent: parent(inventory),
        by: operation.by.clone(),
        made_at_us: operation.started_at_us,
        evidence: operation.all_evidence().cloned().collect(),
        approvals: operation.approvals.clone(),
        expected_loss: operation.expected_loss.clone(),
        waived_vaults: operation.waived_vaults.clone(),
        quote: None,
        steps,
    }
}

/// One step, in the order: precondition, effect, undo, what is seen afterwards.
pub(crate) fn step(kind: StepKind, words: [&str; 4], past_commit: bool) -> Step {
    let [precondition, effect, undo, after] = words.map(ToOwned::to_owned);
    Step {
        kind,
        precondition,
        effect,
        undo: (!undo.is_empty()).then_some(undo),
        after,
        past_commit,
    }
}

#[cfg(test)]
#[path = "planner_tests.rs"]
mod tests;

#[cfg(test)]
#[path = "membership_tests.rs"]
mod membership_tests;
