//! Goal: a switchover inside a datacenter, asked for by REST or by the key that Patroni's tools
//! write, moves the primary to the candidate without the loss of an acknowledged row, and the
//! former primary follows without a rewind.
//! Method: three nodes in synchronous mode under load; the longest write pause is printed.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::Duration;

use federator_tests::agent_log::Mark;
use federator_tests::patience::until;
use federator_tests::rest;
use federator_tests::rig::{READY, ROWS, Rig, assert_nothing_lost};
use federator_tests::rows;
use federator_tests::store::Store;
use lab::layout::REST_PORT;
use lab::ledger::Writer;
use lab::prober::Prober;
use node_agent_core::rule::Rule;
use node_agent_wire::keys::Leaf;
use node_agent_wire::status::{Failover, SyncState};
use serde_json::json;

/// REST answers when the switchover is done.
const ANSWER: Duration = Duration::from_secs(60);

struct Scene {
    rig: Rig,
    leader: String,
    candidate: String,
    writer: Writer,
    prober: Prober,
    mark: Mark,
}

impl Scene {
    async fn set(test: &'static str) -> Self {
        let rig = Rig::start(test, "three-nodes.yaml");
        let leader = rig.complete("dc1");
        let writer = rig.writer("before").await;
        let prober = rig.prober().await;
        rig.rows(&writer, 300).await;
        let store = Store::of(&rig.lab, "dc1").await;
        let candidate = until("a synchronous standby", ROWS, async || {
            let (text, _) = store.get(Leaf::Sync).await.ok_or("no key sync")?;
            let sync = SyncState::parse(text.as_bytes());
            let standby = sync.sync_standby.first().map(ToString::to_string);
            standby.ok_or_else(|| format!("sync: {text}"))
        })
        .await;
        let mark = Mark::now(&rig.lab);
        writer.phase("switchover");
        Self { rig, leader, candidate, writer, prober, mark }
    }

    /// Waits until the candidate leads and everybody follows, and gives the verdict.
    async fn end(self) {
        let Self { rig, leader, candidate, writer, prober, mark } = self;
        assert_eq!(rig.successor_of(&leader).await, candidate, "another node became primary");
        let store = Store::of(&rig.lab, "dc1").await;
        until("the request to be cleared", ROWS, async || match store.get(Leaf::Failover).await {
            Some((text, _)) if !Failover::parse(text.as_bytes()).is_empty() => Err(text),
            Some(_) | None => Ok(()),
        })
        .await;
        rig.rows(&writer, 200).await;
        writer.phase("after");
        assert_eq!(rig.complete("dc1"), candidate);
        rig.rows(&writer, 200).await;
        let ledger = writer.stop().await;
        let record = prober.stop();
        let audit = rig.audit(&ledger).await;
        assert_nothing_lost(&audit);
        rig.assert_one_primary(&record);
        for rule in [Rule::Rewind, Rule::Clone] {
            let lines = mark.decided(&rig.lab, rule);
            assert!(lines.is_empty(), "the former primary did not just follow: {lines:#?}");
        }
        rows::wait_identical(&rig.access, READY).await;
        let pause = audit.longest_pause.as_millis();
        println!("switchover inside a datacenter: longest write pause {pause} ms");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_switchover_by_rest_loses_nothing() {
    let scene = Scene::set("switchover-rest").await;
    let address = scene.rig.lab.layout.host(&scene.leader).unwrap().at(REST_PORT);
    let body = json!({"leader": scene.leader, "candidate": scene.candidate}).to_string();
    let answer = rest::request(address, "POST", "/switchover", &body, ANSWER).await.unwrap();
    let wanted = format!("Successfully switched over to \"{}\"", scene.candidate);
    assert_eq!((answer.status, answer.body.as_str()), (200, wanted.as_str()));
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_switchover_by_the_key_loses_nothing() {
    let scene = Scene::set("switchover-key").await;
    let store = Store::of(&scene.rig.lab, "dc1").await;
    let asked = json!({"leader": scene.leader, "member": scene.candidate}).to_string();
    store.put(Leaf::Failover, &asked).await;
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_switchover_that_cannot_be_is_refused() {
    let rig = Rig::start("switchover-refused", "three-nodes.yaml");
    let leader = rig.complete("dc1");
    let writer = rig.writer("before").await;
    rig.rows(&writer, 100).await;
    let address = rig.lab.layout.host(&leader).unwrap().at(REST_PORT);
    let ask = async |body: serde_json::Value| {
        rest::request(address, "POST", "/switchover", &body.to_string(), ANSWER).await.unwrap()
    };
    let stranger = ask(json!({"leader": leader, "candidate": "nobody"})).await;
    assert_eq!(stranger.status, 412, "{stranger:?}");
    let impostor = ask(json!({"leader": "nobody"})).await;
    assert_eq!(impostor.status, 412, "{impostor:?}");
    rig.rows(&writer, 100).await;
    assert_eq!(rig.complete("dc1"), leader, "the leader is who it was");
    assert_nothing_lost(&rig.audit(&writer.stop().await).await);
}
