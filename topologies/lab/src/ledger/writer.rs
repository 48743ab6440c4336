//! The writer: several workers that insert one row per transaction and follow the primary by
//! themselves, as an application with `target_session_attrs=read-write` would.
//!
//! A worker never cancels a query and sets no `statement_timeout`: PostgreSQL answers a cancelled
//! wait for synchronous replication with success and a warning, which would be an acknowledgement
//! that the standby never gave. A query past its deadline is given up with its connection instead.

use std::future::Future;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Statement};

use super::TABLE;
use super::account::{Fate, Ledger};
use crate::access::{Access, AccessError, QUERY_LIMIT, on_primary, within};
use crate::credentials::Password;

const INSERT: &str = "INSERT INTO ledger (run, id, phase, payload) VALUES ($1, $2, $3, $4)";
const APPLICATION: &str = "lab writer";

/// How a writer writes.
#[derive(Debug, Clone)]
pub struct WriterOptions {
    /// Concurrent workers, each with a connection of its own.
    pub workers: usize,
    /// Pause of a worker after each row.
    pub pause: Duration,
    /// Label of the first phase.
    pub first_phase: String,
    /// How long to wait for a primary at the start.
    pub start_limit: Duration,
}

impl Default for WriterOptions {
    fn default() -> Self {
        Self {
            workers: 2,
            pause: Duration::from_millis(1),
            first_phase: "before".to_owned(),
            start_limit: Duration::from_secs(30),
        }
    }
}

/// What the workers share.
#[derive(Debug)]
struct Shared {
    access: Access,
    ledger: Mutex<Ledger>,
    run: String,
    next_id: AtomicI64,
    acknowledged: watch::Sender<u64>,
    stop: watch::Sender<bool>,
    pause: Duration,
}

/// A running writer. Dropped, it stops without an account.
#[derive(Debug)]
pub struct Writer {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
}

impl Writer {
    /// Makes the table on the primary and starts to write; returns with the first acknowledged row,
    /// with which the first phase begins.
    ///
    /// # Errors
    /// When no node accepts writes in time.
    pub async fn start(access: Access, options: WriterOptions) -> Result<Self, AccessError> {
        on_primary(&access, TABLE, options.start_limit).await?;
        let run = run_name();
        let ledger = Ledger::new(&run, &options.first_phase, Instant::now());
        let shared = Arc::new(Shared {
            access,
            ledger: Mutex::new(ledger),
            run,
            next_id: AtomicI64::new(1),
            acknowledged: watch::Sender::new(0),
            stop: watch::Sender::new(false),
            pause: options.pause,
        });
        let work = |_| tokio::spawn(work(Arc::clone(&shared)));
        let workers = (0..options.workers.max(1)).map(work).collect();
        let writer = Self { shared, workers };
        writer.wait_for_rows(1, options.start_limit).await?;
        writer.shared.ledger().begin_with_first_row();
        Ok(writer)
    }

    /// Begins a phase: rows sent from now on belong to it.
    pub fn phase(&self, label: &str) {
        self.shared.ledger().begin_phase(label, Instant::now());
    }

    /// Number of rows acknowledged so far.
    #[must_use]
    pub fn acknowledged(&self) -> u64 {
        *self.shared.acknowledged.borrow()
    }

    /// Waits until `more` further rows are acknowledged.
    ///
    /// # Errors
    /// When `limit` passes first.
    pub async fn wait_for_rows(&self, more: u64, limit: Duration) -> Result<(), AccessError> {
        let mut count = self.shared.acknowledged.subscribe();
        let target = *count.borrow() + more;
        let reached = tokio::time::timeout(limit, count.wait_for(|&now| now >= target)).await;
        match reached {
            Ok(_) => Ok(()),
            Err(_) => Err(AccessError::Late {
                tried: "waiting for acknowledged rows",
                node: "any node".to_owned(),
                limit,
            }),
        }
    }

    /// A copy of the notes so far. Rows on their way are not in it.
    #[must_use]
    pub fn snapshot(&self) -> Ledger {
        let mut ledger = self.shared.ledger().clone();
        ledger.end_at(Instant::now());
        ledger
    }

    /// Stops; every row on its way is waited for or becomes indeterminate.
    pub async fn stop(mut self) -> Ledger {
        // The pause of the last phase ends here, not when the last answer comes.
        let now = Instant::now();
        self.shared.stop.send_replace(true);
        for worker in std::mem::take(&mut self.workers) {
            // A worker that panicked has printed why; its rows are in the notes or indeterminate.
            let _ = worker.await;
        }
        let mut ledger = self.shared.ledger().clone();
        ledger.end_at(now);
        ledger
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        for worker in &self.workers {
            worker.abort();
        }
    }
}

impl Shared {
    /// The notes stay usable after a panic elsewhere: each note is made by one call.
    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Inserts one row and notes its fate; false when the session cannot be used any more.
    async fn write_row(&self, client: &Client, insert: &Statement) -> bool {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let (phase, label) = {
            let ledger = self.ledger();
            let (phase, label) = ledger.current_phase();
            (phase, label.to_owned())
        };
        let payload = format!("row {id}");
        let values: [&(dyn ToSql + Sync); 4] = [&self.run, &id, &label, &payload];
        let row = InFlight { shared: self, id, phase, noted: false };
        let answer = within("inserting", "primary", QUERY_LIMIT, client.execute(insert, &values));
        let fate = fate_of(&answer.await.map(|_| ()), Instant::now());
        row.note(fate);
        matches!(fate, Fate::Acknowledged(_))
    }
}

/// A row that was sent. It becomes indeterminate when its worker ends before it is answered.
struct InFlight<'a> {
    shared: &'a Shared,
    id: i64,
    phase: usize,
    noted: bool,
}

impl InFlight<'_> {
    fn note(mut self, fate: Fate) {
        self.noted = true;
        self.shared.ledger().note(self.id, self.phase, fate);
        if matches!(fate, Fate::Acknowledged(_)) {
            self.shared.acknowledged.send_modify(|count| *count += 1);
        }
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        if !self.noted {
            self.shared.ledger().note(self.id, self.phase, Fate::Indeterminate);
        }
    }
}

/// Refused is only what PostgreSQL says before it commits: the transaction may not write. Any other
/// error, above all a terminated connection, can follow a local commit.
fn fate_of(answer: &Result<(), AccessError>, now: Instant) -> Fate {
    match answer {
        Ok(()) => Fate::Acknowledged(now),
        Err(AccessError::Failed { source, .. })
            if source.code() == Some(&SqlState::READ_ONLY_SQL_TRANSACTION) =>
        {
            Fate::Refused
        }
        Err(
            AccessError::Failed { .. } | AccessError::Late { .. } | AccessError::NoPrimary { .. },
        ) => Fate::Indeterminate,
    }
}

async fn work(shared: Arc<Shared>) {
    let mut stop = shared.stop.subscribe();
    while !*stop.borrow() {
        let found = shared.access.find_primary(APPLICATION);
        let Some((node, client)) = unless_stopped(&mut stop, found).await else { return };
        let prepared = within("preparing", &node.name, QUERY_LIMIT, client.prepare(INSERT)).await;
        let Ok(insert) = prepared else { continue };
        while !*stop.borrow() && shared.write_row(&client, &insert).await {
            if !shared.pause.is_zero() {
                tokio::time::sleep(shared.pause).await;
            }
        }
    }
}

async fn unless_stopped<T>(
    stop: &mut watch::Receiver<bool>,
    work: impl Future<Output = T>,
) -> Option<T> {
    tokio::select! {
        value = work => Some(value),
        _ = stop.wait_for(|&stopped| stopped) => None,
    }
}

/// Eight random hexadecimal digits; the time where the system has no random bytes.
fn run_name() -> String {
    match Password::random() {
        Ok(random) => random.reveal().chars().take(8).collect(),
        Err(_) => {
            let since = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
            format!("{:x}", since.as_nanos())
        }
    }
}
