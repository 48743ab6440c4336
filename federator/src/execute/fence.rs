//! Fences the former primary and waits until its agent has confirmed the demotion. From here to
//! the promotion nobody can write: nothing slow happens in between.

use super::context::{Context, StepError, Wait};
use crate::clock::now_us;
use crate::federation::{Cluster, Federation};
use crate::records::{UpdateError, need_record, update_record};
use federator_core::change;
use federator_core::conditions::{self, FenceWord};
use node_agent_wire::federation::FederationRecord;
use node_agent_wire::{DcName, Epoch, OperationId};
use std::time::{Duration, Instant};

/// The pause between two looks at the acknowledgement.
const ACK_POLL: Duration = Duration::from_millis(10);
/// When the leader has not acknowledged after this, every member is told: it may have changed.
const TELL_ALL_AFTER: Duration = Duration::from_millis(1000);

pub(super) async fn run(context: &mut Context<'_>) -> Result<String, StepError> {
    let from = context.from()?;
    let operation = context.plan.operation();
    let dcs = context.federation.dcs(&from)?;
    if !conditions::fence_needs_answer(context.plan.kind) {
        let fenced = update_record(dcs, |record| change::fence(record, &operation, now_us())).await;
        return match fenced {
            Ok(_) => Ok(format!("the record of {from} is fenced")),
            // It fell silent after the plan was made: the evidence decides at the commit.
            Err(UpdateError::Dcs(error)) => Ok(format!("{from} is not fenced: {error}")),
            Err(error) => Err(error.into()),
        };
    }
    let cluster = context.federation.cluster(&from).await?;
    context.pause.0 = Some(Instant::now());
    let fenced = update_record(dcs, |record| change::fence(record, &operation, now_us())).await?;
    let epoch = fenced.fence.map_or(operation.next_epoch, |fence| fence.epoch);
    let record = tokio::select! {
        result = await_acknowledgement(context.federation, &from, context.limit) => result?,
        never = trigger(context.federation, &from, &cluster, epoch, &operation.id, context.limit)
            => match never {},
    };
    let note = record.fence.as_ref().and_then(|f| f.ack.as_ref()).map(|ack| {
        format!("{} stopped at {} on timeline {}", ack.node, ack.checkpoint, ack.timeline)
    });
    context.former = Some(record);
    Ok(note.unwrap_or_default())
}

/// Waits until the record holds the acknowledgement, and returns it.
///
/// # Errors
/// The deadline passed, the DCS does not answer, or the fence is gone.
pub async fn await_acknowledgement(
    federation: &Federation,
    dc: &DcName,
    limit: Duration,
) -> Result<FederationRecord, StepError> {
    let wait = Wait::new(limit);
    let what = format!("the primary of {dc} to acknowledge its fence");
    loop {
        let seen = match need_record(federation.dcs(dc)?).await {
            Ok(record) => match FenceWord::of(&record) {
                FenceWord::Acknowledged(_) => return Ok(record),
                FenceWord::Awaited => "fenced, not acknowledged".to_owned(),
                FenceWord::Lifted => {
                    return Err(StepError::Missing(format!("the fence of {dc} was lifted")));
                }
            },
            Err(UpdateError::Dcs(error)) => error.to_string(),
            Err(error) => return Err(error.into()),
        };
        wait.pause(ACK_POLL, &what, &seen).await?;
    }
}

/// Tells the leader to act on the fence now, and after a while every member. Never ends: the
/// acknowledgement in the record is what counts, the call only makes it come sooner.
pub async fn trigger(
    federation: &Federation,
    dc: &DcName,
    cluster: &Cluster,
    epoch: Epoch,
    operation: &OperationId,
    limit: Duration,
) -> std::convert::Infallible {
    let leader = async {
        if let Some(address) = cluster.leader_grpc() {
            tell(federation, address, epoch, operation, limit).await;
        }
    };
    let everyone = async {
        tokio::time::sleep(TELL_ALL_AFTER).await;
        let Ok(cluster) = federation.cluster(dc).await else { return };
        let calls = cluster.members.values().filter_map(|m| m.data.grpc.as_deref()).map(
            |address| -> crate::concurrent::Local<'_, ()> {
                Box::pin(tell(federation, address, epoch, operation, limit))
            },
        );
        crate::concurrent::all(calls.collect()).await;
    };
    tokio::join!(leader, everyone);
    std::future::pending().await
}

async fn tell(
    federation: &Federation,
    address: &str,
    epoch: Epoch,
    operation: &OperationId,
    limit: Duration,
) {
    if let Err(error) = federation.links.fence(address, epoch, operation, limit).await {
        tracing::warn!(%error, "fence call");
    }
}
