//! The parameters that are in effect: dynamic configuration, local configuration over it, and
//! the parameters that the agent owns (contract C.5) over both.

use node_agent_wire::config::LocalConfig;
use node_agent_wire::dynamic::{Dynamic, SynchronousMode};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Merged settings of the server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Effective {
    /// Passed on the command line as `--name=value`; changing one needs a restart.
    pub command_line: BTreeMap<String, String>,
    /// Written to `postgresql.conf`.
    pub parameters: BTreeMap<String, String>,
    /// The whole of `pg_hba.conf`; `None` leaves the file alone.
    pub pg_hba: Option<Vec<String>>,
    /// The whole of `pg_ident.conf`; `None` leaves the file alone.
    pub pg_ident: Option<Vec<String>>,
    /// Stands under the settings in place of what was there before the agent.
    pub custom_conf: Option<PathBuf>,
    /// `recovery_conf` without what the agent sets itself; in force while the server is a standby.
    pub recovery_conf: BTreeMap<String, String>,
    /// A standby of a member uses the slot of its own name there.
    pub use_slots: bool,
    /// From `standby_cluster`: fetches WAL from an archive.
    pub restore_command: Option<String>,
    /// From `standby_cluster`: cleans the archive.
    pub archive_cleanup_command: Option<String>,
    /// From `standby_cluster`: delays replay, on the standby leader only.
    pub recovery_min_apply_delay: Option<String>,
    /// Values that were not usable, and what is used in their place.
    pub warnings: Vec<String>,
}

/// A valid value of an owned parameter.
enum Valid {
    /// A whole number of at least this.
    AtLeast(u64),
    Bool,
    WalLevel,
}

/// Contract C.5: the parameters of the command line that the dynamic configuration may set.
const OWNED: [(&str, &str, Valid); 10] = [
    ("max_connections", "100", Valid::AtLeast(25)),
    ("max_locks_per_transaction", "64", Valid::AtLeast(32)),
    ("max_prepared_transactions", "0", Valid::AtLeast(0)),
    ("max_replication_slots", "10", Valid::AtLeast(4)),
    ("max_wal_senders", "10", Valid::AtLeast(3)),
    ("max_worker_processes", "8", Valid::AtLeast(2)),
    ("track_commit_timestamp", "off", Valid::Bool),
    ("wal_level", "replica", Valid::WalLevel),
    ("wal_log_hints", "on", Valid::Bool),
    // Only `on` is possible: the agent must be able to ask a standby.
    ("hot_standby", "on", Valid::AtLeast(u64::MAX)),
];

/// Set by the agent alone, wherever they stand.
const NEVER_USER_SET: [&str; 8] = [
    "cluster_name",
    "config_file",
    "data_directory",
    "listen_addresses",
    "port",
    "primary_conninfo",
    "primary_slot_name",
    "recovery_target_timeline",
];
const WAL_KEEP: [&str; 2] = ["wal_keep_segments", "wal_keep_size"];

/// A parameter's value as text; `None` for what no parameter can be.
fn text(value: &Value) -> Option<String> {
    match value {
        Value::String(s) => Some(s.clone()),
        Value::Number(n) => Some(n.to_string()),
        Value::Bool(b) => Some(if *b { "on" } else { "off" }.to_owned()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

/// The lines of a file.
fn lines(value: &Value) -> Option<Vec<String>> {
    let lines = value.as_array()?.iter().filter_map(Value::as_str);
    Some(lines.map(ToOwned::to_owned).collect())
}

/// A size in PostgreSQL's units, a bare number counting megabytes; `None` for no size.
fn megabytes(text: &str) -> Option<u64> {
    let text = text.trim();
    let split = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let number: u64 = number.parse().ok()?;
    match unit.trim() {
        "" | "MB" => Some(number),
        "B" => Some(number / 1024 / 1024),
        "kB" => Some(number / 1024),
        "GB" => number.checked_mul(1024),
        "TB" => number.checked_mul(1024 * 1024),
        _ => None,
    }
}

fn boolean(text: &str) -> Option<&'static str> {
    match text.to_ascii_lowercase().as_str() {
        "on" | "true" | "yes" | "1" => Some("on"),
        "off" | "false" | "no" | "0" => Some("off"),
        _ => None,
    }
}

impl Valid {
    fn check(&self, text: &str) -> Option<String> {
        match self {
            Self::AtLeast(min) => {
                text.parse::<u64>().ok().filter(|n| n >= min).map(|n| n.to_string())
            }
            Self::Bool => boolean(text).map(ToOwned::to_owned),
            Self::WalLevel => match text.to_ascii_lowercase().as_str() {
                "hot_standby" | "replica" => Some("replica".to_owned()),
                "logical" => Some("logical".to_owned()),
                _ => None,
            },
        }
    }
}

impl Effective {
    /// Merges the dynamic configuration with the local one and the agent's own parameters.
    #[must_use]
    pub fn merge(local: &LocalConfig, dynamic: &Dynamic) -> Self {
        let mut merged = Self {
            pg_hba: local.postgresql.pg_hba.clone().or_else(|| dynamic.pg_hba.clone()),
            pg_ident: local.postgresql_setting(dynamic, "pg_ident").and_then(lines),
            custom_conf: local
                .postgresql_setting(dynamic, "custom_conf")
                .and_then(Value::as_str)
                .map(PathBuf::from),
            use_slots: dynamic.use_slots,
            ..Self::default()
        };
        if let Some(standby) = &dynamic.standby_cluster {
            merged.restore_command.clone_from(&standby.restore_command);
            merged.archive_cleanup_command.clone_from(&standby.archive_cleanup_command);
            merged.recovery_min_apply_delay.clone_from(&standby.recovery_min_apply_delay);
        }
        merged.recover(local, dynamic);
        merged.own(local, dynamic);
        merged.take("the dynamic configuration", &dynamic.parameters, false);
        merged.take("the local configuration", &local.postgresql.parameters, true);
        merged.keep_wal(dynamic);
        if dynamic.effective_sync_mode() != SynchronousMode::Off
            && merged.parameters.remove("synchronous_standby_names").is_some()
        {
            merged.warnings.push(
                "synchronous_standby_names is the agent's while synchronous_mode is on; the \
                 configured value is not used"
                    .to_owned(),
            );
        }
        merged
    }

    /// `recovery_conf` (contract C.6): what the agent sets itself is left out, and what
    /// `standby_cluster` says wins.
    fn recover(&mut self, local: &LocalConfig, dynamic: &Dynamic) {
        let given = local.postgresql_setting(dynamic, "recovery_conf").and_then(Value::as_object);
        for (name, value) in given.into_iter().flatten() {
            let lower = name.to_ascii_lowercase();
            let agents = lower.starts_with("recovery_target")
                || matches!(
                    lower.as_str(),
                    "primary_conninfo" | "primary_slot_name" | "standby_mode"
                );
            let said = match lower.as_str() {
                "restore_command" => self.restore_command.is_some(),
                "archive_cleanup_command" => self.archive_cleanup_command.is_some(),
                "recovery_min_apply_delay" => self.recovery_min_apply_delay.is_some(),
                _ => false,
            };
            if agents {
                self.warnings
                    .push(format!("recovery_conf.{name} has no effect: the agent sets it"));
            } else if !said && let Some(text) = text(value) {
                self.recovery_conf.insert(lower, text);
            }
        }
    }

    fn own(&mut self, local: &LocalConfig, dynamic: &Dynamic) {
        if let Some((hosts, port)) = local.postgresql.listen.rsplit_once(':') {
            let hosts = hosts.trim_start_matches('[').trim_end_matches(']');
            self.command_line.insert("listen_addresses".to_owned(), hosts.to_owned());
            self.command_line.insert("port".to_owned(), port.to_owned());
        }
        self.command_line.insert("cluster_name".to_owned(), local.scope.clone());
        for (name, default, valid) in OWNED {
            let value = match dynamic.parameters.get(name).filter(|v| !v.is_null()) {
                None => None,
                Some(given) => {
                    let checked = text(given).and_then(|t| valid.check(t.trim()));
                    let harmless = name == "hot_standby"
                        && text(given).and_then(|t| boolean(&t)) == Some("on");
                    if checked.is_none() && !harmless {
                        self.warnings.push(format!(
                            "postgresql.parameters.{name} {given} is not usable; {default} is used"
                        ));
                    }
                    checked
                }
            };
            self.command_line.insert(name.to_owned(), value.unwrap_or_else(|| default.to_owned()));
        }
    }

    fn take(&mut self, whose: &str, parameters: &BTreeMap<String, Value>, local: bool) {
        for (name, value) in parameters {
            let lower = name.to_ascii_lowercase();
            let owned = OWNED.iter().any(|(owned, _, _)| *owned == lower)
                || WAL_KEEP.contains(&lower.as_str());
            if NEVER_USER_SET.contains(&lower.as_str()) || (owned && local) {
                self.warnings.push(format!(
                    "postgresql.parameters.{name} in {whose} has no effect: the agent sets it{}",
                    if owned { " from the dynamic configuration" } else { "" }
                ));
            } else if owned {
                // Read by `own` and `keep_wal`.
            } else if value.is_null() {
                self.parameters.remove(&lower);
            } else if let Some(text) = text(value) {
                self.parameters.insert(lower, text);
            } else {
                self.warnings.push(format!(
                    "postgresql.parameters.{name} in {whose} is not one value; it is not used"
                ));
            }
        }
    }

    /// `wal_keep_size`, in the file rather than on the command line; the older
    /// `wal_keep_segments` counts 16 MB each (contract C.5).
    fn keep_wal(&mut self, dynamic: &Dynamic) {
        let given = |name: &str| dynamic.parameters.get(name).and_then(text);
        let segments = given("wal_keep_segments")
            .and_then(|t| t.parse::<u64>().ok())
            .map(|n| format!("{}MB", n.max(1).saturating_mul(16)));
        let size = given("wal_keep_size").filter(|size| {
            let usable = megabytes(size).is_some_and(|mb| mb >= 16);
            if !usable {
                self.warnings.push(format!(
                    "postgresql.parameters.wal_keep_size {size} is not usable: at least 16MB; \
                     the default is used"
                ));
            }
            usable
        });
        let value = size.or(segments).unwrap_or_else(|| "128MB".to_owned());
        self.parameters.insert("wal_keep_size".to_owned(), value);
    }
}

#[cfg(test)]
mod tests {
    use super::super::places::tests::config;
    use super::*;
    use serde_json::json;
    use std::path::Path;

    fn merge(local: &Value, dynamic: &Value) -> Effective {
        let mut config = config(Path::new("/x"));
        config.postgresql.parameters =
            serde_json::from_value(local.clone()).expect("local parameters");
        Effective::merge(&config, &Dynamic::read(dynamic.as_object().expect("object")))
    }

    #[test]
    fn defaults_are_the_contracts() {
        let e = merge(&json!({}), &json!({}));
        for (name, value) in [
            ("listen_addresses", "127.0.0.1"),
            ("port", "5432"),
            ("cluster_name", "demo"),
            ("max_connections", "100"),
            ("wal_log_hints", "on"),
            ("wal_level", "replica"),
            ("hot_standby", "on"),
        ] {
            assert_eq!(e.command_line[name], value, "{name}");
        }
        assert_eq!(e.parameters, BTreeMap::from([("wal_keep_size".into(), "128MB".into())]));
        assert_eq!(e.warnings, Vec::<String>::new());
        assert!(e.use_slots);
    }

    #[test]
    fn local_wins_except_for_what_the_agent_owns() {
        let e = merge(
            &json!({"work_mem": "8MB", "max_connections": 7, "Log_Connections": true}),
            &json!({"postgresql": {"parameters": {
                "work_mem": "4MB", "max_connections": 150, "port": 9, "fsync": "off",
                "wal_level": "hot_standby", "max_wal_senders": 1, "hot_standby": "off",
                "wal_keep_segments": 4, "shared_preload_libraries": null}}}),
        );
        assert_eq!(e.parameters["work_mem"], "8MB");
        assert_eq!(e.parameters["log_connections"], "on");
        assert_eq!(e.parameters["fsync"], "off");
        assert_eq!(e.parameters["wal_keep_size"], "64MB");
        assert_eq!(e.command_line["max_connections"], "150");
        assert_eq!(e.command_line["max_wal_senders"], "10");
        assert_eq!(e.command_line["wal_level"], "replica");
        assert_eq!(e.command_line["hot_standby"], "on");
        assert_eq!(e.command_line["port"], "5432");
        // max_connections (local), port, max_wal_senders, hot_standby.
        assert_eq!(e.warnings.len(), 4, "{:?}", e.warnings);
    }

    #[test]
    fn recovery_settings_of_the_agent_and_of_a_standby_cluster_win() {
        let mut config = config(Path::new("/x"));
        config.postgresql.other = serde_json::from_value(json!({
            "recovery_conf": {"restore_command": "local %f", "recovery_target_time": "now",
                "recovery_end_command": "echo", "primary_conninfo": "x"},
            "pg_ident": ["map a b"], "custom_conf": "/etc/base.conf",
        }))
        .expect("other");
        let plain = Effective::merge(&config, &Dynamic::default());
        assert_eq!(plain.recovery_conf["restore_command"], "local %f");
        assert_eq!(plain.recovery_conf.len(), 2, "{:?}", plain.recovery_conf);
        assert_eq!(plain.warnings.len(), 2, "{:?}", plain.warnings);
        assert_eq!(plain.pg_ident, Some(vec!["map a b".to_owned()]));
        assert_eq!(plain.custom_conf, Some(PathBuf::from("/etc/base.conf")));
        let standby = json!({"standby_cluster": {"host": "a", "restore_command": "theirs %f"}});
        let standby = Dynamic::read(standby.as_object().expect("object"));
        let merged = Effective::merge(&config, &standby);
        assert_eq!(merged.restore_command.as_deref(), Some("theirs %f"));
        assert!(!merged.recovery_conf.contains_key("restore_command"));
    }

    #[test]
    fn wal_keep_size_has_a_lower_bound() {
        for (given, used) in
            [("16MB", "16MB"), ("8MB", "128MB"), ("2GB", "2GB"), ("32", "32"), ("x", "128MB")]
        {
            let parameters = json!({"parameters": {"wal_keep_size": given}});
            let e = merge(&json!({}), &json!({"postgresql": parameters}));
            assert_eq!(e.parameters["wal_keep_size"], used, "{given}");
        }
    }

    #[test]
    fn users_sync_names_count_only_without_synchronous_mode() {
        let parameters = json!({"parameters": {"synchronous_standby_names": "x"}});
        let off = merge(&json!({}), &json!({"postgresql": &parameters}));
        assert_eq!(off.parameters["synchronous_standby_names"], "x");
        let on = merge(&json!({}), &json!({"postgresql": parameters, "synchronous_mode": true}));
        assert!(!on.parameters.contains_key("synchronous_standby_names"));
        assert_eq!(on.warnings.len(), 1);
    }
}
