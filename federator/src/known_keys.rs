//! Which keys the settings file knows, and where.

use crate::settings::SettingsError;
use serde_json::Value;
use std::path::Path;

const LOGIN: &[&str] = &["username", "password_file", "password_env"];
const POLICIES: &[&str] = &[
    "cold_start_after",
    "switchover_lag_max",
    "keep_divergent_wal",
    "vault_retention",
    "evidence",
    "approvals",
    "sequence_gap",
    "runway_warning",
    "grant_ttl",
    "grant_stop_max",
    "grant_margin",
    "grant_clock_error_ppm",
];
const TOP: &[&str] = &[
    "federation",
    "datacenters",
    "witness",
    "credentials",
    "policies",
    "tls",
    "signing_key_file",
    "trusted_keys",
];
/// What may stand where; `*` is any name.
const KNOWN: [(&str, &[&str]); 12] = [
    ("", TOP),
    (
        "datacenters.*",
        &["scope", "namespace", "etcd", "follows", "fencer", "isolation", "retention", "seed"],
    ),
    ("witness", &["etcd", "namespace"]),
    ("datacenters.*.fencer", &["command", "timeout"]),
    ("datacenters.*.seed", &["methods", "max_rate"]),
    ("credentials", &["superuser", "replication", "replication_next"]),
    ("credentials.superuser", LOGIN),
    ("credentials.replication", LOGIN),
    ("credentials.replication_next", LOGIN),
    ("policies", POLICIES),
    ("tls", &["cafile", "certfile", "keyfile"]),
    ("datacenters", &["*"]),
];

pub(crate) fn unknown_keys(file: &Path, value: &Value) -> Result<(), SettingsError> {
    for (section, known) in KNOWN {
        for (path, object) in sections(value, section) {
            for key in object.keys() {
                if !known.contains(&key.as_str()) && !known.contains(&"*") {
                    let dot = if path.is_empty() { "" } else { "." };
                    return Err(SettingsError::UnknownKey {
                        file: file.to_owned(),
                        path: format!("{path}{dot}{key}"),
                        known: known.join(", "),
                    });
                }
            }
        }
    }
    Ok(())
}

/// The mappings that a path with wildcards leads to.
fn sections<'v>(value: &'v Value, path: &str) -> Vec<(String, &'v serde_json::Map<String, Value>)> {
    let mut found = vec![(String::new(), value)];
    for part in path.split('.').filter(|part| !part.is_empty()) {
        found = found
            .into_iter()
            .flat_map(|(path, value)| {
                let object = value.as_object();
                let entries = object.into_iter().flatten();
                entries
                    .filter(|(key, _)| part == "*" || part == key.as_str())
                    .map(|(key, inner)| {
                        let dot = if path.is_empty() { "" } else { "." };
                        (format!("{path}{dot}{key}"), inner)
                    })
                    .collect::<Vec<_>>()
            })
            .collect();
    }
    found.into_iter().filter_map(|(path, value)| Some((path, value.as_object()?))).collect()
}
