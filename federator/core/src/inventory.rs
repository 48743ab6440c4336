//! What was collected: per datacenter a fact, known or unknown since when, with its reason.

use crate::configuration::Seed;
use crate::discarded::DiscardedWal;
use crate::grants::GrantsView;
use crate::history::{ClosedOperation, merge};
use crate::quote::Examination;
use node_agent_wire::dynamic::Dynamic;
use node_agent_wire::federation::{
    DcEntry, FederationRecord, Isolation, NodeEntry, Operation, Retention,
};
use node_agent_wire::member::{Member, MemberData, Role};
use node_agent_wire::position::{Consumer, Position};
use node_agent_wire::{DcName, Epoch, Lsn, MemberName, Revision, SlotName, SystemId, TimelineId};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet};

/// Something that was asked for: the answer, or since when there is none and why.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fact<T> {
    /// The answer.
    Known(T),
    /// No answer.
    Unknown {
        /// First time that it did not answer, microseconds since the Unix epoch.
        since_us: i64,
        /// What was tried and what went wrong.
        why: String,
    },
}

impl<T> Fact<T> {
    /// The answer, where there is one.
    #[must_use]
    pub fn known(&self) -> Option<&T> {
        match self {
            Self::Known(value) => Some(value),
            Self::Unknown { .. } => None,
        }
    }
}

/// A value with the revision at which it was read; writes compare with it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Versioned<T> {
    /// etcd's `mod_revision` of the key.
    pub revision: Revision,
    /// The value.
    pub value: T,
}

/// A datacenter as the federator's settings name it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Site {
    /// Patroni's `scope`.
    pub scope: String,
    /// Patroni's `namespace`.
    pub namespace: String,
    /// Its etcd's client endpoints.
    pub etcd: Vec<String>,
    /// The slot that it uses on the datacenter that it follows.
    pub slot: SlotName,
    /// The standby datacenter that it is to follow, in a cascade.
    #[serde(default)]
    pub follows: Option<DcName>,
    /// What it is to do when it is primary and cut off.
    #[serde(default)]
    pub isolation: Isolation,
    /// What gives way when its slot holds back too much WAL.
    #[serde(default)]
    pub retention: Retention,
    /// How it is filled.
    #[serde(default)]
    pub seed: Seed,
}

/// A slot on one node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotView {
    /// A consumer is connected.
    pub active: bool,
    /// `reserved`, `extended`, `unreserved` or `lost`.
    pub wal_status: String,
    /// WAL is kept from here on; 0 when it never kept any.
    #[serde(default)]
    pub restart_lsn: Lsn,
    /// What kind of slot it is.
    #[serde(default)]
    pub kind: SlotKind,
}

/// The kind of a slot.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SlotKind {
    /// The agent does not tell: it is of an earlier version.
    #[default]
    Untold,
    /// For standbys.
    Physical,
    /// For a logical consumer.
    Logical(LogicalSlot),
}

/// A logical slot on one node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogicalSlot {
    /// How far its consumer has come, as a primary tells it.
    pub consumer: Consumer,
    /// It was taken over from the primary, and is kept in step with that (PostgreSQL 17 and later).
    pub synced: bool,
}

/// What an agent answered about its node.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct NodeView {
    /// The published role.
    pub role: String,
    /// The published state.
    pub state: String,
    /// PostgreSQL accepts writes.
    pub writable: bool,
    /// The agent holds its datacenter's leader key.
    pub holds_leader_key: bool,
    /// The timeline.
    pub timeline: TimelineId,
    /// Flushed on a primary, received on a standby.
    pub lsn: Lsn,
    /// Replayed.
    pub replay_lsn: Lsn,
    /// `streaming`, `in archive recovery` or empty.
    pub replication_state: String,
    /// Replay is paused.
    pub replay_paused: bool,
    /// Number of the rule of the agent's last decision.
    pub rule: u32,
    /// Why the agent does what it does.
    pub why: String,
    /// The epoch that it acts under; 0 without a record.
    pub epoch: Epoch,
    /// It acts on a fence.
    pub fenced: bool,
    /// The database system; empty without a data directory.
    pub system_id: SystemId,
    /// `server_version_num`; 0 when unknown.
    pub server_version: u32,
    /// The synchronous standby.
    pub sync_standby: String,
    /// Its slots.
    pub slots: BTreeMap<String, SlotView>,
    /// Commit time of the last transaction replayed; 0 if none.
    pub replayed_commit_at_us: i64,
    /// Site grants, of the leader of its datacenter.
    pub grants: Option<GrantsView>,
    /// Free bytes on the disk with WAL.
    pub wal_free_bytes: Option<u64>,
    /// How much a slot may hold back, in bytes; `None`: unlimited, or not known.
    pub slot_wal_limit_bytes: Option<u64>,
    /// The user by which it replicates; empty when it does not say.
    pub replication_user: String,
    /// Bytes of a base backup that have arrived, while one is under way.
    pub copy_done_bytes: u64,
    /// Bytes of it in all, an estimate; 0: none is under way.
    pub copy_total_bytes: u64,
    /// What it discarded last, since its agent started.
    pub discarded: Option<DiscardedWal>,
}

/// What SQL on a datacenter's leader said.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SqlFacts {
    /// `server_version_num`.
    pub server_version: u32,
    /// `SHOW data_checksums`.
    pub data_checksums: bool,
    /// `SHOW wal_log_hints`.
    pub wal_log_hints: bool,
    /// `recovery_min_apply_delay` in milliseconds.
    pub apply_delay_ms: i64,
    /// Replay is paused.
    pub replay_paused: bool,
    /// `pg_stat_wal_receiver.status`; empty without a WAL receiver.
    pub receiver: String,
    /// `pg_stat_wal_receiver.received_tli`.
    pub received_timeline: Option<TimelineId>,
    /// The database system.
    pub system_id: SystemId,
    /// Settings that a standby must have at least as high as its primary
    /// (PostgreSQL manual, section 27.4.3).
    pub capacity: BTreeMap<String, i64>,
    /// The version of the collation that the database's default order comes from, as the operating
    /// system has it now; empty when it has none, or before PostgreSQL 15.
    pub collation_version: String,
    /// Why the replication user could not log in; `None` when it could.
    pub replication_login_error: Option<String>,
}

/// A datacenter that answered.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct DcView {
    /// The federation record.
    pub record: Option<Versioned<FederationRecord>>,
    /// The record is there and can't be read: why.
    pub record_error: Option<String>,
    /// The holder of the leader key.
    pub leader: Option<MemberName>,
    /// The members.
    pub members: BTreeMap<MemberName, MemberData>,
    /// The dynamic configuration.
    pub config: Option<Versioned<Map<String, Value>>>,
    /// The database system; `None` while nothing is bootstrapped.
    pub initialize: Option<SystemId>,
    /// The leader's position.
    pub position: Option<Position>,
    /// Whether `/sync` is in force, and its standbys.
    pub sync_standbys: Option<BTreeSet<MemberName>>,
    /// What each agent said.
    pub nodes: BTreeMap<MemberName, Fact<NodeView>>,
    /// What the agents found that were asked to look at their data directories.
    pub examined: BTreeMap<MemberName, Fact<Examination>>,
    /// What SQL on the leader said; `None` when it was not asked.
    pub sql: Option<Fact<SqlFacts>>,
    /// The closed operations that it knows of.
    pub history: Vec<ClosedOperation>,
}

impl DcView {
    /// The record's value.
    #[must_use]
    pub fn record(&self) -> Option<&FederationRecord> {
        self.record.as_ref().map(|r| &r.value)
    }

    /// The operation in the record.
    #[must_use]
    pub fn operation(&self) -> Option<&Operation> {
        self.record()?.operation.as_ref()
    }

    /// What the leader's agent said.
    #[must_use]
    pub fn leader_node(&self) -> Option<&NodeView> {
        self.nodes.get(self.leader.as_ref()?)?.known()
    }

    /// The SQL facts, where known.
    #[must_use]
    pub fn sql(&self) -> Option<&SqlFacts> {
        self.sql.as_ref()?.known()
    }

    /// The configuration with Patroni's defaults.
    #[must_use]
    pub fn dynamic(&self) -> Dynamic {
        self.config.as_ref().map_or_else(Dynamic::default, |c| Dynamic::read(&c.value))
    }

    /// The leader holds its key and its PostgreSQL runs, by its own word.
    #[must_use]
    pub fn leader_runs(&self) -> bool {
        let published = self
            .leader
            .as_ref()
            .and_then(|l| self.members.get(l))
            .is_some_and(|m| m.state == node_agent_wire::member::state::RUNNING);
        published || self.leader_node().is_some_and(|n| n.state == "running")
    }

    /// The leader's timeline by the best source at hand.
    #[must_use]
    pub fn timeline(&self) -> Option<TimelineId> {
        let live = self.leader_node().map(|n| n.timeline).filter(|t| t.0 > 0);
        live.or_else(|| self.position.as_ref()?.timeline)
    }

    /// The members that may become leader, hence keep permanent slots.
    pub fn promotable(&self) -> impl Iterator<Item = (&MemberName, &MemberData)> {
        self.members.iter().filter(|(name, data)| {
            let member = Member { name: (*name).clone(), data: (*data).clone() };
            !member.tag("nofailover")
        })
    }

    /// Where PostgreSQL of every member listens, the leader first.
    #[must_use]
    pub fn postgres_addresses(&self) -> Vec<(String, u16)> {
        let address = |name: &MemberName, data: &MemberData| {
            Member { name: name.clone(), data: data.clone() }.postgres_address()
        };
        let (mut first, mut rest) = (Vec::new(), Vec::new());
        for (name, data) in &self.members {
            let list = if Some(name) == self.leader.as_ref() { &mut first } else { &mut rest };
            list.extend(address(name, data));
        }
        first.append(&mut rest);
        first
    }

    /// The members as other datacenters reach them.
    #[must_use]
    pub fn node_entries(&self) -> BTreeMap<MemberName, NodeEntry> {
        self.members
            .iter()
            .filter_map(|(name, data)| {
                let member = Member { name: name.clone(), data: data.clone() };
                let (host, port) = member.postgres_address()?;
                let postgres = format!("{host}:{port}");
                Some((name.clone(), NodeEntry { postgres, grpc: data.grpc.clone() }))
            })
            .collect()
    }

    /// The leader says that it is a primary that accepts writes.
    #[must_use]
    pub fn leader_writes(&self) -> bool {
        match self.leader_node() {
            Some(node) => node.writable,
            None => {
                let published = self.leader.as_ref().and_then(|l| self.members.get(l));
                published.is_some_and(|m| m.role == Some(Role::Primary))
            }
        }
    }
}

/// Everything that a planner looks at.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Inventory {
    /// The federation's name in the settings.
    pub federation: String,
    /// When the collection ended, microseconds since the Unix epoch.
    pub at_us: i64,
    /// The datacenters of the settings.
    pub sites: BTreeMap<DcName, Site>,
    /// What each of them said.
    pub dcs: BTreeMap<DcName, Fact<DcView>>,
}

impl Inventory {
    /// A datacenter that answered.
    #[must_use]
    pub fn view(&self, dc: &DcName) -> Option<&DcView> {
        self.dcs.get(dc)?.known()
    }

    /// Every datacenter that answered.
    pub fn views(&self) -> impl Iterator<Item = (&DcName, &DcView)> {
        self.dcs.iter().filter_map(|(dc, fact)| Some((dc, fact.known()?)))
    }

    /// Every record that could be read, but for those of datacenters that know of their removal.
    pub fn records(&self) -> impl Iterator<Item = (&DcName, &FederationRecord)> {
        let all = self.views().filter_map(|(dc, view)| Some((dc, view.record()?)));
        all.filter(|(_, record)| record.is_member())
    }

    /// Whether the newest record names the datacenter as a member.
    #[must_use]
    pub fn is_member(&self, dc: &DcName) -> bool {
        self.newest().is_some_and(|newest| newest.members.contains_key(dc))
    }

    /// Whether the datacenter was removed: its record says so, or the newest one does not name it.
    #[must_use]
    pub fn is_removed(&self, dc: &DcName) -> bool {
        let record = self.view(dc).and_then(DcView::record);
        let named = self.newest().is_none_or(|newest| newest.members.contains_key(dc));
        record.is_some_and(|record| !record.is_member() || !named)
    }

    /// The closed operations that any datacenter knows of, oldest first.
    #[must_use]
    pub fn history(&self) -> Vec<ClosedOperation> {
        let known: Vec<_> = self.views().map(|(_, view)| view.history.clone()).collect();
        merge(&known)
    }

    /// The highest epoch in any record, with the record that carries it. When several do, the one
    /// of the primary datacenter that it names.
    #[must_use]
    pub fn newest(&self) -> Option<&FederationRecord> {
        self.records().map(|(_, r)| r).max_by_key(|r| (r.epoch, r.names_us()))
    }

    /// The primary datacenter of the newest epoch.
    #[must_use]
    pub fn primary(&self) -> Option<&DcName> {
        self.newest().map(|r| &r.primary)
    }

    /// The revision of each record, as a plan's parent.
    #[must_use]
    pub fn revisions(&self) -> BTreeMap<DcName, Revision> {
        self.views()
            .filter_map(|(dc, view)| Some((dc.clone(), view.record.as_ref()?.revision)))
            .collect()
    }

    /// The members section of a record as of now: settings, and the nodes as seen. A datacenter
    /// that did not answer keeps the nodes that `known` has for it.
    #[must_use]
    pub fn entries(&self, known: Option<&FederationRecord>) -> BTreeMap<DcName, DcEntry> {
        self.sites
            .iter()
            .map(|(dc, site)| {
                let before = known.and_then(|r| r.members.get(dc));
                let seen = self.view(dc).map(DcView::node_entries).filter(|n| !n.is_empty());
                let nodes = seen.or_else(|| before.map(|b| b.nodes.clone())).unwrap_or_default();
                let entry = DcEntry {
                    scope: site.scope.clone(),
                    namespace: site.namespace.clone(),
                    etcd: site.etcd.clone(),
                    isolation: before.map(|b| b.isolation).unwrap_or_default(),
                    slot: site.slot.clone(),
                    follows: site.follows.clone(),
                    retention: site.retention,
                    nodes,
                };
                (dc.clone(), entry)
            })
            .collect()
    }
}
