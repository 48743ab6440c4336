//! `/sync`, `synchronous_standby_names` and elections: is an acknowledged row on whoever may be
//! elected?
//!
//! The lease is exclusive here (the model `lease` is about that): whoever takes the key does so
//! after the last primary has ended. A write of `/sync` takes any time between the decision and
//! its compare-and-set, and new names are in force some time after they were set.

use crate::check::Reached;
use crate::choice::{Choice, Effect};
use crate::view::{Answer, Id, Mode, NODES, Names, Server, Set, Store, Sync, Timing, View, nodes};
use crate::wal::{Record, Wal};
use stateright::{Model, Property};
use std::sync::Arc;

/// A mistake that the model is to catch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// None.
    None,
    /// `/sync` names standbys before PostgreSQL is told to wait for them.
    SyncBeforeNames,
    /// Names that were set are taken to be in force at once.
    NamesNotAwaited,
    /// A write of `/sync` without an answer is taken for one that did not happen.
    LateWriteForgotten,
    /// A standby that left the leader's history follows it as it is, lower timeline or not.
    LowerTimelineFollowed,
}

/// The world.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct World {
    wal: [Wal; NODES],
    leader: Option<Id>,
    writes: bool,
    connected: Set,
    names: Names,
    in_force: Names,
    set_at: Option<u8>,
    sync: Sync,
    /// A write of `/sync` on its way, and whether it would still succeed.
    plan: Option<(Sync, bool)>,
    /// The agent was started anew, and does not know what it may have sent before.
    restarted: bool,
    rows: u8,
    acknowledged: u8,
    faults: u8,
    timeline: u8,
}

/// What can happen next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// A client commits a row.
    Commit,
    /// A standby receives and flushes one record more.
    Receive(Id),
    /// A standby begins to stream, rewound first if it must be.
    Connect(Id),
    /// Its connection breaks.
    Disconnect(Id),
    /// The leader's agent reads, decides and acts.
    Pass,
    /// The names that were set come into force.
    InForce,
    /// The write of `/sync` reaches the store.
    Arrive,
    /// The leader's agent is killed and started again.
    KillAgent,
    /// The leader's host is lost; it comes back as a standby.
    Lose,
    /// This node takes part in the race, and hears these others.
    Race(Id, Set),
}

/// An acknowledged row outlives every election that may happen.
pub const NO_LOSS: &str = "an acknowledged row is on whoever may be elected";
/// What must be reachable.
pub const REACHED: [&str; 4] = [
    "a row is acknowledged while /sync names a standby",
    "a standby is promoted",
    "a write of /sync comes too late",
    "a node is refused in the race",
];

/// The model.
pub struct Synchronous {
    /// Plain or quorum.
    pub mode: Mode,
    /// Standbys wanted.
    pub count: u8,
    /// Rows that are committed.
    pub rows: u8,
    /// How many of killed agents, lost hosts and broken connections.
    pub faults: u8,
    /// The mistake.
    pub fault: Fault,
    /// What was reached.
    pub reached: Arc<Reached>,
}

impl Model for Synchronous {
    type State = World;
    type Action = Step;

    fn init_states(&self) -> Vec<World> {
        vec![World {
            wal: [Wal::default(); NODES],
            leader: Some(0),
            writes: true,
            connected: Set(0b110),
            names: Names::default(),
            in_force: Names::default(),
            set_at: None,
            // In force from the start: rows from before were promised to nobody.
            sync: Sync { leader: Some(0), ..Sync::default() },
            plan: None,
            restarted: false,
            rows: 0,
            acknowledged: 0,
            faults: self.faults,
            timeline: 1,
        }]
    }

    fn actions(&self, world: &World, steps: &mut Vec<Step>) {
        if world.plan.is_some() {
            steps.push(Step::Arrive);
        }
        let Some(leader) = world.leader else {
            let heard = (0..8).map(Set);
            steps.extend(nodes().flat_map(|id| heard.clone().map(move |set| Step::Race(id, set))));
            return;
        };
        steps.extend([Step::Pass, Step::InForce]);
        if world.writes && world.rows < self.rows {
            steps.push(Step::Commit);
        }
        for id in nodes().filter(|id| *id != leader) {
            if world.connected.has(id) {
                steps.push(Step::Receive(id));
            } else {
                steps.push(Step::Connect(id));
            }
        }
        if world.faults > 0 {
            steps.extend([Step::KillAgent, Step::Lose]);
            steps.extend(world.connected.iter().map(Step::Disconnect));
        }
    }

    fn next_state(&self, world: &World, step: Step) -> Option<World> {
        let mut next = *world;
        let leader = world.leader.map(usize::from);
        match step {
            Step::Commit => {
                next.rows += 1;
                next.wal[leader?].push(Record::Row(next.rows));
            }
            Step::Receive(id) => {
                let until = next.wal[usize::from(id)].len() + 1;
                next.wal[usize::from(id)].receive(&world.wal[leader?], until);
            }
            Step::Connect(id) => {
                if self.fault != Fault::LowerTimelineFollowed {
                    next.wal[usize::from(id)].rewind_to(&world.wal[leader?]);
                }
                next.connected = next.connected.with(id);
            }
            Step::Disconnect(id) => {
                next.faults -= 1;
                next.connected = Set(next.connected.0 & !(1 << id));
            }
            Step::Pass => self.pass(&mut next),
            Step::InForce => next.in_force = next.names,
            Step::Arrive => {
                let (sync, holds) = next.plan.take()?;
                if !holds {
                    self.reached.note(2);
                }
                if holds {
                    next.sync = sync;
                }
            }
            Step::KillAgent => {
                next.faults -= 1;
                next.set_at = None;
                next.restarted = true;
            }
            Step::Lose => {
                next.faults -= 1;
                (next.leader, next.writes, next.connected) = (None, false, Set::default());
                (next.names, next.in_force) = (Names::default(), Names::default());
                next.set_at = None;
                next.plan = next.plan.map(|(sync, _)| (sync, false));
            }
            Step::Race(id, heard) => self.race(&mut next, id, heard),
        }
        self.acknowledge(&mut next);
        (next != *world).then_some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![Property::always(NO_LOSS, |_, world: &World| {
            let Some(leader) = world.sync.leader else { return true };
            let voters = world.sync.standbys.with(leader);
            let rows = || (1..=world.rows).filter(|row| world.acknowledged & (1 << row) != 0);
            (0..8)
                .map(Set)
                .filter(|set| set.0 & !voters.0 == 0 && set.len() == world.sync.quorum + 1)
                .all(|set| {
                    rows().all(|row| set.iter().any(|id| world.wal[usize::from(id)].has(row)))
                })
        })]
    }
}

impl Synchronous {
    fn view(&self, world: &World, me: Id) -> View {
        let wal = world.wal[usize::from(me)];
        let leads = world.leader == Some(me);
        let flushed = |id: Id| {
            world.connected.has(id).then(|| world.wal[usize::from(id)].len().min(wal.len()))
        };
        View {
            me,
            timing: Timing { tick_ms: 1000, ttl: 3 },
            pause: false,
            lost: false,
            mode: self.mode,
            count: self.count,
            held: if leads { 2 } else { 0 },
            leads,
            kept: false,
            store: Some(Store {
                leader: world.leader,
                sync: world.sync,
                members: Set(0b111),
                ..Store::default()
            }),
            server: if world.writes && leads {
                let flushed = [flushed(0), flushed(1), flushed(2)];
                Server::Primary { wal, names: world.names, flushed }
            } else {
                Server::Standby { wal, names: world.names, follows: None, streams: false }
            },
            names_set_at: world.set_at,
            sync_unsure: leads
                && self.fault != Fault::LateWriteForgotten
                && (world.plan.is_some() || world.restarted),
            poll: None,
            source: None,
            start_failed: false,
            failsafe: None,
        }
    }

    fn pass(&self, world: &mut World) {
        let Some(me) = world.leader else { return };
        for effect in Choice::of(&self.view(world, me)).iter() {
            match effect {
                // Over one that is on its way: the later one wins, or is refused and tried again.
                Effect::WriteSync(sync) if world.plan.is_some() || world.restarted => {
                    (world.sync, world.plan, world.restarted) = (sync, None, false);
                }
                Effect::WriteSync(sync) => world.plan = Some((sync, true)),
                Effect::DeleteSync => world.plan = Some((Sync::default(), true)),
                Effect::SetNames(names) => self.set_names(world, me, names),
                Effect::Promote => {
                    world.timeline += 1;
                    world.wal[usize::from(me)].push(Record::Timeline(world.timeline, 0));
                    world.writes = true;
                    self.reached.note(1);
                }
                Effect::Follow(_) | Effect::StartStandby(_) | Effect::ClearFailover => {}
                Effect::Acquire
                | Effect::Release
                | Effect::StartPrimary
                | Effect::Demote { .. }
                | Effect::EndUnattended
                | Effect::AskVotes
                | Effect::Rewind(_) => unreachable!("not for a leader that holds: {effect:?}"),
            }
        }
    }

    /// `set_sync_names` in apply/tend.rs: sets them; when they are set and known to be in force,
    /// notes the end of WAL.
    fn set_names(&self, world: &mut World, me: Id, names: Names) {
        if names == world.names {
            if world.in_force == names || self.fault == Fault::NamesNotAwaited {
                world.set_at = Some(world.wal[usize::from(me)].len());
            }
            return;
        }
        world.set_at = None;
        if self.fault == Fault::SyncBeforeNames {
            world.sync = Sync { leader: Some(me), standbys: names.of, quorum: 0 };
        }
        world.names = names;
    }

    fn race(&self, world: &mut World, id: Id, heard: Set) {
        let mut view = self.view(world, id);
        let answer = |other: Id| match heard.has(other) {
            true => Answer::Runs { primary: false, wal: world.wal[usize::from(other)] },
            false => Answer::Silent,
        };
        view.poll = Some([answer(0), answer(1), answer(2)]);
        if Choice::of(&view).iter().any(|effect| effect == Effect::Acquire) {
            world.leader = Some(id);
        } else {
            self.reached.note(3);
        }
    }

    /// PostgreSQL's manual, 26.2.8: a commit returns once the standbys in force have flushed it.
    fn acknowledge(&self, world: &mut World) {
        let Some(leader) = world.leader.filter(|_| world.writes) else { return };
        for (at, record) in (1..).zip(world.wal[usize::from(leader)].records()) {
            let Record::Row(row) = record else { continue };
            let has = |id: &Id| world.wal[usize::from(*id)].len() >= at;
            let of = Set(world.in_force.of.0 & world.connected.0);
            let have = of.iter().filter(has).count();
            if have >= usize::from(world.in_force.need) {
                world.acknowledged |= 1 << row;
                if !world.sync.standbys.is_empty() {
                    self.reached.note(0);
                }
            }
        }
    }
}
