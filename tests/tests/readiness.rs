//! Goal: an operator can ask beforehand whether the primary role could move, what that would cost,
//! and how long a datacenter may be away; the answers change with the facts. A datacenter that is
//! away counts down to the loss of its slot, and once that is lost the status says what to do and
//! what it costs; doing it brings the datacenter back.
//! Method: two nodes, one a datacenter. `validate` when all is well, after a switchover that
//! calibrates it, with replay paused, and while dc1's host is off and dc2 writes more WAL than
//! `max_slot_wal_keep_size` allows.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use federator_tests::agent_log::Mark;
use federator_tests::agents::configure;
use federator_tests::federator::exit;
use federator_tests::patience::until;
use federator_tests::rig::{READY, Rig};
use federator_tests::rows;
use node_agent_core::rule::Rule;
use serde_json::{Value, json};

const TOPOLOGY: &str = "
name: ready
settings: {ttl: 5, loop_wait: 1, retry_timeout: 1}
datacenters:
  dc1: {nodes: [pg1]}
  dc2: {nodes: [pg1]}
";
const FIRST: &str = "dc1-pg1";
const SECOND: &str = "dc2-pg1";

/// `validate DC --json`, and how it ended.
async fn validate(rig: &Rig, dc: &str) -> (Option<i32>, Value) {
    let done = rig.federator_quiet(&["validate", dc, "--json"]).await;
    let report = serde_json::from_str(&done.stdout).unwrap_or_else(|e| panic!("{e} in {done}"));
    (done.code, report)
}

fn flags(report: &Value) -> (bool, bool) {
    let flag = |what: &str| report[what]["ready"].as_bool().unwrap();
    (flag("switchover"), flag("promotion"))
}

/// The row of `dc` in the status.
async fn row(rig: &Rig, dc: &str) -> Value {
    let status = rig.status().await;
    let rows = status["datacenters"].as_array().unwrap();
    rows.iter().find(|row| row["dc"] == dc).unwrap().clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whether_the_role_can_move_and_how_long_a_datacenter_may_be_away() {
    let rig = Rig::start_with("ready", TOPOLOGY);
    rig.federate().await;
    let (code, report) = validate(&rig, "dc2").await;
    assert_eq!((code, flags(&report)), (Some(exit::DONE), (true, true)), "{report:#}");
    assert_eq!(report["switchover"]["predicted"]["measured"], 0);
    assert!(report["promotion"]["predicted"]["loss"]["bytes_max"].is_number(), "{report:#}");
    let _ = rig.federator(&["validate", "dc1"]).await.expect(exit::DONE);
    let _ = rig.federator(&["validate", "dc9"]).await.expect(2);

    let _ = rig.federator(&["switchover", "--to", "dc2", "--yes"]).await.expect(exit::DONE);
    rig.settled("dc2").await;
    let (_, report) = validate(&rig, "dc1").await;
    let predicted = &report["switchover"]["predicted"];
    assert_eq!(predicted["measured"], 1, "{report:#}");
    assert!(predicted["write_pause_us"].as_i64().unwrap() > 0, "{report:#}");
    paused_replay_forbids_both(&rig).await;
    a_link_that_is_away_counts_down(&rig).await;
    a_lost_link_is_seeded_again(&rig).await;
}

async fn paused_replay_forbids_both(rig: &Rig) {
    rows::run(&rig.access, &rig.node(FIRST), "SELECT pg_wal_replay_pause()").await.unwrap();
    until("replay to be seen paused", READY, async || {
        let (code, report) = validate(rig, "dc1").await;
        let paused = (Some(exit::REFUSED), (false, false));
        if (code, flags(&report)) == paused { Ok(()) } else { Err(format!("{code:?} {report}")) }
    })
    .await;
    let said = rig.federator(&["validate", "dc1"]).await.expect(exit::REFUSED);
    assert!(said.stderr.contains("pg_wal_replay_resume"), "what to type: {said}");
    rows::run(&rig.access, &rig.node(FIRST), "SELECT pg_wal_replay_resume()").await.unwrap();
    rig.settled("dc2").await;
}

async fn a_link_that_is_away_counts_down(rig: &Rig) {
    let limit = json!({"postgresql": {"parameters": {"max_slot_wal_keep_size": "64MB"}}});
    configure(rig, SECOND, &limit).await;
    rig.kill_host(FIRST);
    write_wal(rig, 1).await;
    let before = until("the runway of a link that is away", READY, async || {
        let runway = row(rig, "dc1").await["runway"].clone();
        let limited = runway["end"] == "slot-lost" && runway["left_bytes"].as_u64() > Some(0);
        let known = limited && runway["connected"] == false && runway["held_bytes"].is_number();
        if known { Ok(runway) } else { Err(runway.to_string()) }
    })
    .await;
    write_wal(rig, 8).await;
    until("a shorter runway", READY, async || {
        let runway = row(rig, "dc1").await["runway"].clone();
        let shorter = runway["left_bytes"].as_u64() < before["left_bytes"].as_u64();
        if shorter { Ok(()) } else { Err(runway.to_string()) }
    })
    .await;
    write_wal(rig, 160).await;
    rows::run(&rig.access, &rig.node(SECOND), "CHECKPOINT").await.unwrap();
    until("the loss of the slot, with what to do", READY, async || {
        let status = rig.status().await;
        let problems = status["problems"].as_array().unwrap();
        let lost = |p: &&Value| p["text"].as_str().unwrap().contains("can't catch up");
        let Some(problem) = problems.iter().find(lost) else { return Err(status.to_string()) };
        let next = problem["next"].as_str().unwrap();
        let words = ["bring dc1 back", "federator rejoin dc1", " MB, ", "/s ("];
        assert!(words.iter().all(|word| next.contains(word)), "{problem}");
        Ok(())
    })
    .await;
}

/// dc1 is back, and what it needs is gone. A rejoin says what that costs, and copies it anew.
async fn a_lost_link_is_seeded_again(rig: &Rig) {
    rig.start_dc("dc1");
    until("the loss of the slot seen from dc1", READY, async || {
        let status = rig.status().await;
        let problems = status["problems"].as_array().unwrap();
        let lost = |p: &Value| {
            let says = |key: &str, word: &str| p[key].as_str().unwrap().starts_with(word);
            says("text", "dc1 can't catch up") && says("next", "federator rejoin dc1: new copies")
        };
        if problems.iter().any(lost) { Ok(()) } else { Err(status["problems"].to_string()) }
    })
    .await;
    let asked = rig.federator(&["rejoin", "dc1", "--dry-run"]).await.expect(exit::DONE);
    let line = asked.stdout.lines().find(|line| line.starts_with("  dc1-pg1  copy     from dc2, "));
    assert!(line.is_some_and(|line| line.contains("no more WAL from")), "{asked}");
    let mark = Mark::now(&rig.lab);
    let _ = rig.federator(&["rejoin", "dc1", "--yes"]).await.expect(exit::DONE);
    // Not settled: the status goes on to say that the limit may end the link again.
    until("dc1 to stream again", READY, async || {
        let state = row(rig, "dc1").await["state"].clone();
        if state == "streaming" { Ok(()) } else { Err(state.to_string()) }
    })
    .await;
    let copied = mark.decided(&rig.lab, Rule::CopyAgain);
    assert!(copied.iter().any(|line| line.contains("has no more WAL from")), "{copied:#?}");
}

/// Megabytes of WAL, at least.
async fn write_wal(rig: &Rig, megabytes: u32) {
    let sql = format!(
        "SELECT pg_logical_emit_message(false, 'x', repeat('x', 1048576)) \
         FROM generate_series(1, {megabytes})"
    );
    rows::run(&rig.access, &rig.node(SECOND), &sql).await.unwrap();
}
