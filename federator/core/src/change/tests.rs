//! Goal: no order of changes lets commit and abort both happen, lowers an epoch, or lets the former
//! primary write beside the new one. Method: arbitrary interleavings of every change on the records
//! of two datacenters, by an executor, a second one, an aborter and an operator.
use super::*;
use crate::evidence::{EvidenceSet, FencingEvidence};
use crate::fixture::{ack, operation, record};
use node_agent_wire::approval::{Approval, SignedDocument};
use proptest::prelude::*;

fn attested() -> EvidenceSet {
    FencingEvidence::attested("ann", "power is off", 1).unwrap().into()
}

fn switchover() -> Operation {
    operation(OperationKind::Switchover, "dc1", "dc2")
}

fn with(record: &FederationRecord, operation: &Operation) -> FederationRecord {
    FederationRecord { operation: Some(operation.clone()), ..record.clone() }
}

#[test]
fn take_and_release() {
    let (free, op) = (record("dc2", 1, "dc1"), switchover());
    let taken = take(&free, &op).unwrap().unwrap();
    assert_eq!(take(&taken, &op), Ok(None));
    let other = Operation { id: "other".into(), ..op.clone() };
    assert!(matches!(take(&taken, &other), Err(ChangeError::Busy { .. })));
    assert_eq!(release(&taken, &other.id), Ok(None));
    assert_eq!(release(&taken, &op.id), Ok(Some(free)));
    let moved = record("dc2", 2, "dc2");
    assert!(matches!(take(&moved, &op), Err(ChangeError::EpochMoved { .. })));
    let fenced = operator_fence(&record("dc1", 1, "dc1"), "ann", 1).unwrap().unwrap();
    assert!(matches!(take(&fenced, &op), Err(ChangeError::Fenced { .. })));
    let promotion = Operation { kind: OperationKind::Promotion, ..op };
    assert!(take(&fenced, &promotion).unwrap().is_some());
}

#[test]
fn a_fence_is_never_left_without_its_operation() {
    let op = switchover();
    let fenced = fence(&with(&record("dc1", 1, "dc1"), &op), &op, 1).unwrap().unwrap();
    assert!(matches!(release(&fenced, &op.id), Err(ChangeError::Fenced { .. })));
    let winner = record("dc2", 2, "dc2");
    let after = supersede(&fenced, &winner, Some(&op.id), "ann", 1).unwrap().unwrap();
    assert!(after.operation.is_none() && after.fence.is_some() && !after.names_us());
    assert!(operator_lift(&after).is_err());
}

#[test]
fn nobody_lifts_a_fence_that_an_operation_rests_on() {
    let fenced = operator_fence(&record("dc1", 1, "dc1"), "ann", 1).unwrap().unwrap();
    let promotion = Operation { kind: OperationKind::Promotion, ..switchover() };
    let held = take(&fenced, &promotion).unwrap().unwrap();
    assert!(matches!(operator_lift(&held), Err(ChangeError::Busy { .. })));
    assert!(matches!(
        still_acknowledged(&held, &promotion.id),
        Err(ChangeError::EvidenceGone { .. })
    ));
    let mut confirmed = held;
    confirmed.fence.as_mut().unwrap().ack = Some(ack());
    assert_eq!(still_acknowledged(&confirmed, &promotion.id), Ok(()));
    // The way back of the promotion leaves the operator's fence alone.
    let target = with(&record("dc2", 1, "dc1"), &promotion);
    let aborting = begin_abort(&target, &promotion.id).unwrap().unwrap();
    let proof = AbortBegun::seen(&aborting, &promotion.id).unwrap();
    let back = turn_back(&confirmed, &proof).unwrap().unwrap();
    assert!(back.fence.is_some() && back.operation.is_none());
}

#[test]
fn commit_needs_a_free_and_running_target() {
    let op = switchover();
    let target = with(&record("dc2", 1, "dc1"), &op);
    let next = commit(&target, &op.id, &attested(), &[], 9).unwrap().unwrap();
    assert_eq!((next.epoch, next.primary.as_str(), next.streamed), (Epoch(2), "dc2", false));
    assert_eq!(commit(&next, &op.id, &attested(), &[], 9), Ok(None));
    assert!(matches!(begin_abort(&next, &op.id), Err(ChangeError::Committed { .. })));
    let aborting = begin_abort(&target, &op.id).unwrap().unwrap();
    assert!(matches!(
        commit(&aborting, &op.id, &attested(), &[], 9),
        Err(ChangeError::Aborting { .. })
    ));
    let free = record("dc2", 1, "dc1");
    assert!(matches!(commit(&free, &op.id, &attested(), &[], 9), Err(ChangeError::Gone { .. })));
}

#[test]
fn a_proof_comes_only_from_the_record_that_counts() {
    let op = Operation { phase: Phase::Aborting, ..switchover() };
    assert!(AbortBegun::seen(&with(&record("dc1", 1, "dc1"), &op), &op.id).is_none());
    assert!(AbortBegun::seen(&with(&record("dc2", 1, "dc1"), &op), &op.id).is_some());
    assert!(AbortBegun::seen(&with(&record("dc2", 1, "dc1"), &switchover()), &op.id).is_none());
}

#[test]
fn who_was_overtaken_configures_nobody() {
    let op = Operation { phase: Phase::Committed, ..switchover() };
    let target = with(&record("dc2", 2, "dc2"), &op);
    assert_eq!(may_lead(&target, &op.id), Ok(()));
    let closed = record("dc2", 2, "dc2");
    assert!(matches!(may_lead(&closed, &op.id), Err(ChangeError::Gone { .. })));
    // dc1 has become primary again meanwhile: it must not be made a standby of dc2.
    let again = record("dc1", 3, "dc1");
    assert!(matches!(follow(&again, &target, &op.id), Err(ChangeError::Rule { .. })));
    let moved = with(&record("dc2", 3, "dc1"), &op);
    assert!(matches!(may_lead(&moved, &op.id), Err(ChangeError::NotPrimary { .. })));
    assert!(matches!(follow(&again, &moved, &op.id), Err(ChangeError::NotPrimary { .. })));
    assert!(matches!(
        may_lead(&with(&record("dc2", 1, "dc2"), &switchover()), &op.id),
        Err(ChangeError::EpochMoved { .. })
    ));
}

#[test]
fn followers_and_returners() {
    let op = switchover();
    let winner = with(&record("dc2", 2, "dc2"), &op);
    let fenced = fence(&with(&record("dc1", 1, "dc1"), &op), &op, 1).unwrap().unwrap();
    let follower = follow(&fenced, &winner, &op.id).unwrap().unwrap();
    assert_eq!((follower.epoch, &follower.fence), (Epoch(2), &None));
    assert!(!follower.names_us() && follower.operation.is_some());
    let stray = follow(&fenced, &winner, &"rejoin".into()).unwrap().unwrap();
    assert_eq!(stray.operation, None);
    let later = record("dc1", 3, "dc1");
    assert!(matches!(follow(&later, &winner, &op.id), Err(ChangeError::Rule { .. })));
    let returned = supersede(&record("dc1", 1, "dc1"), &winner, None, "ann", 5).unwrap().unwrap();
    assert!(returned.fence.is_some() && !returned.names_us());
    assert_eq!(supersede(&returned, &winner, None, "ann", 5), Ok(None));
    assert!(matches!(mark_streamed(&returned, Epoch(1)), Err(ChangeError::EpochMoved { .. })));
    assert!(matches!(operator_lift(&returned), Err(ChangeError::NotPrimary { .. })));
}

/// One act of somebody on the two records.
#[test]
fn a_promotion_commits_only_on_enough_evidence() {
    let hook = FencingEvidence::fenced_by_hook(Some(0), "off").unwrap();
    let promotion = Operation { kind: OperationKind::Promotion, ..switchover() };
    let mut held = with(&record("dc2", 1, "dc1"), &promotion);
    for (policy, with_hook, expected) in [
        ("attested", false, true),
        ("fenced-by-hook and attested", false, false),
        ("fenced-by-hook and attested", true, true),
        ("acknowledged", true, false),
        ("no formula", true, false),
    ] {
        held.policies.evidence = policy.into();
        let mut evidence = attested();
        if with_hook {
            evidence.add(hook.clone());
        }
        let result = commit(&held, &promotion.id, &evidence, &[], 9);
        let refused = matches!(&result, Err(ChangeError::NoEvidence { .. }));
        assert_eq!((result.is_ok(), refused), (expected, !expected), "{policy}: {result:?}");
        if let Ok(Some(next)) = result {
            let claim = next.claim.unwrap();
            let names: Vec<_> =
                claim.evidence.iter().chain(&claim.further_evidence).map(|e| e.name()).collect();
            let all: &[&str] =
                if with_hook { &["fenced-by-hook", "attested"] } else { &["attested"] };
            assert_eq!(names, all);
            assert!(next.operation.unwrap().all_evidence().map(|e| e.name()).eq(names));
        }
    }
    held.policies.evidence = "attested".into();
    let nothing = commit(&held, &promotion.id, &EvidenceSet::default(), &[], 9);
    assert!(matches!(nothing, Err(ChangeError::NoEvidence { .. })));
    let planned = with(&record("dc2", 1, "dc1"), &switchover());
    let nothing = commit(&planned, &promotion.id, &EvidenceSet::default(), &[], 9);
    assert!(matches!(nothing, Err(ChangeError::NoEvidence { .. })));
}

#[test]
fn a_promotion_commits_only_when_others_have_approved_it() {
    let approval = |by: &str| Approval { by: by.into(), at_us: 1, hash: "ab".into() };
    let document = SignedDocument {
        text: "{}".into(),
        algorithm: "ed25519".into(),
        public_key: String::new(),
        signature: String::new(),
    };
    for (needed, approvals, kind, expected) in [
        (0, vec![], OperationKind::Promotion, true),
        (1, vec![], OperationKind::Promotion, false),
        (1, vec![approval("ann")], OperationKind::Promotion, false),
        (1, vec![approval("bob")], OperationKind::Promotion, true),
        (2, vec![approval("bob"), approval("BOB")], OperationKind::Promotion, false),
        (2, vec![approval("bob"), approval("cid")], OperationKind::Promotion, true),
        (1, vec![], OperationKind::Switchover, true),
    ] {
        let operation = Operation { kind, approvals: approvals.clone(), ..switchover() };
        let mut held = with(&record("dc2", 1, "dc1"), &operation);
        held.policies.approvals = needed;
        let result = commit(&held, &operation.id, &attested(), &[], 9);
        let refused = matches!(&result, Err(ChangeError::NotApproved { .. }));
        assert_eq!(refused, !expected, "{needed} {kind} {approvals:?}: {result:?}");
        let sealed = seal(result, Some(&document));
        if let Ok(Some(next)) = &sealed {
            let operation = next.operation.as_ref().unwrap();
            assert_eq!(
                (&operation.document, &operation.approvals),
                (&Some(document.clone()), &approvals)
            );
        }
        assert_eq!(sealed.is_ok(), expected);
    }
}

#[test]
fn evidence_is_added_before_the_commit_only() {
    let hook = FencingEvidence::fenced_by_hook(Some(0), "off").unwrap();
    let line = JournalEntry {
        step: "fencer".into(),
        begun_at_us: 1,
        done_at_us: Some(2),
        note: String::new(),
        parts: Vec::new(),
    };
    let mut promotion = Operation { kind: OperationKind::Promotion, ..switchover() };
    promotion.evidence = attested().best().map(|one| one.recorded().clone());
    let held = with(&record("dc2", 1, "dc1"), &promotion);
    let lines = [line];
    let next = add_evidence(&held, &promotion.id, &hook, &lines).unwrap().unwrap();
    let operation = next.operation.as_ref().unwrap();
    assert!(operation.all_evidence().map(|e| e.name()).eq(["fenced-by-hook", "attested"]));
    assert_eq!(operation.journal, lines);
    assert_eq!(add_evidence(&next, &promotion.id, &hook, &lines), Ok(None));
    for (phase, kind) in [
        (Phase::Aborting, OperationKind::Promotion),
        (Phase::Committed, OperationKind::Promotion),
        (Phase::Running, OperationKind::Switchover),
    ] {
        let other = with(&held, &Operation { phase, kind, ..promotion.clone() });
        assert!(add_evidence(&other, &promotion.id, &hook, &[]).is_err(), "{phase:?} {kind}");
    }
}

#[derive(Clone, Copy, Debug)]
enum Act {
    TakeTarget,
    TakeSource,
    Fence,
    Acknowledge,
    Commit,
    BeginAbort,
    TurnBack,
    Release(bool),
    Follow,
    OperatorFence(bool),
    OperatorLift(bool),
    Supersede,
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let act = prop_oneof![
        Just(Act::TakeTarget),
        Just(Act::TakeSource),
        Just(Act::Fence),
        Just(Act::Acknowledge),
        Just(Act::Commit),
        Just(Act::BeginAbort),
        Just(Act::TurnBack),
        any::<bool>().prop_map(Act::Release),
        Just(Act::Follow),
        any::<bool>().prop_map(Act::OperatorFence),
        any::<bool>().prop_map(Act::OperatorLift),
        Just(Act::Supersede),
    ];
    proptest::collection::vec(act, 1..60)
}

struct World {
    source: FederationRecord,
    target: FederationRecord,
    operation: Operation,
    proof: Option<AbortBegun>,
}

impl World {
    /// What an executor does: it commits only on an acknowledgement of its own operation's fence,
    /// lets the source follow only what was committed, and releases only what has ended.
    fn act(&mut self, act: Act) -> Change {
        let id = self.operation.id.clone();
        let (source, target) = (&self.source, &self.target);
        let ended = target.epoch >= self.operation.next_epoch || self.proof.is_some();
        match act {
            Act::TakeTarget => take(target, &self.operation),
            Act::TakeSource if target.operation.is_some() => take(source, &self.operation),
            Act::Fence => fence(source, &self.operation, 1),
            Act::Acknowledge => {
                let mut next = source.clone();
                let Some(fence) = next.fence.as_mut() else { return Ok(None) };
                fence.ack = Some(ack());
                Ok(Some(next))
            }
            Act::Commit => {
                let planned = self.operation.kind == OperationKind::Switchover;
                let own = Some(&self.operation).filter(|_| planned);
                let held = planned || still_acknowledged(source, &id).is_ok();
                match FencingEvidence::acknowledged(source, own, None) {
                    Ok(evidence) if held => commit(target, &id, &evidence.into(), &[], 1),
                    Ok(_) | Err(_) => Ok(None),
                }
            }
            Act::BeginAbort => begin_abort(target, &id),
            Act::TurnBack => match &self.proof {
                Some(proof) => turn_back(source, proof),
                None => Ok(None),
            },
            Act::Release(true) if ended => release(target, &id),
            // A copy goes away with the new epoch, or on the way back.
            Act::Release(false) if target.names_us() => {
                supersede(source, target, Some(&id), "ann", 1)
            }
            Act::Release(false) if self.proof.is_some() => release(source, &id),
            Act::Follow if target.names_us() => follow(source, target, &id),
            Act::OperatorFence(true) => operator_fence(target, "ann", 1),
            Act::OperatorFence(false) => operator_fence(source, "ann", 1),
            Act::OperatorLift(true) => operator_lift(target),
            Act::OperatorLift(false) => operator_lift(source),
            Act::Supersede => supersede(source, target, None, "ann", 1),
            Act::TakeSource | Act::Release(_) | Act::Follow => Ok(None),
        }
    }

    fn on_target(act: Act) -> bool {
        matches!(
            act,
            Act::TakeTarget
                | Act::Commit
                | Act::BeginAbort
                | Act::Release(true)
                | Act::OperatorFence(true)
                | Act::OperatorLift(true)
        )
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]
    #[test]
    fn commit_and_abort_exclude_one_another(acts in acts(), planned in any::<bool>()) {
        let kind =
            if planned { OperationKind::Switchover } else { OperationKind::Promotion };
        let operation = Operation { kind, ..switchover() };
        let mut world = World {
            source: with(&record("dc1", 1, "dc1"), &operation),
            target: with(&record("dc2", 1, "dc1"), &operation),
            operation,
            proof: None,
        };
        let (mut committed, mut aborted) = (false, false);
        for act in acts {
            // Once closed, the same operation is not begun again: ids are unique.
            if aborted && matches!(act, Act::TakeTarget | Act::TakeSource) {
                continue;
            }
            let Ok(Some(next)) = world.act(act) else { continue };
            let before = if World::on_target(act) { &mut world.target } else { &mut world.source };
            prop_assert!(next.epoch >= before.epoch);
            *before = next;
            committed |= matches!(act, Act::Commit);
            if matches!(act, Act::BeginAbort) {
                aborted = true;
                world.proof = AbortBegun::seen(&world.target, &world.operation.id);
            }
            prop_assert!(!(committed && aborted), "both after {act:?}");
            // Two datacenters never both have the right to write (I2).
            let writes = |r: &FederationRecord| r.names_us() && r.fence.is_none();
            prop_assert!(!(writes(&world.source) && writes(&world.target)), "after {act:?}");
        }
    }
}
