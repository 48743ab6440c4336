//! The data directory as a whole, with what lies outside of it: tablespaces, and a WAL directory
//! behind a link. Emptied for a new copy, or set aside where a bootstrap failed.

use super::process::Postmaster;
use super::{Error, Server, files};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

/// What is appended to the name of what a failed bootstrap leaves.
const FAILED: &str = ".failed";
/// Where PostgreSQL keeps WAL, seen from the data directory.
const WAL: &str = "pg_wal";
/// Where it keeps the links to tablespaces.
const TABLESPACES: &str = "pg_tblspc";

/// The target of a link; `None` for anything else.
fn link_target(path: &Path) -> Option<PathBuf> {
    let target = std::fs::read_link(path).ok()?;
    let beside = path.parent().map_or_else(|| target.clone(), |dir| dir.join(&target));
    // A link to nowhere has nothing to empty.
    beside.canonicalize().ok()
}

/// The WAL directory, where it is not inside the data directory.
fn outer_wal(data_dir: &Path) -> Option<PathBuf> {
    link_target(&data_dir.join(WAL)).filter(|target| target.is_dir())
}

/// Directories of tablespaces outside of the data directory.
fn tablespaces(data_dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(data_dir.join(TABLESPACES)).into_iter().flatten().flatten();
    let inside = data_dir.canonicalize().unwrap_or_else(|_| data_dir.to_owned());
    let targets = entries.filter_map(|entry| link_target(&entry.path()));
    targets.filter(|target| target.is_dir() && !target.starts_with(&inside)).collect()
}

/// PostgreSQL's own directories in a tablespace: `PG_15_202209061`.
fn own_parts(tablespace: &Path) -> io::Result<Vec<PathBuf>> {
    let mut parts = Vec::new();
    for entry in std::fs::read_dir(tablespace)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with("PG_") {
            parts.push(entry.path());
        }
    }
    Ok(parts)
}

/// Empties the directory and what belongs to it outside; the directories themselves stay: they may
/// be mount points.
fn wipe(data_dir: &Path) -> io::Result<()> {
    for tablespace in tablespaces(data_dir) {
        for part in own_parts(&tablespace)? {
            std::fs::remove_dir_all(part)?;
        }
    }
    if let Some(wal) = outer_wal(data_dir) {
        files::clear_now(&wal)?;
    }
    files::clear_now(data_dir)
}

fn with_suffix(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(FAILED);
    PathBuf::from(name)
}

/// Renames; what an earlier failure left there makes room.
fn rename_failed(path: &Path) -> io::Result<PathBuf> {
    let to = with_suffix(path);
    match std::fs::remove_dir_all(&to) {
        Err(e) if e.kind() != ErrorKind::NotFound => return Err(e),
        Ok(()) | Err(_) => {}
    }
    std::fs::rename(path, &to)?;
    Ok(to)
}

/// Renames the directory and what belongs to it outside, so that nothing is lost and a next attempt
/// finds room; the links in it are made to point to the new names.
fn set_aside(data_dir: &Path) -> io::Result<PathBuf> {
    let relink = |link: &Path, to: &Path| {
        std::fs::remove_file(link)?;
        std::os::unix::fs::symlink(to, link)
    };
    if let Some(wal) = outer_wal(data_dir) {
        relink(&data_dir.join(WAL), &rename_failed(&wal)?)?;
    }
    let links = std::fs::read_dir(data_dir.join(TABLESPACES)).into_iter().flatten().flatten();
    let inside = data_dir.canonicalize()?;
    for link in links.map(|entry| entry.path()) {
        let target = link_target(&link).filter(|t| t.is_dir() && !t.starts_with(&inside));
        if let Some(target) = target {
            relink(&link, &rename_failed(&target)?)?;
        }
    }
    rename_failed(data_dir)
}

async fn blocking<T: Send + 'static>(
    dir: &Path,
    work: fn(&Path) -> io::Result<T>,
) -> io::Result<T> {
    let dir = dir.to_owned();
    let done = tokio::task::spawn_blocking(move || work(&dir)).await;
    done.unwrap_or_else(|error| Err(io::Error::other(error)))
}

impl Server {
    /// Empties the data directory, its tablespaces and its WAL directory.
    pub(super) async fn wipe(&self) -> Result<(), Error> {
        if let Some(postmaster) = Postmaster::find(&self.places)? {
            return Err(Error::Refused {
                action: format!("empty {}", self.places.data_dir.display()),
                reason: format!("PostgreSQL runs on it (pid {})", postmaster.file.pid),
            });
        }
        let dir = &self.places.data_dir;
        blocking(dir, wipe).await.map_err(files::failed("empty", dir))
    }

    /// Renames what a failed bootstrap left to `NAME.failed`, and forgets that it was half written;
    /// where it can't be renamed it is left as it is, marked as half written.
    ///
    /// # Errors
    /// When a directory can't be renamed.
    pub async fn set_aside(&self) -> Result<Option<PathBuf>, Error> {
        let dir = &self.places.data_dir;
        let renamed = if files::is_empty_dir(dir)? {
            None
        } else {
            Some(blocking(dir, set_aside).await.map_err(files::failed("set aside", dir))?)
        };
        files::remove(&self.places.incomplete)?;
        Ok(renamed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    /// A data directory with WAL and a tablespace elsewhere.
    fn make(root: &Path) -> PathBuf {
        let data = root.join("data");
        for dir in ["data/pg_tblspc", "data/base/1", "wal/archive_status", "space/PG_15_2"] {
            std::fs::create_dir_all(root.join(dir)).expect("create");
        }
        std::fs::write(root.join("space/notes"), "mine").expect("write");
        std::fs::write(root.join("wal/0001"), "wal").expect("write");
        symlink(root.join("wal"), data.join("pg_wal")).expect("link");
        symlink(root.join("space"), data.join("pg_tblspc/16384")).expect("link");
        symlink(root.join("gone"), data.join("pg_tblspc/16385")).expect("link");
        data
    }

    fn empty(dir: &Path) -> bool {
        std::fs::read_dir(dir).expect("dir").next().is_none()
    }

    #[test]
    fn emptied_with_what_lies_outside_and_nothing_else() {
        let root = tempfile::tempdir().expect("directory");
        let data = make(root.path());
        wipe(&data).expect("wipe");
        assert!(empty(&data) && empty(&root.path().join("wal")));
        let space = root.path().join("space");
        assert!(space.join("notes").exists() && !space.join("PG_15_2").exists());
        wipe(&root.path().join("absent")).expect("nothing to empty");
    }

    #[test]
    fn set_aside_with_what_lies_outside() {
        let root = tempfile::tempdir().expect("directory");
        for _ in 0..2 {
            // The second time the names are taken by the first failure.
            let data = make(root.path());
            let to = set_aside(&data).expect("set aside");
            assert_eq!(to, root.path().join("data.failed"));
            assert!(!data.exists() && !root.path().join("wal").exists());
            assert!(to.join("pg_wal/0001").exists() && to.join("base/1").exists());
            assert!(to.join("pg_tblspc/16384/notes").exists());
        }
    }
}
