//! The local configuration: Patroni's YAML (contract C.3), and our sections `grpc` and
//! `federation`.

use crate::dynamic::Dynamic;
use serde::Deserialize;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// One agent's configuration file.
#[derive(Clone, Debug, Deserialize)]
pub struct LocalConfig {
    /// The cluster.
    pub scope: String,
    /// The first part of every DCS key.
    #[serde(default = "default_namespace")]
    pub namespace: String,
    /// This member.
    pub name: String,
    /// Patroni's REST API.
    pub restapi: RestConfig,
    /// Ours: the agent's gRPC listener. Absent: no gRPC.
    #[serde(default)]
    pub grpc: Option<GrpcConfig>,
    /// Ours: how this cluster takes part in a federation before the record exists.
    #[serde(default)]
    pub federation: FederationConfig,
    /// etcd with its v3 API.
    pub etcd3: EtcdConfig,
    /// How a new cluster begins.
    #[serde(default)]
    pub bootstrap: BootstrapConfig,
    /// PostgreSQL on this host.
    pub postgresql: PostgresConfig,
    /// Tags of this member.
    #[serde(default)]
    pub tags: BTreeMap<String, Value>,
    /// The kernel's watchdog, beside the guard.
    #[serde(default)]
    pub watchdog: WatchdogConfig,
}

/// `watchdog` (contract E.7).
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default)]
pub struct WatchdogConfig {
    /// Whether a leader opens the device.
    pub mode: WatchdogMode,
    /// The device.
    pub device: PathBuf,
    /// Seconds between the device's timeout and the end of the TTL; half the TTL when -1.
    pub safety_margin: i64,
    /// `testing` writes the timeout as text instead of by ioctl.
    pub driver: WatchdogDriver,
}

impl Default for WatchdogConfig {
    fn default() -> Self {
        Self {
            mode: WatchdogMode::Automatic,
            device: PathBuf::from("/dev/watchdog"),
            safety_margin: 5,
            driver: WatchdogDriver::Default,
        }
    }
}

/// `watchdog.mode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WatchdogMode {
    /// Not used.
    Off,
    /// Used when it can be.
    Automatic,
    /// Nobody leads without it.
    Required,
}

/// `watchdog.driver`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WatchdogDriver {
    /// The kernel's interface.
    Default,
    /// The same bytes to a pipe, for tests.
    Testing,
}

fn default_namespace() -> String {
    "service".to_owned()
}

impl LocalConfig {
    /// A setting of the `postgresql` section that both configurations may hold, such as
    /// `create_replica_methods` or `recovery_conf`: the local value wins (contract C.1).
    #[must_use]
    pub fn postgresql_setting<'a>(&'a self, dynamic: &'a Dynamic, key: &str) -> Option<&'a Value> {
        let local = self.postgresql.other.get(key);
        local.or_else(|| dynamic.postgresql.get(key)).filter(|value| !value.is_null())
    }
}

/// `restapi`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct RestConfig {
    /// `host:port` to listen on.
    pub listen: String,
    /// `host:port` that others use; `listen` when absent.
    #[serde(default)]
    pub connect_address: Option<String>,
    /// Basic authentication of the endpoints that change something.
    #[serde(default)]
    pub authentication: Option<Credentials>,
}

/// `grpc`, ours.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct GrpcConfig {
    /// `host:port` to listen on. Without certificates only a loopback address is accepted.
    pub listen: String,
    /// `host:port` that the federator uses; `listen` when absent.
    #[serde(default)]
    pub connect_address: Option<String>,
    /// PEM: this server's certificate chain.
    #[serde(default)]
    pub certfile: Option<PathBuf>,
    /// PEM: its private key.
    #[serde(default)]
    pub keyfile: Option<PathBuf>,
    /// PEM: the authority that client certificates must come from.
    #[serde(default)]
    pub cafile: Option<PathBuf>,
}

/// `federation`, ours.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub struct FederationConfig {
    /// This cluster never begins by initdb: it waits until its `/config` has a `standby_cluster`.
    #[serde(default)]
    pub standby: bool,
}

/// `etcd3`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct EtcdConfig {
    /// `host:port`, when there is one.
    #[serde(default)]
    pub host: Option<String>,
    /// A list, or text with commas between.
    #[serde(default)]
    pub hosts: Option<Value>,
    /// A user, when etcd asks for one.
    #[serde(default)]
    pub username: Option<String>,
    /// Their password.
    #[serde(default)]
    pub password: Option<String>,
}

impl EtcdConfig {
    /// The endpoints, in order.
    #[must_use]
    pub fn endpoints(&self) -> Vec<String> {
        let listed: Vec<String> = match &self.hosts {
            Some(Value::Array(items)) => {
                items.iter().filter_map(Value::as_str).map(ToOwned::to_owned).collect()
            }
            Some(Value::String(text)) => text.split(',').map(|h| h.trim().to_owned()).collect(),
            Some(Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_)) | None => {
                self.host.iter().cloned().collect()
            }
        };
        listed.into_iter().filter(|h| !h.is_empty()).collect()
    }
}

/// `bootstrap`.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct BootstrapConfig {
    /// The first dynamic configuration.
    #[serde(default)]
    pub dcs: Map<String, Value>,
    /// Options of initdb: a list of names and `name: value` maps.
    #[serde(default)]
    pub initdb: Vec<Value>,
    /// Appended to `pg_hba.conf` when `postgresql.pg_hba` is absent.
    #[serde(default)]
    pub pg_hba: Vec<String>,
    /// How a new cluster is made; `initdb` when absent. Any other name is a section in `methods`.
    #[serde(default)]
    pub method: Option<String>,
    /// A command that is run once when a new cluster is up.
    #[serde(default, alias = "post_init")]
    pub post_bootstrap: Option<String>,
    /// Sections of custom methods, by name (contract E.4).
    #[serde(flatten)]
    pub methods: Map<String, Value>,
}

/// A user with a password.
#[derive(Clone, Default, PartialEq, Deserialize)]
pub struct Credentials {
    /// The user.
    #[serde(default)]
    pub username: String,
    /// Never printed.
    #[serde(default)]
    pub password: Option<String>,
    /// libpq's connection parameters of this user, as contract C.3 lists them: `sslmode`,
    /// `sslcert`, `sslkey`, `sslpassword`, `sslrootcert`, `sslcrl`, `sslcrldir`, `gssencmode`,
    /// `channel_binding`, `sslnegotiation`. Never printed: one of them is a password.
    #[serde(flatten)]
    pub connection: BTreeMap<String, String>,
}

impl Credentials {
    /// The same for a connection to another datacenter: where there is a certificate to check a
    /// server by and nothing says how, it is checked in full, with the name (PostgreSQL manual,
    /// 34.19.1).
    #[must_use]
    pub fn across(mut self) -> Self {
        if self.connection.contains_key("sslrootcert") {
            let mode = self.connection.entry("sslmode".to_owned());
            mode.or_insert_with(|| "verify-full".to_owned());
        }
        self
    }
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials")
            .field("username", &self.username)
            .field("password", &self.password.as_ref().map(|_| "(hidden)"))
            .finish()
    }
}

/// `postgresql.authentication`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub struct Authentication {
    /// Local sessions of the agent.
    #[serde(default)]
    pub superuser: Credentials,
    /// Replication between nodes.
    #[serde(default)]
    pub replication: Credentials,
    /// pg_rewind; the superuser when absent.
    #[serde(default)]
    pub rewind: Option<Credentials>,
}

/// `postgresql`.
#[derive(Clone, Debug, Deserialize)]
pub struct PostgresConfig {
    /// `host:port`, several hosts with commas between.
    pub listen: String,
    /// `host:port` that others use; `listen` when absent.
    #[serde(default)]
    pub connect_address: Option<String>,
    /// PGDATA.
    pub data_dir: PathBuf,
    /// Where `postgres`, `initdb` and the others are; the search path when absent.
    #[serde(default)]
    pub bin_dir: Option<PathBuf>,
    /// The password file that the agent writes; beside the data directory when absent.
    #[serde(default)]
    pub pgpass: Option<PathBuf>,
    /// The database of the agent's sessions.
    #[serde(default = "default_database")]
    pub database: String,
    /// Users.
    #[serde(default)]
    pub authentication: Authentication,
    /// Local parameters; they win over the dynamic ones except for those that the agent owns.
    #[serde(default)]
    pub parameters: BTreeMap<String, Value>,
    /// The whole of `pg_hba.conf`, when given.
    #[serde(default)]
    pub pg_hba: Option<Vec<String>>,
    /// Rewind a diverged data directory; usually in the dynamic configuration.
    #[serde(default)]
    pub use_pg_rewind: Option<bool>,
    /// Connect to the local server by its Unix socket.
    #[serde(default)]
    pub use_unix_socket: Option<bool>,
    /// Everything else, as given: what the dynamic configuration may hold as well
    /// ([`LocalConfig::postgresql_setting`]).
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

fn default_database() -> String {
    "postgres".to_owned()
}

/// Keys that are known at each place: what the agent reads, and what Patroni reads and this agent
/// passes over without a warning because it has no effect here yet.
const KNOWN: [(&str, &[&str]); 7] = [
    (
        "",
        &[
            "scope",
            "namespace",
            "name",
            "restapi",
            "grpc",
            "federation",
            "etcd3",
            "bootstrap",
            "postgresql",
            "tags",
            "log",
            "watchdog",
            "ctl",
        ],
    ),
    ("restapi", &["listen", "connect_address", "authentication"]),
    ("grpc", &["listen", "connect_address", "certfile", "keyfile", "cafile"]),
    ("federation", &["standby"]),
    ("etcd3", &["host", "hosts", "username", "password"]),
    ("bootstrap", &["dcs", "initdb", "pg_hba", "method", "post_bootstrap", "post_init"]),
    (
        "postgresql",
        &[
            "listen",
            "connect_address",
            "data_dir",
            "bin_dir",
            "pgpass",
            "database",
            "authentication",
            "parameters",
            "pg_hba",
            "use_pg_rewind",
            "create_replica_methods",
            "create_replica_method",
            "basebackup",
            "recovery_conf",
            "use_unix_socket",
            "use_unix_socket_repl",
            "pg_ident",
            "recovery_conf",
            "custom_conf",
            "config_dir",
            "config_base_name",
            "krbsrvname",
        ],
    ),
];

/// The key paths of a configuration that this agent does not read, for a warning.
#[must_use]
pub fn unknown_keys(config: &Value) -> Vec<String> {
    let mut unknown = Vec::new();
    for (section, known) in KNOWN {
        let object = if section.is_empty() { Some(config) } else { config.get(section) };
        for key in object.and_then(Value::as_object).into_iter().flat_map(Map::keys) {
            if !known.contains(&key.as_str()) && !names_a_method(config, section, key) {
                let dot = if section.is_empty() { "" } else { "." };
                unknown.push(format!("{section}{dot}{key}"));
            }
        }
    }
    unknown
}

/// The section of a method that the configuration uses.
fn names_a_method(config: &Value, section: &str, key: &str) -> bool {
    let uses = |list: &str| {
        let methods = config["postgresql"][list].as_array();
        methods.is_some_and(|methods| methods.iter().any(|method| method == key))
    };
    match section {
        "bootstrap" => config["bootstrap"]["method"] == key,
        "postgresql" => uses("create_replica_methods") || uses("create_replica_method"),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn unknown_keys_have_paths() {
        let config =
            json!({"scope": "a", "sope": 1, "postgresql": {"datadir": "x", "listen": "y"}});
        assert_eq!(unknown_keys(&config), ["sope", "postgresql.datadir"]);
        let methods = json!({
            "bootstrap": {"method": "a", "a": {}, "b": {}},
            "postgresql": {"create_replica_methods": ["c"], "c": {}, "d": {}},
        });
        assert_eq!(unknown_keys(&methods), ["bootstrap.b", "postgresql.d"]);
    }

    #[test]
    fn endpoints_in_each_form() {
        let read = |v: Value| serde_json::from_value::<EtcdConfig>(v).expect("etcd3").endpoints();
        assert_eq!(read(json!({"hosts": ["a:1", "b:2"]})), ["a:1", "b:2"]);
        assert_eq!(read(json!({"hosts": "a:1, b:2"})), ["a:1", "b:2"]);
        assert_eq!(read(json!({"host": "a:1"})), ["a:1"]);
        assert!(read(json!({})).is_empty());
    }

    #[test]
    fn passwords_are_not_printed() {
        let c = Credentials {
            username: "u".into(),
            password: Some("secret".into()),
            ..Credentials::default()
        };
        assert!(!format!("{c:?}").contains("secret"));
    }
}
