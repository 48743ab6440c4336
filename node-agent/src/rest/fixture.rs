//! Views of a two-member cluster for the tests of this room: `pg1` leads, `pg2` follows.

use crate::dcs::RawCluster;
use crate::view::View;
use node_agent_core::directory::Directory;
use node_agent_core::observed::{Cluster, Keyed, Me, Observed, RecordView};
use node_agent_core::postgres::{Postgres, Running, Walreceiver, Walsender};
use node_agent_core::rule::Rule;
use node_agent_core::time::{Boot, Fact};
use node_agent_wire::config::LocalConfig;
use node_agent_wire::dynamic::{Dynamic, StandbyCluster};
use node_agent_wire::federation::{FederationRecord, Policies, RECORD_VERSION};
use node_agent_wire::member::{Member, MemberData};
use node_agent_wire::status::{Status, SyncState};
use node_agent_wire::{Epoch, Lsn, MemberName, Revision, SystemId, TimelineId};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// The moment of every view.
pub(crate) const NOW: Boot = Boot(1_000_000_000_000);
/// 2026-01-02 03:04:05 UTC.
const WALL_US: i64 = 1_767_323_045_000_000;

pub(crate) fn config(name: &str) -> LocalConfig {
    serde_json::from_value(json!({
        "scope": "shop", "name": name,
        "restapi": {"listen": "127.0.0.1:0"},
        "etcd3": {"host": "127.0.0.1:2379"},
        "postgresql": {"listen": "127.0.0.1:5432", "data_dir": "/nowhere/data"},
    }))
    .expect("a configuration")
}

fn member(name: &str, value: &Value) -> (MemberName, Member) {
    let member = Member::parse(name, value.to_string().as_bytes());
    assert_ne!(member.data, MemberData::default(), "the fixture's member can't be read");
    (member.name.clone(), member)
}

fn members() -> BTreeMap<MemberName, Member> {
    BTreeMap::from([
        member(
            "pg1",
            &json!({
                "conn_url": "postgres://127.0.0.1:5432/postgres",
                "api_url": "http://127.0.0.1:8008/patroni", "state": "running",
                "role": "primary", "version": "4.1.4", "xlog_location": 0x0500_0000,
                "timeline": 3, "tags": {"dc": "a"},
            }),
        ),
        member(
            "pg2",
            &json!({
                "conn_url": "postgres://127.0.0.2:5432/postgres",
                "api_url": "http://127.0.0.2:8008/patroni", "state": "running",
                "role": "replica", "version": "4.1.4", "xlog_location": 0x04FF_0000,
                "receive_lsn": 0x04FF_0000, "replay_lsn": 0x04FE_0000,
                "replication_state": "streaming", "timeline": 3,
            }),
        ),
    ])
}

fn cluster_of_two() -> Cluster {
    Cluster {
        revision: Revision(10),
        initialize: Some("7000000000000000001".into()),
        config: Dynamic::default(),
        config_present: true,
        leader: Some("pg1".into()),
        members: members(),
        failover: Keyed::default(),
        status: Status { optime: Some(Lsn(0x0500_0000)), ..Status::default() },
        sync: Keyed::default(),
        history: None,
        record: RecordView::Absent,
        position: None,
        position_revision: Revision(0),
        failsafe: BTreeMap::new(),
    }
}

fn server() -> Running {
    Running {
        in_recovery: false,
        timeline: TimelineId(3),
        lsn: Lsn(0x0500_0000),
        receive_lsn: None,
        wal_read: false,
        replay_lsn: None,
        replay_paused: false,
        replayed_commit_at_us: None,
        receiver: None,
        senders: vec![Walsender {
            application_name: "pg2".into(),
            state: "streaming".into(),
            sync_state: "async".into(),
            write_lsn: Some(Lsn(0x04FF_0000)),
            flush_lsn: Some(Lsn(0x04FF_0000)),
            replay_lsn: Some(Lsn(0x04FE_0000)),
            usename: "replicator".into(),
            client_addr: Some("127.0.0.2".into()),
            sync_priority: 0,
        }],
        slots: Vec::new(),
        sync_names: String::new(),
        system_id: SystemId::new("7000000000000000001"),
        server_version: 150_004,
        started_at_us: WALL_US + 678_901,
        pending_restart: false,
        outgrown: false,
        slot_wal_limit_bytes: None,
        restores: false,
    }
}

fn standby() -> Running {
    Running {
        in_recovery: true,
        lsn: Lsn(0x04FF_0000),
        receive_lsn: Some(Lsn(0x04FF_0000)),
        wal_read: true,
        replay_lsn: Some(Lsn(0x04FE_0000)),
        replayed_commit_at_us: Some(WALL_US),
        receiver: Some(Walreceiver {
            status: "streaming".into(),
            host: Some("127.0.0.1".into()),
            port: Some(5432),
            latest_end_lsn: Some(Lsn(0x0500_0000)),
            timeline: Some(TimelineId(3)),
        }),
        senders: Vec::new(),
        ..server()
    }
}

fn view(name: &str, running: Running, rule: Rule, why: &str) -> View {
    let cluster = cluster_of_two();
    let me = MemberName::new(name);
    let member = cluster.members[&me].data.clone();
    let lease = node_agent_core::observed::Lease {
        held_until: (name == "pg1").then(|| NOW + Duration::from_secs(20)),
        kept: false,
    };
    View {
        observed: Observed {
            now: NOW,
            wall_us: WALL_US,
            started_at: Boot(1),
            me: Me {
                name: me,
                nofailover: false,
                failover_priority: 1,
                may_bootstrap: true,
                nostream: false,
                replicatefrom: None,
            },
            cluster: Fact::Known { value: cluster, at: NOW },
            config: Dynamic::default(),
            lease,
            observer: node_agent_core::observed::Observer::default(),
            failsafe: node_agent_core::failsafe::Failsafe::default(),
            health: node_agent_core::sick::Health::default(),
            watchdog_failed: None,
            last_record: None,
            postgres: Postgres::Running(Box::new(running)),
            own_history: None,
            following: None,
            source: None,
            other_source: None,
            poll: None,
            members_seen: BTreeMap::new(),
            peers: BTreeMap::new(),
            abroad: BTreeMap::new(),
            job: None,
            start_failures: 0,
            stopped_by_us: false,
            stand_back_until: None,
            sync_names_ours: false,
            sync_names_set_at: None,
            guest_asked_at: None,
            sync_unsure: false,
            sync_lost: std::collections::BTreeSet::new(),
            request: None,
            scheduled_restart: None,
            grants: None,
            release_asked_at: None,
            ending: false,
            directory: Directory::default(),
            slots: node_agent_core::slots::SlotMemory::default(),
        },
        raw: Arc::new(RawCluster::default()),
        rule,
        why: why.into(),
        member,
        dcs_last_seen_s: WALL_US / 1_000_000,
        passes: 7,
        progress: std::sync::Arc::default(),
        pass_took: Duration::from_millis(3),
    }
}

/// The leader, primary, with the lease for 20 s.
pub(crate) fn primary() -> View {
    view("pg1", server(), Rule::Hold, "primary on timeline 3")
}

/// A replica.
pub(crate) fn replica(name: &str) -> View {
    view(name, standby(), Rule::Replicate, "follows pg1")
}

/// The leader of a datacenter that follows another one, at epoch 2.
pub(crate) fn standby_leader() -> View {
    let mut view = view("pg1", standby(), Rule::StandbyLeader, "follows dc2");
    view.member.replication_state = Some("streaming".into());
    view.observed.config.standby_cluster =
        Some(StandbyCluster { host: Some("127.0.1.1".into()), ..StandbyCluster::default() });
    let config = view.observed.config.clone();
    let cluster = cluster(&mut view);
    cluster.config = config;
    let me = cluster.members.get_mut(&MemberName::new("pg1")).expect("pg1");
    me.data.replication_state = Some("streaming".into());
    let mut view = with_record(view, record(2, "dc2"));
    view.member.role = Some(node_agent_wire::member::Role::StandbyLeader);
    view
}

/// A record of dc1.
pub(crate) fn record(epoch: u64, primary: &str) -> FederationRecord {
    FederationRecord {
        version: RECORD_VERSION,
        federation: "shop".into(),
        dc: "dc1".into(),
        epoch: Epoch(epoch),
        primary: primary.into(),
        fence: None,
        operation: None,
        claim: None,
        members: BTreeMap::new(),
        policies: Policies::default(),
        streamed: false,
        confirmed: None,
        resolution: None,
    }
}

pub(crate) fn with_record(mut view: View, record: FederationRecord) -> View {
    cluster(&mut view).record =
        RecordView::Present(Box::new(Keyed { value: record, revision: Revision(4) }));
    view
}

/// `synchronous_mode` is on or `quorum`, and `/sync` lists these.
pub(crate) fn synchronous(view: &mut View, mode: &str, standbys: &[&str]) {
    let object = json!({"synchronous_mode": mode});
    view.observed.config = Dynamic::read(object.as_object().expect("object"));
    let config = view.observed.config.clone();
    let cluster = cluster(view);
    cluster.config = config;
    cluster.sync.value = SyncState {
        leader: Some("pg1".into()),
        sync_standby: standbys.iter().map(|n| MemberName::from(*n)).collect(),
        quorum: 0,
    };
}

pub(crate) fn cluster(view: &mut View) -> &mut Cluster {
    match &mut view.observed.cluster {
        Fact::Known { value, .. } => value,
        Fact::Unknown { .. } => panic!("the fixture's cluster is unknown"),
    }
}

pub(crate) fn running(view: &mut View) -> &mut Running {
    let Postgres::Running(running) = &mut view.observed.postgres else {
        panic!("the fixture's PostgreSQL does not run")
    };
    running
}

pub(crate) fn unknown<T>() -> Fact<T> {
    Fact::Unknown { since: NOW, tried: true }
}

pub(crate) fn unresponsive() -> Postgres {
    Postgres::Unresponsive { since: NOW, writable: true }
}
