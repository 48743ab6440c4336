//! Site grants: does a majority of voters, renewed by one datacenter and wanted by another, ever
//! let both write?
//!
//! Two datacenters and three voters. The real `grant` counts the holder's right and says when a
//! challenger may take a voter's grant. A voter forgets a grant whenever it likes: in time, early
//! (etcd#15247) and late are one step. Requests take any time, may be given up and never answered.
//! Voters differ in nothing but their names: they are kept in order.

use crate::check::Reached;
use node_agent_core::grant::{self, LastGrant, Majority, Terms, Voter};
use node_agent_core::time::Boot;
use node_agent_wire::{DcName, Epoch};
use stateright::{Model, Property};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

const TICK: Duration = Duration::from_secs(1);
const NOW: Boot = Boot(1_000_000_000_000);
/// Voters.
const VOTERS: usize = 3;
/// The holder's TTL, in ticks.
pub const HOLD: u8 = 2;
/// From losing the right to the last acknowledged commit, at most.
pub const STOP: u8 = 1;
/// How far two clocks may part within a TTL.
const DRIFT: u8 = 1;
/// The voter's TTL by the real terms.
const QUIET: u8 = HOLD + DRIFT + STOP;

/// What the real code counts with.
fn terms() -> Terms {
    Terms {
        holder_ttl: TICK * u32::from(HOLD),
        clock_error_ppm: 1_000_000 * u32::from(DRIFT) / u32::from(HOLD),
        stop_max: TICK * u32::from(STOP),
        margin: Duration::ZERO,
    }
}

/// A mistake that the model is to catch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// None.
    None,
    /// The grants are given back before PostgreSQL has stopped.
    ReleasedEarly,
    /// A key that is gone is taken for a grant whose time has passed.
    NoObserverWait,
    /// The right is counted from the answer to a renewal.
    CountedFromTheAnswer,
    /// The voter's TTL leaves no time for stopping.
    NoTimeToStop,
    /// Clocks part further than the terms say.
    ClocksDriftMore,
    /// A grant is taken without a look at whether it was renewed since the decision.
    TakenUnseen,
    /// One grant is taken for a majority.
    OneIsEnough,
}

/// A datacenter: the holder of epoch 1, and who wants epoch 2.
type Site = usize;

/// A request on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Call {
    age: u8,
    /// Nobody has written since the decision.
    unchanged: bool,
    /// Answered by the voter: granted or not.
    done: Option<bool>,
}

/// One voter, and what both datacenters know of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Seat {
    holder: Site,
    held: bool,
    released: bool,
    /// Ticks of the challenger's clock since the last renewal.
    quiet: u8,
    /// Ticks since the last renewal that succeeded was sent, by each datacenter's clock.
    sent: [Option<u8>; 2],
    calls: [Option<Call>; 2],
}

/// The world.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct World {
    seats: [Seat; VOTERS],
    writes: [bool; 2],
    /// Ticks until nothing of a primary is left.
    guard: [u8; 2],
    drifts: u8,
    /// Ticks until clocks may part again.
    steady: u8,
    kills: u8,
}

/// What can happen next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Time passes; the holder's clock may miss it.
    Tick(bool),
    /// A datacenter sends a renewal, or asks for a grant.
    Send(Site, usize),
    /// The request reaches the voter.
    Arrive(Site, usize),
    /// Its answer comes.
    Answer(Site, usize),
    /// It is waited for no longer.
    GiveUp(Site, usize),
    /// A voter forgets its grant.
    Vanish(usize),
    /// The challenger has a majority, and is promoted.
    Promote,
    /// The holder stops and gives its grants back.
    Release,
    /// The holder's agent is killed: it forgets, the guard goes on.
    Kill,
}

/// The property.
pub const ONE: &str = "at most one datacenter can acknowledge";
/// What must be reachable.
pub const REACHED: [&str; 5] = [
    "the challenger is promoted",
    "a grant that vanished is put back",
    "the guard ends the holder",
    "a late request is refused, for the grant was renewed since",
    "the challenger is promoted after a clean release",
];

/// The model.
pub struct Grants {
    /// How often the holder's clock misses a tick.
    pub drifts: u8,
    /// How often its agent is killed.
    pub kills: u8,
    /// The mistake.
    pub fault: Fault,
    /// What was reached.
    pub reached: Arc<Reached>,
}

impl Model for Grants {
    type State = World;
    type Action = Step;

    fn init_states(&self) -> Vec<World> {
        let (sent, calls) = ([Some(0), None], [None, None]);
        let seat = Seat { holder: 0, held: true, released: false, quiet: 0, sent, calls };
        let (seats, drifts, kills) = ([seat; VOTERS], self.drifts, self.kills);
        let (writes, guard) = ([true, false], [HOLD + STOP, 0]);
        vec![World { seats, writes, guard, drifts, steady: 0, kills }]
    }

    fn actions(&self, world: &World, steps: &mut Vec<Step>) {
        if world.writes == [false, true] {
            return;
        }
        steps.push(Step::Tick(false));
        if world.drifts > 0 && world.steady == 0 {
            steps.push(Step::Tick(true));
        }
        for site in (0..2).filter(|site| *site == 1 || world.writes[0]) {
            let busy = world.seats.iter().any(|seat| seat.calls[site].is_some());
            for (at, seat) in world.seats.iter().enumerate() {
                match seat.calls[site] {
                    None if !busy => steps.push(Step::Send(site, at)),
                    None => {}
                    Some(Call { done: None, .. }) => {
                        steps.extend([Step::Arrive(site, at), Step::GiveUp(site, at)]);
                    }
                    Some(Call { done: Some(_), .. }) => {
                        steps.extend([Step::Answer(site, at), Step::GiveUp(site, at)]);
                    }
                }
            }
        }
        steps.extend((0..VOTERS).map(Step::Vanish));
        steps.extend([Step::Promote, Step::Release]);
        if world.kills > 0 {
            steps.push(Step::Kill);
        }
    }

    fn next_state(&self, world: &World, step: Step) -> Option<World> {
        let mut next = *world;
        match step {
            Step::Tick(slow) => self.tick(&mut next, slow),
            Step::Send(site, at) => self.send(&mut next, site, at)?,
            Step::Arrive(site, at) => self.arrive(&mut next, site, at)?,
            Step::Answer(site, at) => self.answer(&mut next, site, at)?,
            Step::GiveUp(site, at) => next.seats[at].calls[site] = None,
            Step::Vanish(at) => next.seats[at].held = false,
            Step::Promote => {
                self.held(world, 1).filter(|_| !world.writes[1])?;
                (next.writes[1], next.guard[1]) = (true, HOLD + STOP);
                let clean = world.seats.iter().any(|seat| seat.released);
                self.reached.note(if clean { 4 } else { 0 });
            }
            Step::Release => self.release(&mut next),
            Step::Kill => {
                next.kills -= 1;
                for seat in &mut next.seats {
                    (seat.sent[0], seat.calls[0]) = (None, None);
                }
            }
        }
        next.forget_what_is_over();
        next.seats.sort_unstable();
        (next != *world).then_some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![Property::always(ONE, |_, world: &World| !(world.writes[0] && world.writes[1]))]
    }
}

impl World {
    /// A holder that has stopped for good is of no interest any more, nor is what comes after the
    /// challenger's promotion then.
    fn forget_what_is_over(&mut self) {
        if self.writes[0] {
            return;
        }
        (self.guard[0], self.drifts, self.steady, self.kills) = (0, 0, 0, 0);
        for seat in &mut self.seats {
            (seat.sent[0], seat.calls[0]) = (None, None);
        }
    }
}

fn site(place: Site) -> DcName {
    DcName::from(["dc1", "dc2"][place])
}

fn epoch(place: Site) -> Epoch {
    Epoch([1, 2][place])
}

impl Grants {
    fn is(&self, fault: Fault) -> bool {
        self.fault == fault
    }

    /// The ticks for which the datacenter may still write, by the real count.
    fn held(&self, world: &World, place: Site) -> Option<u8> {
        let mut sent = BTreeMap::new();
        for (at, seat) in world.seats.iter().enumerate() {
            if let Some(age) = seat.sent[place] {
                sent.insert(at, (epoch(place), NOW - TICK * u32::from(age)));
            }
        }
        let voters = if self.is(Fault::OneIsEnough) { 1 } else { VOTERS };
        let majority = Majority::of(voters, &sent, epoch(place), &terms(), NOW)?;
        u8::try_from(NOW.until(majority.until()).as_secs()).ok()
    }

    fn tick(&self, world: &mut World, slow: bool) {
        world.steady = world.steady.saturating_sub(1);
        if slow {
            world.drifts -= 1;
            world.steady = if self.is(Fault::ClocksDriftMore) { 0 } else { QUIET };
        }
        for seat in &mut world.seats {
            seat.quiet = (seat.quiet + 1).min(QUIET);
            for place in (0..2).filter(|place| *place == 1 || !slow) {
                seat.sent[place] = seat.sent[place].map(|age| age + 1).filter(|age| *age < HOLD);
                if let Some(call) = &mut seat.calls[place] {
                    call.age = (call.age + 1).min(HOLD);
                }
            }
        }
        for place in (0..2).filter(|place| *place == 1 || !slow) {
            if world.writes[place] {
                world.guard[place] = world.guard[place].saturating_sub(1);
                if world.guard[place] == 0 {
                    world.writes[place] = false;
                    self.reached.note(2);
                }
            }
        }
    }

    fn send(&self, world: &mut World, place: Site, at: usize) -> Option<()> {
        let seat = &mut world.seats[at];
        let quiet_since = NOW - TICK * u32::from(seat.quiet);
        let mut terms = terms();
        if self.is(Fault::NoTimeToStop) {
            terms.stop_max = Duration::ZERO;
        }
        let last = LastGrant {
            holder: site(seat.holder),
            epoch: epoch(seat.holder),
            released: seat.released,
            wait: terms.voter_ttl(),
        };
        let voter = Voter { last: Some(last), held: seat.held, quiet_since };
        let may = grant::may_take(&voter, &site(place), epoch(place), NOW, &terms).is_ok();
        let gone = self.is(Fault::NoObserverWait) && place == 1 && !seat.held;
        // A grant that was given back is not renewed any more.
        let over = place == 0 && seat.released;
        if !(may || gone) || over {
            return None;
        }
        seat.calls[place] = Some(Call { age: 0, unchanged: true, done: None });
        Some(())
    }

    /// One transaction: a renewal asks for the own grant, a take for the marker that was read.
    fn arrive(&self, world: &mut World, place: Site, at: usize) -> Option<()> {
        let seat = &mut world.seats[at];
        let mut call = seat.calls[place]?;
        let own = seat.holder == place && !seat.released;
        let unseen = self.is(Fault::TakenUnseen) && place == 1;
        let granted = own || place == 1 && (call.unchanged || unseen);
        if granted {
            if own && !seat.held {
                self.reached.note(1);
            }
            (seat.holder, seat.held, seat.released, seat.quiet) = (place, true, false, 0);
            for other in seat.calls.iter_mut().flatten() {
                other.unchanged = false;
            }
        } else if place == 1 {
            self.reached.note(3);
        }
        call.done = Some(granted);
        seat.calls[place] = Some(call);
        Some(())
    }

    fn answer(&self, world: &mut World, place: Site, at: usize) -> Option<()> {
        let call = world.seats[at].calls[place].take()?;
        let age = if self.is(Fault::CountedFromTheAnswer) { 0 } else { call.age };
        if call.done? {
            world.seats[at].sent[place] = Some(age).filter(|age| *age < HOLD);
        }
        if let Some(left) = self.held(world, place)
            && world.writes[place]
        {
            // A guard whose deadline has passed takes no new one.
            if world.guard[place] > STOP {
                world.guard[place] = world.guard[place].max(left + STOP);
            }
        }
        Some(())
    }

    /// A planned end: PostgreSQL has stopped, then the grants go back.
    fn release(&self, world: &mut World) {
        world.writes[0] &= self.is(Fault::ReleasedEarly);
        for seat in &mut world.seats {
            (seat.sent[0], seat.calls[0]) = (None, None);
            if seat.holder == 0 {
                (seat.held, seat.released) = (false, true);
                for call in seat.calls.iter_mut().flatten() {
                    call.unchanged = false;
                }
            }
        }
    }
}
