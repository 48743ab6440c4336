//! `federator resume` and `federator abort`: what was found open goes on, or goes back.

use super::consent::{self, Needed};
use super::operation::{execute, turned_back};
use super::{Exit, Session};
use crate::collect::{Depth, collect};
use crate::execute as executor;
use crate::records::UpdateError;
use crate::render::{self, Progress};
use federator_core::change::ChangeError;
use federator_core::inventory::Inventory;
use federator_core::planner;
use federator_core::resume::{Direction, OpenOperation, open_operations, title};
use node_agent_wire::federation::Phase;

async fn find(session: &Session) -> Result<(Inventory, OpenOperation), Exit> {
    let inventory = collect(&session.federation, Depth::Status, None).await;
    if inventory.views().next().is_none() {
        eprintln!("error: no datacenter answered");
        return Err(Exit::Failed);
    }
    let Some(open) = open_operations(&inventory).into_iter().next() else {
        println!("Nothing to do: no operation is in progress in any datacenter that answers.");
        return Err(Exit::Done);
    };
    let operation = &open.operation;
    println!("{}, started by {}", title(operation), operation.by);
    if open.direction == Direction::Unknown {
        eprintln!("error: the record that counts is in {}, which does not answer", operation.to);
        eprintln!("hint: try again when it answers; nothing was changed");
        return Err(Exit::Failed);
    }
    Ok((inventory, open))
}

pub(super) async fn resume(session: &Session) -> Exit {
    let (inventory, open) = match find(session).await {
        Ok(found) => found,
        Err(exit) => return exit,
    };
    let phase = match open.direction {
        Direction::Either => Phase::Running,
        Direction::Forward => Phase::Committed,
        Direction::Back => {
            println!("It is being aborted; the way back is gone to its end.");
            return go_back(session, &open, false).await;
        }
        Direction::Over => return clear(session, &open).await,
        Direction::Unknown => return Exit::Failed,
    };
    let plan = planner::rebuild(&open.operation, &inventory);
    if let Err(defect) = plan.check() {
        eprintln!("error: the plan can't be rebuilt: {defect}");
        return Exit::Failed;
    }
    print!("{}", render::plan(&plan));
    if session.common.dry_run {
        println!("Dry run: nothing was changed.");
        return Exit::Done;
    }
    // It was agreed to when it was begun; past the commit there is no other way than forward.
    if open.direction == Direction::Either
        && let Err(exit) = consent::ask(session, Needed::Yes)
    {
        return exit;
    }
    execute(session, inventory, plan, phase, Some(&open.operation), None).await
}

pub(super) async fn abort(session: &Session) -> Exit {
    let (_, open) = match find(session).await {
        Ok(found) => found,
        Err(exit) => return exit,
    };
    match open.direction {
        Direction::Either | Direction::Back => {}
        Direction::Forward => {
            eprintln!("refused: it is committed and only goes forward");
            eprintln!("hint: federator resume");
            return Exit::Refused;
        }
        Direction::Over => return clear(session, &open).await,
        Direction::Unknown => return Exit::Failed,
    }
    if session.common.dry_run {
        println!("It would be turned back. Dry run: nothing was changed.");
        return Exit::Done;
    }
    if let Err(exit) = consent::ask(session, Needed::Yes) {
        return exit;
    }
    go_back(session, &open, session.common.force).await
}

async fn go_back(session: &Session, open: &OpenOperation, give_up_silent: bool) -> Exit {
    let (limit, operation) = (session.limit(), &open.operation);
    match executor::abort(&session.federation, operation, limit, &Progress, give_up_silent).await {
        Ok(back) => {
            turned_back(&back);
            Exit::Done
        }
        Err(executor::AbortError::Update(UpdateError::Change(
            error @ ChangeError::Committed { .. },
        ))) => {
            eprintln!("refused: {error}");
            eprintln!("hint: federator resume");
            Exit::Refused
        }
        Err(error) => {
            eprintln!("error: {error}");
            eprintln!("The operation stays open. Type: federator abort");
            if matches!(error, executor::AbortError::Silent { .. }) {
                eprintln!("If that datacenter is lost for good: federator abort --force");
            }
            Exit::Partly
        }
    }
}

async fn clear(session: &Session, open: &OpenOperation) -> Exit {
    if session.common.dry_run {
        println!("Its copies would be cleared. Dry run: nothing was changed.");
        return Exit::Done;
    }
    let cleared =
        executor::clear_leftover(&session.federation, &open.operation, &open.held_by).await;
    match cleared {
        Ok(records) => {
            for record in records {
                println!("It is over; its copy in the record of {} is cleared.", record.dc);
                if record.fence.is_some() {
                    println!("{} is still fenced. Look at: federator status", record.dc);
                }
            }
            Exit::Done
        }
        Err(error) => {
            eprintln!("error: {error}");
            Exit::Partly
        }
    }
}
