//! A copy of another server or of a backup, by the methods that are configured.

use super::command::Tool;
use super::conf::conninfo_value;
use super::leftover::WORKS_ON;
use super::method::{ConfiguredCommand, CopyMethod};
use super::process::Postmaster;
use super::{Error, Server, bootstrap, conf, connection, control, files, passfile};
use node_agent_core::directory::Progress;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::Duration;

/// A copied one is another server's.
const PID: &str = "postmaster.pid";
/// Not the member's name: under that name the copy could count as a synchronous standby.
const APPLICATION_NAME: &str = "node-agent clone";

/// Reads a progress line of pg_basebackup, `  1234/5678 kB (21%), 0/1 tablespace`.
fn progress(line: &str) -> Option<Progress> {
    let (done, rest) = line.trim_start().split_once('/')?;
    let (total, rest) = rest.split_once(' ')?;
    let (done, total) = (done.parse::<u64>().ok()?, total.parse::<u64>().ok()?);
    let bytes = |kb: u64| kb.saturating_mul(1024);
    rest.starts_with("kB").then(|| Progress { done_bytes: bytes(done), total_bytes: bytes(total) })
}

impl Server {
    /// Fills the directory by the first method that succeeds. It must be absent, empty or left over
    /// from an unfinished copy. `source`: the server to copy, where there is one. Dropping the
    /// future ends the program, and the next observation says `NoData`.
    ///
    /// # Errors
    /// When the directory is in use, or the error of the last method.
    pub async fn copy(
        &self,
        methods: &[CopyMethod],
        source: Option<(&str, u16)>,
        report: &mut (dyn FnMut(Progress) + Send),
        deadline: Duration,
    ) -> Result<(), Error> {
        self.must_be_unused("fill the data directory")?;
        let mut last = Error::Refused {
            action: "fill the data directory".to_owned(),
            reason: "no configured method works without a leader to copy".to_owned(),
        };
        for method in methods {
            if source.is_none() && !method.leaderless() {
                continue;
            }
            tracing::info!(method = method.name(), "filling the data directory");
            match self.copy_by(method, source, report, deadline).await {
                Ok(()) => return Ok(()),
                Err(error) => {
                    let (hint, method) = (error.hint(), method.name());
                    tracing::warn!(%error, hint, method, "this method did not fill it");
                    last = error;
                }
            }
        }
        Err(last)
    }

    async fn copy_by(
        &self,
        method: &CopyMethod,
        source: Option<(&str, u16)>,
        report: &mut (dyn FnMut(Progress) + Send),
        deadline: Duration,
    ) -> Result<(), Error> {
        if let Some((host, port)) = source {
            passfile::write(&self.places, &[(host.to_owned(), port)]).await?;
        }
        match (method, source) {
            (CopyMethod::Basebackup(options), Some(source)) => {
                let work = self.basebackup(source, options, report, deadline);
                self.fill(bootstrap::CLONING, false, work).await
            }
            (CopyMethod::Basebackup(_), None) => Err(Error::Refused {
                action: "take a base backup".to_owned(),
                reason: "there is no server to copy".to_owned(),
            }),
            (CopyMethod::Command { command, keep_data, .. }, source) => {
                let work = self.copy_command(command, source, deadline);
                self.fill(bootstrap::CLONING, *keep_data, work).await
            }
        }
    }

    /// A connection string without a password or another secret, for libpq with the password file;
    /// and the service file, where there is one.
    async fn source_conninfo(
        &self,
        (host, port): (&str, u16),
    ) -> Result<(String, Option<PathBuf>), Error> {
        let user = self.towards(self.places.replication()?, &[(host.to_owned(), port)]);
        let given = connection::for_program(&self.places, &user, self.major().await?).await?;
        let conninfo = format!(
            "host={} port={port} user={} {} application_name={}",
            conninfo_value(host),
            conninfo_value(&user.username),
            given.conninfo,
            conninfo_value(APPLICATION_NAME)
        );
        Ok((conninfo, given.service_file))
    }

    fn make_private_dir(&self) -> Result<(), Error> {
        let data_dir = &self.places.data_dir;
        std::fs::create_dir_all(data_dir).map_err(files::failed("create", data_dir))?;
        // PostgreSQL refuses a directory that others can enter.
        std::fs::set_permissions(data_dir, std::fs::Permissions::from_mode(0o700))
            .map_err(files::failed("protect", data_dir))
    }

    async fn basebackup(
        &self,
        source: (&str, u16),
        options: &[String],
        report: &mut (dyn FnMut(Progress) + Send),
        deadline: Duration,
    ) -> Result<(), Error> {
        self.make_private_dir()?;
        let (conninfo, service_file) = self.source_conninfo(source).await?;
        let mut tool = Tool::new(&self.places.program("pg_basebackup"))
            .arg("--pgdata")
            .arg(&self.places.data_dir)
            .arg("--wal-method=stream")
            .arg("--checkpoint=fast")
            .arg("--no-password")
            .arg("--progress")
            .arg(format!("--dbname={conninfo}"))
            .env(WORKS_ON, &self.places.data_dir)
            .env("PGPASSFILE", &self.places.pgpass)
            .env("PGSERVICEFILE", service_file.unwrap_or_default());
        for option in options {
            tool = tool.arg(option);
        }
        let mut seen = |line: &str| {
            if let Some(progress) = progress(line) {
                report(progress);
            }
        };
        tool.run(deadline, &mut |_| {}, &mut seen).await?;
        self.forget_source()
    }

    /// A method of the configuration (contract E.5).
    async fn copy_command(
        &self,
        command: &ConfiguredCommand,
        source: Option<(&str, u16)>,
        deadline: Duration,
    ) -> Result<(), Error> {
        self.make_private_dir()?;
        let mut tool = Tool::configured(&command.words);
        for option in &command.options {
            tool = tool.arg(option);
        }
        if !command.no_params {
            let conninfo = match source {
                Some(source) => {
                    let (conninfo, service_file) = self.source_conninfo(source).await?;
                    tool = tool.env("PGSERVICEFILE", service_file.unwrap_or_default());
                    Some(conninfo)
                }
                None => None,
            };
            let dbname =
                |c: String| format!("dbname={} {c}", conninfo_value(&self.places.database));
            tool = tool
                .arg(format!("--scope={}", self.places.scope))
                .arg("--role=replica")
                .arg(format!("--datadir={}", self.places.data_dir.display()))
                .arg(format!("--connstring={}", conninfo.map(dbname).unwrap_or_default()));
        }
        let tool = tool.env("PGPASSFILE", &self.places.pgpass);
        let tool = tool.env(WORKS_ON, &self.places.data_dir);
        let name = command.words.first().cloned().unwrap_or_default();
        let mut said = |line: &str| tracing::info!(command = name, "{line}");
        let mut warned = |line: &str| tracing::info!(command = name, "{line}");
        tool.run(deadline, &mut said, &mut warned).await?;
        // What the command has made must be a database system.
        control::read(&self.places).await?;
        self.forget_source()
    }

    /// Removes what a copy or a rewind brings along and what is the source's own.
    pub(super) fn forget_source(&self) -> Result<(), Error> {
        for name in [conf::SYNC, conf::UPSTREAM, conf::RECOVERY_SIGNAL, "postmaster.opts", PID] {
            files::remove(&self.places.data(name))?;
        }
        Ok(())
    }

    /// Gives the contents of the data directory up: from here on it counts as one that holds no
    /// data, whatever happens, and the next copy replaces it.
    ///
    /// # Errors
    /// Refused while a server runs on it.
    pub async fn give_up_data(&self) -> Result<(), Error> {
        if let Some(postmaster) = Postmaster::find(&self.places)? {
            return Err(Error::Refused {
                action: format!("replace {}", self.places.data_dir.display()),
                reason: format!("PostgreSQL runs on it (pid {})", postmaster.file.pid),
            });
        }
        self.end_leftovers().await?;
        self.mark(bootstrap::CLONING).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_lines() {
        assert_eq!(
            progress("  23/46 kB (50%), 0/1 tablespace"),
            Some(Progress { done_bytes: 23 * 1024, total_bytes: 46 * 1024 })
        );
        for other in ["", "waiting for checkpoint", "1/2 MB", "pg_basebackup: error: x/y kB"] {
            assert_eq!(progress(other), None, "{other}");
        }
    }
}
