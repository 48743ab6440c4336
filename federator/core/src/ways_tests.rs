//! Goal: of the ways to go on, the one that can be gone now and loses least comes first, and each
//! says what it lacks. Method: a federation in which more and more of the primary datacenter fails.
use super::*;
use crate::fixture::{NOW, ack, inventory, lose, node_mut, record_mut, view};
use crate::guards::Refusal;
use crate::history;
use crate::inventory::Fact;
use crate::planner::promotion::{Intent, plan};
use crate::planner::{Outcome, Request};
use node_agent_wire::federation::{Fence, JournalEntry, Policies};
use node_agent_wire::member::MemberData;
use node_agent_wire::{Epoch, Lsn};

fn ranked(inventory: &Inventory, measured: Measured) -> Vec<Way> {
    let request = Request {
        id: "op-9".into(),
        by: "ann".into(),
        now_us: NOW,
        force: false,
        policies: Policies::default(),
    };
    let answer = plan(inventory, &"dc2".into(), &Intent::default(), &request);
    let refusals = match answer.outcome {
        Outcome::Refused(list) => list,
        Outcome::Plan(_) | Outcome::NothingToDo(_) => Vec::new(),
    };
    ways(inventory, &"dc2".into(), &refusals, measured)
}

fn silent(inventory: &mut Inventory, node: &str) {
    let unknown = Fact::Unknown { since_us: NOW, why: "timeout".into() };
    view(inventory, "dc1").nodes.insert(node.into(), unknown);
}

/// A second node in dc1 whose agent answers.
fn replica(inventory: &mut Inventory, synchronous: bool) {
    let dc1 = view(inventory, "dc1");
    let member = MemberData { state: "running".into(), ..MemberData::default() };
    dc1.members.insert("dc1-pg2".into(), member);
    dc1.nodes.insert("dc1-pg2".into(), Fact::Known(NodeView::default()));
    dc1.sync_standbys = synchronous.then(|| ["dc1-pg2".into()].into());
}

fn kinds(list: &[Way]) -> Vec<WayKind> {
    list.iter().map(|way| way.kind).collect()
}

#[test]
fn what_is_best_depends_on_what_is_left() {
    use WayKind::{FenceAndPromote, RepairThere, Switchover};
    let mut all_works = inventory();
    let list = ranked(&all_works, Measured::default());
    assert_eq!(kinds(&list), [Switchover, FenceAndPromote]);
    assert!(list[0].missing.is_empty() && list[0].loss == PredictedLoss::Nothing);
    assert!(list[1].missing[0].contains("dc1 is alive"), "{list:?}");
    assert_eq!(list[1].next, "federator fence dc1, then federator promote dc2");

    // The leader's host is gone, a synchronous standby is there: it takes over by itself.
    silent(&mut all_works, "dc1-pg1");
    replica(&mut all_works, true);
    let list = ranked(&all_works, Measured::default());
    assert_eq!(kinds(&list)[0], RepairThere);
    assert_eq!(list[0].loss, PredictedLoss::Nothing);
    assert_eq!(list[0].time.us_max, Some(60_000_000), "{list:?}");
    assert!(list[0].missing.is_empty() && list[0].next.contains("dc1-pg2"), "{list:?}");

    // The standby is not synchronous: what it lacks is not known.
    let mut asynchronous = inventory();
    silent(&mut asynchronous, "dc1-pg1");
    replica(&mut asynchronous, false);
    let list = ranked(&asynchronous, Measured::default());
    assert_eq!((list[0].kind, &list[0].loss), (RepairThere, &PredictedLoss::Unknown));

    // No agent answers: hosts have to be started, or evidence found.
    let mut dark = inventory();
    silent(&mut dark, "dc1-pg1");
    view(&mut dark, "dc1").leader = None;
    let list = ranked(&dark, Measured::default());
    assert!(list.iter().all(|way| !way.missing.is_empty()), "{list:?}");
    let promotion = list.iter().find(|way| way.kind == FenceAndPromote).unwrap();
    assert_eq!(promotion.next, "federator promote dc2");
    assert!(promotion.missing.iter().any(|m| m.contains("acknowledged; or")), "{list:?}");
    assert!(matches!(&promotion.loss, PredictedLoss::AtMost(e) if e.bytes_max.is_some()));

    // Its etcd does not answer either: there is nothing to choose.
    let mut lost = dark.clone();
    lose(&mut lost, "dc1");
    assert_eq!(ranked(&lost, Measured::default()), []);
}

#[test]
fn a_fence_that_is_acknowledged_leaves_the_promotion() {
    let mut inventory = inventory();
    node_mut(&mut inventory, "dc1").writable = false;
    node_mut(&mut inventory, "dc2").replay_lsn = Lsn(5000);
    let fence = Fence {
        epoch: Epoch(2),
        operation: None,
        reason: "by hand".into(),
        by: "ann".into(),
        at_us: NOW,
        ack: Some(ack()),
    };
    record_mut(&mut inventory, "dc1").fence = Some(fence);
    let list = ranked(&inventory, Measured::default());
    assert_eq!(list[0].kind, WayKind::FenceAndPromote);
    assert_eq!((&list[0].loss, list[0].missing.len()), (&PredictedLoss::Nothing, 0));
    assert_eq!(list[0].next, "federator promote dc2");
    let repair = list.iter().find(|way| way.kind == WayKind::RepairThere).unwrap();
    assert!(repair.missing[0].contains("--lift"), "{repair:?}");
}

#[test]
fn times_are_the_longest_that_were_measured() {
    let line = |step: &str, begun_at_us, done| JournalEntry {
        step: step.into(),
        begun_at_us,
        done_at_us: Some(done),
        note: String::new(),
        parts: Vec::new(),
    };
    let entry = |kind, outcome, pause, steps| {
        let operation = crate::fixture::operation(kind, "dc1", "dc2");
        ClosedOperation { steps, ..ClosedOperation::new(&operation, outcome, NOW, pause) }
    };
    let promotion = |end| vec![line("take", 10, 20), line("promote", 30, end)];
    let history = [
        entry(OperationKind::Switchover, history::Outcome::Done, Some(5), vec![]),
        entry(OperationKind::Switchover, history::Outcome::Done, Some(9), vec![]),
        entry(OperationKind::Switchover, history::Outcome::Aborted, Some(99), vec![]),
        entry(OperationKind::Promotion, history::Outcome::Done, None, promotion(50)),
        entry(OperationKind::Promotion, history::Outcome::Done, None, promotion(40)),
        entry(OperationKind::Promotion, history::Outcome::Aborted, None, promotion(900)),
    ];
    let measured = Measured::of(&history);
    assert_eq!(measured, Measured { switchover_us: Some(9), promotion_us: Some(40) });
    let list = ranked(&inventory(), measured);
    assert_eq!(list[0].time.us_max, Some(9));
    assert_eq!(list[1].time.us_max, Some(40));
}

#[test]
fn refusals_are_what_is_missing() {
    let refusal = Refusal::NoEvidence {
        dc: "dc1".into(),
        target: "dc2".into(),
        missing: vec![],
        lacking: vec!["acknowledged".into(), "fenced-by-hook and attested".into()],
        next: vec![],
    };
    let words = in_short(&refusal);
    assert_eq!(words, "evidence that is missing: acknowledged; or fenced-by-hook and attested");
}
