//! Goal: users, passwords and parameters of connections change by a reload, and what they hold for
//! goes on meanwhile: the agents' own sessions, replication, the REST API. And a cluster whose
//! configuration files are not in the data directory begins, clones and fails over.
//! Method: three nodes under load. The roles get new passwords in SQL, the files of the agents the
//! same, each agent a SIGHUP; then the agents and every WAL receiver have to log in anew.
//! PostgreSQL's start times show that nothing was restarted.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::Duration;

use federator_tests::patience::until;
use federator_tests::rest;
use federator_tests::rig::{READY, ROWS, Rig, assert_nothing_lost};
use federator_tests::rows;
use lab::layout::REST_PORT;
use lab::{Part, access::on_primary};
use rustix::process::Signal;
use serde_json::{Value, json};

const TOPOLOGY: &str = "
name: credentials
settings: {ttl: 5, loop_wait: 1, retry_timeout: 1, synchronous_mode: true}
agent: {postgresql: {config_dir: '{dir}/run'}}
datacenters:
  dc1: {etcd: 1, nodes: [pg1, pg2, pg3]}
";
const ANSWER: Duration = Duration::from_secs(30);
const STARTED: &str = "SELECT pg_postmaster_start_time()::text";

/// Changes the file of an agent, and has it read again.
fn change(rig: &Rig, node: &str, change: &Value) {
    let file = rig.lab.layout.host(node).unwrap().agent_config();
    let text = std::fs::read_to_string(&file).unwrap();
    let mut config = node_agent_wire::yaml::parse(&text).unwrap();
    let (target, patch) = (config.as_object_mut().unwrap(), change.as_object().unwrap());
    node_agent_wire::patch::apply(target, patch);
    // JSON is YAML.
    std::fs::write(&file, config.to_string()).unwrap();
    rig.signal(node, Part::Agent, Signal::HUP);
}

async fn value(rig: &Rig, node: &str, sql: &str) -> String {
    rows::value(&rig.access, &rig.node(node), sql).await.unwrap()
}

async fn eventually(rig: &Rig, node: &str, sql: &str, wanted: &str) {
    until(&format!("{wanted} on {node} for {sql}"), ROWS, async || {
        let seen = rows::value(&rig.access, &rig.node(node), sql).await?;
        if seen == wanted { Ok(()) } else { Err(seen) }
    })
    .await;
}

/// What a request that changes nothing, but might, is answered.
async fn guarded(rig: &Rig, node: &str) -> u16 {
    let address = rig.lab.layout.host(node).unwrap().at(REST_PORT);
    rest::request(address, "DELETE", "/restart", "", ANSWER).await.unwrap().status
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn passwords_change_by_a_reload() {
    let rig = Rig::start_with("credentials", TOPOLOGY);
    let leader = rig.complete("dc1");
    let writer = rig.writer("before").await;
    rig.rows(&writer, 100).await;
    let nodes = rig.nodes_of("dc1");
    for node in &nodes {
        let host = rig.lab.layout.host(node).unwrap();
        assert!(host.socket_dir().join("postgresql.conf").exists(), "{node}: config_dir");
        let shown = value(&rig, node, "SHOW config_file").await;
        assert!(shown.ends_with("/run/postgresql.conf"), "{node}: {shown}");
    }
    let mut started = Vec::new();
    for node in &nodes {
        started.push(value(&rig, node, STARTED).await);
    }

    writer.phase("new passwords");
    // The test goes on as the old superuser.
    let roles = "CREATE ROLE chief SUPERUSER LOGIN PASSWORD 'chief''s own';
         ALTER ROLE replicator PASSWORD 'another one'";
    on_primary(&rig.access, roles, ROWS).await.unwrap();
    let users = json!({
        "superuser": {"username": "chief", "password": "chief's own"},
        "replication": {"password": "another one", "sslmode": "disable"},
    });
    let api = json!({"username": "api", "password": "secret"});
    for node in &nodes {
        assert_eq!(guarded(&rig, node).await, 404, "{node}: no password yet");
        let changes = json!({
            "postgresql": {"authentication": users, "parameters": {"work_mem": "7MB"}},
            "restapi": {"authentication": api},
        });
        change(&rig, node, &changes);
    }
    for node in &nodes {
        eventually(&rig, node, "SHOW work_mem", "7MB").await;
        assert_eq!(guarded(&rig, node).await, 401, "{node}: the new password");
        // Open sessions keep their login: the agent's are ended, so that it has to log in anew.
        let end = "SELECT count(pg_terminate_backend(pid))::text FROM pg_stat_activity
            WHERE application_name = 'Patroni heartbeat' AND usename = 'postgres'";
        value(&rig, node, end).await;
        let chief = "SELECT (count(*) > 0)::text FROM pg_stat_activity WHERE usename = 'chief'";
        eventually(&rig, node, chief, "true").await;
    }
    for node in nodes.iter().filter(|node| **node != leader) {
        let open =
            "SELECT (current_setting('primary_conninfo') LIKE '%sslmode=''disable''%')::text";
        eventually(&rig, node, open, "true").await;
        rig.signal_postgres(node, "walreceiver", Signal::TERM);
    }
    // Whoever streams has logged in with the new password.
    let streams = "SELECT count(*)::text FROM pg_stat_replication WHERE state = 'streaming'";
    eventually(&rig, &leader, streams, "2").await;
    assert_eq!(rig.complete("dc1"), leader);
    rig.rows(&writer, 100).await;
    for (node, before) in nodes.iter().zip(&started) {
        assert_eq!(value(&rig, node, STARTED).await, *before, "{node} was restarted");
    }

    writer.phase("failover with the new passwords");
    rig.kill_host(&leader);
    let successor = rig.successor_of(&leader).await;
    rig.start_dc("dc1");
    assert_eq!(rig.complete("dc1"), successor);
    rig.rows(&writer, 100).await;
    assert_nothing_lost(&rig.audit(&writer.stop().await).await);
    rows::wait_identical(&rig.access, READY).await;
}
