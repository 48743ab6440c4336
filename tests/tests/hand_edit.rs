//! Goal (I6): a hand edit cannot promote. `standby_cluster` removed from the configuration of dc2
//! leaves dc2 read-only, the status says why, and putting it back heals it.
//! Method: the key `config` of dc2's etcd is overwritten past all programs; every node is probed.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::{Duration, Instant};

use federator_tests::agent_log::Mark;
use federator_tests::federator::exit;
use federator_tests::patience::until;
use federator_tests::rig::{READY, Rig, assert_nothing_lost};
use federator_tests::rows;
use federator_tests::store::Store;
use node_agent_core::rule::Rule;
use node_agent_wire::keys::Leaf;
use node_agent_wire::position::Position;

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
    let (mark, since) = (Mark::now(&rig.lab), Instant::now());
    writer.phase("standby_cluster removed");
    store.put(Leaf::Config, &edited.to_string()).await;
    let leader = until("the decision of dc2's leader to stay read-only", READY, async || {
        let lines = mark.decided(&rig.lab, Rule::ReadOnly);
        lines.first().cloned().ok_or_else(|| "no such line".to_owned())
    })
    .await;
    rig.say(&leader);
    let decided = position(&store).await;
    until("five further beats of a leader that does not promote itself", READY, async || {
        let now = position(&store).await;
        let same = now.leader == decided.leader;
        if same && now.beat >= decided.beat + 5 { Ok(()) } else { Err(format!("{now:?}")) }
    })
    .await;
    let status = rig.federator(&["status"]).await.expect(exit::DONE);
    for words in ["dc2 is read-only", "standby_cluster", "names dc1 as primary"] {
        assert!(status.stdout.contains(words), "the status does not say: {words}");
    }

    writer.phase("put back");
    store.put(Leaf::Config, &before.to_string()).await;
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

async fn position(store: &Store) -> Position {
    let (text, _) = store.get(Leaf::Position).await.unwrap();
    serde_json::from_str(&text).unwrap()
}
