//! Goal: a switchover does not wait for an archive that hangs: the key goes as soon as a standby
//! has everything, nothing is lost, and the former primary goes on archiving until it has ended.
//! And a primary that dies with WAL that was not archived yet brings it into the archive before it
//! is rewound.
//! Method: two nodes in synchronous mode under load, whose `archive_command` waits while a file is
//! there. The archive must have every segment of the old timelines in the end.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use federator_tests::agent_log::Mark;
use federator_tests::patience::until;
use federator_tests::rest;
use federator_tests::rig::{READY, ROWS, Rig, assert_nothing_lost};
use federator_tests::rows;
use federator_tests::store::Store;
use lab::Part;
use lab::layout::REST_PORT;
use node_agent_core::rule::Rule;
use node_agent_wire::keys::Leaf;
use node_agent_wire::position::Position;
use node_agent_wire::status::SyncState;
use serde_json::json;

const NODES: [&str; 2] = ["dc1-pg1", "dc1-pg2"];

struct Archive(tempfile::TempDir);

impl Archive {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o777)).unwrap();
        Self(dir)
    }

    fn gate(&self) -> PathBuf {
        self.0.path().join("shut")
    }

    fn shut(&self) {
        fs::write(self.gate(), "").unwrap();
    }

    fn open(&self) {
        fs::remove_file(self.gate()).unwrap();
    }

    fn has(&self, file: &str) -> bool {
        self.0.path().join(file).exists()
    }

    /// The numbers of the segments of a timeline; below 4 GB of WAL.
    fn segments(&self, timeline: u32) -> BTreeSet<u32> {
        let prefix = format!("{timeline:08X}00000000");
        let names = files(self.0.path());
        let numbers = names.iter().filter_map(|name| name.strip_prefix(&prefix));
        numbers.filter_map(|number| u32::from_str_radix(number, 16).ok()).collect()
    }
}

fn files(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).unwrap().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

fn topology(archive: &Archive) -> String {
    let (gate, dir) = (archive.gate(), archive.0.path());
    let (gate, dir) = (gate.display(), dir.display());
    format!(
        "name: demotion\n\
         settings: {{ttl: 5, loop_wait: 1, retry_timeout: 1, synchronous_mode: true}}\n\
         dynamic:\n\
         \x20 postgresql:\n\
         \x20   parameters:\n\
         \x20     archive_mode: \"on\"\n\
         \x20     archive_command: \"while [ -e {gate} ]; do sleep 0.2; done; cp %p {dir}/%f\"\n\
         datacenters: {{dc1: {{nodes: [pg1, pg2]}}}}\n"
    )
}

fn other_than(node: &str) -> &'static str {
    NODES.into_iter().find(|name| *name != node).unwrap()
}

/// What waits to be archived on a node.
fn waiting(rig: &Rig, node: &str) -> BTreeSet<String> {
    let status = rig.lab.layout.host(node).unwrap().data_dir().join("pg_wal/archive_status");
    let names = files(&status).into_iter();
    names.filter_map(|name| name.strip_suffix(".ready").map(str::to_owned)).collect()
}

/// Finishes a segment, which then waits for the archive.
async fn switch_segment(rig: &Rig, node: &str) {
    let sql = "SELECT pg_switch_wal()::text";
    rows::value(&rig.access, &rig.node(node), sql).await.unwrap();
    until("a segment that waits to be archived", ROWS, async || {
        if waiting(rig, node).is_empty() { Err("none".to_owned()) } else { Ok(()) }
    })
    .await;
}

async fn await_synchronous(store: &Store, standby: &str) {
    until(&format!("{standby} to be synchronous"), READY, async || {
        let (text, _) = store.get(Leaf::Sync).await.ok_or("no key sync")?;
        let sync = SyncState::parse(text.as_bytes());
        let there = sync.sync_standby.iter().any(|name| name.as_str() == standby);
        if there { Ok(()) } else { Err(text) }
    })
    .await;
}

/// Waits until the leader has led for longer than the former leader's guard had time.
async fn outlast_the_lease(store: &Store, leader: &str) {
    until(&format!("beats of {leader}"), ROWS, async || {
        let (text, _) = store.get(Leaf::Position).await.ok_or("no key position")?;
        let position: Position = serde_json::from_str(&text).map_err(|e| e.to_string())?;
        let enough = position.leader.as_str() == leader && position.beat >= 6;
        if enough { Ok(()) } else { Err(text) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn neither_a_switchover_nor_a_crash_leaves_a_gap_in_the_archive() {
    let archive = Archive::new();
    let rig = Rig::start_with("demotion", &topology(&archive));
    let first = rig.complete("dc1");
    let second = other_than(&first);
    let store = Store::of(&rig.lab, "dc1").await;
    let writer = rig.writer("before").await;
    let prober = rig.prober().await;
    rig.rows(&writer, 200).await;
    await_synchronous(&store, second).await;

    // The shutdown of the former primary hangs in its archiver.
    archive.shut();
    switch_segment(&rig, &first).await;
    let before = archive.segments(1);
    let mark = Mark::now(&rig.lab);
    writer.phase("switchover");
    let address = rig.lab.layout.host(&first).unwrap().at(REST_PORT);
    let body = json!({"leader": first, "candidate": second}).to_string();
    let answer = rest::request(address, "POST", "/switchover", &body, READY).await.unwrap();
    let wanted = format!("Successfully switched over to \"{second}\"");
    assert_eq!((answer.status, answer.body.as_str()), (200, wanted.as_str()));
    rig.rows(&writer, 200).await;
    outlast_the_lease(&store, second).await;
    let former = rig.lab.layout.host(&first).unwrap();
    assert!(rig.lab.process(former, Part::Postmaster).is_some(), "the archiver was cut off");
    assert_eq!(archive.segments(1), before, "something passed the gate");
    archive.open();
    assert_eq!(rig.complete("dc1"), second);
    let early = "a member has everything";
    assert!(mark.since(&rig.lab)[&first].contains(early), "the key went after the end");
    assert_eq!(mark.decided(&rig.lab, Rule::Rewind), Vec::<String>::new());
    assert_eq!(waiting(&rig, &first), BTreeSet::new(), "not archived");
    let found = archive.segments(1);
    let last = found.last().copied().unwrap();
    assert_eq!(found, (1..=last).collect(), "a gap in timeline 1");

    // The next primary dies with WAL that nobody has archived.
    rig.rows(&writer, 100).await;
    await_synchronous(&store, &first).await;
    archive.shut();
    switch_segment(&rig, second).await;
    rig.rows(&writer, 100).await;
    let left = waiting(&rig, second);
    writer.phase("crash");
    let mark = Mark::now(&rig.lab);
    rig.kill_host(second);
    assert_eq!(rig.successor_of(second).await, first);
    rig.rows(&writer, 200).await;
    assert!(!left.is_empty() && !left.iter().any(|file| archive.has(file)), "{left:?}");
    archive.open();
    rig.start_dc("dc1");
    assert_eq!(rig.complete("dc1"), first);
    let ledger = writer.stop().await;
    let record = prober.stop();
    let rewound = mark.decided(&rig.lab, Rule::Rewind);
    assert!(rewound.iter().any(|line| line.starts_with(second)), "{second} was not rewound");
    let missing: Vec<&String> = left.iter().filter(|file| !archive.has(file)).collect();
    assert!(missing.is_empty(), "lost for the archive: {missing:?}");
    assert_nothing_lost(&rig.audit(&ledger).await);
    rig.assert_one_primary(&record);
    rows::wait_identical(&rig.access, READY).await;
}
