//! Goal: before the primary role moves, the federator says what becomes of each logical consumer,
//! and that proves true: one without a slot at the target needs a new one; one that has read what a
//! promotion loses is told so; and with PostgreSQL 17's failover slots a consumer goes on in the
//! other datacenter, and back, without a gap.
//! Method: a consumer that reads the ledger's rows by the slot's SQL interface from whoever is
//! primary, and remembers which. PostgreSQL 17 is obtained by `tests/postgresql.sh`; where it
//! cannot be had the test prints the reason and ends.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use federator_tests::agents::configure;
use federator_tests::federator::exit;
use federator_tests::patience::until;
use federator_tests::rig::{READY, ROWS, Rig};
use federator_tests::store::Store;
use federator_tests::{rows, servers};
use lab::access::within;
use node_agent_wire::keys::Leaf;
use node_agent_wire::position::Position;
use node_agent_wire::{Lsn, SlotName};
use rustix::process::Signal;
use serde_json::{Value, json};

const QUERY: Duration = Duration::from_secs(20);
/// The slot of the consumer.
const CDC: &str = "cdc";
const FIRST: &str = "dc1-pg1";
const SECOND: &str = "dc2-pg1";

/// What the consumer has read: writer's run and number of each row.
type Seen = BTreeSet<(String, i64)>;

/// The names of ledger rows in what the slot has new, which is consumed by that.
async fn consume(rig: &Rig, node: &str, seen: &mut Seen) -> Result<(), String> {
    let client = rows::connect(&rig.access, &rig.node(node)).await?;
    let sql = format!("SELECT data FROM pg_logical_slot_get_changes('{CDC}', NULL, NULL)");
    let found = within("consuming", node, QUERY, client.query(&sql, &[])).await;
    for row in found.map_err(|e| e.to_string())? {
        let data: String = row.try_get(0).map_err(|e| e.to_string())?;
        if !data.starts_with("table public.ledger: INSERT:") {
            continue;
        }
        let run = data.split(" run[text]:'").nth(1).and_then(|rest| rest.split('\'').next());
        let id = data.split(" id[bigint]:").nth(1).and_then(|rest| rest.split(' ').next());
        let row = run.zip(id.and_then(|id| id.parse().ok()));
        let (run, id) = row.ok_or_else(|| format!("no row in {data}"))?;
        seen.insert((run.to_owned(), id));
    }
    Ok(())
}

/// The rows of a node.
async fn rows_of(rig: &Rig, node: &str) -> Result<Seen, String> {
    let all = rows::on(&rig.access, &rig.node(node)).await?;
    Ok(all.into_iter().map(|(run, id, _, _)| (run, id)).collect())
}

/// How many rows of a node the consumer has not read.
async fn unread(rig: &Rig, node: &str, seen: &Seen) -> Result<usize, String> {
    Ok(rows_of(rig, node).await?.difference(seen).count())
}

/// Reads on until every row of the node has been read; nobody writes meanwhile.
async fn read_all(rig: &Rig, node: &str, seen: &mut Seen) {
    until(&format!("the consumer to have every row of {node}"), READY, async || {
        consume(rig, node, seen).await?;
        let missing = unread(rig, node, seen).await?;
        if missing == 0 { Ok(()) } else { Err(format!("without {missing} rows")) }
    })
    .await;
}

async fn value(rig: &Rig, node: &str, sql: &str) -> Result<String, String> {
    rows::value(&rig.access, &rig.node(node), sql).await
}

async fn eventually(rig: &Rig, node: &str, what: &str, sql: &str, wanted: &str) {
    until(&format!("{node}: {what}"), READY, async || {
        let seen = value(rig, node, sql).await?;
        if seen == wanted { Ok(()) } else { Err(seen) }
    })
    .await;
}

fn count(condition: &str) -> String {
    format!("SELECT count(*)::text FROM pg_replication_slots WHERE {condition}")
}

/// What `validate DC --json` says of the consumer, for a switchover or a promotion.
async fn judged(rig: &Rig, dc: &str, flag: &str) -> Result<Value, String> {
    let done = rig.federator_quiet(&["validate", dc, "--json"]).await;
    let report: Value = serde_json::from_str(&done.stdout).map_err(|e| format!("{e}: {done}"))?;
    let consumers = report[flag]["consumers"].as_array().cloned().unwrap_or_default();
    let found = consumers.into_iter().find(|one| one["slot"] == CDC);
    found.ok_or_else(|| format!("no word about {CDC}: {report}"))
}

const TWO: &str = "
name: consumers
settings: {ttl: 5, loop_wait: 1, retry_timeout: 1}
postgresql: {parameters: {wal_level: logical}}
datacenters:
  dc1: {nodes: [pg1]}
  dc2: {nodes: [pg1]}
";

fn slots() -> Value {
    json!({"slots": {CDC: {"type": "logical", "database": "postgres", "plugin": "test_decoding"}}})
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_consumer_without_a_slot_at_the_target_is_named_and_one_that_has_seen_too_much() {
    let bin = servers::programs();
    if !servers::has_test_decoding(&bin) {
        println!("SKIPPED: no test_decoding came with {}", bin.display());
        return;
    }
    let rig = Rig::start_with("consumers", TWO);
    rig.federate().await;
    let none = rig.federator(&["validate", "dc2"]).await.expect(exit::DONE);
    assert!(none.stdout.contains("the primary has no logical slot"), "{none}");
    configure(&rig, FIRST, &slots()).await;
    let mine = count(&format!("slot_name = '{CDC}'"));
    eventually(&rig, FIRST, "the slot of the configuration", &mine, "1").await;
    let writer = rig.writer("before").await;
    rig.rows(&writer, 50).await;
    let mut seen = Seen::new();
    consume(&rig, FIRST, &mut seen).await.unwrap();
    assert!(seen.len() >= 50, "{} rows by the slot", seen.len());

    // The verdict, before anything is done.
    let words = "must be made anew: dc2 has no such slot";
    let dry = ["switchover", "--to", "dc2", "--dry-run"];
    let dry = rig.federator(&dry).await.expect(exit::DONE);
    assert!(dry.stdout.contains("consumer cdc") && dry.stdout.contains(words), "{dry}");
    let verdict = judged(&rig, "dc2", "switchover").await.unwrap();
    assert_eq!(verdict["verdict"], "made-anew", "{verdict}");
    let report = rig.federator(&["validate", "dc2", "--json"]).await.expect(exit::DONE);
    let report: Value = serde_json::from_str(&report.stdout).unwrap();
    let warnings = report["switchover"]["warnings"].as_array().unwrap();
    let named = |w: &Value| w.as_str().is_some_and(|w| w.contains("consumer cdc"));
    assert!(warnings.iter().any(named), "{report:#}");

    // It proves true: there is none, and what is made there begins there.
    let done = rig.federator(&["switchover", "--to", "dc2", "--yes"]).await.expect(exit::DONE);
    assert!(done.stdout.contains(words), "{done}");
    rig.settled("dc2").await;
    assert_eq!(value(&rig, SECOND, &mine).await.unwrap(), "0", "dc2 has the slot after all");
    writer.phase("dc2 is primary");
    rig.rows(&writer, 50).await;
    configure(&rig, SECOND, &slots()).await;
    eventually(&rig, SECOND, "the slot of the configuration", &mine, "1").await;
    rig.rows(&writer, 50).await;
    let _ = writer.stop().await;
    consume(&rig, SECOND, &mut seen).await.unwrap();
    let missed = unread(&rig, SECOND, &seen).await.unwrap();
    assert!(missed >= 50, "it had to be made anew, and missed only {missed} rows");
    a_promotion_takes_back_what_the_consumer_has_seen(&rig, seen).await;
}

/// dc2 goes on alone, its consumer reads, and its power goes.
async fn a_promotion_takes_back_what_the_consumer_has_seen(rig: &Rig, mut seen: Seen) {
    rig.signal_postgres(SECOND, "walsender", Signal::STOP);
    let writer = rig.writer("dc1 is cut off").await;
    rig.rows(&writer, 50).await;
    let _ = writer.stop().await;
    consume(rig, SECOND, &mut seen).await.unwrap();
    let confirmed = format!(
        "SELECT confirmed_flush_lsn::text FROM pg_replication_slots WHERE slot_name = '{CDC}'"
    );
    let confirmed: Lsn = value(rig, SECOND, &confirmed).await.unwrap().parse().unwrap();
    let store = Store::of(&rig.lab, "dc1").await;
    until("dc1's knowledge of the consumer", ROWS, async || {
        let (text, _) = store.get(Leaf::Position).await.ok_or("dc1 has no position")?;
        let own: Position = serde_json::from_str(&text).map_err(|error| error.to_string())?;
        let consumers = own.primary_seen.as_ref().and_then(|seen| seen.consumers.clone());
        let there = consumers.and_then(|all| all.get(&SlotName::from_name(CDC))?.confirmed);
        if there >= Some(confirmed) { Ok(()) } else { Err(text) }
    })
    .await;
    let ended = rig.act("power cut of dc2", |lab| lab.kill_dc("dc2"));
    assert!(ended > 0, "nothing ran in dc2");

    let promotion = [
        "promote",
        "dc1",
        "--attest",
        "dc2 has no power",
        "--by",
        "tester",
        "--confirm",
        "consumers",
    ];
    let done = rig.federator(&promotion).await.expect(exit::DONE);
    let line = done.stdout.lines().find(|line| line.contains("consumer cdc")).unwrap_or_default();
    assert!(line.contains("will have seen what is lost"), "{done}");
    let there = rows_of(rig, FIRST).await.unwrap();
    let lost = seen.difference(&there).count();
    assert!(lost >= 50, "the consumer has seen {lost} rows that dc1 does not have");
}

fn seventeen(programs: &Path) -> String {
    format!(
        "
name: failover-slots
settings: {{ttl: 5, loop_wait: 1, retry_timeout: 1}}
postgresql:
  bin_dir: {}
  parameters: {{wal_level: logical, sync_replication_slots: 'on'}}
datacenters:
  dc1: {{nodes: [pg1]}}
  dc2: {{nodes: [pg1, pg2]}}
",
        programs.display()
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failover_slot_goes_along_to_the_other_datacenter_and_back() {
    let programs = match servers::programs_of(17).await {
        Ok(programs) => programs,
        Err(reason) => {
            println!("SKIPPED: {reason}");
            return;
        }
    };
    let rig = Rig::start_with("failover-slots", &seventeen(&programs));
    rig.federate().await;
    let second = rig.complete("dc2");
    let replica = rig.nodes_of("dc2").into_iter().find(|node| *node != second).unwrap();
    // The agents set what it needs, and only where it can work.
    for (node, name, wanted) in [
        (&second, "hot_standby_feedback", "on"),
        (&second, "sync_replication_slots", "on"),
        (&replica, "sync_replication_slots", "off"),
    ] {
        let sql = format!("SELECT current_setting('{name}')");
        eventually(&rig, node, name, &sql, wanted).await;
    }
    let create = format!(
        "SELECT pg_create_logical_replication_slot('{CDC}', 'test_decoding', false, false, true)"
    );
    rows::run(&rig.access, &rig.node(FIRST), &create).await.unwrap();
    let mut seen = Seen::new();
    taken_over(&rig, (FIRST, &second), &mut seen).await;
    let verdict = judged(&rig, "dc2", "switchover").await.unwrap();
    assert_eq!(verdict["verdict"], "kept", "{verdict}");

    there(&rig, ("dc2", FIRST, &second), &mut seen).await;
    taken_over(&rig, (&second, FIRST), &mut seen).await;
    // What dc2 needed while it streamed from there is not held back for ever.
    let rows_held = count("slot_name = 'dc2' AND coalesce(xmin, catalog_xmin) IS NOT NULL");
    eventually(&rig, FIRST, "slot dc2 without rows", &rows_held, "0").await;
    there(&rig, ("dc1", &second, FIRST), &mut seen).await;
}

/// Waits until the standby has taken the slot over from the primary. It can once the consumer has
/// come past what the standby has kept.
async fn taken_over(rig: &Rig, (primary, standby): (&str, &str), seen: &mut Seen) {
    let writer = rig.writer(&format!("{primary} is primary")).await;
    let sql = count(&format!(
        "slot_name = '{CDC}' AND failover AND synced AND NOT temporary \
         AND invalidation_reason IS NULL"
    ));
    until(&format!("{standby} to take the slot over"), READY, async || {
        consume(rig, primary, seen).await?;
        let count = value(rig, standby, &sql).await?;
        if count == "1" { Ok(()) } else { Err("it has none that stays".into()) }
    })
    .await;
    let _ = writer.stop().await;
}

/// Moves the role while rows are written and read, and reads on where it is then.
async fn there(rig: &Rig, (to, former, next): (&str, &str, &str), seen: &mut Seen) {
    let writer = rig.writer(&format!("before {to}")).await;
    rig.rows(&writer, 50).await;
    consume(rig, former, seen).await.unwrap();
    rig.rows(&writer, 50).await;
    let done = rig.federator(&["switchover", "--to", to, "--yes"]).await.expect(exit::DONE);
    let line = done.stdout.lines().find(|line| line.contains("consumer cdc")).unwrap_or_default();
    assert!(line.contains("kept"), "{done}");
    assert!(done.stdout.contains(&format!("slot cdc in step on {to}")), "{done}");
    rig.settled(to).await;
    writer.phase(to);
    rig.rows(&writer, 50).await;
    let _ = writer.stop().await;
    read_all(rig, next, seen).await;
}
