//! Ends the operation: the history in every datacenter that answers, then the copies, the one that
//! counts last.

use super::context::{Context, StepError};
use crate::clock::now_us;
use crate::collect::{Depth, collect};
use crate::federation::Federation;
use crate::records::{UpdateError, append_history, need_record, update_record};
use federator_core::change;
use federator_core::history::{ClosedOperation, MeasuredCopy, Outcome};
use node_agent_wire::DcName;
use node_agent_wire::federation::Operation;

pub(super) async fn run(context: &mut Context<'_>) -> Result<String, StepError> {
    context.flush().await?;
    let to = context.plan.to.clone();
    let record = need_record(context.federation.dcs(&to)?).await?;
    let Some(operation) = record.operation.filter(|o| o.id == context.plan.id) else {
        return Ok("closed already".into());
    };
    refresh(context).await;
    let pause = match context.pause {
        (Some(fenced), Some(writable)) => {
            i64::try_from(writable.duration_since(fenced).as_micros()).ok()
        }
        (_, _) => None,
    };
    let others: Vec<DcName> =
        context.plan.participants().into_iter().filter(|dc| *dc != to).collect();
    let measured = Measured { pause_us: pause, copies: context.copies.borrow().clone() };
    let silent = end(context.federation, &operation, &others, Outcome::Done, measured).await?;
    Ok(if silent.is_empty() {
        "closed everywhere".into()
    } else {
        let names: Vec<&str> = silent.iter().map(DcName::as_str).collect();
        format!("closed; {} did not answer", names.join(", "))
    })
}

/// Writes the nodes as they are now into every record that answers. Of use later; no reason to
/// leave an operation open.
async fn refresh(context: &Context<'_>) {
    let before = &context.inventory;
    let now = collect(context.federation, Depth::Status, Some(before)).await;
    let seen = now.entries(before.newest());
    for (dc, dcs) in &context.federation.dcs {
        if let Err(error) = update_record(dcs, |record| change::refresh(record, &seen)).await {
            tracing::warn!(%error, "the members in the record of {dc}");
        }
    }
}

/// What was measured on the way.
#[derive(Default)]
pub(super) struct Measured {
    /// The write pause, microseconds.
    pub(super) pause_us: Option<i64>,
    /// The base backups.
    pub(super) copies: Vec<MeasuredCopy>,
}

/// Writes the history and removes the copies; returns the datacenters that did not answer. Only
/// the target has to.
pub(super) async fn end(
    federation: &Federation,
    operation: &Operation,
    others: &[DcName],
    outcome: Outcome,
    measured: Measured,
) -> Result<Vec<DcName>, UpdateError> {
    let mut silent = Vec::new();
    let entry = ClosedOperation::new(operation, outcome, now_us(), measured.pause_us);
    let entry = ClosedOperation { copies: measured.copies, ..entry };
    let moved = change::moves_primary(operation.kind) && outcome == Outcome::Done;
    let winner = match moved {
        true => Some(need_record(federation.dcs(&operation.to)?).await?),
        false => None,
    };
    for (dc, dcs) in federation.dcs.iter().filter(|(dc, _)| **dc != operation.to) {
        if let Err(error) = append_history(dcs, &entry).await {
            tracing::warn!(%error, "history");
            silent.push(dc.clone());
            continue;
        }
        if !others.contains(dc) {
            continue;
        }
        update_record(dcs, |record| change::let_go(record, winner.as_ref(), operation, now_us()))
            .await?;
    }
    let dcs = federation.dcs(&operation.to)?;
    append_history(dcs, &entry).await?;
    update_record(dcs, |record| change::release(record, &operation.id)).await?;
    Ok(silent)
}
