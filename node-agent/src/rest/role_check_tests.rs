//! Goal: every path of contract B.3 on every kind of node. Method: one table of nodes by paths,
//! and tables for what the query adds.

use super::query::Query;
use super::role_check::{is_live, is_ready, passes};
use super::{fixture, standing};
use crate::view::View;
use node_agent_core::observed::RecordView;
use node_agent_core::postgres::Postgres;
use node_agent_wire::Lsn;
use node_agent_wire::federation::Fence;
use serde_json::json;
use std::time::Duration;

/// The paths in the order of the rows below.
const PATHS: [&str; 16] = [
    "/",
    "/primary",
    "/master",
    "/read-write",
    "/leader",
    "/standby-leader",
    "/standby_leader",
    "/replica",
    "/read-only",
    "/health",
    "/sync",
    "/quorum",
    "/async",
    "/read-only-sync",
    "/read-only-quorum",
    "/nonsense",
];

fn row(view: &View) -> String {
    let query = Query::default();
    PATHS
        .map(|path| if passes(path, &query, view, fixture::NOW) { 'y' } else { '.' })
        .iter()
        .collect()
}

fn fenced(epoch: u64, primary: &str) -> node_agent_wire::federation::FederationRecord {
    let mut record = fixture::record(epoch, primary);
    record.fence = Some(Fence {
        epoch: record.epoch.next(),
        operation: None,
        reason: "switchover".into(),
        by: "ann".into(),
        at_us: 1,
        ack: None,
    });
    record
}

fn listed(mode: &str, standbys: &[&str]) -> View {
    let mut view = fixture::replica("pg2");
    fixture::synchronous(&mut view, mode, standbys);
    view
}

fn changed(mut view: View, change: impl FnOnce(&mut View)) -> View {
    change(&mut view);
    view
}

#[test]
fn the_table() {
    let recovering = || fixture::replica("pg2").observed.postgres;
    let rows: Vec<(&str, View, &str)> = vec![
        //                                                  / p m w l s s r o h s q a S Q n
        ("primary", fixture::primary(), "yyyyy...yy...yy."),
        (
            "primary whose lease has run out",
            changed(fixture::primary(), |v| v.observed.lease.held_until = Some(fixture::NOW)),
            ".........y......",
        ),
        (
            "primary that does not answer",
            changed(fixture::primary(), |v| v.observed.postgres = fixture::unresponsive()),
            "yyyyy...y....yy.",
        ),
        (
            "leader whose PostgreSQL has no data",
            changed(fixture::primary(), |v| v.observed.postgres = Postgres::NoData),
            "....y...........",
        ),
        (
            "primary, DCS lost",
            changed(fixture::primary(), |v| v.observed.cluster = fixture::unknown()),
            "yyyyy...yy......",
        ),
        (
            "leader that is not promoted yet",
            changed(fixture::primary(), |v| v.observed.postgres = recovering()),
            "....y..yyy..y...",
        ),
        (
            "fenced, still writing",
            fixture::with_record(fixture::primary(), fenced(1, "dc1")),
            "....y....y......",
        ),
        (
            "fenced, read-only",
            changed(fixture::with_record(fixture::primary(), fenced(1, "dc1")), |v| {
                v.observed.postgres = recovering();
            }),
            "....yyy.yy...yy.",
        ),
        (
            "record that can't be read",
            changed(fixture::primary(), |v| {
                fixture::cluster(v).record = RecordView::Unreadable("x".into());
            }),
            "....y....y......",
        ),
        (
            "primary of the primary datacenter",
            fixture::with_record(fixture::primary(), fixture::record(1, "dc1")),
            "yyyyy...yy...yy.",
        ),
        ("standby leader", fixture::standby_leader(), "....yyy.yy...yy."),
        (
            "standby_cluster removed by hand",
            changed(fixture::standby_leader(), |v| v.observed.config.standby_cluster = None),
            "....yyy.yy...yy.",
        ),
        ("replica", fixture::replica("pg2"), ".......yyy..y..."),
        ("synchronous replica", listed("on", &["pg2"]), ".......yyyy..y.."),
        ("other one is synchronous", listed("on", &["pg3"]), ".......yyy..y..."),
        ("quorum replica", listed("quorum", &["PG2"]), ".......yyy.y..y."),
        (
            "listed, but synchronous mode is off",
            changed(listed("on", &["pg2"]), |v| {
                v.observed.config = node_agent_wire::dynamic::Dynamic::default();
            }),
            ".......yyy..y...",
        ),
        (
            "replica, DCS lost",
            changed(listed("on", &["pg2"]), |v| v.observed.cluster = fixture::unknown()),
            ".......yyy......",
        ),
        (
            "noloadbalance",
            changed(listed("on", &["pg2"]), |v| {
                v.member.tags.insert("noloadbalance".into(), json!("yes"));
            }),
            ".........y......",
        ),
        (
            "replica that does not answer",
            changed(fixture::replica("pg2"), |v| v.observed.postgres = fixture::unresponsive()),
            "................",
        ),
        (
            "replica that is stopping",
            changed(fixture::replica("pg2"), |v| v.member.state = "stopping".into()),
            "................",
        ),
    ];
    for (name, view, expected) in rows {
        assert_eq!(row(&view), expected, "{name}\n{PATHS:?}");
    }
}

#[test]
fn paths_match_by_substring_in_order() {
    let query = Query::default();
    let primary = fixture::primary();
    let replica = listed("on", &["pg2"]);
    for (path, on_primary, on_replica) in [
        ("/my-replica", false, true),
        ("/healthz", true, true),
        ("/primary-health", true, false),
        ("/replica-leader", true, false),
        ("/read-only-sync/", false, false),
        ("/sync/", false, false),
        ("/read-only/x", true, true),
        ("/standby-leader/primary", false, false),
        ("", false, false),
    ] {
        let got = (
            passes(path, &query, &primary, fixture::NOW),
            passes(path, &query, &replica, fixture::NOW),
        );
        assert_eq!(got, (on_primary, on_replica), "{path}");
    }
}

#[test]
fn lag_and_tags() {
    let mut view = fixture::replica("pg2");
    view.member.tags.insert("zone".into(), json!("Z1"));
    view.member.tags.insert("fast".into(), json!(true));
    view.member.tags.insert("n".into(), json!(5));
    // 0x20000 bytes behind the leader.
    for (path, query, expected) in [
        ("/replica", "lag=131072", true),
        ("/replica", "lag=131071", false),
        ("/replica", "lag=128kB", true),
        ("/replica", "lag=1kB", false),
        ("/replica", "lag=nonsense", true),
        ("/read-only", "lag=1kB", false),
        ("/health", "lag=1kB", true),
        ("/replica", "tag_zone=Z1", true),
        ("/replica", "tag_zone=z1", false),
        ("/replica", "tag_zone=Z1&tag_fast=true&tag_n=5", true),
        ("/replica", "tag_zone=Z1&tag_other=x", false),
        ("/health", "tag_zone=Z2", false),
        ("/async", "tag_zone=Z2", false),
    ] {
        let got = passes(path, &Query::parse(query), &view, fixture::NOW);
        assert_eq!(got, expected, "{path}?{query}");
    }
    let primary = fixture::primary();
    for path in ["/primary", "/leader"] {
        assert!(passes(path, &Query::parse("tag_zone=Z2"), &primary, fixture::NOW), "{path}");
    }
    assert!(!passes("/read-only", &Query::parse("tag_zone=Z2"), &primary, fixture::NOW));
}

#[test]
fn lag_counts_from_the_status_key_when_there_is_no_receiver() {
    let mut view = fixture::replica("pg2");
    fixture::running(&mut view).receiver = None;
    assert_eq!(standing::leader_lsn(&view), Some(0x0500_0000));
    assert!(!passes("/replica", &Query::parse("lag=1kB"), &view, fixture::NOW));
    view.observed.cluster = fixture::unknown();
    assert!(passes("/replica", &Query::parse("lag=1kB"), &view, fixture::NOW));
}

#[test]
fn liveness_is_patient_with_replicas_and_in_pause() {
    // loop_wait 10 s, ttl 30 s.
    for (view, alive_s, dead_s) in [(fixture::primary(), 39, 40), (fixture::replica("pg2"), 69, 70)]
    {
        assert!(is_live(&view, fixture::NOW + Duration::from_secs(alive_s)));
        assert!(!is_live(&view, fixture::NOW + Duration::from_secs(dead_s)));
    }
    let paused = changed(fixture::primary(), |v| v.observed.config.pause = true);
    assert!(is_live(&paused, fixture::NOW + Duration::from_secs(9999)));
}

#[test]
fn readiness() {
    let replica = || fixture::replica("pg2");
    for (name, view, query, expected) in [
        ("leader", fixture::primary(), "", true),
        ("standby leader", fixture::standby_leader(), "lag=0", true),
        ("within maximum_lag_on_failover", replica(), "", true),
        ("replay is behind", replica(), "lag=128kB", true),
        ("replay is too far behind", replica(), "lag=127kB", false),
        ("received is near enough", replica(), "lag=64kB&mode=write", true),
        ("received is too far behind", replica(), "lag=63kB&mode=write", false),
        ("no stream", changed(replica(), |v| v.member.replication_state = None), "", false),
        (
            "nothing known of the leader",
            changed(replica(), |v| {
                v.observed.cluster = fixture::unknown();
                fixture::running(v).receiver = None;
            }),
            "",
            false,
        ),
        (
            "far behind",
            changed(replica(), |v| fixture::running(v).replay_lsn = Some(Lsn(1))),
            "",
            false,
        ),
    ] {
        assert_eq!(is_ready(&Query::parse(query), &view, fixture::NOW), expected, "{name}");
    }
}
