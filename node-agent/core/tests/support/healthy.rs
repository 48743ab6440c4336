//! The defaults: pg1 to pg3 run, pg1 leads as primary on timeline 1, and we are pg1.

use node_agent_core::directory::Directory;
use node_agent_core::failsafe::Failsafe;
use node_agent_core::observed::{Cluster, Keyed, Lease, Me, Observed, Observer, RecordView};
use node_agent_core::postgres::{
    ControlData, ControlState, Postgres, Running, SlotFact, Upstream, Walreceiver, Walsender,
};
use node_agent_core::sick::Health;
use node_agent_core::slots::SlotMemory;
use node_agent_core::time::{Boot, Fact};
use node_agent_wire::dynamic::Dynamic;
use node_agent_wire::federation::{
    DcEntry, FederationRecord, Isolation, Policies, RECORD_VERSION, Retention,
};
use node_agent_wire::history::TimelineHistory;
use node_agent_wire::member::{Member, MemberData, state};
use node_agent_wire::status::{Failover, Status, SyncState};
use node_agent_wire::{DcName, Epoch, Lsn, Revision, SlotName, SystemId, TimelineId};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// The moment of every scenario.
pub const NOW: Boot = Boot(1_000_000_000_000_000);
/// The same by the wall clock.
pub const WALL_US: i64 = 1_800_000_000_000_000;
/// The same as people write it.
pub const NOW_TEXT: &str = "2027-01-15T08:00:00+00:00";
/// The database system of the cluster.
pub const SYSTEM: &str = "7000000000000000001";
/// Where WAL ends.
pub const LSN: Lsn = Lsn(0x300_0000);

pub fn ago(age: Duration) -> Boot {
    NOW - age
}

/// pg1, primary and leader.
pub fn cluster() -> Observed {
    let members = ["pg1", "pg2", "pg3"].map(member).map(|m| (m.name.clone(), m));
    let config = Dynamic::default();
    let cluster = Cluster {
        revision: Revision(100),
        initialize: Some(SYSTEM.into()),
        config: config.clone(),
        config_present: true,
        leader: Some("pg1".into()),
        members: members.into(),
        failover: Keyed { value: Failover::default(), revision: Revision(0) },
        status: Status { optime: Some(LSN), ..Status::default() },
        sync: Keyed { value: SyncState::default(), revision: Revision(0) },
        history: Some(TimelineHistory { timeline: TimelineId(1), ancestors: Vec::new() }),
        record: RecordView::Absent,
        position: None,
        position_revision: Revision(0),
        failsafe: BTreeMap::new(),
    };
    Observed {
        now: NOW,
        wall_us: WALL_US,
        started_at: ago(Duration::from_secs(600)),
        me: me("pg1"),
        cluster: Fact::Known { value: cluster, at: NOW },
        config,
        lease: Lease { held_until: Some(NOW + Duration::from_secs(25)), kept: false },
        observer: Observer::default(),
        failsafe: Failsafe::default(),
        watchdog_failed: None,
        health: Health::default(),
        last_record: None,
        postgres: Postgres::Running(Box::new(primary())),
        own_history: Some(TimelineHistory { timeline: TimelineId(1), ancestors: Vec::new() }),
        directory: Directory::default(),
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
        sync_unsure: false,
        guest_asked_at: None,
        sync_lost: BTreeSet::new(),
        request: None,
        scheduled_restart: None,
        grants: None,
        release_asked_at: None,
        ending: false,
        slots: SlotMemory::default(),
    }
}

/// This node without tags.
pub fn me(name: &str) -> Me {
    Me {
        name: name.into(),
        nofailover: false,
        failover_priority: 1,
        may_bootstrap: false,
        nostream: false,
        replicatefrom: None,
    }
}

/// A running member; its address is 10.0.0.N where N is the last digit of its name.
pub fn member(name: &str) -> Member {
    let host = format!("10.0.0.{}", name.trim_start_matches(|c: char| !c.is_ascii_digit()));
    let data = MemberData {
        conn_url: format!("postgres://{host}:5432/postgres"),
        api_url: format!("http://{host}:8008/patroni"),
        state: state::RUNNING.into(),
        ..MemberData::default()
    };
    Member { name: name.into(), data }
}

/// What a member of the name is as an upstream.
pub fn member_upstream(name: &str) -> Upstream {
    let (host, port) = member(name).postgres_address().expect("the address is well formed");
    Upstream::Member { name: name.into(), host, port }
}

/// The primary datacenter as an upstream: what `standby_cluster: {"host":"10.9.0.1"}` gives.
pub fn remote_upstream() -> Upstream {
    Upstream::Remote { hosts: vec![("10.9.0.1".into(), 5432)], slot: None, cascade: false }
}

fn primary() -> Running {
    Running {
        in_recovery: false,
        senders: vec![sender("pg2"), sender("pg3")],
        slots: vec![slot("pg2", true), slot("pg3", true)],
        ..standby()
    }
}

/// A standby that has replayed all that it received.
pub fn standby() -> Running {
    Running {
        in_recovery: true,
        timeline: TimelineId(1),
        lsn: LSN,
        receive_lsn: Some(LSN),
        wal_read: true,
        replay_lsn: Some(LSN),
        replay_paused: false,
        replayed_commit_at_us: None,
        receiver: None,
        senders: Vec::new(),
        slots: Vec::new(),
        sync_names: String::new(),
        system_id: SystemId::new(SYSTEM),
        server_version: 150_000,
        started_at_us: 0,
        pending_restart: false,
        outgrown: false,
        slot_wal_limit_bytes: None,
        restores: false,
    }
}

pub fn receiver(status: &str) -> Walreceiver {
    Walreceiver {
        status: status.into(),
        host: None,
        port: None,
        latest_end_lsn: Some(LSN),
        timeline: Some(TimelineId(1)),
    }
}

pub fn sender(name: &str) -> Walsender {
    Walsender {
        application_name: name.into(),
        state: "streaming".into(),
        sync_state: "async".into(),
        write_lsn: Some(LSN),
        flush_lsn: Some(LSN),
        replay_lsn: Some(LSN),
        usename: "replicator".into(),
        client_addr: None,
        sync_priority: 0,
    }
}

pub fn slot(name: &str, active: bool) -> SlotFact {
    SlotFact {
        name: SlotName::from_name(name),
        physical: true,
        active,
        restart_lsn: Some(LSN),
        confirmed_lsn: None,
        database: None,
        plugin: None,
        xmin: None,
        catalog_xmin: None,
        failover: false,
        synced: false,
        left_over: false,
        lost: false,
        invalidation: None,
        wal_status: "reserved".into(),
    }
}

pub fn control(state: ControlState) -> ControlData {
    ControlData {
        state,
        system_id: SystemId::new(SYSTEM),
        timeline: TimelineId(1),
        checkpoint: LSN,
        min_recovery_end: Lsn(0),
        min_recovery_timeline: TimelineId(0),
        rewindable: true,
    }
}

/// The record of `dc` in a federation of dc1 and dc2.
pub fn record(dc: &str, epoch: u64, primary: &str) -> FederationRecord {
    let members = ["dc1", "dc2"].map(|name| (DcName::from(name), dc_entry(name)));
    FederationRecord {
        version: RECORD_VERSION,
        federation: "shop".into(),
        dc: dc.into(),
        epoch: Epoch(epoch),
        primary: primary.into(),
        fence: None,
        operation: None,
        claim: None,
        members: members.into(),
        policies: Policies::default(),
        streamed: false,
        confirmed: None,
        resolution: None,
    }
}

fn dc_entry(name: &str) -> DcEntry {
    DcEntry {
        scope: "shop".into(),
        namespace: "/service".into(),
        etcd: vec![format!("{name}.example:2379")],
        isolation: Isolation::Manual,
        follows: None,
        slot: SlotName::from_name(name),
        retention: Retention::default(),
        nodes: BTreeMap::new(),
    }
}

/// The cluster of `observed`, to be changed.
pub fn dcs(observed: &mut Observed) -> &mut Cluster {
    match &mut observed.cluster {
        Fact::Known { value, .. } => value,
        Fact::Unknown { .. } => panic!("the DCS is unknown here: say so last"),
    }
}
