//! Goal: what two operators or a lost datacenter leave behind is settled by one command. One epoch
//! that two datacenters claim: both stop, the command may be killed at each of its steps and typed
//! again, the first word counts, and the other datacenter rejoins. A switchover whose former
//! primary is lost for good is turned back without it, and another promotion is possible.
//! Method: a record is written past all programs; commands are killed at step boundaries. Every
//! node is probed all the time, and compared row by row at the end.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use federator_tests::federator::exit;
use federator_tests::patience::until;
use federator_tests::rig::{READY, Rig, assert_nothing_lost};
use federator_tests::rows;
use federator_tests::store::Store;
use node_agent_wire::keys::Leaf;
use node_agent_wire::{DcName, Epoch};

const TOPOLOGY: &str = "name: shop\n\
    settings: {ttl: 5, loop_wait: 1, retry_timeout: 1}\n\
    datacenters:\n  dc1: {etcd: 1, nodes: [pg1, pg2]}\n  dc2: {etcd: 1, nodes: [pg1, pg2]}\n";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_epoch_that_two_datacenters_claim_is_settled_whoever_dies() {
    let rig = Rig::start_with("resolve", TOPOLOGY);
    rig.federate().await;
    let writer = rig.writer("before").await;
    let prober = rig.prober().await;
    rig.rows(&writer, 50).await;
    let store = Store::of(&rig.lab, "dc2").await;
    let mut claim = store.record().await;
    claim.primary = DcName::new("dc2");
    store.put(Leaf::Federation, &serde_json::to_string(&claim).unwrap()).await;
    writer.phase("claimed twice");
    let dc1 = Store::of(&rig.lab, "dc1").await;
    until("dc1 to fence itself", READY, async || {
        let record = dc1.record().await;
        if record.fence.is_some() { Ok(()) } else { Err(format!("{record:?}")) }
    })
    .await;
    let status = rig.federator(&["status"]).await.expect(exit::DONE);
    for words in ["epoch 1 is claimed twice", "federator resolve --keep DC"] {
        assert!(status.stdout.contains(words), "the status does not say: {words}");
    }

    let keep = ["resolve", "--keep", "dc1", "--yes"];
    rig.federator_crashing(&keep, "decide:before").await;
    assert_eq!(dc1.record().await.resolution, None);
    rig.federator_crashing(&keep, "decide:after").await;
    let other = ["resolve", "--keep", "dc2", "--yes"];
    let refused = rig.federator(&other).await.expect(exit::REFUSED);
    assert!(refused.stderr.contains("dc1 is kept"), "{refused}");
    assert_eq!(store.record().await.epoch, Epoch(1), "the second word has changed something");
    for at in ["give-way:before", "give-way:after", "keep:before"] {
        rig.federator_crashing(&keep, at).await;
    }
    let fence = store.record().await.fence;
    assert!(fence.is_some(), "dc2 has given way");
    let lift = rig.federator(&["fence", "dc2", "--lift", "--yes"]).await;
    assert_ne!(lift.code, Some(exit::DONE), "{lift}");
    rig.federator_crashing(&keep, "keep:after").await;
    let record = dc1.record().await;
    assert_eq!((record.epoch, record.primary.as_str(), record.fence), (Epoch(2), "dc1", None));
    let again = rig.federator(&keep).await.expect(exit::DONE);
    assert!(again.stdout.contains("Nothing to do"), "{again}");
    writer.phase("settled");
    rig.rows(&writer, 50).await;
    let _ = rig.federator(&["rejoin", "dc2", "--yes"]).await.expect(exit::DONE);
    rig.settled("dc1").await;
    rig.rows(&writer, 50).await;

    let ledger = writer.stop().await;
    rig.assert_one_primary(&prober.stop());
    assert_nothing_lost(&rig.audit(&ledger).await);
    rows::wait_identical(&rig.access, READY).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_switchover_is_turned_back_without_a_former_primary_that_is_lost() {
    let rig = Rig::start_with("abort-force", TOPOLOGY);
    rig.federate().await;
    let writer = rig.writer("before").await;
    let prober = rig.prober().await;
    rig.rows(&writer, 50).await;
    rig.federator_crashing(&["switchover", "--to", "dc2", "--yes"], "fence:after").await;
    writer.phase("dc1 is fenced, and lost");
    rig.act("power cut of dc1", |lab| lab.kill_dc("dc1"));
    let stuck = rig.federator(&["abort", "--yes"]).await.expect(exit::PARTLY);
    assert!(stuck.stderr.contains("federator abort --force"), "{stuck}");
    let done = rig.federator(&["abort", "--force", "--yes"]).await.expect(exit::DONE);
    assert!(done.stdout.contains("it stays so"), "{done}");
    let store = Store::of(&rig.lab, "dc2").await;
    assert_eq!(store.record().await.operation, None);
    let attested =
        ["promote", "dc2", "--attest", "dc1 burnt", "--by", "tester", "--confirm", "shop"];
    let _ = rig.federator(&attested).await.expect(exit::DONE);
    writer.phase("dc2 is primary");
    rig.rows(&writer, 50).await;

    rig.start_dc("dc1");
    let cleared = rig.federator(&["resume", "--yes"]).await.expect(exit::DONE);
    assert!(cleared.stdout.contains("its copy in the record of dc1 is cleared"), "{cleared}");
    let record = Store::of(&rig.lab, "dc1").await.record().await;
    assert_eq!((record.primary.as_str(), record.operation), ("dc2", None));
    assert!(record.fence.is_some(), "dc1 is free to write");
    let _ = rig.federator(&["rejoin", "dc1", "--yes"]).await.expect(exit::DONE);
    rig.settled("dc2").await;
    rig.rows(&writer, 50).await;

    let ledger = writer.stop().await;
    rig.assert_one_primary(&prober.stop());
    assert_nothing_lost(&rig.audit(&ledger).await);
    rows::wait_identical(&rig.access, READY).await;
}
