//! Goal: a standby datacenter catches up with a change of primary by itself, follows the right
//! datacenter, leaves an operator's own addresses alone, and keeps the slots of the others no
//! further than they need.
//! Method: dc3's standby leader in a federation of three, with one fact changed.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test ends where a fact is missing")]

mod support;

use node_agent_core::abroad::{Abroad, SlotRule, later_epoch, slot_rule};
use node_agent_core::decide;
use node_agent_core::decision::Tend;
use node_agent_core::observed::{Keyed, Observed, RecordView};
use node_agent_core::postgres::{Postgres, Running, Upstream, Walreceiver};
use node_agent_core::time::Fact;
use node_agent_wire::dynamic::Dynamic;
use node_agent_wire::federation::{FederationRecord, NodeEntry};
use node_agent_wire::{DcName, Epoch, Lsn, Revision, SlotName, TimelineId};
use serde_json::json;
use support::healthy::{self, NOW};

fn record(dc: &str, epoch: u64, primary: &str) -> FederationRecord {
    let mut record = healthy::record(dc, epoch, primary);
    let entry = record.members[&DcName::from("dc2")].clone();
    record.members.insert("dc3".into(), entry);
    for (at, (name, entry)) in record.members.iter_mut().enumerate() {
        let node = NodeEntry { postgres: format!("10.{}.0.1:5432", at + 1), grpc: None };
        entry.nodes.insert(format!("{name}-pg1").as_str().into(), node);
        entry.slot = SlotName::from_name(name.as_str());
    }
    record.streamed = dc != primary;
    record
}

fn abroad(at: u8, epoch: u64, writable: bool) -> Abroad {
    let position = json!({"leader": "pg1", "beat": 1, "ttl_ms": 3000, "writable": writable,
        "epoch": epoch, "at_us": 1, "timeline": 1});
    Abroad {
        hosts: vec![(format!("10.{at}.0.1"), 5432)],
        leader: Some((format!("10.{at}.0.1"), 5432)),
        slots: [(SlotName::from_name("dc2"), Lsn(0x2F0_0000))].into(),
        position: Some(serde_json::from_value(position).expect("a position")),
    }
}

/// dc3's standby leader; its configuration names dc1, dc1 is primary at epoch 1.
fn dc3() -> Observed {
    let mut observed = healthy::cluster();
    observed.peers = ["dc1", "dc2"]
        .map(|dc| (DcName::from(dc), Fact::Known { value: record(dc, 1, "dc1"), at: NOW }))
        .into();
    observed.abroad =
        [("dc1".into(), abroad(1, 1, true)), ("dc2".into(), abroad(2, 1, false))].into();
    follow(&mut observed, "10.1.0.1");
    own(&mut observed, record("dc3", 1, "dc1"));
    observed
}

fn own(observed: &mut Observed, record: FederationRecord) {
    let keyed = Keyed { value: record, revision: Revision(7) };
    healthy::dcs(observed).record = RecordView::Present(Box::new(keyed));
}

fn follow(observed: &mut Observed, host: &str) {
    let config = json!({"standby_cluster": {"host": host, "port": 5432,
        "primary_slot_name": "dc3"}});
    let config = Dynamic::read(config.as_object().unwrap());
    observed.config = config.clone();
    healthy::dcs(observed).config = config;
    let hosts = vec![(host.to_owned(), 5432)];
    let upstream =
        Upstream::Remote { hosts, slot: Some(SlotName::from_name("dc3")), cascade: false };
    let receiver = Walreceiver {
        host: Some(host.to_owned()),
        port: Some(5432),
        ..healthy::receiver("streaming")
    };
    let running = Running { receiver: Some(receiver), ..healthy::standby() };
    observed.postgres = Postgres::Running(Box::new(running));
    observed.source = Some(node_agent_core::divergence::SourceHistory {
        upstream: upstream.clone(),
        at: NOW,
        answer: Ok(observed.own_history.clone().unwrap()),
        beginnings: observed.directory.beginnings.clone(),
        same_wal: None,
        wal_since: None,
    });
    observed.following = Some(upstream);
}

fn peer(observed: &mut Observed, record: FederationRecord) {
    observed.peers.insert(record.dc.clone(), Fact::Known { value: record, at: NOW });
}

/// dc2 is primary since epoch 2, and everybody but dc3 knows.
fn changed(observed: &mut Observed) {
    peer(observed, record("dc1", 2, "dc2"));
    peer(observed, record("dc2", 2, "dc2"));
    observed.abroad.insert("dc1".into(), abroad(1, 2, false));
    observed.abroad.insert("dc2".into(), abroad(2, 2, true));
}

fn replaced(observed: &Observed) -> Option<FederationRecord> {
    decide(observed).tend.into_iter().find_map(|tend| {
        let Tend::ReplaceRecord { record, over } = tend else { return None };
        assert_eq!(over, Revision(7));
        Some(*record)
    })
}

fn pointed(observed: &Observed) -> Option<Vec<(String, u16)>> {
    decide(observed).tend.into_iter().find_map(|tend| {
        let Tend::FollowDatacenter { hosts, slot, under, .. } = tend else { return None };
        assert_eq!((slot.as_str(), under), ("dc3", Revision(7)));
        Some(hosts)
    })
}

#[test]
fn nothing_is_changed_while_all_is_right() {
    assert_eq!((replaced(&dc3()), pointed(&dc3())), (None, None));
}

#[test]
fn a_standby_that_was_away_takes_the_epoch_over_follows_and_says_so() {
    let mut observed = dc3();
    changed(&mut observed);
    let next = replaced(&observed).expect("the epoch is taken over");
    assert_eq!((next.epoch, next.primary.as_str(), next.streamed), (Epoch(2), "dc2", false));
    assert_eq!(next.fence, None, "it was not primary");
    own(&mut observed, next.clone());
    assert_eq!(pointed(&observed), Some(vec![("10.2.0.1".into(), 5432)]));
    assert_eq!(replaced(&observed), None, "it streams from the former primary still");
    follow(&mut observed, "10.2.0.1");
    assert_eq!(pointed(&observed), None);
    assert_eq!(replaced(&observed), Some(FederationRecord { streamed: true, ..next }));
}

#[test]
fn no_agent_makes_its_own_datacenter_primary_or_chooses_between_two() {
    let mut observed = dc3();
    peer(&mut observed, record("dc1", 2, "dc3"));
    assert_eq!(later_epoch(&observed, &record("dc3", 1, "dc1")), None);
    assert_eq!(replaced(&observed), None);
    peer(&mut observed, record("dc1", 2, "dc1"));
    peer(&mut observed, record("dc2", 2, "dc2"));
    assert_eq!(replaced(&observed), None, "two claims on epoch 2");
    peer(&mut observed, record("dc2", 3, "dc2"));
    assert_eq!(replaced(&observed).expect("the newest").epoch, Epoch(3));
    let mut foreign = record("dc2", 3, "dc2");
    foreign.federation = "another".into();
    peer(&mut observed, foreign);
    peer(&mut observed, record("dc1", 1, "dc1"));
    assert_eq!(replaced(&observed), None, "another federation");
}

#[test]
fn hosts_are_changed_only_where_they_are_another_datacenters_or_lack_a_node() {
    type Case = (&'static str, fn(&mut Observed), Option<usize>);
    let cases: [Case; 8] = [
        ("an operator's own address", |o| follow(o, "10.9.9.9"), None),
        (
            "a node more",
            |o| {
                o.abroad
                    .get_mut(&DcName::from("dc1"))
                    .unwrap()
                    .hosts
                    .push(("10.1.0.2".into(), 5432));
            },
            Some(2),
        ),
        ("the wrong datacenter", |o| follow(o, "10.2.0.1"), Some(1)),
        (
            "the source is silent",
            |o| {
                follow(o, "10.2.0.1");
                o.peers.insert("dc1".into(), Fact::Unknown { since: NOW, tried: true });
            },
            None,
        ),
        (
            "the source is at another epoch",
            |o| {
                follow(o, "10.2.0.1");
                peer(o, record("dc1", 0, "dc1"));
            },
            None,
        ),
        (
            "an operation holds the record",
            |o| {
                follow(o, "10.2.0.1");
                let mut held = record("dc3", 1, "dc1");
                held.operation = Some(
                    serde_json::from_value(json!({"id": "x", "kind": "rejoin",
                "to": "dc3", "next_epoch": 1, "phase": "running", "by": "ann",
                "started_at_us": 1}))
                    .unwrap(),
                );
                own(o, held);
            },
            None,
        ),
        (
            "maintenance mode",
            |o| {
                follow(o, "10.2.0.1");
                healthy::dcs(o).config.pause = true;
            },
            None,
        ),
        (
            "a removed datacenter",
            |o| {
                follow(o, "10.2.0.1");
                let mut removed = record("dc3", 1, "dc1");
                removed.members.remove(&DcName::from("dc3"));
                own(o, removed);
            },
            None,
        ),
    ];
    for (what, change, expected) in cases {
        let mut observed = dc3();
        change(&mut observed);
        assert_eq!(pointed(&observed).map(|hosts| hosts.len()), expected, "{what}");
    }
}

#[test]
fn in_a_cascade_the_middle_is_followed_while_it_streams_itself() {
    let cascade = |dc: &str, epoch| {
        let mut record = record(dc, epoch, "dc1");
        record.members.get_mut(&DcName::from("dc3")).unwrap().follows = Some("dc2".into());
        record
    };
    let mut observed = dc3();
    own(&mut observed, cascade("dc3", 1));
    assert_eq!(pointed(&observed), Some(vec![("10.2.0.1".into(), 5432)]));
    let mut late = record("dc2", 1, "dc1");
    late.streamed = false;
    peer(&mut observed, late);
    assert_eq!(pointed(&observed), None, "dc2 does not stream yet");
    follow(&mut observed, "10.2.0.1");
    assert_eq!(pointed(&observed), None, "it may in a moment");
    let mut fenced = record("dc2", 1, "dc1");
    fenced.fence = serde_json::from_value(json!({"epoch": 1, "reason": "x", "by": "x",
        "at_us": 1}))
    .ok();
    assert!(fenced.fence.is_some());
    peer(&mut observed, fenced);
    assert_eq!(pointed(&observed), Some(vec![("10.1.0.1".into(), 5432)]));
    observed.peers.insert("dc2".into(), Fact::Unknown { since: NOW, tried: true });
    assert_eq!(pointed(&observed), None, "silence is no reason");
    // Its leader only, and the new one after a failover there.
    peer(&mut observed, record("dc2", 1, "dc1"));
    let dc2 = observed.abroad.get_mut(&DcName::from("dc2")).unwrap();
    dc2.hosts.push(("10.2.0.2".into(), 5432));
    dc2.leader = Some(("10.2.0.2".into(), 5432));
    assert_eq!(pointed(&observed), Some(vec![("10.2.0.2".into(), 5432)]));
    let cascading = decide(&observed).tend.into_iter();
    let mut cascading =
        cascading.filter(|t| matches!(t, Tend::FollowDatacenter { cascade: true, .. }));
    assert!(cascading.next().is_some(), "the source is read-only");
}

#[test]
fn streaming_is_said_of_the_source_in_this_epoch_on_its_timeline_only() {
    type Case = (&'static str, fn(&mut Observed), bool);
    let cases: [Case; 5] = [
        ("streaming", |_| {}, true),
        ("from elsewhere", |o| follow(o, "10.9.9.9"), false),
        (
            "the source acts in another epoch",
            |o| {
                o.abroad.insert("dc1".into(), abroad(1, 2, true));
            },
            false,
        ),
        (
            "the source does not write",
            |o| {
                o.abroad.insert("dc1".into(), abroad(1, 1, false));
            },
            false,
        ),
        (
            "another timeline",
            |o| {
                let Postgres::Running(running) = &mut o.postgres else { panic!("it runs") };
                running.receiver.as_mut().unwrap().timeline = Some(TimelineId(2));
            },
            false,
        ),
    ];
    for (what, change, expected) in cases {
        let mut observed = dc3();
        own(&mut observed, FederationRecord { streamed: false, ..record("dc3", 1, "dc1") });
        change(&mut observed);
        let said = replaced(&observed).is_some_and(|record| record.streamed);
        assert_eq!(said, expected, "{what}");
    }
}

#[test]
fn a_slot_moves_no_further_than_its_datacenter_has_come() {
    let cascade = |dc: &str| {
        let mut record = record(dc, 1, "dc1");
        record.members.get_mut(&DcName::from("dc3")).unwrap().follows = Some("dc2".into());
        record
    };
    let seen = Some(Lsn(0x2F0_0000));
    for (what, record, slot, expected) in [
        ("the primary's, on a standby", record("dc3", 1, "dc1"), "dc1", SlotRule::Ahead),
        ("another standby's", record("dc3", 1, "dc1"), "dc2", SlotRule::Elsewhere(seen)),
        ("one that nobody told", record("dc2", 1, "dc1"), "dc3", SlotRule::Elsewhere(None)),
        ("a standby's, on the primary", record("dc1", 1, "dc1"), "dc3", SlotRule::Here),
        ("no datacenter's", record("dc3", 1, "dc1"), "x", SlotRule::NotOurs),
        ("its own", record("dc3", 1, "dc1"), "dc3", SlotRule::NotOurs),
        ("of the end of a cascade, in its middle", cascade("dc2"), "dc3", SlotRule::Here),
        ("of the end, on the primary", cascade("dc1"), "dc3", SlotRule::Elsewhere(None)),
        ("of the middle, at the end", cascade("dc3"), "dc2", SlotRule::Ahead),
    ] {
        let mut observed = dc3();
        own(&mut observed, record);
        let cluster = healthy::dcs(&mut observed).clone();
        assert_eq!(slot_rule(&observed, &cluster, &SlotName::from_name(slot)), expected, "{what}");
    }
}
