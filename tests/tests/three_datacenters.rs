//! Goal: three datacenters in a star. On a planned change of primary the third one is re-pointed
//! to the new primary, with its slots made beforehand; a datacenter that is away while the primary
//! changes catches up by itself, with nothing typed; when the primary datacenter is lost, the third
//! one follows the promoted one; nothing acknowledged is lost by any planned change. The same for
//! four, where the new primary was a standby of the old one like all others.
//! Method: a story under load each; every node's slots, the records and the ledger.

#![allow(clippy::expect_used, reason = "a test fails by panicking")]

use federator_tests::federator::exit;
use federator_tests::patience::until;
use federator_tests::rig::{READY, Rig};
use federator_tests::rows;
use lab::ledger::Writer;

const ROWS_BETWEEN: u64 = 50;
const FOUR: &str = "
name: shop
settings: {ttl: 5, loop_wait: 1, retry_timeout: 1}
datacenters:
  dc1: {etcd: 1, nodes: [pg1]}
  dc2: {etcd: 1, nodes: [pg1]}
  dc3: {etcd: 1, nodes: [pg1]}
  dc4: {etcd: 1, nodes: [pg1]}
";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_third_datacenter_follows_every_change() {
    let rig = Rig::start("three-datacenters", "three-dc.yaml");
    rig.federate().await;
    rig.slots_right("dc1").await;
    let writer = rig.writer("dc1").await;
    let prober = rig.prober().await;
    rig.rows(&writer, ROWS_BETWEEN).await;

    writer.phase("switchover to dc2");
    let done = rig.federator(&["switchover", "--to", "dc2", "--yes"]).await.expect(exit::DONE);
    assert!(done.stdout.contains("dc3 streams from dc2"), "it is not verified:\n{done}");
    rig.settled("dc2").await;
    rig.slots_right("dc2").await;
    rig.rows(&writer, ROWS_BETWEEN).await;

    change_without_dc3(&rig, &writer).await;
    let audit = rig.audit(&writer.snapshot()).await;
    assert_eq!(audit.lost(), Vec::<i64>::new(), "lost by a planned change:\n{audit}");

    lose_dc1(&rig, writer).await;
    rig.assert_one_primary(&prober.stop());
}

/// dc3 has no power while dc1 becomes primary again. Nobody types anything for it afterwards.
async fn change_without_dc3(rig: &Rig, writer: &Writer) {
    assert!(rig.act("power cut of dc3", |lab| lab.kill_dc("dc3")) > 0, "nothing ran in dc3");
    writer.phase("switchover to dc1 without dc3");
    let done = rig.federator(&["switchover", "--to", "dc1", "--yes"]).await.expect(exit::DONE);
    assert!(done.stdout.contains("follow the change when it is back"), "{done}");
    rig.rows(writer, ROWS_BETWEEN).await;
    rig.start_dc("dc3");
    // The records agree, dc3 has streamed in the new epoch, and no problem is left.
    rig.settled("dc1").await;
    let records = rig.records().await;
    assert!(records["dc3"].streamed, "{:?}", records["dc3"]);
    rig.slots_right("dc1").await;
    let history = rig.federator(&["history"]).await.expect(exit::DONE);
    assert!(!history.stdout.contains("rejoin"), "somebody typed something: {history}");
}

/// dc1 is lost, dc2 promoted; dc3 streams from dc2, and gets every row.
async fn lose_dc1(rig: &Rig, writer: Writer) {
    writer.phase("dc1 is lost");
    assert!(rig.act("power cut of dc1", |lab| lab.kill_dc("dc1")) > 0, "nothing ran in dc1");
    let promotion =
        ["promote", "dc2", "--attest", "dc1 has no power", "--by", "tester", "--confirm", "shop"];
    let done = rig.federator(&promotion).await.expect(exit::DONE);
    assert!(done.stdout.contains("dc3 follows dc2"), "dc3 is not re-pointed:\n{done}");
    assert!(done.stdout.contains("dc3 streams from dc2"), "it is not verified:\n{done}");
    writer.phase("dc2 is primary");
    rig.rows(&writer, ROWS_BETWEEN).await;
    let _ledger = writer.stop().await;
    let (primary, _) = rig.access.primary_within(READY, "dc2").await.expect("a primary in dc2");
    assert!(rig.nodes_of("dc2").contains(&primary.name), "{} is primary", primary.name);
    until("the rows of dc2 in dc3", READY, async || {
        let there = rows::on(&rig.access, &primary).await?;
        let here = rows::on(&rig.access, &rig.node("dc3-pg1")).await?;
        let (there, here) = (there.len(), here.len());
        if here == there { Ok(()) } else { Err(format!("{here} of {there} rows")) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn four_datacenters_follow_every_change() {
    let rig = Rig::start_with("four-datacenters", FOUR);
    rig.federate().await;
    let writer = rig.writer("dc1").await;
    let prober = rig.prober().await;
    for (to, others) in [("dc4", ["dc1", "dc2", "dc3"]), ("dc2", ["dc1", "dc3", "dc4"])] {
        rig.slots_right(if to == "dc4" { "dc1" } else { "dc4" }).await;
        rig.rows(&writer, ROWS_BETWEEN).await;
        writer.phase(&format!("switchover to {to}"));
        let done = rig.federator(&["switchover", "--to", to, "--yes"]).await.expect(exit::DONE);
        for other in others {
            let verified = format!("{other} streams from {to}");
            assert!(done.stdout.contains(&verified), "no «{verified}»:\n{done}");
        }
        rig.settled(to).await;
        rig.slots_right(to).await;
        rig.rows(&writer, ROWS_BETWEEN).await;
    }
    let audit = rig.audit(&writer.stop().await).await;
    assert_eq!(audit.lost(), Vec::<i64>::new(), "lost by a planned change:\n{audit}");
    rig.assert_one_primary(&prober.stop());
}
