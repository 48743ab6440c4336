//! Guarded promotion: the primary datacenter is lost, another one takes over on evidence.

mod proof;
mod rivals;
mod steps;

pub use rivals::{Rival, rivals};
pub use steps::{Extent, steps};

use super::{
    Answer, Request, agent_answers, conclude, followers, leader_runs, no_operation, parent,
    reachable, record_of, unknown_dc, warn_of_silent,
};
use crate::consumers;
use crate::evidence::FencingEvidence;
use crate::guards::{Checklist, Refusal};
use crate::inventory::{DcView, Inventory};
use crate::loss::{self, MaxLoss};
use crate::plan::Plan;
use node_agent_wire::federation::{Evidence, FederationRecord, LossEstimate, OperationKind};
use node_agent_wire::position::Position;
use node_agent_wire::{DcName, Lsn};

/// What the operator said beside the target.
#[derive(Clone, Debug, Default)]
pub struct Intent {
    /// `--attest REASON`.
    pub attest: Option<String>,
    /// `--max-loss`, with its text.
    pub max_loss: Option<(MaxLoss, String)>,
    /// The settings name a fencer for the primary datacenter.
    pub fencer: bool,
}

/// Plans the promotion of `to`.
#[must_use]
pub fn plan(inventory: &Inventory, to: &DcName, intent: &Intent, request: &Request) -> Answer {
    let mut list = Checklist::default();
    if !inventory.sites.contains_key(to) {
        list.refuse("datacenter", unknown_dc(inventory, to));
        return conclude(list, || None);
    }
    list.check("operation", no_operation(inventory));
    let record = match record_of(inventory, to) {
        Ok(record) => record,
        Err(refusal) => {
            list.refuse(format!("{to} record"), refusal);
            return conclude(list, || None);
        }
    };
    let from = record.primary.clone();
    if from == *to {
        let (dc, epoch) = (to.clone(), record.epoch);
        list.refuse("datacenter", Refusal::AlreadyPrimary { dc, epoch });
        return conclude(list, || None);
    }
    later_epoch(&mut list, inventory, to, record);
    target_state(&mut list, inventory, to, record, request);
    primary_state(&mut list, inventory, (&from, to), request);
    let estimate = estimate(inventory, to, record, &from, request.now_us);
    bound(&mut list, &estimate, intent);
    let found = consumers::judge(inventory, to, record, Some(&estimate));
    consumers::show(&mut list, to, &found, false);
    rivals::check(&mut list, inventory, (&from, to), &estimate, request);
    let proof = proof::gather(&mut list, inventory, (&from, to), (intent, request), record);
    warn_of_silent(&mut list, inventory, &[&from, to]);
    let former_answers = record_of(inventory, &from).is_ok();
    conclude(list, || {
        let proof = proof?;
        let sequences = Extent::advances(Some(&estimate), &record.policies);
        let (fencer, grants) = (proof.fencer, proof.grants);
        let extent = Extent { former_answers, fencer, grants, sequences };
        Some(Plan {
            id: request.id.clone(),
            kind: OperationKind::Promotion,
            from: Some(from.clone()),
            to: to.clone(),
            primary: from.clone(),
            followers: followers(inventory, &[&from, to]),
            next_epoch: record.epoch.next(),
            parent: parent(inventory),
            by: request.by.clone(),
            made_at_us: request.now_us,
            evidence: proof.set.recorded(),
            approvals: Vec::new(),
            expected_loss: Some(estimate),
            waived_vaults: std::collections::BTreeSet::new(),
            quote: None,
            steps: steps(&from, to, extent),
        })
    })
}

/// What can be said of a promotion beforehand, while nobody has asked for one: the target's own
/// state, and what would be lost if the primary datacenter were lost at this moment. Whether the
/// primary lives, and what proves that it does not, is left to the promotion itself.
#[must_use]
pub fn rehearse(
    inventory: &Inventory,
    to: &DcName,
    request: &Request,
) -> (Checklist, Option<LossEstimate>) {
    let mut list = Checklist::default();
    list.check("operation", no_operation(inventory));
    let record = match record_of(inventory, to) {
        Ok(record) => record,
        Err(refusal) => {
            list.refuse(format!("{to} record"), refusal);
            return (list, None);
        }
    };
    later_epoch(&mut list, inventory, to, record);
    target_state(&mut list, inventory, to, record, request);
    let node = inventory.view(to).and_then(DcView::leader_node);
    if node.is_some_and(|node| node.replication_state != "streaming") {
        list.warn("link now", format!("{to} does not stream: what could be lost grows"));
    }
    let loss = estimate(inventory, to, record, &record.primary, request.now_us);
    list.ok("loss now", describe(&loss));
    let found = consumers::judge(inventory, to, record, Some(&loss));
    consumers::show(&mut list, to, &found, true);
    (list, Some(loss))
}

/// Another datacenter that answers may not know a later epoch than the target.
fn later_epoch(
    list: &mut Checklist,
    inventory: &Inventory,
    to: &DcName,
    record: &FederationRecord,
) {
    match inventory.newest().filter(|newest| newest.epoch > record.epoch) {
        Some(newest) => list.refuse(
            "records",
            Refusal::Disagreement {
                detail: format!(
                    "{} knows epoch {}, {to} only {}",
                    newest.dc, newest.epoch, record.epoch
                ),
                behind: Some(to.clone()),
            },
        ),
        None => list.ok("records", format!("no later epoch than {} is known", record.epoch)),
    }
}

fn target_state(
    list: &mut Checklist,
    inventory: &Inventory,
    to: &DcName,
    record: &FederationRecord,
    request: &Request,
) {
    list.check(&format!("{to} leader"), leader_runs(inventory, to));
    list.check(&format!("{to} agent"), agent_answers(inventory, to));
    let Some(view) = inventory.view(to) else { return };
    if let Some(fence) = &record.fence {
        let reason = fence.reason.clone();
        list.refuse(format!("{to} fence"), Refusal::Fenced { dc: to.clone(), reason });
    }
    if view.dynamic().pause {
        list.refuse(format!("{to} pause"), Refusal::Paused { dc: to.clone() });
    }
    match view.leader_node() {
        Some(node) if node.replay_paused => {
            list.refuse("replay", Refusal::ReplayPaused { dc: to.clone() });
        }
        Some(_) => list.ok("replay", "not paused"),
        None => {}
    }
    let replicas = view.members.len().saturating_sub(1);
    if replicas == 0 {
        list.warn("replicas", format!("{to} has no replica beside its leader"));
    } else {
        list.ok("replicas", format!("{to} has {replicas} beside its leader"));
    }
    if record.streamed {
        list.ok("link", format!("{to} has streamed in epoch {}", record.epoch));
    } else if request.force {
        list.warn("link", format!("{to} was never seen streaming in this epoch; --force"));
    } else {
        list.refuse("link", Refusal::NotStreamed { dc: to.clone(), epoch: record.epoch });
    }
}

/// A primary that lives is not promoted over. One whose leader's key is still held is given the
/// benefit of the doubt, unless its fence is acknowledged or the operator insists.
fn primary_state(
    list: &mut Checklist,
    inventory: &Inventory,
    (from, to): (&DcName, &DcName),
    request: &Request,
) {
    let view = match reachable(inventory, from) {
        Ok(view) => view,
        Err(refusal) => return list.warn(format!("{from} state"), refusal.to_string()),
    };
    let writer = view.nodes.iter().find(|(_, n)| n.known().is_some_and(|n| n.writable));
    let acknowledged =
        view.record().and_then(|r| r.fence.as_ref()).is_some_and(|fence| fence.ack.is_some());
    match (&view.leader, writer) {
        (_, Some((name, _))) => list.refuse(
            format!("{from} state"),
            Refusal::PrimaryAlive {
                dc: from.clone(),
                leader: name.to_string(),
                target: to.clone(),
            },
        ),
        (_, None) if acknowledged => {
            list.ok(format!("{from} state"), "fenced, and acknowledged");
        }
        (Some(leader), None) => {
            let answers = view.nodes.get(leader).is_some_and(|n| n.known().is_some());
            if answers {
                list.refuse(
                    format!("{from} state"),
                    Refusal::PrimaryAlive {
                        dc: from.clone(),
                        leader: leader.to_string(),
                        target: to.clone(),
                    },
                );
            } else if request.force {
                list.warn(
                    format!("{from} state"),
                    format!("the leader key is still held by {leader}; --force"),
                );
            } else {
                let (dc, leader) = (from.clone(), leader.to_string());
                list.refuse(format!("{from} state"), Refusal::LeaderKeyHeld { dc, leader });
            }
        }
        (None, None) => list.ok(format!("{from} state"), "its etcd answers, nobody leads it"),
    }
}

/// What the promotion of `to` may lose, as of the inventory; `None` without a record.
#[must_use]
pub fn estimate_for(inventory: &Inventory, to: &DcName) -> Option<LossEstimate> {
    let record = inventory.view(to)?.record()?;
    Some(estimate(inventory, to, record, &record.primary, inventory.at_us))
}

fn received(view: &DcView) -> (Option<Lsn>, Option<Lsn>) {
    let node = view.leader_node();
    (node.map(|n| n.lsn).filter(|l| l.0 > 0), node.map(|n| n.replay_lsn).filter(|l| l.0 > 0))
}

/// The published position, with what the leader itself answers in place of its last beat: right
/// after a change of roles that is a beat of the time before.
fn position(view: &DcView) -> Option<Position> {
    let mut position = view.position.clone()?;
    if let Some(node) = view.leader_node() {
        position.timeline = Some(node.timeline).filter(|t| t.0 > 0).or(position.timeline);
        let replayed = Some(node.replayed_commit_at_us).filter(|at| *at > 0);
        position.commit_at_us = replayed.max(position.commit_at_us);
    }
    Some(position)
}

/// What the promotion may lose.
#[must_use]
pub fn estimate(
    inventory: &Inventory,
    to: &DcName,
    record: &FederationRecord,
    from: &DcName,
    now_us: i64,
) -> LossEstimate {
    let Some(view) = inventory.view(to) else {
        return loss::estimate(None, None, record.epoch, now_us);
    };
    let (received, replayed) = received(view);
    let target = position(view);
    let target = target.as_ref();
    let acknowledged = proof::acknowledged(inventory, from, to);
    match acknowledged.as_ref().map(FencingEvidence::recorded) {
        Ok(Evidence::Acknowledged { ack }) if view.timeline() == Some(ack.timeline) => {
            loss::exact(ack, target, received, replayed, now_us)
        }
        Ok(
            Evidence::Acknowledged { .. }
            | Evidence::LeaseExpired { .. }
            | Evidence::FencedByHook { .. }
            | Evidence::Attested { .. },
        )
        | Err(_) => loss::estimate(target, received, record.epoch, now_us),
    }
}

fn bound(list: &mut Checklist, estimate: &LossEstimate, intent: &Intent) {
    let words = describe(estimate);
    match &intent.max_loss {
        Some((max, text)) if !max.allows(estimate) => {
            list.refuse("loss", Refusal::LossTooHigh { estimate: words, limit: text.clone() });
        }
        Some(_) | None if !loss::possible(estimate) => list.ok("loss", words),
        Some(_) | None => list.warn("loss", words),
    }
}

/// The estimate in words: bytes, seconds, and the age of the observation.
#[must_use]
pub fn describe(estimate: &LossEstimate) -> String {
    if !loss::possible(estimate) {
        return "nothing: all WAL of the former primary has been replayed".into();
    }
    let seconds = |us: i64| format!("{}.{} s", us / 1_000_000, us % 1_000_000 / 100_000);
    // What is said to be the most must not be rounded down.
    let most = |us: i64| seconds(us.saturating_add(99_999));
    let bytes = estimate
        .bytes_max
        .map_or("an unknown number of bytes".into(), |max| format!("at most {max} bytes"));
    let span = estimate
        .span_us_max
        .map_or("an unknown time".into(), |us| format!("at most the last {}", most(us)));
    let age = estimate.observation_age_us.map_or(
        "the primary was not observed in this epoch".into(),
        |us| {
            format!("{} bytes behind when last observed {} ago", estimate.known_bytes, seconds(us))
        },
    );
    format!("{bytes}, {span} ({age})")
}

#[cfg(test)]
#[path = "promotion/promotion_tests.rs"]
mod tests;
