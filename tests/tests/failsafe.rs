//! Goal: with failsafe mode a primary that has lost etcd goes on as long as those agree who could
//! take its place, and stops before anybody does when they do not. No two nodes ever accept writes
//! at once and no acknowledged row is lost.
//! Method: three nodes under load, every node probed every 20 ms. First the primary alone is cut
//! from etcd, then etcd is gone for everybody for a minute, in which the standbys' slots move on
//! by the leader's word, then a member as well. The same with `failsafe_majority`, where one member
//! may be gone and the successor of a dead primary needs votes.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::{Duration, Instant};

use federator_tests::agent_log::Mark;
use federator_tests::isolation;
use federator_tests::patience::until;
use federator_tests::rest;
use federator_tests::rig::{ROWS, Rig};
use federator_tests::rows;
use federator_tests::scene::Scene;
use federator_tests::store::Store;
use lab::layout::REST_PORT;
use node_agent_core::promise::settling;
use node_agent_core::rule::Rule;
use node_agent_wire::keys::Leaf;
use node_agent_wire::status::SyncState;
use serde_json::Value;

const TOPOLOGY: &str = "
name: failsafe
settings: {ttl: 5, loop_wait: 1, retry_timeout: 1, synchronous_mode: true}
dynamic: {failsafe_mode: true}
datacenters:
  dc1: {etcd: 1, nodes: [pg1, pg2, pg3]}
";
const TTL: Duration = Duration::from_secs(5);
const MINUTE: Duration = Duration::from_secs(60);

/// What an agent says in `GET /patroni`.
async fn patroni(rig: &Rig, node: &str) -> Result<Value, String> {
    let address = rig.lab.layout.host(node).map_err(|error| error.to_string())?.at(REST_PORT);
    let answer = rest::request(address, "GET", "/patroni", "", Duration::from_secs(3)).await?;
    serde_json::from_str(&answer.body).map_err(|error| error.to_string())
}

/// The primary accepts writes until `end`, and nobody else does.
async fn goes_on(scene: &Scene, since: Instant, end: Instant) {
    let primary = &scene.primary;
    let what = format!("writes on {primary} beyond the outage");
    until(&what, end - Instant::now() + ROWS, async || {
        let late = scene.prober.snapshot().accepted_since(primary, end);
        if late.is_empty() { Err("none yet".to_owned()) } else { Ok(()) }
    })
    .await;
    let record = scene.prober.snapshot();
    let mut last = since;
    for write in record.accepted_since(primary, since) {
        let pause = write.sent.saturating_duration_since(last);
        assert!(pause < TTL, "{primary} accepted nothing for {pause:?}");
        last = write.acked;
    }
    for node in scene.rig.nodes_of("dc1").iter().filter(|node| *node != primary) {
        let wrote = record.accepted_since(node, since);
        assert!(wrote.is_empty(), "{node} accepted writes");
    }
}

async fn in_failsafe(scene: &Scene) {
    until("failsafe mode in the primary's own words", ROWS, async || {
        let body = patroni(&scene.rig, &scene.primary).await?;
        let active = body["failsafe_mode_is_active"] == true;
        let rule = u64::from(Rule::FailsafeKeep.number());
        if active && body["rule"] == rule { Ok(()) } else { Err(body.to_string()) }
    })
    .await;
}

/// Every standby keeps slots for the other members; the outage does not stop them from moving.
async fn slots_follow(scene: &Scene) {
    let access = &scene.rig.access;
    let primary = scene.rig.node(&scene.primary);
    let begun = rows::value(access, &primary, "SELECT pg_current_wal_lsn()::text").await.unwrap();
    let moved = format!(
        "SELECT count(*) FILTER (WHERE restart_lsn > '{begun}') || ' of ' || count(*)
         FROM pg_replication_slots WHERE slot_type = 'physical'"
    );
    for node in access.nodes.iter().filter(|node| node.name != scene.primary) {
        let what = format!("both slots of {} beyond the outage's beginning", node.name);
        until(&what, ROWS, async || {
            let seen = rows::value(access, node, &moved).await?;
            if seen == "2 of 2" { Ok(()) } else { Err(seen) }
        })
        .await;
    }
}

/// Writes have ended on every node, and that within two TTLs.
async fn stops(scene: &Scene, since: Instant) {
    until("the end of writes", ROWS, async || {
        let quiet = Instant::now().checked_sub(Duration::from_secs(2)).unwrap();
        let nodes = scene.prober.snapshot().summary();
        if quiet > since && nodes.iter().all(|node| node.last < quiet) {
            return Ok(());
        }
        Err(format!("{nodes:?}"))
    })
    .await;
    let last = scene.prober.snapshot().summary().into_iter().map(|node| node.last).max().unwrap();
    let took = last.saturating_duration_since(since);
    scene.rig.say(&format!("the last write came {} ms after the loss", took.as_millis()));
    assert!(took < TTL, "the primary went on for {took:?} without the members' word");
}

fn etcd(rig: &Rig) -> String {
    let found = rig.lab.layout.hosts.iter().find(|host| !host.is_node());
    found.map(|host| host.name.clone()).unwrap()
}

#[test]
fn a_primary_without_etcd_goes_on_while_every_member_agrees() {
    isolation::run(async |network| {
        let rig = Rig::start_isolated("failsafe-all", TOPOLOGY, &network);
        let mut scene = Scene::set(rig).await;
        let (etcd, primary) = (etcd(&scene.rig), scene.primary.clone());

        scene.rig.say("the primary alone is cut from etcd");
        let since = Instant::now();
        network.cut(&primary, &etcd).unwrap();
        network.cut(&etcd, &primary).unwrap();
        in_failsafe(&scene).await;
        goes_on(&scene, since, since + TTL * 3).await;
        network.heal(&primary, &etcd).unwrap();
        network.heal(&etcd, &primary).unwrap();
        scene.recover().await;
        assert_eq!(scene.primary, primary, "it leads on");

        let since = Instant::now();
        scene.rig.kill_host(&etcd);
        in_failsafe(&scene).await;
        slots_follow(&scene).await;
        goes_on(&scene, since, since + MINUTE).await;
        scene.rig.rows(&scene.writer, 100).await;

        let member = scene.rig.nodes_of("dc1").into_iter().find(|n| *n != primary).unwrap();
        let since = Instant::now();
        scene.rig.kill_host(&member);
        stops(&scene, since).await;
        scene.recover().await;
        scene.end().await;
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_primary_without_etcd_goes_on_with_a_majority_when_asked_to() {
    let topology =
        TOPOLOGY.replace("failsafe_mode: true", "failsafe_mode: true, failsafe_majority: true");
    let mut scene = Scene::set(Rig::start_with("failsafe-majority", &topology)).await;
    let began = Instant::now();
    let (etcd, primary) = (etcd(&scene.rig), scene.primary.clone());
    let store = Store::of(&scene.rig.lab, "dc1").await;
    let nodes = scene.rig.nodes_of("dc1");
    let asynchronous = until("a member that is not synchronous", ROWS, async || {
        let (text, _) = store.get(Leaf::Sync).await.ok_or("no /sync")?;
        let sync = SyncState::parse(text.as_bytes());
        let other = nodes.iter().find(|n| !sync.covers(&n.as_str().into())).cloned();
        other.filter(|_| !sync.sync_standby.is_empty()).ok_or(text)
    })
    .await;

    // A member whose agent was started lately may have voted for a successor before.
    goes_on(&scene, began, began + settling(TTL)).await;
    let since = Instant::now();
    scene.rig.kill_host(&asynchronous);
    scene.rig.kill_host(&etcd);
    in_failsafe(&scene).await;
    goes_on(&scene, since, since + TTL * 3).await;
    scene.rig.rows(&scene.writer, 100).await;
    scene.recover().await;
    assert_eq!(scene.primary, primary, "it leads on");

    scene.rig.say("the primary dies while it might have a majority behind it");
    let mark = Mark::now(&scene.rig.lab);
    scene.rig.kill_host(&primary);
    let successor = scene.rig.successor_of(&primary).await;
    scene.rig.rows(&scene.writer, 100).await;
    let asked = mark.decided(&scene.rig.lab, Rule::FailsafeVotes);
    assert!(asked.iter().any(|line| line.starts_with(&successor)), "no votes: {asked:?}");
    scene.recover().await;
    scene.end().await;
}
