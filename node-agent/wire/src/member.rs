//! `members/<name>`: what a member says of itself (contract A.4).

use crate::ids::MemberName;
use crate::lsn::{Lsn, TimelineId};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// The role that a member publishes (contract A.4, `role`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Accepts writes. Old agents write `master`.
    #[serde(alias = "master", alias = "promoted")]
    Primary,
    /// Leader of a standby cluster.
    StandbyLeader,
    /// Follows.
    Replica,
    /// Was primary, has stopped.
    Demoted,
    /// Has no data directory.
    Uninitialized,
}

impl Role {
    /// The word on the wire.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Primary => "primary",
            Self::StandbyLeader => "standby_leader",
            Self::Replica => "replica",
            Self::Demoted => "demoted",
            Self::Uninitialized => "uninitialized",
        }
    }
}

/// The states that a member publishes; the numbers are the metric's (contract A.4, `state`).
pub mod state {
    /// 0
    pub const INITDB: &str = "initializing new cluster";
    /// 1
    pub const INITDB_FAILED: &str = "initdb failed";
    /// 2
    pub const CUSTOM_BOOTSTRAP: &str = "running custom bootstrap script";
    /// 3
    pub const CUSTOM_BOOTSTRAP_FAILED: &str = "custom bootstrap failed";
    /// 4
    pub const CREATING_REPLICA: &str = "creating replica";
    /// 5
    pub const RUNNING: &str = "running";
    /// 6
    pub const STARTING: &str = "starting";
    /// 8
    pub const START_FAILED: &str = "start failed";
    /// 9
    pub const RESTARTING: &str = "restarting";
    /// 11
    pub const STOPPING: &str = "stopping";
    /// 12
    pub const STOPPED: &str = "stopped";
    /// 14
    pub const CRASHED: &str = "crashed";

    /// The index of a state in the metric `patroni_postgres_state`; -1 for an unknown one.
    #[must_use]
    pub fn index(state: &str) -> i32 {
        const ALL: [&str; 15] = [
            INITDB,
            INITDB_FAILED,
            CUSTOM_BOOTSTRAP,
            CUSTOM_BOOTSTRAP_FAILED,
            CREATING_REPLICA,
            RUNNING,
            STARTING,
            "starting after custom bootstrap",
            START_FAILED,
            RESTARTING,
            "restart failed",
            STOPPING,
            STOPPED,
            "stop failed",
            CRASHED,
        ];
        ALL.iter().zip(0..).find(|(name, _)| **name == state).map_or(-1, |(_, index)| index)
    }
}

/// The value of a member key. Members of the object that we do not know are kept in `other`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct MemberData {
    /// `postgres://host:port/dbname`, no credentials.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub conn_url: String,
    /// `http://host:port/patroni`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub api_url: String,
    /// One of [`state`].
    #[serde(skip_serializing_if = "String::is_empty")]
    pub state: String,
    /// The role; absent in a garbled value.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub role: Option<Role>,
    /// The agent's version.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub version: String,
    /// `false` until the checkpoint after a promotion is done; absent otherwise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub checkpoint_after_promote: Option<bool>,
    /// Tags as configured.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub tags: BTreeMap<String, Value>,
    /// Present and true when parameters wait for a restart.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pending_restart: Option<bool>,
    /// `parameter -> {old_value, new_value}`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pending_restart_reason: Option<Value>,
    /// A restart that is planned on this node: `schedule`, `postmaster_start_time`, conditions.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scheduled_restart: Option<Value>,
    /// Flushed on a primary, the further one of received and replayed on a standby.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub xlog_location: Option<Lsn>,
    /// Replayed up to here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replay_lsn: Option<Lsn>,
    /// Received up to here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub receive_lsn: Option<Lsn>,
    /// `streaming` or `in archive recovery`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replication_state: Option<String>,
    /// The timeline.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeline: Option<TimelineId>,
    /// Present and true when the agent sees the pause flag.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pause: Option<bool>,
    /// Ours: the agent's gRPC `host:port`. Patroni's tools pass over members they do not know.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grpc: Option<String>,
    /// Ours: this member restarts to copy logical slots, or is about to (rule 230).
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub copies_slots: bool,
    /// Ours: the number of the rule that decided last, and why (docs/rules.md).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// Whatever else is there.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// A member with its name.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Member {
    /// The key's last part.
    pub name: MemberName,
    /// The value; empty when it could not be read (contract A.4: unparsable JSON is empty data).
    pub data: MemberData,
}

impl Member {
    /// Reads a member key. Garbage gives a member without data.
    #[must_use]
    pub fn parse(name: &str, value: &[u8]) -> Self {
        let data = serde_json::from_slice(value).unwrap_or_default();
        Self { name: MemberName::new(name), data }
    }

    /// PostgreSQL's host and port out of `conn_url`; the port defaults to 5432.
    #[must_use]
    pub fn postgres_address(&self) -> Option<(String, u16)> {
        let rest = self.data.conn_url.split_once("://")?.1;
        let authority = rest.split(['/', '?']).next()?;
        let authority = authority.rsplit_once('@').map_or(authority, |(_, a)| a);
        split_host_port(authority, 5432)
    }

    /// Never to become leader: `nofailover`, or a `failover_priority` of zero or less; the former
    /// wins when both are there (contract C.7).
    #[must_use]
    pub fn nofailover(&self) -> bool {
        barred(&self.data.tags, "nofailover", "failover_priority")
    }

    /// Never to be synchronous: `nosync`, or a `sync_priority` of zero or less.
    #[must_use]
    pub fn nosync(&self) -> bool {
        barred(&self.data.tags, "nosync", "sync_priority")
    }

    /// `sync_priority`: the higher one is the synchronous standby.
    #[must_use]
    pub fn sync_priority(&self) -> i64 {
        priority(&self.data.tags, "sync_priority")
    }

    /// Takes its WAL from the archive only.
    #[must_use]
    pub fn nostream(&self) -> bool {
        self.tag("nostream")
    }

    /// The member that it follows in place of the leader.
    #[must_use]
    pub fn replicatefrom(&self) -> Option<MemberName> {
        replicatefrom(&self.data.tags)
    }

    /// Whether the boolean tag is set, in Patroni's words.
    #[must_use]
    pub fn tag(&self, name: &str) -> bool {
        self.data.tags.get(name).and_then(crate::yaml::truth).unwrap_or(false)
    }
}

/// The tag `replicatefrom`, when it names somebody.
#[must_use]
pub fn replicatefrom(tags: &BTreeMap<String, Value>) -> Option<MemberName> {
    let name = tags.get("replicatefrom").and_then(Value::as_str);
    name.filter(|name| !name.is_empty()).map(MemberName::new)
}

/// Whether tags bar a member by `flag`, or by a `priority` of zero or less when the flag is absent.
#[must_use]
pub fn barred(tags: &BTreeMap<String, Value>, flag: &str, priority: &str) -> bool {
    match tags.get(flag).and_then(crate::yaml::truth) {
        Some(barred) => barred,
        None => self::priority(tags, priority) <= 0,
    }
}

/// The priority that tags give; 1 when there is none that can be read (contract C.7).
#[must_use]
pub fn priority(tags: &BTreeMap<String, Value>, name: &str) -> i64 {
    match tags.get(name) {
        Some(Value::Number(number)) => number.as_i64().unwrap_or(1),
        Some(Value::String(text)) => text.trim().parse().unwrap_or(1),
        Some(Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_)) | None => 1,
    }
}

/// Splits `host:port`, `[v6]:port` or a bare host. `None` when the port is not a number.
#[must_use]
pub fn split_host_port(text: &str, default_port: u16) -> Option<(String, u16)> {
    let text = text.trim();
    if let Some(rest) = text.strip_prefix('[') {
        let (host, port) = rest.split_once(']')?;
        let port = match port.strip_prefix(':') {
            Some(port) => port.parse().ok()?,
            None => default_port,
        };
        return Some((host.to_owned(), port));
    }
    match text.rsplit_once(':') {
        Some((host, port)) if !host.contains(':') => Some((host.to_owned(), port.parse().ok()?)),
        Some(_) | None if text.is_empty() => None,
        Some(_) | None => Some((text.to_owned(), default_port)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_a_patroni_member() {
        let member = Member::parse(
            "pg1",
            br#"{"conn_url":"postgres://10.0.0.1:5433/postgres",
                "api_url":"http://10.0.0.1:8008/patroni",
                "state":"running","role":"master","version":"4.1.4","xlog_location":67108864,
                "timeline":3,"site":"a","tags":{"nofailover":"on"}}"#,
        );
        assert_eq!(member.data.role, Some(Role::Primary));
        assert_eq!(member.postgres_address(), Some(("10.0.0.1".into(), 5433)));
        assert!(member.tag("nofailover"));
        assert_eq!(member.data.other["site"], "a");
        let again = serde_json::to_value(&member.data).expect("json");
        assert_eq!(again["site"], "a");
        assert_eq!(again["xlog_location"], 67_108_864);
    }

    #[test]
    fn the_flag_wins_over_the_priority() {
        for (tags, expected) in [
            ("{}", false),
            (r#"{"nofailover":true}"#, true),
            (r#"{"failover_priority":0}"#, true),
            (r#"{"failover_priority":2}"#, false),
            (r#"{"nofailover":false,"failover_priority":0}"#, false),
        ] {
            let member = Member::parse("x", format!("{{\"tags\":{tags}}}").as_bytes());
            assert_eq!(member.nofailover(), expected, "{tags}");
        }
    }

    #[test]
    fn garbage_is_empty_data() {
        assert_eq!(Member::parse("x", b"{not json").data, MemberData::default());
        assert_eq!(Member::parse("x", br#"{"role":"emperor"}"#).data, MemberData::default());
    }

    #[test]
    fn addresses() {
        for (text, expected) in [
            ("a:1", Some(("a", 1))),
            ("a", Some(("a", 5432))),
            ("[::1]:6", Some(("::1", 6))),
            ("[::1]", Some(("::1", 5432))),
            ("a:x", None),
            ("", None),
        ] {
            let expected = expected.map(|(h, p)| (h.to_owned(), p));
            assert_eq!(split_host_port(text, 5432), expected, "{text}");
        }
    }
}
