//! Patroni from PyPI, in a virtual environment of its own that is kept for the next time.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The release that the agents are compared with, with a driver for etcd v3 and one for PostgreSQL.
const PACKAGE: &str = "patroni[etcd3,psycopg3]==4.1.*";
/// Debian's interpreter comes first: the user that runs the lab must be able to reach it.
const INTERPRETERS: [&str; 2] = ["/usr/bin/python3", "python3"];

/// Patroni's program, installed now or earlier.
///
/// # Errors
/// When it cannot be installed, with what was said about it.
pub fn install() -> Result<PathBuf, String> {
    // Not below the build directory, which the user that runs the lab may not be able to enter.
    let place = std::env::temp_dir().join("federator-bench").join("patroni-4.1");
    let (program, done) = (place.join("bin/patroni"), place.join("installed"));
    if fs::read_to_string(&done).is_ok_and(|package| package == PACKAGE) {
        return Ok(program);
    }
    println!("installing {PACKAGE} into {}", place.display());
    let exists = |path: &&&str| !path.starts_with('/') || Path::new(path).exists();
    let python = INTERPRETERS.iter().find(exists).ok_or("no python3 is installed")?;
    let fail = |what: &str, e: std::io::Error| format!("{what} {}: {e}", place.display());
    if place.exists() {
        fs::remove_dir_all(&place).map_err(|error| fail("cannot remove", error))?;
    }
    fs::create_dir_all(&place).map_err(|error| fail("cannot make", error))?;
    run(Command::new(python).args(["-m", "venv"]).arg(&place))?;
    run(Command::new(place.join("bin/pip")).args([
        "install",
        "--quiet",
        "--disable-pip-version-check",
        PACKAGE,
    ]))?;
    fs::write(&done, PACKAGE).map_err(|error| fail("cannot write into", error))?;
    Ok(program)
}

/// Runs a program to its end; a person sits before it and can interrupt it.
///
/// # Errors
/// Its command line and what it said.
pub fn run(command: &mut Command) -> Result<String, String> {
    let line = format!("{command:?}");
    let output = command.output().map_err(|error| format!("{line}: {error}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned());
    }
    Err(format!("{line}: {}\n{}", output.status, String::from_utf8_lossy(&output.stderr).trim()))
}
