//! Signatures of the room; each body moves to its own file.
#![allow(clippy::todo, clippy::unused_async, clippy::needless_pass_by_value, unused_variables)]

use super::*;
use node_agent_core::postgres::Postgres;
use node_agent_wire::SlotName;
use node_agent_wire::config::LocalConfig;
use node_agent_wire::dynamic::Dynamic;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The PostgreSQL of this node. Cheap to share behind an `Arc`; every call takes `&self`.
pub struct Server {}

impl Effective {
    /// Merges the dynamic configuration with the local one and the agent's own parameters.
    #[must_use]
    pub fn merge(local: &LocalConfig, dynamic: &Dynamic) -> Self {
        todo!()
    }
}

/// What a rewind would discard. Serde; also a JSON file beside the data directory.
pub struct Divergence {}

/// One guard connection for the lease keeper's own thread: no async, short write deadline.
pub struct GuardClient {}

impl GuardClient {
    /// Connects, waiting `timeout` at most for each later answer.
    pub fn connect(socket: &Path, timeout: Duration) -> std::io::Result<Self> {
        todo!()
    }
    /// Arms the guard for that moment, earlier or later than before.
    pub fn set_deadline(&mut self, deadline: Boot) -> std::io::Result<()> {
        todo!()
    }
    /// No deadline any more; only right while PostgreSQL is a standby.
    pub fn disarm(&mut self) -> std::io::Result<()> {
        todo!()
    }
}

impl Server {
    /// Guard binary: `NODE_AGENT_GUARD`, or `node-agent-guard` beside the running program.
    pub fn new(config: &LocalConfig) -> Result<Self, Error> {
        todo!()
    }
    /// Where the guard listens; give it to [`GuardClient::connect`].
    pub fn guard_socket(&self) -> &Path {
        todo!()
    }
    /// Output of guard and server.
    pub fn log_file(&self) -> &Path {
        todo!()
    }
    /// Host and port that others connect to.
    pub fn address(&self) -> (&str, u16) {
        todo!()
    }
    pub async fn observe(&self, now: Boot, deadline: Duration) -> Postgres {
        todo!()
    }
    /// Resolves when the server process that runs now has ended; waits for a start first when
    /// none runs. Cancel-safe.
    pub async fn exited(&self) {
        todo!()
    }
    /// Writes the files and spawns guard and postmaster.
    pub async fn start(&self, role: StartAs<'_>, settings: &Effective) -> Result<(), Error> {
        todo!()
    }
    /// Until sessions are accepted (read-only ones on a standby).
    pub async fn wait_ready(&self, deadline: Duration) -> Result<(), Error> {
        todo!()
    }
    /// Escalates to immediate and to SIGKILL when `deadline` passes. Fine when nothing runs.
    pub async fn stop(&self, mode: StopMode, deadline: Duration) -> Result<ControlData, Error> {
        todo!()
    }
    /// Arms the guard, promotes, returns when writes are accepted.
    pub async fn promote(&self, guard_deadline: Boot, deadline: Duration) -> Result<(), Error> {
        todo!()
    }
    /// Rewrites the files if they differ and reloads. True when something was changed.
    pub async fn apply_settings(&self, settings: &Effective) -> Result<bool, Error> {
        todo!()
    }
    /// Points the (running or stopped) standby at another upstream, by reload.
    pub async fn follow(&self, upstream: &Upstream, settings: &Effective) -> Result<(), Error> {
        todo!()
    }
    /// What `start`/`follow` applied last; read back from the file after an agent restart.
    pub fn following(&self) -> Option<Upstream> {
        todo!()
    }
    /// `None`: the user's own value. Returns when in force. Survives an agent restart.
    pub async fn set_sync_names(&self, names: Option<&str>) -> Result<(), Error> {
        todo!()
    }
    /// Fine when it exists already.
    pub async fn create_slot(&self, name: &SlotName) -> Result<(), Error> {
        todo!()
    }
    /// Fine when absent; an active one is an error.
    pub async fn drop_slot(&self, name: &SlotName) -> Result<(), Error> {
        todo!()
    }
    pub async fn advance_slot(&self, name: &SlotName, to: Lsn) -> Result<(), Error> {
        todo!()
    }
    pub async fn checkpoint(&self, deadline: Duration) -> Result<(), Error> {
        todo!()
    }
    /// initdb with `bootstrap.initdb`; `bootstrap.pg_hba` appended. The directory must be absent
    /// or empty.
    pub async fn initdb(&self) -> Result<(), Error> {
        todo!()
    }
    /// After the first start as primary: replication and rewind users. Idempotent.
    pub async fn create_users(&self) -> Result<(), Error> {
        todo!()
    }
    /// pg_basebackup; the directory ends complete or absent. Cancel-safe (the tool is killed).
    pub async fn basebackup(
        &self,
        host: &str,
        port: u16,
        progress: impl Fn(Progress) + Send,
        deadline: Duration,
    ) -> Result<(), Error> {
        todo!()
    }
    /// What this stopped server has after `fork` on `timeline`; keeps the WAL when asked.
    pub async fn divergence_report(
        &self,
        fork: Lsn,
        timeline: TimelineId,
        keep: Option<PathBuf>,
    ) -> Result<Divergence, Error> {
        todo!()
    }
    /// pg_rewind of this stopped server (call `divergence_report` first). Hosts in order, the
    /// first one that is read-write is the source.
    pub async fn rewind(&self, hosts: &[(String, u16)], deadline: Duration) -> Result<(), Error> {
        todo!()
    }
    /// Deletes the contents of the data directory. Refused while a server runs on it.
    pub async fn remove_data(&self) -> Result<(), Error> {
        todo!()
    }
    /// History of this server (running or stopped) or of a remote one.
    pub async fn history_of(
        &self,
        source: Option<(&str, u16)>,
        deadline: Duration,
    ) -> Result<TimelineHistory, Error> {
        todo!()
    }
    /// The first host that answers, a read-write one before a read-only one.
    pub async fn remote_identity(
        &self,
        hosts: &[(String, u16)],
        deadline: Duration,
    ) -> Result<RemoteIdentity, Error> {
        todo!()
    }
}
