//! Goal: whatever an agent finds that is not of its cluster, it says so and leaves it as it is: an
//! agent that has its name already, another database system in its data directory, a replica that
//! runs without a cluster. A primary that an operator runs without any agent is taken over with
//! its rows, and replicas are made of it.
//! Method: two nodes. A second agent of the leader's name; a data directory made by initdb; then
//! etcd forgets the cluster, and servers are started by hand before their agents.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use federator_tests::agent_log::Mark;
use federator_tests::agents::{eventually, state};
use federator_tests::by_hand::Hand;
use federator_tests::command::Finished;
use federator_tests::patience::until;
use federator_tests::rig::{READY, Rig};
use federator_tests::rows;
use federator_tests::store::Store;
use lab::Part;
use node_agent_core::rule::Rule;
use node_agent_wire::keys::Leaf;

const ROWS_OF: &str = "SELECT string_agg(i::text, ' ' ORDER BY i) FROM mine";

/// It ended by itself, and told its operator why.
fn refused(done: Finished, words: &[&str]) {
    let done = done.expect(1);
    for word in words {
        assert!(done.said().contains(word), "no word of {word:?} in {done}");
    }
}

async fn run(rig: &Rig, node: &str, sql: &str) {
    rows::run(&rig.access, &rig.node(node), sql).await.unwrap();
}

async fn has_rows(rig: &Rig, node: &str, wanted: &str) {
    until(&format!("the rows {wanted} on {node}"), READY, async || {
        let found = rows::value(&rig.access, &rig.node(node), ROWS_OF).await?;
        if found == wanted { Ok(()) } else { Err(found) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_of_the_cluster_is_left_as_it_is() {
    let topology = "\
name: strangers
settings: {ttl: 5, loop_wait: 1, retry_timeout: 1}
datacenters:
  dc1: {etcd: 1, nodes: [pg1, pg2]}
";
    let rig = Rig::start_with("strangers", topology);
    let leader = rig.complete("dc1");
    let nodes = rig.nodes_of("dc1");
    let replica = nodes.iter().find(|node| **node != leader).unwrap().clone();
    namesake(&rig, &leader).await;
    other_system(&rig, &leader, &replica).await;
    forget_the_cluster(&rig).await;
    let primary = Hand::on(&rig, &leader);
    primary.empty().await;
    primary.initdb().await;
    primary.start().await;
    run(&rig, &leader, "CREATE TABLE mine (i int); INSERT INTO mine VALUES (1), (2)").await;
    running_replica(&rig, &leader, &replica).await;
    taken_over(&rig, &leader, &replica).await;
}

/// A second agent with the name, and here with all of the configuration, of one that runs.
async fn namesake(rig: &Rig, leader: &str) {
    let store = Store::of(&rig.lab, "dc1").await;
    let keys = async || (store.get(Leaf::Leader).await, store.get(Leaf::Initialize).await);
    let hand = Hand::on(rig, leader);
    let agent = || rig.lab.process(hand.host, Part::Agent).map(|process| process.identity.pid);
    let before = (keys().await, hand.postmaster(), agent());
    let name = format!("there is already a node named '{leader}' running");
    refused(hand.agent().await, &["Can't start", &name, "give this one another name"]);
    assert_eq!((keys().await, hand.postmaster(), agent()), before, "something was changed");
    assert_eq!(rig.complete("dc1"), leader);
}

/// The data directory of a member holds something else.
async fn other_system(rig: &Rig, leader: &str, replica: &str) {
    rig.kill_host(replica);
    let hand = Hand::on(rig, replica);
    hand.empty().await;
    hand.initdb().await;
    let own = hand.system_identifier().await;
    let clusters = Hand::on(rig, leader).system_identifier().await;
    assert_ne!(own, clusters);
    let words = [own.as_str(), &clusters, "takes no part", "empty its data directory"];
    refused(hand.agent().await, &words);
    assert_eq!(hand.system_identifier().await, own, "it is there as it was");
    hand.empty().await;
    rig.start_dc("dc1");
    assert_eq!(rig.complete("dc1"), leader);
}

/// Nothing runs but etcd, and it knows nothing.
async fn forget_the_cluster(rig: &Rig) {
    for node in rig.nodes_of("dc1") {
        rig.kill_host(&node);
    }
    Store::of(&rig.lab, "dc1").await.wipe().await;
}

/// A replica that runs before its primary's agent has made the cluster known.
async fn running_replica(rig: &Rig, primary: &str, replica: &str) {
    let hand = Hand::on(rig, replica);
    hand.empty().await;
    let from = rig.lab.layout.host(primary).unwrap().address;
    let copy = format!(
        "pg_basebackup -D {} -h {from} -U replicator -R -c fast",
        hand.host.data_dir().display()
    );
    let _ = hand.run(&copy).await.expect(0);
    hand.start().await;
    let server = hand.postmaster();
    has_rows(rig, replica, "1 2").await;
    let words = ["runs as a replica", "start the agent of the primary first"];
    refused(hand.agent().await, &words);
    assert_eq!(hand.postmaster(), server, "it runs as before");
    assert_eq!(Store::of(&rig.lab, "dc1").await.get(Leaf::Initialize).await, None);
    rig.kill_host(replica);
    hand.empty().await;
}

async fn taken_over(rig: &Rig, leader: &str, replica: &str) {
    let hand = Hand::on(rig, leader);
    let (server, own) = (hand.postmaster(), hand.system_identifier().await);
    let mark = Mark::now(&rig.lab);
    rig.act(&format!("start of the agent of {leader}"), |lab| lab.start_agent(leader));
    let running = eventually(rig, leader, "the taken over primary", |s| {
        s["role"] == "primary" && s["state"] == "running" && s["rule"] == 125
    })
    .await;
    assert_eq!(running["database_system_identifier"], own.as_str());
    for rule in [Rule::TakeOver, Rule::GuardMissing] {
        assert!(!mark.decided(&rig.lab, rule).is_empty(), "{rule:?} did not decide");
    }
    assert_ne!(hand.postmaster(), server, "restarted under its guard");
    assert!(rig.lab.process(hand.host, Part::Guard).is_some());
    let known = Store::of(&rig.lab, "dc1").await.get(Leaf::Initialize).await;
    assert_eq!(known.map(|(text, _)| text), Some(own));
    has_rows(rig, leader, "1 2").await;

    rig.start_dc("dc1");
    assert_eq!(rig.complete("dc1"), leader);
    run(rig, leader, "INSERT INTO mine VALUES (3)").await;
    has_rows(rig, replica, "1 2 3").await;
    assert_eq!(state(rig, replica).await.unwrap()["replication_state"], "streaming");
}
