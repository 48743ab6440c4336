//! Logical slots: made on a primary, copied to a standby as the file that PostgreSQL keeps of each,
//! and moved along there.
//!
//! The file (`pg_replslot/NAME/state`, PostgreSQL's `src/backend/replication/slot.c`) is read from
//! the leader, checked, and written while the standby is stopped: PostgreSQL reads its slots at its
//! start, and does not start with one that is garbled.

use super::process::Postmaster;
use super::session::Session;
use super::{Error, QUERY_DEADLINE, Server, control, files};
use node_agent_wire::{Lsn, SlotName};
use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Making a logical slot waits for the transactions that run; moving one reads WAL.
const LOGICAL_DEADLINE: Duration = Duration::from_secs(60);
/// More WAL than this is not fetched for a slot whose consumer is away.
const SEGMENTS_MAX: u64 = 64;
/// Bytes before the part that is about the slot: magic, checksum, version, length.
const HEADER: usize = 16;
/// What the file begins with.
const MAGIC: u32 = 0x0105_1CA1;
/// Bytes of a name.
const NAME_BYTES: usize = 64;

/// A logical slot of another server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlotFile {
    /// Its name.
    pub name: SlotName,
    /// It needs WAL from here on.
    pub restart_lsn: Lsn,
    bytes: Vec<u8>,
}

/// CRC-32C as PostgreSQL computes it.
fn crc32c(bytes: &[u8]) -> u32 {
    let step = |crc: u32, byte: &u8| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            if crc & 1 == 1 { (crc >> 1) ^ 0x82F6_3B78 } else { crc >> 1 }
        })
    };
    !bytes.iter().fold(u32::MAX, step)
}

/// Why a state file is not one of this logical slot; `None` when it is.
fn fault(name: &SlotName, bytes: &[u8]) -> Option<&'static str> {
    let number = |at: usize| {
        let four: [u8; 4] = bytes.get(at..at + 4)?.try_into().ok()?;
        Some(u32::from_ne_bytes(four))
    };
    let length = number(12).and_then(|n| usize::try_from(n).ok());
    if number(0) != Some(MAGIC) {
        return Some("it does not begin as a slot does");
    }
    if length != bytes.len().checked_sub(HEADER) {
        return Some("its length is not what it says");
    }
    if number(4) != bytes.get(8..).map(crc32c) {
        return Some("its checksum is wrong");
    }
    let field = bytes.get(HEADER..HEADER + NAME_BYTES).unwrap_or_default();
    let end = field.iter().position(|b| *b == 0).unwrap_or(field.len());
    if field.get(..end) != Some(name.as_str().as_bytes()) {
        return Some("it is of another slot");
    }
    let (database, persistency) = (number(HEADER + NAME_BYTES), number(HEADER + NAME_BYTES + 4));
    if database.is_none_or(|oid| oid == 0) {
        return Some("it is of a physical slot");
    }
    (persistency != Some(0)).then_some("the slot is not complete yet")
}

/// Writes one slot: aside, synced, renamed.
fn write_slot(slots: &Path, file: &SlotFile) -> std::io::Result<()> {
    let target = slots.join(file.name.as_str());
    // PostgreSQL removes directories of this name at its start.
    let aside: PathBuf = slots.join(format!("{}.tmp", file.name));
    match std::fs::remove_dir_all(&aside) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e),
        Ok(()) | Err(_) => {}
    }
    std::fs::DirBuilder::new().mode(0o700).create(&aside)?;
    let state = aside.join("state");
    let mut out =
        std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(state)?;
    std::io::Write::write_all(&mut out, &file.bytes)?;
    out.sync_all()?;
    std::fs::File::open(&aside)?.sync_all()?;
    std::fs::rename(&aside, &target)?;
    std::fs::File::open(slots)?.sync_all()
}

/// The number of a WAL segment by its file's name, whatever its timeline.
fn segment(name: &str, segment_bytes: u64) -> Option<u64> {
    let part = |range: std::ops::Range<usize>| u64::from_str_radix(name.get(range)?, 16).ok();
    let whole = name.len() == 24;
    let per_file = (1u64 << 32).checked_div(segment_bytes)?;
    whole.then(|| Some(part(8..16)? * per_file + part(16..24)?)).flatten()
}

impl Server {
    /// `catalog_xmin` of every slot of another server.
    ///
    /// # Errors
    /// When it does not answer in time.
    pub async fn slots_of(
        &self,
        host: &str,
        port: u16,
        deadline: Duration,
    ) -> Result<BTreeMap<SlotName, Option<u32>>, Error> {
        let sql = "SELECT slot_name::text, catalog_xmin::text::bigint FROM pg_replication_slots";
        let mut session =
            Session::connect(&self.remote_target(host, port), deadline, deadline).await?;
        let rows = session.rows("list its slots", sql, &[], deadline).await?;
        let slot = |row: &tokio_postgres::Row| {
            let name: String = row.try_get(0).ok()?;
            let xmin: Option<i64> = row.try_get(1).ok()?;
            Some((SlotName::parse(&name)?, xmin.and_then(|x| u32::try_from(x).ok())))
        };
        Ok(rows.iter().filter_map(slot).collect())
    }

    /// Reads logical slots of another server, as the user of pg_rewind or the superuser. Slots that
    /// it does not have are not among the answer.
    ///
    /// # Errors
    /// When it does not answer in time, or a file is not what it should be.
    pub async fn read_slots(
        &self,
        host: &str,
        port: u16,
        names: &BTreeSet<SlotName>,
        deadline: Duration,
    ) -> Result<Vec<SlotFile>, Error> {
        let sql = "SELECT slot_name::text, restart_lsn::text,
              pg_read_binary_file('pg_replslot/' || slot_name || '/state')
            FROM pg_replication_slots
            WHERE slot_type = 'logical' AND NOT temporary AND restart_lsn IS NOT NULL
              AND slot_name::text = ANY($1)";
        let names: Vec<&str> = names.iter().map(SlotName::as_str).collect();
        let mut session =
            Session::connect(&self.remote_target(host, port), deadline, deadline).await?;
        let rows = session.rows("read its logical slots", sql, &[&names], deadline).await?;
        let mut found = Vec::new();
        for row in &rows {
            let bad = |why: &str| Error::Answer {
                what: format!("a logical slot of {host}:{port}"),
                answer: why.to_owned(),
            };
            let name: String = row.try_get(0).map_err(|e| bad(&e.to_string()))?;
            let restart: String = row.try_get(1).map_err(|e| bad(&e.to_string()))?;
            let bytes: Vec<u8> = row.try_get(2).map_err(|e| bad(&e.to_string()))?;
            let name = SlotName::parse(&name).ok_or_else(|| bad("its name"))?;
            let restart_lsn = restart.parse().map_err(|_| bad("its restart_lsn"))?;
            if let Some(why) = fault(&name, &bytes) {
                return Err(bad(&format!("the file of {name}: {why}")));
            }
            found.push(SlotFile { name, restart_lsn, bytes });
        }
        Ok(found)
    }

    /// Fetches the WAL from another server that the slots need and that is not here: a base backup
    /// begins later than a slot whose consumer is idle. Returns the directory that holds it, beside
    /// the data directory; `None` when nothing is missing.
    ///
    /// # Errors
    /// When the other server has not got all of it, it is too much, or a file can't be written.
    pub async fn fetch_wal(
        &self,
        host: &str,
        port: u16,
        slots: &[SlotFile],
        deadline: Duration,
    ) -> Result<Option<PathBuf>, Error> {
        let bytes = control::read(&self.places).await?.segment_bytes.max(1);
        let wal = self.places.data("pg_wal");
        let entries = std::fs::read_dir(&wal).map_err(files::failed("read", &wal))?;
        let names = entries.flatten().map(|e| e.file_name().to_string_lossy().into_owned());
        let here = names.filter_map(|name| segment(&name, bytes)).min();
        let first = slots.iter().map(|slot| slot.restart_lsn.0 / bytes).min();
        let (Some(first), Some(here)) = (first, here) else { return Ok(None) };
        if first >= here {
            return Ok(None);
        }
        let refused = |reason: String| Error::Refused {
            action: format!("fetch the WAL of logical slots from {host}:{port}"),
            reason,
        };
        if here - first > SEGMENTS_MAX {
            return Err(refused(format!("{} segments are missing here", here - first)));
        }
        let target = self.remote_target(host, port);
        let mut session = Session::connect(&target, QUERY_DEADLINE, deadline).await?;
        let list = "SELECT name FROM pg_ls_dir('pg_wal', true, false) name";
        let rows = session.rows("list its WAL", list, &[], deadline).await?;
        let all = rows.iter().filter_map(|row| row.try_get::<_, String>(0).ok());
        let needed = |name: &String| segment(name, bytes).is_some_and(|n| n >= first && n < here);
        let needed: BTreeSet<String> = all.filter(needed).collect();
        let numbers: BTreeSet<_> = needed.iter().filter_map(|n| segment(n, bytes)).collect();
        if let Some(gone) = (first..here).find(|number| !numbers.contains(number)) {
            return Err(refused(format!("it has segment number {gone} no more")));
        }
        let aside = self.places.beside(&format!(".{}.wal", self.places.name));
        std::fs::create_dir_all(&aside).map_err(files::failed("create", &aside))?;
        files::clear_dir(&aside).await?;
        let read = "SELECT pg_read_binary_file('pg_wal/' || $1)";
        for name in needed {
            let rows = session.rows("read its WAL", read, &[&name], deadline).await?;
            let content = rows.first().and_then(|row| row.try_get::<_, Vec<u8>>(0).ok());
            let content = content.filter(|c| u64::try_from(c.len()) == Ok(bytes));
            let content = content.ok_or_else(|| refused(format!("{name} is not whole")))?;
            let path = aside.join(&name);
            std::fs::write(&path, content).map_err(files::failed("write", &path))?;
        }
        Ok(Some(aside))
    }

    /// Puts fetched WAL into `pg_wal`, and removes it where it was. To be called while the server
    /// is stopped: it removes WAL that no slot needs.
    ///
    /// # Errors
    /// When a file can't be copied.
    pub async fn place_wal(&self, from: &Path) -> Result<(), Error> {
        let (source, to) = (from.to_owned(), self.places.data("pg_wal"));
        let copied = tokio::task::spawn_blocking(move || {
            for entry in std::fs::read_dir(&source)?.flatten() {
                let target = to.join(entry.file_name());
                if !target.exists() {
                    let mut out = std::fs::OpenOptions::new();
                    let out = out.write(true).create_new(true).mode(0o600).open(&target)?;
                    std::io::copy(&mut std::fs::File::open(entry.path())?, &mut &out)?;
                    out.sync_all()?;
                }
            }
            std::fs::File::open(&to)?.sync_all()?;
            std::fs::remove_dir_all(&source)
        });
        let copied = copied.await.unwrap_or_else(|e| Err(std::io::Error::other(e)));
        copied.map_err(files::failed("copy WAL from", from))
    }

    /// Puts the slots into the data directory.
    ///
    /// # Errors
    /// Refused while a server runs, which would not see them; or a file can't be written.
    pub async fn write_slots(&self, slots: Vec<SlotFile>) -> Result<(), Error> {
        if let Some(postmaster) = Postmaster::find(&self.places)? {
            return Err(Error::Refused {
                action: "copy logical slots".to_owned(),
                reason: format!("PostgreSQL runs (pid {})", postmaster.file.pid),
            });
        }
        let dir = self.places.data("pg_replslot");
        let to = dir.clone();
        tokio::task::spawn_blocking(move || slots.iter().try_for_each(|s| write_slot(&to, s)))
            .await
            .unwrap_or_else(|e| Err(std::io::Error::other(e)))
            .map_err(files::failed("write slots into", &dir))
    }

    /// Takes copied slots out again, of a server that did not start with them.
    ///
    /// # Errors
    /// When a directory can't be removed.
    pub fn remove_slots(&self, names: &BTreeSet<SlotName>) -> Result<(), Error> {
        for name in names {
            let path = self.places.data("pg_replslot").join(name.as_str());
            match std::fs::remove_dir_all(&path) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                    return Err(files::failed("remove", &path)(e));
                }
                Ok(()) | Err(_) => {}
            }
        }
        Ok(())
    }

    async fn session_in(&self, database: &str) -> Result<Session, Error> {
        let mut target = self.local_target("")?;
        database.clone_into(&mut target.database);
        Session::connect(&target, QUERY_DEADLINE, LOGICAL_DEADLINE).await
    }

    /// Creates a logical slot on a primary. Fine when it exists already.
    ///
    /// # Errors
    /// When the database or the plugin is not there, `wal_level` is not `logical`, no slot is left,
    /// or transactions that ran before do not end.
    pub async fn create_logical_slot(
        &self,
        name: &SlotName,
        database: &str,
        plugin: &str,
    ) -> Result<(), Error> {
        let mut session = self.session_in(database).await?;
        let action = format!("create the logical slot {name} in {database}");
        let sql = "SELECT pg_create_logical_replication_slot($1, $2)::text
            WHERE NOT EXISTS (SELECT FROM pg_replication_slots WHERE slot_name = $1)";
        session.text(&action, sql, &[&name.as_str(), &plugin], LOGICAL_DEADLINE).await?;
        Ok(())
    }

    /// Moves a logical slot forward, on a standby no further than it has replayed. Nothing happens
    /// when it is there or beyond, in use, or absent.
    ///
    /// # Errors
    /// When WAL or catalogue rows that it needs are gone ([`slot_is_void`] tells), or the server
    /// refuses.
    pub async fn advance_logical_slot(
        &self,
        name: &SlotName,
        database: &str,
        to: Lsn,
    ) -> Result<(), Error> {
        let mut session = self.session_in(database).await?;
        let action = format!("advance the logical slot {name} to {to}");
        let sql = "
            SELECT (SELECT end_lsn FROM pg_replication_slot_advance(slot_name, target.lsn))::text
            FROM pg_replication_slots, (SELECT $2::text::pg_lsn AS lsn) target
            WHERE slot_name = $1 AND NOT active AND confirmed_flush_lsn < target.lsn";
        let to = to.to_string();
        session.text(&action, sql, &[&name.as_str(), &to], LOGICAL_DEADLINE).await?;
        Ok(())
    }
}

/// What the slot needs is gone for ever: SQLSTATE `undefined_file` (its WAL), or
/// `object_not_in_prerequisite_state`.
#[must_use]
pub fn slot_is_void(error: &Error) -> bool {
    match error {
        Error::Query { code: Some(code), .. } => code == "58P01" || code == "55000",
        Error::Query { code: None, .. }
        | Error::Config { .. }
        | Error::File { .. }
        | Error::Spawn { .. }
        | Error::Command { .. }
        | Error::Deadline { .. }
        | Error::Connect { .. }
        | Error::Guard { .. }
        | Error::Start { .. }
        | Error::Refused { .. }
        | Error::Answer { .. } => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(name: &str, database: u32, persistency: u32) -> Vec<u8> {
        let mut data = vec![0; NAME_BYTES];
        data[..name.len()].copy_from_slice(name.as_bytes());
        data.extend(database.to_ne_bytes());
        data.extend(persistency.to_ne_bytes());
        data.extend([7; 40]);
        let mut covered = 5_u32.to_ne_bytes().to_vec();
        covered.extend(u32::try_from(data.len()).expect("small").to_ne_bytes());
        covered.extend(data);
        let mut all = MAGIC.to_ne_bytes().to_vec();
        all.extend(crc32c(&covered).to_ne_bytes());
        all.extend(covered);
        all
    }

    #[test]
    fn the_checksum_is_the_usual_one() {
        assert_eq!(crc32c(b"123456789"), 0xE306_9283);
    }

    #[test]
    fn only_whole_files_of_the_slot_are_taken() {
        let name = SlotName::from_name("cdc");
        let good = state("cdc", 5, 0);
        assert_eq!(fault(&name, &good), None);
        let mut torn = good.clone();
        torn[100] ^= 1;
        let short = good[..good.len() - 1].to_vec();
        for (bytes, why) in [
            (torn, "checksum"),
            (short, "length"),
            (Vec::new(), "begin"),
            (state("cdcd", 5, 0), "another slot"),
            (state("cdc", 0, 0), "physical"),
            (state("cdc", 5, 1), "not complete"),
        ] {
            assert!(fault(&name, &bytes).is_some_and(|f| f.contains(why)), "{why}");
        }
    }

    /// A file as PostgreSQL wrote it for a slot `cdc` with `pgoutput`, rebuilt from what differed:
    /// the checksum shows that nothing else does.
    fn written(checksum: u32, format: u32, length: usize, numbers: [u32; 4]) -> Vec<u8> {
        let [database, catalog_xmin, restart, confirmed] = numbers;
        let mut data = vec![0; NAME_BYTES];
        data[..3].copy_from_slice(b"cdc");
        // Then persistency and xmin, a position of 8 bytes, one that is not set, and another one.
        for number in [database, 0, 0, catalog_xmin, restart, 0, 0, 0, confirmed, 0] {
            data.extend(number.to_ne_bytes());
        }
        // From 14 on a third position and a flag, of two-phase commit, are in between.
        data.resize(if length == 0xa8 { 104 } else { 113 }, 0);
        data.extend(b"pgoutput");
        data.resize(length, 0);
        let length = u32::try_from(length).expect("small");
        let head = [MAGIC, checksum, format, length].into_iter().flat_map(u32::to_ne_bytes);
        head.chain(data).collect()
    }

    #[test]
    #[cfg(target_endian = "little")]
    fn files_of_every_version_are_taken() {
        for (version, bytes) in [
            (13, written(0x2b32_2341, 2, 0xa8, [13443, 488, 0x0185_0568, 0x0185_05a0])),
            (15, written(0xf404_804e, 2, 0xb8, [5, 727, 0x0178_a790, 0x0178_a7c8])),
            (16, written(0xeb68_aaf5, 3, 0xb8, [5, 733, 0x0170_f018, 0x0170_f050])),
            (17, written(0xe625_b88d, 5, 0xb8, [5, 741, 0x0179_6bd8, 0x0179_6c10])),
            (18, written(0xde66_1954, 5, 0xb8, [5, 755, 0x017b_b958, 0x017b_b990])),
        ] {
            assert_eq!(fault(&SlotName::from_name("cdc"), &bytes), None, "{version}");
        }
    }

    #[test]
    fn segments_count_whatever_their_timeline() {
        let mb16 = 16 * 1024 * 1024;
        assert_eq!(segment("000000030000000100000002", mb16), Some(258));
        assert_eq!(segment("00000003.history", mb16), None);
        assert_eq!(segment("000000010000000000000001.partial", mb16), None);
    }
}
