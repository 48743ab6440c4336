//! Goal: whatever is cut, killed, delayed or typed, in whatever order, the invariants of
//! docs/federation-safety.md hold between datacenters, and the mistakes that would break them are
//! caught.
//! Method: every state of `federator_model::federation` within the bounds that each test names.

use federator_model::check::{Findings, Reached, more_faults, run};
use federator_model::federation::{
    Command, Fault, Federation, Hand, I2, I3, I4, I6, I7, May, NO_ROOM, REACHED, SAME_ROWS,
};
use std::sync::Arc;

/// What an operator may type.
type Allowed = fn(Command) -> bool;

fn planned(command: Command) -> bool {
    matches!(command, Command::Switchover(_) | Command::Resume | Command::Abort)
}

fn lost(command: Command) -> bool {
    matches!(command, Command::Promote(..) | Command::Rejoin(_) | Command::Resume | Command::Abort)
}

fn fenced(command: Command) -> bool {
    let hand = matches!(command, Command::Hand(Hand::Fence | Hand::Lift, _));
    hand || matches!(command, Command::Promote(_, false) | Command::Resume | Command::Abort)
}

fn promoted(command: Command) -> bool {
    matches!(command, Command::Promote(1 | 2, true))
}

fn everything(_: Command) -> bool {
    true
}

const FEDERATOR_FAULTS: May =
    May { kill: true, lose: true, give_up: true, crash: false, edit: false };
const HOST_FAULTS: May = May { kill: true, lose: false, give_up: false, crash: true, edit: true };

/// With three datacenters only the first row is there: who may write is looked at.
fn model(
    count: u8,
    (commands, allowed): (u8, Allowed),
    (faults, may): (u8, May),
    fault: Fault,
) -> (Federation, Arc<Reached>) {
    let reached = Arc::new(Reached::default());
    let rows = if count > 2 { 1 } else { 2 };
    let federation = Federation {
        count,
        commands,
        allowed,
        faults,
        may,
        rows,
        fault,
        compares_rows: false,
        reached: reached.clone(),
    };
    (federation, reached)
}

fn holds(
    name: &str,
    count: u8,
    commands: (u8, Allowed),
    (faults, may): (u8, May),
    must_reach: &[usize],
) {
    let faults = faults + more_faults();
    let (model, reached) = model(count, commands, (faults, may), Fault::None);
    let Findings { broken, .. } = run(name, model, None);
    for (at, what) in REACHED.iter().enumerate() {
        println!("{}: {what}", reached.times(at));
    }
    println!("{}: no room", reached.times(NO_ROOM));
    assert!(broken.is_empty(), "{broken:?}");
    for at in must_reach {
        assert!(reached.times(*at) > 0, "never reached: {}", REACHED[*at]);
    }
    assert_eq!(reached.times(NO_ROOM), 0, "the WAL of the model is too short for these bounds");
}

#[test]
fn planned_2_commands_1_fault() {
    holds("planned", 2, (2, planned), (1, FEDERATOR_FAULTS), &[0, 6, 7]);
}

#[test]
fn planned_with_hosts_lost_2_commands_1_fault() {
    holds("planned, hosts lost", 2, (2, planned), (1, HOST_FAULTS), &[0, 6]);
}

#[test]
fn planned_3_commands_0_faults() {
    holds("planned 3", 2, (3, planned), (0, FEDERATOR_FAULTS), &[0, 6]);
}

#[test]
fn lost_2_commands_1_fault() {
    holds("lost", 2, (2, lost), (1, FEDERATOR_FAULTS), &[2, 3, 4]);
}

#[test]
fn lost_with_hosts_lost_2_commands_1_fault() {
    holds("lost, hosts lost", 2, (2, lost), (1, HOST_FAULTS), &[2, 3, 4]);
}

#[test]
fn fenced_by_hand_3_commands_1_fault() {
    holds("fenced by hand", 2, (3, fenced), (1, FEDERATOR_FAULTS), &[1]);
}

#[test]
fn lost_3_commands_0_faults() {
    holds("lost 3", 2, (3, lost), (0, HOST_FAULTS), &[2, 3, 4, 8]);
}

#[test]
fn everything_2_commands_1_fault() {
    holds("everything", 2, (2, everything), (1, HOST_FAULTS), &[0]);
}

#[test]
fn three_datacenters_1_command_1_fault() {
    holds("three", 3, (1, everything), (1, FEDERATOR_FAULTS), &[0, 2, 4]);
}

#[test]
fn three_datacenters_promoted_twice() {
    holds("three, promoted", 3, (2, promoted), (0, FEDERATOR_FAULTS), &[2, 3, 4, 5]);
}

fn is_caught(fault: Fault, commands: (u8, Allowed), faults: (u8, May), property: &'static str) {
    let name = format!("federation with {fault:?}");
    let (mut model, _) = model(2, commands, faults, fault);
    model.compares_rows = property == SAME_ROWS;
    let Findings { broken, .. } = run(&name, model, Some(property));
    assert!(broken.contains(&property), "{fault:?} is not caught: {broken:?}");
}

#[test]
fn a_skipped_acknowledgement_is_caught() {
    is_caught(Fault::SkipAcknowledgement, (1, planned), (0, FEDERATOR_FAULTS), I2);
}

#[test]
fn a_commit_before_catch_up_is_caught() {
    is_caught(Fault::CommitBeforeCatchUp, (1, planned), (0, FEDERATOR_FAULTS), I3);
}

#[test]
fn an_epoch_that_is_ignored_on_return_is_caught() {
    is_caught(Fault::IgnoreEpochOnReturn, (1, lost), (0, FEDERATOR_FAULTS), I7);
}

#[test]
fn an_abort_after_the_commit_is_caught() {
    is_caught(Fault::AbortAfterCommit, (2, planned), (0, FEDERATOR_FAULTS), I2);
}

#[test]
fn a_promotion_by_hand_edit_is_caught() {
    is_caught(Fault::PromoteOnHandEdit, (0, planned), (1, HOST_FAULTS), I6);
}

#[test]
fn a_record_without_compare_and_set_is_caught() {
    is_caught(Fault::NoCompareAndSet, (2, planned), (2, FEDERATOR_FAULTS), I2);
}

#[test]
fn a_fence_that_is_lifted_without_proof_is_caught() {
    is_caught(Fault::LiftWithoutProof, (2, planned), (0, FEDERATOR_FAULTS), I2);
}

#[test]
fn a_configuration_that_is_written_unseen_is_caught() {
    is_caught(Fault::ConfiguredUnseen, (3, planned), (0, FEDERATOR_FAULTS), I4);
}

#[test]
fn a_take_that_is_given_back_unseen_is_caught() {
    is_caught(Fault::GivenBackUnseen, (2, planned), (1, FEDERATOR_FAULTS), I4);
}

/// A datacenter that was promoted, and the returned one that elected on its own, begin the same
/// timeline at the same position: no history tells them apart, the first record does.
#[test]
fn a_timeline_that_both_began_at_one_position_is_told_apart() {
    let (mut model, reached) = model(2, (2, lost), (1, HOST_FAULTS), Fault::None);
    model.compares_rows = true;
    let Findings { broken, .. } = run("both began one timeline", model, None);
    assert!(broken.is_empty(), "{broken:?}");
    for at in [8, 9] {
        assert!(reached.times(at) > 0 || at == 9, "never reached: {}", REACHED[at]);
    }
}

#[test]
fn a_divergence_that_is_judged_by_histories_alone_is_caught() {
    is_caught(Fault::ByHistoryAlone, (2, lost), (1, HOST_FAULTS), SAME_ROWS);
}
