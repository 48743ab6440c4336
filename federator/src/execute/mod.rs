//! The executor: no choices left, only steps. Each one is begun in the journal, does what is not
//! done yet, waits for what it should lead to, and is noted as done. Run again it recognises what
//! is there, so that `resume` is the same code.
//!
//! Between the fence and the promotion nothing is written that is not needed: the journal lines of
//! these steps ride on the commit.

mod abort;
mod catch_up;
mod close;
mod commit;
mod consumers;
mod context;
mod fence;
mod fencer;
mod grants;
mod link;
mod pre_sync;
mod promote;
mod record;
mod remove;
mod repoint;
mod resolve;
mod sequences;
mod slots;
mod standby;
mod stream;
mod take;
mod verify;

pub use abort::{AbortError, Aborted, abort, clear_leftover};
pub use context::{Context, POLL, StepError, Wait};
pub use fence::{await_acknowledgement, trigger};
pub use resolve::resolve;

use crate::crash::{self, Boundary};
use crate::interrupts::Interrupts;
use federator_core::change::ChangeError;
use federator_core::conditions::{self, AfterFailure, PauseLimit};
use federator_core::plan::StepKind;
use node_agent_wire::DcName;
use node_agent_wire::federation::Phase;
use std::time::Instant;

/// How an operation ended.
#[derive(Debug)]
pub enum Ending {
    /// All steps done.
    Done,
    /// Done and closed; these datacenters did not answer. A former primary among them needs a
    /// rejoin, the others follow by themselves when they are back.
    LeftBehind(Vec<DcName>),
    /// Nothing was changed: the operation could not be taken.
    NotTaken(StepError),
    /// Turned back before the commit.
    TurnedBack {
        /// Why.
        why: StepError,
        /// What the way back found.
        back: Aborted,
    },
    /// Begun and not ended: a resume or an abort is needed.
    Partly {
        /// Where it stopped.
        step: &'static str,
        /// Why.
        why: StepError,
        /// What to type.
        next: &'static str,
    },
}

/// Carries out the plan. `phase` is the operation's phase as found: past the commit, the steps
/// before it are not repeated.
pub async fn run(context: &mut Context<'_>, phase: Phase) -> Ending {
    let mut committed = phase == Phase::Committed;
    let mut interrupts = match Interrupts::listen() {
        Ok(interrupts) => interrupts,
        Err(error) => {
            let why = format!("could not listen for signals: {error}");
            return Ending::NotTaken(StepError::Missing(why));
        }
    };
    let steps = context.plan.steps.clone();
    let count = steps.len();
    for (index, step) in steps.iter().enumerate() {
        if !conditions::due(step, context.plan.kind, committed) {
            continue;
        }
        let started = Instant::now();
        let result = one(context, step.kind, &mut interrupts).await;
        match result {
            Ok(note) => {
                committed |= step.kind == StepKind::Commit;
                context.progress.step(index + 1, count, step.kind.name(), started.elapsed(), &note);
            }
            Err(error) => {
                let name = step.kind.name();
                context.progress.failed(index + 1, count, name, started.elapsed(), &error);
                return failed(context, step.kind, committed, error).await;
            }
        }
    }
    if context.left_behind.is_empty() {
        Ending::Done
    } else {
        Ending::LeftBehind(context.left_behind.iter().cloned().collect())
    }
}

/// One step between its journal lines; an interrupt counts as a failure, so that Ctrl-C inside the
/// write pause gives the primary its right back.
async fn one(
    context: &mut Context<'_>,
    kind: StepKind,
    interrupts: &mut Interrupts,
) -> Result<String, StepError> {
    context.begin(kind).await?;
    crash::point(kind.name(), Boundary::Before);
    if kind == StepKind::Fence {
        context.pause_ends = context.pause_max.map(|limit| Instant::now() + limit);
    }
    let ends = context.pause_ends.filter(|_| match conditions::pause_limit(kind) {
        PauseLimit::BreaksOff | PauseLimit::Forbids => true,
        PauseLimit::None => false,
    });
    let limit = context.pause_max.unwrap_or_default();
    let passed = || StepError::PauseTooLong { limit };
    if ends.is_some_and(|ends| Instant::now() >= ends) {
        return Err(passed());
    }
    let breaks = ends.filter(|_| conditions::pause_limit(kind) == PauseLimit::BreaksOff);
    let note = tokio::select! {
        result = act(context, kind) => result?,
        () = interrupts.next() => return Err(StepError::Interrupted),
        () = until(breaks) => return Err(passed()),
    };
    crash::point(kind.name(), Boundary::After);
    context.done(kind, &note).await?;
    Ok(note)
}

/// Waits for the moment; without one, for ever.
async fn until(moment: Option<Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment.into()).await,
        None => std::future::pending().await,
    }
}

async fn act(context: &mut Context<'_>, kind: StepKind) -> Result<String, StepError> {
    match kind {
        StepKind::Record => record::run(context).await,
        StepKind::Supersede => record::supersede(context).await,
        StepKind::Take => take::run(context).await,
        StepKind::Slots => slots::run(context).await,
        StepKind::Prepare => slots::prepare(context).await,
        StepKind::PreSync => pre_sync::run(context).await,
        StepKind::Fence => fence::run(context).await,
        StepKind::Fencer => fencer::run(context).await,
        StepKind::CatchUp => catch_up::run(context).await,
        StepKind::Acquire => grants::acquire(context).await,
        StepKind::Commit => commit::run(context).await,
        StepKind::Promote => promote::run(context).await,
        StepKind::Sequences => sequences::run(context).await,
        StepKind::Repoint => repoint::run(context).await,
        StepKind::Detach => remove::detach(context).await,
        StepKind::Forget => remove::forget(context).await,
        StepKind::DropSlots => remove::drop_slots(context).await,
        StepKind::Demoted => standby::demoted(context).await,
        StepKind::Standby => standby::run(context).await,
        StepKind::Stream => stream::run(context).await,
        StepKind::Verify => verify::run(context).await,
        StepKind::Isolate => grants::isolate(context).await,
        StepKind::Close => close::run(context).await,
    }
}

/// Before the commit an operation that moves the primary is turned back at once; everything else
/// stays where it is until somebody resumes it.
async fn failed(
    context: &mut Context<'_>,
    kind: StepKind,
    committed: bool,
    error: StepError,
) -> Ending {
    let step = kind.name();
    match conditions::after_failure(context.plan.kind, kind, committed, context.released) {
        AfterFailure::NotTaken => return Ending::NotTaken(error),
        AfterFailure::StaysCommitted => {
            return Ending::Partly { step, why: error, next: "federator resume" };
        }
        AfterFailure::Stays => {
            let next = "federator resume, or federator abort";
            return Ending::Partly { step, why: error, next };
        }
        AfterFailure::TurnBack => {}
    }
    context.progress.say("turning back: nothing has been committed");
    let (operation, limit) = (context.plan.operation(), context.limit);
    match abort(context.federation, &operation, limit, context.progress, false).await {
        Ok(back) => Ending::TurnedBack { why: error, back },
        // The commit's answer was lost, but it happened.
        Err(AbortError::Update(crate::records::UpdateError::Change(ChangeError::Committed {
            ..
        }))) => Ending::Partly { step, why: error, next: "federator resume" },
        // The very first write never happened.
        Err(AbortError::Update(crate::records::UpdateError::Change(ChangeError::Gone {
            ..
        }))) if kind == StepKind::Take => Ending::NotTaken(error),
        Err(back) => {
            context.progress.say(&format!("turning back failed: {back}"));
            Ending::Partly { step, why: error, next: "federator abort, or federator resume" }
        }
    }
}
