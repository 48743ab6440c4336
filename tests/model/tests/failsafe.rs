//! Goal: with the DCS gone for all or for some, in failsafe mode at most one node leads, whoever
//! promises, votes, restarts or answers late; and mistakes in it are caught.
//! Method: every state of `federator_model::failsafe` within the bounds and the number of steps
//! that each test names; a mistake is caught within fewer.

use federator_model::check::{Findings, Reached, more_faults, run, run_within};
use federator_model::failsafe::{Bounds, Failsafe, Fault, ONE_LEADS, ONE_WRITES, REACHED};
use std::sync::Arc;

const ENDED: Bounds =
    Bounds { ticks: 3, beats: 2, races: 1, vanishes: 1, faults: 0, lates: 0, edits: 0 };

fn model(majority: bool, bounds: Bounds, fault: Fault) -> (Failsafe, Arc<Reached>) {
    let reached = Arc::new(Reached::default());
    (Failsafe { majority, bounds, fault, reached: reached.clone() }, reached)
}

fn holds(name: &str, majority: bool, bounds: Bounds, steps: usize, reaches: &[usize]) {
    let bounds = Bounds { faults: bounds.faults + more_faults(), ..bounds };
    let (model, reached) = model(majority, bounds, Fault::None);
    let Findings { depth, broken, .. } = run_within(name, model, steps);
    assert!(broken.is_empty(), "{broken:?}");
    assert_eq!(depth, steps, "{name}: not every state within so many steps was visited");
    for what in reaches {
        assert!(reached.times(*what) > 0, "never reached: {}", REACHED[*what]);
    }
}

#[test]
fn all_members_with_1_restart_1_ended_lease() {
    holds("failsafe, all", false, Bounds { faults: 1, ..ENDED }, 16, &[0, 1, 2, 3]);
}

#[test]
fn a_majority_with_1_ended_lease() {
    holds("failsafe, majority", true, ENDED, 18, &[0, 1, 2, 3, 4, 5]);
}

#[test]
fn a_majority_that_is_given_up_with_1_ended_lease() {
    let bounds = Bounds { edits: 1, ..ENDED };
    holds("failsafe, from a majority to all", true, bounds, 13, &[0, 1, 2, 3, 4, 5]);
}

#[test]
fn all_members_with_1_late_request_1_ended_lease() {
    holds("failsafe, late request", false, Bounds { lates: 1, ..ENDED }, 15, &[0, 1, 2, 3]);
}

fn is_caught(fault: Fault, majority: bool, bounds: Bounds, property: &'static str) {
    let name = format!("failsafe with {fault:?}");
    let Findings { broken, .. } = run(&name, model(majority, bounds, fault).0, Some(property));
    assert!(broken.contains(&property), "{fault:?} is not caught: {broken:?}");
}

#[test]
fn a_promise_forgotten_by_a_restarted_agent_is_caught() {
    is_caught(Fault::PromiseForgotten, false, Bounds { faults: 1, ..ENDED }, ONE_LEADS);
}

#[test]
fn a_vote_beside_a_promise_is_caught() {
    is_caught(Fault::VoteBesidePromise, true, ENDED, ONE_LEADS);
}

#[test]
fn a_vote_of_a_former_leader_that_still_writes_is_caught() {
    is_caught(Fault::VoteOfAFormerLeader, true, ENDED, ONE_WRITES);
}

#[test]
fn a_member_that_is_not_counted_is_caught() {
    is_caught(Fault::DissenterIgnored, false, ENDED, ONE_LEADS);
}

#[test]
fn beats_without_an_answer_that_do_not_bind_are_caught() {
    is_caught(Fault::LastBeatsIgnored, true, Bounds { edits: 1, ..ENDED }, ONE_LEADS);
}

#[test]
fn a_right_counted_from_the_members_answers_is_caught() {
    is_caught(Fault::CountedFromTheAnswers, false, ENDED, ONE_LEADS);
}

#[test]
fn a_key_taken_beside_ones_own_promise_is_caught() {
    is_caught(Fault::OwnPromiseIgnored, false, ENDED, ONE_LEADS);
}
