//! Goal: two datacenters that were promoted from one position, and so began one timeline of the
//! same number there, are told apart when one of them rejoins the other: it is reported, copied
//! anew, and every node has the same rows at the end. What can't be kept is not discarded until an
//! operator gives it up by name.
//! Method: dc1 is stopped cleanly, so that dc2 has all of it, and loses its power; dc2 is promoted
//! on a wrong word. dc1 comes back, asks dc2 at an address where nobody is, and elects. What both
//! wrote since differs row by row at the same positions, and no history shows it.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use federator_tests::agent_log::Mark;
use federator_tests::federator::exit;
use federator_tests::patience::until;
use federator_tests::rig::{READY, Rig};
use federator_tests::rows;
use federator_tests::store::Store;
use lab::Part;
use lab::wait::Interrupt;
use node_agent_core::rule::Rule;
use node_agent_wire::DcName;
use node_agent_wire::keys::Leaf;
use rustix::process::Signal;
use serde_json::Value;

const TOPOLOGY: &str = "name: shop\n\
    settings: {ttl: 5, loop_wait: 1, retry_timeout: 1}\n\
    datacenters:\n  dc1: {etcd: 1, nodes: [pg1, pg2]}\n  dc2: {etcd: 1, nodes: [pg1, pg2]}\n";
const ROWS_OF: &str = "SELECT coalesce(string_agg(i::text || who, ' ' ORDER BY i), '') FROM kept";
const ATTESTED: [&str; 8] =
    ["promote", "dc2", "--attest", "dc1 is gone", "--by", "tester", "--confirm", "shop"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_began_one_timeline_at_one_position_and_the_returned_one_is_copied_anew() {
    let rig = Rig::start_with("same-timeline", TOPOLOGY);
    rig.federate().await;
    let former = rig.complete("dc1");
    rows::run(&rig.access, &rig.node(&former), "CREATE TABLE kept (i int, who text)")
        .await
        .unwrap();
    insert(&rig, &former, 1, "both").await;
    for node in &rig.access.nodes {
        has(&rig, &node.name, "1both").await;
    }
    stop_cleanly(&rig, &former).await;
    let _ = rig.federator(&ATTESTED).await.expect(exit::DONE);
    let successor = rig.successor_of(&former).await;

    let address = return_blind(&rig, &former).await;
    insert(&rig, &former, 2, "dc1").await;
    for i in 2..200 {
        insert(&rig, &successor, i, "dc2").await;
    }
    let (dc1, dc2) = (Store::of(&rig.lab, "dc1").await, Store::of(&rig.lab, "dc2").await);
    let told = async |store: &Store| {
        until("a history of timeline 2", READY, async || {
            let history = store.history().await.ok_or("none")?;
            if history.timeline.0 == 2 { Ok(history) } else { Err(format!("{history:?}")) }
        })
        .await
    };
    assert_eq!(told(&dc1).await, told(&dc2).await, "the trap is not set: the histories differ");
    rig.start_dc("dc1");
    let other = rig.nodes_of("dc1").into_iter().find(|name| *name != former).unwrap();
    has(&rig, &other, "1both 2dc1").await;

    see_again(&dc1, address).await;
    until("dc1's own knowledge that its epoch is over", READY, async || {
        let record = dc1.record().await;
        let acknowledged = record.fence.as_ref().is_some_and(|fence| fence.ack.is_some());
        if acknowledged { Ok(()) } else { Err(format!("{record:?}")) }
    })
    .await;
    rejoins(&rig, &former, &other).await;
}

/// By a copy, of dc2 for one node and of that node for the other, after a report each.
async fn rejoins(rig: &Rig, former: &str, other: &str) {
    let mark = Mark::now(&rig.lab);
    let here = rig.lab.layout.host(former).unwrap().data_dir();
    let obstacle = here.join("pg_wal/0000FFFF.history");
    fs::write(&obstacle, "").unwrap();
    fs::set_permissions(&obstacle, fs::Permissions::from_mode(0o000)).unwrap();
    let rejoin = ["rejoin", "dc1", "--yes"];
    let short = [&rejoin[..], &["--timeout", "15s"]].concat();
    let stuck = rig.federator(&short).await.expect(exit::PARTLY);
    assert!(stuck.stdout.contains("keep the divergent WAL in"), "{stuck}");
    let segments = fs::read_dir(here.join("pg_wal")).unwrap().flatten();
    let names = segments.map(|entry| entry.file_name().to_string_lossy().into_owned());
    assert!(names.into_iter().any(|name| name.len() == 24 && name.starts_with("00000002")));
    let waived = [&rejoin[..], &["--waive-vault", former]].concat();
    let done = rig.federator(&waived).await.expect(exit::DONE);
    for (node, words) in [(former, "NOT kept"), (other, "kept in ")] {
        let line = done.stdout.lines().find(|l| l.contains(&format!("{node} gives up ")));
        let line = line.unwrap_or_else(|| panic!("{done}"));
        assert!(line.contains(words) && line.contains("public.kept"), "{line}");
    }
    assert!(report(rig, former)["kept_in"].is_null());
    sealed(&report(rig, other));
    rig.settled("dc2").await;
    let dc2 = rig.complete("dc2");
    let expected = rows::value(&rig.access, &rig.node(&dc2), ROWS_OF).await.unwrap();
    assert!(expected.ends_with("199dc2") && !expected.contains("2dc1 "), "{expected}");
    for node in &rig.access.nodes {
        has(rig, &node.name, &expected).await;
    }
    let copied = mark.decided(&rig.lab, Rule::CopyAgain);
    for node in [former, other] {
        let line = copied.iter().find(|line| line.starts_with(node));
        assert!(line.is_some_and(|l| l.contains("both began timeline 2")), "{node}: {copied:#?}");
        let report = report(rig, node);
        assert_eq!(report["complete"], true, "{report}");
        assert!(report["transactions"].as_u64() >= Some(1), "{report}");
    }
}

/// The vault is whole by the words of a program that is not ours.
fn sealed(report: &Value) {
    let vault = report["kept_in"].as_str().unwrap();
    let mut sums = Command::new("sha256sum");
    let sums = sums.args(["--check", "SHA256SUMS"]).current_dir(vault).output().unwrap();
    let said = String::from_utf8_lossy(&sums.stdout);
    assert!(sums.status.success(), "{sums:?}");
    for file in ["pg_control", "00000002.history", "divergence.json"] {
        assert!(said.contains(&format!("{file}: OK")), "{file} is not among {said}");
    }
}

async fn insert(rig: &Rig, node: &str, i: i32, who: &str) {
    let sql = format!("INSERT INTO kept VALUES ({i}, '{who}')");
    until(&format!("{node} to take row {i}"), READY, async || {
        rows::run(&rig.access, &rig.node(node), &sql).await
    })
    .await;
}

async fn has(rig: &Rig, node: &str, wanted: &str) {
    until(&format!("the rows {wanted} on {node}"), READY, async || {
        let found = rows::value(&rig.access, &rig.node(node), ROWS_OF).await?;
        if found == wanted { Ok(()) } else { Err(found) }
    })
    .await;
}

/// Everything in dc1 ends, its primary last and after it has shipped all its WAL.
async fn stop_cleanly(rig: &Rig, primary: &str) {
    let mut nodes = rig.nodes_of("dc1");
    nodes.sort_by_key(|name| name == primary);
    for node in nodes {
        rig.signal(&node, Part::Agent, Signal::TERM);
        let host = rig.lab.layout.host(&node).unwrap();
        until(&format!("the end of {node}"), READY, async || {
            let left = rig.lab.processes(host).len();
            if left == 0 { Ok(()) } else { Err(format!("{left} processes")) }
        })
        .await;
    }
    rig.act("power cut of dc1", |lab| lab.kill_dc("dc1"));
}

/// dc1's etcd and its former primary come back, with an address of dc2 where nobody is. Returns the
/// right one.
async fn return_blind(rig: &Rig, former: &str) -> Vec<String> {
    for host in rig.lab.layout.hosts.iter().filter(|h| h.dc.as_str() == "dc1" && !h.is_node()) {
        rig.act(&format!("start of {}", host.name), |lab| {
            lab.start_host(&host.name, &Interrupt::default())
        });
    }
    let store = Store::of(&rig.lab, "dc1").await;
    let mut record = store.record().await;
    let entry = record.members.get_mut(&DcName::new("dc2")).unwrap();
    let right = std::mem::replace(&mut entry.etcd, vec!["127.0.0.1:9".to_owned()]);
    store.put(Leaf::Federation, &serde_json::to_string(&record).unwrap()).await;
    rig.act(&format!("start of {former}"), |lab| lab.start_host(former, &Interrupt::default()));
    right
}

async fn see_again(store: &Store, address: Vec<String>) {
    let mut record = store.record().await;
    record.members.get_mut(&DcName::new("dc2")).unwrap().etcd = address;
    store.put(Leaf::Federation, &serde_json::to_string(&record).unwrap()).await;
}

/// The last report beside a node's data directory.
fn report(rig: &Rig, node: &str) -> Value {
    let files = fs::read_dir(&rig.lab.layout.host(node).unwrap().dir).unwrap().flatten();
    let names = files.map(|file| file.path());
    let mut reports: Vec<_> = names
        .filter(|path| {
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            name.contains(".divergence-") && name.ends_with(".json")
        })
        .collect();
    reports.sort();
    let last = reports.last().unwrap_or_else(|| panic!("{node} has reported nothing"));
    serde_json::from_slice(&fs::read(last).unwrap()).unwrap()
}
