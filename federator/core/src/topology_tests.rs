//! Goal: each thing that is wrong shows in one line with what to type. Method: a healthy federation
//! with one thing changed.
use super::*;
use crate::fixture::{
    inventory, lose, node_mut, operation, record, record_mut, request, three, view,
};
use crate::report;
use node_agent_wire::federation::OperationKind;

#[test]
fn a_healthy_federation_has_no_problems() {
    let inventory = inventory();
    assert_eq!(problems(&inventory), []);
    let report = report::status(&inventory, &request());
    let rows: Vec<(&str, DcRole, &str, &str)> = report
        .datacenters
        .iter()
        .map(|r| (r.dc.as_str(), r.role, r.state.as_str(), r.slots.as_str()))
        .collect();
    assert_eq!(
        rows,
        [("dc1", DcRole::Primary, "writable", "ok"), ("dc2", DcRole::Standby, "streaming", "ok")]
    );
    let lag = report.datacenters[1].lag.unwrap();
    assert_eq!((lag.bytes, lag.span_us, lag.age_us), (0, Some(0), 0));
    assert_eq!(report.datacenters[0].lag, None);
}

#[test]
fn lag_of_a_lost_primary_has_an_age() {
    let mut inventory = inventory();
    lose(&mut inventory, "dc1");
    let lag = report::status(&inventory, &request()).datacenters[1].lag.unwrap();
    assert_eq!((lag.bytes, lag.age_us), (1000, 800_000));
}

#[test]
fn each_problem_says_what_to_type() {
    type Case = (&'static str, &'static str, fn(&mut Inventory));
    let cases: [Case; 11] = [
        ("dc1 does not answer", "federator promote dc2", |i| lose(i, "dc1")),
        ("dc2 does not answer", "check its etcd", |i| lose(i, "dc2")),
        (
            "dc2 is read-only: its record names dc1 as primary and standby_cluster is missing",
            "federator rejoin dc2",
            |i| {
                view(i, "dc2").config.as_mut().unwrap().value.remove("standby_cluster");
            },
        ),
        ("op-1 to dc2 by ann is open", "federator resume, or federator abort", |i| {
            record_mut(i, "dc2").operation =
                Some(operation(OperationKind::Switchover, "dc1", "dc2"));
        }),
        ("epoch 1 is claimed twice", "federator resolve --keep", |i| {
            record_mut(i, "dc2").primary = "dc2".into();
        }),
        ("more than one datacenter accept writes", "at once", |i| {
            node_mut(i, "dc2").writable = true;
        }),
        ("dc1 was left behind: dc2 is primary now", "federator rejoin dc1", |i| {
            *record_mut(i, "dc2") = record("dc2", 2, "dc2");
        }),
        ("dc2 has no federation record", "federator add-dc dc2", |i| view(i, "dc2").record = None),
        ("slot dc2 missing on dc1-pg1", "wait for its agent", |i| {
            node_mut(i, "dc1").slots.clear();
        }),
        ("dc1 has no leader", "agents' logs", |i| view(i, "dc1").leader = None),
        ("does not stream from dc1; dc2-pg1: no route", "standby leader's log", |i| {
            node_mut(i, "dc2").replication_state = String::new();
            node_mut(i, "dc2").why = "no route".into();
        }),
    ];
    for (text, next, change) in cases {
        let mut inventory = inventory();
        change(&mut inventory);
        let found = problems(&inventory);
        let hit = found.iter().find(|p| p.text.contains(text));
        assert!(hit.is_some_and(|p| p.next.contains(next)), "{text}: {found:?}");
    }
}

#[test]
fn three_datacenters_have_a_source_each() {
    type Case = (&'static str, &'static str, fn(&mut Inventory));
    let follows_dc2 = |i: &mut Inventory| {
        i.sites.get_mut(&DcName::from("dc3")).unwrap().follows = Some("dc2".into());
    };
    assert_eq!(problems(&three()), []);
    let rows = report::status(&three(), &request()).datacenters;
    let sources: Vec<Option<&str>> =
        rows.iter().map(|row| row.source.as_ref().map(DcName::as_str)).collect();
    assert_eq!(sources, [None, Some("dc1"), Some("dc1")]);
    let cases: [Case; 4] = [
        ("dc3 has not taken epoch 2 over yet", "by themselves", |i| {
            for dc in ["dc1", "dc2"] {
                let record = record_mut(i, dc);
                (record.epoch, record.primary) = (Epoch(2), "dc2".into());
            }
        }),
        ("dc3 was not confirmed streaming in epoch 1", "its agents confirm it", |i| {
            record_mut(i, "dc3").streamed = false;
        }),
        ("dc3 follows dc1, and is to follow dc2", "federator rejoin dc3", |i| {
            i.sites.get_mut(&DcName::from("dc3")).unwrap().follows = Some("dc2".into());
        }),
        ("dc3 follows dc2, which does not answer", "rejoin dc3 makes it follow dc1", |i| {
            let config = &mut view(i, "dc3").config.as_mut().unwrap().value;
            config["standby_cluster"]["host"] = "dc2".into();
            let nodes = view(i, "dc2").node_entries();
            record_mut(i, "dc1").members.get_mut(&DcName::from("dc2")).unwrap().nodes = nodes;
            i.sites.get_mut(&DcName::from("dc3")).unwrap().follows = Some("dc2".into());
            lose(i, "dc2");
        }),
    ];
    for (text, next, change) in cases {
        let mut inventory = three();
        change(&mut inventory);
        let found = problems(&inventory);
        let hit = found.iter().find(|p| p.text.contains(text));
        assert!(hit.is_some_and(|p| p.next.contains(next)), "{text}: {found:?}");
    }
    let mut chain = three();
    follows_dc2(&mut chain);
    let config = &mut view(&mut chain, "dc3").config.as_mut().unwrap().value;
    config["standby_cluster"]["host"] = "dc2".into();
    assert_eq!(problems(&chain), []);
    assert_eq!(report::status(&chain, &request()).datacenters[2].source, Some("dc2".into()));
}
