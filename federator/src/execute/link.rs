//! Whether a standby datacenter streams from the one that it is to follow: by the word of its own
//! leader, and by its slot on the leader of its source, for "streaming" does not say from whom.

use super::context::{Context, POLL, StepError, Wait};
use federator_core::conditions::link_streams;
use node_agent_wire::DcName;

/// Waits until the leader of `dc` streams from the leader of `source`.
pub(super) async fn await_link(
    context: &Context<'_>,
    dc: &DcName,
    source: &DcName,
) -> Result<(), StepError> {
    let wait = Wait::new(context.limit);
    let what = format!("{dc} to stream from {source}");
    loop {
        let seen = match streams(context, dc).await {
            Ok(()) => match reads_from(context, dc, source).await {
                Ok(()) => return Ok(()),
                Err(seen) => seen,
            },
            Err(seen) => seen,
        };
        wait.pause(POLL, &what, &seen).await?;
    }
}

/// Whether the leader of `dc` streams; or what was seen.
async fn streams(context: &Context<'_>, dc: &DcName) -> Result<(), String> {
    let cluster = context.federation.cluster(dc).await.map_err(|error| error.to_string())?;
    let address = cluster.leader_grpc().ok_or_else(|| format!("{dc} has no leader"))?;
    match context.federation.links.status(address).await {
        Ok(node) if link_streams(&node) => Ok(()),
        Ok(node) => Err(format!("{} {}, {}", node.role, node.state, node.why)),
        Err(error) => Err(error.to_string()),
    }
}

/// Whether somebody reads from the slot of `dc` on the leader of `source`; or what was seen.
pub(super) async fn reads_from(
    context: &Context<'_>,
    dc: &DcName,
    source: &DcName,
) -> Result<(), String> {
    let slot = context.federation.slot(dc);
    let cluster = context.federation.cluster(source).await.map_err(|error| error.to_string())?;
    let address = cluster.leader_grpc().ok_or_else(|| format!("{source} has no leader"))?;
    match context.federation.links.status(address).await {
        Ok(node) => match node.slots.get(slot.as_str()) {
            Some(there) if there.active => Ok(()),
            Some(_) => Err(format!("{dc} does not read from its slot on {source}")),
            None => Err(format!("{source} has no slot {slot}")),
        },
        Err(error) => Err(error.to_string()),
    }
}
