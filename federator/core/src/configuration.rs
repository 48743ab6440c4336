//! Changes of a datacenter's dynamic configuration, as pure functions on the `config` key.

pub use node_agent_wire::dynamic::as_standby_of;

use node_agent_wire::SlotName;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;

/// With a permanent physical slot for every name. What is there already stays as it is.
#[must_use]
pub fn with_slots(config: &Map<String, Value>, slots: &BTreeSet<SlotName>) -> Map<String, Value> {
    let mut next = config.clone();
    let section = next.entry("slots").or_insert_with(|| json!({}));
    if !section.is_object() {
        *section = json!({});
    }
    if let Value::Object(section) = section {
        for slot in slots {
            let there = section.get(slot.as_str()).is_some_and(|s| !s.is_null());
            if !there {
                section.insert(slot.to_string(), json!({"type": "physical"}));
            }
        }
    }
    next
}

/// How a datacenter is filled from the one that it follows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Seed {
    /// Names of `create_replica_methods`, in order; empty: what the agents have configured.
    pub methods: Vec<String>,
    /// The rate of a base backup, bytes a second; `None`: no limit.
    pub max_rate: Option<u64>,
}

/// With the ways to fill the datacenter in `standby_cluster`. What the seed does not say stays as
/// it is there.
#[must_use]
pub fn with_seed(config: &Map<String, Value>, seed: &Seed) -> Map<String, Value> {
    let mut next = config.clone();
    if let Some(Value::Object(section)) = next.get_mut("standby_cluster") {
        if !seed.methods.is_empty() {
            section.insert("create_replica_methods".into(), seed.methods.clone().into());
        }
        if let Some(rate) = seed.max_rate {
            section.insert("max_rate".into(), format!("{}k", rate >> 10).into());
        }
    }
    next
}

/// Without the permanent physical slots of these names. Slots of another kind stay.
#[must_use]
pub fn without_slots(
    config: &Map<String, Value>,
    slots: &BTreeSet<SlotName>,
) -> Map<String, Value> {
    let mut next = config.clone();
    if let Some(Value::Object(section)) = next.get_mut("slots") {
        let logical = |slot: &Value| slot.get("type").and_then(Value::as_str) == Some("logical");
        section.retain(|name, slot| {
            logical(slot) || !slots.iter().any(|other| other.as_str() == name)
        });
    }
    next
}

/// No longer a standby cluster.
#[must_use]
pub fn as_primary(config: &Map<String, Value>) -> Map<String, Value> {
    let mut next = config.clone();
    next.remove("standby_cluster");
    next
}

/// What a new standby datacenter begins with: the primary's configuration without what is the
/// primary's own.
#[must_use]
pub fn template(primary: &Map<String, Value>) -> Map<String, Value> {
    let mut next = primary.clone();
    for own in ["standby_cluster", "slots", "permanent_slots", "permanent_replication_slots"] {
        next.remove(own);
    }
    next
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(value: Value) -> Map<String, Value> {
        let Value::Object(object) = value else { panic!("not an object") };
        object
    }

    #[test]
    fn slots_are_added_and_kept() {
        let slots = BTreeSet::from([SlotName::from_name("dc1"), SlotName::from_name("dc2")]);
        let before = map(json!({"ttl": 5, "slots": {"dc1": {"type": "physical", "x": 1}}}));
        let after = with_slots(&before, &slots);
        assert_eq!(
            Value::Object(after.clone()),
            json!({"ttl": 5, "slots": {
                "dc1": {"type": "physical", "x": 1}, "dc2": {"type": "physical"}}})
        );
        assert_eq!(with_slots(&after, &slots), after);
        assert!(with_slots(&map(json!({"slots": 3})), &slots)["slots"]["dc1"].is_object());
    }

    #[test]
    fn a_seed_is_written_beside_the_hosts() {
        let before = map(json!({"standby_cluster": {"host": "a", "max_rate": "1024k"}}));
        assert_eq!(with_seed(&before, &Seed::default()), before);
        let seed = Seed { methods: vec!["pgbackrest".into()], max_rate: Some(20 << 20) };
        assert_eq!(
            with_seed(&before, &seed)["standby_cluster"],
            json!({"host": "a", "max_rate": "20480k", "create_replica_methods": ["pgbackrest"]})
        );
        assert_eq!(with_seed(&map(json!({"ttl": 5})), &seed), map(json!({"ttl": 5})));
    }

    #[test]
    fn slots_are_taken_out() {
        let slots = BTreeSet::from([SlotName::from_name("dc2"), SlotName::from_name("log")]);
        let before = map(json!({"slots": {"dc1": {}, "dc2": null, "log": {"type": "logical"}}}));
        let after = without_slots(&before, &slots);
        assert_eq!(after["slots"], json!({"dc1": {}, "log": {"type": "logical"}}));
        assert_eq!(without_slots(&map(json!({"ttl": 5})), &slots), map(json!({"ttl": 5})));
    }

    #[test]
    fn standby_and_back() {
        let slot = SlotName::from_name("dc1");
        let before =
            map(json!({"ttl": 5, "standby_cluster": {"host": "x", "restore_command": "c"}}));
        let hosts = [("a".to_owned(), 5432), ("b".to_owned(), 5432)];
        let after = as_standby_of(&before, &hosts, &slot, false);
        let chained = as_standby_of(&after, &hosts[..1], &slot, true);
        assert_eq!(chained["standby_cluster"]["cascade"], true);
        assert_eq!(as_standby_of(&chained, &hosts, &slot, false), after);
        assert_eq!(
            after["standby_cluster"],
            json!({"host": "a,b", "port": 5432, "primary_slot_name": "dc1",
                   "restore_command": "c"})
        );
        let other = [("a".to_owned(), 1), ("b".to_owned(), 2)];
        let ports = as_standby_of(&before, &other, &slot, false);
        assert_eq!(ports["standby_cluster"]["port"], "1,2");
        assert_eq!(Value::Object(as_primary(&after)), json!({"ttl": 5}));
    }

    #[test]
    fn template_leaves_out_what_is_the_primarys_own() {
        let primary = map(json!({"ttl": 5, "slots": {"a": {}}, "standby_cluster": {"host": "h"}}));
        assert_eq!(Value::Object(template(&primary)), json!({"ttl": 5}));
    }
}
