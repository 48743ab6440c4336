//! Changes of a datacenter's dynamic configuration, as pure functions on the `config` key.

use node_agent_wire::SlotName;
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

/// As a standby cluster of the given hosts. Other keys of an existing section stay.
#[must_use]
pub fn as_standby_of(
    config: &Map<String, Value>,
    hosts: &[(String, u16)],
    own_slot: &SlotName,
) -> Map<String, Value> {
    let mut next = config.clone();
    let mut section = match next.get("standby_cluster") {
        Some(Value::Object(there)) => there.clone(),
        Some(_) | None => Map::new(),
    };
    let names: Vec<&str> = hosts.iter().map(|(host, _)| host.as_str()).collect();
    section.insert("host".into(), names.join(",").into());
    section.insert("port".into(), ports(hosts));
    section.insert("primary_slot_name".into(), own_slot.to_string().into());
    next.insert("standby_cluster".into(), Value::Object(section));
    next
}

/// One number when all are equal, else a list with commas between.
fn ports(hosts: &[(String, u16)]) -> Value {
    let distinct: BTreeSet<u16> = hosts.iter().map(|(_, port)| *port).collect();
    if let (1, Some(port)) = (distinct.len(), distinct.first()) {
        return Value::from(*port);
    }
    let list: Vec<String> = hosts.iter().map(|(_, port)| port.to_string()).collect();
    Value::from(list.join(","))
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
    fn standby_and_back() {
        let slot = SlotName::from_name("dc1");
        let before =
            map(json!({"ttl": 5, "standby_cluster": {"host": "x", "restore_command": "c"}}));
        let hosts = [("a".to_owned(), 5432), ("b".to_owned(), 5432)];
        let after = as_standby_of(&before, &hosts, &slot);
        assert_eq!(
            after["standby_cluster"],
            json!({"host": "a,b", "port": 5432, "primary_slot_name": "dc1",
                   "restore_command": "c"})
        );
        let other = [("a".to_owned(), 1), ("b".to_owned(), 2)];
        assert_eq!(as_standby_of(&before, &other, &slot)["standby_cluster"]["port"], "1,2");
        assert_eq!(Value::Object(as_primary(&after)), json!({"ttl": 5}));
    }

    #[test]
    fn template_leaves_out_what_is_the_primarys_own() {
        let primary = map(json!({"ttl": 5, "slots": {"a": {}}, "standby_cluster": {"host": "h"}}));
        assert_eq!(Value::Object(template(&primary)), json!({"ttl": 5}));
    }
}
