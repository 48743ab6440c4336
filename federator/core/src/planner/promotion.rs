//! Guarded promotion: the primary datacenter is lost, another one takes over on evidence.

use super::{
    Answer, Request, agent_answers, conclude, followers, leader_runs, no_operation, parent,
    reachable, record_of, step, unknown_dc, warn_of_silent,
};
use crate::evidence::{EvidenceError, FencingEvidence};
use crate::guards::{Checklist, Refusal};
use crate::inventory::{DcView, Fact, Inventory};
use crate::loss::{self, MaxLoss};
use crate::plan::{Plan, Step, StepKind};
use node_agent_wire::federation::{Evidence, FederationRecord, LossEstimate, OperationKind};
use node_agent_wire::position::Position;
use node_agent_wire::{DcName, Lsn, SystemId};

/// What the operator said beside the target.
#[derive(Clone, Debug, Default)]
pub struct Intent {
    /// `--attest REASON`.
    pub attest: Option<String>,
    /// `--max-loss`, with its text.
    pub max_loss: Option<(MaxLoss, String)>,
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
    let evidence = gather(&mut list, inventory, (&from, to), intent, request);
    warn_of_silent(&mut list, inventory, &[&from, to]);
    let former_answers = record_of(inventory, &from).is_ok();
    conclude(list, || {
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
            evidence: Some(evidence?.recorded().clone()),
            expected_loss: Some(estimate),
            steps: steps(&from, to, former_answers),
        })
    })
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
    let acknowledged = acknowledged(inventory, from, to);
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

fn acknowledged(
    inventory: &Inventory,
    from: &DcName,
    to: &DcName,
) -> Result<FencingEvidence, EvidenceError> {
    let former = inventory
        .view(from)
        .and_then(DcView::record)
        .ok_or_else(|| EvidenceError::NotAcknowledged(from.to_string()))?;
    let target = inventory.view(to);
    let system: Option<&SystemId> = target.and_then(|v| v.initialize.as_ref());
    FencingEvidence::acknowledged(former, None, system)
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

/// The best evidence there is, or the refusal with everything that is missing.
fn gather(
    list: &mut Checklist,
    inventory: &Inventory,
    (from, to): (&DcName, &DcName),
    intent: &Intent,
    request: &Request,
) -> Option<FencingEvidence> {
    let mut missing = Vec::new();
    match acknowledged(inventory, from, to) {
        Ok(evidence) => {
            list.ok("evidence", format!("acknowledged: {from} has confirmed that it stopped"));
            return Some(evidence);
        }
        Err(error) => {
            let silent = match inventory.dcs.get(from) {
                Some(Fact::Unknown { .. }) => " and does not answer",
                Some(Fact::Known(_)) | None => "",
            };
            missing.push(format!("acknowledged: {error}{silent}"));
        }
    }
    match &intent.attest {
        Some(reason) => match FencingEvidence::attested(&request.by, reason, request.now_us) {
            Ok(evidence) => {
                list.warn(
                    "evidence",
                    format!("attested by {}, the weakest kind: {}", request.by, reason.trim()),
                );
                return Some(evidence);
            }
            Err(error) => missing.push(format!("attested: {error}")),
        },
        None => missing.push("attested: nobody has stated that it is off (--attest)".into()),
    }
    let (dc, target) = (from.clone(), to.clone());
    list.refuse("evidence", Refusal::NoEvidence { dc, target, missing });
    None
}

/// The steps of a promotion; the former primary is fenced first where its DCS answers.
#[must_use]
pub fn steps(from: &DcName, to: &DcName, former_answers: bool) -> Vec<Step> {
    let mut list = vec![step(
        StepKind::Take,
        [
            "no other operation in the records",
            &format!("writes the operation into the record of {to}, and of {from} if it answers"),
            "the operation is removed",
            "the record holds the operation",
        ],
        false,
    )];
    if former_answers {
        list.push(step(
            StepKind::Fence,
            [
                &format!("the DCS of {from} answers"),
                &format!("fences {from}, so that it can't accept writes when it returns"),
                "the fence is lifted",
                &format!("the record of {from} is fenced"),
            ],
            false,
        ));
    }
    list.push(step(
        StepKind::Commit,
        [
            "there is evidence, and nobody has turned the operation back",
            &format!("the record of {to} names {to} as primary at the next epoch"),
            "",
            "no way back",
        ],
        false,
    ));
    list.push(step(
        StepKind::Promote,
        [
            "committed",
            &format!("{to} leaves standby mode, its leader is promoted"),
            "",
            &format!("{to} accepts writes"),
        ],
        true,
    ));
    list.push(step(
        StepKind::Repoint,
        [
            "committed",
            &format!("every other datacenter that answers follows {to}; {from} needs a rejoin"),
            "",
            &format!("their records name {to}"),
        ],
        true,
    ));
    list.push(step(
        StepKind::Verify,
        [&format!("{to} accepts writes"), "writes a probe", "", "the probe is committed"],
        true,
    ));
    list.push(step(
        StepKind::Close,
        [
            "verified",
            "removes the operation from the records, adds it to the history",
            "",
            "no operation in progress",
        ],
        true,
    ));
    list
}
