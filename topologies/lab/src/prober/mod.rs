//! The prober: tries a write on every node all the time and records who accepted one, and when.
//!
//! It shows whether two nodes ever accepted writes at once; [`overlap`] has the criterion. The
//! probes commit locally (`synchronous_commit = local`), so a node without its standby does not
//! hang in them, and go to a table of their own, so they are never counted in the ledger.

pub mod overlap;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::task::JoinHandle;
use tokio::time::MissedTickBehavior;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Statement};

pub use overlap::{Overlap, Session, Write, find_overlaps};

use crate::access::{Access, AccessError, Node, QUERY_LIMIT, SESSION_LIMIT, on_primary, within};

/// Pause between two probes of a node.
const PERIOD: Duration = Duration::from_millis(20);
const TABLE: &str = "CREATE TABLE IF NOT EXISTS probe (\
     node text NOT NULL, at timestamptz NOT NULL DEFAULT clock_timestamp())";
const INSERT: &str = "INSERT INTO probe (node) VALUES ($1)";
const SETTINGS: &str = "SET synchronous_commit = local";

/// Everything that a prober recorded.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Record {
    /// Sessions with at least one accepted write, in the order in which they began.
    pub sessions: Vec<Session>,
}

/// A node's accepted writes in short.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeSummary {
    /// The node.
    pub node: String,
    /// How many probes it accepted.
    pub accepted: usize,
    /// When the first of these was acknowledged.
    pub first: Instant,
    /// When the last of these was acknowledged.
    pub last: Instant,
}

impl Record {
    /// Moments in which two nodes accepted writes; empty when all is well.
    #[must_use]
    pub fn overlaps(&self) -> Vec<Overlap> {
        find_overlaps(&self.sessions)
    }

    /// Writes that a node accepted for certain after `since`: those sent later.
    #[must_use]
    pub fn accepted_since(&self, node: &str, since: Instant) -> Vec<Write> {
        let sessions = self.sessions.iter().filter(|session| session.node == node);
        let writes = sessions.flat_map(|session| session.writes.iter().copied());
        writes.filter(|write| write.sent >= since).collect()
    }

    /// Every node that accepted a write, by the time of its first one.
    #[must_use]
    pub fn summary(&self) -> Vec<NodeSummary> {
        let mut nodes: Vec<NodeSummary> = Vec::new();
        for session in &self.sessions {
            let (Some(first), Some(last)) = (session.writes.first(), session.writes.last()) else {
                continue;
            };
            let count = session.writes.len();
            match nodes.iter_mut().find(|known| known.node == session.node) {
                Some(known) => {
                    known.accepted += count;
                    known.first = known.first.min(first.acked);
                    known.last = known.last.max(last.acked);
                }
                None => nodes.push(NodeSummary {
                    node: session.node.clone(),
                    accepted: count,
                    first: first.acked,
                    last: last.acked,
                }),
            }
        }
        nodes.sort_by_key(|node| node.first);
        nodes
    }
}

/// A running prober. Dropped, it stops.
#[derive(Debug)]
pub struct Prober {
    record: Arc<Mutex<Record>>,
    tasks: Vec<JoinHandle<()>>,
}

impl Prober {
    /// Makes the table of probes on the primary and begins to probe every node.
    ///
    /// # Errors
    /// When no node accepts writes within `limit`.
    pub async fn start(access: Access, limit: Duration) -> Result<Self, AccessError> {
        on_primary(&access, TABLE, limit).await?;
        let record = Arc::new(Mutex::new(Record::default()));
        let access = Arc::new(access);
        let probe_all = access.nodes.iter().cloned();
        let tasks = probe_all
            .map(|node| tokio::spawn(probe_node(Arc::clone(&access), node, Arc::clone(&record))))
            .collect();
        Ok(Self { record, tasks })
    }

    /// What was recorded so far.
    #[must_use]
    pub fn snapshot(&self) -> Record {
        lock(&self.record).clone()
    }

    /// Stops and gives the whole record. A probe on its way is not in it.
    #[must_use]
    pub fn stop(self) -> Record {
        self.snapshot()
    }
}

impl Drop for Prober {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

fn lock(record: &Mutex<Record>) -> MutexGuard<'_, Record> {
    // Stays usable after a panic elsewhere: each write is recorded by one call.
    record.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn probe_node(access: Arc<Access>, node: Node, record: Arc<Mutex<Record>>) {
    let mut ticks = tokio::time::interval(PERIOD);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        if let Ok((client, insert)) = open(&access, &node).await {
            probe_session(&client, &insert, &node, &record, &mut ticks).await;
        }
    }
}

async fn open(access: &Access, node: &Node) -> Result<(Client, Statement), AccessError> {
    let client = access.connect(node, "lab prober").await?;
    let name = &node.name;
    within("setting up", name, SESSION_LIMIT, client.batch_execute(SETTINGS)).await?;
    let insert = within("preparing", name, SESSION_LIMIT, client.prepare(INSERT)).await?;
    Ok((client, insert))
}

/// Probes in one session until it breaks or passes a deadline.
async fn probe_session(
    client: &Client,
    insert: &Statement,
    node: &Node,
    record: &Mutex<Record>,
    ticks: &mut tokio::time::Interval,
) {
    let mut index = None;
    loop {
        let sent = Instant::now();
        let values: [&(dyn ToSql + Sync); 1] = [&node.name];
        let insertion = client.execute(insert, &values);
        match within("probing", &node.name, QUERY_LIMIT, insertion).await {
            Ok(_) => {
                let write = Write { sent, acked: Instant::now() };
                let mut record = lock(record);
                let at = *index.get_or_insert_with(|| {
                    let session = Session { node: node.name.clone(), writes: Vec::new() };
                    record.sessions.push(session);
                    record.sessions.len() - 1
                });
                record.sessions[at].writes.push(write);
            }
            // The server says no and lives on: a standby. Its session may become writable.
            Err(AccessError::Failed { source, .. }) if source.as_db_error().is_some() => {
                if client.is_closed() {
                    return;
                }
            }
            Err(
                AccessError::Failed { .. }
                | AccessError::Late { .. }
                | AccessError::NoPrimary { .. },
            ) => return,
        }
        ticks.tick().await;
    }
}
