//! The small values: `status`, `sync`, `failover` (contract A.4).

use crate::ids::{MemberName, SlotName};
use crate::lsn::Lsn;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet};

/// `status`: the leader's position and its slots.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// The leader's last position.
    pub optime: Option<Lsn>,
    /// Slot positions, the leader's own pseudo slot included.
    pub slots: BTreeMap<SlotName, Lsn>,
    /// Slots of members, those that are away included, as long as they are kept.
    pub retain_slots: BTreeSet<SlotName>,
    /// Whatever else another agent wrote there; kept when rewritten.
    pub other: Map<String, Value>,
}

impl Status {
    /// Reads the key: an object, or a bare integer as old agents wrote it. Garbage is empty.
    #[must_use]
    pub fn parse(value: &[u8]) -> Self {
        let Ok(value) = serde_json::from_slice::<Value>(value) else { return Self::default() };
        if let Some(lsn) = value.as_u64() {
            return Self { optime: Some(Lsn(lsn)), ..Self::default() };
        }
        let Value::Object(mut object) = value else { return Self::default() };
        let optime = object.remove("optime").as_ref().and_then(Value::as_u64).map(Lsn);
        let slots = match object.remove("slots") {
            Some(Value::String(text)) => serde_json::from_str(&text).unwrap_or_default(),
            Some(other) => other,
            None => Value::Null,
        };
        let slots = slots
            .as_object()
            .into_iter()
            .flatten()
            .filter_map(|(name, lsn)| Some((SlotName::parse(name)?, Lsn(lsn.as_u64()?))))
            .collect();
        let retain_slots = match object.remove("retain_slots") {
            Some(Value::String(text)) => serde_json::from_str(&text).unwrap_or_default(),
            Some(other) => other,
            None => Value::Null,
        };
        let retain_slots = retain_slots.as_array().into_iter().flatten();
        let retain_slots =
            retain_slots.filter_map(Value::as_str).filter_map(SlotName::parse).collect();
        Self { optime, slots, retain_slots, other: object }
    }

    /// The compact JSON that is written.
    #[must_use]
    pub fn to_json(&self) -> String {
        let mut object = Map::new();
        if let Some(optime) = self.optime {
            object.insert("optime".into(), optime.0.into());
        }
        if !self.slots.is_empty() {
            let slots: Map<String, Value> =
                self.slots.iter().map(|(n, l)| (n.to_string(), l.0.into())).collect();
            object.insert("slots".into(), Value::Object(slots));
        }
        if !self.retain_slots.is_empty() {
            let names = self.retain_slots.iter().map(|n| Value::from(n.as_str())).collect();
            object.insert("retain_slots".into(), Value::Array(names));
        }
        object.extend(self.other.clone());
        Value::Object(object).to_string()
    }
}

/// `sync`: who is synchronous. Active when `leader` is set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SyncState {
    /// The primary that wrote it.
    pub leader: Option<MemberName>,
    /// Names that may be elected beside the leader.
    pub sync_standby: BTreeSet<MemberName>,
    /// Votes needed beside the candidate itself; 0 in plain mode.
    pub quorum: u32,
}

#[derive(Serialize, Deserialize)]
struct SyncJson {
    leader: Option<String>,
    #[serde(default)]
    quorum: u32,
    #[serde(default)]
    sync_standby: Option<String>,
}

impl SyncState {
    /// Reads the key. Missing, garbage or leader-less is "not active" (contract A.4).
    #[must_use]
    pub fn parse(value: &[u8]) -> Self {
        let Ok(json) = serde_json::from_slice::<SyncJson>(value) else { return Self::default() };
        let Some(leader) = json.leader.filter(|l| !l.is_empty()) else { return Self::default() };
        let sync_standby = json
            .sync_standby
            .iter()
            .flat_map(|names| names.split(','))
            .map(str::trim)
            .filter(|n| !n.is_empty())
            .map(MemberName::from)
            .collect();
        Self { leader: Some(MemberName::new(leader)), sync_standby, quorum: json.quorum }
    }

    /// The compact JSON that is written: names sorted, comma between, no blanks.
    #[must_use]
    pub fn to_json(&self) -> String {
        let names: Vec<&str> = self.sync_standby.iter().map(MemberName::as_str).collect();
        let json = SyncJson {
            leader: self.leader.as_ref().map(ToString::to_string),
            quorum: self.quorum,
            sync_standby: (!names.is_empty()).then(|| names.join(",")),
        };
        serde_json::to_string(&json).unwrap_or_default()
    }

    /// Whether synchronous replication is in force.
    #[must_use]
    pub fn active(&self) -> bool {
        self.leader.is_some()
    }

    /// Whether `name` may be elected without losing an acknowledged transaction. Names compare
    /// without regard to case (contract A.4).
    #[must_use]
    pub fn covers(&self, name: &MemberName) -> bool {
        let same = |other: &MemberName| other.as_str().eq_ignore_ascii_case(name.as_str());
        self.leader.as_ref().is_some_and(same) || self.sync_standby.iter().any(same)
    }
}

/// `failover`: a pending switchover or failover. Cleared by writing `{}`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failover {
    /// The leader that is to give up; set for a switchover.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leader: Option<MemberName>,
    /// The candidate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub member: Option<MemberName>,
    /// ISO-8601 with a time zone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scheduled_at: Option<String>,
}

impl Failover {
    /// Reads the key: an object, or the old text `leader:candidate`. Garbage is empty.
    #[must_use]
    pub fn parse(value: &[u8]) -> Self {
        if let Ok(parsed) = serde_json::from_slice::<Self>(value) {
            return parsed.without_empty_names();
        }
        let Ok(text) = std::str::from_utf8(value) else { return Self::default() };
        if text.trim_start().starts_with(['{', '[', '"']) {
            return Self::default();
        }
        let (leader, member) = text.split_once(':').unwrap_or((text, ""));
        Self {
            leader: Some(leader.trim().into()),
            member: Some(member.trim().into()),
            scheduled_at: None,
        }
        .without_empty_names()
    }

    fn without_empty_names(mut self) -> Self {
        self.leader = self.leader.filter(|n| !n.as_str().is_empty());
        self.member = self.member.filter(|n| !n.as_str().is_empty());
        self
    }

    /// Nothing is pending: a value with only a schedule counts as empty too (contract A.4).
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.leader.is_none() && self.member.is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_forms() {
        let status =
            Status::parse(br#"{"optime":67,"slots":{"pg2":5,"BAD-":6},"retain_slots":["a"]}"#);
        assert_eq!(status.optime, Some(Lsn(67)));
        assert_eq!(status.slots.len(), 1);
        assert_eq!(status.to_json(), r#"{"optime":67,"retain_slots":["a"],"slots":{"pg2":5}}"#);
        assert_eq!(Status::parse(br#"{"retain_slots":"[\"b\"]"}"#).retain_slots.len(), 1);
        assert_eq!(Status::parse(b"123").optime, Some(Lsn(123)));
        assert_eq!(Status::parse(br#"{"slots":"{\"a\":1}"}"#).slots.len(), 1);
        assert_eq!(Status::parse(b"nonsense"), Status::default());
    }

    #[test]
    fn sync_forms() {
        let sync = SyncState::parse(br#"{"leader":"pg1","quorum":0,"sync_standby":"pg2, PG3"}"#);
        assert!(sync.active() && sync.covers(&"pg3".into()) && sync.covers(&"PG1".into()));
        assert!(!sync.covers(&"pg4".into()));
        assert_eq!(sync.to_json(), r#"{"leader":"pg1","quorum":0,"sync_standby":"PG3,pg2"}"#);
        for inactive in [&b""[..], b"{}", br#"{"leader":null,"sync_standby":"a"}"#, b"[1]"] {
            assert!(!SyncState::parse(inactive).active());
        }
    }

    #[test]
    fn failover_forms() {
        assert!(Failover::parse(b"{}").is_empty());
        assert!(Failover::parse(br#"{"scheduled_at":"2026-01-01T00:00:00Z"}"#).is_empty());
        assert!(Failover::parse(b"").is_empty());
        let pending = Failover::parse(br#"{"leader":"a","member":"b"}"#);
        assert_eq!((pending.leader, pending.member), (Some("a".into()), Some("b".into())));
        let old = Failover::parse(b"a:b");
        assert_eq!((old.leader, old.member), (Some("a".into()), Some("b".into())));
    }
}
