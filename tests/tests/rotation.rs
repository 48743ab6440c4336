//! Goal: the replication role and its password change while rows are written and both links stay:
//! the new login is accepted before the old one ends, the old one ends last, and no password is in
//! a log, in etcd or in what the federator says.
//! Method: two datacenters; the command waits while each agent gets its new file and a SIGHUP.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use federator_tests::federator::exit;
use federator_tests::patience::until;
use federator_tests::rig::{READY, ROWS, Rig, assert_nothing_lost};
use federator_tests::rows;
use federator_tests::store::Store;
use lab::Part;
use rustix::process::Signal;
use serde_json::{Value, json};
use std::path::Path;

const TOPOLOGY: &str = "
name: shop
settings: {ttl: 5, loop_wait: 1, retry_timeout: 1}
agent:
  postgresql:
    pg_hba:
      - local all all scram-sha-256
      - host replication all 127.0.0.0/8 scram-sha-256
      - host all all 127.0.0.0/8 scram-sha-256
datacenters:
  dc1: {etcd: 1, nodes: [pg1, pg2]}
  dc2: {etcd: 1, nodes: [pg1]}
";
const NEXT: &str = "replicator_b";
const SECRET: &str = "a-new-secret-0815";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_replication_role_changes_while_the_links_stay() {
    let rig = Rig::start_with("rotation", TOPOLOGY);
    rig.federate().await;
    let usage = rig.federator(&["rotate-credentials", "--yes"]).await.expect(exit::USAGE);
    assert!(usage.stderr.contains("credentials.replication_next"), "{usage}");
    let settings = rig.lab.layout.federator_config();
    let secret = settings.with_file_name("next.pass");
    std::fs::write(&secret, SECRET).unwrap();
    change(
        &settings,
        &json!({"credentials": {"replication_next": {
        "username": NEXT, "password_file": secret}}}),
    );
    let writer = rig.writer("rotation").await;
    rig.rows(&writer, 50).await;

    let early = ["rotate-credentials", "--yes", "--timeout", "3s"];
    let early = rig.federator(&early).await.expect(exit::PARTLY);
    assert!(early.stderr.contains("connects as replicator"), "nobody has moved: {early}");
    assert_eq!(can_login(&rig, "replicator").await, "true", "the old one ends last");
    let command = ["rotate-credentials", "--yes"];
    let (done, ()) = tokio::join!(rig.federator(&command), reload_agents(&rig));
    let done = done.expect(exit::DONE);
    assert_eq!(can_login(&rig, "replicator").await, "false");
    assert_eq!(can_login(&rig, NEXT).await, "true");

    // The links that begin from now on log in by the new role.
    let leader = rig.complete("dc1");
    for host in rig.lab.layout.nodes().filter(|host| host.name != leader) {
        rig.signal_postgres(&host.name, "walreceiver", Signal::TERM);
    }
    let users = "SELECT string_agg(DISTINCT usename::text, ',') FROM pg_stat_replication";
    until("both standbys by the new role", ROWS, async || {
        let count = "SELECT count(*)::text FROM pg_stat_replication WHERE state = 'streaming'";
        let count = rows::value(&rig.access, &rig.node(&leader), count).await?;
        let users = rows::value(&rig.access, &rig.node(&leader), users).await?;
        if (count.as_str(), users.as_str()) == ("2", NEXT) { Ok(()) } else { Err(users) }
    })
    .await;
    let credentials = json!({"username": NEXT, "password_file": secret});
    change(
        &settings,
        &json!({"credentials":
        {"replication": credentials, "replication_next": null}}),
    );
    rig.settled("dc1").await;
    rig.rows(&writer, 50).await;
    assert_nothing_lost(&rig.audit(&writer.stop().await).await);
    rows::wait_identical(&rig.access, READY).await;
    told_nowhere(&rig, &format!("{early}{done}")).await;
}

/// Once the role is there, each agent gets its name and password, and reads its file again.
async fn reload_agents(rig: &Rig) {
    for node in rig.lab.layout.nodes() {
        until("the new role", READY, async || {
            let sql = format!("SELECT count(*)::text FROM pg_roles WHERE rolname = '{NEXT}'");
            let there = rows::value(&rig.access, &rig.node(&node.name), &sql).await?;
            if there == "1" { Ok(()) } else { Err(there) }
        })
        .await;
        let users = json!({"replication": {"username": NEXT, "password": SECRET}});
        change(&node.agent_config(), &json!({"postgresql": {"authentication": users}}));
        rig.signal(&node.name, Part::Agent, Signal::HUP);
    }
}

async fn can_login(rig: &Rig, role: &str) -> String {
    let leader = rig.complete("dc1");
    let sql = format!("SELECT rolcanlogin::text FROM pg_roles WHERE rolname = '{role}'");
    rows::value(&rig.access, &rig.node(&leader), &sql).await.unwrap()
}

/// Lays a patch over a YAML file; JSON is YAML.
fn change(file: &Path, patch: &Value) {
    let text = std::fs::read_to_string(file).unwrap();
    let mut config = node_agent_wire::yaml::parse(&text).unwrap();
    node_agent_wire::patch::apply(config.as_object_mut().unwrap(), patch.as_object().unwrap());
    std::fs::write(file, config.to_string()).unwrap();
}

/// The secret is in no log, no key and no output.
async fn told_nowhere(rig: &Rig, said: &str) {
    assert!(!said.contains(SECRET), "the federator tells it");
    for host in rig.lab.layout.nodes() {
        for log in [host.log(), host.dir.join(format!("{}.log", host.name))] {
            let text = std::fs::read(&log).unwrap_or_default();
            assert!(!String::from_utf8_lossy(&text).contains(SECRET), "{} tells it", log.display());
        }
    }
    for dc in ["dc1", "dc2"] {
        let keys = Store::of(&rig.lab, dc).await.dump().await;
        assert!(keys.values().all(|(value, _)| !value.contains(SECRET)), "etcd of {dc} has it");
    }
}
