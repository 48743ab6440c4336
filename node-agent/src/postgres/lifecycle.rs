//! Starting through the guard, stopping, promoting, and noticing the end.

use super::family::descendants;
use super::guard_client::Presence;
use super::process::Postmaster;
use super::session::Session;
use super::{
    Error, POLL, QUERY_DEADLINE, Server, StartAs, StopMode, boot_now, conf, control, effective,
    files, guard_client, pending,
};
use node_agent_core::postgres::ControlData;
use node_agent_core::time::Boot;
use rustix::process::{Pid, Signal, kill_process};
use std::collections::BTreeMap;
use std::os::unix::fs::OpenOptionsExt;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::time::Instant;

/// Between two looks whether a recovery has ended.
const RECOVERY_POLL: Duration = Duration::from_millis(200);
/// After SIGQUIT the postmaster ends its children itself within 5 s; then it is made to.
const IMMEDIATE_DEADLINE: Duration = Duration::from_secs(6);
/// From SIGKILL to the end, when no disk hangs.
const KILL_DEADLINE: Duration = Duration::from_secs(10);
/// What an error shows of the log.
const LOG_BYTES: usize = 2000;

impl Server {
    /// Writes the files and spawns guard and postmaster; returns without waiting for readiness.
    ///
    /// # Errors
    /// When a server runs already, the directory holds no database system, or something can't be
    /// written or spawned. Nothing was started then.
    pub async fn start(
        &self,
        role: StartAs<'_>,
        settings: &effective::Effective,
    ) -> Result<(), Error> {
        if let Some(postmaster) = Postmaster::find(&self.places)? {
            let reason = format!("it runs already, pid {}", postmaster.file.pid);
            return Err(Error::Refused { action: "start PostgreSQL".to_owned(), reason });
        }
        // What fails from here on is not explained by an earlier life's log.
        self.memory().log_offset = files::length(&self.places.log_file);
        self.guard_gone(QUERY_DEADLINE).await?;
        let control = control::read(&self.places).await?;
        let minima = match role {
            StartAs::Primary { .. } => {
                files::remove(&self.places.data(conf::STANDBY_SIGNAL))?;
                files::remove(&self.places.data(conf::RECOVERY_SIGNAL))?;
                None
            }
            StartAs::Recovery { settings: recovery, .. } => {
                self.prepare_recovery(recovery).await?;
                Some(&control.minima)
            }
            StartAs::Standby(upstream) => {
                // Left by an earlier life as primary, it would be in force from the promotion on.
                files::remove(&self.places.data(conf::SYNC))?;
                self.write_upstream(upstream, settings).await?;
                files::write(&self.places.data(conf::STANDBY_SIGNAL), String::new()).await?;
                Some(&control.minima)
            }
        };
        self.write_settings(settings).await?;
        let arguments = conf::arguments(settings, minima);
        self.spawn(role, &arguments)?;
        // A standby's raised values are not those that the settings ask for.
        let differ = pending::differing(&arguments, &conf::arguments(settings, None));
        self.memory().arguments_differ = differ;
        Ok(())
    }

    /// The files of a recovery that ends by itself.
    async fn prepare_recovery(
        &self,
        recovery: Option<&BTreeMap<String, String>>,
    ) -> Result<(), Error> {
        let text = match recovery {
            Some(settings) => {
                files::write(&self.places.data(conf::RECOVERY_SIGNAL), String::new()).await?;
                conf::recovery_conf(settings)
            }
            // What stands there would be taken out of this file with the other settings.
            None => {
                let auto = files::read(&self.places.data(conf::AUTO))?.unwrap_or_default();
                conf::kept_recovery(&auto)
            }
        };
        if self.places.data(conf::STANDBY_SIGNAL).exists() {
            return Err(Error::Refused {
                action: "begin a cluster from it".to_owned(),
                reason: "the bootstrap command left standby.signal, and a standby never ends its \
                         recovery: leave recovery.signal instead"
                    .to_owned(),
            });
        }
        files::write(&self.places.data(conf::UPSTREAM), text).await?;
        Ok(())
    }

    /// Until recovery has ended and writes are accepted.
    ///
    /// # Errors
    /// When the server ends instead, or the deadline passes.
    pub async fn wait_recovered(&self, deadline: Duration) -> Result<(), Error> {
        let end = Instant::now() + deadline;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            self.wait_ready(left).await?;
            let mut session = self.borrow(QUERY_DEADLINE).await?;
            let standby = "SELECT pg_is_in_recovery()::text";
            let answer = session.text("ask for its role", standby, &[], QUERY_DEADLINE).await?;
            self.give_back(session);
            if answer.as_deref() == Some("false") {
                return Ok(());
            }
            if left.is_zero() {
                let what = "the end of recovery".to_owned();
                return Err(Error::Deadline { what, waited: deadline });
            }
            tokio::time::sleep(RECOVERY_POLL).await;
        }
    }

    fn spawn(&self, role: StartAs<'_>, arguments: &[String]) -> Result<(), Error> {
        let places = &self.places;
        let log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .mode(0o600)
            .open(&places.log_file)
            .map_err(files::failed("open", &places.log_file))?;
        let log_offset = log.metadata().map_err(files::failed("read", &places.log_file))?.len();
        let output = log.try_clone().map_err(files::failed("open", &places.log_file))?;
        let mut command = tokio::process::Command::new(&places.guard_program);
        command.arg("--socket").arg(&places.guard_socket);
        command.arg("--data-dir").arg(&places.data_dir);
        let writable = match role {
            StartAs::Primary { deadline } | StartAs::Recovery { deadline, .. } => {
                command.arg("--deadline").arg(deadline.0.to_string());
                true
            }
            StartAs::Standby(_) => false,
        };
        command.arg("--").arg(places.program("postgres")).arg("-D").arg(&places.data_dir);
        let file = places.main_conf();
        command.arg(format!("--config-file={}", file.display())).args(arguments);
        command.stdin(Stdio::null()).stdout(output).stderr(log);
        let mut guard = command.spawn().map_err(|source| Error::Spawn {
            program: places.guard_program.display().to_string(),
            source,
        })?;
        let runs = Arc::new(AtomicBool::new(true));
        {
            let mut memory = self.memory();
            memory.guard_runs = Some(Arc::clone(&runs));
            memory.log_offset = log_offset;
            memory.writable = writable;
            memory.starting_since = Some(boot_now());
            memory.unresponsive_since = None;
            memory.arguments_differ.clear();
            memory.pending.clear();
        }
        // The guard outlives the agent; while both live, the agent takes note of its end.
        tokio::spawn(async move {
            let _ = guard.wait().await;
            runs.store(false, Ordering::SeqCst);
        });
        self.started.notify_waiters();
        Ok(())
    }

    /// Whether the guard of the last start runs; `None` before the first start by this agent.
    pub(super) fn guard_runs(&self) -> Option<bool> {
        self.memory().guard_runs.as_ref().map(|runs| runs.load(Ordering::SeqCst))
    }

    /// Until sessions are accepted (read-only ones on a standby).
    ///
    /// # Errors
    /// When the server ends instead (with the end of its log), or the deadline passes.
    pub async fn wait_ready(&self, deadline: Duration) -> Result<(), Error> {
        let end = Instant::now() + deadline;
        loop {
            let postmaster = Postmaster::find(&self.places)?;
            let ready = postmaster.as_ref().is_some_and(|p| p.file.status == "ready");
            // A server can be ready by its file and refuse for a moment more.
            if ready && let Ok(session) = self.borrow(QUERY_DEADLINE.min(deadline)).await {
                self.give_back(session);
                return Ok(());
            }
            if postmaster.is_none() && self.guard_runs() != Some(true) {
                return Err(Error::Start { log: self.log_of_last_start() });
            }
            if Instant::now() >= end {
                let log = files::tail(&self.places.log_file, self.memory().log_offset, 300);
                let last = log.lines().next_back().unwrap_or("(nothing)").to_owned();
                let what = format!("PostgreSQL to accept sessions; its log ends: {last}");
                return Err(Error::Deadline { what, waited: deadline });
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// The end of what the server has logged since this agent started it last.
    #[must_use]
    pub fn log_of_last_start(&self) -> String {
        files::tail(&self.places.log_file, self.memory().log_offset, LOG_BYTES)
    }

    /// Until the guard that guarded this directory has ended, and with it all of PostgreSQL.
    async fn guard_gone(&self, deadline: Duration) -> Result<(), Error> {
        let end = Instant::now() + deadline;
        loop {
            let seen = guard_client::presence(self.guard_socket(), QUERY_DEADLINE).await;
            let seen = seen.map_err(|e| self.guard_error(format!("does not answer: {e}")))?;
            if seen == Presence::Absent && self.guard_runs() != Some(true) {
                return Ok(());
            }
            if Instant::now() >= end {
                return Err(self.guard_error(format!("still runs after {deadline:?}")));
            }
            tokio::time::sleep(POLL).await;
        }
    }

    fn guard_error(&self, problem: String) -> Error {
        Error::Guard { socket: self.guard_socket().to_owned(), problem }
    }

    /// Stops the server: escalates to immediate, then to SIGKILL, when `deadline` passes. Fine
    /// when nothing runs. On return nothing of the server is left, and what is returned is final.
    ///
    /// # Errors
    /// When a process outlives SIGKILL, or the control file can't be read afterwards.
    pub async fn stop(&self, mode: StopMode, deadline: Duration) -> Result<ControlData, Error> {
        *self.heartbeat.lock().await = None;
        drop(self.spare.lock().unwrap_or_else(PoisonError::into_inner).take());
        let signal = match mode {
            StopMode::Fast => Signal::INT,
            StopMode::Immediate => Signal::QUIT,
        };
        let escalation = match mode {
            StopMode::Fast => Some((Signal::QUIT, IMMEDIATE_DEADLINE)),
            // Told once: a postmaster that hangs does not hear it the second time either.
            StopMode::Immediate => None,
        };
        let steps = std::iter::once((signal, deadline)).chain(escalation);
        let mut running = Postmaster::find(&self.places)?;
        for (signal, patience) in steps {
            let Some(postmaster) = running.take() else { break };
            postmaster.signal(signal)?;
            if !postmaster.ended_within(patience).await? {
                running = Postmaster::find(&self.places)?;
            }
        }
        let unborn = running.is_none() && self.guard_runs() == Some(true);
        if running.is_some() || unborn {
            self.kill(running).await?;
        }
        self.guard_gone(KILL_DEADLINE).await?;
        {
            let mut memory = self.memory();
            memory.writable = false;
            memory.unresponsive_since = None;
            memory.starting_since = None;
        }
        Ok(control::read(&self.places).await?.data)
    }

    /// The control file as it is now.
    ///
    /// # Errors
    /// When it can't be read.
    pub async fn control(&self) -> Result<ControlData, Error> {
        Ok(control::read(&self.places).await?.data)
    }

    /// Lets the guard wait until then. Only right while PostgreSQL can't write any more.
    ///
    /// # Errors
    /// When the guard does not take the deadline.
    pub async fn guard_until(&self, end: Boot) -> Result<(), Error> {
        let told = guard_client::arm(self.guard_socket(), end, QUERY_DEADLINE).await;
        told.map_err(|e| self.guard_error(format!("did not take a later deadline: {e}")))
    }

    /// Ends everything: by the guard, or from here when there is none.
    async fn kill(&self, running: Option<Postmaster>) -> Result<(), Error> {
        // A deadline that has passed: the guard ends the server and all its descendants.
        let told = guard_client::arm(self.guard_socket(), Boot(1), QUERY_DEADLINE).await.is_ok();
        let Some(postmaster) = running else { return Ok(()) };
        let pid = postmaster.file.pid;
        if !told {
            let family = descendants(pid);
            postmaster.signal(Signal::KILL)?;
            for pid in family.into_iter().filter_map(Pid::from_raw) {
                let _ = kill_process(pid, Signal::KILL);
            }
        }
        if postmaster.ended_within(KILL_DEADLINE).await? {
            return Ok(());
        }
        let what = format!("the postmaster (pid {pid}) to end after SIGKILL");
        Err(Error::Deadline { what, waited: KILL_DEADLINE })
    }

    /// Arms the guard for what `lease_end` says, then promotes; returns when writes are accepted.
    /// Later deadlines are the lease keeper's; one that became earlier while the guard was armed
    /// counts as well.
    ///
    /// # Errors
    /// When the guard does not answer (the server stays a standby), or the promotion is refused
    /// or takes longer than `deadline` (it may still happen: the server counts as writable).
    pub async fn promote(
        &self,
        lease_end: impl Fn() -> Boot,
        deadline: Duration,
    ) -> Result<(), Error> {
        let end = Instant::now() + deadline;
        let mut armed = Boot(u64::MAX);
        while lease_end() < armed {
            armed = lease_end();
            guard_client::arm(self.guard_socket(), armed, QUERY_DEADLINE.min(deadline))
                .await
                .map_err(|e| self.guard_error(format!("could not be armed to promote: {e}")))?;
        }
        let mut session = self.borrow(deadline).await?;
        let standby = "SELECT pg_is_in_recovery()::text";
        let left = || end.saturating_duration_since(Instant::now());
        let is_standby = async |session: &mut Session| -> Result<bool, Error> {
            let answer = session.text("ask for its role", standby, &[], left()).await?;
            Ok(answer.as_deref() != Some("false"))
        };
        if !is_standby(&mut session).await? {
            return Ok(());
        }
        self.memory().writable = true;
        session.text("promote", "SELECT pg_promote(false)::text", &[], left()).await?;
        while is_standby(&mut session).await? {
            if left().is_zero() {
                let what = "the end of recovery after the promotion".to_owned();
                return Err(Error::Deadline { what, waited: deadline });
            }
            tokio::time::sleep(POLL).await;
        }
        self.give_back(session);
        Ok(())
    }

    /// Resolves when the server process that runs now has ended; waits for a start first when
    /// none runs. Cancel-safe.
    pub async fn exited(&self) {
        let mut seen_guard = false;
        loop {
            let started = self.started.notified();
            tokio::pin!(started);
            started.as_mut().enable();
            if let Ok(Some(postmaster)) = Postmaster::find(&self.places) {
                if postmaster.ended().await.is_ok() {
                    return;
                }
            } else if self.guard_runs() == Some(true) {
                // Spawned, and not yet so far that it has a pid file; or already past it.
                seen_guard = true;
            } else if seen_guard {
                return;
            } else {
                started.await;
                continue;
            }
            tokio::time::sleep(POLL).await;
        }
    }
}
