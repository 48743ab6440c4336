//! Patroni's own command line, from PyPI, in a virtual environment that is kept beside the build.

#![allow(clippy::unwrap_used, reason = "part of tests: a test fails by panicking")]

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use lab::render::{NAMESPACE, scope};
use rustix::fs::{FlockOperation, flock};
use serde_json::{Value, json};

use crate::command::{self, Finished};
use crate::patience::until;
use crate::programs;
use crate::rig::Rig;

/// How long an installation may take.
const INSTALL: Duration = Duration::from_secs(300);
/// How long one command may take.
const COMMAND: Duration = Duration::from_secs(90);
/// Patroni imports a driver of PostgreSQL even where it does not need one.
const PACKAGE: &str = "patroni[etcd3,psycopg3]";
/// What pip says when there is no way to the index.
pub const NO_WAY: [&str; 7] = [
    "No matching distribution",
    "Could not find a version",
    "Failed to establish a new connection",
    "Temporary failure in name resolution",
    "ReadTimeoutError",
    "ConnectTimeoutError",
    "ProxyError",
];

/// `patronictl`, installed now or earlier.
///
/// # Errors
/// Why not, when PyPI cannot be reached.
///
/// # Panics
/// When it cannot be installed for another reason.
pub async fn install() -> Result<PathBuf, String> {
    let place = programs::cache("patroni");
    let (program, done) = (place.join("bin/patronictl"), place.join("installed"));
    fs::create_dir_all(place.parent().unwrap()).unwrap();
    let _lock = alone(&place).await;
    if fs::read_to_string(&done).is_ok_and(|package| package == PACKAGE) {
        return Ok(program);
    }
    if place.exists() {
        fs::remove_dir_all(&place).unwrap();
    }
    let venv = [Path::new("-m"), Path::new("venv"), &place];
    let _ = command::run(Path::new("python3"), &venv, &[], INSTALL).await.expect(0);
    let pip = place.join("bin/pip");
    let wanted = ["install", "--quiet", "--disable-pip-version-check", PACKAGE];
    let installed = command::run(&pip, &wanted, &[], INSTALL).await;
    if installed.code != Some(0) {
        let said = installed.said();
        assert!(NO_WAY.iter().any(|words| said.contains(words)), "{installed}");
        return Err(said);
    }
    fs::write(&done, PACKAGE).unwrap();
    Ok(program)
}

/// Held by one test at a time: the others wait, and find it installed.
async fn alone(place: &Path) -> fs::File {
    let file = fs::File::create(place.with_extension("lock")).unwrap();
    until("the end of another test's installation", INSTALL, async || {
        flock(&file, FlockOperation::NonBlockingLockExclusive).map_err(|error| error.to_string())
    })
    .await;
    file
}

/// The command line, against one lab.
pub struct Tool<'a> {
    rig: &'a Rig,
    program: PathBuf,
    config: String,
    /// The name of the cluster.
    pub scope: String,
}

impl<'a> Tool<'a> {
    /// For the first datacenter of the lab.
    ///
    /// # Panics
    /// When its configuration cannot be written.
    #[must_use]
    pub fn of(rig: &'a Rig, program: PathBuf) -> Self {
        let dc = &rig.lab.topology.datacenters[0].name;
        let scope = scope(&rig.lab.topology, dc);
        let etcd = rig.lab.layout.etcd_endpoints(dc);
        let config = json!({
            "scope": scope, "namespace": NAMESPACE, "etcd3": {"hosts": etcd[0].to_string()},
        });
        let file = rig.lab.layout.dir.join("patronictl.yml");
        // JSON is YAML.
        fs::write(&file, config.to_string()).unwrap();
        Self { rig, program, config: file.to_string_lossy().into_owned(), scope }
    }

    /// Runs one command, which must succeed.
    ///
    /// # Panics
    /// When it does not.
    pub async fn run(&self, arguments: &[&str]) -> Finished {
        let config = ["-c", self.config.as_str()];
        let line: Vec<&str> = config.into_iter().chain(arguments.iter().copied()).collect();
        let done = command::run(&self.program, &line, &[("COLUMNS", "200")], COMMAND).await;
        self.rig.say(&done.to_string());
        done.expect(0)
    }

    /// What `list` shows.
    ///
    /// # Panics
    /// When that is not understood.
    pub async fn members(&self) -> Vec<Value> {
        let listed = self.run(&["list", "-f", "json"]).await;
        let members: Value = serde_json::from_str(&listed.stdout).unwrap();
        members.as_array().unwrap().clone()
    }
}
