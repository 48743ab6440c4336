//! Goal (I6): a hand edit cannot promote. `standby_cluster` removed from the configuration of dc2
//! leaves dc2 read-only, even when its leader dies and another node takes over; the status says
//! why. Putting it back heals it, and so does the rejoin that the status advises.
//! Method: the key `config` of dc2's etcd is overwritten past all programs; every node is probed,
//! and asked for a write in rounds until the leader has led for longer than a lease lasts.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::{Duration, Instant};

use federator_tests::agent_log::Mark;
use federator_tests::federator::exit;
use federator_tests::patience::until;
use federator_tests::rig::{READY, Rig, assert_nothing_lost};
use federator_tests::rows;
use federator_tests::store::Store;
use lab::ledger::Writer;
use node_agent_core::rule::Rule;
use node_agent_wire::keys::Leaf;
use node_agent_wire::position::Position;

/// Rounds of refused writes that are the least for a verdict.
const ROUNDS: u32 = 10;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_standby_whose_standby_cluster_was_removed_stays_read_only() {
    let rig = Rig::start("hand-edit", "two-dc.yaml");
    rig.federate().await;
    let writer = rig.writer("before").await;
    let prober = rig.prober().await;
    rig.rows(&writer, 100).await;

    let store = Store::of(&rig.lab, "dc2").await;
    let before = store.config().await;
    let mut edited = before.clone();
    let removed = edited.as_object_mut().and_then(|config| config.remove("standby_cluster"));
    assert!(removed.is_some(), "setup has made dc2 a standby cluster: {before}");
    let since = Instant::now();
    writer.phase("standby_cluster removed");
    let mark = Mark::now(&rig.lab);
    store.put(Leaf::Config, &edited.to_string()).await;
    let former = stays_read_only(&rig, &store, &mark, &rig.nodes_of("dc2")).await;
    writer.phase("put back");
    store.put(Leaf::Config, &before.to_string()).await;
    rig.settled("dc1").await;
    streams_again(&rig, &writer, &former).await;

    writer.phase("removed, and the leader dies");
    let mark = Mark::now(&rig.lab);
    store.put(Leaf::Config, &edited.to_string()).await;
    rig.kill_host(&former);
    let nodes = rig.nodes_of("dc2");
    let others: Vec<String> = nodes.into_iter().filter(|node| *node != former).collect();
    let successor = stays_read_only(&rig, &store, &mark, &others).await;
    rig.say(&format!("{successor} leads dc2 after {former}"));
    writer.phase("rejoin");
    rig.start_dc("dc2");
    let _ = rig.federator(&["rejoin", "dc2", "--yes"]).await.expect(exit::DONE);
    rig.settled("dc1").await;
    rig.rows(&writer, 100).await;
    let ledger = writer.stop().await;
    let record = prober.stop();
    for node in rig.nodes_of("dc2") {
        let writes = record.accepted_since(&node, since);
        assert!(writes.is_empty(), "{node} accepted {} writes", writes.len());
    }
    rig.assert_one_primary(&record);
    assert_nothing_lost(&rig.audit(&ledger).await);
    rows::wait_identical(&rig.access, Duration::from_secs(60)).await;
}

/// Waits until dc2 has a leader that has decided to stay read-only and says why, follows nobody any
/// more, and has led on for longer than two leases while `nodes` refused every write. The status
/// says why, too. Returns the leader.
async fn stays_read_only(rig: &Rig, store: &Store, mark: &Mark, nodes: &[String]) -> String {
    let why = "standby_cluster is not configured here";
    let leader = until("the decision of dc2's leader to stay read-only", READY, async || {
        let lines = mark.decided(&rig.lab, Rule::ReadOnly);
        let of = |node: &String| {
            let begins = format!("{node}: ");
            lines.iter().find(|line| line.starts_with(&begins) && line.contains(why))
        };
        let found = nodes.iter().find_map(|node| Some((node, of(node)?)));
        let (node, line) = found.ok_or_else(|| format!("{lines:?}"))?;
        rig.say(line);
        Ok(node)
    })
    .await;
    until(&format!("{leader} to follow nobody"), READY, async || {
        let sql = "SELECT count(*)::text FROM pg_stat_wal_receiver";
        let receivers = rows::value(&rig.access, &rig.node(leader), sql).await?;
        if receivers == "0" { Ok(()) } else { Err(format!("{receivers} walreceivers")) }
    })
    .await;
    let first = position(store).await;
    assert_eq!(first.leader.as_str(), leader, "the leader that decided");
    let (mut rounds, mut said) = (0, String::new());
    until("two leases of a leader that does not promote itself", READY, async || {
        for node in nodes {
            said = rows::refusal(&rig.access, &rig.node(node)).await?;
        }
        rounds += 1;
        let now = position(store).await;
        let lived_ms = u64::try_from(now.at_us.saturating_sub(first.at_us) / 1000);
        let long = lived_ms.is_ok_and(|ms| ms > 2 * now.ttl_ms) && rounds >= ROUNDS;
        if long && now.leader == first.leader { Ok(()) } else { Err(format!("{now:?}")) }
    })
    .await;
    rig.say(&format!("{rounds} rounds on {}: {said}", nodes.join(", ")));
    let status = rig.federator(&["status"]).await.expect(exit::DONE);
    let next = "federator rejoin dc2";
    for words in ["dc2 is read-only", "standby_cluster", "names dc1 as primary", next] {
        assert!(status.stdout.contains(words), "the status does not say: {words}");
    }
    leader.clone()
}

/// Waits until a standby has every row that is acknowledged by now.
async fn streams_again(rig: &Rig, writer: &Writer, standby: &str) {
    let wanted = writer.acknowledged();
    until(&format!("{wanted} rows on {standby}"), READY, async || {
        let sql = "SELECT count(*)::text FROM ledger";
        let rows = rows::value(&rig.access, &rig.node(standby), sql).await?;
        let there: u64 = rows.parse().map_err(|error| format!("{rows}: {error}"))?;
        if there >= wanted { Ok(()) } else { Err(format!("{rows} rows")) }
    })
    .await;
}

async fn position(store: &Store) -> Position {
    let (text, _) = store.get(Leaf::Position).await.unwrap();
    serde_json::from_str(&text).unwrap()
}
