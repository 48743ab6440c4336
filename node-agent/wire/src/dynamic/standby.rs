//! The `standby_cluster` section.

use super::texts;
use crate::ids::SlotName;
use crate::yaml::truth;
use serde_json::{Map, Value};
use std::collections::BTreeSet;

/// The `standby_cluster` section, when active.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StandbyCluster {
    /// One host or several with commas between.
    pub host: Option<String>,
    /// One port, or as many as hosts.
    pub port: Option<String>,
    /// The slot on the remote primary.
    pub primary_slot_name: Option<SlotName>,
    /// Fetches WAL from an archive.
    pub restore_command: Option<String>,
    /// Cleans the archive.
    pub archive_cleanup_command: Option<String>,
    /// Delays replay on the standby leader.
    pub recovery_min_apply_delay: Option<String>,
    /// Ours: the remote server is the leader of a standby cluster itself, so it is read-only.
    pub cascade: bool,
    /// Ours: the rate limit of a base backup of the remote server, as pg_basebackup reads it.
    pub max_rate: Option<String>,
    /// How its nodes are made while nobody here can be copied; in this order.
    pub create_replica_methods: Vec<String>,
}

impl StandbyCluster {
    /// The remote hosts with their ports, in order.
    #[must_use]
    pub fn hosts(&self) -> Vec<(String, u16)> {
        let Some(host) = &self.host else { return Vec::new() };
        let ports: Vec<u16> = self
            .port
            .iter()
            .flat_map(|p| p.split(','))
            .filter_map(|p| p.trim().parse().ok())
            .collect();
        host.split(',')
            .map(str::trim)
            .filter(|h| !h.is_empty())
            .enumerate()
            .map(|(i, h)| (h.to_owned(), ports.get(i).or(ports.first()).copied().unwrap_or(5432)))
            .collect()
    }
}

pub(super) fn read(config: &Map<String, Value>) -> Option<StandbyCluster> {
    let section = config.get("standby_cluster")?.as_object()?;
    let text = |key: &str| match section.get(key)? {
        Value::String(s) if !s.is_empty() => Some(s.clone()),
        Value::Number(n) => Some(n.to_string()),
        Value::Null | Value::Bool(_) | Value::String(_) | Value::Array(_) | Value::Object(_) => {
            None
        }
    };
    let standby = StandbyCluster {
        host: text("host"),
        port: text("port"),
        primary_slot_name: text("primary_slot_name").as_deref().and_then(SlotName::parse),
        restore_command: text("restore_command"),
        archive_cleanup_command: text("archive_cleanup_command"),
        recovery_min_apply_delay: text("recovery_min_apply_delay"),
        cascade: section.get("cascade").and_then(truth).unwrap_or(false),
        max_rate: text("max_rate"),
        create_replica_methods: texts(section.get("create_replica_methods")),
    };
    // Active when any of these is set (contract C.2).
    let active =
        standby.host.is_some() || standby.port.is_some() || standby.restore_command.is_some();
    active.then_some(standby)
}

/// As a standby cluster of the given hosts; `cascade`: they are a standby cluster themselves. Other
/// keys of an existing section stay.
#[must_use]
pub fn as_standby_of(
    config: &Map<String, Value>,
    hosts: &[(String, u16)],
    own_slot: &SlotName,
    cascade: bool,
) -> Map<String, Value> {
    let mut next = config.clone();
    let mut section = match next.get("standby_cluster") {
        Some(Value::Object(there)) => there.clone(),
        Some(_) | None => Map::new(),
    };
    let names: Vec<&str> = hosts.iter().map(|(host, _)| host.as_str()).collect();
    section.insert("host".into(), names.join(",").into());
    section.insert("port".into(), ports(hosts));
    section.insert("primary_slot_name".into(), own_slot.to_string().into());
    if cascade {
        section.insert("cascade".into(), true.into());
    } else {
        section.remove("cascade");
    }
    next.insert("standby_cluster".into(), Value::Object(section));
    next
}

/// One number when all are equal, else a list with commas between.
fn ports(hosts: &[(String, u16)]) -> Value {
    let distinct: BTreeSet<u16> = hosts.iter().map(|(_, port)| *port).collect();
    if let (1, Some(port)) = (distinct.len(), distinct.first()) {
        return Value::from(*port);
    }
    let list: Vec<String> = hosts.iter().map(|(_, port)| port.to_string()).collect();
    Value::from(list.join(","))
}
