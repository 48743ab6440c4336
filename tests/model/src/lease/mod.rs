//! Who may lead: leader key, beats, the keeper, the guard and the observer wait.
//!
//! The store forgets the leader key whenever it likes: an expiry in time, early (etcd#15247) and
//! late are one step, [`Step::Vanish`]. Writes take any time between the read that they were
//! decided on and the compare-and-set, and may come after their keeper has given them up. Members
//! are asked and never answer, so that nothing but the lease keeps a second leader away.

mod world;

pub use world::{Call, Last, Node, Pg, Request, World};

use crate::check::Reached;
use crate::choice::{Choice, Effect};
use crate::view::{Answer, Beat, Id, Mode, NODES, Server, Set, Store, View, nodes};
use crate::wal::Wal;
use stateright::{Model, Property};

/// The TTL, in ticks.
pub const TTL: u8 = 3;
/// From sending a beat to the end of the right that it gives: the TTL less the margin for stopping
/// (`stop_margin` in keeper.rs).
pub const HOLD: u8 = TTL - 2;
/// The guard's time from its deadline to the last process: half of the margin. The other half is
/// for clocks that drift.
pub const STOP: u8 = 1;

/// A mistake that the model is to catch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// None.
    None,
    /// The guard's deadline is counted in passes of the agent, not in time.
    DeadlineInPasses,
    /// The guard's deadline lies beyond the TTL.
    GuardAboveTtl,
    /// The key's absence is taken for the expiry of the lease.
    NoObserverWait,
    /// The right is counted from the answer to a beat, not from when it was sent.
    CountedFromTheAnswer,
    /// Clocks drift by more than half of the margin within a TTL.
    ClocksDriftMore,
    /// The key is taken without a look at whether somebody has beaten since the decision.
    TakenUnseen,
    /// The key is released without a look at whether it was taken anew since.
    ReleasedUnseen,
    /// After a freeze sessions run on before the guard looks at the clock.
    SessionsBeforeGuard,
}

/// What can happen next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Time passes, but not on this node.
    Tick(Option<Id>),
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
    /// The keeper waits no longer.
    GiveUp(Id),
    /// A request that was given up reaches the store.
    ArriveLate(Id),
    /// The store ends the leader's lease.
    Vanish,
    /// The agent is killed and started again.
    KillAgent(Id),
    /// The host loses power and starts again.
    Crash(Id),
    /// The host stands still.
    Freeze(Id),
    /// And goes on.
    Thaw(Id),
    /// The agent is told to end: it stops PostgreSQL and releases the key.
    ShutDown(Id),
}

/// Two nodes never write.
pub const ONE_WRITES: &str = "at most one node can acknowledge";
/// Two nodes never count themselves leader.
pub const ONE_LEADS: &str = "at most one node holds the right to lead";

/// What must be reachable, or the model shows nothing.
pub const REACHED: [&str; 8] = [
    "another node is promoted",
    "a key that vanished is put back",
    "the guard ends a primary",
    "an agent stops its primary because the store does not answer",
    "a late acquisition is refused, for somebody has beaten since",
    "a late release is refused, for the key was taken anew since",
    "a host that was frozen ends its primary when it goes on",
    "a primary that crashed takes its own key back and is started in place",
];

/// The model.
pub struct Lease {
    /// How many of kill, crash, freeze and shutdown.
    pub faults: u8,
    /// How often the clocks differ by a tick.
    pub drifts: u8,
    /// How often the store ends a lease.
    pub vanishes: u8,
    /// How many requests arrive after they were given up.
    pub lates: u8,
    /// The mistake.
    pub fault: Fault,
    /// What was reached, by the place in [`REACHED`].
    pub reached: std::sync::Arc<Reached>,
}

impl Model for Lease {
    type State = World;
    type Action = Step;

    fn init_states(&self) -> Vec<World> {
        let standby = Node {
            frozen: false,
            pg: Pg::Standby,
            guard: 0,
            held: 0,
            last: Last::None,
            age: 0,
            call: None,
            late: None,
        };
        let (pg, last, guard) = (Pg::Primary, Last::Current, HOLD + STOP);
        let primary = Node { pg, guard, held: HOLD, last, ..standby };
        let (faults, drifts) = (self.faults, self.drifts);
        let nodes = [primary, standby, standby];
        vec![World {
            nodes,
            leader: Some(0),
            beat: (0, false),
            faults,
            drifts,
            steady: 0,
            vanishes: self.vanishes,
            lates: self.lates,
        }]
    }

    fn actions(&self, world: &World, steps: &mut Vec<Step>) {
        steps.push(Step::Tick(None));
        let slow = world.drifts > 0 && world.steady == 0;
        steps.extend(nodes().filter(|_| slow).map(|id| Step::Tick(Some(id))));
        if world.leader.is_some() && world.vanishes > 0 {
            steps.push(Step::Vanish);
        }
        for id in nodes() {
            let node = &world.nodes[usize::from(id)];
            if node.late.is_some() {
                steps.push(Step::ArriveLate(id));
            }
            if node.call.is_some_and(|call| call.done.is_none()) {
                steps.push(Step::Arrive(id));
            }
            if node.frozen {
                steps.push(Step::Thaw(id));
                continue;
            }
            steps.extend([Step::Pass(id), Step::BlindPass(id)]);
            match node.call {
                None if node.held > 0 => steps.push(Step::Beat(id)),
                Some(Call { done: Some(_), .. }) => {
                    steps.extend([Step::Answer(id), Step::GiveUp(id)]);
                }
                Some(_) => steps.push(Step::GiveUp(id)),
                None => {}
            }
            if world.faults > 0 {
                steps.extend([Step::KillAgent(id), Step::Crash(id), Step::Freeze(id)]);
                if node.held > 0 && node.call.is_none() {
                    steps.push(Step::ShutDown(id));
                }
            }
        }
    }

    fn next_state(&self, world: &World, step: Step) -> Option<World> {
        let mut next = *world;
        match step {
            Step::Tick(slow) => self.tick(&mut next, slow),
            Step::Pass(id) => self.pass(&mut next, id, true),
            Step::BlindPass(id) => self.pass(&mut next, id, false),
            Step::Beat(id) => next.send(id, Request::Beat),
            Step::Arrive(id) => self.arrive(&mut next, id),
            Step::ArriveLate(id) => {
                let request = next.nodes[usize::from(id)].late.take()?;
                self.write(&mut next, id, request);
            }
            Step::Answer(id) => self.answer(&mut next, id),
            Step::GiveUp(id) => next.give_up(id),
            Step::Vanish => {
                next.leader = None;
                next.vanishes -= 1;
            }
            Step::KillAgent(id) => next.kill_agent(id),
            Step::Crash(id) => {
                next.kill_agent(id);
                next.node(id).stop();
            }
            Step::Freeze(id) => {
                next.faults -= 1;
                next.node(id).frozen = true;
            }
            Step::Thaw(id) => self.thaw(&mut next, id),
            Step::ShutDown(id) => {
                // `shut_down` in run.rs.
                next.faults -= 1;
                next.node(id).stop();
                next.release(id);
            }
        }
        next.forget_who_is_who();
        (next != *world).then_some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(ONE_WRITES, |_, world: &World| {
                let writes = |node: &&Node| node.pg == Pg::Primary && !node.frozen;
                world.nodes.iter().filter(writes).count() <= 1
            }),
            Property::always(ONE_LEADS, |_, world: &World| {
                world.nodes.iter().filter(|node| node.held > 0).count() <= 1
            }),
        ]
    }
}

impl Lease {
    fn is(&self, fault: Fault) -> bool {
        self.fault == fault
    }

    fn tick(&self, world: &mut World, slow: Option<Id>) {
        world.steady = world.steady.saturating_sub(1);
        if slow.is_some() {
            world.drifts -= 1;
            world.steady = if self.is(Fault::ClocksDriftMore) { 0 } else { TTL + 1 };
        }
        for id in nodes().filter(|id| Some(*id) != slow) {
            let node = world.node(id);
            node.held = node.held.saturating_sub(1);
            node.age = (node.age + 1).min(TTL);
            if let Some(call) = &mut node.call {
                call.age = (call.age + 1).min(HOLD);
            }
            if node.pg == Pg::Primary && !self.is(Fault::DeadlineInPasses) {
                node.guard = node.guard.saturating_sub(1);
                if node.guard == 0 && !node.frozen {
                    // `Guard::step` in guard/watch.rs.
                    node.stop();
                    self.reached.note(2);
                }
            }
        }
    }

    fn thaw(&self, world: &mut World, id: Id) {
        let node = world.node(id);
        node.frozen = false;
        if node.pg == Pg::Primary && node.guard <= STOP && !self.is(Fault::SessionsBeforeGuard) {
            node.stop();
            self.reached.note(6);
        }
    }

    /// One pass of the loop: `pass` in run.rs.
    fn pass(&self, world: &mut World, id: Id, reads: bool) {
        let choice = Choice::of(&self.view(world, id, reads));
        let node = world.node(id);
        if node.pg == Pg::Primary && self.is(Fault::DeadlineInPasses) {
            node.guard = node.guard.saturating_sub(1);
        }
        for effect in choice.iter() {
            self.carry_out(world, id, effect, reads);
        }
    }

    fn view(&self, world: &World, id: Id, reads: bool) -> View {
        let node = &world.nodes[usize::from(id)];
        let (wal, names) = (Wal::default(), crate::view::Names::default());
        let follows = world.leader.filter(|leader| *leader != id);
        let beat = Beat { leader: world.beat.0, released: world.beat.1, ttl: TTL };
        let store = Store {
            leader: world.leader,
            beat: (!self.is(Fault::NoObserverWait)).then_some(beat),
            beat_age: node.age,
            members: Set(0b111),
            ..Store::default()
        };
        View {
            me: id,
            mode: Mode::Async,
            count: 1,
            held: node.held,
            store: reads.then_some(store),
            server: match node.pg {
                Pg::Standby => Server::Standby { wal, names, follows, streams: false },
                Pg::Primary => Server::Primary { wal, names, flushed: [None; NODES] },
                Pg::Down { primary } => Server::Down { primary, wal },
            },
            names_set_at: None,
            sync_unsure: false,
            poll: Some([Answer::Silent; NODES]),
            source: Some(wal),
            start_failed: false,
        }
    }

    fn carry_out(&self, world: &mut World, id: Id, effect: Effect, reads: bool) {
        let node = world.node(id);
        match effect {
            // The keeper does one thing after the other; what waits for its turn is decided anew.
            Effect::Acquire | Effect::Release if node.call.is_some() => {}
            Effect::Acquire => world.send(id, Request::Acquire { unchanged: true }),
            Effect::Release => world.release(id),
            Effect::Promote | Effect::StartPrimary => {
                // `promote` and `start_primary` in jobs: armed first, with the lease's end.
                node.pg = Pg::Primary;
                node.guard = self.guard_deadline(node.held);
                self.reached.note(if effect == Effect::Promote { 0 } else { 7 });
            }
            Effect::Demote { release, .. } => {
                node.stop();
                if !reads {
                    self.reached.note(3);
                }
                if release && node.call.is_none() {
                    world.release(id);
                }
            }
            Effect::StartStandby(_) => node.pg = Pg::Standby,
            Effect::Follow(_) => {}
            Effect::Rewind(_)
            | Effect::WriteSync(_)
            | Effect::DeleteSync
            | Effect::SetNames(_)
            | Effect::ClearFailover => unreachable!("asynchronous and one timeline: {effect:?}"),
        }
    }

    fn guard_deadline(&self, held: u8) -> u8 {
        let beyond = if self.is(Fault::GuardAboveTtl) { TTL - HOLD + 1 } else { 0 };
        held + STOP + beyond
    }

    fn arrive(&self, world: &mut World, id: Id) {
        let Some(mut call) = world.node(id).call else { return };
        let written = self.write(world, id, call.request);
        call.done = Some((written, written));
        world.node(id).call = Some(call);
        if call.request != Request::Beat {
            // Its answer counts from when it was sent: a later one gives less.
            self.answer(world, id);
        }
    }

    /// One transaction: its conditions and its writes.
    fn write(&self, world: &mut World, id: Id, request: Request) -> bool {
        let (free, mine) = (world.leader.is_none(), world.leader == Some(id));
        let may = match request {
            Request::Beat => mine,
            Request::Acquire { unchanged } => {
                if free && !unchanged {
                    self.reached.note(4);
                }
                mine || free && (unchanged || self.is(Fault::TakenUnseen))
            }
            Request::PutBack { unchanged } => free && unchanged,
            Request::Release { unchanged } => {
                if mine && !unchanged {
                    self.reached.note(5);
                }
                mine && (unchanged || self.is(Fault::ReleasedUnseen))
            }
        };
        if may {
            let released = matches!(request, Request::Release { .. });
            world.leader = (!released).then_some(id);
            world.write_position(id, released);
        }
        may
    }

    fn answer(&self, world: &mut World, id: Id) {
        let node = world.node(id);
        let Some(Call { request, age, done: Some((written, current)) }) = node.call.take() else {
            return;
        };
        let age = if self.is(Fault::CountedFromTheAnswer) { 0 } else { age };
        match (request, written) {
            (Request::Release { .. }, _) | (Request::Acquire { .. }, false) => {}
            (Request::Beat, false) if node.last != Last::None => {
                // `put_back`: it counts from when the beat was sent.
                let request = Request::PutBack { unchanged: node.last == Last::Current };
                node.call = Some(Call { request, age, done: None });
            }
            (Request::Beat | Request::PutBack { .. }, false) => {
                (node.held, node.last) = (0, Last::None);
            }
            (Request::Beat | Request::Acquire { .. } | Request::PutBack { .. }, true) => {
                if matches!(request, Request::PutBack { .. }) {
                    self.reached.note(1);
                }
                let left = HOLD.saturating_sub(age);
                node.hold(left, current, self.guard_deadline(left));
            }
        }
    }
}
