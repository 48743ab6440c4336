//! Failsafe mode: a leader without the DCS, the members' promises, and the votes of a candidate.
//!
//! The DCS is gone for everybody, or for one, whenever no step that needs it comes. Members answer
//! a leader or a candidate at any moment after the question; an answer that does not come is a
//! refusal. No answers of an election keep a second leader away: only the lease, the promises and
//! the votes do. Promises, votes, plans and judgements are production's own code.

mod keeper;
mod world;

pub use world::{Call, Node, Pg, Round, World};

use crate::check::Reached;
use crate::choice::{Choice, Effect};
use crate::view::{
    Answer, Beat, Failsafe as Seen, Id, Mode, NODES, Names, Server, Set, Store, Timing, View, nodes,
};
use crate::wal::Wal;
use node_agent_core::lease::Request;
use stateright::{Model, Property};
use std::sync::Arc;

/// Such ticks, and the TTL in them: an answer to a question for votes is fresh for one tick.
pub const TIMING: Timing = Timing { tick_ms: 3000, ttl: TTL };
/// In ticks.
pub const TTL: u8 = 2;
/// Ticks after which nothing depends on when the agent started: `settling` in promise.rs.
pub const SETTLED: u8 = 5;

/// A mistake that the model is to catch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// None.
    None,
    /// A restarted agent acts as if it had promised nothing before.
    PromiseForgotten,
    /// A member votes beside its promise to the leader.
    VoteBesidePromise,
    /// A leader that has lost its right votes before it has stopped.
    VoteOfAFormerLeader,
    /// One member that refuses, or is silent, is not counted.
    DissenterIgnored,
    /// Beats that were sent and not answered do not bind the leader.
    LastBeatsIgnored,
    /// The right counts from the answers of the members.
    CountedFromTheAnswers,
    /// A member may take the key itself beside its promise.
    OwnPromiseIgnored,
}

/// What can happen next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Time passes.
    Tick,
    /// The agent reads the store, decides and acts.
    Pass(Id),
    /// The same when the store does not answer.
    BlindPass(Id),
    /// The keeper sends a beat.
    Beat(Id),
    /// A request reaches the store.
    Arrive(Id),
    /// The keeper gets the answer.
    Answer(Id),
    /// The keeper waits no longer; a leader asks the members.
    GiveUp(Id),
    /// A request that was given up reaches the store.
    ArriveLate(Id),
    /// The leader's question reaches the member, and its answer the leader.
    Ask(Id, Id),
    /// The leader counts the answers.
    Judge(Id),
    /// The candidate's question reaches the member, and its answer the candidate.
    Vote(Id, Id),
    /// The store ends the leader's lease.
    Vanish,
    /// The agent is killed and started again.
    KillAgent(Id),
    /// From now on all members must agree, not a majority.
    AllMustAgree,
}

pub use crate::lease::{ONE_LEADS, ONE_WRITES};

/// What must be reachable, or the model shows nothing.
pub const REACHED: [&str; 6] = [
    "the members let a leader go on without the DCS",
    "the members do not",
    "another node is promoted",
    "a member refuses the leader, because it has voted or races",
    "a member gives no vote, because it has promised",
    "a majority without one of the members lets a leader go on",
];

/// How often each of these may happen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Bounds {
    /// Time passes.
    pub ticks: u8,
    /// A leader sends a beat, after the first one.
    pub beats: u8,
    /// A node tries to take the key.
    pub races: u8,
    /// An agent is killed and started again.
    pub faults: u8,
    /// The store ends a lease.
    pub vanishes: u8,
    /// A request arrives after it was given up.
    pub lates: u8,
    /// The majority is given up in favour of all.
    pub edits: u8,
}

/// The model.
pub struct Failsafe {
    /// A majority of the members is enough at first.
    pub majority: bool,
    /// How often each may happen.
    pub bounds: Bounds,
    /// The mistake.
    pub fault: Fault,
    /// What was reached.
    pub reached: Arc<Reached>,
}

impl Model for Failsafe {
    type State = World;
    type Action = Step;

    fn init_states(&self) -> Vec<World> {
        vec![World::healthy(self.majority, self.bounds)]
    }

    fn actions(&self, world: &World, steps: &mut Vec<Step>) {
        if world.left.ticks > 0 {
            steps.push(Step::Tick);
        }
        if world.key.is_some() && world.left.vanishes > 0 {
            steps.push(Step::Vanish);
        }
        if world.left.edits > 0 {
            steps.push(Step::AllMustAgree);
        }
        for id in nodes() {
            let node = world.at(id);
            if node.late.is_some() {
                steps.push(Step::ArriveLate(id));
            }
            match node.call {
                Some(Call { done: None, .. }) => steps.extend([Step::Arrive(id), Step::GiveUp(id)]),
                Some(Call { done: Some(_), .. }) => {
                    steps.extend([Step::Answer(id), Step::GiveUp(id)]);
                }
                None if node.last.is_some() && node.round.is_none() && world.left.beats > 0 => {
                    steps.push(Step::Beat(id));
                }
                None => {}
            }
            if !node.races() {
                steps.extend([Step::Pass(id), Step::BlindPass(id)]);
            }
            if let Some(round) = node.round {
                steps.extend(round.open.iter().map(|member| Step::Ask(id, member)));
                steps.push(Step::Judge(id));
            }
            steps.extend(node.votes_open.iter().map(|member| Step::Vote(id, member)));
            if world.left.faults > 0 {
                steps.push(Step::KillAgent(id));
            }
        }
    }

    fn next_state(&self, world: &World, step: Step) -> Option<World> {
        let mut next = *world;
        match step {
            Step::Tick => {
                next.left.ticks -= 1;
                next.tick(self.is(Fault::CountedFromTheAnswers));
            }
            Step::Pass(id) => self.pass(&mut next, id, true),
            Step::BlindPass(id) => self.pass(&mut next, id, false),
            Step::Beat(id) => {
                next.left.beats -= 1;
                self.beat(&mut next, id);
            }
            Step::Arrive(id) => self.arrive(&mut next, id),
            Step::ArriveLate(id) => {
                let call = next.node(id).late.take()?;
                self.write(&mut next, id, call);
            }
            Step::Answer(id) => self.answer(&mut next, id),
            Step::GiveUp(id) => self.give_up(&mut next, id),
            Step::Ask(leader, member) => self.ask(&mut next, leader, member),
            Step::Judge(id) => self.judge(&mut next, id),
            Step::Vote(candidate, member) => self.vote(&mut next, candidate, member),
            Step::Vanish => {
                next.left.vanishes -= 1;
                next.key = None;
            }
            Step::KillAgent(id) => next.kill_agent(id, self.is(Fault::PromiseForgotten)),
            Step::AllMustAgree => {
                next.left.edits -= 1;
                next.majority = false;
            }
        }
        next.forget();
        (next != *world).then_some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(ONE_WRITES, |_, world: &World| {
                world.nodes.iter().filter(|node| node.pg == Pg::Primary).count() <= 1
            }),
            Property::always(ONE_LEADS, |_, world: &World| {
                world.nodes.iter().filter(|node| node.held > 0).count() <= 1
            }),
        ]
    }
}

impl Failsafe {
    fn is(&self, fault: Fault) -> bool {
        self.fault == fault
    }

    fn note_if(&self, so: bool, what: usize) {
        if so {
            self.reached.note(what);
        }
    }

    fn view(&self, world: &World, me: Id, reads: bool) -> View {
        let node = world.at(me);
        let (wal, names) = (Wal::default(), Names::default());
        let (leader, released) = (world.leader, world.released);
        let beat = Beat { leader, released, unattended: false, ttl: TTL };
        let votes = node.votes.filter(|votes| votes.beat == world.beat);
        let failsafe = Seen {
            majority: world.majority,
            beat_majority: world.beat_majority,
            promise: node.promise.filter(|_| !self.is(Fault::OwnPromiseIgnored)),
            votes: votes.map(|votes| (votes.age, votes.granted)),
            up: node.up,
        };
        let store = Store {
            leader: world.key,
            beat: Some(beat),
            beat_age: node.age,
            members: Set(0b111),
            ..Store::default()
        };
        View {
            me,
            timing: TIMING,
            pause: false,
            lost: false,
            mode: Mode::Async,
            count: 1,
            held: node.held,
            leads: node.last.is_some(),
            kept: false,
            store: reads.then_some(store),
            server: match node.pg {
                Pg::Standby => {
                    let follows = world.key.filter(|leader| *leader != me);
                    Server::Standby { wal, names, follows, streams: false }
                }
                Pg::Primary => Server::Primary { wal, names, flushed: [None; NODES] },
                Pg::Down => Server::Down { primary: true, wal },
            },
            names_set_at: None,
            sync_unsure: false,
            poll: Some([Answer::Silent; NODES]),
            source: Some(wal),
            start_failed: false,
            failsafe: Some(failsafe),
        }
    }

    /// `pass` in run.rs.
    fn pass(&self, world: &mut World, id: Id, reads: bool) {
        let choice = Choice::of(&self.view(world, id, reads));
        let newest = (world.leader, world.beat);
        let majority = world.majority;
        let node = world.node(id);
        if reads {
            // `tell` in failsafe.rs, and `tell_keeper`.
            node.settled |= node.up >= SETTLED;
            node.newest = Some(newest);
            node.majority = majority;
        }
        for effect in choice.iter() {
            self.carry_out(world, id, effect);
        }
    }

    fn carry_out(&self, world: &mut World, id: Id, effect: Effect) {
        let beat = world.beat;
        let node = world.node(id);
        match effect {
            Effect::Acquire if node.call.is_some() || node.round.is_some() => {}
            Effect::Acquire => self.race(world, id),
            Effect::Release => world.release(id),
            Effect::Promote | Effect::StartPrimary => {
                node.pg = Pg::Primary;
                node.guard = node.held;
                self.note_if(effect == Effect::Promote, 2);
            }
            Effect::Demote { release, .. } => {
                node.stop();
                if release && node.call.is_none() {
                    world.release(id);
                }
            }
            Effect::StartStandby(_) => node.pg = Pg::Standby,
            Effect::Follow(_) => {}
            Effect::AskVotes => {
                node.votes = Some(world::Votes { age: 0, beat, granted: Set(0) });
                node.votes_open = Set(0b111 & !(1 << id));
            }
            Effect::Rewind(_)
            | Effect::WriteSync(_)
            | Effect::DeleteSync
            | Effect::SetNames(_)
            | Effect::EndUnattended
            | Effect::ClearFailover => unreachable!("asynchronous, one timeline: {effect:?}"),
        }
    }

    /// `acquire` in apply/act.rs: the promise is looked at once more, under its lock.
    fn race(&self, world: &mut World, id: Id) {
        let beat = world.beat;
        if world.left.races == 0 || !self.begin_race(world, id) {
            return;
        }
        world.left.races -= 1;
        world.send(id, Request::Acquire { over: beat });
    }
}
