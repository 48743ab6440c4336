//! etcd v3. One client an endpoint, and our own choice between them: a client with several
//! endpoints fails or hangs a share of its calls when one of them is dead or frozen.

use super::{Answer, Change, Changes, Compare, Dcs, DcsError, RawCluster, RawKey, Write};
use etcd_client::{
    Client, Compare as EtcdCompare, CompareOp, ConnectOptions, Error as EtcdError, EventType,
    GetOptions, KeyValue, PutOptions, Txn, TxnOp, WatchOptions, WatchStream,
};
use node_agent_wire::Revision;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::Mutex;

/// HTTP/2 keep-alive: a dead peer is noticed within the sum of both.
const KEEP_ALIVE: (Duration, Duration) = (Duration::from_secs(3), Duration::from_secs(2));
/// The pause between two rounds over the endpoints.
const ROUND_PAUSE: Duration = Duration::from_millis(50);
/// The shortest time that one endpoint is given.
const ATTEMPT_MIN: Duration = Duration::from_millis(250);

/// How to log in, when etcd asks for it.
#[derive(Clone, Default)]
pub struct Login {
    /// The user; none when empty.
    pub username: String,
    /// Their password. Never printed.
    pub password: String,
}

struct Endpoint {
    address: String,
    client: Mutex<Option<Client>>,
}

/// The DCS of one datacenter.
pub struct Etcd {
    endpoints: Vec<Endpoint>,
    login: Login,
    current: AtomicUsize,
    one_round: bool,
}

impl Etcd {
    /// For these endpoints (`host:port` or URL). Connects when it is first used.
    #[must_use]
    pub fn new(endpoints: &[String], login: Login) -> Self {
        let endpoints = endpoints
            .iter()
            .map(|e| Endpoint { address: e.clone(), client: Mutex::new(None) })
            .collect();
        Self { endpoints, login, current: AtomicUsize::new(0), one_round: false }
    }

    /// Asks each endpoint once a call, in place of round after round until the deadline: for a
    /// command, which tells somebody at once that nothing answers.
    #[must_use]
    pub fn in_one_round(mut self) -> Self {
        self.one_round = true;
        self
    }

    async fn client(&self, endpoint: &Endpoint) -> Result<Client, EtcdError> {
        let mut slot = endpoint.client.lock().await;
        if let Some(client) = slot.as_ref() {
            return Ok(client.clone());
        }
        let mut options = ConnectOptions::new()
            .with_connect_timeout(Duration::from_secs(2))
            .with_keep_alive(KEEP_ALIVE.0, KEEP_ALIVE.1)
            .with_keep_alive_while_idle(true)
            .with_require_leader(true);
        if !self.login.username.is_empty() {
            options = options
                .with_user(&self.login.username, &self.login.password)
                .with_auto_token_refresh(true);
        }
        let client = Client::connect([endpoint.address.as_str()], Some(options)).await?;
        *slot = Some(client.clone());
        Ok(client)
    }

    /// One key, by a linearizable read.
    ///
    /// # Errors
    /// As those of [`Dcs`].
    pub async fn get(&self, key: &str, deadline: Duration) -> Result<Option<RawKey>, DcsError> {
        self.call("reading a key", deadline, move |mut client| {
            let key = key.to_owned();
            Box::pin(async move { Ok(client.get(key, None).await?.kvs().first().map(raw)) })
        })
        .await
    }

    /// Runs `call` on the endpoint that answered last, then on the others, round after round,
    /// until one answers or the deadline passes.
    async fn call<T, F>(
        &self,
        what: &'static str,
        deadline: Duration,
        mut call: F,
    ) -> Result<T, DcsError>
    where
        F: FnMut(Client) -> Pin<Box<dyn Future<Output = Result<T, EtcdError>> + Send>> + Send,
    {
        let begun = Instant::now();
        let count = self.endpoints.len().max(1);
        let share = (deadline / u32::try_from(count).unwrap_or(1)).max(ATTEMPT_MIN);
        let mut last = vec!["no endpoint is configured".to_owned()];
        while !self.endpoints.is_empty() {
            let start = self.current.load(Ordering::Relaxed);
            let mut failed = Vec::new();
            for index in (start..start + count).map(|index| index % count) {
                let left = deadline.saturating_sub(begun.elapsed());
                if left.is_zero() {
                    break;
                }
                let endpoint = &self.endpoints[index];
                let attempt = async {
                    let client = self.client(endpoint).await?;
                    call(client).await
                };
                match tokio::time::timeout(share.min(left), attempt).await {
                    Ok(Ok(value)) => {
                        self.current.store(index, Ordering::Relaxed);
                        return Ok(value);
                    }
                    Ok(Err(error)) => {
                        if let Some(refused) = refusal(what, &error) {
                            self.current.store(index, Ordering::Relaxed);
                            return Err(refused);
                        }
                        failed.push(format!("{}: {}", endpoint.address, cause(&error)));
                        *endpoint.client.lock().await = None;
                    }
                    Err(_) => failed.push(format!("{}: no answer", endpoint.address)),
                }
            }
            if !failed.is_empty() {
                last = failed;
            }
            if self.one_round || begun.elapsed() + ROUND_PAUSE >= deadline {
                break;
            }
            tokio::time::sleep(ROUND_PAUSE).await;
        }
        Err(DcsError::Unavailable { what, waited: begun.elapsed(), last })
    }
}

/// The innermost cause: the outer layers only say "transport error".
#[allow(clippy::wildcard_enum_match_arm, reason = "an enum of another crate")]
fn cause(error: &EtcdError) -> String {
    let mut cause: &dyn std::error::Error = match error {
        EtcdError::GRpcStatus(status) => status,
        other => other,
    };
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}

/// An answer that another endpoint would give too.
#[allow(clippy::wildcard_enum_match_arm, reason = "an enum of another crate")]
fn refusal(what: &'static str, error: &EtcdError) -> Option<DcsError> {
    match error {
        EtcdError::GRpcStatus(status) => {
            let why = status.message().to_owned();
            if why.contains("requested lease not found") {
                return Some(DcsError::LeaseGone(0));
            }
            let final_answer = matches!(
                status.code(),
                tonic::Code::InvalidArgument
                    | tonic::Code::PermissionDenied
                    | tonic::Code::NotFound
                    | tonic::Code::OutOfRange
                    | tonic::Code::ResourceExhausted
            );
            // A token of an older auth store: another login may help (etcd answers so with JWT).
            let stale_login = why.contains("revision of auth store is old");
            (final_answer && !stale_login).then_some(DcsError::Refused { what, why })
        }
        EtcdError::LeaseKeepAliveError(why) if why.contains("not found") => {
            Some(DcsError::LeaseGone(0))
        }
        _ => None,
    }
}

fn conditions(compares: &[Compare]) -> Vec<EtcdCompare> {
    compares
        .iter()
        .map(|compare| match compare {
            Compare::Absent(key) => EtcdCompare::create_revision(key.as_str(), CompareOp::Equal, 0),
            Compare::AtRevision(key, revision) => {
                EtcdCompare::mod_revision(key.as_str(), CompareOp::Equal, revision.0)
            }
            Compare::ValueIs(key, value) => {
                EtcdCompare::value(key.as_str(), CompareOp::Equal, value.clone())
            }
        })
        .collect()
}

fn operations(writes: &[Write]) -> Vec<TxnOp> {
    writes
        .iter()
        .map(|write| match write {
            Write::Put { key, value, lease } => {
                let options = (*lease != 0).then(|| PutOptions::new().with_lease(*lease));
                TxnOp::put(key.as_str(), value.clone(), options)
            }
            Write::Delete(key) => TxnOp::delete(key.as_str(), None),
        })
        .collect()
}

fn raw(kv: &KeyValue) -> RawKey {
    RawKey { value: kv.value().to_vec(), revision: Revision(kv.mod_revision()), lease: kv.lease() }
}

impl Dcs for Etcd {
    fn read<'a>(&'a self, prefix: &'a str, deadline: Duration) -> Answer<'a, RawCluster> {
        Box::pin(self.call("reading the cluster", deadline, move |mut client| {
            let prefix = prefix.to_owned();
            Box::pin(async move {
                let answer = client.get(prefix, Some(GetOptions::new().with_prefix())).await?;
                let revision = Revision(answer.header().map_or(0, |h| h.revision()));
                let keys = answer
                    .kvs()
                    .iter()
                    .map(|kv| (String::from_utf8_lossy(kv.key()).into_owned(), raw(kv)))
                    .collect();
                Ok(RawCluster { revision, keys })
            })
        }))
    }

    fn write<'a>(
        &'a self,
        compares: &'a [Compare],
        writes: &'a [Write],
        deadline: Duration,
    ) -> Answer<'a, Option<Revision>> {
        Box::pin(self.call("writing", deadline, move |mut client| {
            let txn = Txn::new().when(conditions(compares)).and_then(operations(writes));
            Box::pin(async move {
                let answer = client.txn(txn).await?;
                let revision = Revision(answer.header().map_or(0, |h| h.revision()));
                Ok(answer.succeeded().then_some(revision))
            })
        }))
    }

    fn grant(&self, ttl: Duration, deadline: Duration) -> Answer<'_, i64> {
        let seconds = i64::try_from(ttl.as_secs().max(1)).unwrap_or(i64::MAX);
        Box::pin(self.call("a new lease", deadline, move |mut client| {
            Box::pin(async move { Ok(client.lease_grant(seconds, None).await?.id()) })
        }))
    }

    fn keep_alive(&self, lease: i64, deadline: Duration) -> Answer<'_, ()> {
        Box::pin(self.call("renewing the lease", deadline, move |mut client| {
            // The call sends one request and waits for one answer: no long stream that would be
            // pinned to one member.
            Box::pin(async move { client.lease_keep_alive(lease).await.map(|_| ()) })
        }))
    }

    fn revoke(&self, lease: i64, deadline: Duration) -> Answer<'_, ()> {
        Box::pin(self.call("ending the lease", deadline, move |mut client| {
            Box::pin(async move { client.lease_revoke(lease).await.map(|_| ()) })
        }))
    }

    fn watch<'a>(
        &'a self,
        prefix: &'a str,
        after: Revision,
        deadline: Duration,
    ) -> Answer<'a, Box<dyn Changes>> {
        let from = after.0.saturating_add(1);
        Box::pin(self.call("watching", deadline, move |mut client| {
            let prefix = prefix.to_owned();
            Box::pin(async move {
                let options = WatchOptions::new().with_prefix().with_start_revision(from);
                let stream = client.watch(prefix, Some(options)).await?;
                Ok(Box::new(EtcdChanges(stream)) as Box<dyn Changes>)
            })
        }))
    }

    fn version(&self, deadline: Duration) -> Answer<'_, String> {
        Box::pin(self.call("asking for the version", deadline, |mut client| {
            Box::pin(async move { Ok(client.status().await?.version().to_owned()) })
        }))
    }
}

struct EtcdChanges(WatchStream);

impl Changes for EtcdChanges {
    fn next(&mut self) -> Answer<'_, Vec<Change>> {
        Box::pin(async move {
            let lost = |why: String| DcsError::Refused { what: "watching", why };
            let answer = self
                .0
                .message()
                .await
                .map_err(|e| lost(e.to_string()))?
                .ok_or_else(|| lost("the stream ended".into()))?;
            if answer.canceled() {
                return Err(lost(format!("cancelled: {}", answer.cancel_reason())));
            }
            Ok(answer
                .events()
                .iter()
                .filter_map(|event| {
                    let kv = event.kv()?;
                    let deleted = event.event_type() == EventType::Delete;
                    Some(Change {
                        key: String::from_utf8_lossy(kv.key()).into_owned(),
                        value: (!deleted).then(|| kv.value().to_vec()),
                        created: !deleted && kv.version() == 1,
                        revision: Revision(kv.mod_revision()),
                        lease: kv.lease(),
                    })
                })
                .collect())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    /// An endpoint that takes connections and says nothing, and one that takes none.
    async fn silent_and_closed() -> (TcpListener, Vec<String>) {
        let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let closed = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let both = [&silent, &closed].map(|l| l.local_addr().unwrap().to_string());
        (silent, both.to_vec())
    }

    #[tokio::test]
    async fn what_does_not_answer_is_named_endpoint_by_endpoint() {
        let (_silent, endpoints) = silent_and_closed().await;
        let etcd = Etcd::new(&endpoints, Login::default()).in_one_round();
        let failed = etcd.get("/service/a/leader", Duration::from_millis(600)).await;
        let Err(DcsError::Unavailable { last, .. }) = failed else { panic!("{failed:?}") };
        assert_eq!(last.len(), 2, "{last:?}");
        assert_eq!(last[0], format!("{}: no answer", endpoints[0]));
        assert!(last[1].starts_with(&endpoints[1]), "{last:?}");
    }

    #[tokio::test]
    async fn one_round_does_not_use_up_the_deadline() {
        let (silent, endpoints) = silent_and_closed().await;
        drop(silent);
        let begun = Instant::now();
        let etcd = Etcd::new(&endpoints, Login::default()).in_one_round();
        let deadline = Duration::from_secs(60);
        assert!(etcd.version(deadline).await.is_err());
        assert!(begun.elapsed() < deadline, "every endpoint refused, and it went on asking");
    }

    #[tokio::test]
    async fn without_endpoints_the_error_says_so() {
        let failed = Etcd::new(&[], Login::default()).version(Duration::from_secs(60)).await;
        let told = failed.unwrap_err().to_string();
        assert!(told.contains("no endpoint is configured"), "{told}");
    }
}
