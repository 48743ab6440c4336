//! The dynamic configuration: the `config` key (contract C.2), read with Patroni's defaults and
//! bounds. The TTL may be lower than Patroni allows: down to 3 s.

mod slots;
mod standby;
mod timing;

pub use slots::{ClusterKind, IgnoredSlot, PermanentSlot};
pub use standby::{StandbyCluster, as_standby_of};
pub use timing::{TIMING_MIN_S, Timing};

use crate::ids::SlotName;
use crate::yaml::truth;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::time::Duration;

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

/// Whether the leader may go on without the DCS when the other members agree.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FailsafeMode {
    /// It may not.
    #[default]
    Off,
    /// When all of them agree.
    All,
    /// Ours, `failsafe_majority: true` beside `failsafe_mode: true`: when a majority of the members
    /// agrees, with a synchronous standby among it in synchronous mode.
    Majority,
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
    /// How many standbys are synchronous; at least 1 in strict mode.
    pub synchronous_node_count: u32,
    /// Bytes of lag that still let a standby be synchronous; no limit when absent.
    pub maximum_lag_on_syncnode: Option<u64>,
    /// Whether the leader may go on without the DCS.
    pub failsafe: FailsafeMode,
    /// Rows that `history` keeps at most; all when 0.
    pub max_timelines_history: u32,
    /// The remote source, when this is a standby cluster.
    pub standby_cluster: Option<StandbyCluster>,
    /// Permanent slots.
    pub slots: BTreeMap<SlotName, PermanentSlot>,
    /// Slots that the agent leaves alone.
    pub ignore_slots: Vec<IgnoredSlot>,
    /// How long the slot of a member that is away is kept; 0: not at all, and only the leader has
    /// slots of members.
    pub member_slots_ttl: Duration,
    /// Maintenance mode.
    pub pause: bool,
    /// Keep slots for members.
    pub use_slots: bool,
    /// Rewind a diverged data directory.
    pub use_pg_rewind: bool,
    /// Empty a data directory that pg_rewind failed on, and copy anew.
    pub remove_data_directory_on_rewind_failure: bool,
    /// Empty a data directory that diverged and can't be rewound, and copy anew.
    pub remove_data_directory_on_diverged_timelines: bool,
    /// How long a crashed primary may take to start before another node takes over; 0: at once.
    pub primary_start_timeout: Duration,
    /// In synchronous mode, how long a fast shutdown of the primary may take before it becomes an
    /// immediate one; for ever when absent.
    pub primary_stop_timeout: Option<Duration>,
    /// Ours: how long a primary may leave queries unanswered before another node takes over; for
    /// ever when absent.
    pub primary_unresponsive_timeout: Option<Duration>,
    /// Ours: how long the primary may find its disk full before another node takes over; for ever
    /// when absent.
    pub primary_disk_full_timeout: Option<Duration>,
    /// Ours: the time that a leader's beats count with, in place of the TTL; see
    /// [`Dynamic::lost_after`].
    pub primary_lost_timeout: Option<Duration>,
    /// `postgresql` as given, without what only the local configuration may set (contract C.1).
    pub postgresql: Map<String, Value>,
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
        let timing = timing::read(config, &mut warnings);
        let empty = Map::new();
        let postgresql = config.get("postgresql").and_then(Value::as_object).unwrap_or(&empty);
        let flag = |object: &Map<String, Value>, key: &str, default: bool| {
            object.get(key).and_then(truth).unwrap_or(default)
        };
        let seconds = |key: &str| config.get(key).and_then(duration);
        let number = |key: &str, default: u64| match config.get(key) {
            None | Some(Value::Null) => default,
            Some(value) => integer(value).unwrap_or(default),
        };
        let strict = flag(config, "synchronous_mode_strict", false);
        let node_count = u32::try_from(number("synchronous_node_count", 1)).unwrap_or(1);
        Self {
            timing,
            maximum_lag_on_failover: number("maximum_lag_on_failover", 1_048_576),
            check_timeline: flag(config, "check_timeline", false),
            synchronous_mode: read_sync_mode(config),
            synchronous_mode_strict: strict,
            synchronous_node_count: node_count.max(u32::from(strict)),
            maximum_lag_on_syncnode: Some(number("maximum_lag_on_syncnode", 0)).filter(|n| *n > 0),
            failsafe: read_failsafe(config),
            max_timelines_history: u32::try_from(number("max_timelines_history", 0)).unwrap_or(0),
            standby_cluster: standby::read(config),
            slots: slots::read_permanent(config, &mut warnings),
            ignore_slots: slots::read_ignored(config.get("ignore_slots")),
            member_slots_ttl: seconds("member_slots_ttl").unwrap_or(MEMBER_SLOTS_TTL),
            pause: flag(config, "pause", false),
            use_slots: flag(postgresql, "use_slots", true),
            use_pg_rewind: flag(postgresql, "use_pg_rewind", false),
            remove_data_directory_on_rewind_failure: flag(
                postgresql,
                "remove_data_directory_on_rewind_failure",
                false,
            ),
            remove_data_directory_on_diverged_timelines: flag(
                postgresql,
                "remove_data_directory_on_diverged_timelines",
                false,
            ),
            primary_start_timeout: seconds("primary_start_timeout")
                .or_else(|| seconds("master_start_timeout"))
                .unwrap_or(PRIMARY_START_TIMEOUT),
            primary_stop_timeout: seconds("primary_stop_timeout")
                .or_else(|| seconds("master_stop_timeout"))
                .filter(|timeout| !timeout.is_zero()),
            primary_unresponsive_timeout: seconds("primary_unresponsive_timeout")
                .filter(|timeout| !timeout.is_zero()),
            primary_disk_full_timeout: seconds("primary_disk_full_timeout")
                .filter(|timeout| !timeout.is_zero()),
            primary_lost_timeout: timing::read_lost(config, &timing, &mut warnings),
            postgresql: postgresql
                .iter()
                .filter(|(key, _)| !LOCAL_ONLY.contains(&key.as_str()))
                .map(|(key, value)| (key.clone(), value.clone()))
                .collect(),
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

    /// `primary_lost_timeout` where it is in force. In maintenance mode nobody is to take over, and
    /// in failsafe mode a leader may lead on without a beat.
    #[must_use]
    pub fn lost_after(&self) -> Option<Duration> {
        let off = self.pause || self.failsafe != FailsafeMode::Off;
        self.primary_lost_timeout.filter(|_| !off)
    }

    /// What a beat gives its leader, and so what everybody else waits after it: the TTL, or less.
    #[must_use]
    pub fn lease_time(&self) -> Duration {
        self.lost_after().unwrap_or(self.timing.ttl)
    }
}

/// Patroni's default of `member_slots_ttl`.
const MEMBER_SLOTS_TTL: Duration = Duration::from_secs(1800);
/// Patroni's default of `primary_start_timeout`.
const PRIMARY_START_TIMEOUT: Duration = Duration::from_secs(300);
/// What the dynamic configuration may not set under `postgresql` (contract C.1).
const LOCAL_ONLY: [&str; 7] = [
    "connect_address",
    "proxy_address",
    "listen",
    "config_dir",
    "data_dir",
    "pgpass",
    "authentication",
];

/// Texts of a list.
fn texts(value: Option<&Value>) -> Vec<String> {
    let items = value.and_then(Value::as_array).into_iter().flatten();
    items.filter_map(Value::as_str).map(ToOwned::to_owned).collect()
}

/// A number of seconds, or a number with one of PostgreSQL's time units (`us ms s min h d`).
#[must_use]
pub fn duration(value: &Value) -> Option<Duration> {
    if let Some(seconds) = integer(value) {
        return Some(Duration::from_secs(seconds));
    }
    let text = value.as_str()?.trim();
    let split = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = text.split_at(split);
    let number: u64 = number.parse().ok()?;
    let micros = match unit.trim() {
        "us" => 1,
        "ms" => 1000,
        "s" => 1_000_000,
        "min" => 60_000_000,
        "h" => 3_600_000_000,
        "d" => 86_400_000_000,
        _ => return None,
    };
    Some(Duration::from_micros(number.checked_mul(micros)?))
}

fn read_failsafe(config: &Map<String, Value>) -> FailsafeMode {
    let on = |key: &str| config.get(key).and_then(truth).unwrap_or(false);
    match (on("failsafe_mode"), on("failsafe_majority")) {
        (false, _) => FailsafeMode::Off,
        (true, false) => FailsafeMode::All,
        (true, true) => FailsafeMode::Majority,
    }
}

fn integer(value: &Value) -> Option<u64> {
    match value {
        Value::Number(n) => n.as_u64(),
        Value::String(s) => s.trim().parse().ok(),
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => None,
    }
}

fn read_sync_mode(config: &Map<String, Value>) -> SynchronousMode {
    match config.get("synchronous_mode") {
        Some(Value::String(s)) if s.eq_ignore_ascii_case("quorum") => SynchronousMode::Quorum,
        Some(value) if truth(value) == Some(true) => SynchronousMode::On,
        Some(_) | None => SynchronousMode::Off,
    }
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
    fn a_lost_primary_is_given_up_sooner_within_bounds() {
        for (value, expected_ms, warned) in [
            (json!({}), None, false),
            (json!({"primary_lost_timeout": 0}), None, false),
            (json!({"primary_lost_timeout": "3500ms"}), Some(3500), false),
            (json!({"primary_lost_timeout": 1}), Some(3000), true),
            (json!({"primary_lost_timeout": 30}), None, true),
            (json!({"ttl": 3, "primary_lost_timeout": 2}), None, true),
        ] {
            let config = read(&value);
            let got = config.lost_after().map(|time| time.as_millis());
            assert_eq!((got, !config.warnings.is_empty()), (expected_ms, warned), "{value}");
            assert_eq!(config.lease_time(), config.lost_after().unwrap_or(config.timing.ttl));
        }
        for off in [json!({"pause": true}), json!({"failsafe_mode": true})] {
            let mut value = off;
            value["primary_lost_timeout"] = json!(5);
            assert_eq!(read(&value).lease_time(), Duration::from_secs(30), "{value}");
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
    fn durations_with_and_without_units() {
        for (value, expected_ms) in [
            (json!(5), Some(5000)),
            (json!("5"), Some(5000)),
            (json!("250ms"), Some(250)),
            (json!("2 min"), Some(120_000)),
            (json!("1d"), Some(86_400_000)),
            (json!("5 parsecs"), None),
            (json!("-1"), None),
            (json!(-1), None),
            (json!(null), None),
        ] {
            let got = duration(&value).map(|d| d.as_millis());
            assert_eq!(got, expected_ms, "{value}");
        }
    }

    #[test]
    fn strict_mode_wants_at_least_one_standby() {
        let config = read(&json!({"synchronous_mode_strict": true, "synchronous_node_count": 0}));
        assert_eq!(config.synchronous_node_count, 1);
        assert_eq!(read(&json!({"synchronous_node_count": 0})).synchronous_node_count, 0);
    }

    #[test]
    fn failsafe_majority_needs_failsafe_mode() {
        let mode = |value: Value| read(&value).failsafe;
        assert_eq!(mode(json!({"failsafe_majority": true})), FailsafeMode::Off);
        assert_eq!(mode(json!({"failsafe_mode": true})), FailsafeMode::All);
        let both = json!({"failsafe_mode": "on", "failsafe_majority": true});
        assert_eq!(mode(both), FailsafeMode::Majority);
    }

    #[test]
    fn local_settings_and_ignored_slots_without_attributes_are_left_out() {
        let config = read(&json!({
            "postgresql": {"listen": "x", "callbacks": {"on_start": "y"}},
            "ignore_slots": [{"type": "logical", "plugin": "z"}, {}, "w"],
        }));
        assert_eq!(config.postgresql.keys().collect::<Vec<_>>(), ["callbacks"]);
        assert_eq!(config.ignore_slots.len(), 1);
    }

    #[test]
    fn slots_with_null_are_physical_and_bad_ones_are_named() {
        let config = read(&json!({"slots": {"dc2": null, "x": {"type": "logical"}, "Bad": {}}}));
        assert_eq!(config.slots.len(), 1);
        assert_eq!(config.warnings.len(), 2);
    }
}
