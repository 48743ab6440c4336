//! One datacenter's etcd: prefix reads and compare-and-sets.
//!
//! One client for each endpoint, because a client with several balances its calls over dead ones
//! too. Every call has a deadline at each endpoint and moves on to the next one. A compare-and-set
//! that is repeated there can't happen twice: it compares the revision.

use crate::concurrent::within;
use etcd_client::{Client, Compare, CompareOp, ConnectOptions, GetOptions, Txn, TxnOp};
use node_agent_wire::keys::{ClusterPath, Leaf};
use node_agent_wire::{DcName, Revision};
use std::cell::Cell;
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::sync::OnceCell;

/// The longest that one endpoint may take for one call.
pub const CALL_LIMIT: Duration = Duration::from_millis(1500);

/// No endpoint answered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what} in the etcd of {dc} failed at every endpoint: {}", attempts.join("; "))]
pub struct DcsError {
    /// The datacenter.
    pub dc: DcName,
    /// What was tried.
    pub what: String,
    /// What each endpoint answered.
    pub attempts: Vec<String>,
}

/// A value with its revision.
pub type Found = (Vec<u8>, Revision);

/// One datacenter's etcd.
pub struct Dcs {
    dc: DcName,
    path: ClusterPath,
    endpoints: Vec<(String, OnceCell<Client>)>,
    preferred: Cell<usize>,
}

impl Dcs {
    /// Does not connect yet.
    #[must_use]
    pub fn new(dc: DcName, path: ClusterPath, endpoints: &[String]) -> Self {
        let endpoints = endpoints.iter().map(|e| (e.clone(), OnceCell::new())).collect();
        Self { dc, path, endpoints, preferred: Cell::new(0) }
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

    async fn call<T>(
        &self,
        what: &str,
        operation: impl AsyncFn(Client) -> Result<T, etcd_client::Error>,
    ) -> Result<T, DcsError> {
        let mut attempts = Vec::new();
        let count = self.endpoints.len();
        for index in (0..count).map(|i| (self.preferred.get() + i) % count) {
            let (address, cell) = &self.endpoints[index];
            let attempt = async {
                let client = cell.get_or_try_init(|| connect(address)).await?;
                operation(client.clone()).await
            };
            match within(CALL_LIMIT, "the call", Box::pin(attempt)).await {
                Ok(Ok(value)) => {
                    self.preferred.set(index);
                    return Ok(value);
                }
                Ok(Err(error)) => attempts.push(format!("{address}: {}", words(&error))),
                Err(late) => attempts.push(format!("{address}: {late}")),
            }
        }
        Err(DcsError { dc: self.dc.clone(), what: what.to_owned(), attempts })
    }

    /// Every key of the cluster, read at one revision.
    ///
    /// # Errors
    /// No endpoint answered.
    pub async fn snapshot(&self) -> Result<BTreeMap<String, Found>, DcsError> {
        let prefix = self.path.prefix();
        let response = self
            .call("reading the cluster", async |mut client: Client| {
                client.get(prefix, Some(GetOptions::new().with_prefix())).await
            })
            .await?;
        Ok(response
            .kvs()
            .iter()
            .map(|kv| {
                let key = String::from_utf8_lossy(kv.key()).into_owned();
                (key, (kv.value().to_vec(), Revision(kv.mod_revision())))
            })
            .collect())
    }

    /// One key, by a linearizable read.
    ///
    /// # Errors
    /// No endpoint answered.
    pub async fn get(&self, leaf: Leaf<'_>) -> Result<Option<Found>, DcsError> {
        let key = self.path.key(leaf);
        let what = format!("reading {key}");
        let response = self
            .call(&what, async |mut client: Client| client.get(key.as_str(), None).await)
            .await?;
        Ok(response.kvs().first().map(|kv| (kv.value().to_vec(), Revision(kv.mod_revision()))))
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
        let key = self.path.key(leaf);
        let what = format!("writing {key}");
        let revision = expected.map_or(0, |r| r.0);
        let response = self
            .call(&what, async |mut client: Client| {
                let compare = Compare::mod_revision(key.as_str(), CompareOp::Equal, revision);
                let put = TxnOp::put(key.as_str(), value, None);
                client.txn(Txn::new().when([compare]).and_then([put])).await
            })
            .await?;
        Ok(response.succeeded())
    }
}

async fn connect(address: &str) -> Result<Client, etcd_client::Error> {
    let options = ConnectOptions::new()
        .with_connect_timeout(CALL_LIMIT)
        .with_keep_alive(Duration::from_secs(2), Duration::from_secs(2))
        .with_require_leader(true)
        .with_auto_token_refresh(true);
    Client::connect([address], Some(options)).await
}

/// The innermost cause: the outer layers only say "transport error".
fn words(error: &etcd_client::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    if let etcd_client::Error::GRpcStatus(status) = error {
        cause = status;
    }
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}
