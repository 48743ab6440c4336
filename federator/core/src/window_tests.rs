//! Tables of windows, and of what has changed since a plan was agreed to.
use super::*;
use crate::fixture::{inventory, lose, record, record_mut, request, view};
use crate::planner::switchover;
use serde_json::json;

const SECOND: i64 = 1_000_000;

#[test]
fn windows_are_read_with_their_zones() {
    let now = 100 * SECOND;
    let at = |text| Window::at(text, now).map(|w| (w.from_us / SECOND, w.to_us / SECOND));
    let between = |text| Window::between(text, now).map(|w| (w.from_us / SECOND, w.to_us / SECOND));
    assert_eq!(at("1970-01-01T00:05:00Z"), Ok((300, 360)));
    assert_eq!(at("1970-01-01T01:05:00+01:00"), Ok((300, 360)));
    assert_eq!(at("1970-01-01T00:01:00Z"), Ok((60, 120)), "a minute for looking again");
    let hour = "1970-01-01T00:00:00Z/1970-01-01T02:00:00+01:00";
    assert_eq!(between(hour), Ok((0, 3600)));
    for (error, part) in [
        (at("1970-01-01T00:05:00"), "time zone is missing"),
        (at("tonight"), "\"tonight\": the time was not understood"),
        (at("1970-01-01T00:00:00Z"), "is over since 40 s"),
        (between("1970-01-01T00:05:00Z"), "is not a window"),
        (between("1970-01-01T00:05:00Z/"), "not understood"),
        (between("Sun 02:00/Sun 04:00"), "\"Sun 02:00\""),
        (between("1970-01-01T00:05:00Z/1970-01-01T00:04:00Z"), "ends before it begins"),
        (between("1970-01-01T00:00:00Z/1970-01-01T00:00:30Z"), "is over since 70 s"),
    ] {
        let told = error.expect_err(part).to_string();
        assert!(told.contains(part), "{part}: {told}");
    }
}

#[test]
fn a_window_is_open_up_to_its_end() {
    let window = Window { from_us: 10, to_us: 20 };
    for (now, expected) in
        [(9, Place::Ahead(1)), (10, Place::Open), (20, Place::Open), (21, Place::Over(1))]
    {
        assert_eq!(window.place(now), expected, "{now}");
    }
    for (left, every) in [(1, 10), (29, 10), (30, 30), (300, 300), (3599, 300), (7200, 3600)] {
        assert_eq!(line_every(left * SECOND), every * SECOND, "{left} s left");
    }
}

fn agreed() -> Agreed {
    let answer = switchover::plan(&inventory(), &"dc2".into(), &request());
    match &answer.outcome {
        Outcome::Plan(plan) => Agreed::of(plan, &answer.checklist),
        other @ (Outcome::NothingToDo(_) | Outcome::Refused(_)) => panic!("no plan: {other:?}"),
    }
}

type Change = fn(&mut Inventory);

#[test]
fn what_has_changed_since_decides() {
    let look = |change: Change| {
        let mut inventory = inventory();
        change(&mut inventory);
        let later = crate::planner::Request { id: "op-2".into(), now_us: 77, ..request() };
        let answer = switchover::plan(&inventory, &"dc2".into(), &later);
        again(&agreed(), answer, &inventory)
    };
    assert!(matches!(look(|_| {}), Again::Begin(_)), "another id and time are no difference");
    let pause: Change = |i| {
        let config = &mut view(i, "dc1").config.as_mut().unwrap().value;
        config.insert("pause".into(), json!(true));
    };
    for (what, change) in [("maintenance", pause), ("silence", |i| lose(i, "dc2"))] {
        assert!(matches!(look(change), Again::NotYet(_)), "{what} may pass");
    }
    let moved: Change = |i| {
        *record_mut(i, "dc1") = record("dc1", 3, "dc1");
        *record_mut(i, "dc2") = record("dc2", 3, "dc1");
    };
    let away: Change = |i| {
        *record_mut(i, "dc1") = record("dc1", 2, "dc2");
        *record_mut(i, "dc2") = record("dc2", 2, "dc2");
    };
    for (change, part) in
        [(moved, "it was to begin epoch 2, now 4"), (away, "and epoch 2 has begun since")]
    {
        match look(change) {
            Again::Differs(found) => assert!(found.concat().contains(part), "{found:?}"),
            other @ (Again::Begin(_) | Again::NotYet(_)) => panic!("{part}: {other:?}"),
        }
    }
}

#[test]
fn every_difference_is_named() {
    let base = Agreed { followers: ["dc3".into()].into(), ..agreed() };
    type Edit = fn(&mut Agreed);
    let edits: [(Edit, &str); 7] = [
        (|a| a.to = "dc9".into(), "now from dc1 to dc9"),
        (|a| a.next_epoch = Epoch(9), "now 9"),
        (|a| a.followers.clear(), "dc3 does not answer any more"),
        (|a| a.followers = ["dc3".into(), "dc4".into()].into(), "dc4 did not answer then"),
        (|a| a.steps.truncate(2), "its steps are others"),
        (|a| a.warnings = ["way back".into()].into(), "\"way back\" warns now"),
        (|a| a.version = 2, "does not warn any more"),
    ];
    for (edit, part) in edits {
        let mut now = base.clone();
        edit(&mut now);
        assert_ne!(base.canonical(), now.canonical(), "{part}");
        let found = base.differences(&now);
        assert!(found.len() == 1 && found[0].contains(part), "{part}: {found:?}");
    }
    assert_eq!(base.differences(&base), Vec::<String>::new());
}
