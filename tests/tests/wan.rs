//! Goal: over a WAN of 40 ms that loses packets, and whatever direction of it is cut and when,
//! there is never a second writer, no acknowledged row is lost but those that a promotion
//! announces, and one command brings the federation to the end that the target's record says.
//! Method: two datacenters in network namespaces, a router of ours between them; the federator
//! runs on a host of a datacenter and reaches the other one over the WAN only. Clients reach all
//! nodes past it: a writer, and a prober that tries every node every 20 ms. A switchover there and
//! back; the WAN cut at several moments of a switchover; the primary datacenter cut off while its
//! clients stay connected, replaced on the evidence that the policy asks for, and back again; each
//! direction cut alone.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Arc;
use std::time::Instant;

use federator_tests::federator::exit;
use federator_tests::isolation;
use federator_tests::patience::until;
use federator_tests::rig::{READY, ROWS, Rig, assert_nothing_lost};
use federator_tests::rows;
use federator_tests::scene::assert_in_turn;
use federator_tests::store::Store;
use lab::ledger::Writer;
use lab::namespaces::Namespaces;
use lab::prober::Prober;
use lab::wan::Wan;
use node_agent_wire::federation::Evidence;
use node_agent_wire::keys::Leaf;
use node_agent_wire::position::Position;
use node_agent_wire::{DcName, Lsn};
use serde_json::json;

const TOPOLOGY: &str = "
name: shop
wan: {rtt: 40ms, jitter: 2ms, loss: 0.5%, seed: 1}
settings: {ttl: 5, loop_wait: 1, retry_timeout: 1, synchronous_mode: true}
datacenters:
  dc1: {etcd: 1, nodes: [pg1, pg2]}
  dc2: {etcd: 1, nodes: [pg1]}
";
const SWITCHOVER: [&str; 4] = ["switchover", "--to", "dc2", "--yes"];
const RESUME: [&str; 4] = ["resume", "--yes", "--timeout", "10s"];
const POLICY: &str = "acknowledged or lease-expired or (fenced-by-hook and attested)";
/// What the agents may take to notice a cut: two leases.
const NOTICED_MS: i64 = 10_000;

/// A federation under load and watch.
struct Scene {
    rig: Rig,
    wan: Wan,
    writer: Writer,
    prober: Prober,
}

impl Scene {
    async fn set(test: &'static str, network: &Arc<Namespaces>, prepare: impl Fn(&Rig)) -> Self {
        let rig = Rig::start_isolated(test, TOPOLOGY, network);
        prepare(&rig);
        rig.federate().await;
        let writer = rig.writer("before").await;
        let prober = rig.prober().await;
        rig.rows(&writer, 100).await;
        let wan = rig.lab.wan().unwrap();
        Self { rig, wan, writer, prober }
    }

    fn cut(&self, phase: &str) {
        self.writer.phase(phase);
        self.rig.say(phase);
        self.wan.cut_both("dc1", "dc2").unwrap();
    }

    fn heal(&self, phase: &str) {
        self.wan.heal_all().unwrap();
        self.rig.say(phase);
        self.writer.phase(phase);
    }

    /// Nothing is lost, nobody wrote beside another one, and every node has the same rows.
    async fn end(self) {
        let Self { rig, wan, writer, prober } = self;
        rig.rows(&writer, 100).await;
        rig.say(&format!("the WAN: {:?}", wan.state().unwrap().directions));
        let ledger = writer.stop().await;
        rig.assert_one_primary(&prober.stop());
        assert_nothing_lost(&rig.audit(&ledger).await);
        rows::wait_identical(&rig.access, READY).await;
    }
}

#[test]
fn switchovers_over_a_slow_lossy_wan_lose_nothing() {
    isolation::run(async |network| {
        let scene = Scene::set("wan-switchover", &network, |_| {}).await;
        let rig = &scene.rig;
        for (from, to) in [("dc1", "dc2"), ("dc2", "dc1")] {
            scene.writer.phase(&format!("switchover to {to}"));
            let words = ["switchover", "--to", to, "--yes"];
            let beside = format!("{from}-pg1");
            let _ = rig.federator_beside(&beside, &words).await.expect(exit::DONE);
            rig.settled(to).await;
            rig.slots_right(to).await;
            rig.rows(&scene.writer, 100).await;
        }
        for way in scene.wan.state().unwrap().directions {
            assert!(way.counts.arrived > 0 && way.counts.lost > 0, "no loss at all: {way:?}");
        }
        scene.end().await;
    });
}

#[test]
fn a_switchover_whose_wan_is_cut_ends_where_the_targets_record_says() {
    isolation::run(async |network| {
        let scene = Scene::set("wan-cut", &network, |_| {}).await;
        let rig = &scene.rig;
        let dc2 = Store::of(&rig.lab, "dc2").await;

        // The former primary has stopped, and its word can't be read any more.
        rig.federator_crashing_beside("dc2-pg1", &SWITCHOVER, "catch-up:before").await;
        scene.cut("cut before the commit");
        let stuck = rig.federator_beside("dc2-pg1", &RESUME).await.expect(exit::PARTLY);
        assert!(stuck.stderr.contains("federator abort"), "it does not say what to do: {stuck}");
        let record = dc2.record().await;
        assert_eq!(record.primary.as_str(), "dc1", "committed without a word of dc1");
        assert!(record.operation.is_some(), "dc1 is fenced, and nothing says so: {record:?}");
        scene.heal("healed before the commit");
        let _ = rig.federator_beside("dc2-pg1", &RESUME).await.expect(exit::DONE);
        rig.settled("dc1").await;
        rig.rows(&scene.writer, 50).await;

        // The primary is still stopping.
        cut_while_it_stops(&scene, &dc2).await;

        // It is committed, and the former primary can't be told.
        rig.federator_crashing_beside("dc2-pg1", &SWITCHOVER, "commit:after").await;
        scene.cut("cut after the commit");
        let partly = rig.federator_beside("dc2-pg1", &RESUME).await.expect(exit::PARTLY);
        assert!(partly.stdout.contains("type: federator rejoin dc1"), "{partly}");
        rig.rows(&scene.writer, 50).await;
        scene.heal("healed after the commit");
        // The copy of the operation in dc1, if its agents have not cleared it.
        let _ = rig.federator_beside("dc2-pg1", &["resume", "--yes"]).await.expect(exit::DONE);
        let rejoin = ["rejoin", "dc1", "--yes"];
        let _ = rig.federator_beside("dc2-pg1", &rejoin).await.expect(exit::DONE);
        rig.settled("dc2").await;
        scene.end().await;
    });
}

/// The WAN is cut as soon as the fence of dc1 is there, while the switchover waits for the word of
/// its primary. It turns back, as far as it can; were the word faster than the cut, it goes on.
async fn cut_while_it_stops(scene: &Scene, dc2: &Store) {
    let rig = &scene.rig;
    let dc1 = Store::of(&rig.lab, "dc1").await;
    let words = [&SWITCHOVER[..], &["--timeout", "10s"]].concat();
    let command = rig.federator_beside("dc2-pg1", &words);
    let cut = async {
        until("the fence of dc1", ROWS, async || {
            if dc1.record().await.fence.is_some() { Ok(()) } else { Err("no fence".to_owned()) }
        })
        .await;
        scene.cut("cut while dc1 stops");
    };
    let (ended, ()) = tokio::join!(command, cut);
    let ended = ended.expect(exit::PARTLY);
    assert!(ended.said().contains("federator "), "it does not say what to do: {ended}");
    let committed = dc2.record().await.primary.as_str() == "dc2";
    scene.heal("healed while dc1 was stopping");
    let _ = rig.federator_beside("dc2-pg1", &["resume", "--yes"]).await.expect(exit::DONE);
    let primary = if committed { "dc2" } else { "dc1" };
    rig.settled(primary).await;
    rig.rows(&scene.writer, 50).await;
    if committed {
        rig.say("the word of dc1 was faster than the cut");
        let back = ["switchover", "--to", "dc1", "--yes"];
        let _ = rig.federator_beside("dc2-pg1", &back).await.expect(exit::DONE);
        rig.settled("dc1").await;
    }
}

/// A fencer that does what one of a real datacenter does, by a way of its own: it cuts the power.
fn agree(rig: &Rig) {
    let lab = rig.lab.software.program("lab");
    let dir = rig.lab.layout.dir.clone();
    rig.settings(|settings| {
        settings["policies"] = json!({"evidence": POLICY});
        settings["datacenters"]["dc1"]["fencer"] =
            json!({"command": [lab, "kill-dc", "dc1", "--dir", dir], "timeout": "20s"});
    });
}

#[test]
fn a_primary_datacenter_that_is_cut_off_is_replaced_on_evidence_and_rejoins() {
    isolation::run(async |network| {
        let scene = Scene::set("wan-promotion", &network, agree).await;
        let rig = &scene.rig;
        let former = rig.complete("dc1");
        let cut = cut_off(&scene, &former).await;

        let plain = ["promote", "dc2", "--by", "ann", "--confirm", "shop"];
        let refused = rig.federator_beside("dc2-pg1", &plain).await.expect(exit::REFUSED);
        assert!(refused.stderr.contains(POLICY), "{refused}");
        rig.rows(&scene.writer, 50).await;
        let attested = [&plain[..], &["--attest", "the fencer cuts its power"]].concat();
        let done = rig.federator_beside("dc2-pg1", &attested).await.expect(exit::DONE);
        let claim = Store::of(&rig.lab, "dc2").await.record().await.claim.unwrap();
        let names: Vec<&str> =
            claim.evidence.iter().chain(&claim.further_evidence).map(Evidence::name).collect();
        assert_eq!(names, ["fenced-by-hook", "attested"], "{done}");
        let fenced = matches!(&claim.evidence, Some(Evidence::FencedByHook { output })
            if output.contains("dc1: power cut"));
        assert!(fenced, "the fencer did nothing: {:?}", claim.evidence);
        scene.writer.phase("dc2 is primary");
        rig.rows(&scene.writer, 100).await;
        assert_in_turn(&scene.prober.snapshot(), &former, "dc2-pg1", cut);

        scene.heal("dc1 is back");
        rig.start_dc("dc1");
        let dc1 = Store::of(&rig.lab, "dc1").await;
        until("dc1's own knowledge that its epoch is over", READY, async || {
            let record = dc1.record().await;
            let over = record.primary == DcName::new("dc2") && record.fence.is_some();
            if over { Ok(()) } else { Err(format!("{record:?}")) }
        })
        .await;
        let rejoin = ["rejoin", "dc1", "--yes"];
        let _ = rig.federator_beside("dc2-pg1", &rejoin).await.expect(exit::DONE);
        rig.settled("dc2").await;
        rig.rows(&scene.writer, 100).await;
        end_with_the_loss_of_the_cut(scene).await;
    });
}

/// Cuts dc1 off once dc2 has every row of the phase before; dc1 goes on for its clients.
async fn cut_off(scene: &Scene, primary: &str) -> Instant {
    let rig = &scene.rig;
    scene.writer.phase("dc1 is cut off");
    rig.rows(&scene.writer, 50).await;
    let position = async |node: &str, sql: &str| {
        let value = rows::value(&rig.access, &rig.node(node), sql).await?;
        value.parse::<Lsn>().map_err(|error| error.to_string())
    };
    let now = "SELECT pg_current_wal_lsn()::text";
    let written = until("dc1's position", ROWS, async || position(primary, now).await).await;
    until("dc2 to replay what dc1 has written", ROWS, async || {
        let replayed = position("dc2-pg1", "SELECT pg_last_wal_replay_lsn()::text").await?;
        if replayed >= written { Ok(()) } else { Err(format!("{replayed}, not {written}")) }
    })
    .await;
    let cut = Instant::now();
    scene.wan.cut_both("dc1", "dc2").unwrap();
    rig.say("dc1 is cut off");
    rig.rows(&scene.writer, 100).await;
    cut
}

/// Lost is what dc1 acknowledged while it was cut off, and nothing else.
async fn end_with_the_loss_of_the_cut(scene: Scene) {
    let Scene { rig, writer, prober, .. } = scene;
    let ledger = writer.stop().await;
    rig.assert_one_primary(&prober.stop());
    let audit = rig.audit(&ledger).await;
    for phase in &audit.phases {
        let lost = phase.label == "dc1 is cut off";
        assert_eq!(!phase.lost.is_empty(), lost, "lost in \"{}\":\n{audit}", phase.label);
    }
    rows::wait_identical(&rig.access, READY).await;
}

#[test]
fn a_wan_cut_in_one_direction_changes_no_roles() {
    isolation::run(async |network| {
        let scene = Scene::set("wan-one-way", &network, |_| {}).await;
        let rig = &scene.rig;
        let dc1 = Store::of(&rig.lab, "dc1").await;
        for (from, to) in [("dc1", "dc2"), ("dc2", "dc1")] {
            let fault = Instant::now();
            let before = beat(&dc1).await.unwrap();
            let phase = format!("cut from {from} to {to}");
            scene.writer.phase(&phase);
            rig.say(&phase);
            scene.wan.cut(from, to).unwrap();
            rig.rows(&scene.writer, 100).await;
            until("beats of the primary beyond what a cut takes", ROWS, async || {
                let now = beat(&dc1).await?;
                let lived_ms = now.at_us.saturating_sub(before.at_us) / 1000;
                if lived_ms > NOTICED_MS { Ok(()) } else { Err(format!("{now:?}")) }
            })
            .await;
            rig.rows(&scene.writer, 50).await;
            let promote = ["promote", "dc2", "--confirm", "shop"];
            let refused = rig.federator_beside("dc2-pg1", &promote).await.expect(exit::REFUSED);
            assert!(refused.stderr.contains("nothing proves that dc1"), "{refused}");
            let refused = rig.federator_beside("dc1-pg1", &SWITCHOVER).await.expect(exit::FAILED);
            assert!(refused.stderr.contains("Nothing was changed."), "{refused}");
            scene.heal(&format!("healed from {from} to {to}"));
            rig.settled("dc1").await;
            rig.rows(&scene.writer, 50).await;
            let wrote = scene.prober.snapshot();
            let wrote = wrote.accepted_since("dc2-pg1", fault);
            assert!(wrote.is_empty(), "dc2-pg1 accepted {} writes: {phase}", wrote.len());
        }
        scene.end().await;
    });
}

async fn beat(store: &Store) -> Result<Position, String> {
    let (text, _) = store.get(Leaf::Position).await.ok_or("no position")?;
    serde_json::from_str(&text).map_err(|error| error.to_string())
}
