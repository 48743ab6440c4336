//! The loop of the lease model: what an agent sees, and its effects.

use super::world::PRESENT;
use super::{Fault, Lease, Node, Pg, Position, Sees, World};
use crate::choice::{Choice, Effect};
use crate::view::{Answer, Beat, Id, Mode, NODES, Names, Server, Set, Store, View};
use crate::wal::Wal;
use node_agent_core::lease::{Request, mark_of_acquisition};

impl Lease {
    /// `pass` in run.rs.
    pub(super) fn pass(&self, world: &mut World, id: Id, sees: Sees) {
        let choice = Choice::of(&self.view(world, id, sees));
        let ttl = world.ttl;
        let node = world.node(id);
        // `tell_keeper` and `beat_facts`.
        node.wants = choice.may_be_unattended && node.pg == Pg::Primary;
        if sees != Sees::Nothing {
            node.ttl = ttl;
        }
        if node.pg == Pg::Primary && self.is(Fault::DeadlineInPasses) {
            node.guard = node.guard.saturating_sub(1);
        }
        for effect in choice.iter() {
            self.carry_out(world, id, effect, sees);
        }
    }

    fn view(&self, world: &World, id: Id, sees: Sees) -> View {
        let node = &world.nodes[usize::from(id)];
        let (wal, names) = (Wal::default(), Names::default());
        let position = world.position;
        let beat = Beat {
            leader: position.leader,
            released: position.released,
            unattended: position.mark && !self.is(Fault::MarkUnseen),
            ttl: position.ttl,
        };
        let store = Store {
            leader: world.leader,
            beat: (!self.is(Fault::NoObserverWait)).then_some(beat),
            beat_age: node.age,
            members: Set(0b111),
            ..Store::default()
        };
        let answer = |node: &Node| match node.pg {
            Pg::Standby | Pg::Primary if !node.frozen => {
                Answer::Runs { primary: node.pg == Pg::Primary, wal }
            }
            Pg::Standby | Pg::Primary | Pg::Down { .. } => Answer::Silent,
        };
        let reads = sees != Sees::Nothing;
        let heard = sees == Sees::StoreAndMembers;
        View {
            me: id,
            timing: Self::timing(if reads { world.ttl } else { node.ttl }),
            pause: reads && world.pause,
            lost: world.vanishes > 0,
            mode: Mode::Async,
            count: 1,
            held: node.held,
            leads: node.last.is_some(),
            kept: node.kept,
            store: reads.then_some(store),
            server: match node.pg {
                Pg::Standby => {
                    let follows = world.leader.filter(|leader| *leader != id);
                    Server::Standby { wal, names, follows, streams: false }
                }
                Pg::Primary => Server::Primary { wal, names, flushed: [None; NODES] },
                Pg::Down { primary } => Server::Down { primary, wal },
            },
            names_set_at: None,
            sync_unsure: false,
            poll: Some(if heard {
                [0, 1, 2].map(|other| answer(&world.nodes[other]))
            } else {
                [Answer::Silent; NODES]
            }),
            source: Some(wal),
            start_failed: false,
            failsafe: None,
        }
    }

    fn carry_out(&self, world: &mut World, id: Id, effect: Effect, sees: Sees) {
        let position = world.position;
        let node = world.node(id);
        match effect {
            // The keeper does one thing after the other; what waits for its turn is decided anew.
            Effect::Acquire | Effect::Release if node.call.is_some() => {}
            Effect::Acquire => {
                let own = !position.released && position.leader == id;
                let mark = mark_of_acquisition(node.wants, node.kept, own && position.mark);
                if own {
                    node.in_force = node.in_force.max(position.ttl);
                }
                self.note_if(node.pg == Pg::Primary && position.mark, 9);
                let over = PRESENT;
                let lost = world.leader.is_some_and(|leader| leader != id);
                let take = if lost { Request::Replace { over } } else { Request::Acquire { over } };
                world.send(id, take, mark);
            }
            Effect::Release => world.release(id),
            Effect::Promote | Effect::StartPrimary => {
                // `promote` and `start_primary` in jobs: armed first, with the lease's end.
                node.pg = Pg::Primary;
                node.guard = self.guard_deadline(node.held);
                self.note_if(effect == Effect::Promote, 0);
                self.note_if(effect == Effect::StartPrimary, 7);
            }
            Effect::Demote { release, .. } => {
                node.stop();
                self.note_if(sees == Sees::Nothing, 3);
                if release && node.call.is_none() {
                    world.release(id);
                }
            }
            Effect::StartStandby(_) => node.pg = Pg::Standby,
            Effect::EndUnattended => {
                // `end_unattended` in apply/tend.rs: one compare-and-set on what was read.
                if world.leader.is_none() {
                    world.write_position(Position { released: true, mark: false, ..position });
                    self.reached.note(10);
                }
            }
            Effect::Follow(_) => {}
            Effect::Rewind(_)
            | Effect::WriteSync(_)
            | Effect::DeleteSync
            | Effect::SetNames(_)
            | Effect::AskVotes
            | Effect::ClearFailover => unreachable!("asynchronous and one timeline: {effect:?}"),
        }
    }
}
