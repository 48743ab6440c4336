//! Goal: synchronous mode loses nothing that was acknowledged, whatever is killed between any two
//! steps: an acknowledged commit is on everyone whom `/sync` names.
//!
//! Method: three nodes with a list of commits each, `/sync` with its revision, and agents that
//! observe, decide (the real function) and act at different moments. Random histories of commits,
//! replication, broken links, killed agents, stale decisions, crashes and takeovers. PostgreSQL is
//! modelled as its manual says (section 26.2.8): a commit is acknowledged when every standby in
//! `synchronous_standby_names` has flushed it.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test ends where a fact is missing")]

mod support;

use node_agent_core::decide;
use node_agent_core::decision::{Act, Tend};
use node_agent_core::observed::{Keyed, Observed};
use node_agent_core::postgres::{Postgres, Running};
use node_agent_wire::dynamic::Dynamic;
use node_agent_wire::status::SyncState;
use node_agent_wire::{Lsn, MemberName, Revision};
use proptest::prelude::*;
use std::collections::BTreeSet;
use support::healthy::{cluster, dcs, sender, standby};

const NODES: [&str; 3] = ["pg1", "pg2", "pg3"];

#[derive(Clone, Debug)]
enum Event {
    Commit,
    /// The standby receives up to so many commits.
    Replicate(usize, usize),
    Connect(usize),
    Disconnect(usize),
    /// The leader's agent does all of the following three, undisturbed.
    Pass,
    /// The agent observes and decides.
    Decide(usize),
    /// The agent carries out what it decided, perhaps long ago.
    Apply(usize),
    /// The names are in force everywhere, and the end of WAL is read.
    Measure(usize),
    KillAgent(usize),
    /// The primary dies, and this node takes the leader key if it may.
    TakeOver(usize),
    /// PostgreSQL of the primary crashes and is started in place.
    Crash,
    Configure {
        on: bool,
        strict: bool,
        count: u32,
    },
}

/// What an agent has decided and not carried out yet.
#[derive(Clone, Debug)]
enum Plan {
    Write(SyncState, Revision),
    Delete(Revision),
    Names(String),
    Promote,
}

#[derive(Clone, Debug, Default)]
struct Node {
    /// Commits by number; the position of WAL is their count.
    wal: Vec<u32>,
    connected: bool,
    names: String,
    names_set_at: Option<Lsn>,
    /// The names were changed, the position was not read yet.
    measuring: bool,
    plan: Option<Plan>,
}

struct World {
    nodes: [Node; 3],
    leader: usize,
    /// The leader accepts writes.
    primary: bool,
    sync: SyncState,
    revision: i64,
    acknowledged: BTreeSet<u32>,
    commits: u32,
    config: Dynamic,
}

fn config(on: bool, strict: bool, count: u32) -> Dynamic {
    let json = serde_json::json!({
        "synchronous_mode": on, "synchronous_mode_strict": strict, "synchronous_node_count": count,
    });
    Dynamic::read(json.as_object().unwrap())
}

fn end(node: &Node) -> Lsn {
    Lsn(u64::try_from(node.wal.len()).unwrap())
}

/// The standbys that PostgreSQL waits for; `None`: any one of them.
fn waited_for(names: &str) -> Option<BTreeSet<&str>> {
    (names != "*")
        .then(|| NODES.into_iter().filter(|n| names.contains(&format!("\"{n}\""))).collect())
}

impl World {
    fn new() -> Self {
        let connected = Node { connected: true, ..Node::default() };
        Self {
            nodes: [Node::default(), connected.clone(), connected],
            leader: 0,
            primary: true,
            sync: SyncState::default(),
            revision: 1,
            acknowledged: BTreeSet::new(),
            commits: 0,
            config: config(true, false, 1),
        }
    }

    fn run(&mut self, event: &Event) {
        match *event {
            Event::Commit if self.primary => {
                self.commits += 1;
                self.nodes[self.leader].wal.push(self.commits);
            }
            Event::Replicate(node, count) if self.nodes[node].connected => {
                let from = self.nodes[node].wal.len();
                let wal = &self.nodes[self.leader].wal;
                let more: Vec<u32> = wal.iter().skip(from).take(count).copied().collect();
                self.nodes[node].wal.extend(more);
            }
            Event::Connect(node) if node != self.leader => self.connect(node),
            Event::Disconnect(node) => self.nodes[node].connected = false,
            Event::Pass => {
                let leader = self.leader;
                for step in [Event::Decide(leader), Event::Apply(leader), Event::Measure(leader)] {
                    self.run(&step);
                }
            }
            Event::Decide(node) if node == self.leader => {
                self.nodes[node].plan = self.decide(node);
            }
            Event::Apply(node) => self.apply(node),
            Event::Measure(node) if self.nodes[node].measuring => {
                self.nodes[node].measuring = false;
                self.nodes[node].names_set_at = Some(end(&self.nodes[node]));
            }
            Event::KillAgent(node) => {
                let node = &mut self.nodes[node];
                (node.plan, node.names_set_at, node.measuring) = (None, None, false);
            }
            Event::TakeOver(node) if node != self.leader => self.take_over(node),
            Event::Crash => {
                for node in &mut self.nodes {
                    node.connected = false;
                }
            }
            Event::Configure { on, strict, count } => self.config = config(on, strict, count),
            Event::Commit
            | Event::Replicate(..)
            | Event::Connect(_)
            | Event::Decide(_)
            | Event::Measure(_)
            | Event::TakeOver(_) => {}
        }
        self.acknowledge();
        self.check();
    }

    /// A standby that has left the leader's history is rewound first.
    fn connect(&mut self, node: usize) {
        let common = self.nodes[node]
            .wal
            .iter()
            .zip(&self.nodes[self.leader].wal)
            .take_while(|(a, b)| a == b)
            .count();
        self.nodes[node].wal.truncate(common);
        self.nodes[node].connected = true;
    }

    fn take_over(&mut self, node: usize) {
        let name = MemberName::from(NODES[node]);
        if self.sync.active() && !self.sync.covers(&name) {
            return;
        }
        if !self.sync.active() {
            // Asynchronous: a takeover may lose what only the former primary had.
            let wal = self.nodes[node].wal.clone();
            self.acknowledged.retain(|commit| wal.contains(commit));
        }
        for other in &mut self.nodes {
            other.connected = false;
        }
        (self.leader, self.primary) = (node, false);
    }

    fn decide(&self, node: usize) -> Option<Plan> {
        let decision = decide(&self.observed(node));
        let tend = decision.tend.into_iter().find_map(|tend| match tend {
            Tend::WriteSync { sync, over } => Some(Plan::Write(sync, over)),
            Tend::DeleteSync(over) => Some(Plan::Delete(over)),
            Tend::SetSyncNames(names) => Some(Plan::Names(names)),
            Tend::ReplaceRecord { .. }
            | Tend::StartStandby(_)
            | Tend::Follow(_)
            | Tend::AskPeers
            | Tend::AskHistory(_)
            | Tend::Slot(_)
            | Tend::ClearFailover { .. }
            | Tend::PublishLeader
            | Tend::DropScheduledRestart(_)
            | Tend::EndUnattended
            | Tend::AskVotes { .. }
            | Tend::ReadWalEnd { .. }
            | Tend::DropRequest(_)
            | Tend::ApplySettings => None,
        });
        tend.or_else(|| matches!(decision.act, Some(Act::Promote(_))).then_some(Plan::Promote))
    }

    fn observed(&self, me: usize) -> Observed {
        let mut observed = cluster();
        observed.me.name = NODES[me].into();
        observed.config = self.config.clone();
        observed.sync_names_set_at = self.nodes[me].names_set_at;
        observed.sync_names_ours = true;
        let cluster = dcs(&mut observed);
        cluster.leader = Some(NODES[me].into());
        cluster.config = self.config.clone();
        cluster.sync = Keyed { value: self.sync.clone(), revision: Revision(self.revision) };
        let senders = (0..3).filter(|n| self.primary && self.nodes[*n].connected).map(|n| {
            let waited = waited_for(&self.nodes[me].names);
            let sync = waited.is_none_or(|names| names.contains(NODES[n]));
            let sync_state = if sync { "sync" } else { "async" }.to_owned();
            let flush_lsn = Some(end(&self.nodes[n]));
            node_agent_core::postgres::Walsender { sync_state, flush_lsn, ..sender(NODES[n]) }
        });
        observed.postgres = Postgres::Running(Box::new(Running {
            in_recovery: !self.primary,
            lsn: end(&self.nodes[me]),
            senders: senders.collect(),
            sync_names: self.nodes[me].names.clone(),
            ..standby()
        }));
        observed
    }

    /// The compare-and-set of `/sync` asks for the leader key, too.
    fn apply(&mut self, me: usize) {
        let holds = |over: Revision| over == Revision(self.revision) && me == self.leader;
        match self.nodes[me].plan.take() {
            Some(Plan::Write(sync, over)) if holds(over) => {
                self.revision += 1;
                self.sync = sync;
            }
            Some(Plan::Delete(over)) if holds(over) => {
                self.revision += 1;
                self.sync = SyncState::default();
            }
            Some(Plan::Names(names)) => {
                let node = &mut self.nodes[me];
                (node.names, node.names_set_at, node.measuring) = (names, None, true);
            }
            // The lease is exclusive: a promotion that is not the leader's own is stopped.
            Some(Plan::Promote) if me == self.leader => self.primary = true,
            Some(Plan::Write(..) | Plan::Delete(_) | Plan::Promote) | None => {}
        }
    }

    fn acknowledge(&mut self) {
        if !self.primary {
            return;
        }
        let node = &self.nodes[self.leader];
        let flushed = |n: usize, at: usize| self.nodes[n].connected && self.nodes[n].wal.len() > at;
        for (at, commit) in node.wal.iter().enumerate() {
            let done = match waited_for(&node.names) {
                Some(names) => (0..3).filter(|n| names.contains(NODES[*n])).all(|n| flushed(n, at)),
                None => (0..3).any(|n| n != self.leader && flushed(n, at)),
            };
            if done {
                self.acknowledged.insert(*commit);
            }
        }
    }

    fn check(&self) {
        for (n, name) in NODES.iter().enumerate() {
            if self.sync.covers(&MemberName::from(*name)) {
                let wal: BTreeSet<u32> = self.nodes[n].wal.iter().copied().collect();
                let missing: Vec<&u32> = self.acknowledged.difference(&wal).collect();
                assert!(missing.is_empty(), "{name} is in /sync and lacks {missing:?}");
            }
        }
        let leads = self.sync.leader.as_ref().is_some_and(|l| l.as_str() == NODES[self.leader]);
        if self.primary && leads {
            let waited = waited_for(&self.nodes[self.leader].names).unwrap_or_default();
            for standby in &self.sync.sync_standby {
                assert!(waited.contains(standby.as_str()), "{standby} is not waited for");
            }
        }
    }
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        6 => Just(Event::Commit),
        10 => (0_usize..3, 1_usize..6).prop_map(|(n, count)| Event::Replicate(n, count)),
        4 => (0_usize..3).prop_map(Event::Connect),
        2 => (0_usize..3).prop_map(Event::Disconnect),
        10 => Just(Event::Pass),
        4 => (0_usize..3).prop_map(Event::Decide),
        4 => (0_usize..3).prop_map(Event::Apply),
        2 => (0_usize..3).prop_map(Event::Measure),
        1 => (0_usize..3).prop_map(Event::KillAgent),
        1 => (0_usize..3).prop_map(Event::TakeOver),
        1 => Just(Event::Crash),
        1 => (prop::bool::weighted(0.8), any::<bool>(), 1_u32..3)
            .prop_map(|(on, strict, count)| Event::Configure { on, strict, count }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig {
        // PROPTEST_CASES asks for more.
        cases: ProptestConfig::default().cases.max(200),
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn whoever_sync_names_has_every_acknowledged_commit(
        events in prop::collection::vec(event(), 1..250)
    ) {
        let mut world = World::new();
        for event in &events {
            world.run(event);
        }
    }
}

/// The histories are not empty: the steps lead to a named standby, a takeover and writes again.
#[test]
fn a_quiet_history_reaches_synchronous_replication_and_survives_a_takeover() {
    let mut world = World::new();
    let round = |world: &mut World, node: usize| {
        for _ in 0..8 {
            for event in [Event::Decide(node), Event::Apply(node), Event::Measure(node)] {
                world.run(&event);
            }
            for n in 0..3 {
                world.run(&Event::Replicate(n, 9));
            }
        }
    };
    round(&mut world, 0);
    assert_eq!(world.sync.sync_standby.len(), 1, "{:?}", world.sync);
    let heir = NODES.iter().position(|n| world.sync.sync_standby.contains(&(*n).into())).unwrap();
    world.run(&Event::Commit);
    assert!(world.acknowledged.is_empty(), "nobody has it but the primary");
    world.run(&Event::Replicate(heir, 9));
    assert_eq!(world.acknowledged.len(), 1);
    world.run(&Event::TakeOver(heir));
    round(&mut world, heir);
    assert!(world.primary && world.leader == heir);
    world.run(&Event::Connect(0));
    world.run(&Event::Commit);
    round(&mut world, heir);
    assert_eq!(world.acknowledged.len(), 2);
    assert_eq!(world.sync.leader, Some(NODES[heir].into()));
    assert_eq!(world.sync.sync_standby, [MemberName::from("pg1")].into());
}
