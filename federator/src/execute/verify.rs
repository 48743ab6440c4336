//! The proof at the end: a probe write on the new primary, slots on all its nodes, and the other
//! datacenters streaming from it.

use super::context::{Context, POLL, StepError, Wait};
use super::slots::await_slots;
use crate::records::update_record;
use federator_core::change;
use federator_core::conditions::link_streams;
use node_agent_wire::DcName;
use node_agent_wire::federation::OperationKind;

pub(super) async fn run(context: &mut Context<'_>) -> Result<String, StepError> {
    let to = context.plan.to.clone();
    probe(context, &to).await?;
    let mut list: Vec<DcName> = context.plan.followers.iter().cloned().collect();
    if context.plan.kind == OperationKind::Switchover {
        await_slots(context, &to).await?;
        list.extend(context.plan.from.clone());
    }
    list.retain(|dc| !context.left_behind.contains(dc));
    let mut notes = vec!["probe write committed".to_owned()];
    for dc in &list {
        await_link(context, dc).await?;
        let epoch = context.plan.next_epoch;
        let dcs = context.federation.dcs(dc)?;
        update_record(dcs, |record| change::mark_streamed(record, epoch)).await?;
        notes.push(format!("{dc} streams from {to}"));
    }
    Ok(notes.join("; "))
}

async fn probe(context: &mut Context<'_>, to: &DcName) -> Result<(), StepError> {
    let wait = Wait::new(context.limit);
    loop {
        let result = match context.leader_session(to).await {
            Ok(session) => session.probe_write().await.map_err(StepError::from),
            Err(error) => Err(error),
        };
        match result {
            Ok(()) => return Ok(()),
            Err(error) => {
                let what = format!("a probe write on {to}");
                wait.pause(POLL, &what, &error.to_string()).await?;
            }
        }
    }
}

/// Waits until the leader of `dc` streams.
async fn await_link(context: &Context<'_>, dc: &DcName) -> Result<(), StepError> {
    let wait = Wait::new(context.limit);
    let what = format!("{dc} to stream from {}", context.plan.to);
    loop {
        let seen = match context.federation.cluster(dc).await {
            Err(error) => error.to_string(),
            Ok(cluster) => match cluster.leader_grpc() {
                None => format!("{dc} has no leader"),
                Some(address) => match context.federation.links.status(address).await {
                    Ok(node) if link_streams(&node) => return Ok(()),
                    Ok(node) => format!("{} {}, {}", node.role, node.state, node.why),
                    Err(error) => error.to_string(),
                },
            },
        };
        wait.pause(POLL, &what, &seen).await?;
    }
}
