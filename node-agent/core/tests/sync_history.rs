//! Goal: synchronous mode, plain and by quorum, loses nothing that was acknowledged, whatever is
//! killed between any two steps: whoever takes the leader key has every acknowledged commit.
//!
//! Method: four nodes with a list of records and a timeline each, `/sync` with its revision, and
//! agents that observe, decide (the real function, also in the election) and act at different
//! moments. Random histories of commits, replication, broken links, killed agents, stale
//! decisions, crashes, elections among some of the members, and changes of the configuration.
//! PostgreSQL is modelled as its manual says (section 26.2.8): a commit is acknowledged when so
//! many of the standbys in `synchronous_standby_names` have flushed it as the value says. Two
//! promotions can make two timelines of the same number.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test ends where a fact is missing")]

#[path = "sync_history/event.rs"]
mod event;
#[path = "sync_history/guest.rs"]
mod guest;
mod support;

use event::{Event, Mode, event};
use guest::{GUEST, record_of};
use node_agent_core::decide;
use node_agent_core::decision::{Act, Tend};
use node_agent_core::observed::{Keyed, Lease, Observed, PeerAnswer, Poll, Standing};
use node_agent_core::postgres::{Postgres, Running};
use node_agent_core::waits::Waits;
use node_agent_wire::dynamic::Dynamic;
use node_agent_wire::history::{Ancestor, TimelineHistory};
use node_agent_wire::status::SyncState;
use node_agent_wire::{Lsn, MemberName, Revision, TimelineId};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use std::collections::BTreeSet;
use support::healthy::{cluster, dcs, member, sender, standby};

const NODES: [&str; 4] = ["pg1", "pg2", "pg3", "pg4"];

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
    /// Records by number; the position of WAL is their count.
    wal: Vec<u32>,
    timeline: u32,
    /// Where the timeline began.
    began: usize,
    connected: bool,
    names: String,
    names_set_at: Option<Lsn>,
    /// The names were changed, the position was not read yet.
    measuring: bool,
    plan: Option<Plan>,
}

struct World {
    nodes: [Node; 4],
    leader: usize,
    /// The leader accepts writes.
    primary: bool,
    sync: SyncState,
    revision: i64,
    acknowledged: BTreeSet<u32>,
    /// Records of promotions: nobody waits for them.
    own: BTreeSet<u32>,
    commits: u32,
    takeovers: u32,
    config: Dynamic,
    /// How much WAL the standby of another datacenter has; `None` while it is not connected.
    guest: Option<usize>,
    /// A switchover asks that commits wait for it.
    asked: bool,
    /// Commits that had to wait for it.
    hosted: u32,
}

fn config(mode: Mode, strict: bool, count: u32) -> Dynamic {
    let mode: serde_json::Value = match mode {
        Mode::Off => false.into(),
        Mode::On => true.into(),
        Mode::Quorum => "quorum".into(),
    };
    let json = serde_json::json!({
        "synchronous_mode": mode, "synchronous_mode_strict": strict,
        "synchronous_node_count": count,
        // How far behind a winner may be is another question.
        "maximum_lag_on_failover": u64::MAX,
    });
    Dynamic::read(json.as_object().unwrap())
}

/// Position 0 is no answer in an election.
fn position(records: usize) -> Lsn {
    Lsn(u64::try_from(records).unwrap() + 1)
}

fn end(node: &Node) -> Lsn {
    position(node.wal.len())
}

impl World {
    fn new() -> Self {
        let alone = Node { timeline: 1, ..Node::default() };
        let connected = Node { connected: true, ..alone.clone() };
        Self {
            nodes: [alone, connected.clone(), connected.clone(), connected],
            leader: 0,
            primary: true,
            sync: SyncState::default(),
            revision: 1,
            acknowledged: BTreeSet::new(),
            own: BTreeSet::new(),
            commits: 0,
            takeovers: 0,
            config: config(Mode::Quorum, false, 1),
            guest: None,
            asked: false,
            hosted: 0,
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
                self.enter_timeline(node);
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
            Event::TakeOver(node, reach) if node != self.leader => self.take_over(node, reach),
            Event::Crash => {
                self.guest = None;
                for node in &mut self.nodes {
                    node.connected = false;
                }
            }
            Event::Configure { mode, strict, count } => self.config = config(mode, strict, count),
            Event::Ask(asked) => self.asked = asked,
            Event::Guest(connected) => self.guest = (connected && self.primary).then_some(0),
            Event::ReplicateGuest(count) => {
                let end = self.nodes[self.leader].wal.len();
                self.guest = self.guest.map(|have| (have + count).min(end));
            }
            Event::Commit
            | Event::Replicate(..)
            | Event::Connect(_)
            | Event::Decide(_)
            | Event::Measure(_)
            | Event::TakeOver(..) => {}
        }
        self.acknowledge();
        self.check();
    }

    /// A standby that has left the leader's history is rewound first, which takes a primary: it is
    /// no standby again before it has all that the primary had then.
    fn connect(&mut self, node: usize) {
        let leader = &self.nodes[self.leader].wal;
        let diverged = !leader.starts_with(&self.nodes[node].wal);
        if diverged && !self.primary {
            return;
        }
        if diverged {
            self.nodes[node].wal = leader.clone();
        }
        self.nodes[node].connected = true;
        self.enter_timeline(node);
    }

    /// WAL beyond the point where the leader's timeline began is of that timeline.
    fn enter_timeline(&mut self, node: usize) {
        let (timeline, began) = (self.nodes[self.leader].timeline, self.nodes[self.leader].began);
        let reached = self.nodes[node].wal.len() > began;
        if self.primary && reached {
            (self.nodes[node].timeline, self.nodes[node].began) = (timeline, began);
        }
    }

    /// The election as it is decided, with the answers of those that can be asked.
    fn take_over(&mut self, node: usize, reach: u8) {
        let mut observed = self.observed(node);
        observed.lease = Lease::default();
        let answers = (0..NODES.len()).filter(|n| *n != node).map(|n| {
            let answer = if reach & (1 << n) == 0 || (n == self.leader && self.primary) {
                PeerAnswer::Silent
            } else {
                PeerAnswer::Answered(self.standing(n))
            };
            (NODES[n].into(), answer)
        });
        observed.poll = Some(Poll { asked_at: observed.now, answers: answers.collect() });
        let cluster = dcs(&mut observed);
        cluster.leader = None;
        cluster.members = NODES.map(member).map(|m| (m.name.clone(), m)).into();
        if let Postgres::Running(running) = &mut observed.postgres {
            running.in_recovery = true;
            running.senders = Vec::new();
        }
        if !matches!(decide(&observed).act, Some(Act::Acquire(_))) {
            return;
        }
        let wal = self.nodes[node].wal.clone();
        if !self.sync.active() {
            // Asynchronous: a takeover may lose what only the former primary had.
            self.acknowledged.retain(|commit| wal.contains(commit));
        }
        let missing: Vec<&u32> = self.acknowledged.iter().filter(|c| !wal.contains(c)).collect();
        assert!(missing.is_empty(), "{} leads and lacks {missing:?}", NODES[node]);
        for other in &mut self.nodes {
            other.connected = false;
        }
        (self.leader, self.primary, self.guest) = (node, false, None);
        self.takeovers += 1;
    }

    fn standing(&self, node: usize) -> Standing {
        Standing {
            in_recovery: true,
            lsn: end(&self.nodes[node]),
            whole: true,
            replayed: end(&self.nodes[node]),
            timeline: Some(TimelineId(self.nodes[node].timeline)),
            nofailover: false,
            failover_priority: 1,
            watchdog_failed: false,
            sees_primary: None,
        }
    }

    /// The first record of a new timeline is the promotion's own.
    fn promote(&mut self) {
        let node = &mut self.nodes[self.leader];
        (node.timeline, node.began) = (node.timeline + 1, node.wal.len());
        self.commits += 1;
        node.wal.push(self.commits);
        self.own.insert(self.commits);
        self.primary = true;
    }

    fn decide(&self, node: usize) -> Option<Plan> {
        let decision = decide(&self.observed(node));
        let tend = decision.tend.into_iter().find_map(|tend| match tend {
            Tend::WriteSync { sync, over } => Some(Plan::Write(sync, over)),
            Tend::DeleteSync(over) => Some(Plan::Delete(over)),
            Tend::SetSyncNames(names) => Some(Plan::Names(names)),
            Tend::ReplaceRecord { .. }
            | Tend::FollowDatacenter { .. }
            | Tend::StartStandby(_)
            | Tend::Follow(_)
            | Tend::AskPeers
            | Tend::AskHistory(_)
            | Tend::Slot(_)
            | Tend::CopySlots { .. }
            | Tend::AskSlots(_)
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
        observed.guest_asked_at = self.asked.then_some(observed.now);
        let cluster = dcs(&mut observed);
        cluster.leader = Some(NODES[me].into());
        cluster.config = self.config.clone();
        cluster.sync = Keyed { value: self.sync.clone(), revision: Revision(self.revision) };
        cluster.members = NODES.map(member).map(|m| (m.name.clone(), m)).into();
        cluster.record = record_of(self.asked);
        let (timeline, began) = (TimelineId(self.nodes[me].timeline), self.nodes[me].began);
        let ended_at = position(began);
        let ancestors =
            (1..timeline.0).map(|t| Ancestor { timeline: TimelineId(t), ended_at }).collect();
        observed.own_history = Some(TimelineHistory { timeline, ancestors });
        let waits = Waits::read(&self.nodes[me].names);
        let streaming = |n: &usize| self.primary && *n != self.leader && self.nodes[*n].connected;
        let senders = (0..NODES.len()).filter(streaming).map(|n| {
            let listed = waits.set.contains(&MemberName::from(NODES[n]));
            let kind = if waits.num == waits.set.len() { "sync" } else { "quorum" };
            let sync_state = if listed { kind } else { "async" }.to_owned();
            let flush_lsn = Some(end(&self.nodes[n]));
            node_agent_core::postgres::Walsender { sync_state, flush_lsn, ..sender(NODES[n]) }
        });
        let guest = self.guest.filter(|_| self.primary).map(|have| {
            let flush_lsn = Some(position(have));
            node_agent_core::postgres::Walsender { flush_lsn, ..sender(GUEST) }
        });
        let senders = senders.chain(guest);
        observed.postgres = Postgres::Running(Box::new(Running {
            in_recovery: !self.primary || me != self.leader,
            timeline,
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
            Some(Plan::Promote) if me == self.leader && !self.primary => self.promote(),
            Some(Plan::Write(..) | Plan::Delete(_) | Plan::Promote) | None => {}
        }
    }

    fn acknowledge(&mut self) {
        if !self.primary {
            return;
        }
        let node = &self.nodes[self.leader];
        let waits = Waits::read(&node.names);
        let anybody = node.names.contains('*');
        let guests = anybody || waits.set.contains(&MemberName::from(GUEST));
        let guest = self.guest.filter(|_| guests).unwrap_or(0);
        for (at, commit) in node.wal.iter().enumerate().skip(node.began) {
            let have = (0..NODES.len())
                .filter(|n| *n != self.leader && self.nodes[*n].connected)
                .filter(|n| anybody || waits.set.contains(&MemberName::from(NODES[*n])))
                .filter(|n| self.nodes[*n].wal.len() > at)
                .count()
                + usize::from(guest > at);
            if have >= waits.num.max(usize::from(anybody)) && !self.own.contains(commit) {
                let new = self.acknowledged.insert(*commit);
                self.hosted += u32::from(new && guests && !anybody);
            }
        }
    }

    /// Each electorate that `/sync` allows has every acknowledged commit, and so has its leader.
    fn check(&self) {
        let has = |name: &MemberName, commit: &u32| {
            let node = NODES.iter().position(|n| *n == name.as_str()).unwrap();
            self.nodes[node].wal.contains(commit)
        };
        for commit in &self.acknowledged {
            if let Some(leader) = &self.sync.leader {
                assert!(has(leader, commit), "{leader} is in /sync and lacks {commit}");
            }
            let lacking = self.sync.sync_standby.iter().filter(|n| !has(n, commit)).count();
            let votes = usize::try_from(self.sync.quorum).unwrap();
            let elected = !self.sync.sync_standby.is_empty() && lacking > votes;
            assert!(!elected, "{:?} lets one be elected who lacks {commit}", self.sync);
        }
    }
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
    world.run(&Event::Configure { mode: Mode::On, strict: false, count: 1 });
    let round = |world: &mut World, node: usize| {
        for _ in 0..8 {
            for event in [Event::Decide(node), Event::Apply(node), Event::Measure(node)] {
                world.run(&event);
            }
            for n in 0..NODES.len() {
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
    world.run(&Event::TakeOver(heir, 0));
    round(&mut world, heir);
    assert!(world.primary && world.leader == heir);
    world.run(&Event::Connect(0));
    world.run(&Event::Commit);
    round(&mut world, heir);
    assert_eq!(world.acknowledged.len(), 2);
    assert_eq!(world.sync.leader, Some(NODES[heir].into()));
    assert_eq!(world.sync.sync_standby, [MemberName::from("pg1")].into());
}

/// By quorum: who lacks a commit is not elected without the vote that would tell, who has it is.
#[test]
fn a_quiet_history_of_a_quorum_elects_who_has_the_commit() {
    let mut world = World::new();
    for _ in 0..8 {
        world.run(&Event::Pass);
        for n in 0..NODES.len() {
            world.run(&Event::Replicate(n, 9));
        }
    }
    assert_eq!((world.sync.sync_standby.len(), world.sync.quorum), (3, 2), "{:?}", world.sync);
    world.run(&Event::Commit);
    assert!(world.acknowledged.is_empty(), "nobody has it but the primary");
    world.run(&Event::Replicate(1, 9));
    assert_eq!(world.acknowledged.len(), 1);
    for (node, reach) in [(2, 0b1000), (2, 0b1010), (3, 0b0110), (1, 0b0100)] {
        world.run(&Event::TakeOver(node, reach));
        assert_eq!(world.leader, 0, "{} asked {reach:04b}", NODES[node]);
    }
    world.run(&Event::TakeOver(1, 0b1100));
    assert_eq!(world.leader, 1);
}

/// Random histories come to elections and to commits that waited for a quorum.
#[test]
fn the_histories_reach_what_they_are_about() {
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let histories = prop::collection::vec(event(), 250);
    let (mut takeovers, mut by_quorum, mut acknowledged, mut hosted) = (0, 0, 0, 0);
    for _ in 0..60 {
        let mut world = World::new();
        for event in histories.new_tree(&mut runner).unwrap().current() {
            let before = (world.takeovers, world.sync.quorum);
            world.run(&event);
            by_quorum += u32::from(world.takeovers > before.0 && before.1 > 0);
        }
        takeovers += world.takeovers;
        acknowledged += world.acknowledged.len();
        hosted += world.hosted;
    }
    assert!(takeovers >= 30 && acknowledged >= 600, "{takeovers} takeovers, {acknowledged}");
    assert!(by_quorum >= 5, "{by_quorum} takeovers by quorum");
    assert!(hosted >= 20, "{hosted} commits waited for a standby of another datacenter");
}
