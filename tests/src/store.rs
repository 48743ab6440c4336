//! One datacenter's etcd, seen and changed past all agents.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use etcd_client::{Client, ConnectOptions, GetOptions, WatchOptions};
use lab::Lab;
use lab::render::{NAMESPACE, scope};
use node_agent_wire::DcName;
use node_agent_wire::federation::FederationRecord;
use node_agent_wire::history::{TimelineHistory, from_rows};
use node_agent_wire::keys::{ClusterPath, Leaf};
use tokio::task::JoinHandle;

const LIMIT: Duration = Duration::from_secs(5);

/// The keys of one cluster.
pub struct Store {
    client: Client,
    path: ClusterPath,
}

/// A record of changes. Dropped, it stops.
pub struct Changes {
    seen: Arc<Mutex<Vec<(String, String)>>>,
    task: JoinHandle<()>,
}

impl Changes {
    /// Key below the cluster's prefix and value, in the order of the store; a deletion has no
    /// value.
    #[must_use]
    pub fn so_far(&self) -> Vec<(String, String)> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Changes {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A key's value and the revision at which it was last written.
pub type Found = (String, i64);

impl Store {
    /// The store of a datacenter of a lab.
    ///
    /// # Panics
    /// When it does not answer.
    pub async fn of(lab: &Lab, dc: &str) -> Self {
        let dc = DcName::new(dc);
        let endpoints = lab.layout.etcd_endpoints(&dc);
        let endpoints: Vec<String> = endpoints.iter().map(ToString::to_string).collect();
        let options = ConnectOptions::new().with_connect_timeout(LIMIT).with_timeout(LIMIT);
        let client = Client::connect(&endpoints, Some(options)).await;
        let client = client.unwrap_or_else(|error| panic!("etcd of {dc}: {error}"));
        Self { client, path: ClusterPath::new(NAMESPACE, &scope(&lab.topology, &dc)) }
    }

    /// Every key of the cluster.
    ///
    /// # Panics
    /// When etcd does not answer.
    pub async fn dump(&self) -> BTreeMap<String, Found> {
        let prefix = GetOptions::new().with_prefix();
        let response = self.client.clone().get(self.path.prefix(), Some(prefix)).await;
        let response = response.unwrap_or_else(|e| panic!("reading {}: {e}", self.path.prefix()));
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let found = response.kvs().iter();
        found.map(|kv| (text(kv.key()), (text(kv.value()), kv.mod_revision()))).collect()
    }

    /// The keys that the federator can write, with their revisions; the others are beats of the
    /// agents.
    ///
    /// # Panics
    /// When etcd does not answer.
    pub async fn decided_keys(&self) -> BTreeMap<String, Found> {
        let mut keys = self.dump().await;
        let beats = |key: &str| {
            key.contains("/members/")
                || ["/leader", "/position", "/status"].iter().any(|name| key.ends_with(name))
        };
        keys.retain(|key, _| !beats(key));
        keys
    }

    /// One key; `None` when it is not there.
    ///
    /// # Panics
    /// When etcd does not answer.
    pub async fn get(&self, leaf: Leaf<'_>) -> Option<Found> {
        let key = self.path.key(leaf);
        let response = self.client.clone().get(key.as_str(), None).await;
        let response = response.unwrap_or_else(|error| panic!("reading {key}: {error}"));
        let kv = response.kvs().first()?;
        Some((String::from_utf8_lossy(kv.value()).into_owned(), kv.mod_revision()))
    }

    /// Writes a key, as a person with `etcdctl put` would.
    ///
    /// # Panics
    /// When etcd does not answer.
    pub async fn put(&self, leaf: Leaf<'_>, value: &str) {
        let key = self.path.key(leaf);
        let written = self.client.clone().put(key.as_str(), value, None).await;
        assert!(written.is_ok(), "writing {key}: {written:?}");
    }

    /// Begins to record every change of the cluster's keys.
    ///
    /// # Panics
    /// When etcd does not answer.
    pub async fn changes(&self) -> Changes {
        let prefix = WatchOptions::new().with_prefix();
        let stream = self.client.clone().watch(self.path.prefix(), Some(prefix)).await;
        let mut stream = stream.unwrap_or_else(|error| panic!("watching: {error}"));
        let seen: Arc<Mutex<Vec<(String, String)>>> = Arc::default();
        let kept = seen.clone();
        let begins = self.path.prefix().len();
        let task = tokio::spawn(async move {
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            while let Ok(Some(answer)) = stream.message().await {
                let pairs = answer.events().iter().filter_map(|event| event.kv());
                let pairs = pairs.map(|kv| (text(&kv.key()[begins..]), text(kv.value())));
                kept.lock().unwrap_or_else(PoisonError::into_inner).extend(pairs);
            }
        });
        Changes { seen, task }
    }

    /// Removes every key of the cluster.
    ///
    /// # Panics
    /// When etcd does not answer.
    pub async fn wipe(&self) {
        let prefix = etcd_client::DeleteOptions::new().with_prefix();
        let deleted = self.client.clone().delete(self.path.prefix(), Some(prefix)).await;
        assert!(deleted.is_ok(), "deleting {}: {deleted:?}", self.path.prefix());
    }

    /// The dynamic configuration.
    ///
    /// # Panics
    /// When it is not there or no JSON.
    pub async fn config(&self) -> serde_json::Value {
        let (text, _) = self.get(Leaf::Config).await.unwrap_or_else(|| panic!("no key config"));
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error} in {text}"))
    }

    /// The federation record.
    ///
    /// # Panics
    /// When it is not there or garbled.
    pub async fn record(&self) -> FederationRecord {
        let found = self.get(Leaf::Federation).await;
        let (text, _) = found.unwrap_or_else(|| panic!("no key federation"));
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error} in {text}"))
    }

    /// The cluster's timelines, once there was a promotion.
    ///
    /// # Panics
    /// When the key is garbled.
    pub async fn history(&self) -> Option<TimelineHistory> {
        let (text, _) = self.get(Leaf::History).await?;
        let rows = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error} in {text}"));
        Some(from_rows(&rows).unwrap_or_else(|| panic!("no timelines: {text}")))
    }
}
