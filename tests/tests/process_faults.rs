//! Goal: whatever happens to the processes of a primary's host or to etcd, no two nodes ever accept
//! writes at once, and no acknowledged row is lost.
//! Method: three nodes and three etcd members under load, every node probed every 20 ms; one fault
//! after the other in the same lab, each healed before the next. What happens to an agent or a
//! guard alone is in `agent_faults`.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::{Duration, Instant};

use federator_tests::etcd;
use federator_tests::patience::until;
use federator_tests::rig::{ROWS, Rig};
use federator_tests::scene::{Scene, assert_in_turn};
use lab::Part;
use rustix::process::Signal;

const TOPOLOGY: &str = "
name: faults
settings: {ttl: 5, loop_wait: 1, retry_timeout: 1, synchronous_mode: true}
datacenters:
  dc1: {etcd: 3, nodes: [pg1, pg2, pg3]}
";
/// Longer than the TTL, so that whoever waits for it to pass acts within.
const HOLD: Duration = Duration::from_secs(8);

/// What is done to the primary's processes. Those that are stopped go on when another node is
/// primary, or else after [`HOLD`].
struct Fault {
    what: &'static str,
    parts: &'static [Part],
    signal: Signal,
    /// Another node must take over.
    new_primary: bool,
}

const FAULTS: [Fault; 5] = [
    Fault {
        what: "postmaster killed",
        parts: &[Part::Postmaster],
        signal: Signal::KILL,
        new_primary: false,
    },
    Fault {
        what: "postmaster stopped",
        parts: &[Part::Postmaster],
        signal: Signal::STOP,
        new_primary: false,
    },
    Fault {
        what: "guard stopped",
        parts: &[Part::Guard],
        signal: Signal::STOP,
        new_primary: false,
    },
    Fault {
        what: "agent and guard killed",
        parts: &[Part::Agent, Part::Guard],
        signal: Signal::KILL,
        new_primary: true,
    },
    Fault {
        what: "agent and guard stopped",
        parts: &[Part::Agent, Part::Guard],
        signal: Signal::STOP,
        new_primary: true,
    },
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_fault_of_a_primarys_processes_makes_a_second_one() {
    let mut scene = Scene::set(Rig::start_with("process-faults", TOPOLOGY)).await;
    for fault in &FAULTS {
        scene.rig.say(&format!("fault: {}", fault.what));
        let (since, former) = (Instant::now(), scene.primary.clone());
        for part in fault.parts {
            scene.rig.signal(&former, *part, fault.signal);
        }
        let next = taken_over(&scene, &former, fault).await;
        if fault.signal == Signal::STOP {
            for part in fault.parts {
                // One that its end has reached meanwhile has nothing to go on with.
                let _ = scene.rig.lab.signal(&former, *part, Signal::CONT);
            }
        }
        if let Some(successor) = next {
            scene.rig.rows(&scene.writer, 50).await;
            assert_in_turn(&scene.prober.snapshot(), &former, &successor, since);
        }
        scene.recover().await;
    }
    let (since, former) = (Instant::now(), scene.primary.clone());
    scene.rig.act("everything on the primary's host stops", |lab| lab.freeze_host(&former));
    let successor = scene.rig.successor_of(&former).await;
    scene.rig.rows(&scene.writer, 50).await;
    scene.rig.act("everything goes on, PostgreSQL first", |lab| lab.thaw_host(&former));
    scene.rig.rows(&scene.writer, 50).await;
    assert_in_turn(&scene.prober.snapshot(), &former, &successor, since);
    scene.end().await;
}

/// Who is primary instead of `former`. `None` when nobody must be: at once where the host heals
/// itself, after [`HOLD`] where it waits for us.
async fn taken_over(scene: &Scene, former: &str, fault: &Fault) -> Option<String> {
    if fault.new_primary {
        return Some(scene.rig.successor_of(former).await);
    }
    if fault.signal == Signal::KILL {
        return None;
    }
    tokio::time::timeout(HOLD, scene.rig.successor_of(former)).await.ok()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_fault_of_etcd_makes_a_second_primary() {
    let mut scene = Scene::set(Rig::start_with("etcd-faults", TOPOLOGY)).await;
    for signal in [Signal::KILL, Signal::STOP] {
        let former = scene.primary.clone();
        let leader = etcd::leader(&scene.rig, None, None).await;
        scene.rig.signal(&leader, Part::Etcd, signal);
        let next = etcd::leader(&scene.rig, None, Some(&leader)).await;
        scene.rig.say(&format!("etcd is led by {next} now"));
        scene.rig.rows(&scene.writer, 100).await;
        if signal == Signal::STOP {
            scene.rig.signal(&leader, Part::Etcd, Signal::CONT);
        }
        scene.recover().await;
        assert_eq!(scene.primary, former, "a new leader of etcd is no reason for a failover");
    }
    let members: Vec<String> =
        etcd::members(&scene.rig, None).map(|host| host.name.clone()).collect();
    let since = Instant::now();
    for member in &members {
        scene.rig.kill_host(member);
    }
    until("the end of writes without etcd", ROWS, async || {
        let record = scene.prober.snapshot();
        let quiet = Instant::now().checked_sub(Duration::from_secs(2)).unwrap();
        let nodes = record.summary();
        if quiet > since && nodes.iter().all(|node| node.last < quiet) {
            return Ok(());
        }
        Err(format!("{nodes:?}"))
    })
    .await;
    scene.recover().await;
    scene.end().await;
}
