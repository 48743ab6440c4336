//! WAL of a stopped server that still waits to be archived: a rewind would take it away, and the
//! archive would have a gap.

use super::command::Tool;
use super::{Error, Server, control, files};
use node_agent_core::postgres::ControlData;
use node_agent_wire::{Lsn, TimelineId};
use std::path::Path;
use std::time::Duration;

/// Archiving all that waits; what is not done by then is not archived.
pub(super) const MAX: Duration = Duration::from_secs(300);
/// The same for a node that is to be a standby soon.
const WAITING_MAX: Duration = Duration::from_secs(60);
/// PostgreSQL reads its configuration files.
const SETTING_DEADLINE: Duration = Duration::from_secs(10);
/// Where PostgreSQL notes what waits (`NAME.ready`) and what is done (`NAME.done`).
const STATUS: &str = "pg_wal/archive_status";

/// `archive_command` or `restore_command` for one file: `%p`, `%f`, `%r` and `%%` are replaced as
/// PostgreSQL does.
pub(super) fn command_for(template: &str, path: &str, file: &str) -> String {
    let mut command = String::new();
    let mut letters = template.chars();
    while let Some(c) = letters.next() {
        if c != '%' {
            command.push(c);
            continue;
        }
        match letters.next() {
            Some('p') => command.push_str(path),
            // Nothing older than the file itself is needed.
            Some('f' | 'r') => command.push_str(file),
            Some('%') => command.push('%'),
            Some(other) => command.extend(['%', other]),
            None => command.push('%'),
        }
    }
    command
}

/// The name of the segment that holds `lsn` (PostgreSQL source, `XLogFileName`).
pub(super) fn segment_of(timeline: TimelineId, lsn: Lsn, segment_bytes: u64) -> String {
    let bytes = segment_bytes.max(1);
    let (number, per_file) = (lsn.0 / bytes, ((1 << 32) / bytes).max(1));
    format!("{:08X}{:08X}{:08X}", timeline.0, number / per_file, number % per_file)
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

    /// `archive_command`, when PostgreSQL archives by one; the server may run or not.
    ///
    /// # Errors
    /// When PostgreSQL can't read its files.
    pub async fn archive_command(&self) -> Result<Option<String>, Error> {
        let mode = self.setting_at_rest("archive_mode").await?;
        let archives = matches!(mode.as_deref(), Some("on" | "always"));
        Ok(self.setting_at_rest("archive_command").await?.filter(|_| archives))
    }

    /// Archives the segment that the shutdown checkpoint of this stopped primary is in, which
    /// PostgreSQL leaves out: it switches segments before. Returns its name.
    ///
    /// # Errors
    /// When there is no command, or it fails or passes its deadline.
    pub async fn archive_checkpoint(&self, control: &ControlData) -> Result<String, Error> {
        let bytes = control::read(&self.places).await?.segment_bytes;
        let file = segment_of(control.timeline, control.checkpoint, bytes);
        let command = self.archive_command().await?.ok_or_else(|| Error::Refused {
            action: format!("archive {file}"),
            reason: "archive_command is empty".to_owned(),
        })?;
        self.archive_file(&command, &file).await?;
        Ok(file)
    }

    async fn archive_file(&self, command: &str, file: &str) -> Result<(), Error> {
        let line = command_for(command, &format!("pg_wal/{file}"), file);
        Tool::configured(&["sh".to_owned(), "-c".to_owned(), line])
            .current_dir(&self.places.data_dir)
            .run(MAX, &mut |_| {}, &mut |_| {})
            .await
    }

    /// Archives what waits, before this server becomes a standby, which archives nothing.
    pub async fn archive_waiting(&self) {
        self.archive_ready(WAITING_MAX).await;
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
        let Some(command) = self.archive_command().await? else { return Ok(0) };
        let mut done = 0;
        for file in files {
            self.archive_file(&command, &file).await?;
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
            [("cp %p /a/%f", "cp pg_wal/x /a/0001"), ("r %r '%%f' %q %", "r 0001 '%f' %q %")]
        {
            assert_eq!(command_for(template, "pg_wal/x", "0001"), command);
        }
    }

    #[test]
    fn the_segment_of_a_position() {
        const MB: u64 = 1024 * 1024;
        for (lsn, bytes, name) in [
            (0x0400_0028, 16 * MB, "000000020000000000000004"),
            (0x3_FF00_0000, 16 * MB, "0000000200000003000000FF"),
            (0x1_0000_0000, 64 * MB, "000000020000000100000000"),
        ] {
            assert_eq!(segment_of(TimelineId(2), Lsn(lsn), bytes), name);
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
