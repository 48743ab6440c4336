//! A switchover inside a datacenter: the request, the shutdown, the release, the candidate, and
//! whatever fails between them.
//!
//! The lease is exclusive here (the model `lease` is about that): others may lead as soon as the
//! last leader's right has ended and nothing of its PostgreSQL is left. `/sync` and the names
//! change at once (the model `sync` is about that). A release, an acquisition and the clearing of
//! the request take any time between the read and the compare-and-set.

mod agent;
mod heal;
mod world;

pub use world::{Pg, World};

use crate::check::Reached;
use crate::view::{Asked, Id, Mode, Set, Sync, nodes};
use crate::wal::Record;
use stateright::{Model, Property};
use std::sync::Arc;

/// A mistake that the model is to catch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// None.
    None,
    /// The key is released before PostgreSQL accepts no more writes.
    ReleasedBeforeStopped,
    /// The key is released before the shutdown checkpoint is on the candidate.
    ReleasedBeforeShipped,
    /// The leader key outlives its holder.
    KeyForEver,
    /// A candidate that is dead is taken to be on its way.
    CandidateAwaited,
    /// The request is cleared without a look at whether it is the one that was read.
    ClearedUnseen,
    /// Elections do not look at `/sync`.
    SyncIgnored,
}

/// What can happen next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// An operator asks for a switchover.
    Ask(Option<Id>),
    /// An operator takes the request back.
    Cancel,
    /// A client commits a row.
    Commit,
    /// A standby receives and flushes one record more.
    Receive(Id),
    /// A standby begins to stream.
    Connect(Id),
    /// The agent reads, decides and acts.
    Pass(Id),
    /// The same when the store does not answer.
    BlindPass(Id),
    /// PostgreSQL ends, as the shutdown has it.
    Stop(Id),
    /// The agent looks whether it may leave the key to an heir while PostgreSQL is still ending.
    HandOver(Id),
    /// The keeper's transaction reaches the store.
    Arrive(Id),
    /// The clearing of the request reaches the store.
    ArriveClear,
    /// The leader's lease ends, after its right.
    Vanish,
    /// Nobody has beaten for two TTLs.
    LongAgo,
    /// The right of a leader ends: its agent hangs, or is cut off. The guard stops PostgreSQL.
    LoseRight(Id),
    /// The agent is killed and started again.
    KillAgent(Id),
    /// The host is lost.
    Crash(Id),
    /// It comes back.
    Return(Id),
    /// A standby's connection breaks.
    Disconnect(Id),
    /// This node does not hear the others from now on.
    Deaf(Id),
}

pub use crate::lease::ONE_WRITES;
/// In synchronous mode.
pub const NO_LOSS: &str = "an acknowledged row is on whoever may be elected and on who leads";
/// While nothing has failed.
pub const SMOOTH: &str = "a switchover in which nothing fails loses no row and needs no rewind";
/// Of the request.
pub const REQUEST: &str = "only the request that was read is cleared";
/// Everybody is well again.
pub const HEALS: &str = "once everybody is well again somebody leads, and no request is left";
/// Somebody stays dead.
pub const GOES_ON: &str = "with one node dead for good another one comes to lead";

/// What must be reachable.
pub const REACHED: [&str; 7] = [
    "the candidate is promoted after a release",
    "a switchover is refused or found done, and its request cleared",
    "somebody else leads, because the candidate is gone",
    "the former leader follows without a rewind",
    "a leader whose agent was killed half-way leads again",
    "a request is written while the last one is being cleared",
    "the key is left to an heir before PostgreSQL has ended",
];

/// The model.
pub struct Switchover {
    /// Asynchronous or plain synchronous.
    pub mode: Mode,
    /// Rows that are committed.
    pub rows: u8,
    /// Requests of the operator, and taken back.
    pub requests: u8,
    /// How many faults.
    pub faults: u8,
    /// The mistake.
    pub fault: Fault,
    /// What was reached.
    pub reached: Arc<Reached>,
}

impl Model for Switchover {
    type State = World;
    type Action = Step;

    fn init_states(&self) -> Vec<World> {
        let sync = match self.mode {
            Mode::Async => Sync::default(),
            Mode::Sync | Mode::Strict | Mode::Quorum => Sync { leader: Some(0), ..Sync::default() },
        };
        vec![World::healthy(sync, self.rows, self.requests, self.faults)]
    }

    fn actions(&self, world: &World, steps: &mut Vec<Step>) {
        self.common(world, steps);
        for id in nodes().filter(|id| !world.gone.has(*id)) {
            if !world.demoting.has(id) {
                steps.push(Step::Pass(id));
                if world.holds.has(id) {
                    steps.push(Step::BlindPass(id));
                }
            }
            if world.faults > 0 {
                steps.extend([Step::Crash(id), Step::KillAgent(id)]);
                if world.deaf.is_empty() {
                    steps.push(Step::Deaf(id));
                }
                if world.holds.has(id) {
                    steps.push(Step::LoseRight(id));
                }
                if world.connected.has(id) {
                    steps.push(Step::Disconnect(id));
                }
            }
            // The guard needs no fault once the agent that held the right is gone.
            if !world.holds.has(id) && world.at(id).under_guard() {
                steps.push(Step::LoseRight(id));
            }
            if world.stops(id) {
                steps.push(Step::Stop(id));
            }
            if world.demoting.has(id) && world.at(id) == Pg::Stopping {
                steps.push(Step::HandOver(id));
            }
        }
    }

    fn next_state(&self, world: &World, step: Step) -> Option<World> {
        let mut next = *world;
        match step {
            Step::Ask(candidate) => {
                next.requests -= 1;
                next.ask(Asked { leader: next.key?, candidate });
                if next.clear.is_some() {
                    self.reached.note(5);
                }
            }
            Step::Cancel => {
                next.requests -= 1;
                next.change_request(None);
            }
            Step::Commit => {
                next.rows -= 1;
                let row = next.rows;
                next.wal[usize::from(next.source()?)].push(Record::Row(row));
            }
            Step::Receive(id) => next.receive(id),
            Step::Connect(id) => next.connect(id),
            Step::Pass(id) => self.pass(&mut next, id, true),
            Step::BlindPass(id) => self.pass(&mut next, id, false),
            Step::Stop(id) => self.stop(&mut next, id),
            Step::HandOver(id) => self.hand_over(&mut next, id),
            Step::Arrive(id) => self.arrive(&mut next, id),
            Step::ArriveClear => self.arrive_clear(&mut next),
            Step::Vanish => next.key = None,
            Step::LongAgo => next.long_ago = true,
            Step::LoseRight(id) => {
                next.faults -= u8::from(next.holds.has(id));
                next.lose_right(id);
            }
            Step::KillAgent(id) => {
                next.faults -= 1;
                next.kill_agent(id);
            }
            Step::Crash(id) => {
                next.faults -= 1;
                next.kill_agent(id);
                next.lose_right(id);
                next.crash(id);
            }
            Step::Return(id) => next.gone.0 &= !(1 << id),
            Step::Disconnect(id) => {
                next.faults -= 1;
                next.connected.0 &= !(1 << id);
            }
            Step::Deaf(id) => {
                next.faults -= 1;
                next.deaf = next.deaf.with(id);
            }
        }
        next.acknowledge();
        (next.has_room() && next != *world).then_some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(ONE_WRITES, |_, world: &World| {
                world.pg.iter().filter(|pg| **pg == Pg::Primary).count() <= 1
            }),
            Property::always(NO_LOSS, |model: &Self, world: &World| {
                model.mode == Mode::Async
                    || world.keeps_what_is_promised() && world.leader_has_all()
            }),
            Property::always(SMOOTH, |model: &Self, world: &World| {
                // One that is changed on its way may come to somebody who is behind.
                let (faults, again) =
                    (world.faults < model.faults, world.requests + 1 < model.requests);
                faults || again || !world.rewound && world.leader_has_all()
            }),
            Property::always(REQUEST, |_, world: &World| !world.wrong_clear),
            Property::always(HEALS, |model: &Self, world: &World| {
                model.heals(&World { gone: Set(0), ..*world })
            }),
            Property::always(GOES_ON, |model: &Self, world: &World| {
                world.gone.is_empty() || !model.can_go_on(world) || model.heals(world)
            }),
        ]
    }
}

impl Switchover {
    pub(crate) fn is(&self, fault: Fault) -> bool {
        self.fault == fault
    }

    /// Steps that are nobody's.
    fn common(&self, world: &World, steps: &mut Vec<Step>) {
        if world.requests > 0 && world.key.is_some() {
            let candidates = nodes().filter(|id| world.key != Some(*id)).map(Some);
            steps.extend(candidates.chain([None]).map(Step::Ask));
            if world.request.is_some() {
                steps.push(Step::Cancel);
            }
        }
        if let Some(source) = world.source() {
            if world.rows > 0 && world.at(source) == Pg::Primary {
                steps.push(Step::Commit);
            }
            for id in nodes().filter(|id| *id != source) {
                if world.connected.has(id) {
                    steps.push(Step::Receive(id));
                } else if world.may_connect(id) {
                    steps.push(Step::Connect(id));
                }
            }
        }
        steps
            .extend(nodes().filter(|id| world.calls[usize::from(*id)].is_some()).map(Step::Arrive));
        steps.extend(world.gone.iter().map(Step::Return));
        if world.clear.is_some() {
            steps.push(Step::ArriveClear);
        }
        if self.may_vanish(world) {
            steps.push(Step::Vanish);
        }
        if world.key.is_none() && !world.long_ago && !world.may_still_lead() {
            steps.push(Step::LongAgo);
        }
    }

    pub(crate) fn may_vanish(&self, world: &World) -> bool {
        world.key.is_some_and(|id| !world.holds.has(id)) && !self.is(Fault::KeyForEver)
    }
}
