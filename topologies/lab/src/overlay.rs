//! Configuration that a topology lays over what the lab writes: any key that the agents know, in
//! Patroni's patch algebra (an absent key stays, `null` removes).

use node_agent_wire::patch;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// A patch of a configuration. Texts may hold `{name}` (the host's name in the lab), `{address}`
/// and `{dir}` (the host's directory) where it is for an agent's file.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Overlay(pub Map<String, Value>);

/// What the places in a text stand for.
#[derive(Debug, Clone)]
pub struct Places {
    /// For `{name}`.
    pub name: String,
    /// For `{address}`.
    pub address: String,
    /// For `{dir}`.
    pub dir: String,
}

impl Overlay {
    /// Lays it over `target`.
    pub fn apply(&self, target: &mut Map<String, Value>) {
        patch::apply(target, &self.0);
    }

    /// The same with every place filled in.
    #[must_use]
    pub fn at(&self, places: &Places) -> Self {
        let filled = self.0.iter().map(|(key, value)| (key.clone(), fill(value, places)));
        Self(filled.collect())
    }
}

fn fill(value: &Value, places: &Places) -> Value {
    match value {
        Value::String(text) => Value::String(
            text.replace("{name}", &places.name)
                .replace("{address}", &places.address)
                .replace("{dir}", &places.dir),
        ),
        Value::Array(items) => items.iter().map(|item| fill(item, places)).collect(),
        Value::Object(object) => {
            object.iter().map(|(key, value)| (key.clone(), fill(value, places))).collect()
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => value.clone(),
    }
}
