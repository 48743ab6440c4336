//! A healthy federation of two datacenters to begin tests with.
use crate::configuration::Seed;
use crate::inventory::{
    DcView, Fact, Inventory, NodeView, Site, SlotKind, SlotView, SqlFacts, Versioned,
};
use crate::planner::Request;
use node_agent_wire::federation::{
    DcEntry, FederationRecord, FenceAck, Operation, OperationKind, Policies, RECORD_VERSION,
    Retention,
};
use node_agent_wire::member::{MemberData, Role};
use node_agent_wire::position::{Position, PrimarySeen};
use node_agent_wire::{DcName, Epoch, Lsn, MemberName, Revision, SlotName, TimelineId};
use serde_json::{Value, json};
use std::collections::BTreeMap;

pub(crate) const NOW: i64 = 1_000_000_000;

pub(crate) fn record(dc: &str, epoch: u64, primary: &str) -> FederationRecord {
    let entry = |dc: &str| DcEntry {
        scope: format!("shop-{dc}"),
        namespace: "/service".into(),
        etcd: vec![format!("{dc}:2379")],
        isolation: node_agent_wire::federation::Isolation::Manual,
        follows: None,
        slot: SlotName::from_name(dc),
        retention: Retention::default(),
        nodes: BTreeMap::new(),
    };
    FederationRecord {
        version: RECORD_VERSION,
        federation: "shop".into(),
        dc: dc.into(),
        epoch: Epoch(epoch),
        primary: primary.into(),
        fence: None,
        operation: None,
        claim: None,
        members: ["dc1", "dc2"].map(|dc| (DcName::from(dc), entry(dc))).into(),
        policies: Policies::default(),
        streamed: true,
        confirmed: None,
        resolution: None,
    }
}

pub(crate) fn ack() -> FenceAck {
    FenceAck {
        node: "dc1-pg1".into(),
        checkpoint: Lsn(1000),
        timeline: TimelineId(1),
        system_id: "77".into(),
        at_us: NOW,
    }
}

pub(crate) fn operation(kind: OperationKind, from: &str, to: &str) -> Operation {
    Operation::new("op-1".into(), kind, (Some(from.into()), to.into()), Epoch(2), ("ann", NOW))
}

fn physical() -> SlotView {
    let (wal_status, restart_lsn) = ("reserved".into(), Lsn(4000));
    SlotView { active: true, wal_status, restart_lsn, kind: SlotKind::Physical }
}

fn node(writable: bool, slot: &str) -> NodeView {
    NodeView {
        role: if writable { "primary" } else { "standby_leader" }.into(),
        state: "running".into(),
        writable,
        holds_leader_key: true,
        timeline: TimelineId(1),
        lsn: Lsn(5000),
        replay_lsn: Lsn(5000),
        replication_state: if writable { "" } else { "streaming" }.into(),
        epoch: Epoch(1),
        system_id: "77".into(),
        server_version: 150_004,
        slots: [(slot.to_owned(), physical())].into(),
        replayed_commit_at_us: NOW - 500_000,
        ..NodeView::default()
    }
}

fn datacenter(dc: &str, primary: bool, config: &Value) -> DcView {
    let name = MemberName::new(format!("{dc}-pg1"));
    let other = if dc == "dc1" { "dc2" } else { "dc1" };
    let member = MemberData {
        conn_url: format!("postgres://{dc}:5432/postgres"),
        state: "running".into(),
        role: Some(if primary { Role::Primary } else { Role::StandbyLeader }),
        grpc: Some(format!("{dc}:8009")),
        ..MemberData::default()
    };
    let position = Position {
        leader: name.clone(),
        beat: 5,
        ttl_ms: 5000,
        released: false,
        unattended: false,
        epoch: Some(Epoch(1)),
        writable: primary,
        lsn: Some(Lsn(5000)),
        replay_lsn: (!primary).then_some(Lsn(5000)),
        timeline: Some(TimelineId(1)),
        commit_at_us: Some(NOW - 500_000),
        wrote_at_us: None,
        at_us: NOW - 100_000,
        wal_rate_max: 1000,
        primary_seen: (!primary).then(|| PrimarySeen {
            dc: "dc1".into(),
            epoch: Epoch(1),
            lsn: Lsn(6000),
            timeline: TimelineId(1),
            at_us: NOW - 900_000,
            seen_at_us: NOW - 800_000,
            wal_rate_max: 2000,
            consumers: None,
        }),
        link: None,
        failsafe: None,
        consumers: None,
    };
    DcView {
        record: Some(Versioned { revision: Revision(10), value: record(dc, 1, "dc1") }),
        leader: Some(name.clone()),
        members: [(name.clone(), member)].into(),
        config: Some(Versioned {
            revision: Revision(3),
            value: config.as_object().cloned().unwrap(),
        }),
        initialize: Some("77".into()),
        position: Some(position),
        nodes: [(name, Fact::Known(node(primary, other)))].into(),
        sql: Some(Fact::Known(SqlFacts {
            server_version: 150_004,
            data_checksums: true,
            receiver: if primary { "" } else { "streaming" }.into(),
            received_timeline: (!primary).then_some(TimelineId(1)),
            system_id: "77".into(),
            capacity: [("max_connections".to_owned(), 100)].into(),
            ..SqlFacts::default()
        })),
        ..DcView::default()
    }
}

/// dc1 is primary at epoch 1, dc2 streams from it.
pub(crate) fn inventory() -> Inventory {
    let site = |dc: &str| Site {
        isolation: node_agent_wire::federation::Isolation::Manual,
        scope: format!("shop-{dc}"),
        namespace: "/service".into(),
        etcd: vec![format!("{dc}:2379")],
        slot: SlotName::from_name(dc),
        follows: None,
        retention: Retention::default(),
        seed: Seed::default(),
    };
    let slots = |other: &str| json!({other: {"type": "physical"}});
    let standby = json!({"slots": slots("dc1"), "standby_cluster": {
        "host": "dc1", "port": 5432, "primary_slot_name": "dc2"}});
    Inventory {
        federation: "shop".into(),
        at_us: NOW,
        sites: ["dc1", "dc2"].map(|dc| (DcName::from(dc), site(dc))).into(),
        dcs: [
            ("dc1".into(), Fact::Known(datacenter("dc1", true, &json!({"slots": slots("dc2")})))),
            ("dc2".into(), Fact::Known(datacenter("dc2", false, &standby))),
        ]
        .into(),
    }
}

/// The same with dc3, which streams from dc1 as well.
pub(crate) fn three() -> Inventory {
    let mut inventory = inventory();
    let dc3 = DcName::from("dc3");
    let mut site = inventory.sites[&DcName::from("dc2")].clone();
    site.slot = SlotName::from_name("dc3");
    inventory.sites.insert(dc3.clone(), site);
    let standby = json!({"slots": {"dc1": {"type": "physical"}, "dc2": {"type": "physical"}},
        "standby_cluster": {"host": "dc1", "port": 5432, "primary_slot_name": "dc3"}});
    inventory.dcs.insert(dc3.clone(), Fact::Known(datacenter("dc3", false, &standby)));
    let entry = record("dc3", 1, "dc1").members[&DcName::from("dc2")].clone();
    let entry = DcEntry { slot: SlotName::from_name("dc3"), ..entry };
    for dc in ["dc1", "dc2", "dc3"] {
        record_mut(&mut inventory, dc).members.insert(dc3.clone(), entry.clone());
        for slot in ["dc1", "dc2", "dc3"].into_iter().filter(|slot| *slot != dc) {
            node_mut(&mut inventory, dc).slots.insert(slot.into(), physical());
        }
    }
    let config = &mut view(&mut inventory, "dc1").config.as_mut().unwrap().value;
    config["slots"]["dc3"] = json!({"type": "physical"});
    let config = &mut view(&mut inventory, "dc2").config.as_mut().unwrap().value;
    config["slots"]["dc3"] = json!({"type": "physical"});
    inventory
}

/// One datacenter of it, to change something.
pub(crate) fn view<'i>(inventory: &'i mut Inventory, dc: &str) -> &'i mut DcView {
    match inventory.dcs.get_mut(&DcName::from(dc)) {
        Some(Fact::Known(view)) => view,
        Some(Fact::Unknown { .. }) | None => panic!("{dc} is not there"),
    }
}

pub(crate) fn record_mut<'i>(inventory: &'i mut Inventory, dc: &str) -> &'i mut FederationRecord {
    &mut view(inventory, dc).record.as_mut().unwrap().value
}

pub(crate) fn node_mut<'i>(inventory: &'i mut Inventory, dc: &str) -> &'i mut NodeView {
    match view(inventory, dc).nodes.values_mut().next() {
        Some(Fact::Known(node)) => node,
        Some(Fact::Unknown { .. }) | None => panic!("{dc} has no node"),
    }
}

/// The datacenter stops answering.
pub(crate) fn lose(inventory: &mut Inventory, dc: &str) {
    inventory
        .dcs
        .insert(dc.into(), Fact::Unknown { since_us: NOW, why: "connection refused".into() });
}

/// What Ann asks for.
pub(crate) fn request() -> Request {
    Request {
        id: "op-1".into(),
        by: "ann".into(),
        now_us: NOW,
        force: false,
        policies: Policies::default(),
    }
}
