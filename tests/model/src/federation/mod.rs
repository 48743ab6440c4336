//! Who may be primary among datacenters: records, fences, acknowledgements, epochs and the
//! operations that move the right.
//!
//! A datacenter is reduced to the leader of its cluster, which holds its key all the time (the
//! model `lease` is about that). Its steps are passes of the real `decide`. A federator takes one
//! access to one datacenter at a time, with the real plan, changes and step conditions; between
//! any two of them everything else may happen. A federator reaches a datacenter or not, an agent's
//! look at another one succeeds or not, each time anew: that is what a WAN does that is cut.

pub mod agent;
pub mod command;
pub mod federator;
pub mod finish;
pub mod grants;
pub mod record;
mod steps;
pub mod world;

pub use command::Command;
pub use federator::Answer;
pub use world::{FEDERATORS, Hand, Id, PLACES, Pg, Places, Seen, World};

use crate::check::Reached;
use crate::wal::Record;
use agent::{Effect, View, carry_out};
use node_agent_wire::DcName;
use record::{Kind, SmallPhase};
use stateright::{Model, Property};
use std::sync::Arc;

/// The datacenter's name.
#[must_use]
pub fn dc(place: Id) -> DcName {
    DcName::from(["dc1", "dc2", "dc3"][usize::from(place)])
}

/// The place of a name.
#[must_use]
pub fn id(name: &DcName) -> Id {
    let digit = name.as_str().trim_start_matches("dc").parse::<Id>();
    digit.map_or(0, |number| number.saturating_sub(1))
}

/// A mistake that the model is to catch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// None.
    None,
    /// The fence's acknowledgement is not waited for.
    SkipAcknowledgement,
    /// The commit comes before the target has everything.
    CommitBeforeCatchUp,
    /// A returned datacenter does not look at the others' epochs.
    IgnoreEpochOnReturn,
    /// The way back is begun although the operation is committed.
    AbortAfterCommit,
    /// Without `standby_cluster` the record is not looked at.
    PromoteOnHandEdit,
    /// A record is written without a look at whether it changed since it was read.
    NoCompareAndSet,
    /// The former primary's fence is lifted before the way back is begun.
    LiftWithoutProof,
    /// A configuration is written without a look at the record.
    ConfiguredUnseen,
    /// A take is given back without a look at whether somebody went on with the operation.
    GivenBackUnseen,
    /// Divergence is judged by the numbers and positions of histories alone.
    ByHistoryAlone,
}

/// What can happen next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The agent looks at these other datacenters with success, reads, decides and acts.
    Pass(Id, Places),
    /// The leader of a standby datacenter receives one record more.
    Receive(Id),
    /// A client commits a row.
    Row(Id),
    /// An operator types this while the first of these datacenters do not answer; the second do not
    /// answer for as long as it takes.
    Type(Command, Places, Places),
    /// A federator's next access.
    Access(usize, Answer),
    /// A federator dies.
    Kill(usize),
    /// A write that was given up arrives.
    Arrive,
    /// The leader's host is lost and comes back, after long or not.
    Crash(Id, bool),
    /// Somebody removes `standby_cluster`.
    Edit(Id),
}

/// I1 as it can be seen from outside: after a pass.
pub const I1: &str = "I1: after a pass only the unfenced primary of its record accepts writes";
/// I2, the part that needs no operator's word.
pub const I2: &str = "I2: without an attestation two datacenters never accept writes";
/// I2 once the other epoch is known.
pub const I2_KNOWN: &str = "I2: who knows another claim on its epoch does not accept writes";
/// I3.
pub const I3: &str = "I3: what was written before a switchover is there after it";
/// I4, in a bounded form.
pub const I4: &str = "I4: whatever is left can be resumed and aborted, and ends with one primary";
/// What I8 and the return of a datacenter rest on.
pub const SAME_ROWS: &str = "after a rejoin every datacenter has the rows of the primary one";
/// I6.
pub const I6: &str = "I6: a removed standby_cluster promotes nobody";
/// I7.
pub const I7: &str = "I7: who knows a later epoch does not accept writes";

const STEPWISE: [&str; 5] = [I1, I2_KNOWN, I3, I6, I7];

fn bit(property: &str) -> u8 {
    STEPWISE.iter().position(|other| *other == property).map_or(0, |at| 1 << at)
}

/// What must be reachable, or the model shows nothing.
pub const REACHED: [&str; 10] = [
    "a switchover is committed",
    "an acknowledged promotion is committed",
    "an attested promotion is committed",
    "two datacenters accept writes",
    "a datacenter learns of a later epoch by itself",
    "one epoch is claimed twice",
    "a way back lifts a fence",
    "a late write is refused, for the record has changed since",
    "a datacenter is rewound",
    "a datacenter is copied anew, for both began one timeline",
];
/// Not among [`REACHED`]: the WAL of the model was too short.
pub const NO_ROOM: usize = 15;

/// The model.
pub struct Federation {
    /// How many datacenters.
    pub count: u8,
    /// How many commands are given.
    pub commands: u8,
    /// Which.
    pub allowed: fn(Command) -> bool,
    /// How many faults.
    pub faults: u8,
    /// Which.
    pub may: May,
    /// Rows written at most, the first one included.
    pub rows: u8,
    /// Whether [`SAME_ROWS`] is looked at.
    pub compares_rows: bool,
    /// The mistake.
    pub fault: Fault,
    /// What was reached, by the place in [`REACHED`].
    pub reached: Arc<Reached>,
}

/// Which faults may happen.
#[derive(Clone, Copy, Debug, Default)]
pub struct May {
    /// A federator dies.
    pub kill: bool,
    /// An access is not answered, or its write comes late.
    pub lose: bool,
    /// A wait is given up.
    pub give_up: bool,
    /// A leader's host is lost.
    pub crash: bool,
    /// `standby_cluster` is removed.
    pub edit: bool,
}

impl Model for Federation {
    type State = World;
    type Action = Step;

    fn init_states(&self) -> Vec<World> {
        vec![World::begin(self.count, self.commands, self.faults)]
    }

    fn actions(&self, world: &World, steps: &mut Vec<Step>) {
        for me in world.places() {
            let others = world.places().filter(|other| *other != me);
            let all = others.fold(Places::default(), Places::with);
            steps.extend([Step::Pass(me, all), Step::Pass(me, Places::default())]);
            steps.push(Step::Receive(me));
            if world.dc(me).pg == Pg::Primary && world.rows < self.rows {
                steps.push(Step::Row(me));
            }
            if world.faults > 0 && self.may.crash {
                steps.extend([Step::Crash(me, false), Step::Crash(me, true)]);
            }
            if world.faults > 0 && self.may.edit && world.dc(me).standby.is_some() {
                steps.push(Step::Edit(me));
            }
        }
        if world.late.is_some() {
            steps.push(Step::Arrive);
        }
        for at in (0..FEDERATORS).filter(|at| world.runs[*at].is_some()) {
            steps.push(Step::Access(at, Answer::Comes));
            if world.faults > 0 && self.may.lose {
                steps.extend([Step::Access(at, Answer::Lost), Step::Access(at, Answer::Late)]);
            }
            if world.faults > 0 && self.may.give_up {
                steps.push(Step::Access(at, Answer::Deadline));
            }
            if world.faults > 0 && self.may.kill {
                steps.push(Step::Kill(at));
            }
        }
        if world.commands > 0 && world.runs.iter().any(Option::is_none) {
            self.commands_to_type(world, steps);
        }
    }

    fn next_state(&self, world: &World, step: Step) -> Option<World> {
        let mut next = *world;
        let happens = match step {
            Step::Pass(me, looks) => self.pass(&mut next, me, looks),
            Step::Receive(me) => self.receive(&mut next, me),
            Step::Row(me) => self.row(&mut next, me),
            Step::Type(command, silent, dark) => self.begin(&mut next, command, silent, dark),
            Step::Access(at, answer) => {
                next.faults -= u8::from(answer != Answer::Comes);
                let went = self.access(&mut next, at, answer);
                self.note_commit(world, &next);
                went
            }
            Step::Kill(at) => {
                next.faults -= 1;
                next.runs[at] = None;
                true
            }
            Step::Arrive => {
                self.arrive(&mut next);
                self.note_commit(world, &next);
                true
            }
            Step::Crash(me, long) => {
                next.faults -= 1;
                crash(&mut next, me, long)
            }
            Step::Edit(me) => {
                next.faults -= 1;
                next.dc_mut(me).standby = None;
                true
            }
        };
        self.note(&next);
        next.forget_who_is_who();
        (happens && next != *world).then_some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(I1, |_, world: &World| world.broken & bit(I1) == 0),
            Property::always(I2, |_, world: &World| {
                world.attested || world.writers().iter().count() <= 1
            }),
            Property::always(I2_KNOWN, |_, world: &World| world.broken & bit(I2_KNOWN) == 0),
            Property::always(I3, |_, world: &World| world.broken & bit(I3) == 0),
            Property::always(I4, |model, world: &World| {
                finish::endings(model, world).iter().all(finish::one_primary)
            }),
            Property::always(SAME_ROWS, |model, world: &World| {
                !model.compares_rows || finish::endings(model, world).iter().all(finish::same_rows)
            }),
            Property::always(I6, |_, world: &World| world.broken & bit(I6) == 0),
            Property::always(I7, |_, world: &World| world.broken & bit(I7) == 0),
        ]
    }
}

impl Federation {
    fn is(&self, fault: Fault) -> bool {
        self.fault == fault
    }

    fn commands_to_type(&self, world: &World, steps: &mut Vec<Step>) {
        let everybody = Places::default();
        let mut all = vec![Command::Resume, Command::Abort];
        for place in world.places() {
            all.extend([Command::Switchover(place), Command::Promote(place, false)]);
            all.extend([Hand::Fence, Hand::Lift, Hand::Confirm].map(|h| Command::Hand(h, place)));
            all.push(Command::Rejoin(place));
        }
        let all = all.into_iter().filter(|command| (self.allowed)(*command));
        steps.extend(all.map(|command| Step::Type(command, everybody, everybody)));
        // An operator attests when the primary datacenter is out of sight, off or not.
        for place in world.places().filter(|place| (self.allowed)(Command::Promote(*place, true))) {
            let primary = world.dc(place).rec.primary;
            let silent = everybody.with(primary);
            let others = world.places().filter(|other| *other != place);
            let alone = others.fold(silent, Places::with);
            steps.push(Step::Type(Command::Promote(place, true), silent, everybody));
            steps.push(Step::Type(Command::Promote(place, true), alone, alone));
        }
    }

    fn begin(&self, world: &mut World, command: Command, silent: Places, dark: Places) -> bool {
        let Some(mut run) = command::ask(world, command, silent) else { return false };
        let Some(free) = world.runs.iter().position(Option::is_none) else { return false };
        let kinds = command::steps(run.op.kind, run.former_answers);
        federator::skip(&mut run, &kinds);
        world.commands = world.commands.saturating_sub(1);
        world.operations += u8::from(!run.found_open && run.way == world::Way::Forward);
        run.dark = dark;
        world.runs[free] = Some(run);
        true
    }

    fn pass(&self, world: &mut World, me: Id, looks: Places) -> bool {
        let before = *world;
        let was = before.dc(me);
        let truth = View::of(world, me, |other| looks.has(other), false);
        let blind = self.is(Fault::PromoteOnHandEdit) && was.standby.is_none();
        let view = match self.fault {
            Fault::IgnoreEpochOnReturn => View::of(world, me, |_| false, false),
            Fault::ByHistoryAlone => {
                View::of(world, me, |other| looks.has(other), false).by_history_alone()
            }
            Fault::None
            | Fault::SkipAcknowledgement
            | Fault::CommitBeforeCatchUp
            | Fault::AbortAfterCommit
            | Fault::PromoteOnHandEdit
            | Fault::NoCompareAndSet
            | Fault::LiftWithoutProof
            | Fault::ConfiguredUnseen
            | Fault::GivenBackUnseen => View::of(world, me, |other| looks.has(other), blind),
        };
        let effects = view.effects();
        for effect in effects.iter().flatten() {
            match effect {
                Effect::Record(rec) if rec.epoch > was.rec.epoch => self.reached.note(4),
                Effect::Rewind(_) => self.reached.note(8),
                Effect::Record(_)
                | Effect::Acknowledge(_)
                | Effect::Stop(_)
                | Effect::Follow(_)
                | Effect::Promote
                | Effect::StartPrimary => {}
                Effect::Copy(_) => self.reached.note(9),
            }
        }
        if !carry_out(world, me, effects) {
            self.reached.note(NO_ROOM);
            return false;
        }
        if world.dc(me).pg == Pg::Primary {
            judge(world, &before, me, &truth);
        }
        remember(world, me, &truth);
        *world != before
    }

    fn receive(&self, world: &mut World, me: Id) -> bool {
        let Pg::Standby { follows: Some(source) } = world.dc(me).pg else { return false };
        let (from, own) = (world.dc(source).wal, world.dc(me).wal);
        if own.timeline() > from.timeline() {
            return false;
        }
        world.dc_mut(me).wal.receive(&from, own.len() + 1);
        world.dc(me).wal != own
    }

    fn row(&self, world: &mut World, me: Id) -> bool {
        if !world.dc(me).wal.has_room() {
            self.reached.note(NO_ROOM);
            return false;
        }
        world.rows += 1;
        let row = Record::Row(world.rows);
        world.dc_mut(me).wal.push(row);
        true
    }

    fn arrive(&self, world: &mut World) {
        let Some(late) = world.late.take() else { return };
        if late.holds || self.is(Fault::NoCompareAndSet) {
            world.put(late.at, late.rec);
        } else {
            self.reached.note(7);
        }
    }

    fn note_commit(&self, before: &World, after: &World) {
        for place in after.places() {
            let (old, new) = (before.dc(place).rec, after.dc(place).rec);
            let committed = new.operation.filter(|op| op.phase == SmallPhase::Committed);
            if let (Some(op), true) = (committed, new.epoch > old.epoch && new.primary == place) {
                self.reached.note(match (op.kind, op.proof) {
                    (Kind::Switchover | Kind::Rejoin, _) => 0,
                    (Kind::Promotion, Some(record::Proof::Acknowledged(_))) => 1,
                    (Kind::Promotion, Some(record::Proof::Attested) | None) => 2,
                });
            }
            let lifted = old.fence.is_some_and(|fence| fence.operation.is_some());
            if lifted && new.fence.is_none() && new.primary == place {
                self.reached.note(6);
            }
        }
    }

    fn note(&self, world: &World) {
        if world.writers().iter().count() > 1 {
            self.reached.note(3);
        }
        if world.claimed_twice() {
            self.reached.note(5);
        }
    }
}

/// The rules that hold after each pass whose PostgreSQL accepts writes.
fn judge(world: &mut World, before: &World, me: Id, truth: &View) {
    let (was, rec) = (before.dc(me), before.dc(me).rec);
    if rec.primary != me && was.standby.is_none() {
        world.broken |= bit(I6);
    } else if rec.primary != me || rec.fence.is_some() {
        world.broken |= bit(I1);
    }
    for (_, epoch, _) in truth.later() {
        world.broken |= bit(if epoch > rec.epoch { I7 } else { I2_KNOWN });
    }
    let (owed_to, rows) = world.owed;
    if was.pg != Pg::Primary && owed_to == me && rows != 0 {
        let wal = world.dc(me).wal;
        if (0..8).any(|row| rows & (1 << row) != 0 && !wal.has(row)) {
            world.broken |= bit(I3);
        }
        world.owed = (0, 0);
    }
}

/// `note` in link.rs: what is later than the own record is kept, whether or not the next look
/// succeeds.
fn remember(world: &mut World, me: Id, truth: &View) {
    let mut seen = [None; PLACES];
    for (place, epoch, primary) in truth.later() {
        seen[usize::from(place)] = Some(Seen { epoch, primary });
    }
    let dc = world.dc_mut(me);
    let rec = dc.rec;
    let later = |seen: &Seen| {
        seen.epoch > rec.epoch || seen.epoch == rec.epoch && seen.primary != rec.primary
    };
    dc.seen = seen.map(|seen| seen.filter(|seen| later(seen)));
    dc.asked = true;
}

fn crash(world: &mut World, me: Id, long: bool) -> bool {
    let dc = world.dc_mut(me);
    let primary = match dc.pg {
        Pg::Primary => true,
        Pg::Standby { .. } => false,
        Pg::Down { primary, .. } => primary,
    };
    let clean = dc.pg == Pg::Down { primary, clean: true };
    dc.pg = Pg::Down { primary, clean };
    (dc.asked, dc.seen) = (false, [None; PLACES]);
    dc.warm &= !long;
    true
}
