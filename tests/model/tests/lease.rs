//! Goal: whatever is killed, frozen, cut off or delayed, at most one node can acknowledge, and
//! the mistakes that would break this are caught.
//! Method: every state of `federator_model::lease` within the bounds that each test names.

use federator_model::check::{Findings, Reached, more_faults, run};
use federator_model::lease::{Fault, Lease, ONE_LEADS, ONE_WRITES, REACHED};
use std::sync::Arc;

/// Faults, drifts, ended leases, late requests.
type Bounds = (u8, u8, u8, u8);

fn model(bounds: Bounds, fault: Fault) -> (Lease, Arc<Reached>) {
    let reached = Arc::new(Reached::default());
    let (faults, drifts, vanishes, lates) = bounds;
    let model = Lease { faults, drifts, vanishes, lates, fault, reached: reached.clone() };
    (model, reached)
}

fn holds(name: &str, bounds: Bounds) -> Arc<Reached> {
    let bounds = (bounds.0 + more_faults(), bounds.1, bounds.2, bounds.3);
    let (model, reached) = model(bounds, Fault::None);
    let Findings { broken, .. } = run(name, model, None);
    assert!(broken.is_empty(), "{broken:?}");
    reached
}

#[test]
fn one_node_acknowledges_with_1_fault_1_drift_1_ended_lease() {
    let reached = holds("lease 1", (1, 1, 1, 0));
    for what in [0, 1, 2, 3, 6, 7] {
        assert!(reached.times(what) > 0, "never reached: {}", REACHED[what]);
    }
}

#[test]
fn one_node_acknowledges_with_1_fault_1_ended_lease_1_late_request() {
    let reached = holds("lease 2", (1, 0, 1, 1));
    assert!(reached.times(5) > 0, "never reached: {}", REACHED[5]);
}

#[test]
fn one_node_acknowledges_with_2_ended_leases_1_late_request() {
    let reached = holds("lease 3", (0, 0, 2, 1));
    assert!(reached.times(4) > 0, "never reached: {}", REACHED[4]);
}

fn is_caught(fault: Fault, bounds: Bounds, property: &'static str) {
    let name = format!("lease with {fault:?}");
    let Findings { broken, .. } = run(&name, model(bounds, fault).0, Some(property));
    assert!(broken.contains(&property), "{fault:?} is not caught: {broken:?}");
}

#[test]
fn a_deadline_counted_in_passes_is_caught() {
    is_caught(Fault::DeadlineInPasses, (0, 0, 1, 0), ONE_WRITES);
}

#[test]
fn a_guard_above_the_ttl_is_caught() {
    is_caught(Fault::GuardAboveTtl, (0, 0, 1, 0), ONE_WRITES);
}

#[test]
fn absence_taken_for_expiry_is_caught() {
    is_caught(Fault::NoObserverWait, (0, 0, 1, 0), ONE_WRITES);
}

#[test]
fn a_right_counted_from_the_answer_is_caught() {
    is_caught(Fault::CountedFromTheAnswer, (0, 0, 1, 0), ONE_LEADS);
}

#[test]
fn clocks_that_drift_beyond_the_margin_are_caught() {
    is_caught(Fault::ClocksDriftMore, (0, 2, 1, 0), ONE_WRITES);
}

#[test]
fn a_key_taken_on_an_old_observer_wait_is_caught() {
    is_caught(Fault::TakenUnseen, (0, 0, 2, 0), ONE_LEADS);
}

#[test]
fn a_late_release_of_a_key_taken_anew_is_caught() {
    is_caught(Fault::ReleasedUnseen, (1, 0, 0, 1), ONE_LEADS);
}

/// Not a mistake of ours but the limit that docs/federation-safety.md names.
#[test]
fn sessions_that_run_before_the_guard_after_a_freeze_break_it() {
    is_caught(Fault::SessionsBeforeGuard, (1, 0, 1, 0), ONE_WRITES);
}
