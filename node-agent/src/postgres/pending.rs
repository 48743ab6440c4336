//! Which parameters wait for a restart, and why (contract C.6): those of the command line by
//! comparing it with the one that the settings ask for, the others as PostgreSQL tells.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A parameter's value in force, and the one that a restart would bring.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// In force.
    pub old_value: String,
    /// After a restart.
    pub new_value: String,
}

/// By parameter.
pub type Pending = BTreeMap<String, Change>;

/// The part of the status query. Parameters of recovery are the agent's, and need no restart;
/// `restore_command` does up to PostgreSQL 13.
macro_rules! pending {
    () => {
        "
(SELECT json_object_agg(s.name, json_build_object(
    'old_value', current_setting(s.name),
    'new_value', coalesce((SELECT f.setting FROM pg_file_settings f WHERE f.name = s.name
                           ORDER BY f.seqno DESC LIMIT 1), s.boot_val, '')))
  FROM pg_settings s WHERE s.pending_restart AND s.name NOT IN
    ('hot_standby', 'primary_conninfo', 'primary_slot_name', 'archive_cleanup_command',
     'recovery_end_command', 'recovery_min_apply_delay', 'promote_trigger_file')
    AND s.name NOT LIKE 'recovery\\_target%')"
    };
}
pub(super) use pending;

#[derive(Deserialize)]
struct Answer {
    pending: Option<Pending>,
}

/// The part of the status query's answer.
pub(super) fn parse(text: &str) -> Pending {
    serde_json::from_str::<Answer>(text).ok().and_then(|a| a.pending).unwrap_or_default()
}

fn split(argument: &str) -> Option<(&str, &str)> {
    argument.strip_prefix("--")?.split_once('=')
}

/// What differs between two command lines of `--name=value`.
pub(super) fn differing(running: &[String], wanted: &[String]) -> Pending {
    let running: BTreeMap<&str, &str> = running.iter().filter_map(|a| split(a)).collect();
    let wanted = wanted.iter().filter_map(|a| split(a));
    wanted
        .filter(|(name, _)| *name != "hot_standby")
        .filter_map(|(name, new)| {
            let old = running.get(name).copied().unwrap_or_default();
            let change = Change { old_value: old.to_owned(), new_value: new.to_owned() };
            (old != new).then(|| (name.to_owned(), change))
        })
        .collect()
}

/// The parameters of a standby's command line that are below what its primary has: with a primary
/// raised first, replay stops there.
pub(super) fn outgrown(running: &[String], minima: &BTreeMap<&'static str, u64>) -> bool {
    running.iter().filter_map(|a| split(a)).any(|(name, value)| {
        let least = minima.get(name).copied().unwrap_or(0);
        value.parse::<u64>().is_ok_and(|value| value < least)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(arguments: &[&str]) -> Vec<String> {
        arguments.iter().map(|a| (*a).to_owned()).collect()
    }

    #[test]
    fn the_command_line_tells_what_waits() {
        let running = line(&["--max_connections=100", "--port=5432", "--hot_standby=on"]);
        let wanted = line(&["--hot_standby=off", "--max_connections=150", "--port=5432"]);
        let pending = differing(&running, &wanted);
        let change = Change { old_value: "100".into(), new_value: "150".into() };
        assert_eq!(pending, BTreeMap::from([("max_connections".to_owned(), change)]));
        assert_eq!(differing(&running, &line(&["--wal_level=logical"])).len(), 1);
    }

    #[test]
    fn a_standby_is_outgrown_by_any_of_the_five() {
        let minima = BTreeMap::from([("max_connections", 150), ("max_wal_senders", 10)]);
        let at = |text: &str| outgrown(&line(&[text, "--wal_level=replica"]), &minima);
        assert!(at("--max_connections=149") && at("--max_wal_senders=9"));
        assert!(!at("--max_connections=150") && !at("--max_worker_processes=1"));
    }

    #[test]
    fn the_servers_own_list_is_read() {
        let text = r#"{"pending": {"shared_buffers": {"old_value": "32MB", "new_value": "48MB"}}}"#;
        assert_eq!(parse(text)["shared_buffers"].new_value, "48MB");
        assert!(parse(r#"{"pending": null}"#).is_empty() && parse("").is_empty());
    }
}
