//! How a data directory is filled, as configured (contract E.4, E.5): methods that copy a server or
//! a backup, and the method that begins a cluster. Pure: nothing runs here.

use super::{Error, words};
use node_agent_wire::config::LocalConfig;
use node_agent_wire::dynamic::Dynamic;
use node_agent_wire::yaml::truth;
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// The built-in method.
const BASEBACKUP: &str = "basebackup";
/// The built-in method that begins a cluster.
const INITDB: &str = "initdb";

/// Options of pg_basebackup that the agent gives itself, or that would leave no usable directory.
const REFUSED: [&str; 14] = [
    "pgdata",
    "format",
    "wal-method",
    "xlog-method",
    "gzip",
    "compress",
    "version",
    "dbname",
    "host",
    "port",
    "username",
    "password",
    "target",
    "write-recovery-conf",
];

/// A configured command with its arguments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfiguredCommand {
    /// Program and arguments.
    pub(super) words: Vec<String>,
    /// Keys of its section, as `--key=value`.
    pub(super) options: Vec<String>,
    /// It is not told scope, directory and source.
    pub(super) no_params: bool,
}

/// One way to fill an empty data directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CopyMethod {
    /// pg_basebackup, with these options.
    Basebackup(Vec<String>),
    /// A command.
    Command {
        /// Its name in `create_replica_methods`.
        name: String,
        /// What is run.
        command: ConfiguredCommand,
        /// The directory is not emptied before and after it.
        keep_data: bool,
        /// It needs no server to copy from.
        no_leader: bool,
    },
}

impl CopyMethod {
    /// What people call it.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Basebackup(_) => BASEBACKUP,
            Self::Command { name, .. } => name,
        }
    }

    /// Whether it works while nobody can be copied.
    #[must_use]
    pub fn leaderless(&self) -> bool {
        match self {
            Self::Basebackup(_) => false,
            Self::Command { no_leader, .. } => *no_leader,
        }
    }
}

fn bad(key: &str, problem: impl Into<String>) -> Error {
    Error::Config { key: key.to_owned(), problem: problem.into() }
}

/// A value as Patroni's scripts get it: Python's words for booleans.
fn text(key: &str, value: &Value) -> Result<String, Error> {
    match value {
        Value::String(text) => Ok(text.clone()),
        Value::Number(number) => Ok(number.to_string()),
        Value::Bool(true) => Ok("True".to_owned()),
        Value::Bool(false) => Ok("False".to_owned()),
        Value::Null | Value::Array(_) | Value::Object(_) => {
            Err(bad(key, format!("{value} can't be an argument of a command")))
        }
    }
}

fn flag(section: &Map<String, Value>, key: &str) -> bool {
    section.get(key).and_then(truth).unwrap_or(false)
}

/// Reads a command section. `left_out`: keys that are not passed on.
fn command(
    place: &str,
    section: &Map<String, Value>,
    default: Option<&str>,
    left_out: &[&str],
) -> Result<ConfiguredCommand, Error> {
    let key = format!("{place}.command");
    let given = section.get("command").and_then(Value::as_str).or(default);
    let given = given.ok_or_else(|| bad(&key, "is missing"))?;
    let split = words::split(given).ok_or_else(|| bad(&key, "a quote in it has no end"))?;
    if split.is_empty() {
        return Err(bad(&key, "is empty"));
    }
    let mut options = Vec::new();
    for (name, value) in section {
        if name != "command" && !left_out.contains(&name.as_str()) {
            options.push(format!("--{name}={}", text(&format!("{place}.{name}"), value)?));
        }
    }
    Ok(ConfiguredCommand { words: split, options, no_params: flag(section, "no_params") })
}

/// Options of pg_basebackup: a list of names and `name: value` maps, or one map.
fn basebackup_options(value: Option<&Value>) -> Result<Vec<String>, Error> {
    const KEY: &str = "postgresql.basebackup";
    let mut arguments = Vec::new();
    let mut add = |name: &str, value: Option<&Value>| -> Result<(), Error> {
        let name = name.trim_start_matches('-');
        if REFUSED.contains(&name) {
            return Err(bad(KEY, format!("the option {name} is not possible here")));
        }
        arguments.push(match value {
            None | Some(Value::Bool(true)) => format!("--{name}"),
            Some(Value::Bool(false)) => return Ok(()),
            Some(value) => format!("--{name}={}", text(&format!("{KEY}.{name}"), value)?),
        });
        Ok(())
    };
    let items = match value {
        None | Some(Value::Null) => return Ok(Vec::new()),
        Some(Value::Array(items)) => items.as_slice(),
        Some(other) => std::slice::from_ref(other),
    };
    for item in items {
        match item {
            Value::String(name) => add(name, None)?,
            Value::Object(pairs) => {
                for (name, value) in pairs {
                    add(name, Some(value).filter(|value| !value.is_null()))?;
                }
            }
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) => {
                return Err(bad(KEY, format!("{item} is neither a name nor a name with a value")));
            }
        }
    }
    Ok(arguments)
}

/// Which list of methods counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CopyOf {
    /// A member of this cluster, or nobody.
    Member,
    /// What another datacenter has: `standby_cluster.create_replica_methods` where that is there.
    AnotherDatacenter,
}

/// The configured names, in order.
fn names(local: &LocalConfig, dynamic: &Dynamic, of: CopyOf) -> Vec<String> {
    let standby = dynamic.standby_cluster.as_ref().filter(|_| of == CopyOf::AnotherDatacenter);
    let own = standby.map(|s| s.create_replica_methods.clone()).filter(|list| !list.is_empty());
    let listed = || {
        let key = |key| local.postgresql_setting(dynamic, key).and_then(Value::as_array);
        let list = key("create_replica_methods").or_else(|| key("create_replica_method"))?;
        Some(list.iter().filter_map(Value::as_str).map(ToOwned::to_owned).collect())
    };
    let all: Vec<String> = own.or_else(listed).unwrap_or_default();
    if all.is_empty() { vec![BASEBACKUP.to_owned()] } else { all }
}

/// The methods that fill an empty directory, in order; pg_basebackup alone when none is configured.
///
/// # Errors
/// The first one that can't be used.
pub fn copy_methods(
    local: &LocalConfig,
    dynamic: &Dynamic,
    of: CopyOf,
) -> Result<Vec<CopyMethod>, Error> {
    let read = |name: String| {
        if name == BASEBACKUP {
            return Ok(limited(base_backup(local, dynamic)?, dynamic, of));
        }
        let place = format!("postgresql.{name}");
        let empty = Map::new();
        let section = match local.postgresql_setting(dynamic, &name) {
            None => &empty,
            Some(Value::Object(section)) => section,
            Some(other) => return Err(bad(&place, format!("{other} is not a mapping"))),
        };
        // Without parameters the agent's own keys are not passed on either (contract E.5).
        let left_out: &[&str] =
            if flag(section, "no_params") { &["no_params", "no_leader", "keep_data"] } else { &[] };
        Ok(CopyMethod::Command {
            command: command(&place, section, Some(&name), left_out)?,
            keep_data: flag(section, "keep_data"),
            no_leader: flag(section, "no_leader"),
            name,
        })
    };
    names(local, dynamic, of).into_iter().map(read).collect()
}

/// pg_basebackup with its configured options.
///
/// # Errors
/// When an option can't be used.
pub fn base_backup(local: &LocalConfig, dynamic: &Dynamic) -> Result<CopyMethod, Error> {
    basebackup_options(local.postgresql_setting(dynamic, BASEBACKUP)).map(CopyMethod::Basebackup)
}

/// With the rate limit of the link between datacenters, which goes before one for all copies.
fn limited(method: CopyMethod, dynamic: &Dynamic, of: CopyOf) -> CopyMethod {
    let rate = dynamic.standby_cluster.as_ref().and_then(|standby| standby.max_rate.as_ref());
    match (method, of, rate) {
        (CopyMethod::Basebackup(mut options), CopyOf::AnotherDatacenter, Some(rate)) => {
            options.retain(|option| !option.starts_with("--max-rate="));
            options.push(format!("--max-rate={rate}"));
            CopyMethod::Basebackup(options)
        }
        (method, CopyOf::Member | CopyOf::AnotherDatacenter, _) => method,
    }
}

/// Whether an empty directory can be filled while nobody can be copied.
#[must_use]
pub fn leaderless_copy(local: &LocalConfig, dynamic: &Dynamic) -> bool {
    copy_methods(local, dynamic, CopyOf::Member)
        .is_ok_and(|methods| methods.iter().any(CopyMethod::leaderless))
}

/// How a new cluster begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BootstrapMethod {
    /// initdb.
    Initdb,
    /// A command.
    Custom {
        /// Its name.
        name: String,
        /// What is run.
        command: ConfiguredCommand,
        /// The recovery settings that the command has made are kept.
        keep_existing: bool,
        /// Settings of the recovery that follows it; none when empty.
        recovery: BTreeMap<String, String>,
    },
}

/// What happens when a cluster begins here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BootstrapPlan {
    /// How.
    pub method: BootstrapMethod,
    /// `post_bootstrap`: program and arguments, run once when all is up.
    pub afterwards: Option<Vec<String>>,
}

impl BootstrapPlan {
    /// Reads the `bootstrap` section.
    ///
    /// # Errors
    /// When the method or a command can't be used.
    pub fn read(local: &LocalConfig) -> Result<Self, Error> {
        let bootstrap = &local.bootstrap;
        let afterwards = match &bootstrap.post_bootstrap {
            None => None,
            Some(command) => {
                let split = words::split(command).filter(|words| !words.is_empty());
                Some(split.ok_or_else(|| {
                    bad("bootstrap.post_bootstrap", "it is empty, or a quote in it has no end")
                })?)
            }
        };
        let method = match bootstrap.method.as_deref() {
            None | Some(INITDB) => BootstrapMethod::Initdb,
            Some(name) => custom(name, bootstrap.methods.get(name))?,
        };
        Ok(Self { method, afterwards })
    }
}

fn custom(name: &str, section: Option<&Value>) -> Result<BootstrapMethod, Error> {
    let place = format!("bootstrap.{name}");
    let Some(Value::Object(section)) = section else {
        return Err(bad("bootstrap.method", format!("there is no section {place}")));
    };
    let left_out = ["no_params", "keep_existing_recovery_conf", "recovery_conf"];
    let mut recovery = BTreeMap::new();
    match section.get("recovery_conf") {
        None | Some(Value::Null) => {}
        Some(Value::Object(pairs)) => {
            for (key, value) in pairs {
                let name = key.to_ascii_lowercase();
                // Python's words are not PostgreSQL's.
                let value = match value {
                    Value::Bool(on) => if *on { "on" } else { "off" }.to_owned(),
                    Value::Null
                    | Value::Number(_)
                    | Value::String(_)
                    | Value::Array(_)
                    | Value::Object(_) => text(&format!("{place}.recovery_conf.{key}"), value)?,
                };
                recovery.insert(name, value);
            }
        }
        Some(other) => {
            let key = format!("{place}.recovery_conf");
            return Err(bad(&key, format!("{other} is not a mapping")));
        }
    }
    let target = recovery.keys().any(|k| {
        matches!(
            k.as_str(),
            "recovery_target"
                | "recovery_target_name"
                | "recovery_target_time"
                | "recovery_target_xid"
                | "recovery_target_lsn"
        )
    });
    if target {
        // PostgreSQL's own default waits at the target for somebody to say so.
        recovery.entry("recovery_target_action".to_owned()).or_insert("promote".to_owned());
    }
    Ok(BootstrapMethod::Custom {
        name: name.to_owned(),
        command: command(&place, section, None, &left_out)?,
        keep_existing: flag(section, "keep_existing_recovery_conf"),
        recovery,
    })
}

#[cfg(test)]
#[path = "method_tests.rs"]
mod tests;
