//! Other versions of PostgreSQL than the one that is installed: `tests/postgresql.sh` obtains them.

#![allow(clippy::unwrap_used, reason = "part of tests: a test fails by panicking")]

use std::fs;
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

/// The programs that this run's labs use.
///
/// # Panics
/// When there are none.
#[must_use]
pub fn programs() -> PathBuf {
    lab::software::find_postgres(None, None).unwrap()
}

/// Whether these servers speak TLS; those of a wheel do not.
///
/// # Panics
/// When the program can't be read.
#[must_use]
pub fn speaks_tls(bin: &Path) -> bool {
    let program = fs::read(bin.join("postgres")).unwrap();
    program.windows(b"libssl.so".len()).any(|bytes| bytes == b"libssl.so")
}

/// Whether the output plugin `test_decoding` came with these servers.
#[must_use]
pub fn has_test_decoding(bin: &Path) -> bool {
    let beside = |place: &str| bin.join(place).join("test_decoding.so").exists();
    beside("../lib") || beside("../lib/postgresql")
}

/// A pgBackRest that knows the version of these servers: it came with them.
#[must_use]
pub fn pgbackrest(bin: &Path) -> Option<PathBuf> {
    let own = bin.join("pgbackrest");
    let packaged = Path::new("/usr/bin/pgbackrest");
    let of_this_release = bin.starts_with("/usr/lib/postgresql") && packaged.exists();
    if own.exists() { Some(own) } else { of_this_release.then(|| packaged.to_owned()) }
}
