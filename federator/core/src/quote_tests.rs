//! Goal: the quote says what the agents found, adds up, and never makes a number up.

use super::*;
use crate::fixture::{NOW, inventory, node_mut, operation, view};
use crate::history::Outcome;
use node_agent_wire::federation::OperationKind;
use std::collections::BTreeMap;

const MB: u64 = 1 << 20;

fn rewind(bytes: u64) -> Examination {
    Examination {
        fate: Fate::Rewind,
        why: "96 bytes beyond 0/3000000 on timeline 1 are its own".into(),
        fork: Some((TimelineId(1), Lsn(0x300_0000))),
        rewind_bytes: Some(bytes),
        rewind_bytes_max: Some(200 * MB),
        ..Examination::default()
    }
}

fn copy() -> Examination {
    Examination {
        fate: Fate::Copy,
        why: "there is no data directory".into(),
        copy_methods: vec!["basebackup".into()],
        ..Examination::default()
    }
}

fn follow(end: u64) -> Examination {
    Examination {
        fate: Fate::Follow,
        why: "all of it".into(),
        end: Lsn(end),
        ..Examination::default()
    }
}

fn silent() -> Fact<Examination> {
    Fact::Unknown { since_us: NOW, why: "no answer".into() }
}

/// dc2 returns to dc1, which holds 90 MB. Its leader is the first of these nodes.
fn returned(nodes: &[Fact<Examination>]) -> Inventory {
    let mut all = inventory();
    node_mut(&mut all, "dc1").lsn = Lsn(50 * MB);
    let size = Examination { data_bytes: Some(90 * MB), ..Examination::default() };
    view(&mut all, "dc1").examined = [("dc1-pg1".into(), Fact::Known(size))].into();
    let named = |(at, fact): (usize, &Fact<Examination>)| {
        (MemberName::new(format!("dc2-pg{}", at + 1)), fact.clone())
    };
    view(&mut all, "dc2").examined = nodes.iter().enumerate().map(named).collect();
    all
}

fn quote(all: &Inventory) -> Quote {
    of(all, &"dc2".into(), &"dc1".into()).unwrap()
}

#[test]
fn one_node_crosses_and_the_others_take_from_it() {
    let known = |found: Examination| Fact::Known(found);
    for (name, nodes, between, within) in [
        ("rewinds", vec![known(rewind(40 * MB)), known(rewind(30 * MB))], 40, 30),
        ("a copy and a rewind", vec![known(copy()), known(rewind(30 * MB))], 90, 30),
        ("copies", vec![known(copy()), known(copy()), known(copy())], 90, 180),
        ("nothing but WAL", vec![known(follow(10 * MB)), known(follow(20 * MB))], 40, 30),
        (
            "before PostgreSQL 14 every rewind crosses",
            vec![
                known(rewind(40 * MB)),
                known(Examination { needs_primary: true, ..rewind(30 * MB) }),
            ],
            70,
            0,
        ),
    ] {
        let found = quote(&returned(&nodes));
        let sums = (found.between.bytes / MB, found.within.bytes / MB);
        assert_eq!(sums, (between, within), "{name}");
        assert!(found.between.unknown.is_empty() && found.within.unknown.is_empty(), "{name}");
    }
}

#[test]
fn what_is_not_known_is_no_number() {
    let unasked = Examination { rewind_bytes: None, bytes_unknown: "too slow".into(), ..rewind(0) };
    let pgbackrest = Examination { copy_methods: vec!["pgbackrest".into()], ..copy() };
    let nodes = [Fact::Known(rewind(MB)), silent(), Fact::Known(unasked), Fact::Known(pgbackrest)];
    let found = quote(&returned(&nodes));
    assert_eq!(found.within.unknown, ["dc2-pg2".into(), "dc2-pg3".into()]);
    assert_eq!(found.within.bytes, 0);
    assert_eq!(found.nodes[3].route, Route::Method("pgbackrest".into()));
    let text = found.lines().join("\n");
    for words in [
        "dc2-pg2  unknown  no answer",
        "bytes not known: too slow",
        "by pgbackrest, bytes not known: pgbackrest does not say",
        "within dc2, after that: not known of dc2-pg2, dc2-pg3",
    ] {
        assert!(text.contains(words), "{words} in\n{text}");
    }
    let mut all = returned(&[Fact::Known(copy())]);
    view(&mut all, "dc1").examined = [("dc1-pg1".into(), silent())].into();
    assert_eq!(quote(&all).nodes[0].bytes, Bytes::Unknown("no answer".into()));
    assert_eq!(of(&inventory(), &"dc2".into(), &"dc1".into()), None, "nobody was asked");
}

#[test]
fn who_crosses_is_not_known_without_a_leader() {
    let mut all = returned(&[Fact::Known(rewind(20 * MB)), Fact::Known(rewind(30 * MB))]);
    view(&mut all, "dc2").leader = None;
    let found = quote(&all);
    assert_eq!((found.between.bytes / MB, found.within.bytes / MB), (30, 20), "the larger one");
    assert!(found.lines().iter().any(|line| line.contains("has no leader now")));
}

#[test]
fn an_operator_is_told_that_nothing_moves() {
    let stuck = Examination { fate: Fate::Operator, why: "empty it".into(), ..copy() };
    let found = quote(&returned(&[Fact::Known(stuck)]));
    assert_eq!(found.nodes[0].route, Route::Nowhere);
    assert!(found.lines()[1].ends_with("operator empty it"), "{:?}", found.lines());
}

fn closed(id: &str, copies: Vec<MeasuredCopy>) -> ClosedOperation {
    let mut operation = operation(OperationKind::Rejoin, "dc1", "dc2");
    operation.id = id.into();
    ClosedOperation { copies, ..ClosedOperation::new(&operation, Outcome::Done, NOW, None) }
}

fn measured(dc: &str, between: bool, mb: u64) -> MeasuredCopy {
    let (dc, node) = (DcName::from(dc), MemberName::new(format!("{dc}-pg1")));
    MeasuredCopy { dc, node, between, bytes: 2 * mb * MB, took_ms: 2000 }
}

#[test]
fn the_rate_says_what_it_rests_on() {
    let (own, other) = (measured("dc2", true, 7), measured("dc3", true, 20));
    let inside = measured("dc2", false, 60);
    let history = [closed("op-1", vec![own, inside]), closed("op-2", vec![other])];
    let by = |id: &str, dc: &str| Basis::Measured(id.into(), MemberName::new(format!("{dc}-pg1")));
    for (name, history, dc, between, limit, expected, basis) in [
        ("nothing", &history[..0], "dc2", true, None, 10, Basis::Assumed),
        ("nothing within", &history[..0], "dc2", false, None, 100, Basis::Assumed),
        ("a limit", &history[..0], "dc2", true, Some(5), 5, Basis::Limit),
        ("its own", &history[..], "dc2", true, None, 7, by("op-1", "dc2")),
        ("another one's", &history[..], "dc4", true, None, 20, by("op-2", "dc3")),
        ("within", &history[..], "dc2", false, None, 60, by("op-1", "dc2")),
        ("a lower limit", &history[..], "dc2", true, Some(5), 5, Basis::Limit),
        ("a higher limit", &history[..], "dc2", true, Some(9), 7, by("op-1", "dc2")),
    ] {
        let found = rate(history, &dc.into(), between, limit.map(|mb: u64| mb * MB));
        assert_eq!(found, Rate { bytes_s: expected * MB, basis }, "{name}");
    }
    let mut all = returned(&[Fact::Known(rewind(70 * MB))]);
    assert!(quote(&all).between.to_string().ends_with("(assumed: no copy was measured here yet)"));
    view(&mut all, "dc1").history = history.to_vec();
    let found = quote(&all);
    let words = "70 MB, 10 s at 7168 kB/s (measured: dc2-pg1 in op-1)";
    assert_eq!(found.between.to_string(), words);
}

#[test]
fn a_quote_for_people() {
    let mut all = returned(&[Fact::Known(rewind(52 * MB)), Fact::Known(copy())]);
    all.sites.get_mut(&DcName::from("dc2")).unwrap().seed.max_rate = Some(2 * MB);
    assert_eq!(
        quote(&all).lines(),
        [
            "The nodes of dc2, as their agents find them (nothing was changed):",
            "  dc2-pg1  rewind   from dc1, 52 MB (at most 200 MB); 96 bytes beyond 0/3000000 on \
             timeline 1 are its own",
            "  dc2-pg2  copy     within dc2, 90 MB; there is no data directory",
            "  from dc1 to dc2: 52 MB, 26 s at 2048 kB/s (the configured limit)",
            "  within dc2, after that: 90 MB, 1 s at 100 MB/s (assumed: no copy was measured here \
             yet)",
        ]
    );
}

#[test]
fn a_reseed_counts_every_node() {
    let (dc1, dc2) = (DcName::from("dc1"), DcName::from("dc2"));
    let mut all = returned(&[]);
    assert_eq!(
        reseed(&all, &dc2, &dc1),
        "90 MB, 9 s at 10 MB/s (assumed: no copy was measured here yet) from dc1"
    );
    let member = view(&mut all, "dc2").members.values().next().unwrap().clone();
    view(&mut all, "dc2").members =
        ["dc2-pg1", "dc2-pg2", "dc2-pg3"].map(|name| (name.into(), member.clone())).into();
    let three = reseed(&all, &dc2, &dc1);
    assert!(three.contains("then 180 MB, 2 s at 100 MB/s"), "{three}");
    view(&mut all, "dc1").examined = BTreeMap::new();
    let unasked = reseed(&all, &dc2, &dc1);
    assert!(unasked.contains("not known: the leader of dc1 was not asked"), "{unasked}");
    all.sites.get_mut(&dc2).unwrap().seed.methods = vec!["pgbackrest".into()];
    assert!(reseed(&all, &dc2, &dc1).contains("filled by pgbackrest"));
}
