//! The only place that touches PGDATA, PostgreSQL's processes or SQL.
//!
//! [`Server`] is the PostgreSQL of this node. Each call carries a deadline or has one of its own,
//! and an [`Error`] says what was tried, on what, and (`hint`) what the operator can do. Nothing
//! is decided here: facts go out (`observe`), effects come in.
//!
//! The postmaster is the child of the guard (`node-agent-guard`), which stops it when the deadline
//! that it was given passes. Files beside the data directory of member `N`: `.N.guard` (the
//! guard's socket), `N.log` (output of guard and server), `.N.pgpass` (passwords for libpq, unless
//! `postgresql.pgpass` names another), `.N.incomplete` (the data directory is half written),
//! `.N.unattended` (the guard has no deadline because of maintenance mode),
//! `N.divergence-*` (what a rewind discarded).
//!
//! Tested in `tests/server.rs` with real servers, and beside the pure parts.

mod archive;
mod attendance;
mod backup;
mod beginning;
mod bootstrap;
mod cache;
mod catalogue;
mod command;
mod conf;
mod connection;
mod control;
mod data_dir;
mod disk;
pub mod divergence;
pub mod effective;
pub mod error;
#[path = "../guard/family.rs"]
#[allow(dead_code, reason = "shared with the guard, which uses all of it")]
mod family;
mod files;
mod guard_client;
mod history;
mod leftover;
mod lifecycle;
mod logical;
pub mod method;
mod observe;
mod passfile;
pub mod pending;
mod places;
mod process;
mod relations;
mod restore;
mod rewind;
mod session;
mod settings;
mod slots;
mod status;
mod survey;
mod sync_waits;
mod tls;
mod vault;
mod version;
mod wal_page;
mod words;

pub use divergence::Divergence;
pub use effective::Effective;
pub use error::Error;
pub use guard_client::GuardClient;
pub use logical::{SlotFile, slot_is_void};
pub use survey::Survey;

use node_agent_core::postgres::Upstream;
use node_agent_core::time::Boot;
use node_agent_wire::config::{Authentication, LocalConfig};
use node_agent_wire::{Lsn, SystemId, TimelineId};
use pending::Pending;
use places::Places;
use process::PidFile;
use rustix::time::{ClockId, clock_gettime};
use session::{Session, Target};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;

/// The deadline of a small query or of the guard's answer.
const QUERY_DEADLINE: Duration = Duration::from_secs(5);
/// Between two looks at something that has no event.
const POLL: Duration = Duration::from_millis(4);
/// … on another server.
const REMOTE_POLL: Duration = Duration::from_millis(100);

/// How to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopMode {
    /// Sessions end, a shutdown checkpoint is written, walsenders ship everything (SIGINT).
    Fast,
    /// At once, without a checkpoint (SIGQUIT).
    Immediate,
}

/// What to start as.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum StartAs<'a> {
    /// Read-write, with the guard armed from the first moment.
    Primary {
        /// When the guard stops the server unless it hears of a later deadline.
        deadline: Boot,
    },
    /// In recovery, with these settings of it, to the point where PostgreSQL promotes itself; the
    /// guard is armed as for a primary. `None`: with those that are there.
    Recovery {
        /// As for a primary.
        deadline: Boot,
        /// The settings.
        settings: Option<&'a BTreeMap<String, String>>,
    },
    /// Read-only behind an upstream; the guard is not armed.
    Standby(&'a Upstream),
}

/// Who another server is, asked over SQL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoteIdentity {
    /// The host that answered.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// The database system.
    pub system_id: SystemId,
    /// Read-only.
    pub in_recovery: bool,
    /// The timeline that it writes, or received last.
    pub timeline: TimelineId,
    /// Flushed (primary), or received or replayed, up to here.
    pub lsn: Lsn,
}

/// What is remembered between calls.
#[derive(Default)]
struct Memory {
    /// The first query that did not come back.
    unresponsive_since: Option<Boot>,
    /// Why the last observation could not ask the server.
    problem: Option<String>,
    /// The server was writable when last asked, or was told to become so.
    writable: bool,
    /// When a process that does not answer yet was started or first seen.
    starting_since: Option<Boot>,
    /// Where the log ended before the last start.
    log_offset: u64,
    /// Whether the guard of the last start still runs.
    guard_runs: Option<Arc<AtomicBool>>,
    /// Where the command line that the settings ask for differs from the one that the server has.
    arguments_differ: Pending,
    /// All parameters that wait for a restart.
    pending: Pending,
    /// The major version of the programs.
    major: Option<u32>,
    /// Parameters that were asked for, and whether this PostgreSQL knows them.
    parameters: BTreeMap<String, bool>,
    /// Configured parameters that it does not know.
    left_out: Vec<String>,
}

/// The PostgreSQL of this node. Every call takes `&self`; share it behind an `Arc`.
pub struct Server {
    places: Places,
    heartbeat: tokio::sync::Mutex<Option<Session>>,
    spare: Mutex<Option<Session>>,
    memory: Mutex<Memory>,
    started: Notify,
    /// The last divergence report since the agent started.
    report: Mutex<Option<Divergence>>,
    /// Where PostgreSQL of other datacenters listens.
    abroad: Mutex<BTreeSet<(String, u16)>>,
}

/// Now, on the clock that the guard's deadlines count on.
fn boot_now() -> Boot {
    let now = clock_gettime(ClockId::Boottime);
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    Boot(seconds * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap_or(0))
}

fn name_unknown(users: &Authentication) {
    for user in [Some(&users.superuser), Some(&users.replication), users.rewind.as_ref()] {
        for key in user.into_iter().flat_map(connection::unknown) {
            tracing::warn!(key, "a user of postgresql.authentication has no such parameter");
        }
    }
}

impl Server {
    /// The server that the configuration describes. Nothing is touched. The guard's program is
    /// `NODE_AGENT_GUARD`, or `node-agent-guard` beside the running program.
    ///
    /// # Errors
    /// When an address or name of the configuration can't be used.
    pub fn new(config: &LocalConfig) -> Result<Self, Error> {
        name_unknown(&config.postgresql.authentication);
        Ok(Self {
            places: Places::new(config)?,
            heartbeat: tokio::sync::Mutex::new(None),
            spare: Mutex::new(None),
            memory: Mutex::default(),
            started: Notify::new(),
            report: Mutex::default(),
            abroad: Mutex::default(),
        })
    }

    /// Other users, passwords and parameters of connections: for the password file, and for
    /// whatever connects from now on. `primary_conninfo` follows with the next settings.
    ///
    /// # Errors
    /// When the password file can't be written.
    pub async fn set_users(&self, users: Authentication) -> Result<(), Error> {
        name_unknown(&users);
        self.places.set_users(users);
        // The next borrower shows whether the new ones are right.
        self.spare.lock().unwrap_or_else(PoisonError::into_inner).take();
        passfile::write(&self.places, &[]).await
    }

    /// The user that new replication connections are made as; empty when none is configured.
    #[must_use]
    pub fn replication_user(&self) -> String {
        self.places.replication().map(|user| user.username).unwrap_or_default()
    }

    /// Where the guard listens; give it to [`GuardClient::connect`].
    #[must_use]
    pub fn guard_socket(&self) -> &Path {
        &self.places.guard_socket
    }

    /// Exists while the guard has no deadline because of maintenance mode.
    #[must_use]
    pub fn mark_file(&self) -> &Path {
        &self.places.mark_file
    }

    /// A primary was left running in maintenance mode: its guard has no deadline, and the agent
    /// that lifted it has noted that.
    #[must_use]
    pub fn left_without_deadline(&self) -> bool {
        let lifted = || {
            let wait = Duration::from_secs(1);
            let mut guard = GuardClient::connect(self.guard_socket(), wait)?;
            guard.is_armed().map(|armed| !armed)
        };
        self.places.mark_file.exists()
            && !self.places.data(conf::STANDBY_SIGNAL).exists()
            && lifted().unwrap_or(false)
    }

    /// Output of guard and server.
    #[must_use]
    pub fn log_file(&self) -> &Path {
        &self.places.log_file
    }

    /// The data directory.
    #[must_use]
    pub fn data_dir(&self) -> &Path {
        &self.places.data_dir
    }

    /// Host and port that others connect to.
    #[must_use]
    pub fn address(&self) -> (&str, u16) {
        self.places.connect()
    }

    /// Parameters that wait for a restart, as of the last observation.
    #[must_use]
    pub fn pending(&self) -> Pending {
        self.memory().pending.clone()
    }

    /// Why the last observation found the server unresponsive.
    #[must_use]
    pub fn problem(&self) -> Option<String> {
        self.memory().problem.clone()
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        // Plain values: none is half written when a holder panics.
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The local server, as the superuser.
    fn local_target(&self, options: &'static str) -> Result<Target, Error> {
        let socket_dir = PidFile::read(&self.places)?
            .and_then(|file| file.socket_dir)
            .filter(|_| self.places.use_unix_socket);
        let user = self.places.superuser();
        Ok(Target {
            host: socket_dir.unwrap_or_else(|| self.places.local_host()),
            port: self.places.listen_port,
            user: user.username,
            password: user.password,
            connection: user.connection,
            database: self.places.database.clone(),
            options,
        })
    }

    /// The spare session, or a new one. Whoever has got an answer gives it back: a login costs
    /// more than most queries. One that failed is dropped.
    async fn borrow(&self, deadline: Duration) -> Result<Session, Error> {
        let spare = self.spare.lock().unwrap_or_else(PoisonError::into_inner).take();
        match spare.filter(|session| !session.is_closed()) {
            Some(session) => Ok(session),
            None => Session::connect(&self.local_target("")?, deadline, QUERY_DEADLINE).await,
        }
    }

    /// Keeps a session for the next borrower.
    fn give_back(&self, session: Session) {
        *self.spare.lock().unwrap_or_else(PoisonError::into_inner) = Some(session);
    }

    /// A session of its own: a query that hangs in it delays no other call.
    async fn session(&self, deadline: Duration) -> Result<Session, Error> {
        Session::connect(&self.local_target("")?, deadline, deadline).await
    }
}
