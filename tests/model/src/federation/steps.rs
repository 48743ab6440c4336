//! The accesses of each step, in the order of execute/.

use super::federator::{
    Answer, Configured, Next, Wrote, configured, failed, heard, read, waiting, write,
};
use super::record::{Change, Held, Kind, Rec, SmallPhase};
use super::world::{Hand, Id, Pg, Run, Way, World};
use super::{Fault, Federation, dc};
use federator_core::change::moves_primary;
use federator_core::conditions;
use federator_core::inventory::NodeView;
use node_agent_wire::member::state;

/// `plan.participants()`.
fn participants(run: &Run) -> Vec<Id> {
    let other = match run.op.kind {
        Kind::Switchover | Kind::Promotion => run.op.from,
        Kind::Rejoin => Some(run.primary),
    };
    let other = other.filter(|other| *other != run.op.to);
    std::iter::once(run.op.to).chain(other).collect()
}

pub(super) fn take(world: &mut World, run: &mut Run, answer: Answer) -> Next {
    let list = participants(run);
    let Some(place) = list.get(usize::from(run.access)).copied() else { return Next::Done };
    let last = usize::from(run.access) + 1 == list.len();
    let on = if last { Next::Done } else { Next::Access };
    let needed = conditions::take_needs(run.op.kind.real(), &dc(run.op.to), &dc(place));
    match write(world, place, Change::Hold(run.op, run.found_open), answer) {
        Wrote::Done(_) => on,
        Wrote::Silent if !needed => on,
        other @ (Wrote::Refused | Wrote::Silent | Wrote::Idle) => failed(&other),
    }
}

/// The proof that the way back was begun: read when it was, and true for this operation ever since.
pub(super) fn proof(world: &World, run: &Run) -> Rec {
    let operation = Some(Held { phase: SmallPhase::Aborting, ..run.op });
    Rec { operation, ..world.dc(run.op.to).rec }
}

/// `give_back` in execute/take.rs.
pub(super) fn give_back(
    model: &Federation,
    world: &mut World,
    run: &mut Run,
    clean: bool,
    answer: Answer,
) -> Next {
    let (to, id) = (run.op.to, run.op.id);
    let others: Vec<Id> = participants(run).into_iter().filter(|place| *place != to).collect();
    let over = Next::Failed { refused: false };
    let index = usize::from(run.access);
    if index == 0 && !model.is(Fault::GivenBackUnseen) {
        return match write(world, to, Change::BeginAbort(id), answer) {
            Wrote::Done(_) => Next::Access,
            Wrote::Idle => Next::Wait,
            Wrote::Refused | Wrote::Silent => {
                run.way = Way::GiveBack { clean: false };
                over
            }
        };
    }
    if let (1, Some(other)) = (index, others.first()) {
        return match write(world, *other, Change::TurnBack(run.op, proof(world, run)), answer) {
            Wrote::Done(_) => Next::Access,
            Wrote::Idle => Next::Wait,
            Wrote::Refused | Wrote::Silent => {
                run.way = Way::GiveBack { clean: false };
                Next::Access
            }
        };
    }
    let released = match write(world, to, Change::Release(id), answer) {
        Wrote::Done(_) => true,
        Wrote::Refused | Wrote::Silent => false,
        Wrote::Idle => return Next::Wait,
    };
    run.way = Way::GiveBack { clean: clean && released };
    over
}

pub(super) fn promote(model: &Federation, world: &mut World, run: &Run, answer: Answer) -> Next {
    let to = run.op.to;
    if run.access == 0 {
        let allows = Change::MayLead(run.op.id);
        return configured(&model.configure(world, to, None, allows, answer));
    }
    if world.dc(to).pg == Pg::Primary && answer == Answer::Comes {
        return Next::Done;
    }
    waiting(answer)
}

/// `to_repoint`, by places.
fn repointed(run: &Run) -> Vec<Id> {
    let former = run.op.from.filter(|_| run.op.kind == Kind::Switchover);
    run.followers.iter().chain(former).collect()
}

pub(super) fn repoint(
    model: &Federation,
    world: &mut World,
    run: &mut Run,
    answer: Answer,
) -> Next {
    if run.access == 0 {
        return read_winner(world, run, run.op.to, answer);
    }
    let list = repointed(run);
    let index = usize::from(run.access - 1);
    let Some(place) = list.get(index / 2).copied() else { return Next::Done };
    let last = index / 2 + 1 == list.len();
    let left_behind = |run: &mut Run| {
        run.behind = run.behind.with(place);
        if last {
            return Next::Done;
        }
        run.access = u8::try_from(index / 2 * 2 + 2).unwrap_or(u8::MAX);
        Next::Access
    };
    let Some(winner) = run.winner else { return Next::Failed { refused: true } };
    let follow = Change::Follow(run.op.to, winner, run.op.id);
    if index.is_multiple_of(2) {
        return match model.configure(world, place, Some(run.op.to), follow, answer) {
            Configured::Silent => left_behind(run),
            other @ (Configured::Done | Configured::Refused | Configured::Idle) => {
                configured(&other)
            }
        };
    }
    match write(world, place, follow, answer) {
        Wrote::Done(_) if last => Next::Done,
        Wrote::Done(_) => Next::Access,
        Wrote::Silent => left_behind(run),
        other @ (Wrote::Refused | Wrote::Idle) => failed(&other),
    }
}

fn read_winner(world: &World, run: &mut Run, place: Id, answer: Answer) -> Next {
    match (read(world, place, answer), heard(world, place, answer)) {
        (Some(rec), _) => {
            run.winner = Some(rec);
            Next::Access
        }
        (None, Answer::Lost) => Next::Failed { refused: false },
        (None, Answer::Comes | Answer::Late | Answer::Deadline) => Next::Wait,
    }
}

/// What the agent of a leader answers, as far as a step looks at it.
fn node(world: &World, place: Id) -> NodeView {
    let dc = world.dc(place);
    let runs = match dc.pg {
        Pg::Primary | Pg::Standby { .. } => true,
        Pg::Down { .. } => false,
    };
    NodeView {
        state: if runs { state::RUNNING } else { "stopped" }.into(),
        writable: dc.pg == Pg::Primary,
        replication_state: if world.streams(place) { "streaming" } else { "" }.into(),
        ..NodeView::default()
    }
}

pub(super) fn verify(world: &mut World, run: &mut Run, answer: Answer) -> Next {
    if run.access == 0 {
        // The probe write.
        if world.dc(run.op.to).pg == Pg::Primary && answer == Answer::Comes {
            return Next::Access;
        }
        return waiting(answer);
    }
    let list: Vec<Id> = repointed(run).into_iter().filter(|p| !run.behind.has(*p)).collect();
    let index = usize::from(run.access - 1);
    let Some(place) = list.get(index / 2).copied() else { return Next::Done };
    if index.is_multiple_of(2) {
        if conditions::link_streams(&node(world, place)) && answer == Answer::Comes {
            return Next::Access;
        }
        return waiting(answer);
    }
    match write(world, place, Change::MarkStreamed(run.op.next_epoch), answer) {
        Wrote::Done(_) if index / 2 + 1 == list.len() => Next::Done,
        Wrote::Done(_) => Next::Access,
        other @ (Wrote::Refused | Wrote::Silent | Wrote::Idle) => failed(&other),
    }
}

/// `run` and `end` in execute/close.rs.
pub(super) fn close(world: &mut World, run: &mut Run, answer: Answer) -> Next {
    let to = run.op.to;
    if run.access == 0 {
        let next = read_winner(world, run, to, answer);
        let held = run.winner.and_then(|rec| rec.operation).is_some_and(|op| op.id == run.op.id);
        return match next {
            Next::Access if !held => Next::Over,
            Next::Access | Next::Done | Next::Failed { .. } | Next::Wait | Next::Over => next,
        };
    }
    let others: Vec<Id> = participants(run).into_iter().filter(|place| *place != to).collect();
    if let Some(place) = others.get(usize::from(run.access - 1)) {
        let winner = run.winner.filter(|_| moves_primary(run.op.kind.real()));
        return match write(world, *place, Change::LetGo(run.op, winner), answer) {
            Wrote::Done(_) | Wrote::Silent => Next::Access,
            other @ (Wrote::Refused | Wrote::Idle) => failed(&other),
        };
    }
    match write(world, to, Change::Release(run.op.id), answer) {
        Wrote::Done(_) => Next::Done,
        other @ (Wrote::Refused | Wrote::Silent | Wrote::Idle) => failed(&other),
    }
}

pub(super) fn supersede(world: &mut World, run: &mut Run, answer: Answer) -> Next {
    if run.access == 0 {
        return read_winner(world, run, run.primary, answer);
    }
    let Some(winner) = run.winner else { return Next::Failed { refused: true } };
    let change = Change::Supersede(run.primary, winner, run.orphan);
    failed(&write(world, run.op.to, change, answer))
}

pub(super) fn demoted(world: &World, run: &Run, answer: Answer) -> Next {
    let place = run.op.to;
    let (name, node) = ("pg1".into(), node(world, place));
    let answered = match world.dc(place).asked {
        true => Ok(&node),
        false => Err("no answer".to_owned()),
    };
    let record = world.dc(place).rec.real(place, world.count);
    let open = conditions::may_write(&record, [(&name, answered)].into_iter());
    if open.is_empty() && answer == Answer::Comes { Next::Done } else { waiting(answer) }
}

pub(super) fn standby(
    model: &Federation,
    world: &mut World,
    run: &mut Run,
    answer: Answer,
) -> Next {
    if run.access == 0 {
        return read_winner(world, run, run.primary, answer);
    }
    let (to, primary) = (run.op.to, run.primary);
    let Some(winner) = run.winner else { return Next::Failed { refused: true } };
    let follow = Change::Follow(primary, winner, run.op.id);
    if run.access == 1 {
        return configured(&model.configure(world, to, Some(primary), follow, answer));
    }
    failed(&write(world, to, follow, answer))
}

pub(super) fn stream(world: &mut World, run: &Run, answer: Answer) -> Next {
    if run.access == 0 {
        let streams = conditions::node_streams(&node(world, run.op.to));
        if streams && answer == Answer::Comes {
            return Next::Access;
        }
        return waiting(answer);
    }
    failed(&write(world, run.op.to, Change::MarkStreamed(run.op.next_epoch), answer))
}

/// `clear_leftover` in execute/abort.rs.
pub(super) fn clear(world: &mut World, run: &mut Run, answer: Answer) -> Next {
    if run.access == 0 {
        return match read_winner(world, run, run.op.to, answer) {
            Next::Access => Next::Access,
            Next::Failed { .. } => Next::Over,
            other @ (Next::Done | Next::Wait | Next::Over) => other,
        };
    }
    let places: Vec<Id> = run.copies.iter().collect();
    let (Some(place), Some(winner)) = (places.get(usize::from(run.access - 1)), run.winner) else {
        return Next::Over;
    };
    let change = Change::Supersede(run.op.to, winner, Some(run.op.id));
    match write(world, *place, change, answer) {
        Wrote::Done(_) => Next::Access,
        Wrote::Refused | Wrote::Silent => Next::Over,
        Wrote::Idle => Next::Wait,
    }
}

pub(super) fn by_hand(world: &mut World, run: &Run, hand: Hand, answer: Answer) -> Next {
    let change = match hand {
        Hand::Fence => Change::OperatorFence,
        Hand::Lift => Change::OperatorLift,
        Hand::Confirm => Change::Confirm,
    };
    match write(world, run.op.to, change, answer) {
        Wrote::Idle => Next::Wait,
        Wrote::Done(_) | Wrote::Refused | Wrote::Silent => Next::Over,
    }
}
