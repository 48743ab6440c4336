//! Goal: in maintenance mode PostgreSQL goes on without its agent and without etcd, nobody takes
//! over meanwhile, also when maintenance ends before the agent is back, and a switchover to a named
//! member works.
//! Method: three nodes under load, every node probed every 20 ms; one step after the other in the
//! same lab.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use federator_tests::agent_log::Mark;
use federator_tests::agents::ask;
use federator_tests::patience::until;
use federator_tests::rig::{ROWS, Rig};
use federator_tests::scene::Scene;
use federator_tests::store::Store;
use lab::Part;
use node_agent_core::rule::Rule;
use node_agent_wire::keys::Leaf;
use node_agent_wire::position::Position;
use rustix::process::Signal;
use serde_json::{Value, json};

async fn set_pause(rig: &Rig, node: &str, pause: Value) {
    let answer = ask(rig, node, "PATCH", "/config", &json!({"pause": pause})).await;
    assert_eq!(answer.status, 200, "{answer:?}");
}

/// Waits for a beat that says whether PostgreSQL may go on alone.
async fn beats_with(store: &Store, mark: bool) {
    until(&format!("a beat with unattended={mark}"), ROWS, async || {
        let (text, _) = store.get(Leaf::Position).await.ok_or("no position")?;
        let position: Position = serde_json::from_str(&text).map_err(|e| e.to_string())?;
        if position.unattended == mark { Ok(()) } else { Err(text) }
    })
    .await;
}

async fn led_by(store: &Store, wanted: Option<&str>) {
    until(&format!("the leader key to hold {wanted:?}"), ROWS, async || {
        let found = store.get(Leaf::Leader).await.map(|(name, _)| name);
        if found.as_deref() == wanted { Ok(()) } else { Err(format!("{found:?}")) }
    })
    .await;
}

async fn stop_agent(scene: &Scene, node: &str) {
    let agent = scene.rig.signal(node, Part::Agent, Signal::TERM);
    until("the end of the agent", ROWS, async || {
        if agent.identity.is_alive() { Err("it runs".to_owned()) } else { Ok(()) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn maintenance_mode_leaves_postgresql_alone() {
    let scene = Scene::set(Rig::start("maintenance", "three-nodes.yaml")).await;
    let (primary, rig) = (scene.primary.clone(), &scene.rig);
    let store = Store::of(&rig.lab, "dc1").await;
    let other = rig.nodes_of("dc1").into_iter().find(|n| *n != primary).unwrap();
    let postmaster = scene.part(Part::Postmaster);

    set_pause(rig, &primary, json!(true)).await;
    beats_with(&store, true).await;
    let mark = Mark::now(&rig.lab);
    stop_agent(&scene, &primary).await;
    led_by(&store, None).await;
    rig.rows(&scene.writer, 100).await;
    // Maintenance ends while the agent is away: the others wait for its word.
    set_pause(rig, &other, Value::Null).await;
    until("the others to wait for the primary's word", ROWS, async || {
        let lines = mark.decided(&rig.lab, Rule::LeftRunning);
        if lines.is_empty() { Err("nobody waits yet".to_owned()) } else { Ok(()) }
    })
    .await;
    rig.rows(&scene.writer, 100).await;
    assert_eq!(store.get(Leaf::Leader).await, None, "somebody took over");
    rig.start_dc("dc1");
    led_by(&store, Some(&primary)).await;
    assert_eq!(rig.complete("dc1"), primary);
    assert_eq!(scene.part(Part::Postmaster).identity, postmaster.identity, "the same postmaster");

    without_etcd(&scene, &store, &primary).await;
    assert_eq!(scene.part(Part::Postmaster).identity, postmaster.identity, "the same postmaster");
    stays_down(&scene, &other).await;

    let candidate = until("a synchronous standby", ROWS, async || {
        let (text, _) = store.get(Leaf::Sync).await.ok_or("no key sync")?;
        let sync = node_agent_wire::status::SyncState::parse(text.as_bytes());
        sync.sync_standby.first().map(ToString::to_string).ok_or(text)
    })
    .await;
    let body = json!({"leader": primary, "candidate": candidate});
    let answer = ask(rig, &primary, "POST", "/switchover", &body).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(rig.complete("dc1"), candidate, "the former primary follows");
    set_pause(rig, &primary, Value::Null).await;
    // The guard has a deadline again: a killed agent leaves no primary behind.
    beats_with(&store, false).await;
    rig.signal(&candidate, Part::Agent, Signal::KILL);
    assert_ne!(rig.successor_of(&candidate).await, candidate);
    scene.end().await;
}

/// etcd is away for longer than the TTL, and the primary's agent is restarted meanwhile.
async fn without_etcd(scene: &Scene, store: &Store, primary: &str) {
    let rig = &scene.rig;
    // The mark of the maintenance before is in etcd until the primary beats without it.
    beats_with(store, false).await;
    set_pause(rig, primary, json!(true)).await;
    beats_with(store, true).await;
    let mark = Mark::now(&rig.lab);
    let etcd: Vec<String> =
        rig.lab.layout.hosts.iter().filter(|h| !h.is_node()).map(|h| h.name.clone()).collect();
    for member in &etcd {
        rig.kill_host(member);
    }
    until("the lease to run out without etcd", ROWS, async || {
        let lines = mark.decided(&rig.lab, Rule::PausedWithoutDcs);
        if lines.is_empty() { Err("not yet".to_owned()) } else { Ok(()) }
    })
    .await;
    rig.rows(&scene.writer, 100).await;
    let health = ask(rig, primary, "GET", "/primary", &Value::Null).await;
    assert_eq!(health.status, 200, "load balancers still find the primary");
    rig.start_dc("dc1");
    led_by(store, Some(primary)).await;
    rig.rows(&scene.writer, 100).await;
}

/// A replica whose PostgreSQL is stopped stays down until maintenance ends.
async fn stays_down(scene: &Scene, replica: &str) {
    let rig = &scene.rig;
    let postmaster = rig.signal(replica, Part::Postmaster, Signal::INT);
    until("the replica to be seen down", ROWS, async || {
        let answer = ask(rig, replica, "GET", "/patroni", &Value::Null).await;
        let body: Value = serde_json::from_str(&answer.body).map_err(|e| e.to_string())?;
        let down = body["rule"] == Rule::PausedDown.number() && body["state"] == "stopped";
        if down && !postmaster.identity.is_alive() { Ok(()) } else { Err(answer.body) }
    })
    .await;
    rig.rows(&scene.writer, 100).await;
    // A restart of the agent changes nothing in that; the end of maintenance does.
    set_pause(rig, replica, Value::Null).await;
    assert_eq!(rig.complete("dc1"), scene.primary);
    set_pause(rig, replica, json!(true)).await;
}
