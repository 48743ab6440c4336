//! Configuration files made from a topology: one for each agent, one for the federator.
//!
//! Pure: no file is read or written here. The agents' format is Patroni's YAML; ours in it are the
//! `grpc` section and `federation.standby`, which makes the agents of every datacenter but the
//! first wait for `federator setup` instead of running initdb.

use std::path::{Path, PathBuf};

use node_agent_wire::DcName;
use serde_json::Value as Json;
use serde_yaml::{Mapping, Value};

use crate::certificates::Files;
use crate::credentials::{self, Credentials, Password, REPLICATION_USER, REWIND_USER, SUPERUSER};
use crate::layout::{GRPC_PORT, Host, HostKind, Layout, POSTGRES_PORT, REST_PORT};
use crate::network::Network;
use crate::overlay::{Overlay, Places};
use crate::topology::{Datacenter, Topology, WITNESS};

/// First part of the keys of every cluster in etcd.
pub const NAMESPACE: &str = "/service";

/// A value that YAML cannot express.
#[derive(Debug, thiserror::Error)]
#[error("cannot write {what} as YAML: {source}")]
pub struct RenderError {
    what: String,
    source: serde_yaml::Error,
}

/// The scope of a datacenter's cluster.
#[must_use]
pub fn scope(topology: &Topology, dc: &DcName) -> String {
    format!("{}-{dc}", topology.name)
}

/// What the agents' configuration depends on besides the host.
#[derive(Debug, Clone, Copy)]
pub struct AgentContext<'a> {
    /// The topology.
    pub topology: &'a Topology,
    /// Its layout.
    pub layout: &'a Layout,
    /// Directory of PostgreSQL's programs.
    pub postgres_bin_dir: &'a Path,
    /// The lab's passwords.
    pub credentials: &'a Credentials,
}

/// Every configuration file: path and text. Agents' files hold passwords. There is a file for the
/// federator when there is more than one datacenter.
///
/// # Errors
/// When a value of the topology cannot be written as YAML.
pub fn all_files(context: &AgentContext<'_>) -> Result<Vec<(PathBuf, String)>, RenderError> {
    let AgentContext { topology, layout, .. } = *context;
    let mut files = Vec::new();
    for dc in &topology.datacenters {
        for host in layout.hosts_of(&dc.name).filter(|host| host.is_node()) {
            files.push((host.agent_config(), agent_config(context, dc, host)?));
        }
    }
    if topology.is_federation() {
        files.push((layout.federator_config(), federator_config(topology, layout)?));
    }
    Ok(files)
}

/// The configuration file of a node's agent; it holds passwords.
///
/// # Errors
/// When a value of the topology cannot be written as YAML.
pub fn agent_config(
    context: &AgentContext<'_>,
    dc: &Datacenter,
    host: &Host,
) -> Result<String, RenderError> {
    let topology = context.topology;
    let etcd = context.layout.etcd_endpoints(&dc.name);
    let etcd: Vec<Value> = etcd.iter().map(|address| text(address.to_string())).collect();
    let service = |port| {
        let address = text(host.at(port).to_string());
        map([("listen", address.clone()), ("connect_address", address)])
    };
    let mut config = vec![
        ("scope", text(scope(topology, &dc.name))),
        ("namespace", text(NAMESPACE)),
        ("name", text(&host.name)),
        ("restapi", service(REST_PORT)),
        ("grpc", with_certificates(context.layout, service(GRPC_PORT))),
        ("etcd3", map([("hosts", Value::Sequence(etcd))])),
        ("bootstrap", bootstrap(topology, dc)?),
        ("postgresql", postgresql(context, host)),
    ];
    if context.layout.network == Network::SEPARATE && !context.layout.wan {
        // Agents refuse gRPC without certificates off the loopback interface.
        config.retain(|(section, _)| *section != "grpc");
    }
    if let HostKind::Node { tags } = &host.kind
        && !tags.is_empty()
    {
        config.push(("tags", to_value("tags", tags)?));
    }
    let first = topology.datacenters.first().map(|dc| &dc.name);
    if first != Some(&dc.name) {
        config.push(("federation", map([("standby", Value::Bool(true))])));
    }
    let what = format!("configuration of {}", host.name);
    let node = dc.nodes.iter().find(|node| host.name == format!("{}-{}", dc.name, node.name));
    let places = Places {
        name: host.name.clone(),
        address: host.address.to_string(),
        dir: host.dir.to_string_lossy().into_owned(),
    };
    let overlays = [&topology.agent, &dc.agent].into_iter().chain(node.map(|node| &node.agent));
    overlaid(&what, config, overlays.map(|overlay| overlay.at(&places)))
}

/// A section with the certificates of a lab that has a WAN.
fn with_certificates(layout: &Layout, section: Value) -> Value {
    let Value::Mapping(mut section) = section else { return section };
    if layout.wan {
        let Files { authority, certificate, key } = Files::of(layout);
        for (name, file) in [("cafile", authority), ("certfile", certificate), ("keyfile", key)] {
            section.insert(text(name), path(&file));
        }
    }
    Value::Mapping(section)
}

/// The document with every overlay laid over it, in order.
fn overlaid(
    what: &str,
    entries: Vec<(&str, Value)>,
    overlays: impl Iterator<Item = Overlay>,
) -> Result<String, RenderError> {
    let overlays: Vec<Overlay> = overlays.filter(|o| *o != Overlay::default()).collect();
    if overlays.is_empty() {
        return document(what, entries);
    }
    let source = |source| RenderError { what: what.to_owned(), source };
    let mapping: Mapping = entries.into_iter().map(|(key, value)| (text(key), value)).collect();
    let mut config = serde_yaml::from_value(Value::Mapping(mapping)).map_err(source)?;
    for overlay in overlays {
        overlay.apply(&mut config);
    }
    serde_yaml::to_string(&config).map_err(source)
}

fn bootstrap(topology: &Topology, dc: &Datacenter) -> Result<Value, RenderError> {
    let mut parameters = Mapping::new();
    for (name, value) in [
        ("wal_level", text("replica")),
        ("hot_standby", text("on")),
        ("wal_log_hints", text("on")),
        ("max_connections", Value::from(50)),
        ("shared_buffers", text("32MB")),
        // A standby that was cut off tries again after this; the default of 5 s is longer than the
        // whole failover of a lab.
        ("wal_retrieve_retry_interval", text("500ms")),
        // A power cut leaves nothing in /dev/shm: the segments are files of the data directory.
        ("dynamic_shared_memory_type", text("mmap")),
    ] {
        parameters.insert(text(name), value);
    }
    for (name, value) in &topology.postgresql.parameters {
        parameters.insert(text(name), to_value(name, value)?);
    }
    let Value::Mapping(mut dcs) = to_value("settings", &topology.settings_of(dc))? else {
        // Unreachable: a struct is always written as a mapping.
        return Ok(Value::Null);
    };
    let section = map([
        ("use_pg_rewind", Value::Bool(true)),
        ("use_slots", Value::Bool(true)),
        ("parameters", Value::Mapping(parameters)),
    ]);
    dcs.insert(text("postgresql"), section);
    let mut dynamic = from_value("settings", Value::Mapping(dcs))?;
    topology.dynamic.apply(&mut dynamic);
    dc.dynamic.apply(&mut dynamic);
    // PostgreSQL 13 keeps passwords in another form unless it is told of this one.
    let auth = map([("auth", text("scram-sha-256"))]);
    let initdb = vec![map([("encoding", text("UTF8"))]), text("data-checksums"), auth];
    Ok(map([("dcs", to_value("settings", &dynamic)?), ("initdb", Value::Sequence(initdb))]))
}

fn postgresql(context: &AgentContext<'_>, host: &Host) -> Value {
    let address = text(host.at(POSTGRES_PORT).to_string());
    let user = |name: &str, password: &Password| {
        map([("username", text(name)), ("password", text(password.reveal()))])
    };
    let secrets = context.credentials;
    let authentication = map([
        ("superuser", user(SUPERUSER, &secrets.superuser)),
        ("replication", user(REPLICATION_USER, &secrets.replication)),
        ("rewind", user(REWIND_USER, &secrets.rewind)),
    ]);
    let clients = context.layout.network.clients();
    let hba = [
        "local all all scram-sha-256".to_owned(),
        "local replication all scram-sha-256".to_owned(),
        format!("host replication {REPLICATION_USER} {clients} scram-sha-256"),
        format!("host all all {clients} scram-sha-256"),
    ];
    let sockets = map([("unix_socket_directories", path(&host.socket_dir()))]);
    map([
        ("listen", address.clone()),
        ("connect_address", address),
        ("data_dir", path(&host.data_dir())),
        ("bin_dir", path(context.postgres_bin_dir)),
        ("pgpass", path(&host.dir.join("pgpass"))),
        ("authentication", authentication),
        ("parameters", sockets),
        ("pg_hba", Value::Sequence(hba.into_iter().map(Value::String).collect())),
    ])
}

/// The federator's configuration file; passwords stay in files of their own.
///
/// # Errors
/// When a value cannot be written as YAML.
pub fn federator_config(topology: &Topology, layout: &Layout) -> Result<String, RenderError> {
    let mut datacenters = Mapping::new();
    for dc in &topology.datacenters {
        let etcd = layout.etcd_endpoints(&dc.name);
        let etcd: Vec<Value> = etcd.iter().map(|address| text(address.to_string())).collect();
        let entry = map([
            ("scope", text(scope(topology, &dc.name))),
            ("namespace", text(NAMESPACE)),
            ("etcd", Value::Sequence(etcd)),
        ]);
        datacenters.insert(text(dc.name.as_str()), entry);
    }
    let user =
        |name: &str, file: &Path| map([("username", text(name)), ("password_file", path(file))]);
    let users = map([
        ("superuser", user(SUPERUSER, &credentials::superuser_file(&layout.dir))),
        ("replication", user(REPLICATION_USER, &credentials::replication_file(&layout.dir))),
    ]);
    let mut config = vec![
        ("federation", text(topology.name.as_str())),
        ("datacenters", Value::Mapping(datacenters)),
        ("credentials", users),
    ];
    if topology.witness.is_some() {
        let etcd = layout.etcd_endpoints(&DcName::new(WITNESS));
        let etcd = etcd.iter().map(|address| text(address.to_string())).collect();
        config.push(("witness", map([("etcd", Value::Sequence(etcd))])));
    }
    if layout.wan {
        config.push(("tls", with_certificates(layout, Value::Mapping(Mapping::new()))));
    }
    let overlays = std::iter::once(topology.federator.clone());
    overlaid("the federator's configuration", config, overlays)
}

fn document(what: &str, entries: Vec<(&str, Value)>) -> Result<String, RenderError> {
    let mapping: Mapping = entries.into_iter().map(|(key, value)| (text(key), value)).collect();
    serde_yaml::to_string(&mapping).map_err(|source| RenderError { what: what.to_owned(), source })
}

fn map<const N: usize>(entries: [(&str, Value); N]) -> Value {
    Value::Mapping(entries.into_iter().map(|(key, value)| (text(key), value)).collect())
}

fn text(value: impl Into<String>) -> Value {
    Value::String(value.into())
}

fn path(value: &Path) -> Value {
    text(value.to_string_lossy())
}

fn from_value(what: &str, value: Value) -> Result<serde_json::Map<String, Json>, RenderError> {
    serde_yaml::from_value(value).map_err(|source| RenderError { what: what.to_owned(), source })
}

fn to_value(what: &str, value: &impl serde::Serialize) -> Result<Value, RenderError> {
    serde_yaml::to_value(value).map_err(|source| RenderError { what: what.to_owned(), source })
}

#[cfg(test)]
#[path = "render_tests.rs"]
mod tests;
