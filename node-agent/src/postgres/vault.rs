//! The vault: what a rewind or a new copy is about to discard, kept beside the data directory in a
//! directory of its own, with checksums. It is sealed when its manifest is there, which is the last
//! thing that is written; without that nothing may be discarded. `sha256sum -c SHA256SUMS` in it
//! tells whether it is whole.

use super::wal_page::hex;
use super::{Error, Server, control, files};
use sha2::{Digest, Sha256};
use std::io::{self, Read, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// The list of its files with their checksums.
const MANIFEST: &str = "SHA256SUMS";
/// The report, as far as the stopped server could tell it.
const REPORT: &str = "divergence.json";
/// The control file.
const CONTROL: &str = "pg_control";
/// Bytes at a time.
const CHUNK: usize = 128 * 1024;

/// Where the vaults of a data directory are: `<data directory>.divergent-<number>`.
fn prefix(data_dir: &Path) -> String {
    let name = data_dir.file_name().map(|n| n.to_string_lossy().into_owned());
    format!("{}.divergent-", name.unwrap_or_else(|| "data".to_owned()))
}

/// The vaults beside a data directory, sealed or not.
fn vaults(data_dir: &Path) -> Vec<PathBuf> {
    let Some(parent) = data_dir.parent() else { return Vec::new() };
    let prefix = prefix(data_dir);
    let entries = std::fs::read_dir(parent).into_iter().flatten().flatten();
    let ours = entries.filter(|e| e.file_name().to_string_lossy().starts_with(&prefix));
    let mut found: Vec<PathBuf> = ours.map(|e| e.path()).filter(|path| path.is_dir()).collect();
    found.sort();
    found
}

fn manifest(vault: &Path) -> PathBuf {
    vault.join(MANIFEST)
}

fn checksum(path: &Path) -> io::Result<String> {
    let (mut file, mut sum) = (std::fs::File::open(path)?, Sha256::new());
    let mut chunk = vec![0; CHUNK];
    loop {
        match file.read(&mut chunk)? {
            0 => return Ok(hex(&sum.finalize())),
            count => sum.update(&chunk[..count]),
        }
    }
}

/// Copies a file, synced; the checksum of what was read.
fn copy(from: &Path, to: &Path) -> io::Result<String> {
    let (mut file, mut copy) = (std::fs::File::open(from)?, std::fs::File::create(to)?);
    let (mut chunk, mut sum) = (vec![0; CHUNK], Sha256::new());
    loop {
        match file.read(&mut chunk)? {
            0 => break,
            count => {
                sum.update(&chunk[..count]);
                copy.write_all(&chunk[..count])?;
            }
        }
    }
    copy.sync_all()?;
    Ok(hex(&sum.finalize()))
}

/// What goes into a vault.
#[derive(Debug)]
struct Content {
    /// Files as they are.
    files: Vec<PathBuf>,
    /// The text of the report.
    report: String,
}

/// Fills and seals a new vault. One that an interrupted attempt has left unsealed goes first: what
/// it was to keep is still where it was.
fn seal(data_dir: &Path, vault: &Path, content: &Content) -> io::Result<()> {
    for left in vaults(data_dir).iter().filter(|left| !manifest(left).exists()) {
        std::fs::remove_dir_all(left)?;
    }
    std::fs::DirBuilder::new().mode(0o700).create(vault)?;
    let mut lines = String::new();
    let report = vault.join(REPORT);
    std::fs::write(&report, &content.report)?;
    std::fs::File::open(&report)?.sync_all()?;
    lines.push_str(&format!("{}  {REPORT}\n", checksum(&report)?));
    for file in &content.files {
        let name = file.file_name().ok_or(io::ErrorKind::InvalidInput)?.to_string_lossy();
        let kept = vault.join(&*name);
        let read = copy(file, &kept)?;
        // What is on the disk of the vault counts.
        if checksum(&kept)? != read {
            return Err(io::Error::other(format!("the copy of {name} differs")));
        }
        lines.push_str(&format!("{read}  {name}\n"));
    }
    let (aside, last) = (vault.join(format!("{MANIFEST}.new")), manifest(vault));
    std::fs::write(&aside, lines)?;
    std::fs::File::open(&aside)?.sync_all()?;
    std::fs::File::open(vault)?.sync_all()?;
    std::fs::rename(&aside, &last)?;
    std::fs::File::open(vault)?.sync_all()?;
    vault.parent().map_or(Ok(()), |parent| std::fs::File::open(parent)?.sync_all())
}

/// Whether a vault is sealed and every file in it is as its manifest says.
fn is_whole(vault: &Path) -> bool {
    let Ok(lines) = std::fs::read_to_string(manifest(vault)) else { return false };
    !lines.is_empty()
        && lines.lines().all(|line| {
            let told = line.split_once("  ");
            told.is_some_and(|(sum, name)| {
                !name.contains('/') && checksum(&vault.join(name)).is_ok_and(|found| found == sum)
            })
        })
}

/// A whole vault with the same report: a rewind that is tried again discards the same WAL.
fn same(data_dir: &Path, report: &str) -> Option<PathBuf> {
    vaults(data_dir).into_iter().rev().find(|vault| {
        let kept = std::fs::read_to_string(vault.join(REPORT));
        kept.is_ok_and(|kept| kept == report) && is_whole(vault)
    })
}

/// Removes the sealed vaults that are older; their names.
fn sweep(data_dir: &Path, retention: Duration, now: SystemTime) -> io::Result<Vec<PathBuf>> {
    let mut removed = Vec::new();
    for vault in vaults(data_dir) {
        let Ok(sealed) = std::fs::metadata(manifest(&vault)).and_then(|m| m.modified()) else {
            continue;
        };
        if now.duration_since(sealed).is_ok_and(|age| age > retention) {
            // Without its manifest first: half of a vault must not look like a whole one.
            std::fs::remove_file(manifest(&vault))?;
            std::fs::remove_dir_all(&vault)?;
            removed.push(vault);
        }
    }
    Ok(removed)
}

impl Server {
    /// Seals `segments` of `pg_wal` with the histories, the control file and the report in a new
    /// vault at `vault`, or finds one that holds the same; where.
    pub(super) async fn seal_vault(
        &self,
        vault: &Path,
        segments: &[String],
        report: String,
    ) -> Result<PathBuf, Error> {
        // A control file that can't be read is worth nothing to anybody.
        control::read(&self.places).await?;
        let wal = self.places.data("pg_wal");
        let entries = std::fs::read_dir(&wal).map_err(files::failed("read", &wal))?;
        let names = entries.flatten().map(|e| e.file_name().to_string_lossy().into_owned());
        let mut histories: Vec<String> = names.filter(|n| n.ends_with(".history")).collect();
        histories.sort();
        let wal_files = histories.iter().chain(segments).map(|name| wal.join(name));
        let control = self.places.data("global").join(CONTROL);
        let content = Content { files: wal_files.chain([control]).collect(), report };
        let (data_dir, to) = (self.places.data_dir.clone(), vault.to_owned());
        let work = tokio::task::spawn_blocking(move || {
            if let Some(found) = same(&data_dir, &content.report) {
                return Ok(found);
            }
            seal(&data_dir, &to, &content).map(|()| to)
        });
        work.await
            .unwrap_or_else(|e| Err(io::Error::other(e)))
            .map_err(files::failed("keep the divergent WAL in", vault))
    }

    /// Where the next vault goes. `moment`: any number that is not used yet.
    #[must_use]
    pub fn next_vault(&self, moment: i64) -> PathBuf {
        let data_dir = &self.places.data_dir;
        data_dir.with_file_name(format!("{}{moment}", prefix(data_dir)))
    }

    /// Removes sealed vaults that are older than `retention`, with a line in the log for each.
    pub async fn sweep_vaults(&self, retention: Duration) {
        let data_dir = self.places.data_dir.clone();
        let work =
            tokio::task::spawn_blocking(move || sweep(&data_dir, retention, SystemTime::now()));
        match work.await.unwrap_or_else(|e| Err(io::Error::other(e))) {
            Ok(removed) => {
                for vault in removed {
                    let vault = vault.display();
                    tracing::info!(%vault, "kept long enough (vault_retention), removed");
                }
            }
            Err(error) => tracing::warn!(%error, "old divergent WAL is not removed"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Place(tempfile::TempDir);

    impl Place {
        fn new() -> Self {
            let place = Self(tempfile::tempdir().expect("directory"));
            std::fs::create_dir(place.data()).expect("data");
            for (name, text) in [("0001", "one"), ("pg_control", "two")] {
                std::fs::write(place.data().join(name), text).expect("write");
            }
            place
        }

        fn data(&self) -> PathBuf {
            self.0.path().join("pg1")
        }

        fn vault(&self, number: u8) -> PathBuf {
            self.0.path().join(format!("pg1.divergent-{number}"))
        }

        fn seal(&self, number: u8, report: &str) -> io::Result<()> {
            let files = ["0001", "pg_control"].map(|name| self.data().join(name)).to_vec();
            let content = Content { files, report: report.to_owned() };
            seal(&self.data(), &self.vault(number), &content)
        }
    }

    #[test]
    fn a_sealed_vault_is_whole_until_a_byte_changes() {
        let place = Place::new();
        place.seal(1, "r").expect("seal");
        let vault = place.vault(1);
        assert!(is_whole(&vault));
        assert_eq!(same(&place.data(), "r"), Some(vault.clone()));
        assert_eq!(same(&place.data(), "another"), None);
        let lines = std::fs::read_to_string(manifest(&vault)).expect("manifest");
        // As `sha256sum` says of the three letters.
        let known = "7692c3ad3540bb803c020b3aee66cd8887123234ea0c6e7143c0add73ff431ed  0001";
        assert!(lines.lines().any(|line| line == known), "{lines}");
        std::fs::write(vault.join("0001"), "One").expect("write");
        assert!(!is_whole(&vault));
        assert_eq!(same(&place.data(), "r"), None);
    }

    #[test]
    fn what_was_interrupted_is_begun_anew() {
        let place = Place::new();
        std::fs::create_dir(place.vault(1)).expect("left over");
        std::fs::write(place.vault(1).join("0001"), "on").expect("write");
        std::fs::write(place.vault(1).join("SHA256SUMS.new"), "").expect("write");
        assert!(!is_whole(&place.vault(1)));
        place.seal(2, "r").expect("seal");
        assert!(!place.vault(1).exists() && is_whole(&place.vault(2)));
    }

    #[test]
    fn what_cannot_be_kept_is_not_sealed() {
        let place = Place::new();
        std::fs::remove_file(place.data().join("pg_control")).expect("remove");
        place.seal(1, "r").expect_err("a file is missing");
        assert!(!manifest(&place.vault(1)).exists());
    }

    #[test]
    fn only_old_and_sealed_vaults_are_removed() {
        let place = Place::new();
        place.seal(1, "r").expect("seal");
        std::fs::create_dir(place.vault(2)).expect("unsealed");
        std::fs::create_dir(place.0.path().join("pg12.divergent-1")).expect("another's");
        let (now, hour) = (SystemTime::now(), Duration::from_secs(3600));
        let early = sweep(&place.data(), hour, now + hour / 2).expect("sweep");
        assert!(early.is_empty() && place.vault(1).exists());
        let late = sweep(&place.data(), hour, now + 2 * hour).expect("sweep");
        assert_eq!(late, [place.vault(1)]);
        assert!(!place.vault(1).exists() && place.vault(2).exists());
        assert!(place.0.path().join("pg12.divergent-1").exists());
    }
}
