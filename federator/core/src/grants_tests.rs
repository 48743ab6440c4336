use super::*;
use crate::change::{self, ChangeError};
use crate::conditions::commit_evidence;
use crate::evidence::{EvidenceSet, FencingEvidence};
use crate::fixture;
use crate::guards::Refusal;
use crate::plan::StepKind;
use crate::planner::promotion::{self, Intent};
use crate::planner::{self, Outcome, Request, setup};
use node_agent_wire::federation::{Evidence, OperationKind};

/// dc2's record, with dc1 in lease mode and a witness.
fn record() -> FederationRecord {
    let mut record = fixture::record("dc2", 1, "dc1");
    let witness =
        node_agent_wire::grant::Witness { etcd: vec!["w:1".into()], namespace: "/s".into() };
    record.policies.grants = Some(GrantPolicy { witness: Some(witness), ..GrantPolicy::default() });
    for entry in record.members.values_mut() {
        entry.isolation = Isolation::Lease;
    }
    record
}

fn seat(voter: &str, quiet_ms: u64) -> SeatView {
    let (voter, holder, epoch) = (voter.into(), "dc1".into(), Epoch(1));
    SeatView { voter, holder, epoch, quiet_ms, ..SeatView::default() }
}

fn seen(voters: Vec<SeatView>, claimable_in_ms: Option<u64>) -> GrantsView {
    GrantsView { voters, claimable_in_ms, ..GrantsView::default() }
}

#[test]
fn grants_run_out_when_a_majority_of_the_voters_missed_a_renewal() {
    let lost = |voter: &str| SeatView { silent: "no answer".into(), ..seat(voter, 60_000) };
    let free = |voter: &str| SeatView { free: true, ..seat(voter, 0) };
    let renewed = |quiet_ms| Err(NotLeased::Renewed { from: "dc1".into(), quiet_ms });
    let (to, detail) = (DcName::from("dc2"), "dc1: no answer; witness: no answer".into());
    for (what, voters, claimable, expected) in [
        ("alive", vec![seat("dc2", 900), seat("witness", 1200)], Some(9000), renewed(900)),
        ("silent", vec![seat("dc2", 8000), seat("witness", 9000)], Some(4000), Ok(())),
        ("one renews", vec![seat("dc2", 8000), seat("witness", 10)], Some(18_000), renewed(10)),
        ("given back", vec![free("dc2"), free("witness")], Some(0), Ok(())),
        (
            "a third one renews",
            vec![seat("dc2", 8000), free("witness"), seat("dc1", 10)],
            Some(8000),
            Ok(()),
        ),
        (
            "too few answer",
            vec![seat("dc2", 60_000), lost("dc1"), lost("witness")],
            None,
            Err(NotLeased::NoVoters { to, detail }),
        ),
    ] {
        let found = expiring(&record(), &"dc1".into(), Some(&seen(voters, claimable)));
        assert_eq!(found, expected, "{what}");
    }
    let mut manual = record();
    let quiet = seen(vec![seat("dc2", 60_000), seat("witness", 60_000)], Some(0));
    manual.members.get_mut(&DcName::from("dc1")).unwrap().isolation = Isolation::Manual;
    let why = NotLeased::Manual("dc1".into());
    assert_eq!(expiring(&manual, &"dc1".into(), Some(&quiet)), Err(why));
    let none = expiring(&record(), &"dc1".into(), None);
    assert_eq!(none, Err(NotLeased::NotSeen("dc2".into())));
}

/// dc2 holds its own grant and that of the witness.
fn held_for(operation: &Operation) -> GrantsView {
    let ours = |voter: &str| SeatView {
        ours: true,
        holder: "dc2".into(),
        epoch: Epoch(2),
        ..seat(voter, 0)
    };
    GrantsView {
        epoch: Some(Epoch(2)),
        left_ms: 900,
        operation: operation.id.to_string(),
        voters: vec![ours("dc2"), ours("witness"), seat("dc1", 0)],
        ..GrantsView::default()
    }
}

#[test]
fn only_a_majority_at_the_new_epoch_for_this_operation_is_evidence() {
    let operation = fixture::operation(OperationKind::Promotion, "dc1", "dc2");
    let held = held_for(&operation);
    let evidence = FencingEvidence::lease_expired(&record(), &operation, Some(&held)).unwrap();
    let voters = vec!["dc2".to_owned(), "witness".to_owned()];
    assert_eq!(*evidence.recorded(), Evidence::LeaseExpired { voters });
    for (what, change) in [
        ("one voter", (|h| h.voters.truncate(1)) as fn(&mut GrantsView)),
        ("of another epoch", |h| h.epoch = Some(Epoch(1))),
        ("for another operation", |h| h.operation = "op-0".into()),
        ("run out", |h| h.left_ms = 0),
        ("a voter that is none", |h| h.voters[1].voter = "dc9".into()),
        ("granted an older epoch", |h| h.voters[1].epoch = Epoch(1)),
    ] {
        let mut wrong = held.clone();
        change(&mut wrong);
        let found = acquired(&record(), &operation, Some(&wrong));
        assert!(matches!(found, Err(NotLeased::NoMajority { needed: 2, .. })), "{what}: {found:?}");
    }
}

#[test]
fn the_words_say_who_holds_them_and_until_when() {
    let voters =
        vec![SeatView { ours: true, ..seat("dc1", 0) }, SeatView { ours: true, ..seat("dc2", 0) }];
    let view = GrantsView {
        enforced: true,
        epoch: Some(Epoch(4)),
        left_ms: 12_340,
        voters,
        ..GrantsView::default()
    };
    let report = GrantsReport { seen_from: "dc1".into(), primary: true, needed: 2, view };
    assert_eq!(
        words(&report),
        "dc1 holds 2 of 2 for epoch 4 (2 needed), for 12.3 s more without a renewal"
    );
    let standby = GrantsReport {
        seen_from: "dc2".into(),
        primary: false,
        needed: 2,
        view: seen(vec![seat("dc2", 2500), seat("witness", 900)], Some(9501)),
    };
    assert_eq!(
        words(&standby),
        "seen from dc2: dc2 renewed by dc1 2.5 s ago, witness renewed by dc1 0.9 s ago; dc2 can \
         take a majority of the site grants in 9.6 s, if nobody renews them"
    );
}

#[test]
fn a_promotion_acquires_the_grants_before_it_commits() {
    let mut inventory = fixture::inventory();
    *fixture::record_mut(&mut inventory, "dc2") = record();
    fixture::lose(&mut inventory, "dc1");
    let quiet = seen(vec![seat("dc2", 9000), seat("witness", 9000)], Some(4000));
    fixture::node_mut(&mut inventory, "dc2").grants = Some(quiet);
    let request = Request {
        id: "op-9".into(),
        by: "ann".into(),
        now_us: fixture::NOW,
        force: false,
        policies: node_agent_wire::federation::Policies::default(),
    };
    let answer = promotion::plan(&inventory, &"dc2".into(), &Intent::default(), &request);
    let Outcome::Plan(plan) = answer.outcome else { panic!("{answer:?}") };
    assert_eq!(plan.check(), Ok(()));
    assert_eq!(plan.evidence, [Evidence::LeaseExpired { voters: Vec::new() }]);
    let kinds: Vec<StepKind> = plan.steps.iter().map(|step| step.kind).collect();
    assert_eq!(kinds[..3], [StepKind::Take, StepKind::Acquire, StepKind::Commit]);
    let operation = plan.operation();
    assert_eq!(planner::rebuild(&operation, &inventory).steps, plan.steps);
    // What it carries is the intent only.
    let mut evidence = commit_evidence(&operation, None, None).unwrap();
    let taken = FederationRecord { operation: Some(operation.clone()), ..record() };
    let commit = |evidence: &EvidenceSet| change::commit(&taken, &operation.id, evidence, &[], 1);
    assert!(matches!(commit(&evidence), Err(ChangeError::NoEvidence { .. })), "not acquired");
    let held = held_for(&operation);
    evidence.add(FencingEvidence::lease_expired(&taken, &operation, Some(&held)).unwrap());
    assert!(commit(&evidence).is_ok(), "acquired");

    let alive = seen(vec![seat("dc2", 100), seat("witness", 100)], Some(19_000));
    fixture::node_mut(&mut inventory, "dc2").grants = Some(alive);
    let answer = promotion::plan(&inventory, &"dc2".into(), &Intent::default(), &request);
    let Outcome::Refused(list) = &answer.outcome else { panic!("{answer:?}") };
    assert!(list.iter().any(|refusal| matches!(refusal, Refusal::NoEvidence { .. })), "{list:?}");
}

#[test]
fn a_setup_depends_on_grants_last_and_only_where_there_are_some() {
    let mut inventory = fixture::inventory();
    let policy = record().policies.grants;
    let of = |inventory: &Inventory, grants: Option<GrantPolicy>| {
        let policies = node_agent_wire::federation::Policies {
            grants,
            ..node_agent_wire::federation::Policies::default()
        };
        let request = Request {
            id: "op-9".into(),
            by: "ann".into(),
            now_us: fixture::NOW,
            force: false,
            policies,
        };
        setup::plan(inventory, None, &request).outcome
    };
    assert!(matches!(of(&inventory, None), Outcome::NothingToDo(_)), "joined, no grants");
    for site in inventory.sites.values_mut() {
        site.isolation = Isolation::Lease;
    }
    let Outcome::Plan(plan) = of(&inventory, policy.clone()) else { panic!("nothing to do") };
    assert_eq!(plan.check(), Ok(()));
    let last: Vec<StepKind> = plan.steps.iter().rev().take(2).map(|step| step.kind).collect();
    assert_eq!(last, [StepKind::Close, StepKind::Isolate]);
    for dc in ["dc1", "dc2"] {
        let there = fixture::record_mut(&mut inventory, dc);
        there.policies.grants.clone_from(&policy);
        there.members.clone_from(&record().members);
    }
    assert!(matches!(of(&inventory, policy), Outcome::NothingToDo(_)), "all of it is there");
}
