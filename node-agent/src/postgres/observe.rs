//! What this node's PostgreSQL is doing, as one fact.

use super::pending::Pending;
use super::process::Postmaster;
use super::session::Session;
use super::{Error, Server, bootstrap, conf, control, files, guard_client, pending, status};
use node_agent_core::postgres::{ControlState, Postgres, Running};
use node_agent_core::time::Boot;
use std::time::Duration;

/// `cannot_connect_now`: starting up, in recovery without hot standby yet, or shutting down.
const CANNOT_CONNECT_NOW: &str = "57P03";

/// Written by pg_basebackup, removed by the first recovery (PostgreSQL manual, section 26.3.3).
const BACKUP_LABEL: &str = "backup_label";

impl Server {
    /// Observes. `deadline` bounds the query; a read of the control file has its own.
    pub async fn observe(&self, now: Boot, deadline: Duration) -> Postgres {
        match self.look(now, deadline).await {
            Ok(postgres) => postgres,
            Err(error) => Postgres::Unreadable(format!("{error}; {}", error.hint())),
        }
    }

    async fn look(&self, now: Boot, deadline: Duration) -> Result<Postgres, Error> {
        let alive = Postmaster::find(&self.places)?;
        let status = match &alive {
            Some(postmaster) => postmaster.file.status.clone(),
            // Spawned, and its pid file is not written yet or already gone.
            None if self.guard_lives(deadline).await => String::new(),
            None => return self.look_at_rest().await,
        };
        let asked = if status == "starting" || status.is_empty() {
            Err(None)
        } else {
            self.ask(deadline).await.map_err(Some)
        };
        match asked {
            Ok((mut running, mut waiting)) => {
                running.outgrown = self.outgrown(&running, alive.as_ref()).await?;
                let mut memory = self.memory();
                memory.unresponsive_since = None;
                memory.starting_since = None;
                memory.problem = None;
                memory.writable = !running.in_recovery;
                waiting.extend(memory.arguments_differ.clone());
                running.pending_restart = !waiting.is_empty();
                memory.pending = waiting;
                Ok(Postgres::Running(Box::new(running)))
            }
            Err(None) => self.starting(now).await,
            Err(Some(Error::Connect { code, tls: false, .. }))
                if code.is_none() || code.as_deref() == Some(CANNOT_CONNECT_NOW) =>
            {
                self.starting(now).await
            }
            Err(Some(problem)) => Ok(self.unresponsive(now, &problem)),
        }
    }

    /// Whether a guard still holds what is left of a server. One that does not answer may.
    async fn guard_lives(&self, deadline: Duration) -> bool {
        if let Some(runs) = self.guard_runs() {
            return runs;
        }
        match guard_client::presence(self.guard_socket(), deadline).await {
            Ok(presence) => presence != guard_client::Presence::Absent,
            Err(error) => error.kind() == std::io::ErrorKind::TimedOut,
        }
    }

    /// Queries through the kept session, and opens it anew where it was lost.
    async fn ask(&self, deadline: Duration) -> Result<(Running, Pending), Error> {
        let mut kept = self.heartbeat.lock().await;
        let session = kept.take().filter(|session| !session.is_closed());
        let mut session = match session {
            Some(session) => session,
            None => Session::connect(&self.local_target("")?, deadline, deadline).await?,
        };
        let text = session.text("report its status", status::QUERY, &[], deadline).await?;
        let text = text.unwrap_or_default();
        let running = status::parse(&text)?;
        *kept = Some(session);
        Ok((running, pending::parse(&text)))
    }

    /// Whether replay is paused because the primary has higher settings than this standby.
    async fn outgrown(
        &self,
        running: &Running,
        postmaster: Option<&Postmaster>,
    ) -> Result<bool, Error> {
        let Some(postmaster) = postmaster.filter(|_| running.in_recovery && running.replay_paused)
        else {
            return Ok(false);
        };
        let minima = control::read(&self.places).await?.minima;
        Ok(pending::outgrown(&postmaster.arguments(), &minima))
    }

    /// Whether a server runs here that no guard would stop in time: somebody else started it.
    pub async fn unguarded(&self, deadline: Duration) -> bool {
        // This agent has started one, or a guard answers or is busy.
        if self.guard_runs().is_some() {
            return false;
        }
        let presence = guard_client::presence(self.guard_socket(), deadline).await;
        presence.is_ok_and(|presence| presence == guard_client::Presence::Absent)
    }

    /// Whether pg_rewind had begun to change the directory and did not finish.
    #[must_use]
    pub fn rewind_interrupted(&self) -> bool {
        let mark = files::read(&self.places.incomplete).ok().flatten();
        mark.as_deref() == Some(bootstrap::REWINDING)
    }

    fn standby_signal(&self) -> bool {
        self.places.data(conf::STANDBY_SIGNAL).exists()
    }

    async fn starting(&self, now: Boot) -> Result<Postgres, Error> {
        let control = control::read(&self.places).await?.data;
        let since = *self.memory().starting_since.get_or_insert(now);
        Ok(Postgres::Starting { since, standby: self.standby_signal(), control })
    }

    fn unresponsive(&self, now: Boot, problem: &Error) -> Postgres {
        let standby = self.standby_signal();
        let mut memory = self.memory();
        let since = *memory.unresponsive_since.get_or_insert(now);
        if memory.problem.is_none() {
            tracing::warn!(%problem, hint = problem.hint(), "PostgreSQL does not answer");
        }
        memory.problem = Some(problem.to_string());
        // PostgreSQL removes the signal file before it accepts the first write.
        Postgres::Unresponsive { since, writable: memory.writable || !standby }
    }

    async fn look_at_rest(&self) -> Result<Postgres, Error> {
        {
            let mut memory = self.memory();
            memory.unresponsive_since = None;
            memory.starting_since = None;
            memory.writable = false;
        }
        let data_dir = &self.places.data_dir;
        if files::is_empty_dir(data_dir)? {
            return Ok(Postgres::NoData);
        }
        let unfinished = files::read(&self.places.incomplete)?;
        if unfinished.as_deref() == Some(bootstrap::REWINDING) {
            return Ok(Postgres::Unreadable(format!(
                "a rewind of {} was interrupted",
                data_dir.display()
            )));
        }
        if unfinished.is_some() {
            return Ok(Postgres::NoData);
        }
        if !self.places.data("PG_VERSION").exists() {
            return Ok(Postgres::Unreadable(format!(
                "{} is not empty and holds no database system (no PG_VERSION); empty it, or name \
                 another postgresql.data_dir",
                data_dir.display()
            )));
        }
        let mut control = control::read(&self.places).await?.data;
        if self.places.data(BACKUP_LABEL).exists() {
            // A base backup that has never run: the control file still says what the source was
            // doing when it was copied.
            control.state = ControlState::InArchiveRecovery;
        }
        Ok(Postgres::Stopped(control))
    }
}

#[cfg(test)]
mod tests {
    use super::super::places::tests::config;
    use super::*;

    #[tokio::test]
    async fn directories_without_a_server() {
        let dir = tempfile::tempdir().expect("directory");
        let server = Server::new(&config(dir.path())).expect("server");
        let look = async || server.observe(Boot(1), Duration::from_secs(1)).await;
        assert_eq!(look().await, Postgres::NoData);
        std::fs::create_dir(server.data_dir()).expect("create");
        assert_eq!(look().await, Postgres::NoData);
        std::fs::write(server.data_dir().join("notes"), "mine").expect("write");
        let Postgres::Unreadable(reason) = look().await else { panic!("foreign data accepted") };
        assert!(reason.contains("no PG_VERSION"), "{reason}");
        std::fs::write(dir.path().join(".pg1.incomplete"), bootstrap::CLONING).expect("write");
        assert_eq!(look().await, Postgres::NoData);
        std::fs::write(dir.path().join(".pg1.incomplete"), bootstrap::REWINDING).expect("write");
        assert!(matches!(look().await, Postgres::Unreadable(_)));
    }
}
