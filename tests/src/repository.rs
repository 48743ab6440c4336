//! The files of the repository, as a newcomer finds them: without what a build leaves behind.

use std::fs;
use std::path::{Path, PathBuf};

/// Every file below a directory, in order. Hidden directories and `target` are passed over.
///
/// # Panics
/// When a directory cannot be read.
#[must_use]
pub fn files_below(dir: &Path) -> Vec<PathBuf> {
    let entries =
        fs::read_dir(dir).unwrap_or_else(|e| panic!("cannot read {}: {e}", dir.display()));
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    let mut files = Vec::new();
    for path in paths {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if path.is_dir() {
            if !name.starts_with('.') && name != "target" {
                files.extend(files_below(&path));
            }
        } else {
            files.push(path);
        }
    }
    files
}

/// Every file with an extension, with its text.
///
/// # Panics
/// When one is not text.
#[must_use]
pub fn texts(root: &Path, extension: &str) -> Vec<(PathBuf, String)> {
    let files = files_below(root).into_iter();
    let wanted = files.filter(|path| path.extension().is_some_and(|e| e == extension));
    let read = |path: PathBuf| {
        let text = fs::read_to_string(&path);
        let text = text.unwrap_or_else(|error| panic!("cannot read {}: {error}", path.display()));
        (path, text)
    };
    wanted.map(read).collect()
}
