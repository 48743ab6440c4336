//! WAL of a stopped server that still waits to be archived: a rewind would take it away, and the
//! archive would have a gap.

use super::command::Tool;
use super::{Error, Server, files};
use std::path::Path;
use std::time::Duration;

/// Archiving all that waits; what is not done by then is not archived.
pub(super) const MAX: Duration = Duration::from_secs(300);
/// PostgreSQL reads its configuration files.
const SETTING_DEADLINE: Duration = Duration::from_secs(10);
/// Where PostgreSQL notes what waits (`NAME.ready`) and what is done (`NAME.done`).
const STATUS: &str = "pg_wal/archive_status";

/// `archive_command` for one file: `%p`, `%f` and `%%` are replaced as PostgreSQL does.
fn command_for(template: &str, file: &str) -> String {
    let mut command = String::new();
    let mut letters = template.chars();
    while let Some(c) = letters.next() {
        if c != '%' {
            command.push(c);
            continue;
        }
        match letters.next() {
            Some('p') => command.push_str(&format!("pg_wal/{file}")),
            Some('f') => command.push_str(file),
            Some('%') => command.push('%'),
            Some(other) => command.extend(['%', other]),
            None => command.push('%'),
        }
    }
    command
}

/// Files that wait, in order: histories first, as PostgreSQL does.
fn waiting(status: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(status).into_iter().flatten().flatten();
    let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
    let mut files: Vec<String> =
        names.filter_map(|name| Some(name.strip_suffix(".ready")?.to_owned())).collect();
    files.sort_by_key(|file| (!file.ends_with(".history"), file.clone()));
    files
}

impl Server {
    /// A setting of the stopped server, as PostgreSQL itself reads its files; `None` when empty.
    pub(super) async fn setting_at_rest(&self, name: &str) -> Result<Option<String>, Error> {
        let data_dir = &self.places.data_dir;
        let text = Tool::new(&self.places.program("postgres"))
            .arg("-D")
            .arg(data_dir)
            .arg(format!("--config-file={}", self.places.main_conf().display()))
            .arg("-C")
            .arg(name)
            .output(SETTING_DEADLINE)
            .await?;
        Ok(Some(text.trim().to_owned()).filter(|value| !value.is_empty()))
    }

    /// Archives what waits. What fails stays where it is, with a line in the log: the report of a
    /// divergence keeps that WAL too.
    pub(super) async fn archive_ready(&self, deadline: Duration) {
        let status = self.places.data(STATUS);
        let files = waiting(&status);
        if files.is_empty() {
            return;
        }
        let count = files.len();
        match tokio::time::timeout(deadline, self.archive_all(&status, files)).await {
            Ok(Ok(0)) => {}
            Ok(Ok(done)) => tracing::info!(done, "archived the WAL that was waiting"),
            Ok(Err(error)) => {
                let hint = error.hint();
                tracing::warn!(%error, hint, count, "WAL that waits is not archived");
            }
            Err(_) => tracing::warn!(count, "archiving what waits takes too long; going on"),
        }
    }

    async fn archive_all(&self, status: &Path, files: Vec<String>) -> Result<usize, Error> {
        let mode = self.setting_at_rest("archive_mode").await?;
        let command = self.setting_at_rest("archive_command").await?;
        let (Some("on" | "always"), Some(command)) = (mode.as_deref(), command) else {
            return Ok(0);
        };
        let mut done = 0;
        for file in files {
            Tool::configured(&["sh".to_owned(), "-c".to_owned(), command_for(&command, &file)])
                .current_dir(&self.places.data_dir)
                .run(MAX, &mut |_| {}, &mut |_| {})
                .await?;
            let (from, to) = (format!("{file}.ready"), format!("{file}.done"));
            std::fs::rename(status.join(from), status.join(to))
                .map_err(files::failed("rename in", status))?;
            done += 1;
        }
        Ok(done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_of_one_file() {
        for (template, command) in
            [("cp %p /a/%f", "cp pg_wal/0001 /a/0001"), ("x '%%f' %q %", "x '%f' %q %")]
        {
            assert_eq!(command_for(template, "0001"), command);
        }
    }

    #[test]
    fn histories_wait_first() {
        let dir = tempfile::tempdir().expect("directory");
        for name in ["0002.ready", "0001.ready", "0001.done", "3.history.ready"] {
            std::fs::write(dir.path().join(name), "").expect("write");
        }
        assert_eq!(waiting(dir.path()), ["3.history", "0001", "0002"]);
        assert!(waiting(&dir.path().join("absent")).is_empty());
    }
}
