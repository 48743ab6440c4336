use super::*;
use crate::postgres::{ControlData, ControlState, Running};
use node_agent_wire::{Lsn, SystemId, TimelineId};

fn at(seconds: u64) -> Boot {
    Boot(seconds * 1_000_000_000)
}

fn control() -> ControlData {
    ControlData {
        state: ControlState::InArchiveRecovery,
        system_id: SystemId::new("7000000000000000001"),
        timeline: TimelineId(1),
        checkpoint: Lsn(1),
        min_recovery_end: Lsn(1),
        min_recovery_timeline: TimelineId(1),
        rewindable: true,
    }
}

fn stopped() -> Postgres {
    Postgres::Stopped(control())
}

fn starting() -> Postgres {
    Postgres::Starting { since: at(0), standby: true, control: control() }
}

fn running(in_recovery: bool) -> Postgres {
    Postgres::Running(Box::new(Running {
        in_recovery,
        timeline: TimelineId(1),
        lsn: Lsn(1),
        receive_lsn: None,
        wal_read: false,
        replay_lsn: None,
        replay_paused: false,
        replayed_commit_at_us: None,
        receiver: None,
        senders: Vec::new(),
        slots: Vec::new(),
        sync_names: String::new(),
        system_id: SystemId::new("7000000000000000001"),
        server_version: 150_000,
        started_at_us: 0,
        pending_restart: false,
        outgrown: false,
        slot_wal_limit_bytes: None,
        restores: false,
    }))
}

fn count(starts: &Starts) -> u32 {
    starts.early_end().map_or(0, |end| end.count)
}

#[test]
fn pauses_grow_and_have_a_bound() {
    let seconds: Vec<u64> = (0..9).map(|count| pause(count).as_secs()).collect();
    assert_eq!(seconds, [0, 1, 2, 4, 8, 16, 30, 30, 30]);
    assert_eq!(pause(u32::MAX), PAUSE_MAX);
}

#[test]
fn an_end_in_recovery_is_counted_until_it_has_come_up() {
    let mut starts = Starts::default();
    for round in 1..4 {
        starts.begun();
        assert!(!starts.saw(at(round), true, &stopped()), "the start is under way");
        starts.work_ended(JobKind::Start, false);
        assert!(!starts.saw(at(round), false, &starting()));
        assert!(starts.saw(at(round), false, &stopped()));
        assert!(!starts.saw(at(round), false, &stopped()), "one end counts once");
        starts.because("FATAL: x".to_owned());
        let end = starts.early_end().expect("counted");
        assert_eq!((u64::from(end.count), end.at), (round, at(round)));
    }
    starts.begun();
    starts.saw(at(10), false, &running(true));
    starts.saw(at(15), false, &running(true));
    assert_eq!(count(&starts), 3, "it answers, and may still die in its replay");
    assert!(starts.saw(at(16), false, &stopped()));
    starts.begun();
    starts.saw(at(20), false, &running(true));
    starts.saw(at(30), false, &running(true));
    assert_eq!(count(&starts), 0);
    assert!(!starts.saw(at(31), false, &stopped()), "it had come up");
}

#[test]
fn a_primary_that_ran_and_a_stop_that_was_asked_for_are_no_failures() {
    let mut starts = Starts::default();
    starts.saw(at(1), false, &running(false));
    assert!(!starts.saw(at(2), false, &stopped()), "a primary that was killed");
    starts.saw(at(3), false, &running(true));
    for kind in [JobKind::Demote, JobKind::Rewind, JobKind::Clone] {
        starts.begun();
        starts.work_ended(kind, false);
        assert!(!starts.saw(at(4), false, &stopped()), "{kind:?}");
    }
    starts.work_ended(JobKind::Start, true);
    assert!(starts.saw(at(5), false, &stopped()), "a primary that did not start");
    assert!(!starts.saw(at(6), false, &Postgres::NoData));
    assert_eq!(count(&starts), 0, "another directory");
}

#[test]
fn only_the_reason_is_shown() {
    let log = "2026-01-01 LOG:  starting\n2026-01-01 [7] FATAL:  invalid data in file \"x\"\n\
               FATAL:  the database system is starting up\nLOG:  startup process exited\n\
               STATEMENT:  ALTER USER u PASSWORD 'secret'";
    assert_eq!(last_words(log), "FATAL: invalid data in file \"x\"");
    assert_eq!(last_words("LOG:  x PASSWORD 'secret'"), "its log gives no reason");
    assert_eq!(last_words(&format!("PANIC:  {}", "é".repeat(900))).chars().count(), SAID_MAX);
}
