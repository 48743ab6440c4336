//! Slots on every node that may become primary, and what else is prepared before the write pause.

use super::consumers;
use super::context::{Context, POLL, StepError, Wait};
use crate::concurrent::{Local, all};
use crate::link::LinkError;
use crate::records::update_config;
use federator_core::configuration::with_slots;
use node_agent_wire::DcName;
use node_agent_wire::federation::OperationKind;
use node_agent_wire::member::state;
use std::collections::BTreeSet;
use std::time::Duration;

/// How long a checkpoint may take. A slow one only makes the write pause longer.
const CHECKPOINT_LIMIT: Duration = Duration::from_secs(60);

/// Slots of the other datacenters on the primary one, and on each other one that may be followed:
/// by a new member, or by anybody after a promotion. A new one gets them with its configuration.
pub(super) async fn run(context: &mut Context<'_>) -> Result<String, StepError> {
    let primary = context.plan.primary.clone();
    let new = context.plan.new_standbys();
    let mut list: BTreeSet<DcName> =
        new.iter().map(|dc| context.source_of(dc, &primary)).chain([primary.clone()]).collect();
    if context.plan.kind == OperationKind::Setup {
        let members = context.inventory.sites.keys();
        list.extend(members.filter(|dc| context.inventory.is_member(dc)).cloned());
    }
    let mut notes = Vec::new();
    for dc in list.difference(&new) {
        notes.push(ensure(context, dc).await?);
    }
    Ok(notes.join("; "))
}

/// Puts the slots into the configuration of `dc` and waits until every node has them.
async fn ensure(context: &Context<'_>, dc: &DcName) -> Result<String, StepError> {
    let slots = context.slots_on(dc);
    let dcs = context.federation.dcs(dc)?;
    update_config(dcs, |config| with_slots(&config.cloned().unwrap_or_default(), &slots)).await?;
    let nodes = await_slots(context, dc).await?;
    let names: Vec<&str> = slots.iter().map(node_agent_wire::SlotName::as_str).collect();
    Ok(format!("slot {} on {nodes} nodes of {dc}", names.join(", ")))
}

/// Waits until every running node of `dc` that may become leader has the slots of all other
/// datacenters; returns how many have.
pub(super) async fn await_slots(context: &Context<'_>, dc: &DcName) -> Result<usize, StepError> {
    let slots = context.slots_on(dc);
    let wait = Wait::new(context.limit);
    loop {
        let cluster = context.federation.cluster(dc).await?;
        let nodes = context.nodes(&cluster).await;
        let mut missing = Vec::new();
        let mut count = 0;
        for (name, member) in &cluster.members {
            if member.tag("nofailover") {
                continue;
            }
            match nodes.get(name) {
                Some(Ok(node)) if node.state == state::RUNNING => {
                    let absent = slots.iter().find(|slot| !node.slots.contains_key(slot.as_str()));
                    match absent {
                        Some(slot) => missing.push(format!("{name} lacks slot {slot}")),
                        None => count += 1,
                    }
                }
                Some(Ok(node)) => missing.push(format!("{name} is in state {}", node.state)),
                Some(Err(error)) => missing.push(format!("{name}: {error}")),
                None => missing.push(format!("{name} publishes no gRPC address")),
            }
        }
        if missing.is_empty() && count > 0 {
            return Ok(count);
        }
        let seen = if missing.is_empty() { "no member".into() } else { missing.join("; ") };
        wait.pause(POLL, &format!("the slots on every node of {dc}"), &seen).await?;
    }
}

/// The way back, checkpoints on both sides, and the connections for the write pause.
pub(super) async fn prepare(context: &mut Context<'_>) -> Result<String, StepError> {
    let (from, to) = (context.from()?, context.plan.to.clone());
    let slots = ensure(context, &to).await?;
    let checkpoints: Vec<Local<'_, String>> = [&from, &to]
        .into_iter()
        .map(|dc| -> Local<'_, String> { Box::pin(checkpoint(context, dc)) })
        .collect();
    let checkpoints = all(checkpoints).await.join(", ");
    let session = context.leader_session(&to).await?;
    context.timeline = session.replay().await?.timeline;
    // Last: consumers go on reading meanwhile.
    let kept = consumers::in_step(context, (&from, &to), &session).await;
    context.session = Some(session);
    let kept = kept.map(|kept| format!("; {kept}")).unwrap_or_default();
    Ok(format!("{slots}; {checkpoints}{kept}"))
}

/// A checkpoint shortens the shutdown and the promotion; doing without only takes longer.
async fn checkpoint(context: &Context<'_>, dc: &DcName) -> String {
    let run = async {
        let cluster = context.federation.cluster(dc).await?;
        let address = cluster
            .leader_grpc()
            .ok_or_else(|| StepError::Missing(format!("{dc} has no leader with an agent")))?;
        let took = context.federation.links.checkpoint(address, CHECKPOINT_LIMIT).await;
        took.map_err(|error: LinkError| StepError::from(error))
    };
    match run.await {
        Ok(took) => format!("checkpoint on {dc} {} ms", took.as_millis()),
        Err(error) => format!("no checkpoint on {dc} ({error})"),
    }
}
