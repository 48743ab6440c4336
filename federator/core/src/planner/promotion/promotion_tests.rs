//! Goal: the policy of the target's record decides what evidence is enough, the fencer is part of
//! the plan only where it decides, and more WAL elsewhere is not given up unsaid. Method: a healthy
//! federation whose primary is lost, with one thing changed at a time.
use super::*;
use crate::fixture::{NOW, inventory, lose, node_mut, record, record_mut, view};
use crate::inventory::{Fact, Site};
use crate::plan::StepKind;
use crate::planner::{Outcome, rebuild};
use node_agent_wire::federation::{Evidence, Isolation, Policies};
use node_agent_wire::{SlotName, TimelineId};

const BOTH: &str = "acknowledged or lease-expired or (fenced-by-hook and attested)";

fn request(force: bool) -> Request {
    let policies = Policies::default();
    Request { id: "op-9".into(), by: "ann".into(), now_us: NOW, force, policies }
}

fn intent(attest: bool, fencer: bool) -> Intent {
    let attest = attest.then(|| "no power".to_owned());
    Intent { attest, fencer, ..Intent::default() }
}

fn lost(formula: &str) -> Inventory {
    let mut inventory = inventory();
    record_mut(&mut inventory, "dc2").policies.evidence = formula.into();
    lose(&mut inventory, "dc1");
    inventory
}

fn answer(inventory: &Inventory, intent: &Intent) -> Answer {
    plan(inventory, &"dc2".into(), intent, &request(false))
}

fn kinds(plan: &Plan) -> Vec<&'static str> {
    plan.evidence.iter().map(Evidence::name).collect()
}

#[test]
fn the_policy_and_the_fencer() {
    use node_agent_wire::federation::ANY_EVIDENCE;
    // Attested, fencer in the settings; then the evidence of the plan and whether the fencer runs.
    for (formula, attest, fencer, expected) in [
        (ANY_EVIDENCE, false, false, None),
        (ANY_EVIDENCE, true, false, Some((&["attested"][..], false))),
        (ANY_EVIDENCE, false, true, Some((&[], true))),
        (ANY_EVIDENCE, true, true, Some((&["attested"], false))),
        (BOTH, false, false, None),
        (BOTH, true, false, None),
        (BOTH, false, true, None),
        (BOTH, true, true, Some((&["attested"], true))),
        ("lease-expired", true, true, None),
        ("no formula", true, true, None),
        ("", true, true, None),
    ] {
        let inventory = lost(formula);
        let found = answer(&inventory, &intent(attest, fencer));
        let plan = match &found.outcome {
            Outcome::Plan(plan) => Some(plan),
            Outcome::Refused(list) => {
                assert!(list.iter().all(|refusal| !refusal.hint().is_empty()), "{list:?}");
                None
            }
            Outcome::NothingToDo(why) => panic!("{why}"),
        };
        let runs = |plan: &Plan| plan.steps.iter().any(|step| step.kind == StepKind::Fencer);
        let seen = plan.map(|plan| (kinds(plan), runs(plan)));
        let expected = expected.map(|(kinds, runs)| (kinds.to_vec(), runs));
        assert_eq!(seen, expected, "{formula}, attested {attest}, fencer {fencer}");
        if let Some(plan) = plan {
            assert_eq!(plan.check(), Ok(()));
            let mut again = inventory.clone();
            record_mut(&mut again, "dc2").operation = Some(plan.operation());
            let rebuilt = rebuild(&plan.operation(), &again);
            assert_eq!((&rebuilt.steps, &rebuilt.evidence), (&plan.steps, &plan.evidence));
            assert_eq!(rebuilt.check(), Ok(()));
        }
    }
}

#[test]
fn the_settings_can_not_weaken_the_policy() {
    let mut found = request(false);
    found.policies.evidence = "attested".into();
    let answer = plan(&lost(BOTH), &"dc2".into(), &intent(true, false), &found);
    assert!(matches!(&answer.outcome, Outcome::Refused(list) if list.len() == 1), "{answer:?}");
    let lines: Vec<String> = answer.checklist.0.iter().map(|f| format!("{f:?}")).collect();
    assert!(lines.iter().any(|line| line.contains("the record of dc2 counts")), "{lines:?}");
}

#[test]
fn the_refusal_says_what_is_missing_and_what_to_type() {
    let advice = |formula: &str, intent: &Intent, lease: bool| {
        let mut inventory = lost(formula);
        let members = &mut record_mut(&mut inventory, "dc2").members;
        if lease {
            members.get_mut(&DcName::from("dc1")).unwrap().isolation = Isolation::Lease;
        }
        match answer(&inventory, intent).outcome {
            Outcome::Refused(list) => match &list[..] {
                [Refusal::NoEvidence { lacking, next, missing, .. }] => {
                    assert!(missing.iter().any(|line| line.starts_with("the policy: ")));
                    (lacking.join(" | "), next.join(" | "))
                }
                other => panic!("{other:?}"),
            },
            other @ (Outcome::Plan(_) | Outcome::NothingToDo(_)) => panic!("{other:?}"),
        }
    };
    let (lacking, next) = advice(BOTH, &intent(true, false), false);
    assert_eq!(lacking, "acknowledged | lease-expired | fenced-by-hook");
    assert_eq!(
        next, "when dc1 answers: federator fence dc1 | configure datacenters.dc1.fencer",
        "a lease that nobody holds is no advice"
    );
    let (_, next) = advice(BOTH, &intent(false, true), true);
    assert!(next.contains("lost its site grants") && next.contains("--attest"), "{next}");
    let (_, next) = advice("lease-expired", &intent(true, true), false);
    assert!(next.contains("bring dc1 back"), "{next}");
}

/// dc3 follows dc1 as dc2 does, its WAL ends there.
fn with_third(timeline: u32, lsn: u64) -> Inventory {
    let mut inventory = inventory();
    let mut third = view(&mut inventory, "dc2").clone();
    third.record.as_mut().unwrap().value = record("dc3", 1, "dc1");
    if let Some(Fact::Known(node)) = third.nodes.values_mut().next() {
        (node.timeline, node.lsn) = (TimelineId(timeline), Lsn(lsn));
    }
    if let Some(position) = third.position.as_mut() {
        (position.timeline, position.lsn) = (Some(TimelineId(timeline)), Some(Lsn(lsn)));
    }
    let site = Site {
        isolation: node_agent_wire::federation::Isolation::Manual,
        retention: node_agent_wire::federation::Retention::default(),
        scope: "shop-dc3".into(),
        namespace: "/service".into(),
        etcd: vec!["dc3:2379".into()],
        slot: SlotName::from_name("dc3"),
        follows: None,
        seed: crate::configuration::Seed::default(),
    };
    inventory.sites.insert("dc3".into(), site);
    inventory.dcs.insert("dc3".into(), Fact::Known(third));
    lose(&mut inventory, "dc1");
    inventory
}

#[test]
fn more_wal_elsewhere_is_not_given_up_unsaid() {
    for (timeline, lsn, refused) in [
        (1, 4000, None),
        (1, 5000, None),
        (1, 5001, Some("1 bytes more")),
        (2, 100, Some("WAL of timeline 2")),
    ] {
        let inventory = with_third(timeline, lsn);
        let found = answer(&inventory, &intent(true, false));
        let words = match &found.outcome {
            Outcome::Refused(list) => list.iter().map(ToString::to_string).collect(),
            Outcome::Plan(_) | Outcome::NothingToDo(_) => String::new(),
        };
        match refused {
            None => assert_eq!(words, "", "{timeline}/{lsn}"),
            Some(more) => {
                assert!(words.contains("dc3 holds") && words.contains(more), "{words}");
                let forced = plan(&inventory, &"dc2".into(), &intent(true, false), &request(true));
                assert!(matches!(forced.outcome, Outcome::Plan(_)), "{forced:?}");
                let lines: Vec<_> = forced.checklist.0.iter().map(|f| format!("{f:?}")).collect();
                assert!(lines.iter().any(|l| l.contains("given up by --force")), "{lines:?}");
            }
        }
    }
    // One that has another primary, or does not answer, is no rival.
    let mut other = with_third(1, 9000);
    record_mut(&mut other, "dc3").primary = "dc9".into();
    assert_eq!(rivals(&other, &"dc1".into(), &"dc2".into()), []);
    lose(&mut other, "dc3");
    assert_eq!(rivals(&other, &"dc1".into(), &"dc2".into()), []);
    // The target itself has no position: then everybody has more.
    let mut blind = with_third(1, 10);
    view(&mut blind, "dc2").position = None;
    node_mut(&mut blind, "dc2").lsn = Lsn(0);
    assert_eq!(rivals(&blind, &"dc1".into(), &"dc2".into()).len(), 1);
}

#[test]
fn sequences_are_advanced_where_that_was_agreed_and_something_may_be_lost() {
    for (gap, acknowledged, expected) in
        [(0, false, false), (1000, false, true), (1000, true, false)]
    {
        let mut inventory = lost(BOTH);
        record_mut(&mut inventory, "dc2").policies.evidence = "acknowledged or attested".into();
        record_mut(&mut inventory, "dc2").policies.sequence_gap = gap;
        if acknowledged {
            // The healthy dc1, fenced: dc2 has replayed beyond where it stopped.
            let mut former = crate::fixture::inventory();
            node_mut(&mut former, "dc1").writable = false;
            let mut fence = record("dc1", 1, "dc1");
            fence.fence = Some(node_agent_wire::federation::Fence {
                epoch: node_agent_wire::Epoch(2),
                operation: None,
                reason: "by hand".into(),
                by: "ann".into(),
                at_us: NOW,
                ack: Some(crate::fixture::ack()),
            });
            *record_mut(&mut former, "dc1") = fence;
            inventory.dcs.insert("dc1".into(), Fact::Known(view(&mut former, "dc1").clone()));
        }
        let found = answer(&inventory, &intent(true, false));
        let Outcome::Plan(plan) = found.outcome else { panic!("{found:?}") };
        let advances = plan.steps.iter().any(|step| step.kind == StepKind::Sequences);
        assert_eq!(advances, expected, "gap {gap}, acknowledged {acknowledged}");
        assert_eq!(plan.check(), Ok(()));
        record_mut(&mut inventory, "dc2").operation = Some(plan.operation());
        assert_eq!(rebuild(&plan.operation(), &inventory).steps, plan.steps);
    }
}
