//! Goal: whatever part of the network around a primary is lost, in one direction or both, while its
//! clients stay connected, no two nodes ever accept writes at once and no acknowledged row is lost.
//! Method: three nodes under load, each host in a network namespace of its own, every node probed
//! every 20 ms past the cuts. The primary is cut from etcd, from the other nodes, and from both;
//! one lab for all cuts that make another node primary, one for those that must not.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Arc;
use std::time::Instant;

use federator_tests::isolation;
use federator_tests::patience::until;
use federator_tests::rig::{ROWS, Rig};
use federator_tests::rows;
use federator_tests::scene::{Scene, assert_in_turn};
use federator_tests::store::Store;
use lab::namespaces::Namespaces;
use node_agent_wire::keys::Leaf;
use node_agent_wire::position::Position;

const TOPOLOGY: &str = "
name: cut
settings: {ttl: 5, loop_wait: 1, retry_timeout: 1, synchronous_mode: true}
datacenters:
  dc1: {etcd: 1, nodes: [pg1, pg2, pg3]}
";

/// Which packets between the primary and some other hosts are lost.
#[derive(Clone, Copy, PartialEq)]
enum Lost {
    Nothing,
    FromPrimary,
    ToPrimary,
    Both,
}

struct Cut {
    what: &'static str,
    etcd: Lost,
    peers: Lost,
}

const NEW_PRIMARY: [Cut; 4] = [
    Cut { what: "primary cut from etcd and peers", etcd: Lost::Both, peers: Lost::Both },
    Cut { what: "primary cut from etcd", etcd: Lost::Both, peers: Lost::Nothing },
    Cut { what: "requests to etcd lost", etcd: Lost::FromPrimary, peers: Lost::Nothing },
    Cut { what: "answers of etcd lost", etcd: Lost::ToPrimary, peers: Lost::Nothing },
];
const SAME_PRIMARY: [Cut; 3] = [
    Cut { what: "primary cut from peers", etcd: Lost::Nothing, peers: Lost::Both },
    Cut { what: "packets to peers lost", etcd: Lost::Nothing, peers: Lost::FromPrimary },
    Cut { what: "packets of peers lost", etcd: Lost::Nothing, peers: Lost::ToPrimary },
];

impl Cut {
    /// The pairs of hosts (from, to) whose packets are lost.
    fn pairs(&self, scene: &Scene) -> Vec<(String, String)> {
        let me = &scene.primary;
        let others = scene.rig.lab.layout.hosts.iter().filter(|host| host.name != *me);
        others
            .flat_map(|host| {
                let lost = if host.is_node() { self.peers } else { self.etcd };
                let from = (me.clone(), host.name.clone());
                let to = (host.name.clone(), me.clone());
                match lost {
                    Lost::Nothing => vec![],
                    Lost::FromPrimary => vec![from],
                    Lost::ToPrimary => vec![to],
                    Lost::Both => vec![from, to],
                }
            })
            .collect()
    }

    fn make(&self, scene: &Scene, network: &Namespaces) {
        scene.rig.say(&format!("cut: {}", self.what));
        for (from, to) in self.pairs(scene) {
            network.cut(&from, &to).unwrap();
        }
    }

    fn heal(&self, scene: &Scene, network: &Namespaces) {
        scene.rig.say(&format!("healed: {}", self.what));
        for (from, to) in self.pairs(scene) {
            network.heal(&from, &to).unwrap();
        }
    }
}

async fn scene(test: &'static str, network: &Arc<Namespaces>) -> Scene {
    Scene::set(Rig::start_isolated(test, TOPOLOGY, network)).await
}

#[test]
fn a_primary_cut_from_etcd_stops_before_another_one_begins() {
    isolation::run(async |network| {
        let mut scene = scene("cut-etcd", &network).await;
        for cut in &NEW_PRIMARY {
            let (fault, former) = (Instant::now(), scene.primary.clone());
            cut.make(&scene, &network);
            let role = "SELECT pg_is_in_recovery()::text";
            let role = rows::value(&scene.rig.access, &scene.rig.node(&former), role).await;
            assert_eq!(role.as_deref(), Ok("false"), "clients reach the primary that is cut off");
            let successor = scene.rig.successor_of(&former).await;
            scene.rig.rows(&scene.writer, 100).await;
            assert_in_turn(&scene.prober.snapshot(), &former, &successor, fault);
            cut.heal(&scene, &network);
            scene.recover().await;
            // It is named again only after a switchover or another fault.
            assert_eq!(scene.primary, successor, "the former primary stays a standby");
        }
        scene.end().await;
    });
}

#[test]
fn a_primary_cut_from_the_other_nodes_stays_the_only_one() {
    isolation::run(async |network| {
        let mut scene = scene("cut-peers", &network).await;
        let store = Store::of(&scene.rig.lab, "dc1").await;
        for cut in &SAME_PRIMARY {
            let (fault, primary) = (Instant::now(), scene.primary.clone());
            let before = beat(&store).await.unwrap();
            cut.make(&scene, &network);
            until("beats of the primary beyond the TTL", ROWS, async || {
                let now = beat(&store).await?;
                let lived_ms = now.at_us.saturating_sub(before.at_us) / 1000;
                let beyond = u64::try_from(lived_ms).is_ok_and(|ms| ms > before.ttl_ms + 2000);
                if beyond { Ok(()) } else { Err(format!("{now:?}")) }
            })
            .await;
            cut.heal(&scene, &network);
            scene.recover().await;
            assert_eq!(scene.primary, primary, "no failover: {}", cut.what);
            for node in scene.rig.nodes_of("dc1").iter().filter(|name| **name != primary) {
                let wrote = scene.prober.snapshot().accepted_since(node, fault);
                assert!(wrote.is_empty(), "{node} accepted writes: {}", cut.what);
            }
        }
        scene.end().await;
    });
}

async fn beat(store: &Store) -> Result<Position, String> {
    let (text, _) = store.get(Leaf::Position).await.ok_or("no position")?;
    serde_json::from_str(&text).map_err(|error| error.to_string())
}
