//! Tables of the step conditions.
use super::*;
use crate::fixture::{ack, inventory, operation, record};
use crate::planner::rebuild;
use node_agent_wire::federation::Fence;
use node_agent_wire::{Epoch, OperationId};
use std::collections::BTreeSet;

use OperationKind::{Promotion, Rejoin, Setup, Switchover};

fn fenced(by: Option<OperationId>, confirmed: bool) -> FederationRecord {
    let mut fenced = record("dc1", 1, "dc1");
    fenced.fence = Some(Fence {
        epoch: Epoch(2),
        operation: by,
        reason: "test".into(),
        by: "ann".into(),
        at_us: 1,
        ack: confirmed.then(ack),
    });
    fenced
}

#[test]
fn past_the_commit_nothing_is_repeated() {
    let plan = rebuild(&operation(Switchover, "dc1", "dc2"), &inventory());
    let due_then = |committed| {
        plan.steps.iter().filter(|s| due(s, plan.kind, committed)).map(|s| s.kind).collect()
    };
    let all: Vec<StepKind> = due_then(false);
    assert_eq!(all.len(), plan.steps.len());
    let rest: Vec<StepKind> = due_then(true);
    assert_eq!(rest, [StepKind::Promote, StepKind::Repoint, StepKind::Verify, StepKind::Close]);
    let rejoin = rebuild(&operation(Rejoin, "dc2", "dc1"), &inventory());
    assert!(rejoin.steps.iter().all(|step| due(step, rejoin.kind, true)));
}

#[test]
fn whose_silence_is_survived() {
    let (dc1, dc2, dc3) = ("dc1".into(), "dc2".into(), "dc3".into());
    for (kind, dc, take, back) in [
        (Switchover, &dc2, true, true),
        (Switchover, &dc1, true, true),
        (Switchover, &dc3, true, false),
        (Promotion, &dc2, true, true),
        (Promotion, &dc1, false, false),
        (Rejoin, &dc2, true, true),
        (Rejoin, &dc1, true, false),
    ] {
        assert_eq!(take_needs(kind, &dc2, dc), take, "take of {kind} at {dc}");
        let operation = operation(kind, "dc1", "dc2");
        assert_eq!(way_back_needs(&operation, dc), back, "way back of {kind} at {dc}");
        assert_eq!(fence_needs_answer(kind), kind != Promotion);
    }
}

#[test]
fn a_fence_has_three_words() {
    assert_eq!(FenceWord::of(&record("dc1", 1, "dc1")), FenceWord::Lifted);
    assert_eq!(FenceWord::of(&fenced(None, false)), FenceWord::Awaited);
    assert_eq!(FenceWord::of(&fenced(None, true)), FenceWord::Acknowledged(&ack()));
}

#[test]
fn caught_up_is_beyond_the_checkpoint_on_its_timeline() {
    let (one, two) = (Some(TimelineId(1)), Some(TimelineId(2)));
    for (replayed, timeline, expected) in [
        (999, one, CatchUp::Behind),
        (1000, one, CatchUp::Behind),
        (1000, None, CatchUp::Behind),
        (1001, one, CatchUp::Complete),
        (1001, None, CatchUp::TimelineUnknown),
        (1001, two, CatchUp::OtherTimeline(TimelineId(2))),
    ] {
        assert_eq!(catch_up(&ack(), Lsn(replayed), timeline), expected, "{replayed} {timeline:?}");
    }
}

#[test]
fn a_commit_without_evidence_is_none() {
    let switchover = operation(Switchover, "dc1", "dc2");
    let own = || Some(switchover.id.clone());
    assert_eq!(commit_evidence(&switchover, None, None), Err(NoEvidence::FormerUnknown));
    for (what, former) in [
        ("not acknowledged", fenced(own(), false)),
        ("another's fence", fenced(None, true)),
        ("no fence", record("dc1", 1, "dc1")),
    ] {
        let result = commit_evidence(&switchover, Some(&former), None);
        assert!(matches!(result, Err(NoEvidence::Evidence(_))), "{what}");
    }
    let other = Some(SystemId::new("78"));
    assert!(commit_evidence(&switchover, Some(&fenced(own(), true)), other.as_ref()).is_err());
    assert!(commit_evidence(&switchover, Some(&fenced(own(), true)), None).is_ok());
}

#[test]
fn an_acknowledged_promotion_looks_again() {
    let bare = operation(Promotion, "dc1", "dc2");
    assert!(!commit_reads_former(&bare));
    assert!(matches!(commit_evidence(&bare, None, None), Err(NoEvidence::Evidence(_))));
    let attested = Evidence::Attested { by: "ann".into(), reason: "off".into(), at_us: 1 };
    let attested = Operation { evidence: Some(attested), ..bare.clone() };
    assert!(!commit_reads_former(&attested) && commit_evidence(&attested, None, None).is_ok());
    let evidence = Some(Evidence::Acknowledged { ack: ack() });
    let promotion = Operation { evidence, ..bare };
    assert!(commit_reads_former(&promotion));
    assert_eq!(commit_evidence(&promotion, None, None), Err(NoEvidence::FormerUnknown));
    let mut former = fenced(None, true);
    assert!(matches!(
        commit_evidence(&promotion, Some(&former), None),
        Err(NoEvidence::Change(ChangeError::Gone { .. }))
    ));
    former.operation = Some(promotion.clone());
    assert!(commit_evidence(&promotion, Some(&former), None).is_ok());
    former.fence = None;
    assert!(matches!(
        commit_evidence(&promotion, Some(&former), None),
        Err(NoEvidence::Change(ChangeError::EvidenceGone { .. }))
    ));
}

#[test]
fn a_lost_primary_is_not_repointed() {
    let mut plan = rebuild(&operation(Switchover, "dc1", "dc2"), &inventory());
    plan.followers = BTreeSet::from(["dc3".into()]);
    assert_eq!(to_repoint(&plan), ["dc3", "dc1"].map(DcName::from));
    plan.kind = Promotion;
    assert_eq!(to_repoint(&plan), ["dc3"].map(DcName::from));
}

#[test]
fn silence_may_be_a_writer() {
    let (a, b) = (MemberName::new("a"), MemberName::new("b"));
    let reader = NodeView::default();
    let writer = NodeView { writable: true, ..NodeView::default() };
    let ask = |record: &FederationRecord, list: &[(&MemberName, Answered<'_>)]| {
        may_write(record, list.iter().map(|(name, answered)| (*name, answered.clone()))).len()
    };
    let open = fenced(None, false);
    assert_eq!(ask(&open, &[(&a, Ok(&reader)), (&b, Ok(&reader))]), 0);
    assert_eq!(ask(&open, &[(&a, Ok(&reader)), (&b, Ok(&writer))]), 1);
    assert_eq!(ask(&open, &[(&a, Err("no answer".into())), (&b, Ok(&writer))]), 2);
    assert_eq!(ask(&fenced(None, true), &[(&a, Err("no answer".into()))]), 0);
}

fn standby(state: &str, replication: &str, writable: bool) -> NodeView {
    NodeView {
        state: state.into(),
        replication_state: replication.into(),
        writable,
        ..NodeView::default()
    }
}

#[test]
fn streaming_is_said_by_a_standby_that_runs() {
    for (node, link, all) in [
        (standby("running", "streaming", false), true, true),
        (standby("starting", "streaming", false), true, false),
        (standby("running", "in archive recovery", false), false, false),
        (standby("running", "streaming", true), false, false),
    ] {
        assert_eq!((link_streams(&node), node_streams(&node)), (link, all), "{node:?}");
    }
}

#[test]
fn a_node_on_the_former_timeline_does_not_stream_yet() {
    let on = |timeline| NodeView {
        timeline: TimelineId(timeline),
        ..standby("running", "streaming", false)
    };
    let leader = on(2);
    for (node, leader, expected) in [
        (on(2), Some(&leader), true),
        (on(1), Some(&leader), false),
        (on(2), None, false),
        (standby("running", "in archive recovery", false), Some(&leader), false),
    ] {
        assert_eq!(node_streams_with(&node, leader), expected, "{node:?}");
    }
}

#[test]
fn where_a_failure_leads() {
    for (kind, step, committed, released, expected) in [
        (Setup, StepKind::Record, false, false, AfterFailure::NotTaken),
        (Rejoin, StepKind::Supersede, false, false, AfterFailure::NotTaken),
        (Switchover, StepKind::Take, false, true, AfterFailure::NotTaken),
        (Switchover, StepKind::Take, false, false, AfterFailure::TurnBack),
        (Promotion, StepKind::Commit, false, false, AfterFailure::TurnBack),
        (Switchover, StepKind::Promote, true, false, AfterFailure::StaysCommitted),
        (Rejoin, StepKind::Demoted, false, false, AfterFailure::Stays),
        (Rejoin, StepKind::Take, false, false, AfterFailure::Stays),
    ] {
        let found = after_failure(kind, step, committed, released);
        assert_eq!(found, expected, "{kind} {step:?} {committed} {released}");
    }
}

#[test]
fn how_near_the_target_is() {
    let end = Lsn(PRE_SYNC_LAG_MAX * 4);
    let at = |lag: u64, received: Option<u32>| {
        nearness((end, TimelineId(2)), Lsn(end.0 - lag), received.map(TimelineId))
    };
    for (lag, received, expected) in [
        (0, Some(2), Nearness::Close(0)),
        (PRE_SYNC_LAG_MAX, Some(2), Nearness::Close(PRE_SYNC_LAG_MAX)),
        (PRE_SYNC_LAG_MAX + 1, Some(2), Nearness::Behind(PRE_SYNC_LAG_MAX + 1)),
        (0, None, Nearness::NotStreaming),
        (0, Some(1), Nearness::OtherTimeline(TimelineId(1))),
    ] {
        assert_eq!(at(lag, received), expected, "{lag} {received:?}");
    }
    let ahead = nearness((Lsn(5), TimelineId(2)), Lsn(9), Some(TimelineId(2)));
    assert_eq!(ahead, Nearness::Close(0), "looked at later, it may be further");
}

#[test]
fn the_limit_of_the_write_pause_never_breaks_off_a_commit() {
    let plan = rebuild(&operation(Switchover, "dc1", "dc2"), &inventory());
    let limits: Vec<PauseLimit> = plan.steps.iter().map(|step| pause_limit(step.kind)).collect();
    let place = |kind| plan.steps.iter().position(|step| step.kind == kind).unwrap();
    let (fence, commit) = (place(StepKind::Fence), place(StepKind::Commit));
    assert!(limits[..fence].iter().all(|limit| *limit == PauseLimit::None));
    assert!(limits[fence..commit].iter().all(|limit| *limit == PauseLimit::BreaksOff));
    assert_eq!(limits[commit], PauseLimit::Forbids);
    assert!(limits[commit + 1..].iter().all(|limit| *limit == PauseLimit::None));
}
