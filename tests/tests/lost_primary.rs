//! Goal: with `primary_lost_timeout` a primary that falls silent is given up long before the store
//! forgets its key, and still no two nodes ever accept writes at once.
//! Method: three nodes under load, each host in a network namespace of its own, a TTL that is
//! longer than the whole test, and the shorter time set while it runs. First the primary's host
//! vanishes without a word; then the next primary is cut from etcd with its clients connected;
//! last the time is taken away again, and nobody takes over from a primary that is cut off for a
//! while.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::Instant;

use federator_tests::agent_log::Mark;
use federator_tests::isolation;
use federator_tests::patience::until;
use federator_tests::rest;
use federator_tests::rig::{ROWS, Rig};
use federator_tests::scene::{Scene, assert_in_turn};
use federator_tests::store::Store;
use lab::layout::REST_PORT;
use lab::namespaces::Namespaces;
use node_agent_core::rule::Rule;
use node_agent_wire::keys::Leaf;
use node_agent_wire::position::Position;

const TOPOLOGY: &str = "
name: lost
settings: {ttl: 600, loop_wait: 1, retry_timeout: 1, synchronous_mode: true}
datacenters:
  dc1: {etcd: 1, nodes: [pg1, pg2, pg3]}
";
/// Milliseconds: long enough for a busy machine.
const LOST_MS: u64 = 5000;

async fn beat(store: &Store) -> Result<Position, String> {
    let (text, _) = store.get(Leaf::Position).await.ok_or("no position")?;
    serde_json::from_str(&text).map_err(|error| error.to_string())
}

/// Sets the time, and waits until beats name it.
async fn lost_after(scene: &Scene, store: &Store, time: serde_json::Value, named_ms: u64) {
    let address = scene.rig.lab.layout.host(&scene.primary).unwrap().at(REST_PORT);
    let body = serde_json::json!({"primary_lost_timeout": time}).to_string();
    scene.rig.say(&body);
    let answer = rest::request(address, "PATCH", "/config", &body, ROWS).await;
    assert_eq!(answer.as_ref().map(|a| a.status), Ok(200), "{answer:?}");
    until("beats that name the time", ROWS, async || {
        let ttl_ms = beat(store).await?.ttl_ms;
        if ttl_ms == named_ms { Ok(()) } else { Err(format!("{ttl_ms} ms")) }
    })
    .await;
}

/// Another node takes the key over from the lost leader, and writes only after it.
async fn replaced(scene: &Scene, store: &Store, mark: &Mark, fault: Instant) {
    let former = &scene.primary;
    let successor = scene.rig.successor_of(former).await;
    let (leader, _) = store.get(Leaf::Leader).await.unwrap();
    assert_eq!(leader, successor);
    let replaced = mark.decided(&scene.rig.lab, Rule::PrimaryLost);
    assert!(replaced.iter().any(|line| line.starts_with(&successor)), "{replaced:?}");
    scene.rig.rows(&scene.writer, 100).await;
    assert_in_turn(&scene.prober.snapshot(), former, &successor, fault);
}

fn cut(scene: &Scene, network: &Namespaces, to: &str, on: bool) {
    scene.rig.say(&format!("between {} and {to} packets are lost: {on}", scene.primary));
    for (from, to) in [(scene.primary.as_str(), to), (to, scene.primary.as_str())] {
        if on { network.cut(from, to).unwrap() } else { network.heal(from, to).unwrap() }
    }
}

#[test]
fn a_silent_primary_is_given_up_before_its_key_runs_out_and_after_it_has_stopped() {
    isolation::run(async |network| {
        let rig = Rig::start_isolated("lost-primary", TOPOLOGY, &network);
        let mut scene = Scene::set(rig).await;
        let store = Store::of(&scene.rig.lab, "dc1").await;
        lost_after(&scene, &store, (LOST_MS / 1000).into(), LOST_MS).await;

        let (mark, fault) = (Mark::now(&scene.rig.lab), Instant::now());
        let former = scene.primary.clone();
        network.unplug(&former).unwrap();
        scene.rig.kill_host(&former);
        replaced(&scene, &store, &mark, fault).await;
        network.plug(&former).unwrap();
        scene.recover().await;

        let (mark, fault) = (Mark::now(&scene.rig.lab), Instant::now());
        cut(&scene, &network, "dc1-etcd1", true);
        replaced(&scene, &store, &mark, fault).await;
        cut(&scene, &network, "dc1-etcd1", false);
        scene.recover().await;

        lost_after(&scene, &store, serde_json::Value::Null, 600_000).await;
        let (mark, before) = (Mark::now(&scene.rig.lab), scene.primary.clone());
        cut(&scene, &network, "dc1-etcd1", true);
        until("rows for longer than the shorter time", ROWS, async || {
            let lasted = u64::try_from(silence_ms(&store).await?).unwrap_or(0);
            if lasted > LOST_MS * 2 { Ok(()) } else { Err(format!("{lasted} ms")) }
        })
        .await;
        scene.rig.rows(&scene.writer, 100).await;
        cut(&scene, &network, "dc1-etcd1", false);
        scene.recover().await;
        assert_eq!(scene.primary, before, "the TTL is not over");
        assert!(mark.decided(&scene.rig.lab, Rule::PrimaryLost).is_empty());
        scene.end().await;
    });
}

/// How old the last beat is, in milliseconds: the clocks are this machine's.
async fn silence_ms(store: &Store) -> Result<i64, String> {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let now_ms = i64::try_from(now.map_err(|e| e.to_string())?.as_millis()).unwrap_or(i64::MAX);
    Ok(now_ms - beat(store).await?.at_us / 1000)
}
