//! Goal: a standby cluster that no federation knows of: it streams, its leader changes by
//! switchover and by failover, it goes on with nothing but the archive, is promoted when its
//! section is removed, and demoted again when it is put back.
//! Method: dc1 with one node and an archive; dc2 with two nodes, its configuration written past all
//! programs, as a person would. A row of each phase must arrive on both nodes of dc2.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use federator_tests::agent_log::Mark;
use federator_tests::patience::until;
use federator_tests::rest;
use federator_tests::rig::{READY, Rig};
use federator_tests::rows;
use federator_tests::store::Store;
use lab::access::within;
use lab::layout::{POSTGRES_PORT, REST_PORT};
use node_agent_core::rule::Rule;
use node_agent_wire::keys::Leaf;
use serde_json::{Value, json};

const SOURCE: &str = "dc1-pg1";
const NODES: [&str; 2] = ["dc2-pg1", "dc2-pg2"];
const QUERY: Duration = Duration::from_secs(20);

fn topology(archive: &str) -> String {
    format!(
        "name: pair\n\
         settings: {{ttl: 5, loop_wait: 1, retry_timeout: 1}}\n\
         datacenters:\n\
         \x20 dc1:\n\
         \x20   nodes: [pg1]\n\
         \x20   dynamic:\n\
         \x20     slots: {{dc2: {{type: physical}}}}\n\
         \x20     postgresql:\n\
         \x20       parameters: {{archive_mode: \"on\", archive_command: \"cp %p {archive}/%f\"}}\n\
         \x20 dc2: {{nodes: [pg1, pg2]}}\n"
    )
}

async fn run(rig: &Rig, node: &str, sql: &str) -> Result<(), String> {
    let client = rows::connect(&rig.access, &rig.node(node)).await?;
    let done = within("changing", node, QUERY, client.batch_execute(sql)).await;
    done.map_err(|error| error.to_string())
}

/// Writes a row of the phase on `from`, and waits until every node of dc2 has it.
async fn arrives(rig: &Rig, from: &str, phase: &str, after: &str) {
    let insert = format!("INSERT INTO note VALUES ('{phase}')");
    until(&format!("a write on {from}"), READY, async || run(rig, from, &insert).await).await;
    if !after.is_empty() {
        run(rig, from, after).await.unwrap();
    }
    has(rig, &NODES, &format!("count(*) FILTER (WHERE phase = '{phase}') > 0"), phase).await;
}

/// Waits until these nodes say so of the table.
async fn has(rig: &Rig, nodes: &[&str], condition: &str, what: &str) {
    for node in nodes {
        until(&format!("\"{what}\" on {node}"), READY, async || {
            let sql = format!("SELECT ({condition})::text FROM note");
            let said = rows::value(&rig.access, &rig.node(node), &sql).await?;
            if said == "true" { Ok(()) } else { Err(said) }
        })
        .await;
    }
}

async fn configure(store: &Store, standby: Value) {
    let mut config = store.config().await;
    config["standby_cluster"] = standby;
    if config["standby_cluster"].is_null() {
        config.as_object_mut().unwrap().remove("standby_cluster");
    }
    store.put(Leaf::Config, &config.to_string()).await;
}

fn other_than(node: &str) -> &'static str {
    NODES.into_iter().find(|name| *name != node).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_standby_cluster_without_a_federation_lives_its_life() {
    let archive = tempfile::tempdir().unwrap();
    let open = std::fs::Permissions::from_mode(0o777);
    std::fs::set_permissions(archive.path(), open).unwrap();
    let archive = archive.path().display().to_string();
    let rig = Rig::start_with("standby-cluster", &topology(&archive));
    run(&rig, SOURCE, "CREATE TABLE note (phase text)").await.unwrap();

    let mut config = Store::of(&rig.lab, "dc1").await.config().await;
    let source = rig.lab.layout.host(SOURCE).unwrap().at(POSTGRES_PORT);
    let restore = format!("cp {archive}/%f %p");
    let streaming = json!({
        "host": source.ip().to_string(), "port": source.port(), "primary_slot_name": "dc2",
        "restore_command": restore});
    config["standby_cluster"] = streaming.clone();
    config.as_object_mut().unwrap().remove("slots");
    // Two clusters must not write into one archive.
    let parameters = config["postgresql"]["parameters"].as_object_mut().unwrap();
    parameters.retain(|name, _| !name.starts_with("archive_"));
    let store = Store::of(&rig.lab, "dc2").await;
    store.put(Leaf::Config, &config.to_string()).await;
    let first = rig.complete("dc2");
    arrives(&rig, SOURCE, "streaming", "").await;

    let mark = Mark::now(&rig.lab);
    let address = rig.lab.layout.host(&first).unwrap().at(REST_PORT);
    let body = json!({"leader": first}).to_string();
    let answer = rest::request(address, "POST", "/switchover", &body, READY).await.unwrap();
    let second = other_than(&first);
    let wanted = format!("Successfully switched over to \"{second}\"");
    assert_eq!((answer.status, answer.body.as_str()), (200, wanted.as_str()));
    assert_eq!(rig.complete("dc2"), second);
    arrives(&rig, SOURCE, "switched over", "").await;
    assert!(mark.decided(&rig.lab, Rule::StandbySwitchover).iter().any(|l| l.starts_with(&first)));
    assert!(mark.decided(&rig.lab, Rule::StartStandby).is_empty(), "something was restarted");

    rig.kill_host(second);
    until(&format!("{first} to lead dc2"), READY, async || {
        let leader = store.get(Leaf::Leader).await.map(|(name, _)| name);
        if leader.as_deref() == Some(first.as_str()) { Ok(()) } else { Err(format!("{leader:?}")) }
    })
    .await;
    rig.start_dc("dc2");
    assert_eq!(rig.complete("dc2"), first);
    arrives(&rig, SOURCE, "failed over", "").await;

    configure(&store, json!({"restore_command": restore})).await;
    until("the standby leader to stream no more", READY, async || {
        let sql = "SELECT count(*)::text FROM pg_stat_wal_receiver";
        let count = rows::value(&rig.access, &rig.node(&first), sql).await?;
        if count == "0" { Ok(()) } else { Err(format!("{count} walreceivers")) }
    })
    .await;
    arrives(&rig, SOURCE, "archived", "SELECT pg_switch_wal()").await;

    configure(&store, Value::Null).await;
    arrives(&rig, &first, "promoted", "").await;
    arrives(&rig, &first, "lost again", "").await;

    // Put back: what its leader wrote on its own goes, and it follows again.
    configure(&store, streaming).await;
    let gone = "count(*) FILTER (WHERE phase IN ('promoted', 'lost again')) = 0";
    has(&rig, &[first.as_str()], gone, "demoted").await;
    run(&rig, SOURCE, "INSERT INTO note VALUES ('demoted')").await.unwrap();
    let there = "count(*) FILTER (WHERE phase = 'demoted') > 0";
    has(&rig, &[first.as_str()], there, "demoted").await;
    assert!(!mark.decided(&rig.lab, Rule::Rewind).is_empty(), "nothing was rewound");
}
