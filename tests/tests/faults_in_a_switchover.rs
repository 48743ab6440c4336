//! Goal: a switchover between datacenters survives what happens beside it at each of its steps: the
//! agent of the former primary is killed, a leader of etcd is killed, the former or the new primary
//! datacenter loses its leader's host and elects another one. `resume` ends it, or before the
//! commit `abort` turns it back; never do two nodes accept writes, and no acknowledged row is lost.
//! Method: the command is killed behind a step, the fault happens, and the command that goes on is
//! typed at once, while the fault lasts. What was struck comes back only afterwards, or when that
//! command has given up. One federation under load for each fault and each side of the commit; the
//! datacenters change places.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::Duration;

use federator_core::planner::switchover;
use federator_tests::boundary::{Boundary, Side};
use federator_tests::etcd;
use federator_tests::federator::exit;
use federator_tests::patience::until;
use federator_tests::rig::{READY, Rig, assert_nothing_lost};
use federator_tests::rows;
use federator_tests::store::Store;
use lab::Part;
use lab::ledger::Writer;
use lab::prober::Prober;
use node_agent_wire::DcName;
use node_agent_wire::keys::Leaf;
use rustix::process::Signal;
use serde_json::Value;

/// Rows that must be acknowledged before a round may end.
const ROWS_AFTER: u64 = 20;
/// How long `resume` and `abort` may be typed until one of them has ended the operation.
const OVER: Duration = Duration::from_secs(150);
/// What they say when there is nothing for them.
const NOTHING_OPEN: &str = "Nothing to do: no operation is in progress";

/// What happens behind a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    /// The leader's agent in the former primary datacenter is killed.
    Agent,
    /// The leader of etcd is killed, in turns of one datacenter and of the other.
    Etcd,
    /// The host of the leader loses its power, in the datacenter that gives the role up.
    Source,
    /// The same in the one that gets it.
    Target,
}

impl Fault {
    /// Two datacenters; etcd of three where a member of it is killed.
    fn topology(self) -> String {
        let members = if self == Self::Etcd { 3 } else { 1 };
        format!(
            "
name: shop
network: 127.20
settings: {{ttl: 5, loop_wait: 1, retry_timeout: 1, synchronous_mode: true}}
datacenters:
  dc1: {{etcd: {members}, nodes: [pg1, pg2]}}
  dc2: {{etcd: {members}, nodes: [pg1, pg2]}}
"
        )
    }
}

/// On which side of the commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Half {
    BeforeCommit,
    PastCommit,
}

struct Scene {
    rig: Rig,
    writer: Writer,
    prober: Prober,
    primary: String,
    standby: String,
    rounds: usize,
}

impl Scene {
    async fn set(test: &'static str, fault: Fault) -> Self {
        let rig = Rig::start_with(test, &fault.topology());
        rig.federate().await;
        let writer = rig.writer("before").await;
        let prober = rig.prober().await;
        let (primary, standby) = ("dc1".to_owned(), "dc2".to_owned());
        Self { rig, writer, prober, primary, standby, rounds: 0 }
    }

    /// The operation could begin, and a standby of the primary could take its place: before that
    /// the loss of its host would leave the datacenter without a leader, by right.
    async fn ready(&self) {
        self.rig.settled(&self.primary).await;
        let store = Store::of(&self.rig.lab, &self.primary).await;
        until("/sync of the primary datacenter to name a standby", READY, async || {
            let (text, _) = store.get(Leaf::Sync).await.ok_or("there is no /sync")?;
            let sync: Value = serde_json::from_str(&text).map_err(|error| error.to_string())?;
            let named = sync["sync_standby"].as_str().is_some_and(|names| !names.is_empty());
            if named { Ok(()) } else { Err(text) }
        })
        .await;
        let words = ["switchover", "--to", &self.standby, "--dry-run"];
        until("the switchover to be possible", READY, async || {
            let done = self.rig.federator_quiet(&words).await;
            if done.code == Some(exit::DONE) { Ok(()) } else { Err(done.to_string()) }
        })
        .await;
    }

    /// Lets it happen; returns the datacenter in which something is missing now.
    async fn strike(&self, fault: Fault) -> String {
        let in_turns = if self.rounds.is_multiple_of(2) { &self.primary } else { &self.standby };
        let dc = match fault {
            Fault::Agent | Fault::Source => &self.primary,
            Fault::Etcd => in_turns,
            Fault::Target => &self.standby,
        };
        match fault {
            Fault::Agent => {
                let leader = self.leader(dc).await;
                let _ = self.rig.signal(&leader, Part::Agent, Signal::KILL);
            }
            Fault::Etcd => {
                let leader = etcd::leader(&self.rig, Some(dc), None).await;
                self.rig.kill_host(&leader);
            }
            Fault::Source | Fault::Target => {
                let leader = self.leader(dc).await;
                self.rig.kill_host(&leader);
            }
        }
        dc.clone()
    }

    async fn leader(&self, dc: &str) -> String {
        let store = Store::of(&self.rig.lab, dc).await;
        until(&format!("a leader of {dc}"), READY, async || {
            let found = store.get(Leaf::Leader).await;
            found.map(|(name, _)| name).ok_or_else(|| "nobody leads".to_owned())
        })
        .await
    }

    /// Types the command until the operation is over. One that gives up says that it stays open;
    /// then what is missing comes back first.
    async fn mend(&self, word: &str, struck: &str) {
        until(&format!("the end of the operation by {word}"), OVER, async || {
            let done = self.rig.federator(&[word, "--yes"]).await;
            match done.code {
                Some(exit::DONE | exit::ABORTED) => Ok(()),
                Some(_) | None => {
                    self.rig.start_dc(struck);
                    Err(done.to_string())
                }
            }
        })
        .await;
    }

    async fn round(&mut self, fault: Fault, at: Boundary) {
        self.ready().await;
        // In turns back and forth, as far as there is a way back; not for all faults the same turn.
        let turn = self.rounds + usize::from(matches!(fault, Fault::Agent | Fault::Etcd));
        let word = if !at.committed && turn % 2 == 1 { "abort" } else { "resume" };
        self.writer.phase(&format!("{fault:?} at {}, {word}", at.name()));
        let command = ["switchover", "--to", &self.standby, "--yes"];
        self.rig.federator_crashing(&command, &at.name()).await;
        let struck = self.strike(fault).await;
        self.mend(word, &struck).await;
        let again = self.rig.federator_quiet(&["resume", "--yes"]).await.expect(exit::DONE);
        assert!(again.stdout.contains(NOTHING_OPEN), "{again}");
        self.rig.start_dc(&struck);
        // A resume before the commit may have turned it back, where a deadline passed.
        let record = Store::of(&self.rig.lab, &self.standby).await.record().await;
        let moved = record.primary.as_str() == self.standby;
        assert!(moved || !at.committed, "turned back past the commit: {record:?}");
        assert!(!moved || word == "resume", "an abort that went on: {record:?}");
        if moved {
            std::mem::swap(&mut self.primary, &mut self.standby);
        }
        self.rig.settled(&self.primary).await;
        self.rig.rows(&self.writer, ROWS_AFTER).await;
        self.rounds += 1;
    }

    async fn end(self) {
        for dc in [&self.primary, &self.standby] {
            let _ = self.rig.complete(dc);
        }
        let ledger = self.writer.stop().await;
        let record = self.prober.stop();
        assert_nothing_lost(&self.rig.audit(&ledger).await);
        self.rig.assert_one_primary(&record);
        rows::wait_identical(&self.rig.access, READY).await;
    }
}

/// One round behind each step of that side of the commit.
async fn each_step(test: &'static str, fault: Fault, half: Half) {
    let mut scene = Scene::set(test, fault).await;
    let steps = switchover::steps(&DcName::new("dc1"), &DcName::new("dc2"), true);
    let behind = Boundary::all(&steps).into_iter().filter(|at| {
        at.side == Side::After && at.open && at.committed == (half == Half::PastCommit)
    });
    for at in behind {
        Box::pin(scene.round(fault, at)).await;
    }
    let least = match half {
        Half::BeforeCommit => 5,
        Half::PastCommit => 4,
    };
    assert!(scene.rounds >= least, "{} rounds", scene.rounds);
    scene.end().await;
}

macro_rules! tests {
    ($($name:ident: $lab:literal, $fault:ident, $half:ident;)*) => {$(
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $name() {
            each_step($lab, Fault::$fault, Half::$half).await;
        }
    )*};
}

tests! {
    the_agent_of_the_source_before_the_commit: "faults-agent-1", Agent, BeforeCommit;
    the_agent_of_the_source_past_the_commit: "faults-agent-2", Agent, PastCommit;
    a_leader_of_etcd_before_the_commit: "faults-etcd-1", Etcd, BeforeCommit;
    a_leader_of_etcd_past_the_commit: "faults-etcd-2", Etcd, PastCommit;
    a_failover_in_the_source_before_the_commit: "faults-source-1", Source, BeforeCommit;
    a_failover_in_the_source_past_the_commit: "faults-source-2", Source, PastCommit;
    a_failover_in_the_target_before_the_commit: "faults-target-1", Target, BeforeCommit;
    a_failover_in_the_target_past_the_commit: "faults-target-2", Target, PastCommit;
}
