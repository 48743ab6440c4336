//! The keeper and the desk of promises of the failsafe model.

use super::world::{Call, Node, Round};
use super::{Failsafe, Fault, Pg, TIMING, TTL, World};
use crate::healthy::NOW;
use crate::view::{Id, Set, name, nodes};
use node_agent_core::failsafe::{Plan, Reply};
use node_agent_core::lease::{
    self, Answer, Condition, Holder, KeyWrite, Outcome, Request, after_look, asking_ttl, may_beat,
    may_extend, right_until,
};
use node_agent_core::promise::{Ping, Promise, Promises, Receiver, Vote};
use node_agent_core::terms::{Plans, judge_all, whole};
use node_agent_wire::dynamic::FailsafeMode;
use node_agent_wire::position::FailsafeTerms;
use node_agent_wire::{MemberName, Revision};
use std::collections::BTreeMap;

fn plan(majority: bool) -> Plan {
    Plan {
        terms: FailsafeTerms { members: nodes().map(name).collect(), majority },
        synchronous: None,
    }
}

fn promises(node: &Node) -> Promises {
    Promises {
        given: node
            .promise
            .map(|(to, left)| Promise { leader: name(to), until: TIMING.ahead(left) }),
        vote: node.vote.map(|(to, beat)| Vote { candidate: name(to), beat }),
        racing: node.races(),
        leads: node.last.is_some(),
    }
}

fn receiver(node: &Node) -> Receiver {
    Receiver {
        mode: if node.majority { FailsafeMode::Majority } else { FailsafeMode::All },
        ttl: TIMING.ticks(TTL),
        writes: node.pg == Pg::Primary,
        settled: node.settled,
        newest: node.newest.map(|(by, beat)| (name(by), beat)),
    }
}

fn keep(node: &mut Node, promises: &Promises) {
    let id = |name: &MemberName| crate::view::id(name).unwrap_or_default();
    node.promise = promises.given.as_ref().map(|p| (id(&p.leader), TIMING.left(p.until)));
    node.promise = node.promise.filter(|(_, left)| *left > 0);
    node.vote = promises.vote.as_ref().map(|vote| (id(&vote.candidate), vote.beat));
}

impl Failsafe {
    pub(super) fn beat(&self, world: &mut World, id: Id) {
        let node = world.node(id);
        if may_beat(NOW, TIMING.ahead(node.held), false).is_err() {
            (node.held, node.last) = (0, None);
            return;
        }
        let Some(over) = node.last else { return };
        world.send(id, Request::Beat { over });
    }

    pub(super) fn begin_race(&self, world: &mut World, id: Id) -> bool {
        let beat = world.beat;
        let node = world.node(id);
        let mut desk = promises(node);
        if self.is(Fault::OwnPromiseIgnored) {
            desk.given = None;
        }
        let free = desk.begin_race(NOW, &name(id), beat).is_ok();
        let given = node.promise;
        keep(node, &desk);
        node.promise = given;
        free
    }

    pub(super) fn arrive(&self, world: &mut World, id: Id) {
        let Some(mut call) = world.node(id).call else { return };
        call.done = Some(self.write(world, id, call));
        world.node(id).call = Some(call);
        if !matches!(call.request, Request::Beat { .. }) {
            self.answer(world, id);
        }
    }

    /// One transaction: its conditions and its writes.
    pub(super) fn write(&self, world: &mut World, id: Id, call: Call) -> Option<Revision> {
        let holds = |condition: &Condition| match *condition {
            Condition::KeyIsOurs => world.key == Some(id),
            Condition::KeyIsTheLost => world.key.is_some_and(|leader| leader != id),
            Condition::KeyIsAbsent => world.key.is_none(),
            Condition::PositionAt(over) => over == world.beat,
        };
        if !call.request.conditions().iter().all(holds) {
            return None;
        }
        match call.request.key() {
            KeyWrite::Stays => {}
            KeyWrite::Put => world.key = Some(id),
            KeyWrite::Deleted => world.key = None,
        }
        world.write_position(id, call.request.releases(), call.majority);
        Some(world.beat)
    }

    pub(super) fn answer(&self, world: &mut World, id: Id) {
        let ours = world.key == Some(id);
        let node = world.node(id);
        let Some(call) = node.call.take() else { return };
        let Some(done) = call.done else { return };
        let reply = done.map_or(Answer::Refused, Answer::Written);
        let (sent, ttl) = (TIMING.ago(call.age), TIMING.ticks(TTL));
        match lease::outcome(call.request, reply, sent, ttl) {
            Outcome::Held { until, beat } => {
                (node.held, node.last) = (TIMING.left(until), Some(beat));
                (node.committed, node.sent) = (call.majority, Set(0));
                tell_guard(node);
            }
            Outcome::Then(Request::TakeBack { .. }) if !ours && node.late.is_none() => {}
            Outcome::Then(request) => world.send(id, request),
            Outcome::LookAgain if matches!(call.request, Request::Beat { .. }) => {
                look_again(world, id);
            }
            Outcome::Lost(_) => (node.held, node.last) = (0, None),
            Outcome::NotTaken | Outcome::Released | Outcome::LookAgain | Outcome::Unknown => {}
            Outcome::AskMembers => unreachable!("the store has answered"),
        }
    }

    /// The keeper waits no longer.
    pub(super) fn give_up(&self, world: &mut World, id: Id) {
        let Some(call) = world.at(id).call else { return };
        world.leave_call(id);
        let node = world.node(id);
        let sent = TIMING.ago(call.age);
        match lease::outcome(call.request, Answer::Nothing, sent, TIMING.ticks(TTL)) {
            // `ask_members` in keeper/failsafe.rs.
            Outcome::AskMembers if node.pg == Pg::Primary => {
                let open = Set(0b111 & !(1 << id));
                node.round = Some(Round { age: 0, open, accepted: Set(0) });
            }
            Outcome::AskMembers | Outcome::Unknown => {}
            Outcome::Held { .. }
            | Outcome::Then(_)
            | Outcome::Lost(_)
            | Outcome::NotTaken
            | Outcome::Released
            | Outcome::LookAgain => unreachable!("no answer changes nothing"),
        }
    }

    fn binding(&self, node: &Node) -> Vec<Plan> {
        let mut plans = Plans::default();
        plans.send(Some(plan(node.committed)));
        plans.commit();
        if !self.is(Fault::LastBeatsIgnored) {
            [false, true]
                .into_iter()
                .filter(|majority| node.sent.has(u8::from(*majority)))
                .for_each(|majority| plans.send(Some(plan(majority))));
        }
        plans.binding().unwrap_or_default()
    }

    /// A member is asked: `accept` in failsafe.rs.
    pub(super) fn ask(&self, world: &mut World, leader: Id, member: Id) {
        let asking = world.at(leader);
        let ttl = TIMING.ticks(TTL);
        let ping = Ping {
            leader: name(leader),
            beat: asking.last,
            ttl: Some(asking_ttl(ttl, ttl)),
            majority: whole(&self.binding(asking)).majority,
        };
        let node = world.node(member);
        let receiver = receiver(node);
        let mut desk = promises(node);
        let accepted = desk.accept(NOW, &ping, &receiver).is_ok();
        keep(node, &desk);
        self.note_if(!accepted, 3);
        if let Some(round) = &mut world.node(leader).round {
            round.open.0 &= !(1 << member);
            if accepted {
                round.accepted = round.accepted.with(member);
            }
        }
    }

    /// The answers are counted: `ask_members` and `extend` in keeper/failsafe.rs.
    pub(super) fn judge(&self, world: &mut World, id: Id) {
        let node = world.node(id);
        let Some(round) = node.round.take() else { return };
        let others: Vec<Id> = nodes().filter(|other| *other != id).collect();
        let mut replies: BTreeMap<MemberName, Reply> = BTreeMap::new();
        for other in &others {
            let reply = match round.accepted.has(*other) {
                true => Reply::Accepted(None),
                false => Reply::Refused("silent, or against it".to_owned()),
            };
            replies.insert(name(*other), reply);
        }
        if self.is(Fault::DissenterIgnored)
            && let Some(other) = others.iter().find(|other| !round.accepted.has(**other))
        {
            replies.insert(name(*other), Reply::Accepted(None));
        }
        let outcome = judge_all(&name(id), &self.binding(node), None, &replies);
        self.note_if(outcome.is_ok() && round.accepted.len() == 2, 0);
        self.note_if(outcome.is_ok() && round.accepted.len() == 1, 5);
        self.note_if(outcome.is_err(), 1);
        let until = right_until(TIMING.ago(round.age), TIMING.ticks(TTL));
        let held = node.last.map(|_| TIMING.ahead(node.held));
        if outcome.is_ok() && may_extend(held, NOW, until) {
            node.held = TIMING.left(until);
            tell_guard(node);
        }
    }

    /// A candidate asks for a vote: `vote` in failsafe.rs.
    pub(super) fn vote(&self, world: &mut World, candidate: Id, member: Id) {
        let Some(votes) = world.at(candidate).votes else { return };
        let node = world.node(member);
        let mut desk = promises(node);
        let given = desk.given.clone();
        if self.is(Fault::VoteBesidePromise) {
            desk.given = None;
        }
        let from = TIMING.ago(node.up) + TIMING.ticks(TTL);
        let mut receiver = receiver(node);
        receiver.writes &= !self.is(Fault::VoteOfAFormerLeader);
        let granted = desk.vote(NOW, &name(candidate), votes.beat, from, &receiver).is_ok();
        self.note_if(!granted && given.is_some(), 4);
        desk.given = given;
        keep(node, &desk);
        let asking = world.node(candidate);
        asking.votes_open.0 &= !(1 << member);
        if let Some(votes) = &mut asking.votes
            && granted
        {
            votes.granted = votes.granted.with(member);
        }
    }
}

/// `look_again` in keeper/beat.rs: the store is read at this moment, and what follows counts from
/// now.
fn look_again(world: &mut World, id: Id) {
    let holder = match world.key {
        None => Holder::Nobody,
        Some(leader) if leader == id => Holder::Ours,
        Some(_) => Holder::Another,
    };
    match after_look(holder, world.beat, world.at(id).last) {
        Outcome::Then(request) => world.send(id, request),
        Outcome::Lost(_) => {
            let node = world.node(id);
            (node.held, node.last) = (0, None);
        }
        Outcome::Held { .. }
        | Outcome::AskMembers
        | Outcome::NotTaken
        | Outcome::Released
        | Outcome::LookAgain
        | Outcome::Unknown => unreachable!("a look is followed by a request or by the end"),
    }
}

/// A guard whose deadline has passed takes no new one.
fn tell_guard(node: &mut Node) {
    if node.pg == Pg::Primary && node.guard > 0 && node.held > 0 {
        node.guard = node.held;
    }
}
