//! Goal: a planned switchover between datacenters, there and back ten times in a row under load,
//! loses no acknowledged row; the former primary follows without a rewind or a new copy, and the
//! slots are right on both sides after each.
//! Method: the shipped federation; the ledger, every node's slots and timeline history, and the
//! rules in the agents' logs.

use federator_tests::agent_log::Mark;
use federator_tests::federator::exit;
use federator_tests::patience::until;
use federator_tests::rig::{READY, Rig, assert_nothing_lost};
use federator_tests::rows;
use node_agent_core::rule::Rule;

const SWITCHOVERS: u64 = 10;
/// Rows before each switchover and after the last one: the load goes on meanwhile.
const ROWS_BETWEEN: u64 = 100;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_switchovers_in_a_row_lose_nothing() {
    let rig = Rig::start("switchover", "two-dc.yaml");
    rig.federate().await;
    let first_epoch = rig.records().await["dc1"].epoch;
    let writer = rig.writer("before").await;
    let prober = rig.prober().await;
    let mark = Mark::now(&rig.lab);

    for round in 1..=SWITCHOVERS {
        let to = if round % 2 == 1 { "dc2" } else { "dc1" };
        rig.rows(&writer, ROWS_BETWEEN).await;
        writer.phase(&format!("{round}. switchover, to {to}"));
        let _ = rig.federator(&["switchover", "--to", to, "--yes"]).await.expect(exit::DONE);
        let records = rig.settled(to).await;
        assert_eq!(records[to].epoch.0, first_epoch.0 + round, "one epoch a switchover");
        rig.slots_right(to).await;
    }
    rig.rows(&writer, ROWS_BETWEEN).await;

    let ledger = writer.stop().await;
    let record = prober.stop();
    assert_nothing_lost(&rig.audit(&ledger).await);
    rig.assert_one_primary(&record);
    for rule in [Rule::Rewind, Rule::RewindImpossible, Rule::Clone] {
        let lines = mark.decided(&rig.lab, rule);
        assert!(lines.is_empty(), "a former primary did not just follow: {lines:#?}");
    }
    rows::wait_identical(&rig.access, READY).await;
    assert_one_past(&rig, 1 + SWITCHOVERS).await;
}

/// Every node is on the timeline, with the same history of it.
async fn assert_one_past(rig: &Rig, timeline: u64) {
    let sql = format!("SELECT pg_read_file('pg_wal/{timeline:08X}.history')");
    let mut pasts = Vec::new();
    for node in &rig.access.nodes {
        let what = format!("the history of timeline {timeline} on {}", node.name);
        pasts.push(until(&what, READY, async || rows::value(&rig.access, node, &sql).await).await);
    }
    let first = &pasts[0];
    let switches = first.lines().filter(|line| !line.trim().is_empty()).count();
    assert_eq!(u64::try_from(switches).unwrap_or(0), timeline - 1, "{first}");
    assert!(pasts.iter().all(|past| past == first), "different pasts: {pasts:#?}");
}
