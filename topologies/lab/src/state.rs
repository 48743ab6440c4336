//! What a lab keeps about itself on disk, so that a later command finds it again.
//!
//! The file `lab.json` is also what makes a directory a lab: nothing else is ever removed.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::network::Network;
use crate::software::{RunUser, Software};

const FILE: &str = "lab.json";

/// The content of `lab.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// The topology file's text.
    pub topology: String,
    /// The network in use, which may differ from the file's.
    pub network: Network,
    /// Who runs the lab.
    pub user: RunUser,
    /// What it runs.
    pub software: Software,
}

/// A lab's directory that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The directory is no lab.
    #[error("there is no lab in {0}\nHINT: start one with lab up TOPOLOGY.yaml")]
    NoLab(PathBuf),
    /// Several labs, and none was named.
    #[error("there are several labs\nHINT: name one: --dir {}", list(.0, " or --dir "))]
    Several(Vec<PathBuf>),
    /// A directory with something else in it.
    #[error("{0} is not empty and no lab\nHINT: choose another directory with --dir")]
    Foreign(PathBuf),
    /// The directory for labs belongs to somebody else.
    #[error("{path} is not a directory of user id {uid}\nHINT: choose another place with --dir")]
    Untrusted {
        /// The directory.
        path: PathBuf,
        /// Who should own it.
        uid: u32,
    },
    /// A file operation failed.
    #[error("cannot {action} {path}: {source}")]
    File {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// lab.json is damaged, or of another version.
    #[error(
        "cannot read {path}: {source}\nHINT: stop its processes by hand and remove the directory"
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: serde_json::Error,
    },
}

fn list(paths: &[PathBuf], separator: &str) -> String {
    paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(separator)
}

/// A failed file operation, for `map_err`.
pub(crate) fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StateError {
    let path = path.to_owned();
    move |source| StateError::File { action, path, source }
}

impl State {
    /// Reads the state of the lab in `dir`.
    ///
    /// # Errors
    /// When there is none, or it cannot be read.
    pub fn read(dir: &Path) -> Result<Self, StateError> {
        let path = dir.join(FILE);
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(StateError::NoLab(dir.to_owned()));
            }
            Err(source) => return Err(StateError::File { action: "read", path, source }),
        };
        serde_json::from_str(&text).map_err(|source| StateError::Damaged { path, source })
    }

    /// Writes the state, whole or not at all.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write(&self, dir: &Path) -> Result<(), StateError> {
        let (path, staged) = (dir.join(FILE), dir.join("lab.json.new"));
        let text = serde_json::to_string_pretty(self)
            .map_err(|source| StateError::Damaged { path: path.clone(), source })?;
        fs::write(&staged, text).map_err(failed("write", &staged))?;
        fs::rename(&staged, &path).map_err(failed("write", &path))
    }
}

/// Whether a lab lives in this directory.
#[must_use]
pub fn is_lab_dir(dir: &Path) -> bool {
    dir.join(FILE).is_file()
}

/// The directory of this user's labs, made when it does not exist.
///
/// # Errors
/// When somebody else owns the name, which matters in a directory that all may write.
pub fn labs_root() -> Result<PathBuf, StateError> {
    let uid = rustix::process::geteuid().as_raw();
    let path = PathBuf::from(format!("/tmp/federator-lab-{uid}"));
    match fs::DirBuilder::new().mode(0o755).create(&path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            return Err(failed("create", &path)(error));
        }
        Ok(()) | Err(_) => {}
    }
    let meta = fs::symlink_metadata(&path).map_err(failed("look at", &path))?;
    if meta.is_dir() && meta.uid() == uid {
        Ok(path)
    } else {
        Err(StateError::Untrusted { path, uid })
    }
}

/// The lab that a command means: `asked`, or the only one there is below `root`.
///
/// # Errors
/// When there is none, or the choice is not clear.
pub fn find_lab(asked: Option<&Path>, root: &Path) -> Result<PathBuf, StateError> {
    if let Some(dir) = asked {
        let dir = dir.canonicalize().map_err(|_| StateError::NoLab(dir.to_owned()))?;
        return if is_lab_dir(&dir) { Ok(dir) } else { Err(StateError::NoLab(dir)) };
    }
    let entries = fs::read_dir(root).map_err(failed("list", root))?;
    let mut labs: Vec<PathBuf> =
        entries.flatten().map(|entry| entry.path()).filter(|dir| is_lab_dir(dir)).collect();
    labs.sort();
    match labs.len() {
        0 => Err(StateError::NoLab(root.to_owned())),
        1 => Ok(labs.remove(0)),
        _ => Err(StateError::Several(labs)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_only_lab_is_found_and_several_are_listed() {
        let root = tempfile::tempdir().unwrap();
        assert!(matches!(find_lab(None, root.path()), Err(StateError::NoLab(_))));
        let (a, b) = (root.path().join("a"), root.path().join("b"));
        for dir in [&a, &b] {
            fs::create_dir(dir).unwrap();
        }
        assert!(matches!(find_lab(Some(&a), root.path()), Err(StateError::NoLab(_))));
        fs::write(a.join(FILE), "{}").unwrap();
        assert_eq!(find_lab(None, root.path()).unwrap(), a);
        assert!(matches!(State::read(&a), Err(StateError::Damaged { .. })));
        fs::write(b.join(FILE), "{}").unwrap();
        let fault = find_lab(None, root.path()).unwrap_err().to_string();
        assert!(fault.contains(&format!("--dir {}", b.display())), "{fault}");
        assert_eq!(find_lab(Some(&b), root.path()).unwrap(), b);
    }
}
