//! A federator at work: one access to one datacenter at a time, in the order of execute/, with the
//! real changes and step conditions. Between any two accesses anything else may happen, and it may
//! die.

use super::Fault;
use super::command::steps;
use super::record::{Ack, Change, Kind, Rec, SmallPhase, Word, apply, word};
use super::steps::{
    by_hand, clear, close, demoted, give_back, promote, proof, repoint, standby, stream, supersede,
    take, verify,
};
use super::world::{Id, Pg, Places, Run, Way, World};
use super::{Federation, dc};
use crate::wal::position;
use federator_core::conditions::{self, AfterFailure, CatchUp};
use federator_core::plan::StepKind;
use node_agent_wire::federation::OperationKind;
use node_agent_wire::{Lsn, TimelineId};

/// How an access ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Answer {
    /// As it should.
    Comes,
    /// There is none, and nothing was written.
    Lost,
    /// There is none, and what was written may still arrive.
    Late,
    /// What is waited for does not come before the deadline.
    Deadline,
}

/// What an access leads to.
pub(super) enum Next {
    /// Another access of this step.
    Access,
    /// This step is done.
    Done,
    /// It has failed; `refused`: by a rule.
    Failed { refused: bool },
    /// Nothing can be done yet.
    Wait,
    /// The run is over.
    Over,
}

pub(super) enum Wrote {
    Done(Rec),
    Refused,
    Silent,
    /// There is nothing that could arrive late.
    Idle,
}

impl Federation {
    /// One access of the federator; whether there is one.
    pub(super) fn access(&self, world: &mut World, at: usize, answer: Answer) -> bool {
        let Some(mut run) = world.runs[at] else { return false };
        world.dark = run.dark;
        let next = match run.way {
            Way::Forward => self.forward(world, &mut run, answer),
            Way::GiveBack { clean } => give_back(self, world, &mut run, clean, answer),
            Way::Back => self.back(world, &run, answer),
            Way::Clear => clear(world, &mut run, answer),
            Way::Hand(hand) => by_hand(world, &run, hand, answer),
        };
        world.dark = Places::default();
        match next {
            Next::Wait => return false,
            Next::Access => run.access += 1,
            Next::Done => step_on(&mut run),
            Next::Failed { refused } => fail(&mut run, refused),
            Next::Over => run.way = Way::Forward,
        }
        let over = matches!(next, Next::Over) || self.ended(&run);
        world.runs[at] = (!over).then_some(run);
        true
    }

    fn ended(&self, run: &Run) -> bool {
        run.way == Way::Forward && usize::from(run.step) >= kinds(run).len()
    }

    fn forward(&self, world: &mut World, run: &mut Run, answer: Answer) -> Next {
        let Some(step) = kinds(run).get(usize::from(run.step)).copied() else { return Next::Over };
        match step {
            StepKind::Take => take(world, run, answer),
            StepKind::Fence => self.fence(world, run, answer),
            StepKind::CatchUp => self.catch_up(world, run, answer),
            StepKind::Commit => self.commit(world, run, answer),
            StepKind::Promote => promote(self, world, run, answer),
            StepKind::Repoint => repoint(self, world, run, answer),
            StepKind::Verify => verify(world, run, answer),
            StepKind::Close => close(world, run, answer),
            StepKind::Supersede => supersede(world, run, answer),
            StepKind::Demoted => demoted(world, run, answer),
            StepKind::Standby => standby(self, world, run, answer),
            StepKind::Stream => stream(world, run, answer),
            // Slots and checkpoints: nothing here depends on them. No plan here has a fencer: to
            // the commit its evidence is one more word that nothing checks, like an attestation.
            StepKind::Prepare
            | StepKind::PreSync
            | StepKind::Slots
            | StepKind::Record
            | StepKind::Fencer
            | StepKind::Sequences => Next::Done,
            // Site grants have a model of their own.
            StepKind::Acquire | StepKind::Isolate => Next::Done,
            // Nobody is removed here.
            StepKind::Detach | StepKind::Forget | StepKind::DropSlots => Next::Done,
        }
    }

    fn fence(&self, world: &mut World, run: &mut Run, answer: Answer) -> Next {
        let Some(from) = run.op.from else { return Next::Failed { refused: true } };
        match run.access {
            // `Context::begin`: the journal line is written before the write pause.
            0 => match write(world, run.op.to, Change::Journal(run.op.id), answer) {
                Wrote::Done(_) => Next::Access,
                other @ (Wrote::Refused | Wrote::Silent | Wrote::Idle) => failed(&other),
            },
            1 => match write(world, from, Change::Fence(run.op), answer) {
                Wrote::Done(rec) if run.op.kind == Kind::Switchover => {
                    if self.is(Fault::SkipAcknowledgement) {
                        run.former = Some(forged(world, from, rec));
                        return Next::Done;
                    }
                    Next::Access
                }
                Wrote::Silent if conditions::fence_needs_answer(run.op.kind.real()) => {
                    Next::Failed { refused: false }
                }
                Wrote::Done(_) | Wrote::Silent => Next::Done,
                other @ (Wrote::Refused | Wrote::Idle) => failed(&other),
            },
            _ => match read(world, from, answer).map(word) {
                Some(Word::Acknowledged(_)) => {
                    run.former = Some(world.dc(from).rec);
                    Next::Done
                }
                Some(Word::Awaited) => waiting(answer),
                Some(Word::Lifted) => Next::Failed { refused: true },
                None => waiting(answer),
            },
        }
    }

    fn catch_up(&self, world: &World, run: &Run, answer: Answer) -> Next {
        if self.is(Fault::CommitBeforeCatchUp) {
            return Next::Done;
        }
        let ack = match run.former.map(word) {
            Some(Word::Acknowledged(ack)) => ack.real(),
            Some(Word::Awaited | Word::Lifted) | None => return Next::Failed { refused: true },
        };
        let target = world.dc(run.op.to);
        match target.pg {
            Pg::Standby { .. } => {}
            Pg::Primary => return Next::Failed { refused: true },
            Pg::Down { .. } => return waiting(answer),
        }
        let replayed: Lsn = position(target.wal.len());
        let timeline: TimelineId = target.wal.timeline();
        match conditions::catch_up(&ack, replayed, Some(timeline)) {
            CatchUp::Complete if answer == Answer::Comes => Next::Done,
            CatchUp::Complete | CatchUp::Behind | CatchUp::TimelineUnknown => waiting(answer),
            CatchUp::OtherTimeline(_) => Next::Failed { refused: true },
        }
    }

    fn commit(&self, world: &mut World, run: &mut Run, answer: Answer) -> Next {
        let Some(from) = run.op.from else { return Next::Failed { refused: true } };
        if run.access == 0 && conditions::commit_reads_former(&run.op.real()) {
            run.former = match read(world, from, answer) {
                Some(rec) => Some(rec),
                None => return Next::Failed { refused: false },
            };
            return Next::Access;
        }
        let commit = Change::Commit(run.op, run.former);
        match write(world, run.op.to, commit, answer) {
            Wrote::Done(_) => {
                run.committed = true;
                Next::Done
            }
            other @ (Wrote::Refused | Wrote::Silent | Wrote::Idle) => failed(&other),
        }
    }

    /// `abort` in execute/abort.rs.
    fn back(&self, world: &mut World, run: &Run, answer: Answer) -> Next {
        let others: Vec<Id> = world.places().filter(|place| *place != run.op.to).collect();
        if self.is(Fault::LiftWithoutProof) && run.access == 0 {
            // The former primary gets its right back before the way back is begun.
            if let Some(from) = run.op.from {
                let mut rec = world.dc(from).rec;
                (rec.fence, rec.operation) = (None, None);
                world.put(from, rec);
            }
            return Next::Over;
        }
        let index = usize::from(run.access);
        if index == 0 {
            if self.is(Fault::AbortAfterCommit) {
                let mut rec = world.dc(run.op.to).rec;
                if let Some(op) = rec.operation.as_mut() {
                    op.phase = SmallPhase::Aborting;
                }
                world.put(run.op.to, rec);
                return Next::Access;
            }
            return match write(world, run.op.to, Change::BeginAbort(run.op.id), answer) {
                Wrote::Done(_) => Next::Access,
                Wrote::Refused | Wrote::Silent => Next::Over,
                Wrote::Idle => Next::Wait,
            };
        }
        if let Some(other) = others.get(index - 1) {
            return match write(world, *other, Change::TurnBack(run.op, proof(world, run)), answer) {
                Wrote::Done(_) => Next::Access,
                Wrote::Silent if !conditions::way_back_needs(&run.op.real(), &dc(*other)) => {
                    Next::Access
                }
                Wrote::Refused | Wrote::Silent => Next::Over,
                Wrote::Idle => Next::Wait,
            };
        }
        match write(world, run.op.to, Change::Release(run.op.id), answer) {
            Wrote::Idle => Next::Wait,
            Wrote::Done(_) | Wrote::Refused | Wrote::Silent => Next::Over,
        }
    }
}

fn kinds(run: &Run) -> Vec<StepKind> {
    steps(run.op.kind, run.former_answers)
}

/// On to the next step that is due.
fn step_on(run: &mut Run) {
    let kinds = kinds(run);
    (run.access, run.winner) = (0, None);
    run.step += 1;
    skip(run, &kinds);
}

/// Leaves out what is not due any more, and what has no access here.
pub(super) fn skip(run: &mut Run, kinds: &[StepKind]) {
    let commit = kinds.iter().position(|kind| *kind == StepKind::Commit);
    while let Some(kind) = kinds.get(usize::from(run.step)) {
        let past_commit = commit.is_some_and(|commit| usize::from(run.step) > commit);
        let words = String::new;
        let step = federator_core::plan::Step {
            kind: *kind,
            precondition: words(),
            effect: words(),
            undo: None,
            after: words(),
            past_commit,
        };
        let quiet = matches!(kind, StepKind::Prepare | StepKind::PreSync | StepKind::Slots);
        if conditions::due(&step, run.op.kind.real(), run.committed) && !quiet {
            return;
        }
        run.step += 1;
    }
}

fn fail(run: &mut Run, refused: bool) {
    let kinds = kinds(run);
    let Some(step) = kinds.get(usize::from(run.step)) else { return };
    let kind: OperationKind = run.op.kind.real();
    let first = run.access == 0;
    if *step == StepKind::Take && run.way == Way::Forward && !first {
        run.way = Way::GiveBack { clean: true };
        run.access = 0;
        return;
    }
    let released = match run.way {
        Way::GiveBack { clean } => clean,
        Way::Forward => refused,
        Way::Back | Way::Clear | Way::Hand(_) => false,
    };
    match conditions::after_failure(kind, *step, run.committed, released) {
        AfterFailure::NotTaken | AfterFailure::Stays | AfterFailure::StaysCommitted => {
            run.way = Way::Forward;
            run.step = u8::try_from(kinds.len()).unwrap_or(u8::MAX);
        }
        AfterFailure::TurnBack => {
            run.way = Way::Back;
            run.access = 0;
        }
    }
    (run.former, run.winner) = (None, None);
}

pub(super) fn failed(wrote: &Wrote) -> Next {
    match wrote {
        Wrote::Done(_) => Next::Done,
        Wrote::Refused => Next::Failed { refused: true },
        Wrote::Silent => Next::Failed { refused: false },
        Wrote::Idle => Next::Wait,
    }
}

pub(super) fn waiting(answer: Answer) -> Next {
    match answer {
        Answer::Comes | Answer::Lost | Answer::Late => Next::Wait,
        Answer::Deadline => Next::Failed { refused: false },
    }
}

/// Whoever is cut off from a datacenter gets no answer from it.
pub(super) fn heard(world: &World, place: Id, answer: Answer) -> Answer {
    if answer == Answer::Comes && world.dark.has(place) { Answer::Lost } else { answer }
}

pub(super) fn read(world: &World, place: Id, answer: Answer) -> Option<Rec> {
    match heard(world, place, answer) {
        Answer::Comes => Some(world.dc(place).rec),
        Answer::Lost | Answer::Late | Answer::Deadline => None,
    }
}

/// `update_record`: reads, changes, compares and sets.
pub(super) fn write(world: &mut World, place: Id, change: Change, answer: Answer) -> Wrote {
    let before = world.dc(place).rec;
    let made = apply(world.count, place, before, change);
    match (heard(world, place, answer), made) {
        (Answer::Comes, Ok(rec)) => {
            if rec != before || matches!(change, Change::Journal(_)) {
                world.put(place, rec);
            }
            Wrote::Done(rec)
        }
        (Answer::Comes, Err(_)) => Wrote::Refused,
        (Answer::Lost, _) => Wrote::Silent,
        (Answer::Late, Ok(rec)) if rec != before && world.late.is_none() => {
            world.late = Some(super::world::Late { at: place, rec, holds: true });
            Wrote::Silent
        }
        (Answer::Late | Answer::Deadline, _) => Wrote::Idle,
    }
}

/// `update_config_under`: whether the record allows it is compared in the same transaction.
pub(super) enum Configured {
    Done,
    Refused,
    Silent,
    Idle,
}

impl Federation {
    pub(super) fn configure(
        &self,
        world: &mut World,
        place: Id,
        standby: Option<Id>,
        allows: Change,
        answer: Answer,
    ) -> Configured {
        let allowed = apply(world.count, place, world.dc(place).rec, allows).is_ok();
        match heard(world, place, answer) {
            Answer::Comes if allowed || self.is(Fault::ConfiguredUnseen) => {
                world.dc_mut(place).standby = standby;
                Configured::Done
            }
            Answer::Comes => Configured::Refused,
            Answer::Lost => Configured::Silent,
            Answer::Late | Answer::Deadline => Configured::Idle,
        }
    }
}

pub(super) fn configured(done: &Configured) -> Next {
    match done {
        Configured::Done => Next::Access,
        Configured::Refused => Next::Failed { refused: true },
        Configured::Silent => Next::Failed { refused: false },
        Configured::Idle => Next::Wait,
    }
}

/// What the fault makes up in place of an acknowledgement.
fn forged(world: &World, from: Id, rec: Rec) -> Rec {
    let wal = world.dc(from).wal;
    let checkpoint = u16::try_from(position(wal.len()).0 - 1).unwrap_or(u16::MAX);
    let timeline = u8::try_from(wal.timeline().0).unwrap_or(u8::MAX);
    let mut rec = rec;
    if let Some(fence) = rec.fence.as_mut() {
        fence.ack = Some(Ack { checkpoint, timeline });
    }
    rec
}
