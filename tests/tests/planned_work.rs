//! Goal: what operators plan and change with Patroni's own command line happens as planned: a
//! switchover for later and its cancel, a restart for later, on a condition and its cancel, a raise
//! and a lowering of max_connections that only a restart brings, and a changed file after a reload.
//! Method: `patronictl` from PyPI against three nodes under load.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::Instant;

use federator_tests::agents::{ask, eventually, state};
use federator_tests::patience::until;
use federator_tests::patronictl::{Tool, install};
use federator_tests::rig::{READY, ROWS, Rig, assert_nothing_lost};
use federator_tests::rows;
use federator_tests::store::Store;
use lab::Part;
use node_agent_wire::keys::Leaf;
use rustix::process::Signal;
use serde_json::{Value, json};

/// A moment so many seconds ahead, as the system's own `date` writes it.
fn ahead(seconds: u64) -> String {
    let when = format!("+{seconds} seconds");
    let done = std::process::Command::new("date").args(["-u", "-Iseconds", "-d", &when]).output();
    String::from_utf8(done.unwrap().stdout).unwrap().trim().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn planned_work_is_done_when_its_time_comes() {
    let program = match install().await {
        Ok(program) => program,
        Err(reason) => {
            println!("SKIPPED: PyPI cannot be reached from here: {reason}");
            return;
        }
    };
    let rig = Rig::start("planned-work", "three-nodes.yaml");
    let leader = rig.complete("dc1");
    let writer = rig.writer("before").await;
    let tool = Tool::of(&rig, program);
    max_connections(&rig, &tool, &leader).await;
    restarts(&rig, &leader).await;
    reloads(&rig, &leader).await;
    let leader = switchovers(&rig, &tool, &leader).await;
    rig.rows(&writer, 100).await;
    assert_eq!(rig.complete("dc1"), leader);
    assert_nothing_lost(&rig.audit(&writer.stop().await).await);
    rows::wait_identical(&rig.access, READY).await;
}

async fn connections(rig: &Rig, node: &str) -> String {
    let sql = "SELECT current_setting('max_connections')";
    rows::value(&rig.access, &rig.node(node), sql).await.unwrap()
}

/// Raised with the primary first, against the advice: the standbys restart themselves. Lowered with
/// a standby first: it keeps the higher value until the primary has the lower one.
async fn max_connections(rig: &Rig, tool: &Tool<'_>, leader: &str) {
    let replicas: Vec<String> = rig.nodes_of("dc1").into_iter().filter(|n| n != leader).collect();
    let set = async |value: u32| {
        let parameter = format!("max_connections={value}");
        let line = ["edit-config", tool.scope.as_str(), "--force", "--quiet", "-p", &parameter];
        let _ = tool.run(&line).await;
    };
    let restart = async |node: &str| {
        let _ = tool.run(&["restart", tool.scope.as_str(), node, "--force", "--pending"]).await;
    };
    set(60).await;
    for node in rig.nodes_of("dc1") {
        let waits = eventually(rig, &node, "a pending restart", |s| s["pending_restart"] == true);
        let reason = waits.await["pending_restart_reason"]["max_connections"].clone();
        assert_eq!(reason, json!({"old_value": "50", "new_value": "60"}), "{node}");
    }
    restart(leader).await;
    assert_eq!(connections(rig, leader).await, "60");
    for node in &replicas {
        let done = |s: &Value| s["state"] == "running" && s.get("pending_restart").is_none();
        eventually(rig, node, "a restart by itself", done).await;
        assert_eq!(connections(rig, node).await, "60", "{node}");
    }
    set(40).await;
    let first = &replicas[0];
    eventually(rig, first, "a pending restart", |s| s["pending_restart"] == true).await;
    restart(first).await;
    let still = eventually(rig, first, "to run again", |s| s["state"] == "running").await;
    assert_eq!(connections(rig, first).await, "60", "lower than the primary's is not possible");
    assert_eq!(still["pending_restart"], true, "{still}");
    restart(leader).await;
    for node in &replicas {
        until("the lower value to arrive", ROWS, async || {
            restart(node).await;
            let sql = "SELECT current_setting('max_connections')";
            let value = rows::value(&rig.access, &rig.node(node), sql).await?;
            if value == "40" { Ok(()) } else { Err(value) }
        })
        .await;
        eventually(rig, node, "no pending restart", |s| s.get("pending_restart").is_none()).await;
    }
}

async fn restarts(rig: &Rig, leader: &str) {
    let started = state(rig, leader).await.unwrap()["postmaster_start_time"].clone();
    let post = async |body: Value| ask(rig, leader, "POST", "/restart", &body).await;
    assert_eq!(post(json!({"role": "replica"})).await.status, 503, "the condition is not met");
    let far = json!({"schedule": ahead(3600)});
    assert_eq!(post(far.clone()).await.status, 202);
    assert_eq!(post(far).await.status, 409, "only one can be planned");
    let listed = ask(rig, leader, "GET", "/cluster", &Value::Null).await.body;
    assert!(listed.contains("scheduled_restart"), "{listed}");
    assert_eq!(ask(rig, leader, "DELETE", "/restart", &Value::Null).await.status, 200);
    assert_eq!(ask(rig, leader, "DELETE", "/restart", &Value::Null).await.status, 404);
    assert_eq!(
        state(rig, leader).await.unwrap()["postmaster_start_time"],
        started,
        "not restarted yet"
    );
    assert_eq!(post(json!({"schedule": ahead(3), "role": "primary"})).await.status, 202);
    eventually(rig, leader, "the planned restart", |s| {
        s["state"] == "running" && s["postmaster_start_time"] != started
    })
    .await;
    assert_eq!(rig.complete("dc1"), leader, "a restart is no failover");
}

/// A tag and a parameter in the file of one agent, read again at SIGHUP.
async fn reloads(rig: &Rig, leader: &str) {
    let node = rig.nodes_of("dc1").into_iter().find(|n| n != leader).unwrap();
    let file = rig.lab.layout.host(&node).unwrap().agent_config();
    let text = std::fs::read_to_string(&file).unwrap();
    let mut config = node_agent_wire::yaml::parse(&text).unwrap();
    config["postgresql"]["parameters"]["work_mem"] = "7MB".into();
    config["tags"] = json!({"color": "green"});
    // JSON is YAML.
    std::fs::write(&file, config.to_string()).unwrap();
    rig.signal(&node, Part::Agent, Signal::HUP);
    eventually(rig, &node, "the new tag", |s| s["tags"]["color"] == "green").await;
    until("the new parameter", ROWS, async || {
        let sql = "SELECT current_setting('work_mem')";
        let value = rows::value(&rig.access, &rig.node(&node), sql).await?;
        if value == "7MB" { Ok(()) } else { Err(value) }
    })
    .await;
}

async fn switchovers(rig: &Rig, tool: &Tool<'_>, leader: &str) -> String {
    let store = Store::of(&rig.lab, "dc1").await;
    let candidate = until("a synchronous standby", ROWS, async || {
        let (text, _) = store.get(Leaf::Sync).await.ok_or("no key sync")?;
        let sync = node_agent_wire::status::SyncState::parse(text.as_bytes());
        sync.sync_standby.first().map(ToString::to_string).ok_or(text)
    })
    .await;
    let plan = async |at: &str| {
        let names = ["--leader", leader, "--candidate", candidate.as_str(), "--scheduled", at];
        let line = ["switchover", tool.scope.as_str(), "--force"];
        let line: Vec<&str> = line.into_iter().chain(names).collect();
        tool.run(&line).await
    };
    let asked = Instant::now();
    let _ = plan(&ahead(3600)).await;
    // patronictl may need seconds on a machine with other work.
    let taken = asked.elapsed().as_secs();
    let listed = tool.run(&["list"]).await.stdout;
    assert!(listed.contains("Switchover scheduled at"), "{listed}");
    let _ = tool.run(&["flush", tool.scope.as_str(), "switchover", "--force"]).await;
    let (text, _) = store.get(Leaf::Failover).await.unwrap();
    assert_eq!(text, "{}", "the plan is taken back");
    let at = ahead(4 + 3 * taken);
    let told = plan(&at).await.stdout;
    assert!(told.contains("Switchover scheduled"), "{told}");
    assert_eq!(store.get(Leaf::Leader).await.unwrap().0, leader, "not before its time");
    assert_eq!(rig.successor_of(leader).await, candidate);
    assert!(ahead(0) >= at, "not before its time");
    assert_eq!(rig.complete("dc1"), candidate);
    let history = tool.run(&["history", tool.scope.as_str(), "-f", "json"]).await.stdout;
    assert!(history.contains("no recovery target specified"), "{history}");
    assert!(history.contains(&candidate), "{history}");
    candidate
}
