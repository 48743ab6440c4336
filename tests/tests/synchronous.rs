//! Goal: synchronous replication loses no acknowledged row, plain and by quorum, through failovers
//! and through changes of the mode; and writes go on soon when a synchronous standby is lost.
//! Method: three or four nodes under load. The mode is changed while rows are written; the
//! primary's host loses its power in quorum mode; a synchronous standby is frozen with its agent,
//! then another one loses its power. One that is restarted, or whose agent is stopped, is left out
//! of `/sync` first, by the order of the changes in etcd. Pauses are printed; only a generous bound is asserted.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::{Duration, Instant};

use federator_tests::agents::configure;
use federator_tests::patience::until;
use federator_tests::rest;
use federator_tests::rig::{READY, ROWS, Rig};
use federator_tests::rows;
use federator_tests::scene::Scene;
use federator_tests::store::Store;
use lab::Part;
use lab::layout::REST_PORT;
use node_agent_core::waits::Waits;
use node_agent_wire::keys::Leaf;
use node_agent_wire::status::SyncState;
use rustix::process::Signal;
use serde_json::json;

const THREE: &str = "
name: quorum
settings: {ttl: 5, loop_wait: 1, retry_timeout: 1, synchronous_mode: false}
datacenters:
  dc1: {etcd: 1, nodes: [pg1, pg2, pg3]}
";
/// Nothing here waits for a loop or a TTL to pass: with these, that would show.
const PATIENT: &str = "
name: stall
settings: {ttl: 20, loop_wait: 10, retry_timeout: 5, synchronous_mode: true}
datacenters:
  dc1: {etcd: 1, nodes: [pg1, pg2, pg3]}
";
const RANKED: &str = "
name: ranked
settings: {ttl: 5, loop_wait: 1, retry_timeout: 1}
dynamic: {synchronous_mode: quorum}
datacenters:
  dc1:
    etcd: 1
    nodes:
    - {name: pg1, tags: {nofailover: true}}
    - {name: pg2, tags: {failover_priority: 4}}
    - {name: pg3, tags: {failover_priority: 3}}
    - {name: pg4, tags: {failover_priority: 2}}
";
/// A stall may last so long at most; a pass of `loop_wait`, or a TTL, would be longer.
const STALL_MAX: Duration = Duration::from_secs(8);

async fn read_sync(store: &Store) -> SyncState {
    let text = store.get(Leaf::Sync).await.map(|(text, _)| text).unwrap_or_default();
    SyncState::parse(text.as_bytes())
}

/// Waits until `/sync` names so many standbys with this quorum, and the primary waits for so many.
async fn wait_sync(rig: &Rig, store: &Store, voters: usize, quorum: u32, num: usize) -> SyncState {
    let what = format!("{voters} standbys in /sync, quorum {quorum}, {num} waited for");
    until(&what, ROWS, async || {
        let sync = read_sync(store).await;
        let (node, _) =
            rig.access.primary_within(ROWS, "names").await.map_err(|e| e.to_string())?;
        let names = rows::value(&rig.access, &node, "SHOW synchronous_standby_names").await?;
        let waits = Waits::read(&names);
        let leads = sync.leader.as_ref().is_none_or(|leader| leader.as_str() == node.name);
        let there = sync.sync_standby.len() == voters && sync.quorum == quorum;
        let waited = waits.num == num && (voters == 0 || waits.set == sync.sync_standby);
        let reached = there && waited && leads && sync.active() == (voters > 0);
        if reached { Ok(sync) } else { Err(format!("{sync:?}, names {names}")) }
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_quorum_is_kept_through_changes_of_the_mode_and_a_failover() {
    let scene = Scene::set(Rig::start_with("quorum", THREE)).await;
    let store = Store::of(&scene.rig.lab, "dc1").await;
    for (change, voters, quorum, num) in [
        (json!({"synchronous_mode": true}), 1, 0, 1),
        (json!({"synchronous_mode": "quorum"}), 2, 1, 1),
        (json!({"synchronous_node_count": 2}), 2, 0, 2),
        (json!({"synchronous_mode": true}), 2, 0, 2),
        (json!({"synchronous_mode": false}), 0, 0, 0),
        (json!({"synchronous_mode": "quorum", "synchronous_node_count": 1}), 2, 1, 1),
    ] {
        scene.writer.phase(&change.to_string());
        configure(&scene.rig, &scene.primary, &change).await;
        wait_sync(&scene.rig, &store, voters, quorum, num).await;
        scene.rig.rows(&scene.writer, 100).await;
    }
    let sync = read_sync(&store).await;
    let voter = sync.sync_standby.first().unwrap().to_string();
    let address = scene.rig.lab.layout.host(&voter).unwrap().at(REST_PORT);
    for (path, status) in [("/quorum", 200), ("/sync", 503), ("/read-only-quorum", 200)] {
        let answer = rest::request(address, "GET", path, "", ROWS).await.unwrap();
        assert_eq!(answer.status, status, "{path} of {voter}: {answer:?}");
    }

    scene.writer.phase("loss of the primary's host");
    let cut = Instant::now();
    scene.rig.kill_host(&scene.primary);
    let successor = scene.rig.successor_of(&scene.primary).await;
    let took = cut.elapsed().as_millis();
    scene.rig.say(&format!("{successor} accepts writes {took} ms after the cut"));
    assert!(sync.sync_standby.contains(&successor.as_str().into()), "{successor} of {sync:?}");
    scene.rig.rows(&scene.writer, 300).await;
    // The one that is left, then both again.
    wait_sync(&scene.rig, &store, 1, 0, 1).await;
    scene.rig.start_dc("dc1");
    wait_sync(&scene.rig, &store, 2, 1, 1).await;
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_go_on_soon_without_a_lost_synchronous_standby() {
    let scene = Scene::set(Rig::start_with("stall", PATIENT)).await;
    let (rig, writer) = (&scene.rig, &scene.writer);
    let store = Store::of(&rig.lab, "dc1").await;
    let first = wait_sync(rig, &store, 1, 0, 1).await.sync_standby.first().unwrap().to_string();

    writer.phase("frozen");
    rig.signal(&first, Part::Agent, Signal::STOP);
    rig.signal_postgres(&first, "walreceiver", Signal::STOP);
    let frozen = Instant::now();
    rig.rows(writer, 300).await;
    rig.say(&format!("rows go on within {} ms of the freeze", frozen.elapsed().as_millis()));
    let sync = wait_sync(rig, &store, 1, 0, 1).await;
    let second = sync.sync_standby.first().unwrap().to_string();
    assert_ne!(second, first, "the other standby takes its place");
    rig.signal_postgres(&first, "walreceiver", Signal::CONT);
    rig.signal(&first, Part::Agent, Signal::CONT);

    writer.phase("power cut");
    rig.kill_host(&second);
    let cut = Instant::now();
    rig.rows(writer, 300).await;
    rig.say(&format!("rows go on within {} ms of the cut", cut.elapsed().as_millis()));
    let sync = wait_sync(rig, &store, 1, 0, 1).await;
    assert_eq!(sync.sync_standby.first().unwrap().to_string(), first, "it is taken up again");

    for phase in writer.snapshot().by_phase() {
        let pause = phase.longest_pause;
        rig.say(&format!("{}: longest pause {} ms", phase.label, pause.as_millis()));
        assert!(pause < STALL_MAX, "{}: {pause:?} without a row", phase.label);
    }
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_preferred_member_with_the_votes_leads() {
    let rig = Rig::start_with("ranked", RANKED);
    let former = rig.complete("dc1");
    assert_ne!(former, "dc1-pg1", "it is tagged nofailover");
    let store = Store::of(&rig.lab, "dc1").await;
    // Everybody that may lead but the leader, of whom one must have each commit.
    let sync = wait_sync(&rig, &store, 2, 1, 1).await;
    assert!(!sync.sync_standby.contains(&"dc1-pg1".into()), "{sync:?}");
    until("the same position everywhere", READY, async || {
        let sql = "SELECT count(*)::text FROM pg_stat_replication
            WHERE state = 'streaming' AND replay_lsn = pg_current_wal_lsn()";
        let level = rows::value(&rig.access, &rig.node(&former), sql).await?;
        if level == "3" { Ok(()) } else { Err(format!("{level} of 3")) }
    })
    .await;
    rig.kill_host(&former);
    let successor = rig.successor_of(&former).await;
    let best = ["dc1-pg2", "dc1-pg3", "dc1-pg4"].into_iter().find(|name| *name != former);
    assert_eq!(Some(successor.as_str()), best, "after {former}");
    rig.start_dc("dc1");
    assert_eq!(rig.complete("dc1"), successor, "the former primary follows");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_synchronous_standby_is_left_out_before_it_restarts() {
    let scene = Scene::set(Rig::start_with("release", PATIENT)).await;
    let store = Store::of(&scene.rig.lab, "dc1").await;
    let sync = wait_sync(&scene.rig, &store, 1, 0, 1).await;
    let standby = sync.sync_standby.first().unwrap().to_string();
    let changes = store.changes().await;
    scene.writer.phase("restart of the synchronous standby");
    let address = scene.rig.lab.layout.host(&standby).unwrap().at(REST_PORT);
    let answer = rest::request(address, "POST", "/restart", "{}", READY).await.unwrap();
    assert_eq!(answer.status, 200, "{answer:?}");
    scene.rig.rows(&scene.writer, 100).await;
    assert_eq!(scene.rig.complete("dc1"), scene.primary);

    let key = format!("members/{standby}");
    let seen = until("the member key of a standby that is back", ROWS, async || {
        let seen = changes.so_far();
        let last = seen.iter().rev().find(|(name, _)| *name == key);
        let back = last.is_some_and(|change| {
            says(change, &standby, "/state", "running") && !change.1.contains("nosync")
        });
        if back { Ok(seen) } else { Err(format!("{last:?}")) }
    })
    .await;
    left_out_first(&seen, &standby, |change| says(change, &standby, "/state", "restarting"));
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_synchronous_standby_is_left_out_before_its_agent_stops() {
    let scene = Scene::set(Rig::start_with("goodbye", PATIENT)).await;
    let store = Store::of(&scene.rig.lab, "dc1").await;
    let sync = wait_sync(&scene.rig, &store, 1, 0, 1).await;
    let standby = sync.sync_standby.first().unwrap().to_string();
    let changes = store.changes().await;
    scene.writer.phase("the synchronous standby's agent stops");
    let agent = scene.rig.signal(&standby, Part::Agent, Signal::TERM);
    scene.rig.rows(&scene.writer, 100).await;
    let key = format!("members/{standby}");
    let seen = until("the member key to be taken back", ROWS, async || {
        let seen = changes.so_far();
        let gone = seen.iter().any(|(name, text)| *name == key && text.is_empty());
        if gone && !agent.identity.is_alive() { Ok(seen) } else { Err(format!("{seen:?}")) }
    })
    .await;
    left_out_first(&seen, &standby, |(name, text)| *name == key && text.is_empty());
    scene.rig.rows(&scene.writer, 100).await;
    scene.rig.start_dc("dc1");
    assert_eq!(scene.rig.complete("dc1"), scene.primary);
    scene.end().await;
}

/// A change of a member's key, to this value of a field.
fn says((name, text): &(String, String), member: &str, field: &str, wanted: &str) -> bool {
    let data: serde_json::Value = serde_json::from_str(text).unwrap_or_default();
    *name == format!("members/{member}") && data.pointer(field) == Some(&wanted.into())
}

/// It asked, `/sync` named it no more, and only then it was away.
fn left_out_first(
    seen: &[(String, String)],
    standby: &str,
    away: impl Fn(&(String, String)) -> bool,
) {
    let asks = |(name, text): &(String, String)| {
        let data: serde_json::Value = serde_json::from_str(text).unwrap_or_default();
        *name == format!("members/{standby}") && data.pointer("/tags/nosync") == Some(&true.into())
    };
    let names_it_not = |(name, text): &(String, String)| {
        name == "sync" && !SyncState::parse(text.as_bytes()).covers(&standby.into())
    };
    let asked = seen.iter().position(asks);
    let left = seen.iter().position(names_it_not);
    let gone = seen.iter().position(away);
    let order = [asked, left, gone];
    assert!(order.iter().all(Option::is_some) && order.is_sorted(), "{order:?} of {seen:#?}");
}
