//! Who may lead: leader key, beats, the keeper, the guard and the observer wait.
//!
//! The store forgets the leader key whenever it likes: an expiry in time, early (etcd#15247) and
//! late are one step, [`Step::Vanish`]. Writes take any time between the read that they were
//! decided on and the compare-and-set, and may come after their keeper has given them up. Members
//! are asked and do not answer, so that nothing but the lease keeps a second leader away; in
//! maintenance mode they may, because whoever was left running is to say that it has stopped.
//!
//! What the keeper asks of the store and what the answers mean are the functions of
//! `node_agent_core::lease`, as in production.

mod keeper;
mod pass;
mod world;

pub use world::{Call, Node, Pg, Position, Reply, Sent, World};

use crate::check::Reached;
use crate::view::{Id, Timing, nodes};
use stateright::{Model, Property};
use world::{LIFTED, PRESENT};

/// The TTL, in ticks.
pub const TTL: u8 = 3;
/// The other one, where the TTL is changed.
pub const TTL_LONG: u8 = TTL + 2;
/// Such ticks that production's margin for stopping, at least half a second, is two of them.
const TICK_MS: u16 = 250;
/// From sending a beat to the end of the right that it gives: the TTL less that margin.
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
    /// The key of a lost leader is replaced without a look at whether it has beaten since.
    ReplacedUnseen,
    /// The own key is taken back without a look at whether it has beaten since.
    TakenBackUnseen,
    /// The key is released without a look at whether it was taken anew since.
    ReleasedUnseen,
    /// After a freeze sessions run on before the guard looks at the clock.
    SessionsBeforeGuard,
    /// A new TTL is counted with before a beat has carried it.
    NewTtlAtOnce,
    /// A lower TTL is carried before it is counted with.
    LowerTtlAtOnce,
    /// The key is taken though the last leader was left running in maintenance mode.
    MarkUnseen,
    /// The guard's deadline is lifted before the mark of maintenance mode is committed.
    LiftedUncommitted,
    /// The mark goes before the guard has a deadline again.
    MarkGoesFirst,
}

/// What can happen next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Time passes, but not on this node.
    Tick(Option<Id>),
    /// The agent reads the store, decides and acts.
    Pass(Id),
    /// The same, and the members have answered.
    PassHeard(Id),
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
    /// An operator begins or ends maintenance mode.
    Pause,
    /// An operator changes the TTL.
    SetTtl,
}

/// Two nodes never write.
pub const ONE_WRITES: &str = "at most one node can acknowledge";
/// Two nodes never count themselves leader.
pub const ONE_LEADS: &str = "at most one node holds the right to lead";

/// What must be reachable, or the model shows nothing.
pub const REACHED: [&str; 15] = [
    "another node is promoted",
    "a key that vanished is put back",
    "the guard ends a primary",
    "an agent stops its primary because the store does not answer",
    "a late acquisition is refused, for somebody has beaten since",
    "a late release is refused, for the key was taken anew since",
    "a host that was frozen ends its primary when it goes on",
    "a primary that crashed takes its own key back and is started in place",
    "in maintenance mode a primary goes on after its lease",
    "a primary that was left running takes its key again",
    "a node that was left running says that it has stopped",
    "the mark of maintenance mode goes, and the guard has a deadline again",
    "the right is longer or shorter by a new TTL",
    "the key of a lost leader is replaced",
    "a beat whose answer was lost is followed by the next",
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
    /// How often maintenance mode begins or ends.
    pub pauses: u8,
    /// How often the TTL is changed.
    pub ttls: u8,
    /// The TTL is the long one at first.
    pub long: bool,
    /// The mistake.
    pub fault: Fault,
    /// What was reached, by the place in [`REACHED`].
    pub reached: std::sync::Arc<Reached>,
}

impl Model for Lease {
    type State = World;
    type Action = Step;

    fn init_states(&self) -> Vec<World> {
        let ttl = if self.long { TTL_LONG } else { TTL };
        let held = ttl - (TTL - HOLD);
        let standby = Node {
            frozen: false,
            pg: Pg::Standby,
            guard: 0,
            held: 0,
            last: None,
            age: 0,
            call: None,
            late: None,
            ttl,
            kept: false,
            wants: false,
            in_force: 0,
        };
        let (pg, last, guard) = (Pg::Primary, Some(PRESENT), held + STOP);
        let primary = Node { pg, guard, held, last, in_force: ttl, ..standby };
        vec![World {
            nodes: [primary, standby, standby],
            leader: Some(0),
            position: Position { leader: 0, released: false, mark: false, ttl },
            pause: false,
            ttl,
            faults: self.faults,
            drifts: self.drifts,
            steady: 0,
            vanishes: self.vanishes,
            lates: self.lates,
            pauses: self.pauses,
            ttls: self.ttls,
        }]
    }

    fn actions(&self, world: &World, steps: &mut Vec<Step>) {
        steps.push(Step::Tick(None));
        let slow = world.drifts > 0 && world.steady == 0;
        steps.extend(nodes().filter(|_| slow).map(|id| Step::Tick(Some(id))));
        if world.leader.is_some() && world.vanishes > 0 {
            steps.push(Step::Vanish);
        }
        if world.pauses > 0 {
            steps.push(Step::Pause);
        }
        if world.ttls > 0 {
            steps.push(Step::SetTtl);
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
            if self.pauses > 0 {
                steps.push(Step::PassHeard(id));
            }
            match node.call {
                None if node.last.is_some() => steps.push(Step::Beat(id)),
                Some(Call { done: Some(_), .. }) => {
                    steps.extend([Step::Answer(id), Step::GiveUp(id)]);
                }
                Some(_) => steps.push(Step::GiveUp(id)),
                None => {}
            }
            if world.faults > 0 {
                steps.extend([Step::KillAgent(id), Step::Crash(id), Step::Freeze(id)]);
                if node.last.is_some() && node.call.is_none() {
                    steps.push(Step::ShutDown(id));
                }
            }
        }
    }

    fn next_state(&self, world: &World, step: Step) -> Option<World> {
        let mut next = *world;
        match step {
            Step::Tick(slow) => self.tick(&mut next, slow),
            Step::Pass(id) => self.pass(&mut next, id, Sees::Store),
            Step::PassHeard(id) => self.pass(&mut next, id, Sees::StoreAndMembers),
            Step::BlindPass(id) => self.pass(&mut next, id, Sees::Nothing),
            Step::Beat(id) => self.beat(&mut next, id),
            Step::Arrive(id) => self.arrive(&mut next, id),
            Step::ArriveLate(id) => {
                let sent = next.nodes[usize::from(id)].late.take()?;
                self.write(&mut next, id, sent);
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
            Step::Pause => {
                next.pauses -= 1;
                next.pause = !next.pause;
            }
            Step::SetTtl => {
                next.ttls -= 1;
                next.ttl = TTL + TTL_LONG - next.ttl;
            }
        }
        next.forget_who_is_who(|request| self.waits_though_over(request));
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

/// What a pass learns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sees {
    Nothing,
    Store,
    StoreAndMembers,
}

impl Lease {
    fn is(&self, fault: Fault) -> bool {
        self.fault == fault
    }

    fn timing(ttl: u8) -> Timing {
        Timing { tick_ms: TICK_MS, ttl }
    }

    fn tick(&self, world: &mut World, slow: Option<Id>) {
        let ttl = world.position.ttl;
        world.steady = world.steady.saturating_sub(1);
        if slow.is_some() {
            world.drifts -= 1;
            world.steady = if self.is(Fault::ClocksDriftMore) { 0 } else { TTL + 1 };
        }
        for id in nodes().filter(|id| Some(*id) != slow) {
            let node = world.node(id);
            node.held = node.held.saturating_sub(1);
            node.age = (node.age + 1).min(ttl);
            if let Some(call) = &mut node.call {
                call.age = (call.age + 1).min(call.sent.counted - 2);
            }
            if node.guard == LIFTED {
                self.note_if(node.held == 0, 8);
            } else if node.pg == Pg::Primary && !self.is(Fault::DeadlineInPasses) {
                node.guard = node.guard.saturating_sub(1);
                if node.guard == 0 && !node.frozen {
                    // `Guard::step` in guard/watch.rs.
                    node.stop();
                    self.reached.note(2);
                }
            }
        }
    }

    fn note_if(&self, so: bool, what: usize) {
        if so {
            self.reached.note(what);
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
}
