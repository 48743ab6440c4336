//! Permanent slots, and slots that are left alone.

use crate::ids::SlotName;
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// Which kind of cluster a physical slot belongs to (contract C.2, `cluster_type`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClusterKind {
    /// Without `standby_cluster`.
    Primary,
    /// With it.
    Standby,
}

/// A permanent slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PermanentSlot {
    /// A physical one.
    Physical {
        /// Only while the cluster is of this kind; always when absent.
        only: Option<ClusterKind>,
    },
    /// A logical one.
    Logical {
        /// Its database.
        database: String,
        /// Its output plugin.
        plugin: String,
    },
}

/// Slots that the agent leaves alone: every attribute that is given must match.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IgnoredSlot {
    /// The slot's name.
    pub name: Option<String>,
    /// Its database.
    pub database: Option<String>,
    /// Its output plugin.
    pub plugin: Option<String>,
    /// `physical` or `logical`.
    pub kind: Option<String>,
}

pub(super) fn read_permanent(
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
            (_, _, _) => PermanentSlot::Physical {
                only: match text("cluster_type").as_deref() {
                    Some("primary") => Some(ClusterKind::Primary),
                    Some("standby") => Some(ClusterKind::Standby),
                    Some(_) | None => None,
                },
            },
        };
        slots.insert(slot, kind);
    }
    slots
}

/// Entries that name no attribute match nothing.
pub(super) fn read_ignored(value: Option<&Value>) -> Vec<IgnoredSlot> {
    let entry = |spec: &Value| {
        let text = |key: &str| spec.get(key).and_then(Value::as_str).map(ToOwned::to_owned);
        IgnoredSlot {
            name: text("name"),
            database: text("database"),
            plugin: text("plugin"),
            kind: text("type"),
        }
    };
    let entries = value.and_then(Value::as_array).into_iter().flatten().map(entry);
    entries.filter(|slot| *slot != IgnoredSlot::default()).collect()
}
