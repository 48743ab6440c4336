//! Goal: whatever happens to an agent or its guard while PostgreSQL lives, no two nodes ever accept
//! writes at once, and no acknowledged row is lost.
//! Method: three nodes under load, every node probed every 20 ms. The primary's agent is killed,
//! frozen beyond its lease, killed and restarted within it; its guard is killed.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::{Duration, Instant};

use federator_tests::patience::until;
use federator_tests::rig::{ROWS, Rig};
use federator_tests::scene::{Scene, assert_in_turn};
use federator_tests::store::Store;
use lab::Part;
use node_agent_wire::keys::Leaf;
use node_agent_wire::position::Position;
use rustix::process::Signal;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_agent_leaves_no_primary_behind() {
    let scene = Scene::set(Rig::start("agent-killed", "three-nodes.yaml")).await;
    let fault = Instant::now();
    let postmaster = scene.part(Part::Postmaster);
    scene.rig.signal(&scene.primary, Part::Agent, Signal::KILL);
    assert!(postmaster.identity.is_alive(), "PostgreSQL outlives its agent");
    let successor = scene.rig.successor_of(&scene.primary).await;
    assert!(!postmaster.identity.is_alive(), "the guard has stopped PostgreSQL");
    scene.rig.rows(&scene.writer, 200).await;
    let former = scene.primary.clone();
    assert_in_turn(&scene.end().await, &former, &successor, fault);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_agent_that_wakes_up_does_not_write() {
    let scene = Scene::set(Rig::start("agent-frozen", "three-nodes.yaml")).await;
    let fault = Instant::now();
    let agent = scene.rig.signal(&scene.primary, Part::Agent, Signal::STOP);
    let successor = scene.rig.successor_of(&scene.primary).await;
    scene.rig.rows(&scene.writer, 200).await;
    assert!(agent.identity.is_alive(), "the agent is frozen, not dead");
    scene.rig.signal(&scene.primary, Part::Agent, Signal::CONT);
    let former = scene.primary.clone();
    assert_in_turn(&scene.end().await, &former, &successor, fault);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_guard_takes_postgresql_with_it() {
    let scene = Scene::set(Rig::start("guard-killed", "three-nodes.yaml")).await;
    let postmaster = scene.part(Part::Postmaster);
    scene.rig.signal(&scene.primary, Part::Guard, Signal::KILL);
    until("the end of PostgreSQL without its guard", Duration::from_secs(5), async || {
        if postmaster.identity.is_alive() { Err("it runs".to_owned()) } else { Ok(()) }
    })
    .await;
    scene.rig.rows(&scene.writer, 200).await;
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restarted_agent_adopts_its_postgresql() {
    let scene = Scene::set(Rig::start("agent-restarted", "three-nodes.yaml")).await;
    let (postmaster, guard) = (scene.part(Part::Postmaster), scene.part(Part::Guard));
    scene.rig.signal(&scene.primary, Part::Agent, Signal::KILL);
    scene.rig.start_dc("dc1");
    let store = Store::of(&scene.rig.lab, "dc1").await;
    let (before, _) = store.get(Leaf::Position).await.unwrap();
    let before: Position = serde_json::from_str(&before).unwrap();
    // By then the lease of the killed agent has run out, and only the new one can have renewed it.
    until("beats of the new agent beyond the TTL", ROWS, async || {
        let (now, _) = store.get(Leaf::Position).await.ok_or("no position")?;
        let now: Position = serde_json::from_str(&now).map_err(|error| error.to_string())?;
        let lived_ms = now.at_us.saturating_sub(before.at_us) / 1000;
        let beyond = u64::try_from(lived_ms).is_ok_and(|ms| ms > before.ttl_ms + 2000);
        if beyond && now.leader == before.leader { Ok(()) } else { Err(format!("{now:?}")) }
    })
    .await;
    assert_eq!(scene.part(Part::Postmaster).identity, postmaster.identity, "the same postmaster");
    assert_eq!(scene.part(Part::Guard).identity, guard.identity, "the same guard");
    let (primary, pause) = (scene.primary.clone(), scene.writer.snapshot().longest_pause());
    let record = scene.end().await;
    let writers: Vec<String> = record.summary().into_iter().map(|node| node.node).collect();
    assert_eq!(writers, [primary], "no failover");
    println!("longest write pause while the agent was away: {} ms", pause.as_millis());
}
