//! Goal: who asks for which site grants, and what is written at a voter. Method: tables over the
//! healthy cluster of the scenarios.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test ends where a fact is missing")]

mod support;

use node_agent_core::grant::{NotGranted, Terms};
use node_agent_core::grants::{Deed, Keeper, Want, ballot, claim_is_over, deed, want};
use node_agent_core::observed::{Observed, RecordView};
use node_agent_core::time::{Boot, Fact};
use node_agent_wire::federation::{Evidence, FederationRecord, Operation, OperationKind, Phase};
use node_agent_wire::grant::{Before, Marker};
use node_agent_wire::{DcName, Epoch, MemberName};
use std::time::Duration;
use support::healthy::NOW;
use support::{apply, healthy};

fn observed(record: &str, more: &[(&str, &str)]) -> Observed {
    let mut observed = healthy::cluster();
    apply(&mut observed, "record", record).unwrap();
    for (key, value) in more {
        apply(&mut observed, key, value).unwrap();
    }
    observed
}

fn record(observed: &mut Observed) -> &mut FederationRecord {
    match &mut healthy::dcs(observed).record {
        RecordView::Present(keyed) => &mut keyed.value,
        RecordView::Absent | RecordView::Unreadable(_) => panic!("no record"),
    }
}

fn promotion(evidence: Evidence, phase: Phase) -> Operation {
    Operation {
        id: "op7".into(),
        kind: OperationKind::Promotion,
        from: Some("dc2".into()),
        to: "dc1".into(),
        next_epoch: Epoch(2),
        phase,
        by: "ann".into(),
        started_at_us: 0,
        evidence: Some(evidence),
        further_evidence: Vec::new(),
        approvals: Vec::new(),
        document: None,
        expected_loss: None,
        journal: Vec::new(),
        waived_vaults: std::collections::BTreeSet::new(),
        pre_sync: None,
    }
}

#[test]
fn the_leader_asks_for_what_its_record_says() {
    let hold = |epoch| Want::Hold { epoch: Epoch(epoch), ahead_of: None };
    let (watch, release) = (Want::Watch { epoch: Epoch(1) }, Want::Release { epoch: Epoch(1) });
    for (what, text, more, expected) in [
        ("primary", "epoch 1 primary dc1 lease", vec![], hold(1)),
        ("without the key", "epoch 1 primary dc1 lease", vec![("lease", "none")], Want::Nothing),
        ("without grants", "epoch 1 primary dc1", vec![], Want::Nothing),
        ("standby", "epoch 1 primary dc2 lease", vec![], watch.clone()),
        ("fenced, still stopping", "epoch 1 primary dc1 fence lease", vec![], hold(1)),
        ("stopped", "epoch 1 primary dc1 fence acked lease", vec![], release.clone()),
        ("a former primary", "epoch 1 primary dc2 fence acked lease", vec![], release),
        (
            "its epoch is over",
            "epoch 1 primary dc1 lease",
            vec![("peer dc2", "epoch 2 primary dc2")],
            watch,
        ),
    ] {
        assert_eq!(want(&observed(text, &more)), expected, "{what}");
    }
    // As long as the lease lasts, the last record counts when the DCS is out of reach.
    let mut cut = observed("epoch 1 primary dc1 lease", &[]);
    cut.last_record = Some(record(&mut cut).clone());
    cut.cluster = Fact::Unknown { since: NOW, tried: true };
    assert_eq!(want(&cut), hold(1));
}

#[test]
fn grants_are_claimed_ahead_only_for_a_running_promotion_that_rests_on_them() {
    let leases = || Evidence::LeaseExpired { voters: Vec::new() };
    let word = Evidence::Attested { by: "ann".into(), reason: "off".into(), at_us: 0 };
    let claim = Want::Hold { epoch: Epoch(2), ahead_of: Some("op7".into()) };
    let watch = Want::Watch { epoch: Epoch(1) };
    for (what, operation, expected) in [
        ("running", promotion(leases(), Phase::Running), claim),
        ("on somebody's word", promotion(word, Phase::Running), watch.clone()),
        ("turned back", promotion(leases(), Phase::Aborting), watch.clone()),
        (
            "of another datacenter",
            Operation { to: "dc3".into(), ..promotion(leases(), Phase::Running) },
            watch,
        ),
    ] {
        let mut observed = observed("epoch 1 primary dc2 lease", &[]);
        record(&mut observed).operation = Some(operation);
        assert_eq!(want(&observed), expected, "{what}");
    }
}

fn terms() -> Terms {
    let second = Duration::from_secs(1);
    Terms { holder_ttl: second * 10, clock_error_ppm: 0, stop_max: second, margin: second }
}

fn marker(holder: &str, epoch: u64) -> Marker {
    Marker {
        holder: holder.into(),
        epoch: Epoch(epoch),
        node: "pg1".into(),
        released: false,
        wait_ms: 12_000,
        operation: None,
        before: None,
        position: None,
    }
}

/// What dc1 does at a voter that nobody has renewed for 60 s.
fn done(want: &Want, found: Option<&Marker>, held: bool, sight: bool) -> Result<Deed, NotGranted> {
    let (dc, node, terms) = (DcName::from("dc1"), MemberName::from("pg1"), terms());
    let (wait, since): (Duration, Boot) = (terms.voter_ttl(), NOW - Duration::from_secs(60));
    let keeper = Keeper { dc: &dc, node: &node, terms: &terms, wait, majority_in_sight: sight };
    deed(want, keeper, found, &ballot(found, held, since), NOW)
}

#[test]
fn a_grant_is_taken_renewed_given_back_and_turned_back() {
    let hold = |epoch| Want::Hold { epoch: Epoch(epoch), ahead_of: None };
    let claim = Want::Hold { epoch: Epoch(2), ahead_of: Some("op7".into()) };
    let before = Some(Before { holder: "dc2".into(), epoch: Epoch(1) });
    let claimed = Marker { operation: Some("op7".into()), before, ..marker("dc1", 2) };
    let free = Marker { released: true, ..marker("dc2", 1) };
    let given = Marker { released: true, ..marker("dc1", 1) };
    let (own, other) = (marker("dc1", 1), marker("dc2", 1));
    let watch = Want::Watch { epoch: Epoch(1) };
    let release = Want::Release { epoch: Epoch(1) };
    for (what, want, found, sight, expected) in [
        ("never granted", hold(1), None, false, Deed::Hold(own.clone())),
        ("a renewal", hold(1), Some(&own), false, Deed::Hold(own.clone())),
        ("given back, and again", hold(1), Some(&given), false, Deed::Hold(own.clone())),
        ("without a majority", claim.clone(), Some(&other), false, Deed::Nothing),
        ("with one", claim.clone(), Some(&other), true, Deed::Hold(claimed.clone())),
        ("renewed all the same", claim, Some(&claimed), false, Deed::Hold(claimed.clone())),
        ("committed", hold(2), Some(&claimed), false, Deed::Hold(marker("dc1", 2))),
        ("turned back", watch.clone(), Some(&claimed), false, Deed::TurnBack(Some(free))),
        ("left as it is", watch.clone(), Some(&own), false, Deed::Nothing),
        ("another's", watch, Some(&other), false, Deed::Nothing),
        ("given back", release.clone(), Some(&own), false, Deed::Free(Some(given.clone()))),
        ("once", release.clone(), Some(&given), false, Deed::Nothing),
        ("not another's", release, Some(&other), false, Deed::Nothing),
    ] {
        assert_eq!(done(&want, found, false, sight), Ok(expected), "{what}");
    }
    let held = NotGranted::Held { holder: "dc2".into(), epoch: Epoch(1) };
    assert_eq!(done(&hold(2), Some(&other), true, true), Err(held));
}

#[test]
fn a_claim_is_over_when_its_operation_can_no_longer_be_committed() {
    let claimed = Marker { operation: Some("op7".into()), ..marker("dc1", 2) };
    let leases = || Evidence::LeaseExpired { voters: Vec::new() };
    for (what, operation, epoch, over) in [
        ("running", Some(promotion(leases(), Phase::Running)), 1, false),
        ("committed", Some(promotion(leases(), Phase::Committed)), 2, false),
        ("aborting", Some(promotion(leases(), Phase::Aborting)), 1, true),
        ("closed", None, 1, true),
        ("closed after its commit", None, 2, false),
    ] {
        let mut observed = observed("epoch 1 primary dc2 lease", &[]);
        let record = record(&mut observed);
        (record.operation, record.epoch) = (operation, Epoch(epoch));
        assert_eq!(claim_is_over(record, &claimed), over, "{what}");
    }
    let mut observed = observed("epoch 1 primary dc2 lease", &[]);
    assert!(!claim_is_over(record(&mut observed), &marker("dc1", 2)), "not taken ahead");
}
