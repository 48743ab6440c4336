//! Goal: a member follows the one that `replicatefrom` names, the leader while that one is away,
//! and it again when it is back; the slot of a member that is away is kept for `member_slots_ttl`;
//! and the consumer of a permanent logical slot goes on after a failover without a gap.
//! Method: four nodes in synchronous mode, dc1-pg3 behind dc1-pg2, and two that may lead. A
//! consumer reads the ledger's rows by the slot's SQL interface from whoever is primary.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::time::Duration;

use federator_tests::agent_log::Mark;
use federator_tests::patience::until;
use federator_tests::rig::{READY, ROWS, Rig, assert_nothing_lost};
use federator_tests::store::Store;
use federator_tests::{rows, servers};
use lab::access::within;
use node_agent_core::rule::Rule;
use node_agent_wire::keys::Leaf;
use node_agent_wire::status::Status;
use node_agent_wire::{Lsn, MemberName, SlotName};

const TOPOLOGY: &str = r#"
name: cascade
settings: {ttl: 5, loop_wait: 1, retry_timeout: 1, synchronous_mode: true}
postgresql: {parameters: {wal_level: logical}}
dynamic:
  member_slots_ttl: 12
  slots: {cdc: {type: logical, database: postgres, plugin: test_decoding}}
datacenters:
  dc1:
    nodes:
      - pg1
      - {name: pg2, tags: {nofailover: true}}
      - {name: pg3, tags: {nofailover: true, replicatefrom: dc1-pg2}}
      - pg4
"#;
const MIDDLE: &str = "dc1-pg2";
const END: &str = "dc1-pg3";
const QUERY: Duration = Duration::from_secs(20);

/// The ids of ledger rows in what the slot has new, which is consumed by that.
async fn consume(rig: &Rig, node: &str, seen: &mut BTreeSet<i64>) -> Result<(), String> {
    let client = rows::connect(&rig.access, &rig.node(node)).await?;
    let sql = "SELECT data FROM pg_logical_slot_get_changes('cdc', NULL, NULL)
        WHERE data LIKE 'table public.ledger: INSERT:%'";
    let found = within("consuming", node, QUERY, client.query(sql, &[])).await;
    for row in found.map_err(|e| e.to_string())? {
        let data: String = row.try_get(0).map_err(|e| e.to_string())?;
        let id = data.split(" id[bigint]:").nth(1).and_then(|rest| rest.split(' ').next());
        let id = id.and_then(|id| id.parse().ok()).ok_or_else(|| format!("no id in {data}"))?;
        seen.insert(id);
    }
    Ok(())
}

/// Waits until `node` receives from `from`.
async fn receives_from(rig: &Rig, node: &str, from: &str) {
    let host = rig.lab.layout.host(from).unwrap().address.to_string();
    until(&format!("{node} to stream from {from}"), READY, async || {
        let sql = "SELECT coalesce(max(sender_host || ' ' || status), 'nobody')
            FROM pg_stat_wal_receiver";
        let seen = rows::value(&rig.access, &rig.node(node), sql).await?;
        if seen == format!("{host} streaming") { Ok(()) } else { Err(seen) }
    })
    .await;
}

/// Whether the node has the slot, by its `pg_replication_slots`.
async fn has_slot(rig: &Rig, node: &str, slot: &str) -> Result<bool, String> {
    let sql = format!("SELECT count(*)::text FROM pg_replication_slots WHERE slot_name = '{slot}'");
    Ok(rows::value(&rig.access, &rig.node(node), &sql).await? == "1")
}

async fn await_slot(rig: &Rig, node: &str, slot: &str, wanted: bool) {
    let what = format!("{node} {} slot {slot}", if wanted { "to have" } else { "to be without" });
    until(&what, READY, async || {
        if has_slot(rig, node, slot).await? == wanted { Ok(()) } else { Err("not yet".into()) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cascades_and_logical_slots_outlive_a_failover() {
    let bin = servers::programs();
    if !servers::has_test_decoding(&bin) {
        println!("SKIPPED: no test_decoding came with {}", bin.display());
        return;
    }
    let rig = Rig::start_with("cascade", TOPOLOGY);
    let former = rig.complete("dc1");
    let other = if former == "dc1-pg1" { "dc1-pg4" } else { "dc1-pg1" };
    receives_from(&rig, END, MIDDLE).await;

    // Logical: both that may lead have the slot, the others do not.
    await_slot(&rig, &former, "cdc", true).await;
    await_slot(&rig, other, "cdc", true).await;
    assert!(!has_slot(&rig, MIDDLE, "cdc").await.unwrap(), "a node that never leads has it");
    let feedback = "SELECT current_setting('hot_standby_feedback')";
    assert_eq!(rows::value(&rig.access, &rig.node(other), feedback).await.unwrap(), "on");
    let writer = rig.writer("before").await;
    let mut seen = BTreeSet::new();
    rig.rows(&writer, 200).await;
    consume(&rig, &former, &mut seen).await.unwrap();
    let consumed = seen.len();
    assert!(consumed >= 200, "{consumed} rows by the slot");
    let position = "SELECT coalesce(max(confirmed_flush_lsn)::text, '0/0')
        FROM pg_replication_slots WHERE slot_name = 'cdc'";
    let at: Lsn =
        rows::value(&rig.access, &rig.node(&former), position).await.unwrap().parse().unwrap();
    until("the copy to follow the consumer", READY, async || {
        let copy = rows::value(&rig.access, &rig.node(other), position).await?;
        let copy: Lsn = copy.parse().map_err(|_| copy)?;
        if copy >= at { Ok(()) } else { Err(format!("{copy} of {at}")) }
    })
    .await;
    rig.rows(&writer, 100).await;

    writer.phase("failover");
    let mark = Mark::now(&rig.lab);
    rig.kill_host(&former);
    assert_eq!(rig.successor_of(&former).await, other);
    rig.rows(&writer, 200).await;
    let promoted = mark.decided(&rig.lab, Rule::Promote);
    assert!(promoted.iter().all(|line| !line.contains("may miss")), "{promoted:?}");
    let ledger = writer.stop().await;
    let audit = rig.audit(&ledger).await;
    assert_nothing_lost(&audit);
    consume(&rig, other, &mut seen).await.unwrap();
    let all = rows::on(&rig.access, &rig.node(other)).await.unwrap();
    let gap: Vec<i64> = all.iter().map(|row| row.1).filter(|id| !seen.contains(id)).collect();
    assert!(gap.is_empty() && all.len() >= 500, "{} rows never came: {gap:?}", gap.len());

    // Cascade: the middle goes, and its slot is kept as long as it should be.
    rig.start_dc("dc1");
    assert_eq!(rig.complete("dc1"), other);
    receives_from(&rig, END, MIDDLE).await;
    rig.kill_host(MIDDLE);
    receives_from(&rig, END, other).await;
    let store = Store::of(&rig.lab, "dc1").await;
    let slot = SlotName::from_name(MIDDLE);
    until("the key of the middle to be gone", READY, async || {
        let key = store.get(Leaf::Member(&MemberName::new(MIDDLE))).await;
        if key.is_none() { Ok(()) } else { Err("it is there".to_owned()) }
    })
    .await;
    assert!(has_slot(&rig, other, slot.as_str()).await.unwrap(), "the slot went with the key");
    let (status, _) = store.get(Leaf::Status).await.unwrap();
    let status = Status::parse(status.as_bytes());
    assert!(status.retain_slots.contains(&slot), "{status:?}");
    for node in [other, former.as_str()] {
        await_slot(&rig, node, slot.as_str(), false).await;
    }
    rig.start_dc("dc1");
    receives_from(&rig, END, MIDDLE).await;
    rows::wait_identical(&rig.access, ROWS).await;
}
