//! The hosts and the store of the failsafe model, in a few bytes.

use super::{Bounds, SETTLED, TTL};
use crate::view::{Id, NODES, Set, nodes};
use node_agent_core::lease::Request;
use node_agent_wire::Revision;

/// PostgreSQL.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Pg {
    /// Runs in recovery.
    Standby,
    /// Accepts writes.
    Primary,
    /// Was a primary and does not run.
    Down,
}

/// A call of the keeper to the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Call {
    pub(super) request: Request,
    /// What its beat says.
    pub(super) majority: bool,
    /// Ticks since it was sent.
    pub(super) age: u8,
    /// The answer: the revision, or refused.
    pub(super) done: Option<Option<Revision>>,
}

/// The members are asked in the store's place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Round {
    /// Ticks since they were asked.
    pub(super) age: u8,
    /// Who has not answered yet.
    pub(super) open: Set,
    pub(super) accepted: Set,
}

/// Votes that a candidate has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Votes {
    pub(super) age: u8,
    pub(super) beat: Revision,
    pub(super) granted: Set,
}

/// One host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Node {
    pub(super) pg: Pg,
    /// Ticks until nothing of a primary is left, by the guard's deadline.
    pub(super) guard: u8,
    /// Ticks that the right to lead lasts.
    pub(super) held: u8,
    pub(super) last: Option<Revision>,
    /// Ticks since the present beat could be seen.
    pub(super) age: u8,
    /// Ticks since the agent started.
    pub(super) up: u8,
    pub(super) settled: bool,
    pub(super) newest: Option<(Id, Revision)>,
    /// Whom it has accepted, and for how many ticks more.
    pub(super) promise: Option<(Id, u8)>,
    pub(super) vote: Option<(Id, Revision)>,
    pub(super) votes: Option<Votes>,
    /// Who has not answered the question for votes yet.
    pub(super) votes_open: Set,
    /// The mode as the agent last read it.
    pub(super) majority: bool,
    /// Of the last committed beat, and of those sent since: all, majority.
    pub(super) committed: bool,
    pub(super) sent: Set,
    pub(super) call: Option<Call>,
    pub(super) late: Option<Call>,
    pub(super) round: Option<Round>,
}

/// The world.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct World {
    pub(super) nodes: [Node; NODES],
    pub(super) key: Option<Id>,
    /// `position`: by whom, at which revision, on what terms.
    pub(super) leader: Id,
    pub(super) beat: Revision,
    pub(super) released: bool,
    pub(super) beat_majority: bool,
    /// The mode in the configuration.
    pub(super) majority: bool,
    pub(super) left: Bounds,
}

impl Node {
    pub(super) fn stop(&mut self) {
        if self.pg == Pg::Primary {
            self.pg = Pg::Down;
        }
        self.guard = 0;
    }

    /// From `begin_race` to `end_race`: the loop waits for the keeper.
    pub(super) fn races(&self) -> bool {
        self.call.is_some_and(|call| {
            matches!(call.request, Request::Acquire { .. } | Request::TakeBack { .. })
        })
    }
}

impl World {
    /// The first node leads by a beat that has just been committed.
    pub(super) fn healthy(majority: bool, left: Bounds) -> Self {
        let beat = Revision(1);
        let standby = Node {
            pg: Pg::Standby,
            guard: 0,
            held: 0,
            last: None,
            age: 0,
            up: SETTLED,
            settled: true,
            newest: Some((0, beat)),
            promise: None,
            vote: None,
            votes: None,
            votes_open: Set(0),
            majority,
            committed: majority,
            sent: Set(0),
            call: None,
            late: None,
            round: None,
        };
        let (pg, last) = (Pg::Primary, Some(beat));
        let primary = Node { pg, guard: TTL, held: TTL, last, ..standby };
        Self {
            nodes: [primary, standby, standby],
            key: Some(0),
            leader: 0,
            beat,
            released: false,
            beat_majority: majority,
            majority,
            left,
        }
    }

    pub(super) fn at(&self, id: Id) -> &Node {
        &self.nodes[usize::from(id)]
    }

    pub(super) fn node(&mut self, id: Id) -> &mut Node {
        &mut self.nodes[usize::from(id)]
    }

    pub(super) fn tick(&mut self, answers_count: bool) {
        for node in &mut self.nodes {
            node.held = node.held.saturating_sub(1);
            node.age = (node.age + 1).min(TTL);
            node.up = (node.up + 1).min(SETTLED);
            node.promise = node.promise.map(|(to, left)| (to, left - 1)).filter(|p| p.1 > 0);
            if let Some(call) = &mut node.call {
                call.age = (call.age + 1).min(TTL);
            }
            if let Some(round) = &mut node.round
                && !answers_count
            {
                round.age = (round.age + 1).min(TTL);
            }
            // Votes are fresh for one tick.
            (node.votes, node.votes_open) = (None, Set(0));
            if node.pg == Pg::Primary {
                node.guard = node.guard.saturating_sub(1);
                if node.guard == 0 {
                    node.stop();
                }
            }
        }
    }

    /// `Keeper`, `Desk` and `Memory` begin anew; the guard and PostgreSQL go on.
    pub(super) fn kill_agent(&mut self, id: Id, promised_nothing: bool) {
        self.left.faults -= 1;
        self.leave_call(id);
        let node = self.node(id);
        let age = if promised_nothing { node.age } else { 0 };
        let up = if promised_nothing { SETTLED } else { 0 };
        *node = Node {
            held: 0,
            last: None,
            age,
            up,
            settled: promised_nothing,
            newest: None,
            promise: None,
            vote: None,
            votes: None,
            votes_open: Set(0),
            sent: Set(0),
            committed: false,
            round: None,
            ..*node
        };
    }

    /// A call that nobody waits for any more may still arrive.
    pub(super) fn leave_call(&mut self, id: Id) {
        let call = self.node(id).call.take();
        if let Some(call) = call.filter(|call| call.done.is_none())
            && self.left.lates > 0
        {
            self.left.lates -= 1;
            self.node(id).late = Some(Call { age: 0, ..call });
        }
    }

    pub(super) fn send(&mut self, id: Id, request: Request) {
        let node = self.node(id);
        let majority = node.majority;
        node.sent = node.sent.with(u8::from(majority));
        node.call = Some(Call { request, majority, age: 0, done: None });
    }

    /// `release` in keeper/mod.rs: over what the keeper knows. What it would read instead is what
    /// the next pass finds.
    pub(super) fn release(&mut self, id: Id) {
        let node = self.node(id);
        node.held = 0;
        if let Some(over) = node.last.take() {
            self.send(id, Request::Release { over });
        }
    }

    pub(super) fn write_position(&mut self, id: Id, released: bool, majority: bool) {
        self.beat = Revision(self.beat.0 + 1);
        (self.leader, self.released, self.beat_majority) = (id, released, majority);
        for node in &mut self.nodes {
            node.age = 0;
        }
    }

    /// States that differ in nothing that can still count are the same state.
    pub(super) fn forget(&mut self) {
        self.forget_what_is_over();
        self.forget_old_revisions();
        self.forget_who_is_who();
    }

    fn forget_what_is_over(&mut self) {
        let by_majority = |node: &Node| {
            let calls = node.call.iter().chain(node.late.iter()).any(|call| call.majority);
            node.majority || node.committed || node.sent.has(1) || calls
        };
        if !self.majority && !self.beat_majority && !self.nodes.iter().any(by_majority) {
            // Only votes, and agreement to a leader that needs a majority, depend on it.
            self.nodes.iter_mut().for_each(|node| (node.up, node.settled) = (SETTLED, true));
        }
        let (released, leader) = (self.released, self.leader);
        // What a leader may still name in a question.
        let named = |node: &Node| {
            let answered = node.call.and_then(|call| call.done).flatten();
            node.last.into_iter().chain(answered).min()
        };
        let oldest = self.nodes.iter().filter_map(named).min();
        let counts = |seen: Revision| oldest.is_some_and(|oldest| oldest <= seen);
        for id in nodes() {
            let node = self.node(id);
            if released || leader == id {
                node.age = 0;
            }
            // To whom only matters to the reader of a message.
            node.promise = node.promise.map(|(_, left)| (0, left));
            node.vote = node.vote.filter(|vote| counts(vote.1)).map(|(_, beat)| (0, beat));
            node.newest = node.newest.filter(|newest| counts(newest.1));
            node.sent.0 &= !(1 << u8::from(node.committed));
        }
    }

    /// Only the order of revisions counts: numbers them anew.
    fn forget_old_revisions(&mut self) {
        let mut all = 1_u64 << self.beat.0;
        self.each_revision(|revision| all |= 1 << revision.0);
        let place = |revision: Revision| {
            Revision(i64::from((all & ((1 << revision.0) - 1)).count_ones()) + 1)
        };
        self.each_revision(|revision| *revision = place(*revision));
        self.beat = place(self.beat);
    }

    /// Nodes differ in nothing but their names: sorts them, by what names nobody.
    fn forget_who_is_who(&mut self) {
        let mut order: [Id; NODES] = [0, 1, 2];
        let of = |id: Id| {
            let node = &self.nodes[usize::from(id)];
            let left = node.promise.map(|promise| promise.1);
            let asks = (node.call.is_some(), node.round.is_some(), node.votes.is_some());
            let times = (node.guard, node.held, node.last, node.age, node.up, left);
            let place = (self.key == Some(id), self.leader == id);
            (place, times, asks, node.vote, node.majority)
        };
        order.sort_by_key(|id| of(*id));
        let place = |id: Id| nodes().find(|at| order[usize::from(*at)] == id).unwrap_or(id);
        let places = |set: Set| set.iter().map(place).fold(Set(0), Set::with);
        self.nodes = order.map(|id| self.nodes[usize::from(id)]);
        self.key = self.key.map(place);
        self.leader = place(self.leader);
        for node in &mut self.nodes {
            node.newest = node.newest.map(|(by, beat)| (place(by), beat));
            node.votes_open = places(node.votes_open);
            if let Some(votes) = &mut node.votes {
                votes.granted = places(votes.granted);
            }
            if let Some(round) = &mut node.round {
                (round.open, round.accepted) = (places(round.open), places(round.accepted));
            }
        }
    }

    fn each_revision(&mut self, mut with: impl FnMut(&mut Revision)) {
        for node in &mut self.nodes {
            node.last.iter_mut().for_each(&mut with);
            node.newest.iter_mut().for_each(|(_, revision)| with(revision));
            node.vote.iter_mut().for_each(|(_, revision)| with(revision));
            node.votes.iter_mut().for_each(|votes| with(&mut votes.beat));
            for call in node.call.iter_mut().chain(node.late.iter_mut()) {
                match &mut call.request {
                    Request::Beat { over }
                    | Request::Acquire { over }
                    | Request::Replace { over }
                    | Request::TakeBack { over }
                    | Request::PutBack { over }
                    | Request::Release { over } => with(over),
                }
                call.done.iter_mut().flatten().for_each(&mut with);
            }
        }
    }
}
