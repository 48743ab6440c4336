//! The dynamic configuration: the `config` key (contract C.2), read with Patroni's defaults and
//! bounds. The TTL may be lower than Patroni allows: down to 3 s.

use crate::ids::SlotName;
use crate::yaml::truth;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::time::Duration;

/// Lower bounds in seconds: (`ttl`, `loop_wait`, `retry_timeout`). Patroni's are (20, 1, 3).
pub const TIMING_MIN_S: (u64, u64, u64) = (3, 1, 1);

/// The timing of the HA loop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// How long a leader lease lives.
    pub ttl: Duration,
    /// The longest pause between two passes.
    pub loop_wait: Duration,
    /// The budget of a DCS or PostgreSQL call with its retries.
    pub retry_timeout: Duration,
}

/// Whether and how replication is synchronous.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SynchronousMode {
    /// Asynchronous.
    #[default]
    Off,
    /// Named standbys.
    On,
    /// Any n of the named standbys.
    Quorum,
}

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

/// A permanent slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PermanentSlot {
    /// A physical one.
    Physical,
    /// A logical one; kept by a later version.
    Logical {
        /// Its database.
        database: String,
        /// Its output plugin.
        plugin: String,
    },
}

/// The dynamic configuration with defaults applied and bounds kept.
#[derive(Clone, Debug, PartialEq)]
pub struct Dynamic {
    /// Timing of the loop.
    pub timing: Timing,
    /// Bytes of lag that still let a replica become leader.
    pub maximum_lag_on_failover: u64,
    /// A replica on an older timeline than the cluster's may not become leader.
    pub check_timeline: bool,
    /// Synchronous replication.
    pub synchronous_mode: SynchronousMode,
    /// Without a synchronous standby, writes wait.
    pub synchronous_mode_strict: bool,
    /// How many standbys are synchronous.
    pub synchronous_node_count: u32,
    /// The remote source, when this is a standby cluster.
    pub standby_cluster: Option<StandbyCluster>,
    /// Permanent slots.
    pub slots: BTreeMap<SlotName, PermanentSlot>,
    /// Maintenance mode.
    pub pause: bool,
    /// Keep slots for members.
    pub use_slots: bool,
    /// Rewind a diverged data directory.
    pub use_pg_rewind: bool,
    /// How long a crashed primary may take to start before another node takes over.
    pub primary_start_timeout: Duration,
    /// `postgresql.parameters`.
    pub parameters: BTreeMap<String, Value>,
    /// `postgresql.pg_hba`, when given.
    pub pg_hba: Option<Vec<String>>,
    /// Values that were not usable, and what is used in their place.
    pub warnings: Vec<String>,
}

impl Default for Dynamic {
    fn default() -> Self {
        Self::read(&Map::new())
    }
}

impl Dynamic {
    /// Reads the object. Values that can't be used fall back to their default with a warning.
    #[must_use]
    pub fn read(config: &Map<String, Value>) -> Self {
        let mut warnings = Vec::new();
        let timing = read_timing(config, &mut warnings);
        let empty = Map::new();
        let postgresql = config.get("postgresql").and_then(Value::as_object).unwrap_or(&empty);
        let flag = |object: &Map<String, Value>, key: &str, default: bool| {
            object.get(key).and_then(truth).unwrap_or(default)
        };
        let number = |key: &str, default: u64| match config.get(key) {
            None | Some(Value::Null) => default,
            Some(value) => integer(value).unwrap_or(default),
        };
        Self {
            timing,
            maximum_lag_on_failover: number("maximum_lag_on_failover", 1_048_576),
            check_timeline: flag(config, "check_timeline", false),
            synchronous_mode: read_sync_mode(config),
            synchronous_mode_strict: flag(config, "synchronous_mode_strict", false),
            synchronous_node_count: u32::try_from(number("synchronous_node_count", 1)).unwrap_or(1),
            standby_cluster: read_standby_cluster(config),
            slots: read_slots(config, &mut warnings),
            pause: flag(config, "pause", false),
            use_slots: flag(postgresql, "use_slots", true),
            use_pg_rewind: flag(postgresql, "use_pg_rewind", false),
            primary_start_timeout: Duration::from_secs(number("primary_start_timeout", 300)),
            parameters: postgresql
                .get("parameters")
                .and_then(Value::as_object)
                .map(|p| p.iter().map(|(k, v)| (k.clone(), v.clone())).collect())
                .unwrap_or_default(),
            pg_hba: postgresql.get("pg_hba").and_then(Value::as_array).map(|lines| {
                lines.iter().filter_map(Value::as_str).map(ToOwned::to_owned).collect()
            }),
            warnings,
        }
    }

    /// Whether synchronous replication applies: it is off in a standby cluster (contract C.2).
    #[must_use]
    pub fn effective_sync_mode(&self) -> SynchronousMode {
        if self.standby_cluster.is_some() { SynchronousMode::Off } else { self.synchronous_mode }
    }
}

fn integer(value: &Value) -> Option<u64> {
    match value {
        Value::Number(n) => n.as_u64(),
        Value::String(s) => s.trim().parse().ok(),
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => None,
    }
}

fn read_timing(config: &Map<String, Value>, warnings: &mut Vec<String>) -> Timing {
    let (ttl_min, loop_min, retry_min) = TIMING_MIN_S;
    let mut read = |key: &str, default: u64, min: u64| {
        let value = match config.get(key) {
            None | Some(Value::Null) => return default,
            Some(value) => value,
        };
        match integer(value) {
            Some(seconds) if seconds >= min => seconds.min(86_400),
            Some(seconds) => {
                warnings.push(format!("{key} {seconds} is below its minimum; {min} is used"));
                min
            }
            None => {
                warnings
                    .push(format!("{key} {value} is not a number of seconds; {default} is used"));
                default
            }
        }
    };
    let ttl = read("ttl", 30, ttl_min);
    let mut loop_wait = read("loop_wait", 10, loop_min);
    let mut retry_timeout = read("retry_timeout", 10, retry_min);
    // Joint rule (contract C.2): loop_wait + 2 * retry_timeout <= ttl; loop_wait gives way first.
    if loop_wait + 2 * retry_timeout > ttl {
        loop_wait = ttl.saturating_sub(2 * retry_timeout).max(loop_min);
        if loop_wait + 2 * retry_timeout > ttl {
            retry_timeout = ((ttl - loop_wait) / 2).max(retry_min);
        }
        warnings.push(format!(
            "loop_wait + 2 * retry_timeout is more than ttl {ttl}; loop_wait {loop_wait} and \
             retry_timeout {retry_timeout} are used"
        ));
    }
    Timing {
        ttl: Duration::from_secs(ttl),
        loop_wait: Duration::from_secs(loop_wait),
        retry_timeout: Duration::from_secs(retry_timeout),
    }
}

fn read_sync_mode(config: &Map<String, Value>) -> SynchronousMode {
    match config.get("synchronous_mode") {
        Some(Value::String(s)) if s.eq_ignore_ascii_case("quorum") => SynchronousMode::Quorum,
        Some(value) if truth(value) == Some(true) => SynchronousMode::On,
        Some(_) | None => SynchronousMode::Off,
    }
}

fn read_standby_cluster(config: &Map<String, Value>) -> Option<StandbyCluster> {
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
    };
    // Active when any of these is set (contract C.2).
    let active =
        standby.host.is_some() || standby.port.is_some() || standby.restore_command.is_some();
    active.then_some(standby)
}

fn read_slots(
    config: &Map<String, Value>,
    warnings: &mut Vec<String>,
) -> BTreeMap<SlotName, PermanentSlot> {
    let section = ["slots", "permanent_slots", "permanent_replication_slots"]
        .iter()
        .filter_map(|key| config.get(*key).and_then(Value::as_object))
        .max_by_key(|slots| slots.len());
    let mut slots = BTreeMap::new();
    for (name, spec) in section.into_iter().flatten() {
        let Some(slot) = SlotName::parse(name) else {
            warnings.push(format!("slots.{name} is not a valid slot name; it is not kept"));
            continue;
        };
        let text = |key: &str| spec.get(key).and_then(Value::as_str).map(ToOwned::to_owned);
        let kind = match (text("type").as_deref(), text("database"), text("plugin")) {
            (Some("logical"), Some(database), Some(plugin)) => {
                PermanentSlot::Logical { database, plugin }
            }
            (Some("logical"), _, _) => {
                warnings.push(format!("slots.{name} lacks database or plugin; it is not kept"));
                continue;
            }
            (_, _, _) => PermanentSlot::Physical,
        };
        slots.insert(slot, kind);
    }
    slots
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(value: &Value) -> Dynamic {
        Dynamic::read(value.as_object().expect("object"))
    }

    #[test]
    fn defaults() {
        let config = Dynamic::default();
        assert_eq!(config.timing.ttl, Duration::from_secs(30));
        assert_eq!(config.maximum_lag_on_failover, 1_048_576);
        assert!(config.use_slots && !config.use_pg_rewind && config.warnings.is_empty());
    }

    #[test]
    fn timing_rules() {
        for ((ttl, wait, retry), (e_ttl, e_wait, e_retry)) in [
            ((30, 10, 10), (30, 10, 10)),
            ((20, 10, 10), (20, 1, 9)),
            ((5, 1, 1), (5, 1, 1)),
            ((3, 10, 10), (3, 1, 1)),
            ((1, 0, 0), (3, 1, 1)),
        ] {
            let t = read(&json!({"ttl": ttl, "loop_wait": wait, "retry_timeout": retry})).timing;
            let got = (t.ttl.as_secs(), t.loop_wait.as_secs(), t.retry_timeout.as_secs());
            assert_eq!(got, (e_ttl, e_wait, e_retry), "{ttl} {wait} {retry}");
            assert!(t.loop_wait + 2 * t.retry_timeout <= t.ttl);
        }
    }

    #[test]
    fn standby_cluster_is_active_by_host_port_or_restore_command() {
        assert_eq!(read(&json!({"standby_cluster": {}})).standby_cluster, None);
        assert_eq!(
            read(&json!({"standby_cluster": {"primary_slot_name": "a"}})).standby_cluster,
            None
        );
        let standby = read(&json!({"standby_cluster": {"host": "a, b", "port": "1,2"}}))
            .standby_cluster
            .expect("active");
        assert_eq!(standby.hosts(), [("a".into(), 1), ("b".into(), 2)]);
        let one = read(&json!({"standby_cluster": {"host": "a,b", "port": 6}})).standby_cluster;
        assert_eq!(one.expect("active").hosts(), [("a".into(), 6), ("b".into(), 6)]);
    }

    #[test]
    fn sync_mode_is_off_in_a_standby_cluster() {
        let config = read(&json!({"synchronous_mode": "on", "standby_cluster": {"host": "a"}}));
        assert_eq!(config.synchronous_mode, SynchronousMode::On);
        assert_eq!(config.effective_sync_mode(), SynchronousMode::Off);
        assert_eq!(
            read(&json!({"synchronous_mode": "quorum"})).effective_sync_mode(),
            SynchronousMode::Quorum
        );
    }

    #[test]
    fn slots_with_null_are_physical_and_bad_ones_are_named() {
        let config = read(&json!({"slots": {"dc2": null, "x": {"type": "logical"}, "Bad": {}}}));
        assert_eq!(config.slots.len(), 1);
        assert_eq!(config.warnings.len(), 2);
    }
}
