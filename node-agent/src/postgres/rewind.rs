//! Making a diverged data directory follow again, by pg_rewind.

use super::command::Tool;
use super::conf::conninfo_value;
use super::leftover::WORKS_ON;
use super::process::Postmaster;
use super::{Effective, Error, Server, archive, bootstrap, conf, connection, files, passfile};
use node_agent_core::decision::RewindTo;
use std::time::Duration;

/// pg_rewind writes this to stderr before it changes the first file (PostgreSQL source,
/// `pg_rewind.c`; with --progress).
const ABOUT_TO_CHANGE: &str = "need to copy";
/// Asking a source whether it is well.
const HEALTH_DEADLINE: Duration = Duration::from_secs(5);

/// A rewind that did not work.
#[derive(Debug)]
pub struct RewindFailure {
    /// Why.
    pub error: Error,
    /// pg_rewind itself failed while its source was well: trying again is of no use.
    pub hopeless: bool,
}

impl From<Error> for RewindFailure {
    fn from(error: Error) -> Self {
        Self { error, hopeless: false }
    }
}

impl Server {
    /// Rewinds this stopped server to one of `to`. Call
    /// [`Server::divergence_report`] first: what is discarded is gone afterwards. WAL that waits to
    /// be archived is archived first; WAL that pg_rewind misses comes from the archive, where
    /// `restore_command` is configured. On return the directory is a standby's, to be started with
    /// `StartAs::Standby`.
    ///
    /// # Errors
    /// Refused while a server runs here or while no host will do. When pg_rewind fails
    /// before it has changed anything, the directory is as it was; after that it must be rewound
    /// again or cloned anew, and is observed as unreadable.
    pub async fn rewind(
        &self,
        to: &RewindTo,
        settings: &Effective,
        deadline: Duration,
    ) -> Result<(), RewindFailure> {
        let refuse = |reason: String| Error::Refused {
            action: format!("rewind {}", self.places.data_dir.display()),
            reason,
        };
        if let Some(postmaster) = Postmaster::find(&self.places)? {
            return Err(refuse(format!("PostgreSQL runs (pid {})", postmaster.file.pid)).into());
        }
        let mut source = self.find_source(&to.hosts, deadline).await?;
        let (host, port) = (source.identity.host.clone(), source.identity.port);
        if source.identity.in_recovery && !to.standby {
            let reason = format!("no source is read-write; {host}:{port} is a standby");
            return Err(refuse(reason).into());
        }
        self.await_checkpoint(&mut source, deadline).await?;
        let standby = source.identity.in_recovery;
        tracing::info!(host, port, standby, "the server that this one is rewound to");
        drop(source);
        passfile::write(&self.places, &[(host.clone(), port)]).await?;
        // pg_rewind asks PostgreSQL for its restore_command.
        self.prepare_rewind(settings).await?;
        self.archive_ready(archive::MAX).await;
        // A crashed server is recovered by pg_rewind in single-user mode, which a standby refuses.
        files::remove(&self.places.data(conf::STANDBY_SIGNAL))?;
        if let Err(error) = self.run_rewind((&host, port), to.standby, deadline).await {
            let hopeless = matches!(error, Error::Command { .. })
                && self
                    .remote_identity(&[(host, port)], HEALTH_DEADLINE)
                    .await
                    .is_ok_and(|source| to.standby || !source.in_recovery);
            return Err(RewindFailure { error, hopeless });
        }
        self.forget_source()?;
        files::clear_dir(&self.places.data("pg_replslot")).await?;
        files::write(&self.places.data(conf::STANDBY_SIGNAL), String::new()).await?;
        files::remove(&self.places.incomplete)?;
        Ok(())
    }

    /// The configuration file to name to pg_rewind, which looks for it in the data directory: it
    /// runs PostgreSQL to recover a crashed server. Up to PostgreSQL 14 it cannot be named.
    fn config_elsewhere(&self, major: u32) -> Option<std::path::PathBuf> {
        let file = self.places.main_conf();
        (major >= 15 && file != self.places.data("postgresql.conf")).then_some(file)
    }

    /// Runs the program. The mark stays: the caller removes it when all is done.
    async fn run_rewind(
        &self,
        (host, port): (&str, u16),
        standby: bool,
        deadline: Duration,
    ) -> Result<(), Error> {
        let attributes = if standby { "any" } else { "read-write" };
        let superuser = self.places.superuser();
        let user = self.places.rewind_user().unwrap_or(superuser);
        let user = self.towards(user, &[(host.to_owned(), port)]);
        let given = connection::for_program(&self.places, &user, self.major().await?).await?;
        let source = format!(
            "host={} port={port} user={} dbname={} {} connect_timeout=10 \
             target_session_attrs={attributes} application_name='node-agent rewind'",
            conninfo_value(host),
            conninfo_value(&user.username),
            conninfo_value(&self.places.database),
            given.conninfo
        );
        let before = files::read(&self.places.incomplete)?;
        let archived = self.setting_at_rest("restore_command").await?.is_some();
        self.mark(bootstrap::REWINDING).await?;
        let mut changed = before.is_some();
        let mut note = |line: &str| {
            if line.contains(ABOUT_TO_CHANGE) {
                changed = true;
                tracing::info!("{line}");
            }
        };
        let mut tool = Tool::new(&self.places.program("pg_rewind"))
            .arg("--target-pgdata")
            .arg(&self.places.data_dir)
            .arg("--progress")
            .arg(format!("--source-server={source}"))
            .env(WORKS_ON, &self.places.data_dir)
            .env("PGPASSFILE", &self.places.pgpass)
            .env("PGSERVICEFILE", given.service_file.unwrap_or_default());
        let conf = self.places.main_conf();
        if !conf.starts_with(&self.places.data_dir) && self.major().await? >= 15 {
            // For the programs that it runs on the target: single-user recovery, `restore_command`.
            tool = tool.arg(format!("--config-file={}", conf.display()));
        }
        if archived {
            tool = tool.arg("--restore-target-wal");
        }
        if let Some(file) = self.config_elsewhere(self.major().await?) {
            tool = tool.arg(format!("--config-file={}", file.display()));
        }
        let result = tool.run(deadline, &mut |_| {}, &mut note).await;
        if result.is_err() && !changed {
            // As it was, and never to be started as a primary by somebody else's hand.
            files::write(&self.places.data(conf::STANDBY_SIGNAL), String::new()).await?;
            files::remove(&self.places.incomplete)?;
        }
        result
    }
}

#[cfg(test)]
mod tests {
    use super::super::places::tests::config;
    use super::*;
    use std::path::Path;

    #[test]
    fn a_configuration_elsewhere_is_named_where_that_is_possible() {
        let mut config = config(Path::new("/x"));
        let server = |config| Server::new(&config).expect("server");
        for major in 13..=18 {
            assert_eq!(server(config.clone()).config_elsewhere(major), None, "{major}");
        }
        config.postgresql.other.insert("config_dir".into(), "/etc/pg".into());
        let named = Some("/etc/pg/postgresql.conf".into());
        for (major, file) in [(13, None), (14, None), (15, named.clone()), (18, named)] {
            assert_eq!(server(config.clone()).config_elsewhere(major), file, "{major}");
        }
    }
}
