//! What an agent of the switchover model sees, and its effects.

use super::world::PRESENT;
use super::{Fault, Pg, Switchover, World};
use crate::choice::{Choice, Effect};
use crate::view::{Answer, Beat, Id, Server, Set, Store, Sync, Timing, View};
use crate::wal::Record;
use node_agent_core::demotion::heir;
use node_agent_core::lease::{Condition, KeyWrite, Request};
use node_agent_core::postgres::Postgres;

const TTL: u8 = 3;

impl Switchover {
    fn view(&self, world: &World, me: Id, reads: bool) -> View {
        let wal = world.wal[usize::from(me)];
        let flushed = |id: u8| {
            world.connected.has(id).then(|| world.wal[usize::from(id)].len().min(wal.len()))
        };
        let names = world.names[usize::from(me)];
        let follows = world.key.filter(|leader| *leader != me);
        let beat_age = match (world.may_still_lead(), world.long_ago) {
            (true, _) => 0,
            (false, false) => TTL,
            (false, true) if self.is(Fault::CandidateAwaited) => TTL,
            (false, true) => 2 * TTL,
        };
        let (leader, released) = (world.beat_by, world.released);
        let beat = Beat { leader, released, unattended: false, ttl: TTL };
        let sync = if self.is(Fault::SyncIgnored) && world.key.is_none() {
            Sync::default()
        } else {
            world.sync
        };
        let store = Store {
            leader: world.key,
            beat: Some(beat),
            beat_age,
            sync,
            asked: world.request,
            members: Set(0b111),
        };
        let held = if world.holds.has(me) { 2 } else { 0 };
        View {
            me,
            timing: Timing { tick_ms: 1000, ttl: TTL },
            pause: false,
            lost: false,
            mode: self.mode,
            count: 1,
            held,
            leads: held > 0,
            kept: false,
            store: reads.then_some(store),
            server: match world.at(me) {
                Pg::Standby => {
                    Server::Standby { wal, names, follows, streams: world.connected.has(me) }
                }
                Pg::Primary => {
                    let flushed = [flushed(0), flushed(1), flushed(2)];
                    Server::Primary { wal, names, flushed }
                }
                // Its agent was started anew; until it has ended nothing is known to write.
                Pg::Stopping => Server::Down { primary: true, wal },
                Pg::Down { primary } => Server::Down { primary, wal },
            },
            names_set_at: world.set_at,
            sync_unsure: false,
            poll: Some([0, 1, 2].map(|other| self.answer(world, me, other))),
            source: world.key.map(|leader| world.wal[usize::from(leader)]),
            start_failed: false,
            failsafe: None,
        }
    }

    fn answer(&self, world: &World, me: Id, other: Id) -> Answer {
        let wal = world.wal[usize::from(other)];
        if world.deaf.has(me) {
            return Answer::Silent;
        }
        match world.at(other) {
            Pg::Standby | Pg::Primary if !world.gone.has(other) => {
                Answer::Runs { primary: world.at(other) == Pg::Primary, wal }
            }
            Pg::Down { .. } if self.is(Fault::CandidateAwaited) => {
                Answer::Runs { primary: false, wal: crate::wal::Wal::default() }
            }
            Pg::Standby | Pg::Primary | Pg::Stopping | Pg::Down { .. } => Answer::Silent,
        }
    }

    /// One pass of the loop. A PostgreSQL that is still shutting down for a former life of the
    /// agent is waited for (`server.start` finds its process).
    pub(super) fn pass(&self, world: &mut World, id: Id, reads: bool) {
        let choice = Choice::of(&self.view(world, id, reads));
        for effect in choice.iter() {
            self.carry_out(world, id, effect);
        }
    }

    fn carry_out(&self, world: &mut World, id: Id, effect: Effect) {
        let (at, pg) = (usize::from(id), world.at(id));
        match effect {
            Effect::Acquire => {
                if world.calls[at].is_none() {
                    world.calls[at] = Some(Request::Acquire { over: PRESENT });
                }
            }
            Effect::Release => self.release(world, id),
            Effect::Promote => {
                world.timeline += 1;
                world.wal[at].push(Record::Timeline(world.timeline, 0));
                self.begin_to_write(world, id);
                self.note_if(world.released_for_a_switchover(), 0);
                self.note_if(
                    world.request.is_some_and(|r| r.candidate.is_some_and(|c| c != id)),
                    2,
                );
            }
            Effect::StartPrimary if pg == Pg::Stopping => {}
            Effect::StartPrimary => {
                self.begin_to_write(world, id);
                self.note_if(world.request.is_some(), 4);
            }
            Effect::Demote { clean, release } => self.demote(world, id, clean, release),
            Effect::StartStandby(_) if pg == Pg::Stopping => {}
            Effect::StartStandby(to) => {
                world.set(id, Pg::Standby);
                self.note_if(to.is_some() && world.wal[at].records().any(is_shutdown), 3);
            }
            Effect::Follow(_) => {}
            Effect::Rewind(source) => {
                let source = world.wal[usize::from(source)];
                world.wal[at].rewind_to(&source);
                world.rewound = true;
            }
            Effect::WriteSync(sync) => world.sync = sync,
            Effect::DeleteSync => world.sync = Sync::default(),
            Effect::SetNames(names) => {
                world.names[at] = names;
                world.set_at = Some(world.wal[at].len());
            }
            Effect::ClearFailover => {
                self.reached.note(1);
                world.clear.get_or_insert(true);
            }
            Effect::EndUnattended | Effect::AskVotes => {
                unreachable!("no maintenance mode, no failsafe mode: {effect:?}")
            }
        }
    }

    fn begin_to_write(&self, world: &mut World, id: Id) {
        world.set(id, Pg::Primary);
        (world.connected, world.set_at) = (Set(0), None);
    }

    /// `demote` in jobs/life.rs.
    fn demote(&self, world: &mut World, id: Id, clean: bool, release: bool) {
        if clean && self.is(Fault::ReleasedBeforeStopped) {
            self.release(world, id);
            return;
        }
        if !clean {
            world.stopped(id);
            if release {
                self.release(world, id);
            }
            return;
        }
        world.set(id, Pg::Stopping);
        world.wal[usize::from(id)].push(Record::Shutdown);
        if release {
            world.demoting = world.demoting.with(id);
        }
        if release && self.is(Fault::ReleasedBeforeShipped) {
            self.release(world, id);
        }
    }

    /// The shutdown has ended: the job goes on.
    pub(super) fn stop(&self, world: &mut World, id: Id) {
        world.stopped(id);
        if world.demoting.has(id) {
            self.release(world, id);
        }
    }

    /// `await_heir` in jobs/demote.rs, by production's own condition.
    pub(super) fn hand_over(&self, world: &mut World, id: Id) {
        let observed = self.view(world, id, true).observed();
        let (Some(cluster), Some(poll), Postgres::Stopped(control)) =
            (observed.cluster.known(), &observed.poll, &observed.postgres)
        else {
            return;
        };
        if heir(control, cluster, &poll.answers).is_ok() {
            self.release(world, id);
            self.reached.note(6);
        }
    }

    /// `release` in keeper/mod.rs: over the last beat, or over what is there.
    fn release(&self, world: &mut World, id: Id) {
        let at = usize::from(id);
        let over = world.last[at].take();
        world.holds.0 &= !(1 << id);
        world.demoting.0 &= !(1 << id);
        world.calls[at] = match over {
            Some(over) => Some(Request::Release { over }),
            None => (world.key == Some(id)).then_some(Request::Release { over: PRESENT }),
        };
    }

    /// The keeper's transaction, by production's conditions; its answer comes at once.
    pub(super) fn arrive(&self, world: &mut World, id: Id) {
        let at = usize::from(id);
        let Some(request) = world.calls[at].take() else { return };
        let conditions = request.conditions();
        let holds = |condition: &Condition| match *condition {
            Condition::KeyIsOurs => world.key == Some(id),
            Condition::KeyIsTheLost => world.key.is_some_and(|leader| leader != id),
            Condition::KeyIsAbsent => world.key.is_none(),
            Condition::PositionAt(over) => over == PRESENT,
        };
        if !conditions.iter().all(holds) {
            if let Request::Acquire { over } = request
                && world.key == Some(id)
            {
                world.calls[at] = Some(Request::TakeBack { over });
            }
            return;
        }
        world.write_position(id, request.releases());
        match request.key() {
            KeyWrite::Deleted => world.key = None,
            KeyWrite::Stays | KeyWrite::Put => {
                world.key = Some(id);
                // The answer finds nobody when the host is lost.
                if !world.gone.has(id) {
                    world.holds = world.holds.with(id);
                    world.last[at] = Some(PRESENT);
                }
            }
        }
    }

    pub(super) fn arrive_clear(&self, world: &mut World) {
        let Some(unchanged) = world.clear.take() else { return };
        if unchanged || self.is(Fault::ClearedUnseen) {
            world.wrong_clear |= !unchanged;
            world.request = None;
        }
    }

    fn note_if(&self, so: bool, what: usize) {
        if so {
            self.reached.note(what);
        }
    }
}

impl World {
    /// The present beat is of whoever took a key that was given up for the request.
    fn released_for_a_switchover(&self) -> bool {
        self.request.is_some_and(|request| request.leader != self.beat_by)
    }
}

fn is_shutdown(record: Record) -> bool {
    record == Record::Shutdown
}
