//! Goal: a switchover that is planned for a time begins then, not before and not after its window,
//! and only if it still is what was agreed to; while it waits nothing is changed. Before it stops
//! writes the target is close behind, and commits wait for it, for a time only; a write pause that
//! lasts too long is turned back.
//! Method: the command is interrupted, overtaken by another one, and carried out. It is killed
//! while commits wait for the target, whose name `/sync` must never hold. The target's replay is
//! stopped by a signal, so that it falls behind, or never catches up.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::Path;
use std::time::Duration;

use federator_core::history::ClosedOperation;
use federator_tests::agent_log::Mark;
use federator_tests::command::{self, Finished};
use federator_tests::federator::exit;
use federator_tests::patience::until;
use federator_tests::rig::{READY, Rig, assert_nothing_lost};
use federator_tests::rows;
use federator_tests::store::Store;
use node_agent_wire::keys::Leaf;
use node_agent_wire::schedule;
use rustix::process::Signal;

const TOPOLOGY: &str = "
name: shop
network: 127.20
settings: {ttl: 5, loop_wait: 1, retry_timeout: 1, synchronous_mode: true}
datacenters:
  dc1: {etcd: 1, nodes: [pg1, pg2]}
  dc2: {etcd: 1, nodes: [pg1], settings: {synchronous_mode: false}}
";
const LIMIT: Duration = Duration::from_secs(240);
/// More than a switchover lets the target be behind, less than its plan does.
const FALL_BEHIND: &str = "SELECT count(pg_logical_emit_message(true, 'test', \
    repeat('x', 1000000)))::text FROM generate_series(1, 24)";

/// Runs `federator` by a shell, with its output in a file too; `$AT N` in `words` is the time in N
/// seconds.
async fn by_shell(rig: &Rig, words: &str, said: &Path) -> Finished {
    let program = rig.lab.software.program("federator");
    let (program, file) = (program.display(), rig.lab.layout.federator_config());
    let script = format!(
        "at() {{ date -u -d \"$1 sec\" +%FT%TZ; }}; {words}",
        words = words.replace("FEDERATOR", &format!("{program} -f {}", file.display()))
    );
    let script = format!("({script}) 2>&1 | tee {}; exit ${{PIPESTATUS[0]}}", said.display());
    let done = command::run(Path::new("/bin/bash"), &["-c", &script], &[], LIMIT).await;
    rig.say(&done.to_string());
    done
}

async fn closed(rig: &Rig, dc: &str) -> Vec<ClosedOperation> {
    let found = Store::of(&rig.lab, dc).await.get(Leaf::FederationHistory).await;
    found.map(|(text, _)| serde_json::from_str(&text).unwrap()).unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_planned_switchover_begins_in_its_time_or_not_at_all() {
    let rig = Rig::start_with("planned-switchover", TOPOLOGY);
    rig.federate().await;
    let before = rig.records().await;
    let said = rig.lab.layout.dir.join("said");

    for (words, code, part) in [
        (&["--at", "tonight"][..], exit::USAGE, "--at \"tonight\": the time was not understood"),
        (&["--at", "2030-01-01T00:00:00"], exit::USAGE, "the time zone is missing"),
        (&["--at", "2020-01-01T00:00:00Z"], exit::USAGE, "is over since"),
        (&["--window", "2030-01-01T00:00:00Z"], exit::USAGE, "is not a window"),
        (&["--at", "2099-01-01T00:00:00Z", "--dry-run"], exit::DONE, "Dry run"),
    ] {
        let line = [&["switchover", "--to", "dc2", "--yes"], words].concat();
        let done = rig.federator(&line).await.expect(code);
        assert!(done.said().contains(part), "{part}: {done}");
    }

    // Ctrl-C while it waits.
    let line = "timeout --preserve-status -s INT 15 \
                FEDERATOR switchover --to dc2 --yes --at 2099-01-01T00:00:00Z";
    let done = by_shell(&rig, line, &said).await.expect(exit::REFUSED);
    assert!(done.stdout.contains("Waiting, plan") && done.stdout.contains("begins in"), "{done}");
    assert!(done.stdout.contains("Interrupted while waiting. Nothing was changed."), "{done}");
    assert_eq!(rig.records().await, before);

    // Somebody else moves the role while it waits.
    let line = "FEDERATOR switchover --to dc2 --yes --at $(at 10)";
    let waits = by_shell(&rig, line, &said);
    let overtakes = async {
        until("the first command to wait", READY, async || {
            let text = fs::read_to_string(&said).unwrap_or_default();
            if text.contains("Waiting, plan") { Ok(()) } else { Err(text) }
        })
        .await;
        rig.federator(&["switchover", "--to", "dc2", "--yes"]).await.expect(exit::DONE)
    };
    fs::remove_file(&said).unwrap();
    let (waited, _) = tokio::join!(waits, overtakes);
    let waited = waited.expect(exit::REFUSED);
    assert!(waited.stdout.contains("it is not the plan any more that was agreed to"), "{waited}");
    assert!(
        waited.stdout.contains("it was to begin epoch 2, and epoch 2 has begun since"),
        "{waited}"
    );
    assert_eq!(rig.settled("dc2").await["dc2"].epoch.0, 2);

    // In its time.
    let line = "t=$(at 8); echo t=$t; FEDERATOR switchover --to dc1 --yes --window $t/$(at 90)";
    let done = by_shell(&rig, line, &said).await.expect(exit::DONE);
    let text = done.stdout.lines().find_map(|line| line.strip_prefix("t=")).unwrap();
    let begin_us = schedule::parse(text).unwrap();
    let last = closed(&rig, "dc1").await.pop().unwrap();
    assert!(last.started_at_us >= begin_us, "{last:?} began before {text}");
    assert!(done.stdout.contains("Checked again, it is the plan that was agreed to"), "{done}");
    assert_eq!(rig.settled("dc1").await["dc1"].epoch.0, 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_stop_when_the_target_is_close_behind_and_not_for_too_long() {
    let rig = Rig::start_with("pre-sync", TOPOLOGY);
    rig.federate().await;
    let leader = rig.complete("dc1");
    let writer = rig.writer("before").await;
    let prober = rig.prober().await;
    let changes = Store::of(&rig.lab, "dc1").await.changes().await;

    // Killed while commits wait for the target: its time passes, by the agent's own clock.
    writer.phase("commits wait for the target");
    let mark = Mark::now(&rig.lab);
    let command = ["switchover", "--to", "dc2", "--yes"];
    rig.federator_crashing(&command, "pre-sync:after").await;
    let names = |log: &str| -> Vec<bool> {
        let lines = log.lines().filter(|line| line.contains(" synchronous_standby_names "));
        lines.map(|line| line.contains("dc2-pg1")).collect()
    };
    until("commits to wait for the own datacenter only", READY, async || {
        let seen = names(&mark.since(&rig.lab)[&leader]);
        let over = seen.contains(&true) && seen.last() == Some(&false);
        if over { Ok(()) } else { Err(format!("{seen:?}")) }
    })
    .await;
    let primary = rig.node(&leader);
    let value = rows::value(&rig.access, &primary, "SHOW synchronous_standby_names").await.unwrap();
    assert!(value.starts_with("\"dc1-pg") && !value.contains("dc2"), "{value}");
    rig.rows(&writer, 50).await;
    let promised: Vec<_> = changes.so_far().into_iter().filter(|(key, _)| key == "sync").collect();
    assert!(promised.iter().all(|(_, value)| !value.contains("dc2-pg1")), "{promised:?}");
    let done = rig.federator(&["resume", "--yes"]).await.expect(exit::DONE);
    assert!(done.stdout.contains("commits wait for dc2-pg1"), "{done}");
    rig.settled("dc2").await;

    // The target falls behind after it was looked at: nothing is stopped.
    writer.phase("the target falls behind");
    let _ = rig.federator(&["switchover", "--to", "dc1", "--yes"]).await.expect(exit::DONE);
    rig.settled("dc1").await;
    let before = fences(&rig).await;
    let _ = rig.signal_postgres("dc2-pg1", "startup", Signal::STOP);
    let primary = rig.node(&rig.complete("dc1"));
    let _ = rows::value(&rig.access, &primary, FALL_BEHIND).await.unwrap();
    let command = ["switchover", "--to", "dc2", "--yes", "--timeout", "6s"];
    let done = rig.federator(&command).await.expect(exit::ABORTED);
    assert!(done.stderr.contains("dc2 to be no more than 16 MB behind"), "{done}");
    assert_eq!(fences(&rig).await, before, "writes were stopped");

    // It never catches up: the write pause has a limit.
    writer.phase("the write pause is too long");
    let command = ["switchover", "--to", "dc2", "--yes", "--no-pre-sync", "--max-pause", "4s"];
    let done = rig.federator(&command).await.expect(exit::ABORTED);
    assert!(done.stderr.contains("stopped for 4s, the limit of --max-pause"), "{done}");
    assert!(done.stdout.contains("dc1 is the primary datacenter and accepts writes"), "{done}");
    let _ = rig.signal_postgres("dc2-pg1", "startup", Signal::CONT);
    rig.rows(&writer, 50).await;
    rig.settled("dc1").await;

    let ledger = writer.stop().await;
    let record = prober.stop();
    assert_nothing_lost(&rig.audit(&ledger).await);
    rig.assert_one_primary(&record);
    rows::wait_identical(&rig.access, READY).await;
}

/// How many of the closed operations have begun to stop writes.
async fn fences(rig: &Rig) -> usize {
    let steps = closed(rig, "dc1").await.into_iter().flat_map(|entry| entry.steps);
    steps.filter(|line| line.step == "fence").count()
}
