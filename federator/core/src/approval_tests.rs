//! Goal: an approval counts for the promotion that was shown, from somebody else, for an hour, and
//! for nothing that is materially different. Method: one plan, changed one thing at a time.
use super::*;
use crate::fixture::{NOW, ack, inventory, lose};
use crate::inventory::Inventory;
use crate::planner::promotion::{self, Intent};
use crate::planner::{Outcome, Request};

/// Not SHA-256, but different for different texts.
fn hash(text: &str) -> String {
    let sum = text.bytes().fold(7_u64, |sum, byte| sum.wrapping_mul(31) + u64::from(byte));
    format!("{sum:064x}")
}

fn lost() -> Inventory {
    let mut inventory = inventory();
    lose(&mut inventory, "dc1");
    inventory
}

fn planned(inventory: &Inventory, attest: &str, by: &str, now_us: i64) -> Plan {
    let policies = Policies::default();
    let id = format!("op-{now_us}").as_str().into();
    let request = Request { id, by: by.into(), now_us, force: false, policies };
    let intent = Intent { attest: Some(attest.into()), ..Intent::default() };
    match promotion::plan(inventory, &"dc2".into(), &intent, &request).outcome {
        Outcome::Plan(plan) => plan,
        other @ (Outcome::Refused(_) | Outcome::NothingToDo(_)) => panic!("{other:?}"),
    }
}

fn proposal(plan: &Plan) -> Proposal {
    let bound = LossBound::around(plan.expected_loss.as_ref().unwrap());
    Proposal::of(plan, "shop", &Policies::default(), (false, bound))
}

fn requested(proposal: &Proposal) -> Vec<Requested> {
    let hash = hash(&proposal.canonical());
    request(&[], Requested { hash, proposal: proposal.clone(), at_us: NOW, approvals: vec![] })
}

fn approved(proposal: &Proposal, by: &str, at_us: i64) -> Vec<Requested> {
    let list = requested(proposal);
    approve(&list, &list[0].hash, by, at_us).unwrap()
}

#[test]
fn two_runs_propose_the_same() {
    let inventory = lost();
    let first = proposal(&planned(&inventory, "no power", "ann", NOW));
    let later = planned(&inventory, "no power", "ann", NOW + 200_000);
    assert_eq!(first.differences(&proposal(&later)), Vec::<&str>::new());
    assert_ne!(later.id.as_str(), format!("op-{NOW}"), "the id is another one");
    // The bound is stated: then the whole document is the same, however the estimate grows.
    let stated = |plan: &Plan| {
        let max = MaxLoss { bytes: Some(64 << 20), span_us: Some(600_000_000) };
        let bound = LossBound::stated(max, plan.expected_loss.as_ref().unwrap());
        Proposal::of(plan, "shop", &Policies::default(), (false, bound)).canonical()
    };
    let much_later = planned(&inventory, "no power", "ann", NOW + 99_000_000);
    assert_eq!(stated(&later), stated(&much_later));
    assert!(stated(&later).contains("\"loss\":{\"bytes\":67108864,\"seconds\":600}"));
}

#[test]
fn the_canonical_form_is_pinned() {
    let text = proposal(&planned(&lost(), "no power", "ann", NOW)).canonical();
    assert_eq!(
        text,
        "{\"version\":1,\"federation\":\"shop\",\"from\":\"dc1\",\"to\":\"dc2\",\"next_epoch\":2,\
         \"by\":\"ann\",\"force\":false,\"policy\":\"acknowledged or lease-expired or \
         fenced-by-hook or attested\",\"evidence\":[{\"kind\":\"attested\",\"by\":\"ann\",\
         \"reason\":\"no power\"}],\"steps\":[\"take\",\"commit\",\"promote\",\"repoint\",\
         \"verify\",\"close\"],\"loss\":{\"bytes\":1048576,\"seconds\":64}}"
    );
}

#[test]
fn an_approval_counts_once_it_is_there_and_while_it_is_fresh() {
    let plan = planned(&lost(), "no power", "ann", NOW);
    let (now, estimate) = (proposal(&plan), plan.expected_loss.clone().unwrap());
    let judged = |list: &[Requested], at| granted(list, &now, (&estimate, 1), at, hash);
    assert_eq!(judged(&[], NOW), Err(vec!["nobody has asked for it".into()]));
    assert!(judged(&requested(&now), NOW).unwrap_err()[0].contains("0 of 1 approvals"));
    let list = approved(&now, "bob", NOW);
    for (at, counts) in [
        (NOW, true),
        (NOW + VALID_US, true),
        (NOW + VALID_US + 1, false),
        (NOW - CLOCK_US, true),
        (NOW - CLOCK_US - 1, false),
    ] {
        assert_eq!(judged(&list, at).is_ok(), counts, "{at}");
    }
    let why = judged(&list, NOW + VALID_US + 1).unwrap_err();
    assert!(why[0].contains("1 older than an hour"), "{why:?}");
    assert!(granted(&list, &now, (&estimate, 2), NOW, hash).is_err(), "one is not two");
    let twice = approve(&list, &list[0].hash, "Bob", NOW).unwrap();
    assert_eq!(twice[0].approvals.len(), 1, "the same person again");
    let both = approve(&list, &list[0].hash, "cid", NOW).unwrap();
    assert_eq!(granted(&both, &now, (&estimate, 2), NOW, hash).map(|a| a.len()), Ok(2));
}

#[test]
fn nobody_approves_their_own_and_nothing_unknown_is_approved() {
    let now = proposal(&planned(&lost(), "no power", "ann", NOW));
    let list = requested(&now);
    let full = list[0].hash.clone();
    for (hash, by, expected) in [
        (full.as_str(), "ann", ApprovalError::OwnRequest("ann".into())),
        (&full, " ANN", ApprovalError::OwnRequest("ANN".into())),
        (&full, " ", ApprovalError::Anonymous),
        ("ffffffff", "bob", ApprovalError::Unknown("ffffffff".into())),
        (&full[..7], "bob", ApprovalError::Unknown(full[..7].into())),
    ] {
        assert_eq!(approve(&list, hash, by, NOW), Err(expected));
    }
    assert!(approve(&list, &full[..60], "bob", NOW).is_ok());
    let mut other = list[0].clone();
    other.hash.replace_range(63.., "x");
    let both = request(&list, other);
    let error = approve(&both, &full[..60], "bob", NOW).unwrap_err();
    assert!(matches!(error, ApprovalError::Ambiguous(_)), "{error}");
}

#[test]
fn what_changes_materially_voids_it() {
    let inventory = lost();
    let plan = planned(&inventory, "no power", "ann", NOW);
    let list = approved(&proposal(&plan), "bob", NOW);
    let estimate = plan.expected_loss.clone().unwrap();
    let void = |now: &Proposal, estimate: &LossEstimate| {
        granted(&list, now, (estimate, 1), NOW, hash).unwrap_err().join(" ")
    };
    let mut acknowledged = planned(&inventory, "no power", "ann", NOW);
    acknowledged.evidence.insert(0, Evidence::Acknowledged { ack: ack() });
    let mut epoch = plan.clone();
    epoch.next_epoch = Epoch(7);
    let mut more_steps = plan.clone();
    more_steps.steps.retain(|step| step.kind != StepKind::Verify);
    for (now, what) in [
        (planned(&inventory, "no network", "ann", NOW), "the evidence"),
        (planned(&inventory, "no power", "eve", NOW), "who asks"),
        (acknowledged, "the evidence"),
        (epoch, "the epoch"),
        (more_steps, "the steps"),
    ] {
        let why = void(&proposal(&now), &estimate);
        assert!(why.contains("is void") && why.contains(what), "{what}: {why}");
    }
    let forced = Proposal { force: true, ..proposal(&plan) };
    assert!(void(&forced, &estimate).contains("--force"));
    let policy = Proposal { policy: "attested".into(), ..proposal(&plan) };
    assert!(void(&policy, &estimate).contains("the policy"));
    // The estimate may grow up to what was approved, and no further; unknown is more.
    let bound = proposal(&plan).loss;
    let at = |bytes_max, span_us_max| LossEstimate { bytes_max, span_us_max, ..estimate.clone() };
    let limit_us = i64::try_from(bound.seconds.unwrap()).unwrap() * 1_000_000;
    let within = at(bound.bytes, Some(limit_us));
    assert!(granted(&list, &proposal(&plan), (&within, 1), NOW, hash).is_ok());
    for more in [
        at(bound.bytes.map(|b| b + 1), Some(1)),
        at(Some(1), Some(limit_us + 1)),
        at(None, Some(1)),
        at(Some(1), None),
    ] {
        assert!(void(&proposal(&plan), &more).contains("more may be lost now"), "{more:?}");
    }
}

#[test]
fn a_request_that_was_changed_in_the_store_counts_for_nothing() {
    let plan = planned(&lost(), "no power", "ann", NOW);
    let (now, estimate) = (proposal(&plan), plan.expected_loss.clone().unwrap());
    let mut list = approved(&now, "bob", NOW);
    list[0].proposal.loss = LossBound { bytes: None, seconds: None };
    let why = granted(&list, &now, (&estimate, 1), NOW, hash).unwrap_err();
    assert!(why[0].contains("not what its hash says"), "{why:?}");
    let mut list = approved(&now, "bob", NOW);
    list[0].approvals[0].hash = "another".into();
    assert!(granted(&list, &now, (&estimate, 1), NOW, hash).is_err());
}

#[test]
fn bounds_around_an_estimate() {
    let estimate = |bytes_max, span_us_max| LossEstimate {
        known_bytes: 0,
        bytes_max,
        span_us_max,
        observation_age_us: None,
    };
    for (bytes, span_us, expected) in [
        (Some(0), Some(0), (Some(0), Some(0))),
        (Some(1), Some(1), (Some(1 << 20), Some(64))),
        (Some(600_000), Some(40_000_000), (Some(1 << 21), Some(128))),
        (None, None, (None, None)),
        (Some(u64::MAX), Some(i64::MAX), (Some(u64::MAX), Some(1 << 45))),
    ] {
        let bound = LossBound::around(&estimate(bytes, span_us));
        assert_eq!((bound.bytes, bound.seconds), expected, "{bytes:?} {span_us:?}");
        assert!(bound.allows(&estimate(bytes, span_us)));
    }
}

#[test]
fn old_requests_make_room() {
    let now = proposal(&planned(&lost(), "no power", "ann", NOW));
    let mut list = Vec::new();
    for number in 0..REQUESTS_MAX + 3 {
        let new = Requested {
            hash: format!("{number:064}"),
            proposal: now.clone(),
            at_us: NOW,
            approvals: vec![],
        };
        list = request(&list, new);
    }
    assert_eq!(list.len(), REQUESTS_MAX);
    assert_eq!(list[0].hash, format!("{:064}", 3));
}
