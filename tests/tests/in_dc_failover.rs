//! Goal: when the primary's host loses its power, a replica takes over without the loss of an
//! acknowledged row, and the host comes back as a replica that has what everybody has.
//! Method: three nodes in synchronous mode under load. Before the power cut the walsenders are
//! frozen until the primary has committed something that no replica has, so that it diverges.

use std::time::{Duration, Instant};

use federator_tests::agent_log::Mark;
use federator_tests::patience::until;
use federator_tests::rig::{ROWS, Rig, assert_nothing_lost};
use federator_tests::rows;
use node_agent_core::rule::Rule;
use rustix::process::Signal;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_loss_of_the_primarys_host_loses_no_acknowledged_row() {
    let rig = Rig::start("in-dc-failover", "three-nodes.yaml");
    let former = rig.complete("dc1");
    let writer = rig.writer("before").await;
    let prober = rig.prober().await;
    rig.rows(&writer, 500).await;

    writer.phase("loss of the host");
    rig.signal_postgres(&former, "walsender", Signal::STOP);
    let frozen = Instant::now();
    until("a write that no replica has", ROWS, async || {
        let alone = prober.snapshot().accepted_since(&former, frozen).len();
        if alone > 0 { Ok(()) } else { Err(format!("{former} accepted no write")) }
    })
    .await;
    let mark = Mark::now(&rig.lab);
    rig.kill_host(&former);
    let cut = Instant::now();
    let successor = rig.successor_of(&former).await;
    rig.say(&format!("{successor} accepts writes {} ms after the cut", cut.elapsed().as_millis()));
    rig.rows(&writer, 500).await;

    writer.phase("return of the host");
    rig.start_dc("dc1");
    let leader = rig.complete("dc1");
    assert_eq!(leader, successor, "the return of {former} moved the leader");
    rig.rows(&writer, 200).await;

    let ledger = writer.stop().await;
    let record = prober.stop();
    assert_nothing_lost(&rig.audit(&ledger).await);
    rig.assert_one_primary(&record);
    let rewound = mark.decided(&rig.lab, Rule::Rewind);
    assert!(rewound.iter().any(|line| line.starts_with(&former)), "no rewind: {rewound:?}");
    let rows = rows::wait_identical(&rig.access, Duration::from_secs(60)).await;
    assert!(rows.len() >= 1200, "{} rows", rows.len());
}
