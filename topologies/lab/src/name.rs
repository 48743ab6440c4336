//! Names in a topology file: of the federation, of a datacenter, of a node.
//!
//! They become directory names, Patroni scopes, member names and, through the member name, slot
//! names and `application_name`, so all of them keep to what is legal in every one of these places.

use std::fmt;

use node_agent_wire::DcName;
use serde::de::{self, Deserializer, Visitor};
use serde::{Deserialize, Serialize};

/// Longest name in bytes: federation, datacenter and node together must fit into a slot name (63).
pub const MAX_NAME_BYTES: usize = 20;

/// Why a text is no name. The text itself is in the message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("\"{text}\" is no valid {what}: {why} (example: {example})")]
pub struct NameError {
    text: String,
    what: &'static str,
    why: &'static str,
    example: &'static str,
}

fn fault_in(text: &str) -> Option<&'static str> {
    let ok = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if text.is_empty() {
        return Some("it is empty");
    }
    if text.len() > MAX_NAME_BYTES {
        return Some("it is longer than 20 characters");
    }
    if !text.starts_with(|c: char| c.is_ascii_lowercase()) {
        return Some("it must start with a lower-case letter");
    }
    if !text.chars().all(ok) {
        return Some("only lower-case letters, digits and '-' are allowed");
    }
    text.ends_with('-').then_some("it must not end with '-'")
}

macro_rules! name_type {
    ($(#[$doc:meta])* $name:ident, $what:literal, $example:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
        #[serde(transparent)]
        pub struct $name(String);

        impl $name {
            /// Checks the text.
            ///
            /// # Errors
            /// When the text breaks a rule of names; the message says which.
            pub fn new(text: &str) -> Result<Self, NameError> {
                match fault_in(text) {
                    None => Ok(Self(text.to_owned())),
                    Some(why) => Err(NameError {
                        text: text.to_owned(),
                        what: $what,
                        why,
                        example: $example,
                    }),
                }
            }

            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Text;
                impl Visitor<'_> for Text {
                    type Value = $name;
                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        write!(f, concat!("a ", $what, " (example: ", $example, ")"))
                    }
                    // The check happens here and not after, so that the reader adds the line.
                    fn visit_str<E: de::Error>(self, text: &str) -> Result<$name, E> {
                        $name::new(text).map_err(E::custom)
                    }
                }
                deserializer.deserialize_str(Text)
            }
        }
    };
}

name_type!(
    /// Name of the federation; also the name of the lab and the first part of every scope.
    LabName, "name of a lab", "shop"
);
name_type!(
    /// Name of a datacenter as a topology file may write it; a [`DcName`] once it is checked.
    DcKey, "name of a datacenter", "dc1"
);
name_type!(
    /// Name of a node, unique in its datacenter. The member's name is `<dc>-<node>`.
    NodeName, "name of a node", "pg1"
);

impl From<DcKey> for DcName {
    fn from(key: DcKey) -> Self {
        Self::new(key.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked() {
        for good in ["a", "pg1", "dc-west-2", "abcdefghijklmnopqrst"] {
            assert_eq!(DcKey::new(good).unwrap().as_str(), good);
        }
        let bad = [
            ("", "empty"),
            ("1dc", "start with a lower-case letter"),
            ("Dc", "start with a lower-case letter"),
            ("dc_1", "only lower-case"),
            ("dc/..", "only lower-case"),
            ("dc-", "end with '-'"),
            ("abcdefghijklmnopqrstu", "longer than 20"),
        ];
        for (text, why) in bad {
            let message = DcKey::new(text).unwrap_err().to_string();
            assert!(message.contains(why), "{text}: {message}");
            assert!(message.contains("example: dc1"), "{message}");
        }
    }
}
