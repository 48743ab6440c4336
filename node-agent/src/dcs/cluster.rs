//! Raw keys into the view that decisions are made from. Garbage in a key never stops the agent.

use super::RawCluster;
use node_agent_core::observed::{Cluster, Keyed, RecordView};
use node_agent_wire::MemberName;
use node_agent_wire::dynamic::Dynamic;
use node_agent_wire::history;
use node_agent_wire::keys::{ClusterPath, Leaf, LeafName};
use node_agent_wire::member::Member;
use node_agent_wire::status::{Failover, Status, SyncState};
use serde_json::Value;
use std::collections::BTreeMap;

/// Reads the cluster. `last_config` stands in when the `config` key is absent or garbled, as the
/// last good configuration does in Patroni (contract A.4).
#[must_use]
pub fn read(path: &ClusterPath, raw: &RawCluster, last_config: &Dynamic) -> Cluster {
    let text = |leaf: Leaf<'_>| {
        raw.keys.get(&path.key(leaf)).map(|k| String::from_utf8_lossy(&k.value).into_owned())
    };
    let bytes = |leaf: Leaf<'_>| raw.keys.get(&path.key(leaf)).map(|k| k.value.as_slice());
    let revision = |leaf: Leaf<'_>| raw.revision_of(&path.key(leaf));
    let config = config_object(path, raw);
    Cluster {
        revision: raw.revision,
        initialize: text(Leaf::Initialize),
        config: config.as_ref().map_or_else(|| last_config.clone(), Dynamic::read),
        config_present: config.is_some(),
        leader: text(Leaf::Leader).filter(|l| !l.is_empty()).map(MemberName::new),
        members: members(path, raw),
        failover: Keyed {
            value: bytes(Leaf::Failover).map(Failover::parse).unwrap_or_default(),
            revision: revision(Leaf::Failover),
        },
        status: bytes(Leaf::Status).map(Status::parse).unwrap_or_default(),
        sync: Keyed {
            value: bytes(Leaf::Sync).map(SyncState::parse).unwrap_or_default(),
            revision: revision(Leaf::Sync),
        },
        history: bytes(Leaf::History)
            .and_then(|b| serde_json::from_slice::<Value>(b).ok())
            .and_then(|rows| history::from_rows(&rows)),
        record: record(path, raw),
        position: bytes(Leaf::Position).and_then(|b| serde_json::from_slice(b).ok()),
        position_revision: revision(Leaf::Position),
        failsafe: bytes(Leaf::Failsafe)
            .and_then(|b| serde_json::from_slice(b).ok())
            .unwrap_or_default(),
    }
}

/// The `config` key as it is, when it is an object.
#[must_use]
pub fn config_object(
    path: &ClusterPath,
    raw: &RawCluster,
) -> Option<serde_json::Map<String, Value>> {
    let key = raw.keys.get(&path.key(Leaf::Config))?;
    match serde_json::from_slice(&key.value) {
        Ok(Value::Object(object)) => Some(object),
        Ok(_) | Err(_) => None,
    }
}

fn members(path: &ClusterPath, raw: &RawCluster) -> BTreeMap<MemberName, Member> {
    raw.keys
        .iter()
        .filter_map(|(key, raw)| match path.parse(key) {
            Some(LeafName::Member(name)) => {
                Some((MemberName::new(name), Member::parse(name, &raw.value)))
            }
            Some(LeafName::Plain(_)) | None => None,
        })
        .collect()
}

fn record(path: &ClusterPath, raw: &RawCluster) -> RecordView {
    let Some(key) = raw.keys.get(&path.key(Leaf::Federation)) else { return RecordView::Absent };
    match serde_json::from_slice(&key.value) {
        Ok(value) => RecordView::Present(Box::new(Keyed { value, revision: key.revision })),
        Err(error) => RecordView::Unreadable(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dcs::RawKey;
    use node_agent_wire::Revision;

    fn raw(entries: &[(&str, &str)]) -> RawCluster {
        let keys = entries
            .iter()
            .map(|(k, v)| {
                let key = RawKey { value: v.as_bytes().to_vec(), revision: Revision(7), lease: 0 };
                (format!("/service/a/{k}"), key)
            })
            .collect();
        RawCluster { revision: Revision(9), keys }
    }

    #[test]
    fn garbage_in_every_key_is_survived_and_an_unreadable_record_is_not_absent() {
        let path = ClusterPath::new("service", "a");
        let garbage: Vec<(&str, &str)> = [
            "initialize",
            "config",
            "leader",
            "members/x",
            "failover",
            "history",
            "status",
            "sync",
            "failsafe",
            "federation",
            "position",
            "unknown",
            "members/a/b",
        ]
        .map(|k| (k, "\u{1}{[\"garbage"))
        .to_vec();
        let cluster = read(&path, &raw(&garbage), &Dynamic::default());
        assert!(matches!(cluster.record, RecordView::Unreadable(_)));
        assert!(!cluster.config_present && cluster.position.is_none());
        assert!(cluster.failover.value.leader.is_some() || cluster.failover.value.is_empty());
        assert_eq!(cluster.members.len(), 1);
        assert_eq!(read(&path, &raw(&[]), &Dynamic::default()).record, RecordView::Absent);
    }

    #[test]
    fn a_missing_config_keeps_the_last_good_one() {
        let path = ClusterPath::new("service", "a");
        let last = Dynamic { pause: true, ..Dynamic::default() };
        assert!(read(&path, &raw(&[("config", "[]")]), &last).config.pause);
        assert!(!read(&path, &raw(&[("config", "{}")]), &last).config.pause);
    }
}
