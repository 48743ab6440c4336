//! The patch algebra of the dynamic configuration (contract A.4, `config`).

use serde_json::{Map, Value};

/// Lays `patch` over `target`: `null` deletes a key, an object merges into an existing object,
/// anything else replaces when its text differs. Returns whether something changed.
///
/// A `null` inside an object that did not exist before is stored as it is: clients depend on it
/// (contract, trap 1).
pub fn apply(target: &mut Map<String, Value>, patch: &Map<String, Value>) -> bool {
    let mut changed = false;
    for (key, new) in patch {
        if new.is_null() {
            changed |= target.remove(key).is_some();
            continue;
        }
        match (target.get_mut(key), new) {
            (Some(Value::Object(old)), Value::Object(new)) => changed |= apply(old, new),
            (Some(old), _) if same_text(old, new) => {}
            _ => {
                target.insert(key.clone(), new.clone());
                changed = true;
            }
        }
    }
    changed
}

/// Equal as Patroni compares (contract A.7): scalars by their text, so `"20"` equals `20`.
fn same_text(a: &Value, b: &Value) -> bool {
    text(a) == text(b)
}

fn text(value: &Value) -> String {
    match value {
        Value::String(s) => s.clone(),
        Value::Bool(true) => "True".to_owned(),
        Value::Bool(false) => "False".to_owned(),
        Value::Null | Value::Number(_) | Value::Array(_) | Value::Object(_) => value.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn map(value: &Value) -> Map<String, Value> {
        value.as_object().cloned().expect("object")
    }

    #[test]
    fn table() {
        for (before, patch, after, changed) in [
            (json!({"ttl": 20}), json!({"ttl": "20"}), json!({"ttl": 20}), false),
            (json!({"ttl": 20}), json!({"ttl": 30}), json!({"ttl": 30}), true),
            (
                json!({"a": {"b": 1, "c": 2}}),
                json!({"a": {"b": null}}),
                json!({"a": {"c": 2}}),
                true,
            ),
            (json!({}), json!({"slots": {"s": null}}), json!({"slots": {"s": null}}), true),
            (json!({"a": 1}), json!({"b": null}), json!({"a": 1}), false),
            (json!({"a": 1}), json!({"a": {"b": 2}}), json!({"a": {"b": 2}}), true),
            (json!({"p": true}), json!({"p": "True"}), json!({"p": true}), false),
        ] {
            let mut target = map(&before);
            assert_eq!(apply(&mut target, &map(&patch)), changed, "{before} + {patch}");
            assert_eq!(Value::Object(target), after, "{before} + {patch}");
        }
    }
}
