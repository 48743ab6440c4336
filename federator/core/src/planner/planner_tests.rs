//! Goal: each planner refuses for each reason, and only then; its plans are sound. Method: a
//! healthy federation with one thing changed at a time.
use super::*;
use crate::evidence::FencingEvidence;
use crate::fixture::{
    NOW, ack, inventory, lose, node_mut, operation, record, record_mut, request, view,
};
use crate::inventory::SqlFacts;
use crate::loss::MaxLoss;
use crate::planner::promotion::Intent;
use node_agent_wire::federation::{Evidence, Fence, LossEstimate, PreSync};
use node_agent_wire::{Epoch, Lsn, TimelineId};
use serde_json::json;

fn forced() -> Request {
    Request { force: true, ..request() }
}

fn refusals(answer: &Answer) -> Vec<String> {
    match &answer.outcome {
        Outcome::Refused(list) => list.iter().map(ToString::to_string).collect(),
        Outcome::Plan(_) | Outcome::NothingToDo(_) => Vec::new(),
    }
}

fn planned(answer: Answer) -> Plan {
    match answer.outcome {
        Outcome::Plan(plan) => {
            assert_eq!(plan.check(), Ok(()));
            plan
        }
        other @ (Outcome::NothingToDo(_) | Outcome::Refused(_)) => panic!("no plan: {other:?}"),
    }
}

fn sql<'i>(inventory: &'i mut Inventory, dc: &str) -> &'i mut SqlFacts {
    match view(inventory, dc).sql.as_mut() {
        Some(Fact::Known(sql)) => sql,
        other => panic!("{other:?}"),
    }
}

fn fence_of(epoch: u64, acknowledged: bool) -> Option<Fence> {
    Some(Fence {
        epoch: Epoch(epoch),
        operation: None,
        reason: "by hand".into(),
        by: "ann".into(),
        at_us: NOW,
        ack: acknowledged.then(ack),
    })
}

type Break = fn(&mut Inventory);

#[test]
fn a_healthy_federation_switches_over() {
    let inventory = inventory();
    let plan = planned(switchover::plan(&inventory, &"dc2".into(), &request()));
    let names: Vec<&str> = plan.steps.iter().map(|s| s.kind.name()).collect();
    let before = ["take", "prepare", "pre-sync", "fence", "catch-up", "commit"];
    let after = ["promote", "repoint", "verify", "close"];
    assert_eq!(names, [&before[..], &after].concat());
    assert_eq!(plan.operation().pre_sync, Some(PreSync::default()));
    let without = switchover::plan_with(&inventory, &"dc2".into(), &request(), false);
    let without = planned(without);
    assert!(!without.has(StepKind::PreSync) && without.steps.len() + 1 == plan.steps.len());
    assert_eq!(without.operation().pre_sync, None);
    assert_eq!(
        (plan.next_epoch, plan.participants()),
        (Epoch(2), vec!["dc2".into(), "dc1".into()])
    );
    // A plan survives being written down.
    let text = serde_json::to_string(&plan).unwrap();
    assert_eq!(serde_json::from_str::<Plan>(&text).unwrap(), plan);
    let text = serde_json::to_string(&inventory).unwrap();
    let again: Inventory = serde_json::from_str(&text).unwrap();
    assert_eq!(planned(switchover::plan(&again, &"dc2".into(), &request())), plan);
}

#[test]
fn switchover_refusals() {
    let cases: [(&str, Break); 17] = [
        ("dc1 does not answer", |i| lose(i, "dc1")),
        ("dc2 does not answer", |i| lose(i, "dc2")),
        ("dc2 has no federation record", |i| view(i, "dc2").record = None),
        ("can't be used: garbage", |i| {
            view(i, "dc2").record = None;
            view(i, "dc2").record_error = Some("garbage".into());
        }),
        ("the records disagree", |i| *record_mut(i, "dc1") = record("dc1", 3, "dc1")),
        ("op-1 is in progress", |i| {
            record_mut(i, "dc1").operation =
                Some(operation(OperationKind::Switchover, "dc1", "dc2"));
        }),
        ("dc1 has no running leader", |i| view(i, "dc1").leader = None),
        ("agent of dc2 does not answer", |i| {
            let silent = Fact::Unknown { since_us: NOW, why: "timeout".into() };
            view(i, "dc2").nodes.insert("dc2-pg1".into(), silent);
        }),
        ("dc1 is paused", |i| {
            let config = &mut view(i, "dc1").config.as_mut().unwrap().value;
            config.insert("pause".into(), json!(true));
        }),
        ("dc1 is fenced: by hand", |i| record_mut(i, "dc1").fence = fence_of(2, false)),
        ("does not stream from dc1", |i| sql(i, "dc2").receiver = String::new()),
        ("on timeline 3, dc1 on 1", |i| {
            sql(i, "dc2").received_timeline = Some(TimelineId(3));
        }),
        ("bytes behind, the policy allows", |i| node_mut(i, "dc1").lsn = Lsn(1 << 40)),
        ("replay is paused", |i| sql(i, "dc2").replay_paused = true),
        ("recovery_min_apply_delay", |i| sql(i, "dc2").apply_delay_ms = 5),
        ("has not been seen streaming", |i| record_mut(i, "dc2").streamed = false),
        ("SQL on the leader of dc2 failed", |i| {
            view(i, "dc2").sql = Some(Fact::Unknown { since_us: NOW, why: "refused".into() });
        }),
    ];
    for (expected, change) in cases {
        let mut inventory = inventory();
        change(&mut inventory);
        let found = refusals(&switchover::plan(&inventory, &"dc2".into(), &request()));
        assert!(found.iter().any(|r| r.contains(expected)), "{expected}: {found:?}");
    }
    for (to, expected) in [("dc1", "is the primary datacenter already"), ("dc9", "known: dc1, dc2")]
    {
        let found = refusals(&switchover::plan(&inventory(), &to.into(), &request()));
        assert!(found.iter().any(|r| r.contains(expected)), "{expected}: {found:?}");
    }
}

#[test]
fn every_refusal_has_a_hint() {
    let mut inventory = inventory();
    lose(&mut inventory, "dc1");
    let answer = promotion::plan(&inventory, &"dc2".into(), &Intent::default(), &request());
    let Outcome::Refused(list) = answer.outcome else { panic!("not refused") };
    assert!(list.iter().all(|r| !r.hint().is_empty()), "{list:?}");
}

#[test]
fn quick_ping_pong_needs_force() {
    let mut inventory = inventory();
    record_mut(&mut inventory, "dc2").streamed = false;
    assert_eq!(refusals(&switchover::plan(&inventory, &"dc2".into(), &request())).len(), 1);
    planned(switchover::plan(&inventory, &"dc2".into(), &forced()));
}

fn bytes(limit: u64) -> MaxLoss {
    MaxLoss { bytes: Some(limit), span_us: None }
}

fn span(limit_us: i64) -> MaxLoss {
    MaxLoss { bytes: None, span_us: Some(limit_us) }
}

fn attest() -> Intent {
    Intent { attest: Some("the power is off".into()), ..Intent::default() }
}

#[test]
fn no_evidence_no_promotion() {
    let mut inventory = inventory();
    lose(&mut inventory, "dc1");
    let answer = promotion::plan(&inventory, &"dc2".into(), &Intent::default(), &forced());
    let found = refusals(&answer);
    assert_eq!(found, ["nothing proves that dc1 has stopped accepting writes"]);
    let plan = planned(promotion::plan(&inventory, &"dc2".into(), &attest(), &request()));
    assert_eq!(plan.evidence.first().map(Evidence::name), Some("attested"));
    assert!(plan.steps.iter().all(|s| s.kind != StepKind::Fence), "dc1 can't be fenced");
    let loss = plan.expected_loss.unwrap();
    // Behind 1000 at the observation; since then 0.8 s and one TTL at twice 2000 bytes a second.
    assert_eq!((loss.known_bytes, loss.bytes_max), (1000, Some(1000 + 23_200 + 8192)));
    assert_eq!((loss.span_us_max, loss.observation_age_us), (Some(500_000), Some(800_000)));
    for bad in ["", "  "] {
        let intent = Intent { attest: Some(bad.into()), ..Intent::default() };
        assert_eq!(
            refusals(&promotion::plan(&inventory, &"dc2".into(), &intent, &forced())).len(),
            1
        );
    }
    let nobody = Request { by: String::new(), ..request() };
    assert_eq!(refusals(&promotion::plan(&inventory, &"dc2".into(), &attest(), &nobody)).len(), 1);
}

#[test]
fn a_plan_of_a_promotion_without_evidence_is_defective() {
    let mut inventory = inventory();
    lose(&mut inventory, "dc1");
    let mut plan = planned(promotion::plan(&inventory, &"dc2".into(), &attest(), &request()));
    plan.evidence.clear();
    assert_eq!(plan.check(), Err(crate::plan::PlanDefect::NoEvidence));
}

#[test]
fn an_acknowledged_fence_is_the_better_evidence() {
    let mut inventory = inventory();
    record_mut(&mut inventory, "dc1").fence = fence_of(2, true);
    node_mut(&mut inventory, "dc1").writable = false;
    let plan = planned(promotion::plan(&inventory, &"dc2".into(), &attest(), &request()));
    assert_eq!(plan.evidence.first().map(Evidence::name), Some("acknowledged"));
    assert_eq!(plan.expected_loss.as_ref().unwrap().bytes_max, Some(0));
    assert!(plan.steps.iter().any(|s| s.kind == StepKind::Fence));
    // A fence of an earlier epoch, or of another database system, proves nothing.
    record_mut(&mut inventory, "dc1").fence = fence_of(1, true);
    assert!(FencingEvidence::acknowledged(record_mut(&mut inventory, "dc1"), None, None).is_err());
    record_mut(&mut inventory, "dc1").fence = fence_of(2, true);
    let other = Some("78".into());
    let former = record_mut(&mut inventory, "dc1");
    assert!(FencingEvidence::acknowledged(former, None, other.as_ref()).is_err());
}

#[test]
fn promotion_refusals() {
    let cases: [(&str, Break); 10] = [
        ("dc1 is alive: its leader dc1-pg1 answers", |_| {}),
        ("dc1 is alive", |i| node_mut(i, "dc1").writable = false),
        ("the leader key of dc1 is still held", |i| {
            let silent = Fact::Unknown { since_us: NOW, why: "timeout".into() };
            view(i, "dc1").nodes.insert("dc1-pg1".into(), silent);
        }),
        ("dc2 does not answer", |i| lose(i, "dc2")),
        ("dc2 has no running leader", |i| {
            lose(i, "dc1");
            view(i, "dc2").leader = None;
        }),
        ("replay is paused", |i| {
            lose(i, "dc1");
            node_mut(i, "dc2").replay_paused = true;
        }),
        ("has not been seen streaming", |i| {
            lose(i, "dc1");
            record_mut(i, "dc2").streamed = false;
        }),
        ("dc2 is fenced", |i| {
            lose(i, "dc1");
            record_mut(i, "dc2").fence = fence_of(2, false);
        }),
        ("knows epoch 4, dc2 only 1", |i| *record_mut(i, "dc1") = record("dc1", 4, "dc1")),
        ("is in progress", |i| {
            lose(i, "dc1");
            record_mut(i, "dc2").operation =
                Some(operation(OperationKind::Switchover, "dc1", "dc2"));
        }),
    ];
    for (expected, change) in cases {
        let mut inventory = inventory();
        change(&mut inventory);
        let found = refusals(&promotion::plan(&inventory, &"dc2".into(), &attest(), &request()));
        assert!(found.iter().any(|r| r.contains(expected)), "{expected}: {found:?}");
    }
}

#[test]
fn a_writer_is_never_promoted_over_whoever_insists() {
    let mut inventory = inventory();
    view(&mut inventory, "dc1").leader = None;
    let found = refusals(&promotion::plan(&inventory, &"dc2".into(), &attest(), &forced()));
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].contains("dc1 is alive"));
}

#[test]
fn max_loss_refuses_beyond_and_when_unknown() {
    let mut inventory = inventory();
    lose(&mut inventory, "dc1");
    for (max, allowed) in [
        (bytes(32_391), false),
        (bytes(32_392), true),
        (span(499_999), false),
        (span(500_000), true),
        (MaxLoss { span_us: Some(499_999), ..bytes(32_392) }, false),
        (MaxLoss { span_us: Some(500_000), ..bytes(32_391) }, false),
        (MaxLoss { span_us: Some(500_000), ..bytes(32_392) }, true),
    ] {
        let intent = Intent { max_loss: Some((max, "x".into())), ..attest() };
        let answer = promotion::plan(&inventory, &"dc2".into(), &intent, &request());
        assert_eq!(refusals(&answer).is_empty(), allowed, "{max:?}");
    }
    view(&mut inventory, "dc2").position.as_mut().unwrap().primary_seen = None;
    let max_loss = Some((bytes(u64::MAX), "x".into()));
    let intent = Intent { max_loss, ..attest() };
    let found = refusals(&promotion::plan(&inventory, &"dc2".into(), &intent, &request()));
    assert_eq!(found.len(), 1, "{found:?}");
}

/// dc2 was promoted while dc1 was away.
fn after_promotion() -> Inventory {
    let mut inventory = inventory();
    *record_mut(&mut inventory, "dc2") = record("dc2", 2, "dc2");
    node_mut(&mut inventory, "dc2").writable = true;
    let config = &mut view(&mut inventory, "dc2").config.as_mut().unwrap().value;
    config.remove("standby_cluster");
    node_mut(&mut inventory, "dc1").writable = false;
    inventory
}

#[test]
fn rejoin() {
    let plan = planned(rejoin::plan(&after_promotion(), &"dc1".into(), &request()));
    let names: Vec<&str> = plan.steps.iter().map(|s| s.kind.name()).collect();
    assert_eq!(names, ["supersede", "take", "slots", "demoted", "standby", "stream", "close"]);
    assert_eq!(
        (plan.next_epoch, plan.participants()),
        (Epoch(2), vec!["dc1".into(), "dc2".into()])
    );
    let answer = rejoin::plan(&inventory(), &"dc2".into(), &request());
    assert!(matches!(answer.outcome, Outcome::NothingToDo(_)), "{answer:?}");
    let found = refusals(&rejoin::plan(&inventory(), &"dc1".into(), &request()));
    assert!(found[0].contains("is the primary datacenter already"), "{found:?}");
    let mut other = after_promotion();
    view(&mut other, "dc1").initialize = Some("78".into());
    assert_eq!(refusals(&rejoin::plan(&other, &"dc1".into(), &request())).len(), 1);
    // A copy of an operation that the target has closed does not stand in the way.
    let mut leftover = after_promotion();
    record_mut(&mut leftover, "dc1").operation =
        Some(operation(OperationKind::Switchover, "dc1", "dc2"));
    planned(rejoin::plan(&leftover, &"dc1".into(), &request()));
    record_mut(&mut leftover, "dc2").operation =
        Some(operation(OperationKind::Switchover, "dc1", "dc2"));
    assert_eq!(refusals(&rejoin::plan(&leftover, &"dc1".into(), &request())).len(), 1);
}

#[test]
fn setup_of_a_new_federation() {
    let mut fresh = inventory();
    for dc in ["dc1", "dc2"] {
        view(&mut fresh, dc).record = None;
    }
    let empty = view(&mut fresh, "dc2");
    (empty.leader, empty.initialize, empty.config, empty.sql) = (None, None, None, None);
    empty.members.clear();
    empty.nodes.clear();
    let plan = planned(setup::plan(&fresh, None, &request()));
    assert_eq!(
        (plan.primary.as_str(), plan.to.as_str(), plan.next_epoch),
        ("dc1", "dc2", Epoch(1))
    );
    let done = setup::plan(&inventory(), None, &request());
    assert!(matches!(done.outcome, Outcome::NothingToDo(_)), "{done:?}");
    let cases: [(&str, Break); 6] = [
        ("dc2 does not answer", |i| lose(i, "dc2")),
        ("holds database system", |i| view(i, "dc2").initialize = Some("78".into())),
        ("member name dc1-pg1 is used twice", |i| {
            let member = view(i, "dc1").members.clone();
            view(i, "dc2").members = member;
        }),
        ("slot name dc1_pg1 is used twice", |i| {
            i.sites.get_mut(&DcName::from("dc2")).unwrap().slot =
                node_agent_wire::SlotName::from_name("dc1-pg1");
        }),
        ("belongs to the federation other", |i| {
            let mut foreign = record("dc2", 1, "dc1");
            foreign.federation = "other".into();
            view(i, "dc2").record = Some(crate::inventory::Versioned {
                revision: node_agent_wire::Revision(1),
                value: foreign,
            });
        }),
        ("SQL on the leader of dc1 failed", |i| view(i, "dc1").sql = None),
    ];
    for (expected, change) in cases {
        let mut broken = fresh.clone();
        change(&mut broken);
        let found = refusals(&setup::plan(&broken, Some(&"dc1".into()), &request()));
        assert!(found.iter().any(|r| r.contains(expected)), "{expected}: {found:?}");
    }
}

#[test]
fn setup_compares_two_that_hold_data() {
    let cases: [(&str, Break); 2] = [
        ("the major version of dc2 is 16, dc1 has 15", |i| {
            node_mut(i, "dc2").server_version = 160_001;
        }),
        ("max_connections of dc2 is 10, dc1 has 100", |i| {
            sql(i, "dc2").capacity.insert("max_connections".into(), 10);
        }),
    ];
    for (expected, change) in cases {
        let mut broken = inventory();
        record_mut(&mut broken, "dc2").streamed = false;
        change(&mut broken);
        let found = refusals(&setup::plan(&broken, None, &request()));
        assert_eq!(found, [expected]);
    }
}

#[test]
fn a_rebuilt_plan_is_the_plan() {
    let inventory = inventory();
    let plan = planned(switchover::plan(&inventory, &"dc2".into(), &request()));
    let again = rebuild(&plan.operation(), &inventory);
    assert_eq!(again, plan);
    // Past the commit, too, with both records at the new epoch or only one.
    let mut committed = inventory;
    *record_mut(&mut committed, "dc2") = record("dc2", 2, "dc2");
    let late = rebuild(&plan.operation(), &committed);
    assert_eq!(
        (late.steps, late.primary, late.followers),
        (plan.steps, plan.primary, plan.followers)
    );
    let rejoin_plan = planned(rejoin::plan(&after_promotion(), &"dc1".into(), &request()));
    assert_eq!(rebuild(&rejoin_plan.operation(), &after_promotion()), rejoin_plan);
}

#[test]
fn fence_by_hand() {
    let mut inventory = inventory();
    let plan = |i: &Inventory, dc: &str, lift| fence::plan(i, &dc.into(), lift, "ann", NOW);
    assert!(matches!(plan(&inventory, "dc1", false), Ok(fence::FencePlan::Do(_))));
    assert!(matches!(plan(&inventory, "dc1", true), Ok(fence::FencePlan::NothingToDo(_))));
    assert!(matches!(plan(&inventory, "dc2", false), Err(Refusal::Change { .. })));
    record_mut(&mut inventory, "dc1").fence = fence_of(2, true);
    assert!(matches!(plan(&inventory, "dc1", false), Ok(fence::FencePlan::NothingToDo(_))));
    assert!(matches!(plan(&inventory, "dc1", true), Ok(fence::FencePlan::Do(_))));
    assert!(fence::confirmable(&inventory, &"dc1".into()).is_err());
    *record_mut(&mut inventory, "dc2") = record("dc2", 2, "dc2");
    assert!(matches!(plan(&inventory, "dc1", true), Err(Refusal::Disagreement { .. })));
}

#[test]
fn the_most_that_can_be_lost_is_not_rounded_down() {
    for (us, wanted) in [(0, "0.0 s"), (1, "0.1 s"), (100_000, "0.1 s"), (1_950_001, "2.0 s")] {
        let estimate = LossEstimate {
            known_bytes: 0,
            bytes_max: Some(8192),
            span_us_max: Some(us),
            observation_age_us: Some(199_999),
        };
        let words = promotion::describe(&estimate);
        assert!(words.contains(&format!("at most the last {wanted} (")), "{us}: {words}");
        assert!(words.ends_with("last observed 0.1 s ago)"), "{us}: {words}");
    }
}

#[test]
fn a_third_datacenter_follows_or_is_told_of() {
    let three = crate::fixture::three();
    let plan = planned(switchover::plan(&three, &"dc2".into(), &request()));
    assert_eq!(plan.followers, BTreeSet::from(["dc3".into()]));
    assert_eq!(plan.participants(), ["dc2".into(), "dc1".into()].map(|dc: DcName| dc));
    let mut away = three;
    lose(&mut away, "dc3");
    let answer = switchover::plan(&away, &"dc2".into(), &request());
    let told = answer.checklist.0.iter().any(|finding| {
        matches!(&finding.verdict, crate::guards::Verdict::Warning(note)
            if finding.check == "dc3" && note.contains("when it is back"))
    });
    assert!(told, "{answer:?}");
    assert_eq!(planned(answer).followers, BTreeSet::new());
}

#[test]
fn a_datacenter_whose_source_is_lost_rejoins_the_primary() {
    let mut cascade = crate::fixture::three();
    cascade.sites.get_mut(&DcName::from("dc3")).unwrap().follows = Some("dc2".into());
    let config = &mut view(&mut cascade, "dc3").config.as_mut().unwrap().value;
    config["standby_cluster"]["host"] = "dc2".into();
    let done = rejoin::plan(&cascade, &"dc3".into(), &request());
    assert!(matches!(done.outcome, Outcome::NothingToDo(_)), "{done:?}");
    let nodes = view(&mut cascade, "dc2").node_entries();
    let entry = record_mut(&mut cascade, "dc1").members.get_mut(&DcName::from("dc2"));
    entry.unwrap().nodes = nodes;
    lose(&mut cascade, "dc2");
    planned(rejoin::plan(&cascade, &"dc3".into(), &request()));
    // Setup applies a changed wish.
    let mut wished = crate::fixture::three();
    wished.sites.get_mut(&DcName::from("dc3")).unwrap().follows = Some("dc2".into());
    let plan = planned(setup::plan(&wished, None, &request()));
    assert_eq!(plan.followers, BTreeSet::from(["dc3".into()]));
}

#[test]
fn policies_are_changed_by_a_setup_while_the_primary_answers() {
    let mut changed = request();
    changed.policies.evidence = "acknowledged".into();
    let same = setup::plan(&inventory(), None, &request());
    assert!(matches!(same.outcome, Outcome::NothingToDo(_)), "{same:?}");
    let plan = planned(setup::plan(&inventory(), None, &changed));
    assert_eq!((plan.steps[0].kind, plan.to.as_str()), (StepKind::Record, "dc2"));
    let mut lost = inventory();
    lose(&mut lost, "dc1");
    assert!(!refusals(&setup::plan(&lost, Some(&"dc1".into()), &changed)).is_empty());
    let mut silent = inventory();
    let unknown = Fact::Unknown { since_us: NOW, why: "timeout".into() };
    view(&mut silent, "dc1").nodes.insert("dc1-pg1".into(), unknown);
    assert!(!refusals(&setup::plan(&silent, Some(&"dc1".into()), &changed)).is_empty());
}
