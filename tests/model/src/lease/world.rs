//! The hosts and the store of the lease model, in a few bytes.

use super::STOP;
use crate::view::{Id, NODES, nodes};

/// PostgreSQL.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Pg {
    /// Runs in recovery.
    Standby,
    /// Accepts writes.
    Primary,
    /// Does not run.
    Down {
        /// It was a primary.
        primary: bool,
    },
}

/// A transaction of the keeper. `unchanged`: `position` is at the revision that it asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Request {
    /// `lead_on`
    Beat,
    /// `acquire`
    Acquire {
        /// See above.
        unchanged: bool,
    },
    /// `put_back`
    PutBack {
        /// See above.
        unchanged: bool,
    },
    /// `release`
    Release {
        /// See above.
        unchanged: bool,
    },
}

impl Request {
    pub(super) fn position_changed(&mut self) {
        match self {
            Self::Acquire { unchanged }
            | Self::PutBack { unchanged }
            | Self::Release { unchanged } => *unchanged = false,
            Self::Beat => {}
        }
    }
}

/// A call of the keeper to the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Call {
    pub(super) request: Request,
    /// Ticks since it was sent.
    pub(super) age: u8,
    /// The store has answered: written or not, and whether nobody wrote `position` since.
    pub(super) done: Option<(bool, bool)>,
}

/// The revision of the last committed beat, as the keeper knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Last {
    /// Not known.
    None,
    /// Somebody wrote `position` since.
    Stale,
    /// `position` is still at it.
    Current,
}

/// One host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Node {
    /// Nothing on it runs; its clock goes on.
    pub frozen: bool,
    /// PostgreSQL.
    pub pg: Pg,
    /// Ticks until nothing of a primary is left, by the guard's deadline.
    pub guard: u8,
    /// Ticks that the right to lead lasts, by the keeper's `held_until`.
    pub held: u8,
    pub(super) last: Last,
    /// Ticks since the present beat could be seen. Every node takes it as seen at that moment:
    /// whoever sees it later waits longer, which is a pass that comes later.
    pub(super) age: u8,
    pub(super) call: Option<Call>,
    /// A request that was given up and may still arrive.
    pub(super) late: Option<Request>,
}

/// The world.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct World {
    /// The hosts.
    pub nodes: [Node; NODES],
    pub(super) leader: Option<Id>,
    /// Whose beat `position` is, and whether it released the key.
    pub(super) beat: (Id, bool),
    pub(super) faults: u8,
    pub(super) drifts: u8,
    /// Ticks until clocks may differ again.
    pub(super) steady: u8,
    pub(super) vanishes: u8,
    pub(super) lates: u8,
}

impl Node {
    pub(super) fn stop(&mut self) {
        if self.pg == Pg::Primary {
            self.pg = Pg::Down { primary: true };
        }
        self.guard = 0;
    }

    /// `held` and `tell_guard` in keeper.rs. A guard whose deadline has passed takes no new one.
    pub(super) fn hold(&mut self, left: u8, current: bool, guard: u8) {
        self.held = left;
        self.last = if current { Last::Current } else { Last::Stale };
        if self.pg == Pg::Primary && self.guard > STOP && left > 0 {
            self.guard = guard;
        }
    }
}

impl World {
    pub(super) fn node(&mut self, id: Id) -> &mut Node {
        &mut self.nodes[usize::from(id)]
    }

    /// `Keeper` and `Memory` begin anew; the guard and PostgreSQL go on. What was on its way to
    /// the store may still arrive.
    pub(super) fn kill_agent(&mut self, id: Id) {
        self.faults -= 1;
        self.give_up(id);
        let node = self.node(id);
        (node.held, node.last, node.age) = (0, Last::None, 0);
    }

    pub(super) fn give_up(&mut self, id: Id) {
        let call = self.node(id).call.take();
        if let Some(Call { request, done: None, .. }) = call
            && self.lates > 0
        {
            self.lates -= 1;
            self.node(id).late = Some(request);
        }
    }

    pub(super) fn send(&mut self, id: Id, request: Request) {
        self.node(id).call = Some(Call { request, age: 0, done: None });
    }

    pub(super) fn release(&mut self, id: Id) {
        let node = self.node(id);
        let unchanged = node.last == Last::Current;
        (node.held, node.last) = (0, Last::None);
        self.send(id, Request::Release { unchanged });
    }

    /// Any write of `position` is a new revision to whoever remembers one.
    pub(super) fn write_position(&mut self, id: Id, released: bool) {
        self.beat = (id, released);
        for node in &mut self.nodes {
            node.age = 0;
            if node.last == Last::Current {
                node.last = Last::Stale;
            }
            if let Some(late) = &mut node.late {
                late.position_changed();
            }
            if let Some(call) = &mut node.call {
                call.request.position_changed();
                call.done = call.done.map(|(written, _)| (written, false));
            }
        }
    }

    /// Nodes differ in nothing but their names: sorts them.
    pub(super) fn forget_who_is_who(&mut self) {
        let mut order: [Id; NODES] = [0, 1, 2];
        let leads = |id: Id| (self.leader == Some(id), self.beat.0 == id);
        order.sort_by_key(|id| (self.nodes[usize::from(*id)], leads(*id)));
        let place = |id: Id| nodes().find(|at| order[usize::from(*at)] == id).unwrap_or(id);
        self.nodes = order.map(|id| self.nodes[usize::from(id)]);
        self.leader = self.leader.map(place);
        self.beat.0 = place(self.beat.0);
    }
}
