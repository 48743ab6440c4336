//! One datacenter's store: prefix reads and compare-and-sets, with the datacenter's name in every
//! error.

use node_agent_dcs::etcd::{Etcd, Login};
use node_agent_dcs::{Compare, Dcs as _, Write};
use node_agent_wire::keys::{ClusterPath, Leaf};
use node_agent_wire::{DcName, Revision};
use std::collections::BTreeMap;
use std::time::Duration;

/// The longest that one endpoint may take for one call.
const CALL_LIMIT: Duration = Duration::from_millis(1500);

/// A datacenter's etcd did not do what was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DcsError {
    /// It did not answer, or refused; a write may have happened all the same.
    #[error("the etcd of {dc}: {why}")]
    Failed {
        /// The datacenter.
        dc: DcName,
        /// What went wrong.
        why: node_agent_dcs::DcsError,
    },
    /// The settings have no such datacenter.
    #[error("{0} is not among the datacenters of the settings")]
    NotNamed(DcName),
}

/// A value with its revision.
pub type Found = (Vec<u8>, Revision);

/// One datacenter's etcd.
pub struct Dcs {
    dc: DcName,
    path: ClusterPath,
    etcd: Etcd,
    /// Of one call: every endpoint may take [`CALL_LIMIT`].
    deadline: Duration,
}

impl Dcs {
    /// Does not connect yet.
    #[must_use]
    pub fn new(dc: DcName, path: ClusterPath, endpoints: &[String]) -> Self {
        let count = u32::try_from(endpoints.len()).unwrap_or(u32::MAX);
        let etcd = Etcd::new(endpoints, Login::default()).in_one_round();
        Self { dc, path, etcd, deadline: CALL_LIMIT.saturating_mul(count) }
    }

    /// The datacenter.
    #[must_use]
    pub fn dc(&self) -> &DcName {
        &self.dc
    }

    /// Where its cluster lives.
    #[must_use]
    pub fn path(&self) -> &ClusterPath {
        &self.path
    }

    fn named<T>(&self, answer: Result<T, node_agent_dcs::DcsError>) -> Result<T, DcsError> {
        answer.map_err(|why| DcsError::Failed { dc: self.dc.clone(), why })
    }

    /// Every key of the cluster, read at one revision.
    ///
    /// # Errors
    /// No endpoint answered.
    pub async fn snapshot(&self) -> Result<BTreeMap<String, Found>, DcsError> {
        let found = self.named(self.etcd.read(self.path.prefix(), self.deadline).await)?;
        let keys = found.keys.into_iter();
        Ok(keys.map(|(key, raw)| (key, (raw.value, raw.revision))).collect())
    }

    /// One key, by a linearizable read.
    ///
    /// # Errors
    /// No endpoint answered.
    pub async fn get(&self, leaf: Leaf<'_>) -> Result<Option<Found>, DcsError> {
        let key = self.path.key(leaf);
        let found = self.named(self.etcd.get(&key, self.deadline).await)?;
        Ok(found.map(|raw| (raw.value, raw.revision)))
    }

    /// Writes a key if it is still at `expected` (`None`: if it does not exist). Whether it did.
    ///
    /// # Errors
    /// No endpoint answered; the write may have happened all the same.
    pub async fn put_if(
        &self,
        leaf: Leaf<'_>,
        expected: Option<Revision>,
        value: &str,
    ) -> Result<bool, DcsError> {
        self.put_while(leaf, expected, value, None).await
    }

    /// The same, and another key must be at its revision, too.
    ///
    /// # Errors
    /// No endpoint answered; the write may have happened all the same.
    pub async fn put_while(
        &self,
        leaf: Leaf<'_>,
        expected: Option<Revision>,
        value: &str,
        also: Option<(Leaf<'_>, Revision)>,
    ) -> Result<bool, DcsError> {
        let key = self.path.key(leaf);
        let mut unchanged = vec![Compare::AtRevision(key.clone(), expected.unwrap_or_default())];
        unchanged.extend(also.map(|(leaf, at)| Compare::AtRevision(self.path.key(leaf), at)));
        let put = [Write::put(key, value)];
        let written = self.etcd.write(&unchanged, &put, self.deadline).await;
        Ok(self.named(written)?.is_some())
    }

    /// Writes one key and deletes another, if both are still at their revisions (`None`: if it does
    /// not exist). Whether it did.
    ///
    /// # Errors
    /// No endpoint answered; both may have happened all the same.
    pub async fn put_and_delete(
        &self,
        (put, at, value): (Leaf<'_>, Option<Revision>, &str),
        (gone, gone_at): (Leaf<'_>, Revision),
    ) -> Result<bool, DcsError> {
        let (put, gone) = (self.path.key(put), self.path.key(gone));
        let unchanged = [
            Compare::AtRevision(put.clone(), at.unwrap_or_default()),
            Compare::AtRevision(gone.clone(), gone_at),
        ];
        let writes = [Write::put(put, value), Write::Delete(gone)];
        let written = self.etcd.write(&unchanged, &writes, self.deadline).await;
        Ok(self.named(written)?.is_some())
    }
}
