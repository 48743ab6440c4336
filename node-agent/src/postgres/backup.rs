//! A copy of another server by pg_basebackup, and the removal of a data directory.

use super::command::Tool;
use super::conf::conninfo_value;
use super::process::Postmaster;
use super::{Error, Progress, Server, bootstrap, conf, files, passfile};
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

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
    /// Copies the server at `host`. The directory must be absent, empty or left over from an
    /// unfinished copy; it ends complete or empty. Dropping the future ends the program, and the
    /// next observation says `NoData`.
    ///
    /// # Errors
    /// When the directory is in use, the copy fails or takes longer than `deadline`.
    pub async fn basebackup(
        &self,
        host: &str,
        port: u16,
        mut report: impl FnMut(Progress) + Send,
        deadline: Duration,
    ) -> Result<(), Error> {
        self.must_be_unused("clone another server")?;
        let user = &self.places.replication()?.username;
        let source = format!(
            "host={} port={port} user={} sslmode=prefer application_name={}",
            conninfo_value(host),
            conninfo_value(user),
            conninfo_value(APPLICATION_NAME)
        );
        self.fill(bootstrap::CLONING, async {
            passfile::write(&self.places, &[(host.to_owned(), port)]).await?;
            let data_dir = &self.places.data_dir;
            std::fs::create_dir_all(data_dir).map_err(files::failed("create", data_dir))?;
            // PostgreSQL refuses a directory that others can enter.
            std::fs::set_permissions(data_dir, std::fs::Permissions::from_mode(0o700))
                .map_err(files::failed("protect", data_dir))?;
            let tool = Tool::new(&self.places.program("pg_basebackup"))
                .arg("--pgdata")
                .arg(data_dir)
                .arg("--wal-method=stream")
                .arg("--checkpoint=fast")
                .arg("--no-password")
                .arg("--progress")
                .arg(format!("--dbname={source}"))
                .env("PGPASSFILE", &self.places.pgpass);
            let mut seen = |line: &str| {
                if let Some(progress) = progress(line) {
                    report(progress);
                }
            };
            tool.run(deadline, &mut |_| {}, &mut seen).await?;
            self.forget_source()
        })
        .await
    }

    /// Removes what a copy or a rewind brings along and what is the source's own.
    pub(super) fn forget_source(&self) -> Result<(), Error> {
        for name in [conf::SYNC, conf::UPSTREAM, conf::RECOVERY_SIGNAL, "postmaster.opts"] {
            files::remove(&self.places.data(name))?;
        }
        Ok(())
    }

    /// Deletes the contents of the data directory.
    ///
    /// # Errors
    /// Refused while a server runs on it.
    pub async fn remove_data(&self) -> Result<(), Error> {
        if let Some(postmaster) = Postmaster::find(&self.places)? {
            return Err(Error::Refused {
                action: format!("delete {}", self.places.data_dir.display()),
                reason: format!("PostgreSQL runs on it (pid {})", postmaster.file.pid),
            });
        }
        self.fill(bootstrap::CLONING, std::future::ready(Ok(()))).await
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
