//! Other versions of PostgreSQL than the one that is installed: `tests/postgresql.sh` obtains them.

#![allow(clippy::unwrap_used, reason = "part of tests: a test fails by panicking")]

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::command;
use crate::programs;

/// Lists of packages and some 60 MB of them.
const OBTAIN: Duration = Duration::from_secs(600);
/// How the script ends where a version cannot be had.
const NOT_HERE: i32 = 75;

/// The directory of a version's programs, kept from an earlier run or obtained now.
///
/// # Errors
/// Why it cannot be had on this machine.
///
/// # Panics
/// When the script fails in another way.
pub async fn programs_of(version: u32) -> Result<PathBuf, String> {
    let script = programs::repository().join("tests/postgresql.sh");
    let version = version.to_string();
    let done = command::run(Path::new("bash"), &[&script, Path::new(&version)], &[], OBTAIN).await;
    if done.code == Some(NOT_HERE) {
        return Err(done.stderr.lines().next_back().unwrap_or("no reason given").to_owned());
    }
    let stdout = done.expect(0).stdout;
    Ok(PathBuf::from(stdout.lines().next_back().unwrap()))
}
