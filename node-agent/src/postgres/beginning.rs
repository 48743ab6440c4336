//! How the timelines of a data directory begin: read from its WAL, and kept in a file in it, which
//! every copy and every pg_rewind takes along with the data that it is true of.

use super::divergence::Stretch;
use super::history::Source;
use super::wal_page::{Layout, Piece, hex, unhex};
use super::{Error, Server, control, files};
use node_agent_core::beginning::{Beginning, Beginnings, SameWal, Shared, shared};
use node_agent_wire::history::TimelineHistory;
use node_agent_wire::{Lsn, TimelineId};
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;
use std::time::Duration;

/// Its name in the data directory.
const FILE: &str = "node_agent.timelines";
/// A longer file is none of this agent's.
const FILE_BYTES_MAX: i64 = 1024 * 1024;
/// So much WAL is compared where a beginning is not known.
const COMPARED_BYTES: u64 = 256 * 1024;
/// Less than this is not worth it: the segment before has more.
const COMPARED_BYTES_MIN: u64 = 64 * 1024;
/// Reading that much WAL.
const WALDUMP_DEADLINE: Duration = Duration::from_secs(5);
/// Beginnings that are looked for in the WAL of another server at a time.
const ASKED_MAX: usize = 2;

/// The oldest WAL that a server has; which timeline it is on does not matter.
const OLDEST: &str = "SELECT min(substr(name, 9)) FROM pg_ls_dir('pg_wal', true, false) name
WHERE name ~ '^[0-9A-F]{24}$'";

const READ: &str =
    "SELECT encode(pg_read_binary_file($1::text, $2::bigint, $3::bigint, true), 'hex')";

/// The steps of one history, newest first.
fn steps(history: &TimelineHistory) -> Vec<Shared> {
    shared(history, history)
}

/// The timelines whose files can hold the first record of one: its own, or a later one that began
/// in the same segment, into which PostgreSQL copies what was before.
fn files_of(step: &Shared, steps: &[Shared], layout: Layout) -> Vec<TimelineId> {
    let segment = |lsn: Lsn| lsn.0 / layout.segment.max(1);
    let mut later: Vec<TimelineId> = steps
        .iter()
        .filter(|s| s.timeline > step.timeline && segment(s.at) == segment(step.at))
        .map(|s| s.timeline)
        .collect();
    later.push(step.timeline);
    later.reverse();
    later
}

fn parse(text: &str) -> Beginnings {
    serde_json::from_str(text).unwrap_or_else(|error| {
        tracing::warn!(file = FILE, %error, "it is passed over");
        Beginnings::new()
    })
}

/// Only what belongs to this history.
fn fitting(mut all: Beginnings, steps: &[Shared]) -> Beginnings {
    all.retain(|timeline, b| steps.iter().any(|s| s.timeline == *timeline && s.at == b.at));
    all
}

fn read_piece(wal: &Path, piece: &Piece) -> Option<Vec<u8>> {
    let mut file = std::fs::File::open(wal.join(&piece.file)).ok()?;
    file.seek(SeekFrom::Start(piece.offset)).ok()?;
    let mut bytes = Vec::new();
    file.take(piece.bytes).read_to_end(&mut bytes).ok()?;
    Some(bytes)
}

fn read_pieces(wal: &Path, pieces: &[Piece]) -> Option<Vec<u8>> {
    let mut all = Vec::new();
    for piece in pieces {
        match read_piece(wal, piece) {
            Some(bytes) => all.extend(bytes),
            // The next segment may not be there yet.
            None if !all.is_empty() => break,
            None => return None,
        }
    }
    Some(all)
}

/// Where the segment begins whose name ends so.
fn segment_begins(digits: &str, segment_bytes: u64) -> Option<Lsn> {
    let part = |range| u64::from_str_radix(digits.get(range)?, 16).ok();
    let (high, low) = (part(0..8)?, part(8..16)?);
    Some(Lsn((high << 32) | low.checked_mul(segment_bytes)?))
}

fn begun(layout: Layout, bytes: &[u8], step: &Shared, until: Lsn) -> Option<Beginning> {
    let (record, end) = layout.record(bytes, step.at)?;
    // What is not on disk for good may still become another record.
    (end <= until).then(|| Beginning { at: step.at, record: hex(&record) })
}

impl Source {
    async fn read(
        &mut self,
        file: &str,
        at: (i64, i64),
        deadline: Duration,
    ) -> Result<Option<Vec<u8>>, Error> {
        let what = format!("read {file}");
        let text = self.session.text(&what, READ, &[&file, &at.0, &at.1], deadline).await?;
        Ok(text.and_then(|text| unhex(&text)))
    }

    async fn read_wal(
        &mut self,
        pieces: &[Piece],
        deadline: Duration,
    ) -> Result<Option<Vec<u8>>, Error> {
        let mut all = Vec::new();
        for piece in pieces {
            let number = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
            let at = (number(piece.offset), number(piece.bytes));
            match self.read(&format!("pg_wal/{}", piece.file), at, deadline).await? {
                Some(bytes) => all.extend(bytes),
                None if !all.is_empty() => break,
                None => return Ok(None),
            }
        }
        Ok(Some(all))
    }

    /// Where the oldest WAL that it has begins; `None` when that can't be told.
    async fn wal_since(&mut self, layout: Layout, deadline: Duration) -> Option<Lsn> {
        let digits = self.session.text("list its WAL", OLDEST, &[], deadline).await;
        segment_begins(&digits.ok()??, layout.segment)
    }

    /// How the timelines of its history begin: of the newest by its WAL where that is there, of the
    /// others by its file.
    async fn beginnings(
        &mut self,
        history: &TimelineHistory,
        layout: Layout,
        deadline: Duration,
    ) -> Result<Beginnings, Error> {
        let steps = steps(history);
        if steps.is_empty() {
            return Ok(Beginnings::new());
        }
        let text = self.read(FILE, (0, FILE_BYTES_MAX), deadline).await?;
        let text = text.map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        let mut known = fitting(text.as_deref().map(parse).unwrap_or_default(), &steps);
        let until = self.identity.lsn;
        for (nth, step) in steps.iter().enumerate().take(ASKED_MAX) {
            if nth > 0 && known.contains_key(&step.timeline) {
                continue;
            }
            for timeline in files_of(step, &steps, layout) {
                let pieces = layout.pieces(timeline, layout.page_of(step.at), 2 * layout.page);
                let Some(bytes) = self.read_wal(&pieces, deadline).await? else { continue };
                if let Some(found) = begun(layout, &bytes, step, until) {
                    known.insert(step.timeline, found);
                    break;
                }
            }
        }
        Ok(known)
    }
}

impl Server {
    async fn layout(&self) -> Result<Layout, Error> {
        let control = control::read(&self.places).await?;
        Ok(Layout { segment: control.segment_bytes, page: control.page_bytes })
    }

    /// How the timelines of the local history begin, as far as it can be told. `end`: everything
    /// before this position is on disk for good. What is new is kept.
    pub async fn beginnings(&self, history: &TimelineHistory, end: Lsn) -> Beginnings {
        let steps = steps(history);
        if steps.is_empty() {
            return Beginnings::new();
        }
        let path = self.places.data(FILE);
        let text = files::read(&path).ok().flatten();
        let kept = text.as_deref().map(parse).unwrap_or_default();
        let mut known = fitting(kept.clone(), &steps);
        if let Ok(layout) = self.layout().await {
            let wal = self.places.data("pg_wal");
            for step in &steps {
                if known.contains_key(&step.timeline) {
                    continue;
                }
                let found = files_of(step, &steps, layout).into_iter().find_map(|timeline| {
                    let pieces = layout.pieces(timeline, layout.page_of(step.at), 2 * layout.page);
                    begun(layout, &read_pieces(&wal, &pieces)?, step, end)
                });
                // What was found once stays: a stream that was begun too early would write over it.
                known.extend(found.map(|found| (step.timeline, found)));
            }
        }
        let unfinished = self.places.incomplete.exists();
        if known != kept && !unfinished && self.places.data("PG_VERSION").exists() {
            match serde_json::to_string(&known) {
                Ok(text) => {
                    if let Err(error) = files::write(&path, text).await {
                        tracing::warn!(%error, "how the timelines begin is not kept");
                    }
                }
                Err(error) => tracing::warn!(%error, "how the timelines begin is not kept"),
            }
        }
        known
    }

    /// The history of another server, how its timelines begin, and where the oldest WAL begins that
    /// it still has.
    ///
    /// # Errors
    /// When it does not answer in time, or the history file is absent or not understood.
    pub async fn past_of(
        &self,
        source: (&str, u16),
        deadline: Duration,
    ) -> Result<(TimelineHistory, Beginnings, Option<Lsn>), Error> {
        let layout = self.layout().await?;
        let target = self.remote_target(source.0, source.1);
        let ask = async {
            let mut source = super::history::identify(target, deadline).await?;
            let history = source.history(deadline).await?;
            let beginnings = source.beginnings(&history, layout, deadline).await?;
            let wal_since = source.wal_since(layout, deadline).await;
            Ok((history, beginnings, wal_since))
        };
        tokio::time::timeout(deadline, ask).await.unwrap_or_else(|_| {
            Err(Error::Deadline { what: "a timeline history".to_owned(), waited: deadline })
        })
    }

    /// Compares the local WAL of a timeline with that of another server, byte by byte, as far as
    /// both have it before `until`. `None` when they don't have enough.
    ///
    /// # Errors
    /// When the other server does not answer in time.
    pub async fn same_wal(
        &self,
        source: (&str, u16),
        step: Shared,
        until: Lsn,
        deadline: Duration,
    ) -> Result<Option<SameWal>, Error> {
        let layout = self.layout().await?;
        let Some((start, end)) = window(layout, step.at, until) else { return Ok(None) };
        let pieces = layout.pieces(step.timeline, start, end.bytes_since(start));
        let Some(mine) = read_pieces(&self.places.data("pg_wal"), &pieces) else { return Ok(None) };
        let target = self.remote_target(source.0, source.1);
        let ask = async {
            super::history::identify(target, deadline).await?.read_wal(&pieces, deadline).await
        };
        let late = || Error::Deadline { what: "WAL of the source".to_owned(), waited: deadline };
        let theirs = tokio::time::timeout(deadline, ask).await.unwrap_or_else(|_| Err(late()))?;
        let Some(theirs) = theirs else { return Ok(None) };
        let same = mine == theirs
            && self.holds_a_moment(step.timeline, (start, end), layout.segment).await;
        Ok(Some(SameWal { timeline: step.timeline, until, same }))
    }

    /// Whether a record that holds the microsecond when it was written is between the positions.
    async fn holds_a_moment(
        &self,
        timeline: TimelineId,
        (start, end): (Lsn, Lsn),
        segment_bytes: u64,
    ) -> bool {
        let mut found = false;
        let mut look = |line: &str| {
            let transaction = line.trim_start().starts_with("rmgr: Transaction");
            let ends = line.contains("desc: COMMIT") || line.contains("desc: ABORT");
            found |= transaction && ends || line.contains("desc: END_OF_RECOVERY");
        };
        let tool = self.waldump(&Stretch { timeline, start, end: Some(end) }, segment_bytes);
        // It may end with an error at the end: what it has printed counts.
        let run = tool.run_leniently(WALDUMP_DEADLINE, &mut look, &mut |_| {}).await;
        run.is_ok() && found
    }
}

/// What is compared: as much as one segment has before `until`, at most [`COMPARED_BYTES`], of this
/// timeline only.
fn window(layout: Layout, begun: Lsn, until: Lsn) -> Option<(Lsn, Lsn)> {
    let segment = layout.segment.max(1);
    let mut end = until.0;
    if end % segment < COMPARED_BYTES_MIN && end - end % segment > begun.0 {
        end -= end % segment;
    }
    let first = end.saturating_sub(1) / segment * segment;
    let start = end.saturating_sub(COMPARED_BYTES).max(first).max(begun.0);
    (start < end).then_some((Lsn(start), Lsn(end)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MB: u64 = 1 << 20;
    const LAYOUT: Layout = Layout { segment: 16 * MB, page: 8192 };

    #[test]
    fn what_is_compared() {
        for (begun, until, expected) in [
            (0, 40 * MB, Some((40 * MB - COMPARED_BYTES, 40 * MB))),
            // Too little in this segment: the end of the one before.
            (0, 32 * MB + 100, Some((32 * MB - COMPARED_BYTES, 32 * MB))),
            (0, 32 * MB, Some((32 * MB - COMPARED_BYTES, 32 * MB))),
            (0, 32 * MB + 100_000, Some((32 * MB, 32 * MB + 100_000))),
            // Not before the beginning.
            (40 * MB - 50, 40 * MB, Some((40 * MB - 50, 40 * MB))),
            (32 * MB + 40, 32 * MB + 100, Some((32 * MB + 40, 32 * MB + 100))),
            (40 * MB, 40 * MB, None),
        ] {
            let window = window(LAYOUT, Lsn(begun), Lsn(until)).map(|(a, b)| (a.0, b.0));
            assert_eq!(window, expected, "{begun} {until}");
        }
    }

    #[test]
    fn the_oldest_wal() {
        for (digits, segment, expected) in [
            ("0000000000000004", 16 * MB, Some(64 * MB)),
            ("00000002000000FF", 16 * MB, Some((2 << 32) + 0xFF * 16 * MB)),
            ("0000000100000000", 64 * MB, Some(1 << 32)),
            ("x", MB, None),
        ] {
            assert_eq!(segment_begins(digits, segment), expected.map(Lsn), "{digits}");
        }
    }

    #[test]
    fn the_files_that_hold_a_first_record() {
        let text = "1\t0/3000000\tx\n2\t0/3000100\tx\n3\t0/5000000\tx\n";
        let history = TimelineHistory::parse(TimelineId(4), text).expect("history");
        let steps = steps(&history);
        let files: Vec<Vec<u32>> = steps
            .iter()
            .map(|step| files_of(step, &steps, LAYOUT).iter().map(|t| t.0).collect())
            .collect();
        assert_eq!(files, [vec![4], vec![3], vec![2, 3]]);
    }
}
