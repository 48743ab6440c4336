//! The text of the configuration files (contract C.6), as pure functions.
//!
//! `postgresql.conf` includes what was there before the agent (`postgresql.base.conf`), then the
//! merged parameters, then two small files of the agent's own that outlive its restarts and
//! change without the rest: the upstream, and `synchronous_standby_names`.

use super::effective::Effective;
use node_agent_core::postgres::{Peer, Upstream};
use node_agent_wire::{MemberName, SlotName};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;

pub(super) const AUTO: &str = "postgresql.auto.conf";
pub(super) const HBA: &str = "pg_hba.conf";
pub(super) const IDENT: &str = "pg_ident.conf";
pub(super) const UPSTREAM: &str = "node-agent.upstream.conf";
pub(super) const SYNC: &str = "node-agent.sync.conf";
pub(super) const STANDBY_SIGNAL: &str = "standby.signal";
pub(super) const RECOVERY_SIGNAL: &str = "recovery.signal";

const HEADER: &str = "# Written by node-agent: changes made here are overwritten.\n\
                      # Change postgresql.parameters in the dynamic configuration instead.\n";
const UPSTREAM_MARK: &str = "# upstream: ";

/// Whether the agent wrote this file.
pub(super) fn is_ours(text: &str) -> bool {
    text.starts_with(HEADER)
}

/// A value in single quotes, as the configuration file's scanner reads it.
fn quoted(value: &str) -> String {
    let mut text = String::with_capacity(value.len() + 2);
    text.push('\'');
    for c in value.chars() {
        match c {
            '\'' => text.push_str("''"),
            '\\' => text.push_str("\\\\"),
            '\n' => text.push_str("\\n"),
            '\r' => text.push_str("\\r"),
            other => text.push(other),
        }
    }
    text.push('\'');
    text
}

/// One value of a libpq connection string (PostgreSQL manual, 34.1.1.1).
pub(super) fn conninfo_value(value: &str) -> String {
    format!("'{}'", value.replace('\\', "\\\\").replace('\'', "\\'"))
}

fn setting(text: &mut String, name: &str, value: &str) {
    // Writing to a String can't fail.
    let _ = writeln!(text, "{name} = {}", quoted(value));
}

/// Where the files are that `postgresql.conf` speaks of.
pub(super) struct Around<'a> {
    /// What stands under the agent's settings: the file from before, or `custom_conf`.
    pub(super) base: &'a Path,
    /// The data directory, where it is not the directory of `postgresql.conf`.
    pub(super) data_dir: Option<&'a Path>,
    /// `pg_hba.conf` and `pg_ident.conf`, where the server would not find them by itself.
    pub(super) access: Option<(&'a Path, &'a Path)>,
}

/// `postgresql.conf`.
pub(super) fn postgresql_conf(settings: &Effective, around: &Around<'_>) -> String {
    let mut text = HEADER.to_owned();
    let _ = writeln!(text, "include_if_exists {}", quoted(&around.base.to_string_lossy()));
    if let Some((hba, ident)) = around.access {
        for (name, path) in [("hba_file", hba), ("ident_file", ident)] {
            if !settings.parameters.contains_key(name) {
                setting(&mut text, name, &path.to_string_lossy());
            }
        }
    }
    // Those of the command line stand here too: a reload would otherwise find another value in the
    // file and mark them as waiting for a restart.
    for (name, value) in settings.command_line.iter().chain(&settings.parameters) {
        setting(&mut text, name, value);
    }
    for file in [UPSTREAM, SYNC] {
        let path = around.data_dir.map_or_else(|| file.into(), |dir| dir.join(file));
        let _ = writeln!(text, "include_if_exists {}", quoted(&path.to_string_lossy()));
    }
    text
}

/// `pg_hba.conf`.
pub(super) fn pg_hba(lines: &[String]) -> String {
    let mut text = HEADER.to_owned();
    for line in lines {
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// `pg_ident.conf`.
pub(super) fn pg_ident(lines: &[String]) -> String {
    pg_hba(lines)
}

/// The file that sets `synchronous_standby_names`.
pub(super) fn sync_conf(names: &str) -> String {
    let mut text = HEADER.to_owned();
    setting(&mut text, "synchronous_standby_names", names);
    text
}

/// Who connects to the upstream, and how.
pub(super) struct Receiver<'a> {
    /// The member name: the `application_name` that the upstream sees.
    pub(super) name: &'a str,
    /// The replication user.
    pub(super) user: &'a str,
    /// Where its password is.
    pub(super) passfile: &'a Path,
    /// More of its parameters, `sslmode` among them.
    pub(super) connection: Vec<(String, String)>,
}

/// The hosts of an upstream, in order.
pub(super) fn hosts_of(upstream: &Upstream) -> Vec<(String, u16)> {
    match upstream {
        Upstream::Member { host, port, .. } => vec![(host.clone(), *port)],
        Upstream::Remote { hosts, .. } => hosts.clone(),
        Upstream::Archive { .. } | Upstream::Nobody => Vec::new(),
    }
}

/// `primary_conninfo`; empty for nobody.
pub(super) fn primary_conninfo(upstream: &Upstream, receiver: &Receiver<'_>) -> String {
    let hosts = hosts_of(upstream);
    if hosts.is_empty() {
        return String::new();
    }
    let names: Vec<&str> = hosts.iter().map(|(host, _)| host.as_str()).collect();
    let ports: Vec<String> = hosts.iter().map(|(_, port)| port.to_string()).collect();
    let passfile = receiver.passfile.to_string_lossy();
    let (hosts, ports) = (names.join(","), ports.join(","));
    let mut pairs =
        vec![("user", receiver.user), ("passfile", &passfile), ("host", &hosts), ("port", &ports)];
    pairs.extend(receiver.connection.iter().map(|(key, value)| (key.as_str(), value.as_str())));
    pairs.push(("application_name", receiver.name));
    if matches!(upstream, Upstream::Remote { .. }) {
        pairs.push(("target_session_attrs", "read-write"));
    }
    let pairs = pairs.iter().map(|(key, value)| format!("{key}={}", conninfo_value(value)));
    pairs.collect::<Vec<_>>().join(" ")
}

/// The slot that a standby uses on its upstream.
pub(super) fn slot_name(upstream: &Upstream, own_name: &str, use_slots: bool) -> Option<SlotName> {
    match upstream {
        Upstream::Member { .. } => use_slots.then(|| SlotName::from_name(own_name)),
        Upstream::Remote { slot, .. } => slot.clone(),
        Upstream::Archive { .. } | Upstream::Nobody => None,
    }
}

/// The file that makes a standby follow, with a first line that [`read_upstream`] reads back.
pub(super) fn upstream_conf(
    upstream: &Upstream,
    receiver: &Receiver<'_>,
    settings: &Effective,
) -> String {
    let slot = slot_name(upstream, receiver.name, settings.use_slots);
    let mark = serde_json::to_string(&Written::from(upstream)).unwrap_or_default();
    let mut text = format!("{HEADER}{UPSTREAM_MARK}{mark}\n");
    setting(&mut text, "primary_conninfo", &primary_conninfo(upstream, receiver));
    setting(&mut text, "primary_slot_name", slot.as_ref().map_or("", SlotName::as_str));
    setting(&mut text, "recovery_target_timeline", "latest");
    for name in ["", "_name", "_time", "_xid", "_lsn"] {
        setting(&mut text, &format!("recovery_target{name}"), "");
    }
    for (name, value) in &settings.recovery_conf {
        setting(&mut text, name, value);
    }
    let remote = matches!(upstream, Upstream::Remote { .. } | Upstream::Archive { of: None });
    let archive = [
        ("restore_command", settings.restore_command.as_ref()),
        ("archive_cleanup_command", settings.archive_cleanup_command.as_ref()),
        ("recovery_min_apply_delay", settings.recovery_min_apply_delay.as_ref().filter(|_| remote)),
    ];
    for (name, value) in archive {
        if let Some(value) = value {
            setting(&mut text, name, value);
        }
    }
    text
}

/// An upstream as the file keeps it.
#[derive(Serialize, Deserialize)]
enum Written {
    Member { name: MemberName, host: String, port: u16 },
    Remote { hosts: Vec<(String, u16)>, slot: Option<SlotName> },
    Archive { of: Option<(MemberName, String, u16)> },
    Nobody,
}

impl From<&Upstream> for Written {
    fn from(upstream: &Upstream) -> Self {
        match upstream.clone() {
            Upstream::Member { name, host, port } => Self::Member { name, host, port },
            Upstream::Remote { hosts, slot } => Self::Remote { hosts, slot },
            Upstream::Archive { of } => {
                Self::Archive { of: of.map(|peer| (peer.name, peer.host, peer.port)) }
            }
            Upstream::Nobody => Self::Nobody,
        }
    }
}

/// The upstream that [`upstream_conf`] was written for.
pub(super) fn read_upstream(text: &str) -> Option<Upstream> {
    let mark = text.lines().find_map(|line| line.strip_prefix(UPSTREAM_MARK))?;
    Some(match serde_json::from_str(mark).ok()? {
        Written::Member { name, host, port } => Upstream::Member { name, host, port },
        Written::Remote { hosts, slot } => Upstream::Remote { hosts, slot },
        Written::Archive { of } => {
            Upstream::Archive { of: of.map(|(name, host, port)| Peer { name, host, port }) }
        }
        Written::Nobody => Upstream::Nobody,
    })
}

/// Set in `postgresql.auto.conf` these would win over the agent's files.
pub(super) fn is_recovery_parameter(name: &str) -> bool {
    name.starts_with("recovery_")
        || matches!(
            name,
            "primary_conninfo"
                | "primary_slot_name"
                | "restore_command"
                | "archive_cleanup_command"
                | "promote_trigger_file"
        )
}

/// `postgresql.auto.conf` without recovery parameters.
pub(super) fn without_recovery(auto: &str) -> String {
    let keep = |line: &&str| {
        let name: String =
            line.trim_start().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
        !is_recovery_parameter(&name.to_ascii_lowercase())
    };
    auto.lines().filter(keep).map(|line| format!("{line}\n")).collect()
}

/// The recovery parameters that stand in `postgresql.auto.conf`, as a file of their own.
pub(super) fn kept_recovery(auto: &str) -> String {
    let others = without_recovery(auto);
    let mut others = others.lines().peekable();
    let mut text = HEADER.to_owned();
    for line in auto.lines() {
        if others.peek() == Some(&line) {
            others.next();
        } else {
            text.push_str(line);
            text.push('\n');
        }
    }
    text
}

/// The file with the settings of a recovery that ends by itself.
pub(super) fn recovery_conf(settings: &BTreeMap<String, String>) -> String {
    let mut text = HEADER.to_owned();
    for (name, value) in settings {
        setting(&mut text, name, value);
    }
    text
}

/// The command line's parameters, on a standby raised to what its primary had when it last wrote
/// them to the WAL: below that the standby would refuse to start (contract C.5).
pub(super) fn arguments(
    settings: &Effective,
    minima: Option<&BTreeMap<&'static str, u64>>,
) -> Vec<String> {
    let raise = |name: &str, value: &str| {
        let least = minima.and_then(|m| m.get(name)).copied().unwrap_or(0);
        match value.parse::<u64>() {
            Ok(number) if number < least => least.to_string(),
            Ok(_) | Err(_) => value.to_owned(),
        }
    };
    let line = settings.command_line.iter();
    line.map(|(name, value)| format!("--{name}={}", raise(name, value))).collect()
}

#[cfg(test)]
#[path = "conf_tests.rs"]
mod tests;
