//! Goal: a standby cluster that no federation knows of: it streams, its leader changes by
//! switchover and by failover, it goes on with nothing but the archive, is promoted when its
//! section is removed, and demoted again when it is put back: all of its nodes, with what they had
//! beyond the source. One member streams from another, one has its WAL from the archive alone.
//! Method: dc1 with one node and an archive; dc2 with four nodes and an archive of its own, its
//! configuration written past all programs, as a person would. A row of each phase must arrive on
//! every node of dc2.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::os::unix::fs::PermissionsExt;

use federator_tests::agent_log::Mark;
use federator_tests::patience::until;
use federator_tests::rest;
use federator_tests::rig::{READY, Rig};
use federator_tests::rows;
use federator_tests::store::Store;
use lab::layout::{POSTGRES_PORT, REST_PORT};
use node_agent_core::rule::Rule;
use node_agent_wire::MemberName;
use node_agent_wire::keys::Leaf;
use node_agent_wire::member::{Member, state};
use serde_json::{Value, json};

const SOURCE: &str = "dc1-pg1";
const NODES: [&str; 4] = ["dc2-pg1", "dc2-pg2", "dc2-pg3", "dc2-pg4"];
/// Takes its WAL from the archive alone.
const ARCHIVED: &str = "dc2-pg3";
/// Streams from dc2-pg2.
const CASCADED: &str = "dc2-pg4";

fn topology(archive: &str) -> String {
    let copy = format!("{{postgresql: {{elsewhere: {{command: {archive}/copy}}}}}}");
    format!(
        "name: pair\n\
         settings: {{ttl: 5, loop_wait: 1, retry_timeout: 1}}\n\
         datacenters:\n\
         \x20 dc1:\n\
         \x20   nodes: [pg1]\n\
         \x20   dynamic:\n\
         \x20     slots: {{dc2: {{type: physical}}}}\n\
         \x20     postgresql:\n\
         \x20       parameters: {{archive_mode: \"on\", archive_command: \"cp %p {archive}/%f\"}}\n\
         \x20 dc2:\n\
         \x20   agent: {copy}\n\
         \x20   nodes:\n\
         \x20     - pg1\n\
         \x20     - pg2\n\
         \x20     - {{name: pg3, tags: {{nofailover: true, nostream: true}}}}\n\
         \x20     - {{name: pg4, tags: {{nofailover: true, replicatefrom: dc2-pg2}}}}\n"
    )
}

async fn run(rig: &Rig, node: &str, sql: &str) -> Result<(), String> {
    rows::run(&rig.access, &rig.node(node), sql).await
}

/// Writes a row of the phase on `from`, and waits until every node of dc2 has it.
async fn arrives(rig: &Rig, from: &str, phase: &str) {
    let insert = format!("INSERT INTO note VALUES ('{phase}')");
    until(&format!("a write on {from}"), READY, async || run(rig, from, &insert).await).await;
    // For those that have nothing but the archive.
    run(rig, from, "SELECT pg_switch_wal()").await.unwrap();
    has(rig, &NODES, &format!("count(*) FILTER (WHERE phase = '{phase}') > 0"), phase).await;
}

/// Waits until these nodes say so of the table.
async fn has(rig: &Rig, nodes: &[&str], condition: &str, what: &str) {
    for node in nodes {
        until(&format!("\"{what}\" on {node}"), READY, async || {
            let sql = format!("SELECT ({condition})::text FROM note");
            let said = rows::value(&rig.access, &rig.node(node), &sql).await?;
            if said == "true" { Ok(()) } else { Err(said) }
        })
        .await;
    }
}

async fn configure(store: &Store, standby: Value) {
    let mut config = store.config().await;
    config["standby_cluster"] = standby;
    if config["standby_cluster"].is_null() {
        config.as_object_mut().unwrap().remove("standby_cluster");
    }
    store.put(Leaf::Config, &config.to_string()).await;
}

fn other_than(node: &str) -> &'static str {
    NODES[..2].iter().find(|name| **name != node).unwrap()
}

/// The archive, a directory that servers and agents may write to, with the program that copies the
/// source for the first node of dc2.
fn archive() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let (own, copy) = (dir.path().join("own"), dir.path().join("copy"));
    std::fs::create_dir(&own).unwrap();
    let programs = lab::software::find_postgres(None, None).unwrap();
    let script = format!(
        "#!/bin/sh\n\
         for a in \"$@\"; do case $a in\n\
         --datadir=*) to=${{a#*=}};; --connstring=*) from=${{a#*=}};; esac; done\n\
         {}/pg_basebackup -D \"$to\" -d \"$from\" -w -X stream -c fast || exit 1\n\
         echo \"$to\" >>\"$(dirname \"$0\")/copied\"\n",
        programs.display()
    );
    std::fs::write(&copy, script).unwrap();
    for path in [dir.path(), &own, &copy] {
        let open = std::fs::Permissions::from_mode(0o777);
        std::fs::set_permissions(path, open).unwrap();
    }
    dir
}

/// A member that has its WAL from the archive alone says so, and nobody keeps a slot for it.
async fn lives_on_the_archive(rig: &Rig, store: &Store) {
    let name = MemberName::new(ARCHIVED);
    until("the archive's member to say so", READY, async || {
        let (text, _) = store.get(Leaf::Member(&name)).await.ok_or("no member key")?;
        let data = Member::parse(ARCHIVED, text.as_bytes()).data;
        let told = data.replication_state.as_deref() == Some("in archive recovery");
        if told && data.state == state::RUNNING { Ok(()) } else { Err(text) }
    })
    .await;
    let receivers = "SELECT count(*)::text FROM pg_stat_wal_receiver";
    assert_eq!(rows::value(&rig.access, &rig.node(ARCHIVED), receivers).await.unwrap(), "0");
    let slots = "SELECT count(*)::text FROM pg_replication_slots WHERE slot_name = 'dc2_pg3'";
    for node in NODES {
        assert_eq!(rows::value(&rig.access, &rig.node(node), slots).await.unwrap(), "0", "{node}");
    }
}

/// Waits until the setting has this value there.
async fn is_set(rig: &Rig, node: &str, name: &str, value: &str) {
    until(&format!("{name} {value} on {node}"), READY, async || {
        let sql = format!("SELECT current_setting('{name}')");
        let seen = rows::value(&rig.access, &rig.node(node), &sql).await?;
        if seen == value { Ok(()) } else { Err(seen) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_standby_cluster_without_a_federation_lives_its_life() {
    let place = archive();
    let archive = place.path().display().to_string();
    let rig = Rig::start_with("standby-cluster", &topology(&archive));
    run(&rig, SOURCE, "CREATE TABLE note (phase text)").await.unwrap();

    let mut config = Store::of(&rig.lab, "dc1").await.config().await;
    let source = rig.lab.layout.host(SOURCE).unwrap().at(POSTGRES_PORT);
    let restore = format!("cp {archive}/%f %p");
    let streaming = json!({
        "host": source.ip().to_string(), "port": source.port(), "primary_slot_name": "dc2",
        "restore_command": restore, "create_replica_methods": ["elsewhere"]});
    config["standby_cluster"] = streaming.clone();
    config.as_object_mut().unwrap().remove("slots");
    // Two clusters must not write into one archive.
    let postgresql = &mut config["postgresql"];
    postgresql["parameters"]["archive_command"] = format!("cp %p {archive}/own/%f").into();
    let both = format!("cp {archive}/own/%f %p || cp {archive}/%f %p");
    postgresql["recovery_conf"] = json!({"restore_command": both});
    let store = Store::of(&rig.lab, "dc2").await;
    store.put(Leaf::Config, &config.to_string()).await;
    let first = rig.complete("dc2");
    arrives(&rig, SOURCE, "streaming").await;
    // The section's method made one copy; the others are copies of that member.
    let copied = std::fs::read_to_string(place.path().join("copied")).unwrap();
    let own = rig.lab.layout.host(&first).unwrap().data_dir();
    assert_eq!(copied.lines().collect::<Vec<_>>(), [own.to_str().unwrap()]);
    lives_on_the_archive(&rig, &store).await;

    let mark = Mark::now(&rig.lab);
    let address = rig.lab.layout.host(&first).unwrap().at(REST_PORT);
    let body = json!({"leader": first}).to_string();
    let answer = rest::request(address, "POST", "/switchover", &body, READY).await.unwrap();
    let second = other_than(&first);
    let wanted = format!("Successfully switched over to \"{second}\"");
    assert_eq!((answer.status, answer.body.as_str()), (200, wanted.as_str()));
    assert_eq!(rig.complete("dc2"), second);
    arrives(&rig, SOURCE, "switched over").await;
    assert!(mark.decided(&rig.lab, Rule::StandbySwitchover).iter().any(|l| l.starts_with(&first)));
    assert!(mark.decided(&rig.lab, Rule::StartStandby).is_empty(), "something was restarted");

    rig.kill_host(second);
    until(&format!("{first} to lead dc2"), READY, async || {
        let leader = store.get(Leaf::Leader).await.map(|(name, _)| name);
        if leader.as_deref() == Some(first.as_str()) { Ok(()) } else { Err(format!("{leader:?}")) }
    })
    .await;
    rig.start_dc("dc2");
    assert_eq!(rig.complete("dc2"), first);
    arrives(&rig, SOURCE, "failed over").await;
    lives_on_the_archive(&rig, &store).await;

    // Only the leader waits before it replays; the others get what it has.
    let mut delayed = streaming.clone();
    delayed["recovery_min_apply_delay"] = "1s".into();
    configure(&store, delayed).await;
    is_set(&rig, &first, "recovery_min_apply_delay", "1s").await;
    arrives(&rig, SOURCE, "delayed").await;
    is_set(&rig, other_than(&first), "recovery_min_apply_delay", "0").await;

    configure(&store, json!({"restore_command": restore})).await;
    until("the standby leader to stream no more", READY, async || {
        let sql = "SELECT count(*)::text FROM pg_stat_wal_receiver";
        let count = rows::value(&rig.access, &rig.node(&first), sql).await?;
        if count == "0" { Ok(()) } else { Err(format!("{count} walreceivers")) }
    })
    .await;
    arrives(&rig, SOURCE, "archived").await;

    configure(&store, Value::Null).await;
    arrives(&rig, &first, "promoted").await;
    arrives(&rig, &first, "lost again").await;

    // Put back: what it wrote on its own goes, on every node, and it follows again. The end of that
    // is in its own archive.
    let demoted = Mark::now(&rig.lab);
    configure(&store, streaming.clone()).await;
    let gone = "count(*) FILTER (WHERE phase IN ('promoted', 'lost again')) = 0";
    has(&rig, &NODES, gone, "demoted").await;
    assert_eq!(rig.complete("dc2"), first);
    arrives(&rig, SOURCE, "demoted").await;
    let rewound = demoted.decided(&rig.lab, Rule::Rewind);
    for node in NODES {
        assert!(rewound.iter().any(|line| line.starts_with(node)), "{node} was not rewound");
    }
    let log = &demoted.since(&rig.lab)[&first];
    let told = "archived the segment of the shutdown checkpoint file=\"";
    let file = log.split(told).nth(1).and_then(|rest| rest.split('"').next()).unwrap();
    assert!(place.path().join("own").join(file).exists(), "{file} is not in the archive");
    lives_on_the_archive(&rig, &store).await;
    until(&format!("{CASCADED} to stream from dc2-pg2"), READY, async || {
        let host = rig.lab.layout.host("dc2-pg2").unwrap().address.to_string();
        let sql = "SELECT coalesce(max(sender_host), 'nobody') FROM pg_stat_wal_receiver";
        let seen = rows::value(&rig.access, &rig.node(CASCADED), sql).await?;
        if seen == host { Ok(()) } else { Err(seen) }
    })
    .await;

    // Without a command the key goes to a member that has the shutdown checkpoint.
    let mut config = store.config().await;
    config["postgresql"]["parameters"]["archive_command"] = "".into();
    store.put(Leaf::Config, &config.to_string()).await;
    is_set(&rig, &first, "archive_command", "").await;
    // Its old timeline 2 is gone, and there may be another one soon.
    for file in std::fs::read_dir(place.path().join("own")).unwrap() {
        std::fs::remove_file(file.unwrap().path()).unwrap();
    }
    configure(&store, Value::Null).await;
    let insert = "INSERT INTO note VALUES ('alone')";
    until(&format!("a write on {first}"), READY, async || run(&rig, &first, insert).await).await;
    has(&rig, &NODES[..2], "count(*) FILTER (WHERE phase = 'alone') = 1", "alone").await;
    configure(&store, streaming).await;
    has(&rig, &NODES, "count(*) FILTER (WHERE phase = 'alone') = 0", "demoted again").await;
    assert_eq!(rig.complete("dc2"), other_than(&first));
    arrives(&rig, SOURCE, "handed over").await;
}
