//! How much a rewind or a copy would move: counted beforehand, and nothing is changed.
//!
//! pg_rewind fetches from its source every block that the local WAL has touched since the last
//! checkpoint before the fork, relations that are new there, what relations are longer there, and
//! everything that is no relation, WAL included, as a whole (PostgreSQL source, `filemap.c`). The
//! same is counted here, by the same list of the source's files.

use super::archive::segment_of;
use super::divergence::{Stretch, between, stretches};
use super::{Error, Server, control, files};
use node_agent_wire::history::TimelineHistory;
use node_agent_wire::{Lsn, TimelineId};
use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::Path;
use std::time::Duration;

/// Reading the WAL of one stretch.
const WALDUMP_DEADLINE: Duration = Duration::from_secs(60);
/// Touched blocks beyond this number are not told apart: each costs memory.
const BLOCKS_MAX: usize = 2_000_000;

/// Contents that neither a rewind nor a base backup copies (PostgreSQL manual, pg_basebackup).
const CONTENTS: [&str; 7] = [
    "pg_stat_tmp",
    "pg_replslot",
    "pg_dynshmem",
    "pg_notify",
    "pg_serial",
    "pg_snapshots",
    "pg_subtrans",
];
/// … and files.
const FILES: [&str; 7] = [
    "postgresql.auto.conf.tmp",
    "current_logfiles.tmp",
    "backup_label",
    "tablespace_map",
    "backup_manifest",
    "postmaster.pid",
    "postmaster.opts",
];
/// Each file as `path<tab>size`, one a line: the query of pg_rewind (`libpq_source.c`).
const LIST: &str = "
WITH RECURSIVE files (path, filename, size, isdir) AS (
  SELECT '' AS path, filename, size, isdir
  FROM (SELECT pg_ls_dir('.', true, false) AS filename) AS fn,
       pg_stat_file(fn.filename, true) AS this
  UNION ALL
  SELECT parent.path || parent.filename || '/' AS path, fn, this.size, this.isdir
  FROM files AS parent,
       pg_ls_dir(parent.path || parent.filename, true, false) AS fn,
       pg_stat_file(parent.path || parent.filename || '/' || fn, true) AS this
  WHERE parent.isdir
)
SELECT string_agg(path || filename || chr(9) || size, chr(10)) FROM files WHERE NOT isdir";

/// What a rewind would move, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Survey {
    /// As pg_rewind counts it now; it grows with the source.
    pub fetched: u64,
    /// All files of the source: a rewind never fetches more.
    pub at_most: u64,
}

/// A block of a relation's main fork: tablespace, database, file, number.
type Block = (u32, u32, u32, u32);

/// The blocks that a line of pg_waldump names: `blkref #0: rel 1663/5/16384 blk 7`. Other forks,
/// `rel 1663/5/16384 fork vm blk 0`, are fetched as a whole.
fn blocks(line: &str) -> impl Iterator<Item = Block> + '_ {
    line.split("rel ").skip(1).filter_map(|reference| {
        let mut words = reference.split([' ', ',', ';']).filter(|word| !word.is_empty());
        let numbers: Vec<u32> = words.next()?.split('/').filter_map(|n| n.parse().ok()).collect();
        let number = words.next().filter(|word| *word == "blk").and_then(|_| words.next())?;
        match numbers[..] {
            [tablespace, database, file] => {
                Some((tablespace, database, file, number.parse().ok()?))
            }
            _ => None,
        }
    })
}

fn left_out(path: &str) -> bool {
    let name = path.rsplit('/').next().unwrap_or(path);
    let within = |dir: &&str| path.strip_prefix(dir).is_some_and(|rest| rest.starts_with('/'));
    CONTENTS.iter().any(within)
        || FILES.contains(&name)
        || name.starts_with("pg_internal.init")
        || path.contains("pgsql_tmp")
}

/// A file of a relation's main fork, or a further segment of it.
fn is_relation(path: &str) -> bool {
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let file = |name: &str| match name.split_once('.') {
        Some((file, segment)) => digits(file) && digits(segment),
        None => digits(name),
    };
    match path.split('/').collect::<Vec<_>>()[..] {
        ["global", name] => file(name),
        ["base", database, name] => digits(database) && file(name),
        ["pg_tblspc", space, _, database, name] => digits(space) && digits(database) && file(name),
        _ => false,
    }
}

/// Bytes of files that pg_rewind fetches beside touched blocks, and of all files. `local`: the size
/// of the local file, where there is one.
fn whole_files<'a>(
    source: impl Iterator<Item = (&'a str, u64)>,
    local: impl Fn(&str) -> Option<u64>,
) -> (u64, u64) {
    let (mut fetched, mut all) = (0_u64, 0_u64);
    for (path, size) in source.filter(|(path, _)| !left_out(path)) {
        all = all.saturating_add(size);
        let own = if is_relation(path) { local(path).unwrap_or(0) } else { 0 };
        fetched = fetched.saturating_add(size.saturating_sub(own));
    }
    (fetched, all)
}

fn entry(line: &str) -> Option<(&str, u64)> {
    let (path, size) = line.rsplit_once('\t')?;
    Some((path, size.parse().ok()?))
}

/// Bytes below a directory as a base backup sends them: without WAL, and without what is left out.
/// Links are followed, as for tablespaces.
fn bytes_below(root: &Path, below: &str) -> io::Result<u64> {
    let mut all = 0_u64;
    for file in fs::read_dir(root.join(below))?.flatten() {
        let name = file.file_name().to_string_lossy().into_owned();
        let path = if below.is_empty() { name } else { format!("{below}/{name}") };
        // A file that vanishes meanwhile is none.
        let Ok(found) = fs::metadata(root.join(&path)) else { continue };
        if left_out(&path) || path == "pg_wal" {
            continue;
        }
        let bytes =
            if found.is_dir() { bytes_below(root, &path).unwrap_or(0) } else { found.len() };
        all = all.saturating_add(bytes);
    }
    Ok(all)
}

impl Server {
    /// Bytes that a base backup of this server sends, without the WAL that is written meanwhile.
    ///
    /// # Errors
    /// When the data directory can't be read.
    pub async fn data_bytes(&self) -> Result<u64, Error> {
        let dir = self.places.data_dir.clone();
        let work = tokio::task::spawn_blocking(move || bytes_below(&dir, ""));
        let bytes = work.await.unwrap_or_else(|error| Err(io::Error::other(error)));
        bytes.map_err(files::failed("read", &self.places.data_dir))
    }

    /// What a rewind of this server to one of `hosts` would fetch, when its history `own` has left
    /// that of the source at `fork` on `timeline`. `None`: the local WAL has no checkpoint before
    /// that, so pg_rewind would fail. The server may run.
    ///
    /// # Errors
    /// When no host answers or lets its files be listed, or the local WAL can't be read.
    pub async fn survey_rewind(
        &self,
        hosts: &[(String, u16)],
        own: &TimelineHistory,
        (timeline, fork): (TimelineId, Lsn),
        deadline: Duration,
    ) -> Result<Option<Survey>, Error> {
        let control = control::read(&self.places).await?;
        let bytes = control.segment_bytes;
        let Some(from) = self.checkpoint_before(own, (timeline, fork), bytes).await? else {
            return Ok(None);
        };
        let touched = self.touched_blocks(own, from, bytes).await?;
        let mut source = self.find_source(hosts, deadline).await?;
        let list = source.session.text("list its files", LIST, &[], deadline).await?;
        let (list, dir) = (list.unwrap_or_default(), self.places.data_dir.clone());
        let compare = move || {
            let local = |path: &str| fs::metadata(dir.join(path)).ok().map(|file| file.len());
            whole_files(list.lines().filter_map(entry), local)
        };
        let compared = tokio::task::spawn_blocking(compare).await.map_err(io::Error::other);
        let (files, at_most) = compared.map_err(files::failed("compare", &self.places.data_dir))?;
        let touched = u64::try_from(touched.len()).unwrap_or(u64::MAX);
        let fetched = files.saturating_add(touched.saturating_mul(control.block_bytes));
        Ok(Some(Survey { fetched: fetched.min(at_most), at_most }))
    }

    /// The last checkpoint that begins before `fork`, as pg_rewind looks for it: with the timeline
    /// of the file that it is in.
    async fn checkpoint_before(
        &self,
        own: &TimelineHistory,
        (timeline, fork): (TimelineId, Lsn),
        segment_bytes: u64,
    ) -> Result<Option<(TimelineId, Lsn)>, Error> {
        let ancestors = own.ancestors.iter().map(|ancestor| ancestor.timeline);
        let mut lineage: Vec<TimelineId> =
            ancestors.chain([own.timeline]).filter(|t| *t <= timeline).collect();
        lineage.reverse();
        let bytes = segment_bytes.max(1);
        let mut number = fork.0 / bytes;
        let mut end = fork;
        loop {
            let start = Lsn(number * bytes);
            let there =
                |on: &&TimelineId| self.places.data("pg_wal").join(segment_of(**on, start, bytes));
            if end > start {
                let found = lineage.iter().find(|on| there(on).exists());
                let Some(on) = found.copied() else { return Ok(None) };
                let stretch = Stretch { timeline: on, start, end: Some(end) };
                if let Some(checkpoint) = self.last_checkpoint(&stretch, bytes).await? {
                    return Ok(Some((on, checkpoint)));
                }
            }
            if number == 0 {
                return Ok(None);
            }
            number -= 1;
            end = start;
        }
    }

    async fn last_checkpoint(
        &self,
        stretch: &Stretch,
        segment_bytes: u64,
    ) -> Result<Option<Lsn>, Error> {
        let mut last = None;
        let mut look = |line: &str| {
            if line.contains("desc: CHECKPOINT_SHUTDOWN")
                || line.contains("desc: CHECKPOINT_ONLINE")
            {
                last = between(line, "lsn:", ",").and_then(|t| t.parse().ok()).or(last);
            }
        };
        let tool = self.waldump(stretch, segment_bytes).arg("--rmgr=XLOG");
        // It ends with an error where the WAL does: what it has printed counts.
        tool.run_leniently(WALDUMP_DEADLINE, &mut look, &mut |_| {}).await?;
        Ok(last)
    }

    async fn touched_blocks(
        &self,
        own: &TimelineHistory,
        (timeline, from): (TimelineId, Lsn),
        segment_bytes: u64,
    ) -> Result<BTreeSet<Block>, Error> {
        let mut touched = BTreeSet::new();
        for stretch in stretches(own, timeline, from) {
            if stretch.end.is_none() && self.segments_of(&stretch, segment_bytes)?.is_empty() {
                continue;
            }
            let mut count = |line: &str| touched.extend(blocks(line));
            let tool = self.waldump(&stretch, segment_bytes);
            tool.run_leniently(WALDUMP_DEADLINE, &mut count, &mut |_| {}).await?;
            if touched.len() > BLOCKS_MAX {
                return Err(Error::Answer {
                    what: "the WAL since the last common checkpoint".to_owned(),
                    answer: format!("more than {BLOCKS_MAX} blocks"),
                });
            }
        }
        Ok(touched)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_of_the_main_fork() {
        let line = "rmgr: Heap len (rec/tot): 54/ 8214, tx: 7, lsn: 0/1, desc: UPDATE off 1, \
                    blkref #0: rel 1663/5/16384 blk 7 FPW, \
                    blkref #1: rel 1663/5/16384 fork vm blk 0, \
                    blkref #2: rel 1663/5/16390 blk 2";
        assert_eq!(blocks(line).collect::<Vec<_>>(), [(1663, 5, 16384, 7), (1663, 5, 16390, 2)]);
        assert_eq!(blocks("rmgr: XLOG desc: CHECKPOINT_ONLINE redo 0/1").count(), 0);
    }

    #[test]
    fn relations_by_their_blocks_and_everything_else_as_a_whole() {
        let source = [
            ("base/5/100", 8192),   // longer there
            ("base/5/101.1", 500),  // new there
            ("base/5/102", 4096),   // shorter there
            ("base/5/100_fsm", 24), // no main fork
            ("base/5/pg_filenode.map", 512),
            ("pg_tblspc/7/PG_15_1/5/9", 10), // new there
            ("global/1262", 8192),           // the same
            ("pg_wal/000000010000000000000003", 1000),
            ("global/pg_control", 8192),
            ("pg_replslot/a/state", 200), // left out, as all that follows
            ("base/5/pgsql_tmp/pgsql_tmp1.0", 9999),
            ("global/pg_internal.init", 9999),
            ("postmaster.pid", 100),
        ];
        let local = |path: &str| match path {
            "base/5/100" => Some(8000),
            "base/5/102" | "global/1262" => Some(8192),
            "base/5/100_fsm" => Some(24),
            _ => None,
        };
        let (fetched, all) = whole_files(source.into_iter(), local);
        assert_eq!(fetched, 192 + 500 + 24 + 512 + 10 + 1000 + 8192);
        assert_eq!(all, 8192 + 500 + 4096 + 24 + 512 + 10 + 8192 + 1000 + 8192);
        assert_eq!(entry("base/1/a b\t77"), Some(("base/1/a b", 77)));
        assert_eq!(entry("nothing"), None);
    }

    #[test]
    fn a_base_backup_sends_no_wal() {
        let dir = tempfile::tempdir().expect("directory");
        for (path, size) in [
            ("base/5/1", 700),
            ("PG_VERSION", 3),
            ("pg_wal/0001", 900),
            ("pg_replslot/x/state", 50),
            ("postmaster.pid", 20),
        ] {
            let file = dir.path().join(path);
            fs::create_dir_all(file.parent().expect("parent")).expect("directory");
            fs::write(file, vec![0; size]).expect("write");
        }
        assert_eq!(bytes_below(dir.path(), "").expect("read"), 703);
        assert!(bytes_below(&dir.path().join("gone"), "").is_err());
    }
}
