//! `federator fence DC [--lift]` and `federator confirm DC`: one change of one record.

use super::consent::{self, Needed};
use super::{Exit, Session};
use crate::clock::now_us;
use crate::collect::{Depth, collect};
use crate::execute::{StepError, await_acknowledgement, trigger};
use crate::records::{UpdateError, update_record};
use crate::render;
use federator_core::change;
use federator_core::guards::Refusal;
use federator_core::planner::fence::{self, FencePlan};
use node_agent_wire::federation::FederationRecord;
use node_agent_wire::{DcName, OperationId};

fn refused(refusal: Refusal) -> Exit {
    let silence = refusal.is_silence();
    eprint!("{}", render::refusals(&[refusal]));
    eprintln!("Nothing was changed.");
    if silence { Exit::Failed } else { Exit::Refused }
}

fn not_changed(error: &UpdateError) -> Exit {
    eprintln!("error: {error}");
    match error {
        UpdateError::Change(_) => Exit::Refused,
        UpdateError::Dcs(_)
        | UpdateError::NoRecord(_)
        | UpdateError::Garbled { .. }
        | UpdateError::Contended { .. } => Exit::Failed,
    }
}

pub(super) async fn run(session: &Session, dc: &DcName, lift: bool) -> Exit {
    let inventory = collect(&session.federation, Depth::Status, None).await;
    let by = session.by();
    match fence::plan(&inventory, dc, lift, &by, now_us()) {
        Err(refusal) => return refused(refusal),
        Ok(FencePlan::NothingToDo(why)) => {
            println!("Nothing to do: {why}.");
            return Exit::Done;
        }
        Ok(FencePlan::Do(what)) => println!("Plan: {what}"),
    }
    if session.common.dry_run {
        println!("Dry run: nothing was changed.");
        return Exit::Done;
    }
    if let Err(exit) = consent::ask(session, Needed::Yes) {
        return exit;
    }
    let dcs = match session.federation.dcs(dc) {
        Ok(dcs) => dcs,
        Err(error) => return not_changed(&error.into()),
    };
    let change = |record: &FederationRecord| {
        if lift {
            change::operator_lift(record)
        } else {
            change::operator_fence(record, &by, now_us())
        }
    };
    match update_record(dcs, change).await {
        Err(error) => not_changed(&error),
        Ok(_) if lift => {
            println!("The fence of {dc} is lifted; its agents make it primary again.");
            Exit::Done
        }
        Ok(record) => acknowledged(session, dc, &record).await,
    }
}

async fn acknowledged(session: &Session, dc: &DcName, record: &FederationRecord) -> Exit {
    let epoch = record.fence.as_ref().map_or(record.epoch.next(), |fence| fence.epoch);
    let limit = session.limit();
    let cluster = session.federation.cluster(dc).await.unwrap_or_default();
    let id = OperationId::default();
    let result = tokio::select! {
        result = await_acknowledgement(&session.federation, dc, limit) => result,
        never = trigger(&session.federation, dc, &cluster, epoch, &id, limit) => match never {},
    };
    match result {
        Ok(record) => {
            if let Some(ack) = record.fence.as_ref().and_then(|fence| fence.ack.as_ref()) {
                println!(
                    "{dc} is fenced: {} stopped at {} on timeline {}.",
                    ack.node, ack.checkpoint, ack.timeline
                );
            }
            println!("Next: federator promote DC, or federator fence --lift {dc} to undo.");
            Exit::Done
        }
        Err(error @ StepError::Deadline { .. }) => {
            eprintln!("error: {error}");
            eprintln!(
                "The fence is set and stays. Look at: federator status; undo: federator fence \
                 --lift {dc}"
            );
            Exit::Partly
        }
        Err(error) => {
            eprintln!("error: {error}");
            Exit::Partly
        }
    }
}

pub(super) async fn confirm(session: &Session, dc: &DcName) -> Exit {
    let inventory = collect(&session.federation, Depth::Status, None).await;
    let record = match fence::confirmable(&inventory, dc) {
        Ok(record) => record,
        Err(refusal) => return refused(refusal),
    };
    println!("Plan: confirm that epoch {} of {} still holds", record.epoch, record.primary);
    for (other, fact) in &inventory.dcs {
        if fact.known().is_none() {
            println!("  warning: {other} does not answer; it may know a later epoch");
        }
    }
    if session.common.dry_run {
        println!("Dry run: nothing was changed.");
        return Exit::Done;
    }
    if let Err(exit) = consent::ask(session, Needed::Yes) {
        return exit;
    }
    let by = session.by();
    let result = match session.federation.dcs(dc) {
        Ok(dcs) => update_record(dcs, |record| change::confirm(record, &by, now_us())).await,
        Err(error) => Err(error.into()),
    };
    match result {
        Ok(record) => {
            println!("Epoch {} is confirmed; {dc} may become primary.", record.epoch);
            Exit::Done
        }
        Err(error) => not_changed(&error),
    }
}
