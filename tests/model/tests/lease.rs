//! Goal: whatever is killed, frozen, cut off or delayed, at most one node can acknowledge, and
//! the mistakes that would break this are caught.
//! Method: every state of `federator_model::lease` within the bounds that each test names.

use federator_model::check::{Findings, Reached, more_faults, run};
use federator_model::lease::{Fault, Lease, ONE_LEADS, ONE_WRITES, REACHED};
use std::sync::Arc;

/// How often each of these may happen.
#[derive(Clone, Copy, Default)]
struct Bounds {
    faults: u8,
    drifts: u8,
    vanishes: u8,
    lates: u8,
    pauses: u8,
    ttls: u8,
    long: bool,
}

fn model(bounds: Bounds, fault: Fault) -> (Lease, Arc<Reached>) {
    let reached = Arc::new(Reached::default());
    let Bounds { faults, drifts, vanishes, lates, pauses, ttls, long } = bounds;
    let reaches = reached.clone();
    let model =
        Lease { faults, drifts, vanishes, lates, pauses, ttls, long, fault, reached: reaches };
    (model, reached)
}

fn holds(name: &str, bounds: Bounds, reaches: &[usize]) {
    let bounds = Bounds { faults: bounds.faults + more_faults(), ..bounds };
    let (model, reached) = model(bounds, Fault::None);
    let Findings { broken, .. } = run(name, model, None);
    assert!(broken.is_empty(), "{broken:?}");
    for what in reaches {
        assert!(reached.times(*what) > 0, "never reached: {}", REACHED[*what]);
    }
}

#[test]
fn one_node_acknowledges_with_1_fault_1_drift_1_ended_lease() {
    let bounds = Bounds { faults: 1, drifts: 1, vanishes: 1, ..Bounds::default() };
    holds("lease 1", bounds, &[0, 1, 2, 3, 6, 7, 13]);
}

#[test]
fn one_node_acknowledges_with_1_fault_1_ended_lease_1_late_request() {
    let bounds = Bounds { faults: 1, vanishes: 1, lates: 1, ..Bounds::default() };
    holds("lease 2", bounds, &[5]);
}

#[test]
fn one_node_acknowledges_with_2_ended_leases_1_late_request() {
    let bounds = Bounds { vanishes: 2, lates: 1, ..Bounds::default() };
    holds("lease 3", bounds, &[4, 14]);
}

#[test]
fn one_node_acknowledges_with_maintenance_mode_begun_and_ended_1_fault_1_ended_lease() {
    let bounds = Bounds { faults: 1, vanishes: 1, pauses: 2, ..Bounds::default() };
    holds("lease 4", bounds, &[0, 8, 9, 10, 11]);
}

#[test]
fn one_node_acknowledges_with_the_ttl_raised_1_ended_lease() {
    let bounds = Bounds { vanishes: 1, ttls: 1, ..Bounds::default() };
    holds("lease 5", bounds, &[0, 12]);
}

#[test]
fn one_node_acknowledges_with_the_ttl_lowered_1_ended_lease() {
    let bounds = Bounds { vanishes: 1, ttls: 1, long: true, ..Bounds::default() };
    holds("lease 6", bounds, &[0, 12]);
}

#[test]
fn one_node_acknowledges_with_the_ttl_raised_1_ended_lease_1_late_request() {
    let bounds = Bounds { vanishes: 1, lates: 1, ttls: 1, ..Bounds::default() };
    holds("lease 7", bounds, &[0, 12, 13]);
}

#[test]
fn one_node_acknowledges_with_the_ttl_lowered_1_ended_lease_1_late_request() {
    let bounds = Bounds { vanishes: 1, lates: 1, ttls: 1, long: true, ..Bounds::default() };
    holds("lease 8", bounds, &[0, 12, 13]);
}

fn is_caught(fault: Fault, bounds: (u8, u8, u8, u8, u8, u8), property: &'static str) {
    let (faults, drifts, vanishes, lates, pauses, ttls) = bounds;
    let bounds = Bounds { faults, drifts, vanishes, lates, pauses, ttls, long: false };
    let name = format!("lease with {fault:?}");
    let Findings { broken, .. } = run(&name, model(bounds, fault).0, Some(property));
    assert!(broken.contains(&property), "{fault:?} is not caught: {broken:?}");
}

#[test]
fn a_new_ttl_counted_with_at_once_is_caught() {
    is_caught(Fault::NewTtlAtOnce, (0, 0, 1, 0, 0, 1), ONE_WRITES);
}

#[test]
fn a_lower_ttl_that_is_carried_at_once_is_caught() {
    is_caught(Fault::LowerTtlAtOnce, (0, 0, 1, 0, 0, 2), ONE_WRITES);
}

#[test]
fn a_key_taken_from_a_leader_left_running_is_caught() {
    is_caught(Fault::MarkUnseen, (0, 0, 1, 0, 2, 0), ONE_WRITES);
}

#[test]
fn a_deadline_lifted_before_the_mark_is_committed_is_caught() {
    is_caught(Fault::LiftedUncommitted, (0, 0, 1, 0, 2, 0), ONE_WRITES);
}

#[test]
fn a_mark_that_goes_before_the_guard_has_a_deadline_is_caught() {
    is_caught(Fault::MarkGoesFirst, (0, 0, 1, 0, 2, 0), ONE_WRITES);
}

#[test]
fn a_deadline_counted_in_passes_is_caught() {
    is_caught(Fault::DeadlineInPasses, (0, 0, 1, 0, 0, 0), ONE_WRITES);
}

#[test]
fn a_guard_above_the_ttl_is_caught() {
    is_caught(Fault::GuardAboveTtl, (0, 0, 1, 0, 0, 0), ONE_WRITES);
}

#[test]
fn absence_taken_for_expiry_is_caught() {
    is_caught(Fault::NoObserverWait, (0, 0, 1, 0, 0, 0), ONE_WRITES);
}

#[test]
fn a_right_counted_from_the_answer_is_caught() {
    is_caught(Fault::CountedFromTheAnswer, (0, 0, 1, 0, 0, 0), ONE_LEADS);
}

#[test]
fn clocks_that_drift_beyond_the_margin_are_caught() {
    is_caught(Fault::ClocksDriftMore, (0, 2, 1, 0, 0, 0), ONE_WRITES);
}

#[test]
fn a_key_taken_on_an_old_observer_wait_is_caught() {
    is_caught(Fault::TakenUnseen, (0, 0, 2, 0, 0, 0), ONE_LEADS);
}

#[test]
fn a_lost_leaders_key_replaced_on_an_old_observer_wait_is_caught() {
    is_caught(Fault::ReplacedUnseen, (0, 0, 1, 0, 0, 0), ONE_LEADS);
}

#[test]
fn an_own_key_taken_back_late_with_a_shorter_ttl_is_caught() {
    is_caught(Fault::TakenBackUnseen, (0, 0, 1, 1, 0, 1), ONE_WRITES);
}

#[test]
fn a_late_release_of_a_key_taken_anew_is_caught() {
    is_caught(Fault::ReleasedUnseen, (1, 0, 0, 1, 0, 0), ONE_LEADS);
}

/// Not a mistake of ours but the limit that docs/federation-safety.md names.
#[test]
fn sessions_that_run_before_the_guard_after_a_freeze_break_it() {
    is_caught(Fault::SessionsBeforeGuard, (1, 0, 1, 0, 0, 0), ONE_WRITES);
}
