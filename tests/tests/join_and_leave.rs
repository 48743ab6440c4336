//! Goal: a datacenter joins a running federation as the end of a cascade, with a rate limit and
//! progress; the chain is planned anew when its source becomes primary, is lost and comes back; it
//! leaves again without a trace, read-only, becomes a cluster of its own only when that is asked
//! for, and is not taken back over its own rows. Both commands are killed on their way and resumed.
//! Method: one story under load; the settings file is changed as an operator would.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use federator_tests::federator::exit;
use federator_tests::patience::until;
use federator_tests::rig::{READY, ROWS, Rig, assert_nothing_lost};
use federator_tests::rows;
use federator_tests::store::Store;
use node_agent_wire::DcName;
use node_agent_wire::keys::Leaf;
use serde_json::{Value, json};

const ROWS_BETWEEN: u64 = 50;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_datacenter_joins_a_cascade_and_leaves() {
    let rig = Rig::start("join-and-leave", "three-dc.yaml");
    let whole = settings(&rig);
    change_settings(&rig, |datacenters| {
        datacenters.as_object_mut().unwrap().remove("dc3");
    });
    let _ = rig.federator(&["setup", "--yes"]).await.expect(exit::DONE);
    let unknown = rig.federator(&["add-dc", "dc3", "--yes"]).await.expect(exit::REFUSED);
    assert!(unknown.stderr.contains("dc3 is not a datacenter of this federation"), "{unknown}");

    write_settings(&rig, &whole);
    change_settings(&rig, |datacenters| {
        datacenters["dc3"]["follows"] = json!("dc2");
        datacenters["dc3"]["seed"] = json!({"max_rate": "8MB"});
    });
    rig.federator_crashing(&["add-dc", "dc3", "--yes"], "take:after").await;
    let added = rig.federator(&["resume", "--yes"]).await.expect(exit::DONE);
    for words in ["dc3 is configured to follow dc2", "dc3-pg1 copying ", "dc3 streams from dc2"] {
        assert!(added.stdout.contains(words), "it does not say \"{words}\":\n{added}");
    }
    let config = Store::of(&rig.lab, "dc3").await.config().await;
    assert_eq!(config["standby_cluster"]["max_rate"], "8192k");
    let records = rig.settled("dc1").await;
    assert!(records.values().all(|record| record.members.len() == 3), "{records:?}");
    follows(&rig, "dc3", "dc2").await;

    let writer = rig.writer("a cascade").await;
    rig.rows(&writer, ROWS_BETWEEN).await;
    writer.phase("its source is primary");
    let _ = rig.federator(&["switchover", "--to", "dc2", "--yes"]).await.expect(exit::DONE);
    rig.settled("dc2").await;
    follows(&rig, "dc3", "dc2").await;
    rig.rows(&writer, ROWS_BETWEEN).await;
    writer.phase("its source is a standby again");
    let _ = rig.federator(&["switchover", "--to", "dc1", "--yes"]).await.expect(exit::DONE);
    rig.settled("dc1").await;
    follows(&rig, "dc3", "dc2").await;

    writer.phase("its source is lost");
    assert!(rig.act("power cut of dc2", |lab| lab.kill_dc("dc2")) > 0, "nothing ran in dc2");
    let status = rig.federator(&["status"]).await.expect(exit::DONE);
    for words in ["dc3 follows dc2, which does not answer", "federator rejoin dc3"] {
        assert!(status.stdout.contains(words), "it does not say \"{words}\":\n{status}");
    }
    let done = rig.federator(&["rejoin", "dc3", "--yes"]).await.expect(exit::DONE);
    assert!(done.stdout.contains("dc3 streams from dc1"), "{done}");
    rig.rows(&writer, ROWS_BETWEEN).await;
    rig.start_dc("dc2");
    rig.settled("dc1").await;
    follows(&rig, "dc3", "dc2").await;

    assert_nothing_lost(&rig.audit(&writer.stop().await).await);
    rows::wait_identical(&rig.access, READY).await;
    Box::pin(leave(&rig)).await;
}

/// dc3 is removed, and then made a cluster of its own.
async fn leave(rig: &Rig) {
    let refused = rig.federator(&["remove-dc", "dc2", "--yes"]).await.expect(exit::REFUSED);
    assert!(refused.stderr.contains("dc3 follows dc2"), "{refused}");
    let refused = rig.federator(&["remove-dc", "dc1", "--yes"]).await.expect(exit::REFUSED);
    assert!(refused.stderr.contains("dc1 is the primary datacenter"), "{refused}");
    rig.federator_crashing(&["remove-dc", "dc3", "--yes"], "forget:after").await;
    let _ = rig.federator(&["resume", "--yes"]).await.expect(exit::DONE);
    for dc in ["dc1", "dc2"] {
        let store = Store::of(&rig.lab, dc).await;
        let (record, config) = (store.record().await, store.config().await);
        assert!(!record.members.contains_key(&DcName::from("dc3")), "{record:?}");
        assert!(config["slots"].get("dc3").is_none(), "{config}");
        for node in rig.nodes_of(dc) {
            let sql = "SELECT count(*)::text FROM pg_replication_slots WHERE slot_name = 'dc3'";
            let kept = rows::value(&rig.access, &rig.node(&node), sql).await.unwrap();
            assert_eq!(kept, "0", "{node} keeps WAL for dc3");
        }
    }
    let node = rig.node("dc3-pg1");
    let reads = "SELECT pg_is_in_recovery()::text";
    assert_eq!(rows::value(&rig.access, &node, reads).await.as_deref(), Ok("true"));
    let status = rig.federator(&["status"]).await.expect(exit::DONE);
    assert!(status.stdout.contains("dc3 was removed from the federation"), "{status}");
    // Nothing makes slots for it again.
    let _ = rig.federator(&["switchover", "--to", "dc2", "--yes"]).await.expect(exit::DONE);
    let config = Store::of(&rig.lab, "dc2").await.config().await;
    assert!(config["slots"].get("dc3").is_none(), "{config}");

    let unasked = ["remove-dc", "dc3", "--standalone", "--yes"];
    let unasked = rig.federator(&unasked).await.expect(exit::REFUSED);
    assert!(unasked.stderr.contains("--confirm shop"), "--yes is not enough: {unasked}");
    let alone = ["remove-dc", "dc3", "--standalone", "--confirm", "shop"];
    let _ = rig.federator(&alone).await.expect(exit::DONE);
    assert_eq!(Store::of(&rig.lab, "dc3").await.get(Leaf::Federation).await, None);
    until("a row of its own in dc3", ROWS, async || {
        rows::run(&rig.access, &node, "CREATE TABLE own (id int)").await
    })
    .await;
    for command in [&["add-dc", "dc3", "--yes"][..], &["setup", "--yes"][..]] {
        let refused = rig.federator(command).await.expect(exit::REFUSED);
        assert!(refused.stderr.contains("dc3 accepts writes as a cluster of its own"), "{refused}");
    }
}

/// Waits until the status names the source, and that one's leader serves the slot.
async fn follows(rig: &Rig, dc: &str, source: &str) {
    until(&format!("{dc} to follow {source}"), ROWS, async || {
        let status = rig.status().await;
        let rows = status["datacenters"].as_array().cloned().unwrap_or_default();
        let row = |name: &str| rows.iter().find(|row| row["dc"] == name).cloned();
        let named = row(dc).is_some_and(|row| row["source"] == source);
        let leader = row(source).and_then(|row| Some(row["leader"].as_str()?.to_owned()));
        let leader = leader.filter(|_| named).ok_or_else(|| status.to_string())?;
        let sql = format!("SELECT active::text FROM pg_replication_slots WHERE slot_name = '{dc}'");
        let active = rows::value(&rig.access, &rig.node(&leader), &sql).await?;
        if active == "true" { Ok(()) } else { Err(format!("slot {dc} on {leader}: {active}")) }
    })
    .await;
}

fn settings(rig: &Rig) -> Value {
    let text = std::fs::read_to_string(rig.lab.layout.federator_config()).unwrap();
    node_agent_wire::yaml::parse(&text).unwrap()
}

/// JSON is YAML.
fn write_settings(rig: &Rig, settings: &Value) {
    std::fs::write(rig.lab.layout.federator_config(), settings.to_string()).unwrap();
}

fn change_settings(rig: &Rig, change: impl FnOnce(&mut Value)) {
    let mut settings = settings(rig);
    change(&mut settings["datacenters"]);
    write_settings(rig, &settings);
}
