//! What a rewind or a new clone would discard: the WAL of this stopped server after the fork,
//! counted, described and, where asked, kept. Nothing is discarded silently (invariant I8).

use super::archive::segment_of;
use super::command::Tool;
use super::process::Postmaster;
use super::{Error, Server, control, files};
use node_agent_wire::history::TimelineHistory;
use node_agent_wire::{Lsn, TimelineId};
use serde::{Serialize, Serializer};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::PoisonError;
use std::time::Duration;

/// Reading the WAL of a long divergence; past it the report says that it is incomplete.
const WALDUMP_DEADLINE: Duration = Duration::from_secs(120);
/// A report for people: beyond this many relations only their number grows.
const RELATIONS_MAX: usize = 1000;

/// … and beyond this many transactions.
const COMMITS_MAX: usize = 10_000;

/// What pg_waldump says where the WAL ends.
const END_OF_WAL: [&str; 3] =
    ["invalid record length", "could not find a valid record after", "invalid magic number"];

/// What would be discarded. Also a JSON file beside the data directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Divergence {
    /// The timeline that was written to.
    #[serde(serialize_with = "timeline_number")]
    pub timeline: TimelineId,
    /// Timelines that this server began after it, by promotions of its own.
    pub later_timelines: Vec<u32>,
    /// Where the surviving history left `timeline`.
    #[serde(serialize_with = "lsn_text")]
    pub fork: Lsn,
    /// The end of the last record found.
    #[serde(serialize_with = "lsn_text")]
    pub end: Lsn,
    /// From fork to end, bytes of WAL.
    pub bytes: u64,
    /// Committed transactions.
    pub transactions: u64,
    /// Commit time of the first of them, UTC.
    pub first_commit: Option<String>,
    /// Commit time of the last of them, UTC.
    pub last_commit: Option<String>,
    /// Each of them, in the order of the WAL.
    pub commits: Vec<Commit>,
    /// Committed transactions beyond those listed.
    pub commits_not_listed: u64,
    /// Relations with changes, most changes first.
    pub relations: Vec<ChangedRelation>,
    /// Relations with changes beyond those listed.
    pub relations_not_listed: usize,
    /// The WAL was read to its end within the deadline.
    pub complete: bool,
    /// Why it was not; empty when it was.
    pub stopped_at: String,
    /// The sealed vault that the WAL is kept in, when it is.
    pub kept_in: Option<PathBuf>,
    /// The segments kept.
    pub kept_segments: Vec<String>,
    /// This report as a file.
    pub report: PathBuf,
}

/// A transaction that would be discarded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Commit {
    /// Its number.
    pub xid: u32,
    /// When it was committed, UTC.
    pub at: String,
    /// Where its commit record begins.
    #[serde(serialize_with = "lsn_text")]
    pub lsn: Lsn,
}

/// A relation by its file, as the WAL names it; [`Server::name_relations`] adds the names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ChangedRelation {
    /// The tablespace's oid.
    pub tablespace: u32,
    /// The database's oid; 0 for relations that all databases share.
    pub database: u32,
    /// The file's number.
    pub filenode: u32,
    /// The database's name, where known.
    pub database_name: Option<String>,
    /// The table, or the table of the index, where known.
    pub table: Option<String>,
    /// WAL records that touch it.
    pub records: u64,
}

fn lsn_text<S: Serializer>(lsn: &Lsn, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(lsn)
}

fn timeline_number<S: Serializer>(timeline: &TimelineId, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u32(timeline.0)
}

/// A part of one timeline.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Stretch {
    pub(super) timeline: TimelineId,
    pub(super) start: Lsn,
    pub(super) end: Option<Lsn>,
}

/// What this server wrote after `fork` on `timeline`, over all timelines that it began later.
pub(super) fn stretches(own: &TimelineHistory, timeline: TimelineId, fork: Lsn) -> Vec<Stretch> {
    let mut found = vec![Stretch { timeline, start: fork, end: None }];
    let Some(at) = own.ancestors.iter().position(|ancestor| ancestor.timeline == timeline) else {
        return found;
    };
    let later = own.ancestors.iter().skip(at + 1).map(|ancestor| ancestor.timeline);
    let mut later = later.chain([own.timeline]);
    for ancestor in &own.ancestors[at..] {
        if let (Some(last), Some(timeline)) = (found.last_mut(), later.next()) {
            last.end = Some(ancestor.ended_at);
            found.push(Stretch { timeline, start: ancestor.ended_at, end: None });
        }
    }
    // A promotion right at the fork leaves nothing on the timeline before it.
    found.retain(|stretch| stretch.end.is_none_or(|end| end > stretch.start));
    found
}

/// Counts the records that pg_waldump prints.
#[derive(Default)]
struct Tally {
    end: Option<Lsn>,
    /// Where the last record begins.
    last: Option<Lsn>,
    transactions: u64,
    first_commit: Option<String>,
    last_commit: Option<String>,
    commits: Vec<Commit>,
    relations: BTreeMap<(u32, u32, u32), u64>,
}

/// The text between `start` and `end`, trimmed.
pub(super) fn between<'a>(line: &'a str, start: &str, end: &str) -> Option<&'a str> {
    let rest = &line[line.find(start)? + start.len()..];
    Some(rest[..rest.find(end)?].trim())
}

impl Tally {
    /// A line as `rmgr: Heap len (rec/tot): 54/ 54, tx: 7, lsn: 0/1, prev 0/1, desc: INSERT …,
    /// blkref #0: rel 1663/5/16384 blk 0` (the spacing differs between versions).
    ///
    /// False for a line that is none.
    fn record(&mut self, line: &str) -> bool {
        let Some(lsn) = between(line, "lsn:", ",").and_then(|t| t.parse::<Lsn>().ok()) else {
            return false;
        };
        // Records are aligned to 8 bytes; their total length does not say so.
        let length = between(line, "len (rec/tot):", ",")
            .and_then(|lengths| lengths.rsplit('/').next()?.trim().parse::<u64>().ok())
            .unwrap_or(0);
        self.last = self.last.max(Some(lsn));
        self.end = self.end.max(Some(Lsn(lsn.0.saturating_add(length.next_multiple_of(8)))));
        if let Some((_, description)) = line.split_once("desc: ")
            && line.trim_start().starts_with("rmgr: Transaction")
            && description.starts_with("COMMIT")
        {
            self.transactions += 1;
            // `COMMIT time`, or `COMMIT_PREPARED transaction: time`.
            let prepared = description.split_whitespace().nth(1).and_then(|w| w.strip_suffix(':'));
            let xid = prepared.or(between(line, "tx:", ",")).and_then(|xid| xid.parse().ok());
            let words = description.split_whitespace().skip(1).skip_while(|w| w.ends_with(':'));
            let at = words.take(3).collect::<Vec<_>>().join(" ");
            let at = at.trim_end_matches([';', ',']).to_owned();
            self.first_commit.get_or_insert_with(|| at.clone());
            if self.commits.len() < COMMITS_MAX {
                self.commits.push(Commit { xid: xid.unwrap_or(0), at: at.clone(), lsn });
            }
            self.last_commit = Some(at);
        }
        let mut seen = Vec::new();
        for reference in line.split("rel ").skip(1) {
            let path = reference.split([' ', ',', ';']).next().unwrap_or("");
            let numbers: Vec<u32> = path.split('/').filter_map(|n| n.parse().ok()).collect();
            if let [tablespace, database, filenode] = numbers[..] {
                let relation = (tablespace, database, filenode);
                if !seen.contains(&relation) {
                    seen.push(relation);
                    *self.relations.entry(relation).or_default() += 1;
                }
            }
        }
        true
    }

    fn relations(&self) -> (Vec<ChangedRelation>, usize) {
        let mut all: Vec<ChangedRelation> = self
            .relations
            .iter()
            .map(|((tablespace, database, filenode), records)| ChangedRelation {
                tablespace: *tablespace,
                database: *database,
                filenode: *filenode,
                database_name: None,
                table: None,
                records: *records,
            })
            .collect();
        all.sort_by_key(|relation| std::cmp::Reverse(relation.records));
        let beyond = all.len().saturating_sub(RELATIONS_MAX);
        all.truncate(RELATIONS_MAX);
        (all, beyond)
    }
}

/// The segments of a timeline that hold anything from `fork` on.
fn segments_from(
    names: impl Iterator<Item = String>,
    timeline: TimelineId,
    fork: Lsn,
    segment_bytes: u64,
) -> Vec<String> {
    let per_file = (1u64 << 32) / segment_bytes.max(1);
    let first = fork.0 / segment_bytes.max(1);
    let mut kept: Vec<String> = names
        .filter(|name| {
            let part = |range: std::ops::Range<usize>| {
                name.get(range).and_then(|hex| u64::from_str_radix(hex, 16).ok())
            };
            let whole = name.len() == 24 || (name.len() == 32 && name.ends_with(".partial"));
            let number = part(8..16).zip(part(16..24)).map(|(high, low)| high * per_file + low);
            whole
                && part(0..8) == Some(u64::from(timeline.0))
                && number.is_some_and(|number| number >= first)
        })
        .collect();
    kept.sort();
    kept
}

fn text_of(report: &Divergence) -> Result<String, Error> {
    let text = serde_json::to_string_pretty(report).map_err(|e| Error::Answer {
        what: "the divergence report".to_owned(),
        answer: e.to_string(),
    })?;
    Ok(format!("{text}\n"))
}

impl Server {
    /// What this stopped server has after `fork` on `timeline`; the WAL segments that hold it are
    /// sealed in the vault `keep_in` when given. Nothing of the server is changed, but that WAL
    /// that is in the archive only is put back.
    ///
    /// # Errors
    /// Refused while the server runs. When the WAL at the fork can't be read, the report can't be
    /// written or the vault can't be sealed: then nothing may be discarded.
    pub async fn divergence_report(
        &self,
        fork: Lsn,
        timeline: TimelineId,
        keep_in: Option<PathBuf>,
    ) -> Result<Divergence, Error> {
        if let Some(postmaster) = Postmaster::find(&self.places)? {
            return Err(Error::Refused {
                action: "read the diverged WAL".to_owned(),
                reason: format!("PostgreSQL runs (pid {})", postmaster.file.pid),
            });
        }
        let segment_bytes = control::read(&self.places).await?.segment_bytes;
        let stretches = stretches(&self.history_at_rest().await?, timeline, fork);
        let mut tally = Tally::default();
        let (mut stopped_at, mut complete) = (String::new(), true);
        let mut segments = Vec::new();
        for stretch in &stretches {
            self.fetch_archived(stretch.timeline, stretch.start, segment_bytes).await?;
            let beyond = self.segments_of(stretch, segment_bytes)?;
            if stretch.end.is_none() && beyond.is_empty() {
                // It stopped at the end of a segment: there is no file to read from.
                continue;
            }
            if let Some(reason) = self.read_wal(stretch, &mut tally).await? {
                complete = false;
                stopped_at = reason;
            }
            segments.extend(beyond);
        }
        let end = tally.end.unwrap_or(fork).max(fork);
        let listed = u64::try_from(tally.commits.len()).unwrap_or(u64::MAX);
        let (relations, relations_not_listed) = tally.relations();
        let name = format!(
            "{}.divergence-{timeline}-{:X}-{:X}.json",
            self.places.name,
            fork.0 >> 32,
            fork.0 & 0xFFFF_FFFF
        );
        let mut report = Divergence {
            timeline,
            later_timelines: stretches.iter().skip(1).map(|s| s.timeline.0).collect(),
            fork,
            end,
            bytes: end.bytes_since(fork),
            transactions: tally.transactions,
            first_commit: tally.first_commit,
            last_commit: tally.last_commit,
            commits_not_listed: tally.transactions.saturating_sub(listed),
            commits: tally.commits,
            relations,
            relations_not_listed,
            stopped_at,
            complete,
            kept_in: None,
            kept_segments: Vec::new(),
            report: self.places.beside(&name),
        };
        self.write_report(&report).await?;
        if let Some(vault) = keep_in {
            let text = text_of(&report)?;
            report.kept_in = Some(self.seal_vault(&vault, &segments, text).await?);
            report.kept_segments = segments;
            self.write_report(&report).await?;
        }
        Ok(report)
    }

    /// The beginning of the last whole record of the stopped server's WAL on `timeline`, read from
    /// `from` on, where one begins.
    ///
    /// # Errors
    /// Refused while the server runs. When the WAL can't be read to its end in time.
    pub async fn last_record(&self, timeline: TimelineId, from: Lsn) -> Result<Lsn, Error> {
        if let Some(postmaster) = Postmaster::find(&self.places)? {
            return Err(Error::Refused {
                action: "read the end of WAL".to_owned(),
                reason: format!("PostgreSQL runs (pid {})", postmaster.file.pid),
            });
        }
        let mut tally = Tally::default();
        let stretch = Stretch { timeline, start: from, end: None };
        let stopped = self.read_wal(&stretch, &mut tally).await?;
        match (stopped, tally.last) {
            (None, Some(last)) => Ok(last),
            (Some(answer), _) => Err(Error::Answer { what: "the end of WAL".to_owned(), answer }),
            (None, None) => Err(Error::Answer {
                what: "pg_waldump".to_owned(),
                answer: format!("no record at {from} on timeline {timeline}"),
            }),
        }
    }

    /// Notes a report whose vault is sealed, where there is to be one, for whoever asks.
    pub fn note_report(&self, report: Divergence) {
        *self.report.lock().unwrap_or_else(PoisonError::into_inner) = Some(report);
    }

    /// The last report since the agent started.
    #[must_use]
    pub fn last_report(&self) -> Option<Divergence> {
        self.report.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The report as a file.
    pub(super) async fn write_report(&self, report: &Divergence) -> Result<(), Error> {
        files::write(&report.report, text_of(report)?).await?;
        Ok(())
    }

    /// pg_waldump over a stretch, with the files that it begins and ends in. Without a file it
    /// takes the size of segments from any one in the directory, and one that was made in advance
    /// is all zeros.
    pub(super) fn waldump(&self, stretch: &Stretch, segment_bytes: u64) -> Tool {
        let mut tool = Tool::new(&self.places.program("pg_waldump"))
            .arg(format!("--path={}", self.places.data("pg_wal").display()))
            .arg(format!("--timeline={}", stretch.timeline))
            .arg(format!("--start={}", stretch.start));
        if let Some(end) = stretch.end {
            tool = tool.arg(format!("--end={end}"));
        }
        let name = |lsn| segment_of(stretch.timeline, lsn, segment_bytes);
        let first = name(stretch.start);
        let last = match stretch.end {
            Some(end) => Some(name(Lsn(end.0.saturating_sub(1).max(stretch.start.0)))),
            None => self.segments_of(stretch, segment_bytes).ok().and_then(|all| {
                all.into_iter().filter(|n| n.len() == first.len() && n[..8] == first[..8]).max()
            }),
        };
        let there = |name: &String| self.places.data("pg_wal").join(name).exists();
        match last.filter(|last| there(last) && there(&first)) {
            Some(last) => tool.arg(first).arg(last),
            None => tool,
        }
    }

    /// Counts the records of a stretch. `Some` reason when it could not be read to its end.
    async fn read_wal(
        &self,
        stretch: &Stretch,
        tally: &mut Tally,
    ) -> Result<Option<String>, Error> {
        let segment_bytes = control::read(&self.places).await?.segment_bytes;
        let tool = self.waldump(stretch, segment_bytes).env("TZ", "UTC");
        let mut found = false;
        let mut count = |line: &str| found |= tally.record(line);
        match tool.run_leniently(WALDUMP_DEADLINE, &mut count, &mut |_| {}).await {
            // It ends with an error at the end of the WAL. Without a record before it that is a
            // failure, unless the server stopped right at the start of the stretch.
            Ok((status, stderr)) => {
                let at_the_end = END_OF_WAL.iter().any(|words| stderr.contains(words));
                if found || status.success() || at_the_end {
                    return Ok(None);
                }
                let status = status.to_string();
                Err(Error::Command { program: "pg_waldump".to_owned(), status, stderr })
            }
            Err(Error::Deadline { waited, .. }) => {
                Ok(Some(format!("pg_waldump took longer than {waited:?}")))
            }
            Err(error) => Err(error),
        }
    }

    /// The files that hold anything of the stretch, or come after it on its timeline.
    pub(super) fn segments_of(
        &self,
        stretch: &Stretch,
        segment_bytes: u64,
    ) -> Result<Vec<String>, Error> {
        let wal = self.places.data("pg_wal");
        let entries = std::fs::read_dir(&wal).map_err(files::failed("read", &wal))?;
        let names = entries.flatten().map(|e| e.file_name().to_string_lossy().into_owned());
        Ok(segments_from(names, stretch.timeline, stretch.start, segment_bytes))
    }
}

#[cfg(test)]
#[path = "divergence_tests.rs"]
mod tests;
