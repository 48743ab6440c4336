//! The distributed configuration store (DCS): one trait, etcd behind it. The agent and the
//! federator reach every datacenter's store through this crate.
//!
//! What can't be taken back is decided from a linearizable read of the whole prefix, and every
//! write that others could race is a compare-and-set.

pub mod etcd;

use node_agent_wire::Revision;
use std::collections::BTreeMap;
use std::pin::Pin;
use std::time::Duration;

/// A boxed future: the trait is used as an object.
pub type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T, DcsError>> + Send + 'a>>;

/// The DCS did not do what was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DcsError {
    /// No endpoint answered in time.
    #[error("{what}: no endpoint answered within {} ms: {}", waited.as_millis(), last.join("; "))]
    Unavailable {
        /// What was tried.
        what: &'static str,
        /// How long it was tried.
        waited: Duration,
        /// What happened last, an endpoint each.
        last: Vec<String>,
    },
    /// The lease is gone.
    #[error("the lease {0:x} is gone")]
    LeaseGone(i64),
    /// The DCS refused.
    #[error("{what} refused: {why}")]
    Refused {
        /// What was tried.
        what: &'static str,
        /// Its words.
        why: String,
    },
}

/// One key as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RawKey {
    /// The value.
    pub value: Vec<u8>,
    /// `mod_revision`.
    pub revision: Revision,
    /// The lease it hangs on; 0 for none.
    pub lease: i64,
}

/// The keys under one prefix at one revision.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RawCluster {
    /// The store's revision at the read.
    pub revision: Revision,
    /// By full name.
    pub keys: BTreeMap<String, RawKey>,
}

impl RawCluster {
    /// `mod_revision` of a key; 0 when it is absent.
    #[must_use]
    pub fn revision_of(&self, key: &str) -> Revision {
        self.keys.get(key).map_or(Revision(0), |raw| raw.revision)
    }
}

/// A condition of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Compare {
    /// The key does not exist.
    Absent(String),
    /// The key is at this `mod_revision`; 0 means absent.
    AtRevision(String, Revision),
    /// The key has this value.
    ValueIs(String, Vec<u8>),
}

/// A write of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Write {
    /// Put, on a lease when it is not 0.
    Put {
        /// Key.
        key: String,
        /// Value.
        value: Vec<u8>,
        /// Lease or 0.
        lease: i64,
    },
    /// Delete.
    Delete(String),
}

impl Write {
    /// A put without a lease.
    #[must_use]
    pub fn put(key: String, value: impl Into<Vec<u8>>) -> Self {
        Self::Put { key, value: value.into(), lease: 0 }
    }
}

/// What a watch saw.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The full name of the key.
    pub key: String,
    /// The new value; `None` when it was deleted.
    pub value: Option<Vec<u8>>,
    /// The key did not exist before.
    pub created: bool,
    /// The store's revision of the change.
    pub revision: Revision,
    /// The lease it hangs on; 0 for none.
    pub lease: i64,
}

/// A stream of changes; ends with an error when the watch is lost.
pub trait Changes: Send {
    /// The next batch.
    fn next(&mut self) -> Answer<'_, Vec<Change>>;
}

/// The store. Every call has a deadline, after which the answer is an error.
pub trait Dcs: Send + Sync {
    /// Reads every key that begins with the prefix, linearizably.
    fn read<'a>(&'a self, prefix: &'a str, deadline: Duration) -> Answer<'a, RawCluster>;
    /// Writes if every condition holds; `None` when one does not, otherwise the new revision.
    fn write<'a>(
        &'a self,
        conditions: &'a [Compare],
        writes: &'a [Write],
        deadline: Duration,
    ) -> Answer<'a, Option<Revision>>;
    /// A new lease.
    fn grant(&self, ttl: Duration, deadline: Duration) -> Answer<'_, i64>;
    /// Renews a lease.
    fn keep_alive(&self, lease: i64, deadline: Duration) -> Answer<'_, ()>;
    /// Ends a lease with every key on it.
    fn revoke(&self, lease: i64, deadline: Duration) -> Answer<'_, ()>;
    /// Changes under the prefix after this revision.
    fn watch<'a>(
        &'a self,
        prefix: &'a str,
        after: Revision,
        deadline: Duration,
    ) -> Answer<'a, Box<dyn Changes>>;
    /// The server's version, for warnings about old ones.
    fn version(&self, deadline: Duration) -> Answer<'_, String>;
}
