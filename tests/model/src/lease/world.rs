//! The hosts and the store of the lease model, in a few bytes.

use super::{STOP, TTL};
use crate::view::{Id, NODES, nodes};
use node_agent_core::lease::{Answer, Request, ttls};
use node_agent_wire::Revision;
use std::time::Duration;

/// The revision of `position` as it is.
pub const PRESENT: Revision = Revision(2);
/// Any revision that `position` has left.
pub const PAST: Revision = Revision(1);
/// A guard without a deadline.
pub const LIFTED: u8 = u8::MAX;

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

/// A transaction with what its beat says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sent {
    pub(super) request: Request,
    /// PostgreSQL may go on without the lease.
    pub(super) mark: bool,
    /// The TTL that it carries, and the one that it is counted with, in ticks.
    pub(super) ttl: u8,
    pub(super) counted: u8,
}

/// A call of the keeper to the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Call {
    pub(super) sent: Sent,
    /// Ticks since it was sent.
    pub(super) age: u8,
    /// The second release, after the store was read.
    pub(super) again: bool,
    /// What the store has answered.
    pub(super) done: Option<Reply>,
}

/// [`Answer`] of a store that answers, in an order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reply {
    /// Written at this revision.
    Written(Revision),
    /// A condition did not hold.
    Refused,
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
    /// The last beat that the keeper knows to be committed; it leads while there is one.
    pub(super) last: Option<Revision>,
    /// Ticks since the present beat could be seen. Every node takes it as seen at that moment:
    /// whoever sees it later waits longer, which is a pass that comes later.
    pub(super) age: u8,
    pub(super) call: Option<Call>,
    /// A request that was given up and may still arrive.
    pub(super) late: Option<Sent>,
    /// The TTL that the loop last told the keeper.
    pub(super) ttl: u8,
    /// The guard's deadline is lifted, as a file beside the data directory notes.
    pub(super) kept: bool,
    /// `unattended`, as the loop last told it.
    pub(super) wants: bool,
    /// The TTL that the guard's deadline may have been counted with, in ticks.
    pub(super) in_force: u8,
}

/// `position`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Position {
    pub(super) leader: Id,
    pub(super) released: bool,
    pub(super) mark: bool,
    pub(super) ttl: u8,
}

/// The world.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct World {
    /// The hosts.
    pub nodes: [Node; NODES],
    pub(super) leader: Option<Id>,
    pub(super) position: Position,
    /// Maintenance mode, in the configuration.
    pub(super) pause: bool,
    /// The TTL of the configuration, in ticks.
    pub(super) ttl: u8,
    pub(super) faults: u8,
    pub(super) drifts: u8,
    /// Ticks until clocks may differ again.
    pub(super) steady: u8,
    pub(super) vanishes: u8,
    pub(super) lates: u8,
    pub(super) pauses: u8,
    pub(super) ttls: u8,
}

impl From<Reply> for Answer {
    fn from(answer: Reply) -> Self {
        match answer {
            Reply::Written(revision) => Self::Written(revision),
            Reply::Refused => Self::Refused,
        }
    }
}

impl Sent {
    fn over(&mut self) -> &mut Revision {
        match &mut self.request {
            Request::Beat { over }
            | Request::Replace { over }
            | Request::Acquire { over }
            | Request::TakeBack { over }
            | Request::PutBack { over }
            | Request::Release { over } => over,
        }
    }

    fn position_changed(&mut self) {
        *self.over() = PAST;
    }

    /// Whether somebody has beaten since.
    fn is_over(mut self) -> bool {
        *self.over() == PAST
    }
}

impl Node {
    pub(super) fn stop(&mut self) {
        if self.pg == Pg::Primary {
            self.pg = Pg::Down { primary: true };
        }
        self.guard = 0;
    }

    /// `tell_guard` in keeper/mod.rs. A guard whose deadline has passed takes no new one; `true`
    /// when it took this one.
    pub(super) fn tell_guard(&mut self, deadline: u8) -> bool {
        let takes = self.pg == Pg::Primary && self.guard > STOP && deadline > STOP;
        if takes {
            self.guard = deadline;
        }
        takes
    }

    /// `position` in keeper/beat.rs.
    pub(super) fn sent(&self, request: Request, mark: bool) -> Sent {
        let ticks = |number: u8| Duration::from_secs(u64::from(number));
        let number = |ticks: Duration| u8::try_from(ticks.as_secs()).unwrap_or(u8::MAX);
        let ttls = ttls(ticks(self.ttl), ticks(self.in_force));
        Sent { request, mark, ttl: number(ttls.carried), counted: number(ttls.counted) }
    }

    /// A request over a beat that has been replaced is refused whenever it arrives: then nobody
    /// asks when it was sent, nor with which TTL.
    fn forget_what_is_refused(&mut self, unseen: impl Fn(Request) -> bool) {
        let refused = |sent: Sent| sent.is_over() && !unseen(sent.request);
        self.late = self.late.filter(|late| !refused(*late));
        let Some(Call { sent, age, done, .. }) = &mut self.call else { return };
        if *done == Some(Reply::Refused) || done.is_none() && refused(*sent) {
            (sent.ttl, sent.counted, *age) = (TTL, TTL, 0);
        }
        // Nothing would follow.
        let without = matches!(sent.request, Request::TakeBack { .. } | Request::Replace { .. });
        if without && done.is_none() && refused(*sent) {
            self.call = None;
        }
    }

    /// `lift` in keeper/mark.rs.
    pub(super) fn lift(&mut self) {
        self.kept = true;
        if self.pg == Pg::Primary && self.guard > STOP {
            self.guard = LIFTED;
        }
    }

    /// `lose` in keeper/mod.rs.
    pub(super) fn lose(&mut self) {
        (self.held, self.last, self.kept) = (0, None, false);
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
        (node.held, node.last, node.age) = (0, None, 0);
        (node.wants, node.in_force) = (false, 0);
        // `left_without_deadline` in postgres/mod.rs.
        node.kept &= node.pg == Pg::Primary && node.guard == LIFTED;
    }

    pub(super) fn give_up(&mut self, id: Id) {
        let call = self.node(id).call.take();
        if let Some(Call { sent, done: None, .. }) = call
            && self.lates > 0
        {
            self.lates -= 1;
            self.node(id).late = Some(sent);
        }
    }

    pub(super) fn send(&mut self, id: Id, request: Request, mark: bool) {
        let node = self.node(id);
        let sent = node.sent(request, mark);
        node.call = Some(Call { sent, age: 0, again: false, done: None });
    }

    /// `release` in keeper/mod.rs.
    pub(super) fn release(&mut self, id: Id) {
        let last = self.node(id).last;
        self.node(id).lose();
        match last {
            Some(over) => self.send(id, Request::Release { over }, false),
            None => self.release_what_is_there(id),
        }
    }

    /// The store is read, and a key that is still this node's is given up over what is found.
    pub(super) fn release_what_is_there(&mut self, id: Id) {
        if self.leader != Some(id) {
            return;
        }
        self.send(id, Request::Release { over: PRESENT }, false);
        if let Some(call) = &mut self.node(id).call {
            call.again = true;
        }
    }

    /// Any write of `position` is a new revision to whoever remembers one.
    pub(super) fn write_position(&mut self, position: Position) {
        self.position = position;
        for node in &mut self.nodes {
            node.age = 0;
            node.last = node.last.map(|_| PAST);
            if let Some(late) = &mut node.late {
                late.position_changed();
            }
            if let Some(call) = &mut node.call {
                call.sent.position_changed();
                if let Some(Reply::Written(at)) = &mut call.done {
                    *at = PAST;
                }
            }
        }
    }

    /// What nobody will look at before it is written again has one value. `unseen`: a request that
    /// forgets to look at the beat that it follows.
    fn forget_what_is_over(&mut self, unseen: impl Fn(Request) -> bool) {
        let (released, leader, ttl) = (self.position.released, self.position.leader, self.ttl);
        for id in nodes() {
            let node = self.node(id);
            // Whose beat it is does not wait for it; nobody waits for one that released the key.
            if released || leader == id {
                node.age = 0;
            }
            node.forget_what_is_refused(&unseen);
            // The pass that takes the key tells the TTL first.
            if node.last.is_none() && node.call.is_none() {
                node.ttl = ttl;
                if node.pg != Pg::Primary {
                    node.in_force = 0;
                }
            }
        }
    }

    /// Nodes differ in nothing but their names: sorts them.
    pub(super) fn forget_who_is_who(&mut self, unseen: impl Fn(Request) -> bool) {
        self.forget_what_is_over(unseen);
        let mut order: [Id; NODES] = [0, 1, 2];
        let leads = |id: Id| (self.leader == Some(id), self.position.leader == id);
        order.sort_by_key(|id| (self.nodes[usize::from(*id)], leads(*id)));
        let place = |id: Id| nodes().find(|at| order[usize::from(*at)] == id).unwrap_or(id);
        self.nodes = order.map(|id| self.nodes[usize::from(id)]);
        self.leader = self.leader.map(place);
        self.position.leader = place(self.position.leader);
    }
}
