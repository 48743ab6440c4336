//! WAL of a stopped server that is in its archive only: a report of what a rewind would discard
//! reads it, as the rewind itself does.

use super::archive::command_for;
use super::command::Tool;
use super::{Effective, Error, Server, files};
use node_agent_core::postgres::Upstream;
use node_agent_wire::{Lsn, TimelineId};
use std::time::Duration;

/// One segment. Archives may be far away.
const FETCH_MAX: Duration = Duration::from_secs(300);
/// Where PostgreSQL too has its `restore_command` put a file.
const ASIDE: &str = "pg_wal/RECOVERYXLOG";

/// The number of a segment, of a whole one or a `.partial`, on this timeline.
fn number_of(name: &str, timeline: TimelineId, per_file: u64) -> Option<u64> {
    let part = |range: std::ops::Range<usize>| u64::from_str_radix(name.get(range)?, 16).ok();
    let ours = part(0..8)? == u64::from(timeline.0);
    ours.then(|| Some(part(8..16)? * per_file + part(16..24)?)).flatten()
}

/// The segments from `start` on that are missing before the first one that is there. The last ones
/// are there: only the oldest are removed.
fn missing(names: &[String], timeline: TimelineId, start: Lsn, segment_bytes: u64) -> Vec<String> {
    let bytes = segment_bytes.max(1);
    let (per_file, first) = ((1_u64 << 32) / bytes, start.0 / bytes);
    let numbers = names.iter().filter_map(|name| number_of(name, timeline, per_file));
    let there = numbers.filter(|number| *number >= first).min();
    let lacking = first..there.unwrap_or(first);
    let name = |n: u64| format!("{:08X}{:08X}{:08X}", timeline.0, n / per_file, n % per_file);
    lacking.map(name).collect()
}

impl Server {
    /// Writes the configuration that a rewind runs under: PostgreSQL is asked for its
    /// `restore_command` by it.
    ///
    /// # Errors
    /// When a file can't be written.
    pub async fn prepare_rewind(&self, settings: &Effective) -> Result<(), Error> {
        self.write_settings(settings).await?;
        self.write_upstream(&Upstream::Nobody, settings).await.map(|_| ())
    }

    /// Puts what `pg_wal` lacks from `start` on back from the archive. What can't be fetched is
    /// missing later, with a better message.
    pub(super) async fn fetch_archived(
        &self,
        timeline: TimelineId,
        start: Lsn,
        segment_bytes: u64,
    ) -> Result<(), Error> {
        let wal = self.places.data("pg_wal");
        let entries = std::fs::read_dir(&wal).map_err(files::failed("read", &wal))?;
        let names = entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
        let lacking = missing(&names.collect::<Vec<_>>(), timeline, start, segment_bytes);
        if lacking.is_empty() {
            return Ok(());
        }
        let Some(template) = self.setting_at_rest("restore_command").await? else { return Ok(()) };
        for file in lacking {
            let line = command_for(&template, ASIDE, &file);
            let fetched = Tool::configured(&["sh".to_owned(), "-c".to_owned(), line])
                .current_dir(&self.places.data_dir)
                .run(FETCH_MAX, &mut |_| {}, &mut |_| {})
                .await;
            if let Err(error) = fetched {
                let hint = error.hint();
                tracing::warn!(%error, hint, file, "not fetched from the archive");
                return Ok(());
            }
            std::fs::rename(self.places.data(ASIDE), wal.join(&file))
                .map_err(files::failed("rename in", &wal))?;
            tracing::info!(file, "fetched from the archive, for the report");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_missing_before_the_first_segment_is_fetched() {
        let names: Vec<String> = [
            "000000010000000000000007",
            "000000010000000100000001.partial",
            "000000020000000000000005",
            "00000002.history",
            "archive_status",
        ]
        .map(str::to_owned)
        .into();
        let lacks = |timeline, start| missing(&names, TimelineId(timeline), Lsn(start), 16 << 20);
        assert_eq!(lacks(1, 0x0500_0060), ["000000010000000000000005", "000000010000000000000006"]);
        assert!(lacks(1, 0x0700_0000).is_empty());
        assert_eq!(lacks(1, 0xFF00_0000), ["0000000100000000000000FF", "000000010000000100000000"]);
        assert!(lacks(3, 0x0500_0000).is_empty(), "it stopped at the end of a segment");
    }
}
