//! Goal: Patroni's own command line works on a datacenter of ours as it is: list, topology,
//! switchover, edit-config.
//! Method: `patronictl` from PyPI, in a virtual environment that is kept beside the build, against
//! three nodes under load. Where PyPI cannot be reached the test prints the reason and ends.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use federator_tests::command::{self, Finished};
use federator_tests::patience::until;
use federator_tests::programs;
use federator_tests::rig::{READY, ROWS, Rig, assert_nothing_lost};
use federator_tests::rows;
use lab::render::{NAMESPACE, scope};
use serde_json::{Value, json};

/// How long an installation may take.
const INSTALL: Duration = Duration::from_secs(300);
/// How long one command may take.
const COMMAND: Duration = Duration::from_secs(90);
/// Patroni imports a driver of PostgreSQL even where it does not need one.
const PACKAGE: &str = "patroni[etcd3,psycopg3]";
/// What pip says when there is no way to the index.
const NO_WAY: [&str; 7] = [
    "No matching distribution",
    "Could not find a version",
    "Failed to establish a new connection",
    "Temporary failure in name resolution",
    "ReadTimeoutError",
    "ConnectTimeoutError",
    "ProxyError",
];

/// `patronictl`, installed now or earlier; why not, when PyPI cannot be reached.
async fn install() -> Result<PathBuf, String> {
    let place = programs::cache("patroni");
    let (program, done) = (place.join("bin/patronictl"), place.join("installed"));
    if fs::read_to_string(&done).is_ok_and(|package| package == PACKAGE) {
        return Ok(program);
    }
    if place.exists() {
        fs::remove_dir_all(&place).unwrap();
    }
    fs::create_dir_all(place.parent().unwrap()).unwrap();
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

struct Tool<'a> {
    rig: &'a Rig,
    program: PathBuf,
    config: String,
    scope: String,
}

impl<'a> Tool<'a> {
    fn of(rig: &'a Rig, program: PathBuf) -> Self {
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

    async fn run(&self, arguments: &[&str]) -> Finished {
        let config = ["-c", self.config.as_str()];
        let line: Vec<&str> = config.into_iter().chain(arguments.iter().copied()).collect();
        let done = command::run(&self.program, &line, &[("COLUMNS", "200")], COMMAND).await;
        self.rig.say(&done.to_string());
        done.expect(0)
    }

    async fn members(&self) -> Vec<Value> {
        let listed = self.run(&["list", "-f", "json"]).await;
        let members: Value = serde_json::from_str(&listed.stdout).unwrap();
        members.as_array().unwrap().clone()
    }
}

fn leader_of(members: &[Value]) -> String {
    let found = members.iter().find(|member| member["Role"] == "Leader");
    name(found.unwrap_or_else(|| panic!("nobody leads: {members:?}")))
}

fn name(member: &Value) -> String {
    member["Member"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn patronictl_works_on_our_agents() {
    let program = match install().await {
        Ok(program) => program,
        Err(reason) => {
            println!("SKIPPED: PyPI cannot be reached from here: {reason}");
            return;
        }
    };
    let rig = Rig::start("patroni-tools", "three-nodes.yaml");
    let leader = rig.complete("dc1");
    let writer = rig.writer("before").await;
    let tool = Tool::of(&rig, program);
    let _ = tool.run(&["version"]).await;

    let members = tool.members().await;
    assert_eq!(members.len(), 3, "{members:?}");
    assert_eq!(leader_of(&members), leader);
    assert!(members.iter().all(|member| member["TL"] == 1 && member["Cluster"] == tool.scope));
    let table = tool.run(&["list"]).await.stdout;
    assert!(rig.nodes_of("dc1").iter().all(|node| table.contains(node.as_str())), "{table}");

    let tree = tool.run(&["topology"]).await.stdout;
    for node in rig.nodes_of("dc1").iter().filter(|node| **node != leader) {
        assert!(tree.contains(&format!("+ {node}")), "{node} does not hang below {leader}: {tree}");
    }

    let candidate = until("a synchronous standby in patronictl list", ROWS, async || {
        let members = tool.members().await;
        let found = members.iter().find(|member| member["Role"] == "Sync Standby");
        found.map(name).ok_or_else(|| format!("{members:?}"))
    })
    .await;
    writer.phase("switchover --force");
    let names = ["--leader", leader.as_str(), "--candidate", candidate.as_str()];
    let line = ["switchover", tool.scope.as_str(), "--force"];
    let line: Vec<&str> = line.into_iter().chain(names).collect();
    let told = tool.run(&line).await.stdout;
    assert!(told.contains(&format!("Successfully switched over to \"{candidate}\"")), "{told}");
    rig.rows(&writer, 200).await;
    assert_eq!(rig.complete("dc1"), candidate);
    assert_eq!(leader_of(&tool.members().await), candidate);

    edit_config(&rig, &tool).await;
    assert_nothing_lost(&rig.audit(&writer.stop().await).await);
    rows::wait_identical(&rig.access, READY).await;
}

/// A setting of the agents and a parameter of PostgreSQL, which must reach every node.
async fn edit_config(rig: &Rig, tool: &Tool<'_>) {
    let settings = ["-s", "maximum_lag_on_failover=2097152", "-p", "work_mem=9MB"];
    let line = ["edit-config", tool.scope.as_str(), "--force", "--quiet"];
    let line: Vec<&str> = line.into_iter().chain(settings).collect();
    let _ = tool.run(&line).await;
    let shown = tool.run(&["show-config", tool.scope.as_str()]).await.stdout;
    assert!(shown.contains("maximum_lag_on_failover: 2097152"), "{shown}");
    assert!(shown.contains("synchronous_mode: true"), "the rest is still there: {shown}");
    for node in &rig.access.nodes {
        let what = format!("work_mem from edit-config on {}", node.name);
        until(&what, ROWS, async || {
            let sql = "SELECT current_setting('work_mem')";
            let value = rows::value(&rig.access, node, sql).await?;
            if value == "9MB" { Ok(()) } else { Err(value) }
        })
        .await;
    }
}
