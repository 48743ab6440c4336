//! The keeper of the lease model: production's conditions, and its reading of the answers.

use super::world::PRESENT;
use super::{Call, Fault, Lease, Node, Pg, Position, Reply, STOP, Sent, TTL_LONG, World};
use crate::healthy::NOW;
use crate::view::Id;
use node_agent_core::lease::{
    Condition, GuardOrder, Holder, KeyWrite, Mark, Outcome, Request, after_look, guard_order,
    in_force, mark, may_beat, outcome,
};

impl Lease {
    /// `lead_on` in keeper/mod.rs.
    pub(super) fn beat(&self, world: &mut World, id: Id) {
        let node = world.node(id);
        let until = Self::timing(node.ttl).ahead(node.held);
        if may_beat(NOW, until, node.kept).is_err() {
            node.lose();
            return;
        }
        let marked = match mark(node.wants, node.kept, node.pg == Pg::Primary, NOW, until) {
            Mark::Carried => true,
            Mark::Absent => false,
            Mark::EndsAfter { deadline } => {
                let told = match deadline {
                    Some(_) if !self.is(Fault::MarkGoesFirst) => {
                        node.tell_guard(self.guard_deadline(node.held))
                    }
                    Some(_) | None => true,
                };
                node.kept &= !told;
                self.note_if(told && deadline.is_some(), 11);
                !told
            }
        };
        if marked && self.is(Fault::LiftedUncommitted) {
            node.lift();
        }
        let Some(over) = node.last else { return };
        let request = Request::Beat { over };
        world.send(id, request, marked);
        let sent = self.sent(world.node(id), request, marked);
        if let Some(call) = &mut world.node(id).call {
            call.sent = sent;
        }
    }

    fn sent(&self, node: &Node, request: Request, mark: bool) -> Sent {
        let sent = node.sent(request, mark);
        if self.is(Fault::LowerTtlAtOnce) { Sent { ttl: node.ttl, ..sent } } else { sent }
    }

    pub(super) fn guard_deadline(&self, held: u8) -> u8 {
        let beyond = if self.is(Fault::GuardAboveTtl) { 3 } else { 0 };
        held + STOP + beyond
    }

    pub(super) fn arrive(&self, world: &mut World, id: Id) {
        let Some(mut call) = world.node(id).call else { return };
        call.done = Some(self.write(world, id, call.sent));
        world.node(id).call = Some(call);
        if !matches!(call.sent.request, Request::Beat { .. }) {
            // Its answer counts from when it was sent: a later one gives less.
            self.answer(world, id);
        }
    }

    /// One transaction: its conditions and its writes.
    pub(super) fn write(&self, world: &mut World, id: Id, sent: Sent) -> Reply {
        let request = sent.request;
        let holds = |condition: &Condition| match *condition {
            Condition::KeyIsOurs => world.leader == Some(id),
            // Another one than the lost leader has written `position` since.
            Condition::KeyIsTheLost => world.leader.is_some_and(|leader| leader != id),
            Condition::KeyIsAbsent => world.leader.is_none(),
            Condition::PositionAt(over) => over == PRESENT || self.looks_not(request),
        };
        let conditions = request.conditions();
        if !conditions.iter().all(holds) {
            let key = !matches!(conditions[0], Condition::PositionAt(_)) && holds(&conditions[0]);
            self.note_if(key && matches!(request, Request::Acquire { .. }), 4);
            self.note_if(key && matches!(request, Request::Release { .. }), 5);
            return Reply::Refused;
        }
        if matches!(request, Request::Replace { .. }) {
            // To the others it is as if the key had vanished: they share the bound.
            world.vanishes = world.vanishes.saturating_sub(1);
        }
        match request.key() {
            KeyWrite::Stays => {}
            KeyWrite::Put => world.leader = Some(id),
            KeyWrite::Deleted => world.leader = None,
        }
        let (released, mark, ttl) = (request.releases(), sent.mark, sent.ttl);
        world.write_position(Position { leader: id, released, mark, ttl });
        Reply::Written(PRESENT)
    }

    /// A request that was given up and follows a beat that has been replaced can still do
    /// something, or is to show that it can't.
    pub(super) fn waits_though_over(&self, request: Request) -> bool {
        self.looks_not(request) || matches!(request, Request::Release { .. })
    }

    fn looks_not(&self, request: Request) -> bool {
        match request {
            Request::Acquire { .. } => self.is(Fault::TakenUnseen),
            Request::Replace { .. } => self.is(Fault::ReplacedUnseen),
            Request::Release { .. } => self.is(Fault::ReleasedUnseen),
            Request::TakeBack { .. } => self.is(Fault::TakenBackUnseen),
            Request::Beat { .. } | Request::PutBack { .. } => false,
        }
    }

    pub(super) fn answer(&self, world: &mut World, id: Id) {
        let ours = world.leader == Some(id);
        let node = world.node(id);
        let Some(Call { sent, age, again, done: Some(reply) }) = node.call.take() else { return };
        let counted = if self.is(Fault::CountedFromTheAnswer) { 0 } else { age };
        let ttl = if self.is(Fault::NewTtlAtOnce) { node.ttl } else { sent.counted };
        let timing = Self::timing(ttl);
        let at = timing.ago(counted);
        match outcome(sent.request, reply.into(), at, timing.ticks(ttl)) {
            Outcome::Held { until, beat } => {
                node.held = timing.left(until);
                node.last = Some(beat);
                let deadline = self.guard_deadline(node.held);
                let told = match guard_order(sent.mark, node.pg == Pg::Primary, until) {
                    GuardOrder::Lift => {
                        node.lift();
                        true
                    }
                    GuardOrder::Deadline(_) => node.tell_guard(deadline),
                    GuardOrder::Nothing => true,
                };
                let (before, counted) = (timing.ticks(node.in_force), timing.ticks(ttl));
                let now = in_force(before, counted, told || self.is(Fault::LowerTtlAtOnce));
                node.in_force = if now == counted { ttl } else { node.in_force };
                let held = node.held;
                self.note_if(matches!(sent.request, Request::PutBack { .. }), 1);
                self.note_if(matches!(sent.request, Request::Replace { .. }), 13);
                self.note_if(ttl == TTL_LONG && held > super::HOLD, 12);
            }
            Outcome::Then(request) => {
                // The key can only become this node's by a request that comes late: without one
                // there is nothing to take back, now or later.
                if matches!(request, Request::TakeBack { .. }) && node.late.is_none() && !ours {
                    return;
                }
                let sent = self.sent(node, request, sent.mark);
                node.call = Some(Call { sent, age: 0, again: false, done: None });
            }
            Outcome::Lost(_) => node.lose(),
            Outcome::LookAgain if matches!(sent.request, Request::Beat { .. }) => {
                self.look_again(world, id, sent.mark);
            }
            Outcome::LookAgain if !again => world.release_what_is_there(id),
            Outcome::LookAgain | Outcome::NotTaken | Outcome::Released | Outcome::Unknown => {}
            Outcome::AskMembers => unreachable!("the store has answered"),
        }
    }

    /// `look_again` in keeper/beat.rs: the store is read at this moment.
    fn look_again(&self, world: &mut World, id: Id, mark: bool) {
        let holder = match world.leader {
            None => Holder::Nobody,
            Some(leader) if leader == id => Holder::Ours,
            Some(_) => Holder::Another,
        };
        let node = world.node(id);
        match after_look(holder, PRESENT, node.last) {
            Outcome::Then(request) => {
                self.note_if(matches!(request, Request::Beat { .. }), 14);
                let sent = self.sent(node, request, mark);
                node.call = Some(Call { sent, age: 0, again: false, done: None });
            }
            Outcome::Lost(_) => node.lose(),
            Outcome::Held { .. }
            | Outcome::AskMembers
            | Outcome::NotTaken
            | Outcome::Released
            | Outcome::LookAgain
            | Outcome::Unknown => unreachable!("a look is followed by a request or by the end"),
        }
    }
}
