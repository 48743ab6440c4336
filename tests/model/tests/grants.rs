//! Goal: two datacenters in lease mode never both acknowledge, whatever is late, lost, forgotten or
//! killed, and the mistakes that would break this are caught.
//! Method: every state of `federator_model::federation::grants` within the bounds of each test.

use federator_model::check::{Findings, Reached, more_faults, run};
use federator_model::federation::grants::{Fault, Grants, ONE, REACHED};
use std::sync::Arc;

#[test]
fn one_datacenter_acknowledges_with_1_drift_1_kill() {
    let reached = Arc::new(Reached::default());
    let (kills, fault) = (1 + more_faults(), Fault::None);
    let model = Grants { drifts: 1, kills, fault, reached: reached.clone() };
    let Findings { broken, .. } = run("grants", model, None);
    assert!(broken.is_empty(), "{broken:?}");
    for (at, what) in REACHED.iter().enumerate() {
        assert!(reached.times(at) > 0, "never reached: {what}");
    }
}

fn is_caught(fault: Fault, drifts: u8) {
    let model = Grants { drifts, kills: 0, fault, reached: Arc::default() };
    let Findings { broken, .. } = run(&format!("grants with {fault:?}"), model, Some(ONE));
    assert_eq!(broken, [ONE]);
}

#[test]
fn grants_that_are_released_early_are_caught() {
    is_caught(Fault::ReleasedEarly, 0);
}

#[test]
fn absence_taken_for_expiry_is_caught() {
    is_caught(Fault::NoObserverWait, 0);
}

#[test]
fn a_right_counted_from_the_answer_is_caught() {
    is_caught(Fault::CountedFromTheAnswer, 1);
}

#[test]
fn a_ttl_without_time_to_stop_is_caught() {
    is_caught(Fault::NoTimeToStop, 1);
}

#[test]
fn clocks_that_part_further_are_caught() {
    is_caught(Fault::ClocksDriftMore, 2);
}

#[test]
fn a_grant_that_is_taken_unseen_is_caught() {
    is_caught(Fault::TakenUnseen, 0);
}

#[test]
fn one_grant_taken_for_a_majority_is_caught() {
    is_caught(Fault::OneIsEnough, 0);
}
