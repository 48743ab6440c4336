//! Files that are whole or not there: written aside, synced and renamed.

use super::Error;
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// An [`Error::File`] for a path.
pub(super) fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error + use<> {
    let path = path.to_owned();
    move |source| Error::File { action, path, source }
}

/// The text of a file; `None` when there is none.
pub(super) fn read(path: &Path) -> Result<Option<String>, Error> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(Some(String::from_utf8_lossy(&bytes).into_owned())),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
        Err(e) => Err(failed("read", path)(e)),
    }
}

/// Removes a file; fine when there is none.
pub(super) fn remove(path: &Path) -> Result<(), Error> {
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != ErrorKind::NotFound => Err(failed("remove", path)(e)),
        Ok(()) | Err(_) => Ok(()),
    }
}

fn write_now(path: &Path, text: &str) -> io::Result<()> {
    let mut aside = path.as_os_str().to_owned();
    aside.push(".new");
    let aside = PathBuf::from(aside);
    match std::fs::remove_file(&aside) {
        Err(e) if e.kind() != ErrorKind::NotFound => return Err(e),
        Ok(()) | Err(_) => {}
    }
    let mut file =
        std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&aside)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    std::fs::rename(&aside, path)?;
    // The rename itself is only safe once the directory is.
    path.parent().map_or(Ok(()), |dir| std::fs::File::open(dir)?.sync_all())
}

/// Writes a file for the owner only, if its text differs. True when it did.
pub(super) async fn write(path: &Path, text: String) -> Result<bool, Error> {
    if read(path)?.as_deref() == Some(text.as_str()) {
        return Ok(false);
    }
    let target = path.to_owned();
    // A slow disk must not stop the runtime.
    let written = tokio::task::spawn_blocking(move || write_now(&target, &text)).await;
    written.unwrap_or_else(|e| Err(io::Error::other(e))).map_err(failed("write", path))?;
    Ok(true)
}

/// Whether a directory is absent or has nothing in it.
pub(super) fn is_empty_dir(path: &Path) -> Result<bool, Error> {
    match std::fs::read_dir(path) {
        Ok(mut entries) => Ok(entries.next().is_none()),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(true),
        Err(e) => Err(failed("read", path)(e)),
    }
}

/// Removes what a directory holds; fine when there is none.
pub(super) fn clear_now(dir: &Path) -> io::Result<()> {
    let entries = match std::fs::read_dir(dir) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            std::fs::remove_dir_all(entry.path())?;
        } else {
            std::fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// Removes what a directory holds, and leaves it there: it may be a mount point.
pub(super) async fn clear_dir(path: &Path) -> Result<(), Error> {
    let dir = path.to_owned();
    let cleared = tokio::task::spawn_blocking(move || clear_now(&dir));
    cleared.await.unwrap_or_else(|e| Err(io::Error::other(e))).map_err(failed("clear", path))
}

/// How long a file is; 0 when it can't be told.
pub(super) fn length(path: &Path) -> u64 {
    std::fs::metadata(path).map_or(0, |metadata| metadata.len())
}

/// The last `bytes` of a file from `offset` on, as lines that are whole.
pub(super) fn tail(path: &Path, offset: u64, bytes: usize) -> String {
    use std::io::{Read, Seek, SeekFrom};
    let mut text = Vec::new();
    let read = std::fs::File::open(path).and_then(|mut file| {
        let length = file.metadata()?.len();
        let from = length.saturating_sub(u64::try_from(bytes).unwrap_or(u64::MAX)).max(offset);
        file.seek(SeekFrom::Start(from))?;
        file.take(u64::try_from(bytes).unwrap_or(u64::MAX)).read_to_end(&mut text)
    });
    match read {
        Ok(_) => String::from_utf8_lossy(&text).trim().to_owned(),
        Err(e) => format!("(the log {} can't be read: {e})", path.display()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[tokio::test]
    async fn writes_only_what_differs_and_privately() {
        let dir = tempfile::tempdir().expect("directory");
        let path = dir.path().join("a");
        assert!(write(&path, "1".to_owned()).await.expect("write"));
        assert!(!write(&path, "1".to_owned()).await.expect("write"));
        assert!(write(&path, "2".to_owned()).await.expect("write"));
        assert_eq!(read(&path).expect("read").as_deref(), Some("2"));
        assert_eq!(std::fs::metadata(&path).expect("file").permissions().mode() & 0o777, 0o600);
        assert_eq!(std::fs::read_dir(dir.path()).expect("dir").count(), 1);
        let nowhere = dir.path().join("no/such");
        let problem = write(&nowhere, String::new()).await.expect_err("written");
        assert!(problem.to_string().contains("no/such"), "{problem}");
    }

    #[tokio::test]
    async fn clears_a_directory_and_keeps_it() {
        let dir = tempfile::tempdir().expect("directory");
        let data = dir.path().join("data");
        assert!(is_empty_dir(&data).expect("absent"));
        std::fs::create_dir_all(data.join("x/y")).expect("create");
        std::fs::write(data.join("f"), "f").expect("write");
        assert!(!is_empty_dir(&data).expect("full"));
        clear_dir(&data).await.expect("clear");
        assert!(data.exists() && is_empty_dir(&data).expect("empty"));
    }
}
