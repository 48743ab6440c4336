//! I4 in a bounded form: when every datacenter answers again and nobody else does anything, one
//! operator gets whatever is left to its end, with `resume` and with `abort`.

use super::record::{Word, word};
use super::world::{Hand, Places, World};
use super::{Answer, Command, Federation};

/// Rounds in which everything must be settled.
const ROUNDS: u32 = 200;

/// Where both ways lead from a state in which nobody is at work: any death leads to one.
#[must_use]
pub fn endings(model: &Federation, world: &World) -> Vec<World> {
    let busy = world.runs.iter().any(Option::is_some) || world.late.is_some();
    // One epoch that is claimed twice waits for an operator's decision.
    if busy || world.claimed_twice() {
        return Vec::new();
    }
    let open = is_open(world);
    let ways: &[Command] =
        if open { &[Command::Resume, Command::Abort] } else { &[Command::Resume] };
    ways.iter().map(|way| end(model, *world, *way)).collect()
}

fn is_open(world: &World) -> bool {
    world.places().any(|place| world.dc(place).rec.operation.is_some())
}

/// No operation is left, and every datacenter follows the one that accepts writes.
#[must_use]
pub fn one_primary(world: &World) -> bool {
    let (_, newest) = world.newest();
    let primary = newest.primary;
    !is_open(world)
        && world.writers() == Places::default().with(primary)
        && world.places().all(|place| place == primary || world.streams(place))
}

/// Every datacenter has the WAL of the primary one.
#[must_use]
pub fn same_rows(world: &World) -> bool {
    let (_, newest) = world.newest();
    world.places().all(|place| world.dc(place).wal == world.dc(newest.primary).wal)
}

fn end(model: &Federation, mut world: World, way: Command) -> World {
    world.commands = u8::MAX;
    settle(model, &mut world);
    for _ in 0..4 {
        let first = type_and_run(model, &mut world, way);
        if !first && !type_and_run(model, &mut world, Command::Resume) {
            break;
        }
    }
    let (_, newest) = world.newest();
    let primary = newest.primary;
    // A fence by hand is meant; so is the end of it.
    if word(world.dc(primary).rec) != Word::Lifted {
        type_and_run(model, &mut world, Command::Hand(Hand::Lift, primary));
    }
    for place in world.places().filter(|place| *place != primary) {
        type_and_run(model, &mut world, Command::Rejoin(place));
    }
    settle(model, &mut world);
    world
}

/// Types the command and carries it out; whether it was not refused.
fn type_and_run(model: &Federation, world: &mut World, command: Command) -> bool {
    let nobody = Places::default();
    if !model.begin(world, command, nobody, nobody) {
        return false;
    }
    for _ in 0..ROUNDS {
        let Some(at) = world.runs.iter().position(Option::is_some) else { break };
        settle(model, world);
        if !model.access(world, at, Answer::Comes) {
            model.access(world, at, Answer::Deadline);
        }
    }
    settle(model, world);
    true
}

/// The agents go on until nothing changes.
fn settle(model: &Federation, world: &mut World) {
    for _ in 0..ROUNDS {
        let before = *world;
        for me in world.places() {
            let others = world.places().filter(|place| *place != me);
            let looks = others.fold(Places::default(), Places::with);
            model.pass(world, me, looks);
            while model.receive(world, me) {}
        }
        if *world == before {
            return;
        }
    }
}
