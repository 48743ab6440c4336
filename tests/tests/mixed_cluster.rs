//! Goal: members of Patroni and of ours live in one cluster, as during a migration: they elect each
//! other, hand the primary over in both directions, take over from each other's dead, and carry
//! each other through the loss of etcd.
//! Method: two nodes of ours and one of Patroni 4.1 under one scope, in synchronous mode and with
//! failsafe mode, under load, every node probed every 20 ms. One of ours is tagged `nofailover`, so
//! that each change goes from one kind to the other. Skipped with a printed reason where PyPI can't
//! be reached.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::{Duration, Instant};

use federator_tests::patience::until;
use federator_tests::patroni;
use federator_tests::patronictl::NO_WAY;
use federator_tests::rest;
use federator_tests::rig::{ROWS, Rig};
use federator_tests::scene::Scene;
use federator_tests::store::Store;
use lab::layout::REST_PORT;
use node_agent_wire::keys::Leaf;
use node_agent_wire::status::SyncState;
use serde_json::{Value, json};

/// Patroni's shortest times.
const TOPOLOGY: &str = "
name: mixed
settings: {ttl: 20, loop_wait: 1, retry_timeout: 3, synchronous_mode: true}
dynamic: {failsafe_mode: true, synchronous_node_count: 2}
datacenters:
  dc1: {etcd: 1, nodes: [pg1, {name: pg2, tags: {nofailover: true}}, pt3]}
";
const OURS: &str = "dc1-pg1";
const PATRONI: &str = "dc1-pt3";
const TTL: Duration = Duration::from_secs(20);
/// A switchover is answered when it is done.
const ANSWER: Duration = Duration::from_secs(90);

async fn ask(rig: &Rig, node: &str, method: &str, path: &str, body: &str) -> rest::Answer {
    let address = rig.lab.layout.host(node).unwrap().at(REST_PORT);
    rest::request(address, method, path, body, ANSWER).await.unwrap()
}

/// Both standbys are synchronous, so that either may take over.
async fn both_synchronous(scene: &Scene) {
    let store = Store::of(&scene.rig.lab, "dc1").await;
    until("two synchronous standbys", ROWS, async || {
        let (text, _) = store.get(Leaf::Sync).await.ok_or("no /sync")?;
        let sync = SyncState::parse(text.as_bytes());
        let leads = sync.leader.as_ref().is_some_and(|l| l.as_str() == scene.primary);
        if leads && sync.sync_standby.len() == 2 { Ok(()) } else { Err(text) }
    })
    .await;
}

async fn settled(scene: &mut Scene, leader: &str) {
    scene.recover().await;
    assert_eq!(scene.primary, leader, "another node leads");
    both_synchronous(scene).await;
}

async fn switch(scene: &mut Scene, to: &str) {
    let from = scene.primary.clone();
    scene.rig.say(&format!("switchover from {from} to {to}"));
    let body = json!({"leader": from, "candidate": to}).to_string();
    let answer = ask(&scene.rig, &from, "POST", "/switchover", &body).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(answer.body, format!("Successfully switched over to \"{to}\""));
    settled(scene, to).await;
}

/// The primary's host dies and `to` takes over; the host comes back as a standby.
async fn lose_primary(scene: &mut Scene, to: &str) {
    let from = scene.primary.clone();
    scene.rig.kill_host(&from);
    assert_eq!(scene.rig.successor_of(&from).await, to);
    settled(scene, to).await;
}

/// etcd is gone for longer than the TTL and nobody notices.
async fn without_etcd(scene: &mut Scene) {
    let primary = scene.primary.clone();
    let since = Instant::now();
    scene.rig.kill_host("dc1-etcd1");
    until("failsafe mode in the primary's words", ROWS, async || {
        let body = ask(&scene.rig, &primary, "GET", "/patroni", "").await.body;
        let body: Value = serde_json::from_str(&body).map_err(|error| error.to_string())?;
        let active = body["failsafe_mode_is_active"] == true;
        if active { Ok(()) } else { Err(body.to_string()) }
    })
    .await;
    let end = since + TTL * 3 / 2;
    until("writes beyond the TTL", end - Instant::now() + ROWS, async || {
        let late = scene.prober.snapshot().accepted_since(&primary, end);
        if late.is_empty() { Err("none yet".to_owned()) } else { Ok(()) }
    })
    .await;
    let record = scene.prober.snapshot();
    for node in scene.rig.nodes_of("dc1").iter().filter(|node| **node != primary) {
        assert!(record.accepted_since(node, since).is_empty(), "{node} accepted writes");
    }
    let mut last = since;
    for write in record.accepted_since(&primary, since) {
        let pause = write.sent.saturating_duration_since(last);
        assert!(pause < TTL, "{primary} accepted nothing for {pause:?}: it was demoted");
        last = write.acked;
    }
    // Whoever leads asks with these words, and Patroni compares the answer to the letter.
    let ping = json!({"name": primary, "conn_url": "", "api_url": "", "slots": null});
    let answer = ask(&scene.rig, "dc1-pg2", "POST", "/failsafe", &ping.to_string()).await;
    assert_eq!((answer.status, answer.body.as_str()), (200, "Accepted"));
    settled(scene, &primary).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn patroni_and_ours_are_members_of_one_cluster() {
    let program = match tokio::task::block_in_place(patroni::install) {
        Ok(program) => program,
        Err(said) => {
            assert!(NO_WAY.iter().any(|words| said.contains(words)), "{said}");
            println!("SKIPPED, Patroni cannot be installed from PyPI: {said}");
            return;
        }
    };
    let agents = [(PATRONI.to_owned(), program)].into();
    let mut scene = Scene::set(Rig::start_mixed("mixed-cluster", TOPOLOGY, agents)).await;
    both_synchronous(&scene).await;
    let first = scene.primary.clone();
    assert!(first == OURS || first == PATRONI, "{first} leads");

    if first == PATRONI {
        switch(&mut scene, OURS).await;
    }
    switch(&mut scene, PATRONI).await;
    without_etcd(&mut scene).await;
    switch(&mut scene, OURS).await;
    without_etcd(&mut scene).await;
    lose_primary(&mut scene, PATRONI).await;
    lose_primary(&mut scene, OURS).await;
    scene.end().await;
}
