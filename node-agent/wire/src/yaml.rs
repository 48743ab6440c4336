//! The one place that knows the YAML library.
//!
//! Patroni reads YAML 1.1 and our parser YAML 1.2: booleans go through [`truth`], which knows
//! Patroni's word list, and merge keys (`<<`) are applied. A duplicate key is an error here and
//! "last wins" there.

use serde_json::Value;

/// The largest document that is read: no configuration is larger, and a parser must have a limit.
pub const DOCUMENT_BYTES_MAX: usize = 1024 * 1024;

/// A YAML text that could not be read.
#[derive(Debug, thiserror::Error)]
pub enum YamlError {
    /// The text is not YAML.
    #[error("not valid YAML{}: {message}", place(*.line, *.column))]
    Syntax {
        /// What the parser says.
        message: String,
        /// The line, from 1, where known.
        line: Option<usize>,
        /// The column, from 1, where known.
        column: Option<usize>,
    },
    /// A mapping key is not text, a number or a boolean, or a value has no JSON form.
    #[error("not usable as configuration: {0}")]
    Shape(String),
    /// Larger than [`DOCUMENT_BYTES_MAX`].
    #[error("{bytes} bytes are more than the {DOCUMENT_BYTES_MAX} that a configuration may have")]
    TooLarge {
        /// The size of the document in bytes.
        bytes: usize,
    },
}

fn place(line: Option<usize>, column: Option<usize>) -> String {
    match (line, column) {
        (Some(line), Some(column)) => format!(" at line {line}, column {column}"),
        (Some(line), None) => format!(" at line {line}"),
        (None, _) => String::new(),
    }
}

/// Reads a YAML document into a JSON value, merge keys applied.
///
/// # Errors
/// When the text is too large, is not YAML, or has a mapping key that JSON can't hold.
pub fn parse(text: &str) -> Result<Value, YamlError> {
    if text.len() > DOCUMENT_BYTES_MAX {
        return Err(YamlError::TooLarge { bytes: text.len() });
    }
    let mut value: serde_yaml::Value = serde_yaml::from_str(text).map_err(|e| {
        let at = e.location();
        YamlError::Syntax {
            message: e.to_string(),
            line: at.as_ref().map(serde_yaml::Location::line),
            column: at.as_ref().map(serde_yaml::Location::column),
        }
    })?;
    value.apply_merge().map_err(|e| YamlError::Shape(e.to_string()))?;
    to_json(value)
}

fn to_json(value: serde_yaml::Value) -> Result<Value, YamlError> {
    use serde_yaml::Value as Y;
    Ok(match value {
        Y::Null => Value::Null,
        Y::Bool(b) => Value::Bool(b),
        Y::Number(n) => serde_json::to_value(n).map_err(|e| YamlError::Shape(e.to_string()))?,
        Y::String(s) => Value::String(s),
        Y::Sequence(items) => {
            Value::Array(items.into_iter().map(to_json).collect::<Result<_, _>>()?)
        }
        Y::Mapping(entries) => {
            let mut object = serde_json::Map::new();
            for (key, entry) in entries {
                object.insert(key_text(&key)?, to_json(entry)?);
            }
            Value::Object(object)
        }
        Y::Tagged(tagged) => to_json(tagged.value)?,
    })
}

fn key_text(key: &serde_yaml::Value) -> Result<String, YamlError> {
    use serde_yaml::Value as Y;
    match key {
        Y::String(s) => Ok(s.clone()),
        Y::Number(n) => Ok(n.to_string()),
        Y::Bool(b) => Ok(b.to_string()),
        Y::Null | Y::Sequence(_) | Y::Mapping(_) | Y::Tagged(_) => {
            Err(YamlError::Shape(format!("a mapping key must be text, found {key:?}")))
        }
    }
}

/// Writes a JSON value as YAML.
///
/// # Errors
/// When the value can't be written; plain JSON values always can.
pub fn to_text(value: &Value) -> Result<String, YamlError> {
    serde_yaml::to_string(value).map_err(|e| YamlError::Shape(e.to_string()))
}

/// A boolean as Patroni understands it: YAML 1.1 words and numbers count.
#[must_use]
pub fn truth(value: &Value) -> Option<bool> {
    match value {
        Value::Bool(b) => Some(*b),
        Value::Number(n) => match n.as_i64() {
            Some(1) => Some(true),
            Some(0) => Some(false),
            Some(_) | None => None,
        },
        Value::String(s) => match s.to_ascii_lowercase().as_str() {
            "on" | "true" | "yes" | "1" => Some(true),
            "off" | "false" | "no" | "0" => Some(false),
            _ => None,
        },
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn merges_and_keeps_shapes() {
        let value = parse("a: &b {x: 1, y: two}\nc:\n  <<: *b\n  x: 3\n5: on").expect("yaml");
        assert_eq!(value, json!({"a": {"x": 1, "y": "two"}, "c": {"x": 3, "y": "two"}, "5": "on"}));
    }

    #[test]
    fn refuses_with_place() {
        let error = parse("a: 1\nb: [1, 2").expect_err("unclosed").to_string();
        assert!(error.contains("line"), "{error}");
        assert!(parse(&"x".repeat(DOCUMENT_BYTES_MAX + 1)).is_err());
        assert!(parse("? [a]\n: 1").is_err());
    }

    #[test]
    fn truth_words() {
        for (value, expected) in [
            (json!(true), Some(true)),
            (json!("on"), Some(true)),
            (json!("No"), Some(false)),
            (json!(0), Some(false)),
            (json!(2), None),
            (json!("maybe"), None),
            (json!(null), None),
        ] {
            assert_eq!(truth(&value), expected, "{value}");
        }
    }
}
