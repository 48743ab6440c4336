//! Goal: the writer follows the primary past a silent server, the ledger finds exactly the rows
//! that are missing, and the prober proves two primaries when there are two and none before.
//! Method: a primary and its standby run by a stand-in that decides nothing; the test freezes and
//! promotes.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod stand_in;

use std::collections::BTreeSet;
use std::fs;
use std::time::{Duration, Instant};

use lab::access::{Access, Node, within};
use lab::ledger::{Writer, WriterOptions};
use lab::lifecycle::silent;
use lab::prober::Prober;
use lab::processes::{Process, of_hosts, send};
use lab::wait::Interrupt;
use lab::{Lab, LabOptions, Part, TemporaryLab};
use rustix::process::Signal;
use stand_in::{POSTGRES_AGENT, StandIns};
use tokio_postgres::Client;

const TOPOLOGY: &str = "name: ledger\ndatacenters: {dc1: {nodes: [pg1, pg2]}}";
const LIMIT: Duration = Duration::from_secs(60);

/// Looks again and again until the condition holds.
async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let start = Instant::now();
    while !holds().await {
        assert!(start.elapsed() < LIMIT, "{what} within {LIMIT:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn session(access: &Access, node: &Node) -> Client {
    let start = Instant::now();
    loop {
        match access.connect(node, "test").await {
            Ok(client) => return client,
            Err(error) => assert!(start.elapsed() < LIMIT, "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn ask<T: for<'a> tokio_postgres::types::FromSql<'a>>(client: &Client, sql: &str) -> T {
    within("asking", "a node", LIMIT, client.query_one(sql, &[])).await.unwrap().get(0)
}

fn signal_all(processes: &[Process], signal: Signal) {
    for process in processes {
        assert!(send(process, signal).unwrap(), "{process:?} is there");
    }
}

#[tokio::test]
async fn writer_ledger_and_prober_tell_the_truth() {
    let programs = StandIns::new(POSTGRES_AGENT, TOPOLOGY);
    let bin_dir = Some(programs.bin_dir().to_owned());
    let options = LabOptions { bin_dir, ..LabOptions::for_test("ledger").unwrap() };
    let lab = TemporaryLab::new(Lab::create(&programs.topology(), &options).unwrap());
    lab.start(&silent, &Interrupt::default()).unwrap();
    let access = Access::to_lab(&lab);
    let [pg1, pg2] = &access.nodes[..] else { panic!("{:?}", access.nodes) };

    let slow = WriterOptions { start_limit: LIMIT, ..WriterOptions::default() };
    let writer = Writer::start(access.clone(), slow).await.unwrap();
    let on_pg1 = session(&access, pg1).await;
    let streaming = "SELECT count(*) = 1 FROM pg_stat_replication WHERE state = 'streaming'";
    eventually("the standby streams", async || ask::<bool>(&on_pg1, streaming).await).await;
    let on_pg2 = session(&access, pg2).await;
    let prober = Prober::start(access.clone(), LIMIT).await.unwrap();
    eventually("probes of pg1", async || prober.snapshot().summary().len() == 1).await;
    writer.wait_for_rows(100, LIMIT).await.unwrap();

    // pg1 goes silent: nothing is refused, nothing answers.
    writer.phase("silence");
    let lsn: String = ask(&on_pg1, "SELECT pg_current_wal_lsn()::text").await;
    let reached = format!("SELECT pg_last_wal_replay_lsn() >= '{lsn}'");
    eventually("the standby caught up", async || ask::<bool>(&on_pg2, &reached).await).await;
    let host = lab.layout.host("dc1-pg1").unwrap();
    let frozen = of_hosts(std::slice::from_ref(&host.dir));
    signal_all(&frozen, Signal::STOP);
    assert!(ask::<bool>(&on_pg2, "SELECT pg_promote()").await);
    writer.phase("promoted");
    writer.wait_for_rows(100, LIMIT).await.unwrap();
    let record = prober.snapshot();
    assert_eq!(record.overlaps(), [], "one primary at a time so far");

    // pg1 wakes up and believes to be primary: now there are two.
    let woken = Instant::now();
    signal_all(&frozen, Signal::CONT);
    eventually("the overlap is seen", async || !prober.snapshot().overlaps().is_empty()).await;
    let record = prober.stop();
    let nodes = record.overlaps()[0].nodes.clone();
    assert_eq!(nodes, ("dc1-pg1".to_owned(), "dc1-pg2".to_owned()));
    assert!(!record.accepted_since("dc1-pg1", woken).is_empty());

    let ledger = writer.stop().await;
    assert!(ledger.acknowledged() >= 200);
    let audit = ledger.check(&on_pg2).await.unwrap();
    let silence = &audit.phases[1];
    assert!(
        silence.label == "silence" && audit.phases[2].longest_pause >= Duration::from_millis(1)
    );
    let in_table: i64 = ask(&on_pg2, "SELECT count(*) FROM ledger").await;
    let counted: usize =
        audit.phases.iter().map(|phase| phase.found + phase.indeterminate_found).sum();
    assert_eq!(usize::try_from(in_table).unwrap(), counted, "every row is accounted for");
    assert_eq!(audit.unexpected, [0i64; 0]);

    // Rows that vanish are reported, each by its number.
    let known_lost = audit.lost();
    let last = ledger.by_phase()[2].acknowledged.iter().copied().max().unwrap();
    let delete = format!("DELETE FROM ledger WHERE id = {last}");
    within("deleting", "pg2", LIMIT, on_pg2.batch_execute(&delete)).await.unwrap();
    let mut expected = known_lost;
    expected.push(last);
    expected.sort_unstable();
    let mut seen = ledger.check(&on_pg2).await.unwrap().lost();
    seen.sort_unstable();
    assert_eq!(seen, expected);
}

/// Ids of the System V segments of this machine.
fn segments() -> BTreeSet<String> {
    let table = fs::read_to_string("/proc/sysvipc/shm").unwrap();
    let ids = table.lines().skip(1).filter_map(|line| line.split_ascii_whitespace().nth(1));
    ids.map(str::to_owned).collect()
}

#[tokio::test]
async fn a_killed_server_leaves_no_shared_memory_behind() {
    let topology = "name: shm\ndatacenters: {dc1: {nodes: [pg1]}}";
    let programs = StandIns::new(POSTGRES_AGENT, topology);
    let bin_dir = Some(programs.bin_dir().to_owned());
    let options = LabOptions { bin_dir, ..LabOptions::for_test("shm").unwrap() };
    let lab = TemporaryLab::new(Lab::create(&programs.topology(), &options).unwrap());
    lab.start(&silent, &Interrupt::default()).unwrap();
    let access = Access::to_lab(&lab);
    access.primary_within(LIMIT, "test").await.unwrap();
    let host = lab.layout.host("dc1-pg1").unwrap();
    let file = fs::read_to_string(host.data_dir().join("postmaster.pid")).unwrap();
    let id = file.lines().nth(6).unwrap().split_ascii_whitespace().nth(1).unwrap().to_owned();
    assert!(segments().contains(&id), "the server has its segment");
    assert!(lab.process(host, Part::Postmaster).is_some());
    lab.kill_host("dc1-pg1").unwrap();
    assert!(segments().contains(&id), "a power cut leaves it");
    lab.end(false).unwrap();
    assert!(!segments().contains(&id), "the end of the lab does not");
}
