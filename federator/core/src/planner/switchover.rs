//! Planned switchover: the primary moves, and nothing that was acknowledged is lost.

use super::{
    Answer, Request, agent_answers, conclude, followers, leader_runs, no_operation, parent,
    reachable, record_of, records_agree, step, unknown_dc, warn_of_silent,
};
use crate::consumers;
use crate::guards::{Checklist, Refusal};
use crate::inventory::{DcView, Fact, Inventory};
use crate::plan::{Plan, Step, StepKind};
use node_agent_wire::DcName;
use node_agent_wire::federation::OperationKind;

/// Plans the switchover to `to`, with the step [`StepKind::PreSync`].
#[must_use]
pub fn plan(inventory: &Inventory, to: &DcName, request: &Request) -> Answer {
    plan_with(inventory, to, request, true)
}

/// Plans the switchover to `to`. `pre_sync`: before the fence, wait until `to` is close behind.
#[must_use]
pub fn plan_with(inventory: &Inventory, to: &DcName, request: &Request, pre_sync: bool) -> Answer {
    let mut list = Checklist::default();
    if !inventory.sites.contains_key(to) {
        list.refuse("datacenter", unknown_dc(inventory, to));
        return conclude(list, || None);
    }
    list.check("operation", no_operation(inventory));
    let target = record_of(inventory, to);
    let Some(from) = inventory.primary().cloned() else {
        list.check("records", target.map(|_| String::new()));
        return conclude(list, || None);
    };
    if from == *to {
        let epoch = inventory.newest().map(|r| r.epoch).unwrap_or_default();
        list.refuse("datacenter", Refusal::AlreadyPrimary { dc: to.clone(), epoch });
        return conclude(list, || None);
    }
    for dc in [&from, to] {
        list.check(&format!("{dc} reachable"), record_of(inventory, dc).map(|_| "yes".into()));
    }
    list.check("records agree", records_agree(inventory));
    for dc in [&from, to] {
        if let Ok(view) = reachable(inventory, dc) {
            list.check(&format!("{dc} leader"), leader_runs(inventory, dc));
            list.check(&format!("{dc} agent"), agent_answers(inventory, dc));
            list.check(&format!("{dc} pause"), not_paused(dc, view));
            list.check(&format!("{dc} fence"), not_fenced(dc, view));
        }
    }
    if let (Some(source), Some(standby)) = (inventory.view(&from), inventory.view(to)) {
        link(&mut list, (&from, source), (to, standby), request);
        returned(&mut list, (to, standby), request);
        if let Some(record) = standby.record() {
            let found = consumers::judge(inventory, to, record, None);
            consumers::show(&mut list, to, &found, false);
        }
    }
    warn_of_silent(&mut list, inventory, &[&from, to]);
    let newest = inventory.newest().map(|r| r.epoch);
    conclude(list, || {
        Some(Plan {
            id: request.id.clone(),
            kind: OperationKind::Switchover,
            from: Some(from.clone()),
            to: to.clone(),
            primary: from.clone(),
            followers: followers(inventory, &[&from, to]),
            next_epoch: newest?.next(),
            parent: parent(inventory),
            by: request.by.clone(),
            made_at_us: request.now_us,
            evidence: Vec::new(),
            approvals: Vec::new(),
            expected_loss: None,
            waived_vaults: std::collections::BTreeSet::new(),
            quote: None,
            steps: steps(&from, to, pre_sync),
        })
    })
}

fn not_paused(dc: &DcName, view: &DcView) -> Result<String, Refusal> {
    if view.dynamic().pause {
        return Err(Refusal::Paused { dc: dc.clone() });
    }
    Ok("off".into())
}

fn not_fenced(dc: &DcName, view: &DcView) -> Result<String, Refusal> {
    match view.record().and_then(|r| r.fence.as_ref()) {
        Some(fence) => Err(Refusal::Fenced { dc: dc.clone(), reason: fence.reason.clone() }),
        None => Ok("none".into()),
    }
}

/// What the target's leader says of its link and its replay.
struct Link {
    receiver: String,
    timeline: u32,
    replay_paused: bool,
    apply_delay_ms: i64,
}

/// By SQL; by the agent where SQL was not asked. The delay of replay is SQL's to tell.
fn link_of(to: &DcName, standby: &DcView) -> Result<Link, Refusal> {
    let failed = |why: &str| Refusal::SqlFailed { dc: to.clone(), why: why.to_owned() };
    match (&standby.sql, standby.leader_node()) {
        (Some(Fact::Known(sql)), _) => Ok(Link {
            receiver: sql.receiver.clone(),
            timeline: sql.received_timeline.unwrap_or_default().0,
            replay_paused: sql.replay_paused,
            apply_delay_ms: sql.apply_delay_ms,
        }),
        (Some(Fact::Unknown { why, .. }), _) => Err(failed(why)),
        (None, Some(node)) => Ok(Link {
            receiver: node.replication_state.clone(),
            timeline: node.timeline.0,
            replay_paused: node.replay_paused,
            apply_delay_ms: 0,
        }),
        (None, None) => Err(failed("not asked")),
    }
}

/// The target streams, on the source's timeline, close behind, and replays.
fn link(
    list: &mut Checklist,
    (from, source): (&DcName, &DcView),
    (to, standby): (&DcName, &DcView),
    request: &Request,
) {
    let link = match link_of(to, standby) {
        Ok(link) => link,
        Err(refusal) => return list.refuse("SQL", refusal),
    };
    list.check(
        "link",
        if link.receiver == "streaming" {
            Ok(format!("{to} streams from {from}"))
        } else {
            let state = if link.receiver.is_empty() { "none" } else { &link.receiver };
            Err(Refusal::NotStreaming {
                dc: to.clone(),
                source_dc: from.clone(),
                state: state.to_owned(),
            })
        },
    );
    let source_timeline = source.timeline().unwrap_or_default().0;
    let target = link.timeline;
    list.check(
        "timeline",
        if target == source_timeline && target > 0 {
            Ok(format!("both on {target}"))
        } else {
            let (dc, source_dc) = (to.clone(), from.clone());
            Err(Refusal::OtherTimeline { dc, target, source_dc, source_timeline })
        },
    );
    if let (Some(a), Some(b)) = (source.leader_node(), standby.leader_node()) {
        let lag = a.lsn.bytes_since(b.replay_lsn);
        let limit = request.policies.switchover_lag_bytes_max;
        list.check(
            "lag",
            if lag <= limit {
                Ok(format!("{lag} bytes"))
            } else {
                Err(Refusal::LagTooHigh { dc: to.clone(), lag, limit })
            },
        );
    }
    list.check(
        "replay",
        if link.replay_paused {
            Err(Refusal::ReplayPaused { dc: to.clone() })
        } else if link.apply_delay_ms != 0 {
            Err(Refusal::ApplyDelay { dc: to.clone(), ms: link.apply_delay_ms })
        } else {
            Ok("not paused, not delayed".into())
        },
    );
}

/// The way back from the last change has been seen working.
fn returned(list: &mut Checklist, (to, standby): (&DcName, &DcView), request: &Request) {
    let Some(record) = standby.record() else { return };
    if record.streamed {
        list.ok("way back", format!("{to} has streamed in epoch {}", record.epoch));
    } else if request.force {
        list.warn("way back", format!("{to} was not seen streaming; --force"));
    } else {
        list.refuse("way back", Refusal::NotStreamed { dc: to.clone(), epoch: record.epoch });
    }
}

/// The steps of a planned switchover.
#[must_use]
pub fn steps(from: &DcName, to: &DcName, pre_sync: bool) -> Vec<Step> {
    let mut list = before_the_fence(from, to);
    list.retain(|step| pre_sync || step.kind != StepKind::PreSync);
    list.extend(from_the_fence(from, to));
    list
}

fn written(list: &[(StepKind, [String; 4], bool)]) -> Vec<Step> {
    list.iter()
        .map(|(kind, w, past)| step(*kind, w.each_ref().map(String::as_str), *past))
        .collect()
}

fn before_the_fence(from: &DcName, to: &DcName) -> Vec<Step> {
    written(&[
        (
            StepKind::Take,
            [
                "no other operation in the records".into(),
                format!("writes the operation into the records of {to} and {from}"),
                "the operation is removed".into(),
                "both records hold the operation".into(),
            ],
            false,
        ),
        (
            StepKind::Prepare,
            [
                "both leaders run".into(),
                format!("slot for {from} on every node of {to}; checkpoint on both leaders"),
                String::new(),
                format!("every node of {to} has the slot"),
            ],
            false,
        ),
        (
            StepKind::PreSync,
            [
                format!("{to} streams"),
                format!("waits until {to} is close behind {from}, which then waits for it"),
                format!("{from} waits for {to} no more"),
                format!("little is left for {to} to receive and to replay"),
            ],
            false,
        ),
    ])
}

fn from_the_fence(from: &DcName, to: &DcName) -> Vec<Step> {
    written(&[
        (
            StepKind::Fence,
            [
                format!("{to} streams"),
                format!("fences {from}: its primary stops, writes end"),
                format!("the fence is lifted and {from} accepts writes again"),
                format!("{from} has acknowledged with its last WAL position"),
            ],
            false,
        ),
        (
            StepKind::CatchUp,
            [
                format!("{from} has acknowledged"),
                format!("waits until {to} has replayed all WAL of {from}"),
                String::new(),
                "replayed beyond the shutdown checkpoint, same timeline".into(),
            ],
            false,
        ),
        (
            StepKind::Commit,
            [
                "nobody has turned the operation back".into(),
                format!("the record of {to} names {to} as primary at the next epoch"),
                String::new(),
                "no way back".into(),
            ],
            false,
        ),
        (
            StepKind::Promote,
            [
                "committed".into(),
                format!("{to} leaves standby mode, its leader is promoted"),
                String::new(),
                format!("{to} accepts writes"),
            ],
            true,
        ),
        (
            StepKind::Repoint,
            [
                "committed".into(),
                format!("{from} and every other datacenter follow {to}; the fence is lifted"),
                String::new(),
                format!("every record that answers names {to}"),
            ],
            true,
        ),
        (
            StepKind::Verify,
            [
                format!("{to} accepts writes"),
                "waits for streaming and slots, writes a probe".into(),
                String::new(),
                format!("{from} streams from {to}"),
            ],
            true,
        ),
        (
            StepKind::Close,
            [
                "verified".into(),
                "removes the operation from the records, adds it to the history".into(),
                String::new(),
                "no operation in progress".into(),
            ],
            true,
        ),
    ])
}
