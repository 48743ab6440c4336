//! Goal: before a rejoin discards anything, `federator rejoin` says for each node whether it will
//! be rewound or copied anew, why, and how much moves; asking changes nothing; and what it says is
//! what then happens. One node crosses to the other datacenter, the others take from it.
//! Method: dc1 goes on alone with rows of its own and is lost; dc2 is promoted; dc1 returns. One of
//! its nodes has lost the WAL from before the fork, without which pg_rewind fails. What the dry run
//! says is compared with the agents' logs of the rejoin, and with what pg_rewind itself counts.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use federator_tests::agent_log::Mark;
use federator_tests::by_hand::freeze_link;
use federator_tests::federator::exit;
use federator_tests::patience::until;
use federator_tests::rig::{READY, Rig};
use federator_tests::rows;
use federator_tests::store::{Found, Store};
use lab::wait::Interrupt;
use node_agent_core::rule::Rule;
use node_agent_wire::Lsn;

const TOPOLOGY: &str = "name: shop\n\
    settings: {ttl: 5, loop_wait: 1, retry_timeout: 1}\n\
    datacenters:\n  dc1: {etcd: 1, nodes: [pg1, pg2, pg3]}\n  dc2: {etcd: 1, nodes: [pg1]}\n";
const COUNT: &str = "SELECT count(*)::text FROM kept";
const ATTESTED: [&str; 8] =
    ["promote", "dc2", "--attest", "dc1 is gone", "--by", "tester", "--confirm", "shop"];
const SEGMENT: u64 = 16 << 20;
/// Bytes that a source grows by, in WAL above all, between the question and the rewind.
const GROWTH: u64 = 3 * SEGMENT;

/// The nodes of dc1.
struct Nodes {
    /// The former primary, which leads again.
    former: String,
    /// One that has all its WAL.
    whole: String,
    /// One that has lost what is before the fork.
    short: String,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_rejoin_says_beforehand_is_what_it_does() {
    let rig = Rig::start_with("quote", TOPOLOGY);
    rig.federate().await;
    let former = rig.complete("dc1");
    let others: Vec<String> = rig.nodes_of("dc1").into_iter().filter(|n| *n != former).collect();
    let [whole, short] = <[String; 2]>::try_from(others).unwrap();
    let nodes = Nodes { former, whole, short };
    diverge(&rig, &nodes).await;
    let fork = promote(&rig, &nodes).await;
    lose_wal_before(&rig, &nodes.short, fork);
    return_of_dc1(&rig, &nodes).await;

    let before = snapshot(&rig).await;
    let asked = rig.federator(&["rejoin", "dc1", "--dry-run"]).await.expect(exit::DONE);
    assert_eq!(snapshot(&rig).await, before, "asking has changed something");
    let said = quoted(&asked.stdout, &nodes);

    let mark = Mark::now(&rig.lab);
    let done = rig.federator(&["rejoin", "dc1", "--yes"]).await.expect(exit::DONE);
    let again = quoted(&done.stdout, &nodes);
    assert_eq!(said.keys().collect::<Vec<_>>(), again.keys().collect::<Vec<_>>());
    rig.settled("dc2").await;
    as_said(&rig, &mark, &nodes, &again);
    let expected = rows::value(&rig.access, &rig.node("dc2-pg1"), COUNT).await.unwrap();
    for node in &rig.access.nodes {
        has(&rig, &node.name, &expected).await;
    }
}

/// dc1 takes rows that dc2 never gets. The last checkpoint that both have is in an earlier segment
/// than the fork, and `short` restarts from one after it.
async fn diverge(rig: &Rig, nodes: &Nodes) {
    let former = rig.node(&nodes.former);
    let run = async |sql: &str| rows::run(&rig.access, &former, sql).await.unwrap();
    run("CREATE TABLE kept (i int)").await;
    run("CHECKPOINT").await;
    for _ in 0..2 {
        run("INSERT INTO kept SELECT generate_series(1, 100)").await;
        run("SELECT pg_switch_wal()").await;
    }
    run("INSERT INTO kept VALUES (0)").await;
    for node in &rig.access.nodes {
        has(rig, &node.name, "201").await;
    }
    freeze_link(rig, &nodes.former, "dc2").await;
    run("INSERT INTO kept SELECT generate_series(1, 1000)").await;
    run("CHECKPOINT").await;
    run("INSERT INTO kept VALUES (0)").await;
    for node in [&nodes.whole, &nodes.short] {
        has(rig, node, "1202").await;
        // A restartpoint.
        rows::run(&rig.access, &rig.node(node), "CHECKPOINT").await.unwrap();
    }
}

/// dc1 is lost; where the timelines of the two part.
async fn promote(rig: &Rig, nodes: &Nodes) -> Lsn {
    rig.act("power cut of dc1", |lab| lab.kill_dc("dc1"));
    let _ = rig.federator(&ATTESTED).await.expect(exit::DONE);
    let successor = rig.successor_of(&nodes.former).await;
    rows::run(&rig.access, &rig.node(&successor), "INSERT INTO kept VALUES (-1)").await.unwrap();
    let store = Store::of(&rig.lab, "dc2").await;
    until("the history of dc2's timeline", READY, async || {
        let history = store.history().await.ok_or("none")?;
        history.ancestors.last().map(|last| last.ended_at).ok_or(format!("{history:?}"))
    })
    .await
}

/// Removes every segment before the one that holds `fork`.
fn lose_wal_before(rig: &Rig, node: &str, fork: Lsn) {
    let wal = rig.lab.layout.host(node).unwrap().data_dir().join("pg_wal");
    let first = format!("{:08X}{:08X}{:08X}", 1, fork.0 >> 32, (fork.0 & 0xFFFF_FFFF) / SEGMENT);
    let names = fs::read_dir(&wal).unwrap().map(|file| file.unwrap().file_name());
    let names = names.map(|name| name.into_string().unwrap());
    let old: Vec<String> = names.filter(|name| name.len() == 24 && *name < first).collect();
    assert!(!old.is_empty(), "{node} has no WAL before {first}");
    for name in old {
        fs::remove_file(wal.join(name)).unwrap();
    }
}

/// The former primary first, so that it leads; then the others, which follow it.
async fn return_of_dc1(rig: &Rig, nodes: &Nodes) {
    let dc1 = rig.lab.layout.hosts.iter().filter(|h| h.dc.as_str() == "dc1");
    let stores = dc1.filter(|h| !h.is_node()).map(|h| h.name.clone());
    for host in stores.chain([nodes.former.clone()]) {
        rig.act(&format!("start of {host}"), |lab| lab.start_host(&host, &Interrupt::default()));
    }
    let store = Store::of(&rig.lab, "dc1").await;
    until("dc1's own knowledge that its epoch is over", READY, async || {
        let record = store.record().await;
        let acknowledged = record.fence.as_ref().is_some_and(|fence| fence.ack.is_some());
        if acknowledged { Ok(()) } else { Err(format!("{record:?}")) }
    })
    .await;
    rig.start_dc("dc1");
    for node in rig.nodes_of("dc1") {
        has(rig, &node, "1202").await;
    }
}

/// All that a rejoin changes: the records, the files beside the data directories, the servers that
/// run, their timelines.
async fn snapshot(rig: &Rig) -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    for dc in ["dc1", "dc2"] {
        let keys: BTreeMap<String, Found> = Store::of(&rig.lab, dc).await.decided_keys().await;
        all.insert(dc.to_owned(), format!("{keys:?}"));
    }
    for node in rig.nodes_of("dc1") {
        let dir = &rig.lab.layout.host(&node).unwrap().dir;
        let files = fs::read_dir(dir).unwrap().map(|file| file.unwrap().file_name());
        let files: BTreeSet<_> = files.collect();
        let sql = "SELECT concat(pg_postmaster_start_time(), ' ', pg_is_in_recovery(), ' ', \
                   timeline_id, ' ', pg_last_wal_replay_lsn()) FROM pg_control_checkpoint()";
        let server = rows::value(&rig.access, &rig.node(&node), sql).await.unwrap();
        all.insert(node, format!("{files:?} {server}"));
    }
    all
}

/// The line of each node, by its name; and what each must say.
fn quoted(output: &str, nodes: &Nodes) -> BTreeMap<String, String> {
    let line = |node: &str, words: &[&str]| {
        let begins = format!("  {node}  ");
        let found = output.lines().find(|line| line.starts_with(&begins));
        let found = found.unwrap_or_else(|| panic!("nothing of {node} in:\n{output}"));
        for word in words {
            assert!(found.contains(word), "no \"{word}\" in: {found}");
        }
        (node.to_owned(), found.to_owned())
    };
    let own = "on timeline 1 are its own";
    for way in ["  from dc2 to dc1: ", "  within dc1, after that: "] {
        let sum = output.lines().find(|line| line.starts_with(way));
        let sum = sum.unwrap_or_else(|| panic!("no line \"{way}\" in:\n{output}"));
        let basis = ["/s (assumed: ", "/s (measured: "].iter().any(|words| sum.contains(words));
        assert!(sum.contains(" MB, ") && basis, "{sum}");
    }
    BTreeMap::from([
        line(&nodes.former, &["  rewind   from dc2, ", " MB (at most ", own]),
        line(&nodes.whole, &["  rewind   within dc1, ", " MB (at most ", own]),
        line(&nodes.short, &["  copy     within dc1, ", " MB; ", own, "whose WAL is gone here"]),
    ])
}

/// What the agents did, by their logs.
fn as_said(rig: &Rig, mark: &Mark, nodes: &Nodes, said: &BTreeMap<String, String>) {
    let to = mark.rewound_to(&rig.lab);
    assert!(to[&nodes.former].iter().all(|node| node == "dc2-pg1"), "{to:?}");
    assert!(to[&nodes.whole].iter().all(|node| *node == nodes.former), "{to:?}");
    let copied = mark.decided(&rig.lab, Rule::CopyAgain);
    let is = |line: &String| line.starts_with(&nodes.short) && line.contains("pg_rewind failed");
    assert!(copied.iter().all(is) && !copied.is_empty(), "{copied:#?}");
    let fetched = mark.fetched(&rig.lab);
    for node in [&nodes.former, &nodes.whole] {
        let (line, counted) = (&said[node], fetched[node]);
        let bytes = |after: &str| {
            let (_, rest) = line.split_once(after)?;
            rest.split_once(" MB")?.0.parse::<u64>().ok()
        };
        let (about, most) = (bytes("dc2, ").or(bytes("dc1, ")), bytes("(at most "));
        let (about, most) = (about.unwrap() << 20, most.unwrap() << 20);
        assert!(about.abs_diff(counted) <= GROWTH, "{counted} were fetched by {node}: {line}");
        assert!(counted <= most + GROWTH, "{counted} were fetched by {node}: {line}");
    }
}

async fn has(rig: &Rig, node: &str, rows: &str) {
    until(&format!("{rows} rows on {node}"), READY, async || {
        let found = rows::value(&rig.access, &rig.node(node), COUNT).await?;
        if found == rows { Ok(()) } else { Err(format!("{found} rows")) }
    })
    .await;
}
