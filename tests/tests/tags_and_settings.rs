//! Goal: on servers, tags and dynamic settings do what the reference says of them: `nosync`,
//! `nofailover`, `noloadbalance`, `sync_priority`, `maximum_lag_on_syncnode`,
//! `synchronous_mode_strict`, `ignore_slots`, permanent slots with `cluster_type`, `pg_ident`.
//! Method: four nodes of which one may lead. Tags and settings are changed while they run, by
//! SIGHUP and `PATCH /config`; each effect is looked for in etcd, PostgreSQL and the REST API.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use federator_tests::agents::configure;
use federator_tests::patience::until;
use federator_tests::rest;
use federator_tests::rig::{READY, ROWS, Rig};
use federator_tests::rows;
use federator_tests::store::Store;
use lab::Part;
use lab::layout::REST_PORT;
use node_agent_wire::keys::Leaf;
use node_agent_wire::status::SyncState;
use rustix::process::Signal;
use serde_json::{Value, json};

const TOPOLOGY: &str = "
name: tags
settings: {ttl: 5, loop_wait: 1, retry_timeout: 1, synchronous_mode: true}
datacenters:
  dc1:
    etcd: 1
    nodes:
    - pg1
    - {name: pg2, tags: {nofailover: true, nosync: true, noloadbalance: true}}
    - {name: pg3, tags: {nofailover: true, sync_priority: 2}}
    - {name: pg4, tags: {nofailover: true, sync_priority: 1}}
";
const LEADER: &str = "dc1-pg1";

async fn run(rig: &Rig, sql: &str) -> Result<(), String> {
    rows::run(&rig.access, &rig.node(LEADER), sql).await
}

async fn on_leader(rig: &Rig, sql: &str, wanted: &str) {
    until(&format!("{wanted} as the answer to {sql}"), READY, async || {
        let found = rows::value(&rig.access, &rig.node(LEADER), sql).await?;
        if found == wanted { Ok(()) } else { Err(found) }
    })
    .await;
}

/// Waits until `/sync` names this standby alone, and PostgreSQL waits for nobody else.
async fn synchronous(rig: &Rig, store: &Store, node: &str) {
    until(&format!("{node} to be the synchronous standby"), READY, async || {
        let text = store.get(Leaf::Sync).await.map(|(text, _)| text).unwrap_or_default();
        let sync = SyncState::parse(text.as_bytes());
        let named: Vec<&str> = sync.sync_standby.iter().map(|name| name.as_str()).collect();
        let names = "SELECT current_setting('synchronous_standby_names')";
        let names = rows::value(&rig.access, &rig.node(LEADER), names).await?;
        if named == [node] && names.contains(node) {
            Ok(())
        } else {
            Err(format!("{text} {names}"))
        }
    })
    .await;
}

/// Changes one tag in the file of an agent, which reads it again.
fn tag(rig: &Rig, node: &str, name: &str, value: Value) {
    let file = rig.lab.layout.host(node).unwrap().agent_config();
    let text = std::fs::read_to_string(&file).unwrap();
    let mut config = node_agent_wire::yaml::parse(&text).unwrap();
    config["tags"][name] = value;
    // JSON is YAML.
    std::fs::write(&file, config.to_string()).unwrap();
    rig.signal(node, Part::Agent, Signal::HUP);
}

/// Several megabytes of WAL that wait for no standby.
async fn write_past_the_standbys(rig: &Rig) {
    let sql = "SET synchronous_commit = local;
        CREATE TABLE IF NOT EXISTS load (text text);
        INSERT INTO load SELECT repeat('x', 1000) FROM generate_series(1, 4000)";
    run(rig, sql).await.unwrap();
}

async fn preferences(rig: &Rig, store: &Store) {
    synchronous(rig, store, "dc1-pg3").await;
    for (node, path, status) in [
        ("dc1-pg2", "/replica", 503),
        ("dc1-pg2", "/health", 200),
        ("dc1-pg4", "/replica", 200),
        ("dc1-pg3", "/synchronous", 200),
        ("dc1-pg4", "/synchronous", 503),
    ] {
        let address = rig.lab.layout.host(node).unwrap().at(REST_PORT);
        let answer = rest::request(address, "GET", path, "", ROWS).await.unwrap();
        assert_eq!(answer.status, status, "{path} of {node}: {answer:?}");
    }
    tag(rig, "dc1-pg4", "sync_priority", json!(5));
    synchronous(rig, store, "dc1-pg4").await;
    tag(rig, "dc1-pg4", "sync_priority", json!(1));
    synchronous(rig, store, "dc1-pg3").await;
    tag(rig, "dc1-pg3", "nosync", json!(true));
    synchronous(rig, store, "dc1-pg4").await;
    tag(rig, "dc1-pg3", "nosync", json!(false));
    synchronous(rig, store, "dc1-pg3").await;
}

/// The preferred standby receives nothing for a while; its agent answers, so it is only slow.
async fn lag(rig: &Rig, store: &Store) {
    configure(rig, LEADER, &json!({"maximum_lag_on_syncnode": 1_000_000})).await;
    let stopped = rig.signal_postgres("dc1-pg3", "walreceiver", Signal::STOP);
    write_past_the_standbys(rig).await;
    synchronous(rig, store, "dc1-pg4").await;
    assert!(!stopped.is_empty());
    rig.signal_postgres("dc1-pg3", "walreceiver", Signal::CONT);
    synchronous(rig, store, "dc1-pg3").await;
    configure(rig, LEADER, &json!({"maximum_lag_on_syncnode": -1})).await;
}

async fn slots(rig: &Rig) {
    let change = json!({
        "ignore_slots": [{"name": "kept", "type": "physical"}],
        "slots": {
            "always": {"type": "physical"},
            "primaries": {"type": "physical", "cluster_type": "primary"},
            "standbys": {"type": "physical", "cluster_type": "standby"}},
        "postgresql": {
            "parameters": {"work_mem": "9MB"},
            "pg_ident": ["visitors root postgres"]}});
    configure(rig, LEADER, &change).await;
    on_leader(rig, "SELECT current_setting('work_mem')", "9MB").await;
    let mapped = "SELECT count(*)::text FROM pg_ident_file_mappings WHERE map_name = 'visitors'";
    on_leader(rig, mapped, "1").await;
    run(rig, "SELECT pg_create_physical_replication_slot('kept')").await.unwrap();
    run(rig, "SELECT pg_create_physical_replication_slot('stray')").await.unwrap();
    let extra = "SELECT coalesce(string_agg(slot_name, ' ' ORDER BY slot_name), '')
        FROM pg_replication_slots WHERE slot_name NOT LIKE 'dc1%'";
    on_leader(rig, extra, "always kept primaries").await;
    configure(rig, LEADER, &json!({"slots": {"primaries": null}})).await;
    on_leader(rig, extra, "always kept").await;
}

/// With nobody left to wait for, commits wait in strict mode, and go on when it ends.
async fn strict(rig: &Rig, store: &Store) {
    configure(rig, LEADER, &json!({"synchronous_mode_strict": true})).await;
    for node in ["dc1-pg2", "dc1-pg3", "dc1-pg4"] {
        rig.kill_host(node);
    }
    until("/sync to name nobody", READY, async || {
        let text = store.get(Leaf::Sync).await.map(|(text, _)| text).unwrap_or_default();
        let none = SyncState::parse(text.as_bytes()).sync_standby.is_empty();
        if none { Ok(()) } else { Err(text) }
    })
    .await;
    on_leader(rig, "SELECT current_setting('synchronous_standby_names')", "*").await;
    let write = run(rig, "CREATE TABLE strict (note text)");
    let ended = async {
        let waits = "SELECT count(*)::text FROM pg_stat_activity WHERE wait_event = 'SyncRep'";
        on_leader(rig, waits, "1").await;
        configure(rig, LEADER, &json!({"synchronous_mode_strict": false})).await;
    };
    let (written, ()) = tokio::join!(write, ended);
    written.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tags_and_settings_do_what_they_say() {
    let rig = Rig::start_with("tags", TOPOLOGY);
    assert_eq!(rig.complete("dc1"), LEADER, "the others must not lead");
    let store = Store::of(&rig.lab, "dc1").await;
    preferences(&rig, &store).await;
    lag(&rig, &store).await;
    slots(&rig).await;
    strict(&rig, &store).await;
    rig.start_dc("dc1");
    assert_eq!(rig.complete("dc1"), LEADER);
    synchronous(&rig, &store, "dc1-pg3").await;
}
