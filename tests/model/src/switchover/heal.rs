//! Does somebody come to lead once nothing fails any more?
//!
//! Stateright's `eventually` has false negatives, so this is a safety property of each state: one
//! deterministic run from it, in which every step is taken in its turn and nothing fails, must come
//! to a leader that accepts writes within a bounded number of rounds. It shows that a way out
//! exists from everywhere and that the agents' own decisions take it; not that every order of
//! steps does.

use super::{Pg, Switchover, World};
use crate::view::{Mode, Set, nodes};
use std::cell::RefCell;
use std::collections::HashSet;

/// Rounds until somebody leads.
const ROUNDS: u8 = 16;

thread_local! {
    /// States that were run from already, and came to a leader.
    static WELL: RefCell<HashSet<World>> = RefCell::default();
}

impl Switchover {
    /// With the nodes that are gone gone for good.
    pub(super) fn heals(&self, world: &World) -> bool {
        let mut now = World { deaf: Set(0), ..*world };
        let mut seen = Vec::new();
        for _ in 0..ROUNDS {
            if is_well(&now) || WELL.with_borrow(|well| well.contains(&now)) {
                WELL.with_borrow_mut(|well| well.extend(seen));
                return true;
            }
            seen.push(now);
            self.round(&mut now);
        }
        false
    }

    /// Each step that is nobody's fault, in its turn.
    fn round(&self, world: &mut World) {
        for id in nodes() {
            self.arrive(world, id);
        }
        self.arrive_clear(world);
        let gone = world.gone;
        for id in nodes().filter(|id| !gone.has(*id)) {
            while world.connected.iter().any(|standby| {
                world.source().is_some_and(|source| {
                    world.wal[usize::from(standby)].len() < world.wal[usize::from(source)].len()
                })
            }) {
                world.connected.iter().for_each(|standby| world.receive(standby));
            }
            if world.stops(id) {
                self.stop(world, id);
            }
            if !world.demoting.has(id) {
                self.pass(world, id, true);
            }
            if world.may_connect(id) {
                world.connect(id);
            }
        }
        let quiet = world.calls.iter().all(Option::is_none);
        if quiet && self.may_vanish(world) {
            world.key = None;
        } else if quiet && world.key.is_none() && !world.may_still_lead() {
            world.long_ago = true;
        }
        world.acknowledge();
    }

    /// Somebody who lives may be elected.
    pub(super) fn can_go_on(&self, world: &World) -> bool {
        let named = world.sync.standbys.iter().chain(world.sync.leader);
        self.mode == Mode::Async || named.into_iter().any(|id| !world.gone.has(id))
    }
}

fn is_well(world: &World) -> bool {
    let leads = |id| world.holds.has(id) && world.at(id) == Pg::Primary && !world.gone.has(id);
    world.request.is_none() && world.key.is_some_and(leads)
}
