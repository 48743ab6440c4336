//! What `status` prints, as data: pure, stable as JSON.

use crate::grants::{self, GrantsReport};
use crate::inventory::{DcView, Fact, Inventory};
use crate::links;
use crate::planner::Request;
use crate::readiness::{self, Readiness};
use crate::resume::open_operations;
use crate::runway::{self, Runway};
use crate::topology::{self, DcRole, Problem};
use node_agent_wire::member::Role;
use node_agent_wire::{DcName, Epoch};
use serde::Serialize;

/// The whole report.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct StatusReport {
    /// The federation.
    pub federation: String,
    /// When it was collected, microseconds since the Unix epoch.
    pub at_us: i64,
    /// The newest epoch known.
    pub epoch: Option<Epoch>,
    /// The primary datacenter of that epoch.
    pub primary: Option<DcName>,
    /// One row a datacenter.
    pub datacenters: Vec<DcRow>,
    /// Site grants, where the federation has them and a leader's agent answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grants: Option<GrantsReport>,
    /// The id of the operation in progress.
    pub operation: Option<String>,
    /// What is wrong, the worst first.
    pub problems: Vec<Problem>,
}

/// One datacenter.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct DcRow {
    /// Its name.
    pub dc: DcName,
    /// The part that it plays.
    pub role: DcRole,
    /// The datacenter that its configuration names as its source; `None` where it follows nobody,
    /// or an address that is no node's.
    pub source: Option<DcName>,
    /// Its record's epoch.
    pub epoch: Option<Epoch>,
    /// Its leader.
    pub leader: Option<String>,
    /// In one or two words: `writable`, `streaming`, `no answer` …
    pub state: String,
    /// How far a standby is behind.
    pub lag: Option<Lag>,
    /// The synchronous standbys, with commas between; empty when off.
    pub sync: String,
    /// `ok`, or what is wrong with the slots for the other datacenters.
    pub slots: String,
    /// `none`, `set` or `acknowledged`.
    pub fence: String,
    /// Whether the primary role could move here; not of the primary datacenter itself.
    pub readiness: Option<Readiness>,
    /// How long it may be away; not of the primary datacenter.
    pub runway: Option<Runway>,
    /// The nodes.
    pub nodes: Vec<NodeRow>,
}

/// One node; in JSON, and in the table when there is something to say.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct NodeRow {
    /// Its name.
    pub name: String,
    /// Its role.
    pub role: String,
    /// Its state.
    pub state: String,
    /// Whether it accepts writes; `None` when its agent does not answer.
    pub writable: Option<bool>,
    /// Why its agent does what it does.
    pub why: String,
}

/// How far a standby datacenter is behind the primary.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Lag {
    /// Bytes of WAL not replayed yet.
    pub bytes: u64,
    /// Age of the last replayed transaction in microseconds, 0 when nothing is missing. `None`
    /// when no transaction was replayed yet.
    pub span_us: Option<i64>,
    /// The age of the observation in microseconds.
    pub age_us: i64,
}

/// Makes the report.
#[must_use]
pub fn status(inventory: &Inventory, request: &Request) -> StatusReport {
    let history = inventory.history();
    let row = |dc: &DcName| DcRow {
        readiness: readiness::of(inventory, dc, &history, request),
        runway: runway::of(inventory, dc),
        ..row(inventory, dc)
    };
    StatusReport {
        federation: inventory.federation.clone(),
        at_us: inventory.at_us,
        epoch: inventory.newest().map(|r| r.epoch),
        primary: inventory.primary().cloned(),
        datacenters: inventory.sites.keys().map(row).collect(),
        grants: grants::report(inventory),
        operation: open_operations(inventory).first().map(|o| o.operation.id.to_string()),
        problems: topology::problems(inventory),
    }
}

fn row(inventory: &Inventory, dc: &DcName) -> DcRow {
    let role = topology::role(inventory, dc);
    let Some(view) = inventory.view(dc) else {
        return DcRow {
            dc: dc.clone(),
            role,
            source: None,
            epoch: None,
            leader: None,
            state: "no answer".into(),
            lag: None,
            sync: String::new(),
            slots: "unknown".into(),
            fence: "unknown".into(),
            readiness: None,
            runway: None,
            nodes: Vec::new(),
        };
    };
    let faults = topology::slot_faults(inventory, dc, view);
    let fence = match view.record().map(|r| r.fence.as_ref()) {
        None => "-",
        Some(None) => "none",
        Some(Some(fence)) if fence.ack.is_some() => "acknowledged",
        Some(Some(_)) => "set",
    };
    DcRow {
        dc: dc.clone(),
        role,
        source: links::configured(inventory, dc).cloned(),
        epoch: view.record().map(|r| r.epoch),
        leader: view.leader.as_ref().map(ToString::to_string),
        state: state(view),
        lag: lag(inventory, dc, view),
        sync: sync(view),
        slots: match (role, faults.first()) {
            (DcRole::Unjoined | DcRole::Removed | DcRole::Unknown, _) => "-".into(),
            (_, None) => "ok".into(),
            (_, Some(first)) => first.clone(),
        },
        fence: fence.into(),
        readiness: None,
        runway: None,
        nodes: nodes(view),
    }
}

fn state(view: &DcView) -> String {
    let Some(leader) = &view.leader else { return "no leader".into() };
    match view.nodes.get(leader).and_then(Fact::known) {
        Some(node) if node.writable => "writable".into(),
        Some(node) if !node.replication_state.is_empty() => node.replication_state.clone(),
        Some(node) if node.state == "running" => "read-only".into(),
        Some(node) => node.state.clone(),
        None => "agent silent".into(),
    }
}

fn sync(view: &DcView) -> String {
    let names: Vec<&str> =
        view.sync_standbys.iter().flatten().map(node_agent_wire::MemberName::as_str).collect();
    match &view.sync_standbys {
        None => "off".into(),
        Some(_) if names.is_empty() => "no standby".into(),
        Some(_) => names.join(","),
    }
}

fn nodes(view: &DcView) -> Vec<NodeRow> {
    view.members
        .iter()
        .map(|(name, data)| {
            let live = view.nodes.get(name).and_then(Fact::known);
            NodeRow {
                name: name.to_string(),
                role: live.map_or_else(
                    || data.role.map(Role::as_str).unwrap_or_default().to_owned(),
                    |n| n.role.clone(),
                ),
                state: live.map_or_else(|| data.state.clone(), |n| n.state.clone()),
                writable: live.map(|n| n.writable),
                why: live.map_or_else(|| data.why.clone().unwrap_or_default(), |n| n.why.clone()),
            }
        })
        .collect()
}

/// The lag from the freshest observations: the agents when both answer, else what the standby's
/// leader last published. Only of a datacenter that follows.
fn lag(inventory: &Inventory, dc: &DcName, view: &DcView) -> Option<Lag> {
    let primary = inventory.primary().filter(|primary| *primary != dc)?;
    let source = inventory.view(primary).and_then(DcView::leader_node).filter(|n| n.writable);
    let span = |bytes: u64, commit_at: Option<i64>, now: i64| {
        if bytes == 0 { Some(0) } else { commit_at.map(|at| now.saturating_sub(at).max(0)) }
    };
    if let (Some(source), Some(node)) = (source, view.leader_node()) {
        if node.timeline != source.timeline {
            return None;
        }
        let bytes = source.lsn.bytes_since(node.replay_lsn);
        let commit_at = Some(node.replayed_commit_at_us).filter(|at| *at > 0);
        return Some(Lag { bytes, span_us: span(bytes, commit_at, inventory.at_us), age_us: 0 });
    }
    let position = view.position.as_ref()?;
    let seen = position.primary_seen.as_ref().filter(|seen| seen.dc == *primary)?;
    let bytes = seen.lsn.bytes_since(position.replay_lsn.or(position.lsn)?);
    let age_us = inventory.at_us.saturating_sub(seen.seen_at_us).max(0);
    Some(Lag { bytes, span_us: span(bytes, position.commit_at_us, seen.seen_at_us), age_us })
}
