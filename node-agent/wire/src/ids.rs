//! Names and numbers that must not be mixed up, each as a type of its own.

use serde::{Deserialize, Serialize};
use std::fmt;

macro_rules! name_type {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(
            Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
        )]
        #[serde(transparent)]
        pub struct $name(String);

        impl $name {
            /// Takes the text as it is; where it comes from a user, the reader has checked it.
            pub fn new(text: impl Into<String>) -> Self {
                Self(text.into())
            }

            /// The text.
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

        impl From<&str> for $name {
            fn from(text: &str) -> Self {
                Self(text.to_owned())
            }
        }
    };
}

name_type! {
    /// The name of a datacenter inside its federation.
    DcName
}
name_type! {
    /// The name of a cluster member: Patroni's `name`, and the `application_name` of its
    /// replication connection.
    MemberName
}
name_type! {
    /// The identifier of one operation of the federator.
    OperationId
}
name_type! {
    /// `pg_control_system().system_identifier` as decimal text (contract A.4, `initialize`).
    SystemId
}

/// Grows by one each time the primary datacenter changes. One epoch, one primary datacenter.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Epoch(pub u64);

impl Epoch {
    /// The epoch after this one.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A revision of the DCS: etcd's `mod_revision` of a key, or of the store.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Revision(pub i64);

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The name of a replication slot: at most 63 of `[a-z0-9_]` (PostgreSQL manual, section 26.2.6.1).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SlotName(String);

impl SlotName {
    /// The slot name that a member or datacenter name gives (contract A.6): lower case, `-` and
    /// `.` to `_`, any other character to `u` and its four-digit decimal code point, cut to 63.
    #[must_use]
    pub fn from_name(name: &str) -> Self {
        let mut slot = String::with_capacity(name.len());
        for c in name.to_lowercase().chars() {
            match c {
                'a'..='z' | '0'..='9' | '_' => slot.push(c),
                '-' | '.' => slot.push('_'),
                other => slot.push_str(&format!("u{:04}", u32::from(other))),
            }
        }
        slot.truncate(63);
        Self(slot)
    }

    /// A name that the server or a user gave; `None` when it is not a valid slot name.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let valid = !text.is_empty()
            && text.len() <= 63
            && text.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'_'));
        valid.then(|| Self(text.to_owned()))
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SlotName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slot_names_follow_the_contract() {
        for (name, slot) in [
            ("pg1", "pg1"),
            ("PG-1.dc", "pg_1_dc"),
            ("a b", "au0032b"),
            ("ä", "u0228"),
            (&"x".repeat(80), &"x".repeat(63)),
        ] {
            assert_eq!(SlotName::from_name(name).as_str(), slot);
        }
        assert_eq!(SlotName::parse("Dc2"), None);
        assert_eq!(SlotName::parse(""), None);
        assert!(SlotName::parse("dc2").is_some());
    }
}
