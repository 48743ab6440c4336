//! The proof at the end: a probe write on the new primary, slots on all its nodes, and the other
//! datacenters streaming from it.

use super::context::{Context, POLL, StepError, Wait};
use super::link::await_link;
use super::slots::await_slots;
use crate::records::update_record;
use federator_core::change;
use federator_core::links::in_order;
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
    // Who is followed comes before who follows it.
    let list = in_order(&list, |dc| context.source_of(dc, &to));
    let mut notes = vec!["probe write committed".to_owned()];
    for dc in &list {
        let source = context.source_of(dc, &to);
        await_link(context, dc, &source).await?;
        let epoch = context.plan.next_epoch;
        let dcs = context.federation.dcs(dc)?;
        update_record(dcs, |record| change::mark_streamed(record, epoch)).await?;
        notes.push(format!("{dc} streams from {source}"));
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
