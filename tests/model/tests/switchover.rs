//! Goal: a switchover moves the leadership without two nodes that write, without a lost row, and
//! without an end in which nobody leads, whoever dies half-way; and mistakes in it are caught.
//! Method: every state of `federator_model::switchover` within the bounds, and where a test names
//! a number of steps, within those; a mistake is caught within fewer.

use federator_model::check::{Findings, Reached, more_faults, run, run_within};
use federator_model::switchover::{
    Fault, GOES_ON, NO_LOSS, ONE_WRITES, REACHED, REQUEST, SMOOTH, Switchover,
};
use federator_model::view::Mode;
use std::sync::Arc;

fn model(mode: Mode, requests: u8, faults: u8, fault: Fault) -> (Switchover, Arc<Reached>) {
    let reached = Arc::new(Reached::default());
    let model = Switchover { mode, rows: 1, requests, faults, fault, reached: reached.clone() };
    (model, reached)
}

fn holds(
    name: &str,
    mode: Mode,
    requests: u8,
    faults: u8,
    steps: Option<usize>,
    reaches: &[usize],
) {
    let (model, reached) = model(mode, requests, faults + more_faults(), Fault::None);
    let Findings { depth, broken, .. } = match steps {
        Some(steps) => run_within(name, model, steps),
        None => run(name, model, None),
    };
    assert!(broken.is_empty(), "{broken:?}");
    let asked = steps.unwrap_or(depth);
    assert_eq!(depth, asked, "{name}: not every state within so many steps was visited");
    for what in reaches {
        assert!(reached.times(*what) > 0, "never reached: {}", REACHED[*what]);
    }
}

#[test]
fn asynchronous_with_1_row_1_request_1_fault() {
    holds("switchover, asynchronous", Mode::Async, 1, 1, Some(16), &[0, 1, 2, 3, 4, 6]);
}

#[test]
fn synchronous_with_1_row_1_request_1_fault() {
    holds("switchover, synchronous", Mode::Sync, 1, 1, Some(17), &[0, 1, 2, 3, 4, 6]);
}

#[test]
fn asynchronous_with_1_row_2_requests() {
    holds("switchover, two requests", Mode::Async, 2, 0, None, &[0, 1, 3, 5, 6]);
}

fn is_caught(fault: Fault, mode: Mode, bounds: (u8, u8), property: &'static str) {
    let name = format!("switchover with {fault:?}, {mode:?}");
    let (model, _) = model(mode, bounds.0, bounds.1, fault);
    let Findings { broken, .. } = run(&name, model, Some(property));
    assert!(broken.contains(&property), "{fault:?} is not caught: {broken:?}");
}

#[test]
fn a_key_released_before_postgresql_has_stopped_is_caught() {
    is_caught(Fault::ReleasedBeforeStopped, Mode::Async, (1, 1), ONE_WRITES);
}

#[test]
fn a_key_released_before_the_checkpoint_is_shipped_is_caught() {
    is_caught(Fault::ReleasedBeforeShipped, Mode::Async, (1, 0), SMOOTH);
    is_caught(Fault::ReleasedBeforeShipped, Mode::Sync, (1, 0), SMOOTH);
}

#[test]
fn a_key_that_outlives_its_dead_holder_is_caught() {
    is_caught(Fault::KeyForEver, Mode::Async, (1, 1), GOES_ON);
}

#[test]
fn a_dead_candidate_that_is_waited_for_is_caught() {
    is_caught(Fault::CandidateAwaited, Mode::Async, (1, 1), GOES_ON);
}

#[test]
fn a_later_request_that_is_cleared_is_caught() {
    is_caught(Fault::ClearedUnseen, Mode::Async, (2, 0), REQUEST);
}

#[test]
fn an_election_without_a_look_at_sync_is_caught() {
    is_caught(Fault::SyncIgnored, Mode::Sync, (1, 1), NO_LOSS);
}
