//! Goal: in synchronous mode an acknowledged row is on whoever may be elected, whatever is killed
//! between any two writes, and the mistakes that would break this are caught.
//! Method: every state of `federator_model::sync` within the bounds that each test names.

use federator_model::check::{Findings, Reached, more_faults, run};
use federator_model::sync::{Fault, NO_LOSS, REACHED, Synchronous};
use federator_model::view::Mode;
use std::sync::Arc;

fn holds(name: &str, mode: Mode, rows: u8, faults: u8) {
    let reached = Arc::new(Reached::default());
    let faults = faults + more_faults();
    let (count, fault) = (1, Fault::None);
    let model = Synchronous { mode, count, rows, faults, fault, reached: reached.clone() };
    let Findings { broken, .. } = run(name, model, None);
    assert!(broken.is_empty(), "{broken:?}");
    for (at, what) in REACHED.iter().enumerate() {
        assert!(reached.times(at) > 0, "never reached: {what}");
    }
}

#[test]
fn plain_mode_loses_nothing_with_2_rows_2_faults() {
    holds("sync, plain", Mode::Sync, 2, 2);
}

#[test]
fn quorum_mode_loses_nothing_with_2_rows_2_faults() {
    holds("sync, quorum", Mode::Quorum, 2, 2);
}

fn is_caught(fault: Fault) {
    let reached = Arc::default();
    let (mode, count, rows, faults) = (Mode::Sync, 1, 2, 2);
    let model = Synchronous { mode, count, rows, faults, fault, reached };
    let Findings { broken, .. } = run(&format!("sync with {fault:?}"), model, Some(NO_LOSS));
    assert_eq!(broken, [NO_LOSS]);
}

#[test]
fn sync_before_the_names_is_caught() {
    is_caught(Fault::SyncBeforeNames);
}

#[test]
fn names_that_are_not_awaited_are_caught() {
    is_caught(Fault::NamesNotAwaited);
}

#[test]
fn a_forgotten_late_write_is_caught() {
    is_caught(Fault::LateWriteForgotten);
}

#[test]
fn a_lower_timeline_that_is_followed_is_caught() {
    is_caught(Fault::LowerTimelineFollowed);
}
