//! Logical slots that PostgreSQL itself keeps in step on the target: once the former primary has
//! stopped they come no further, so they are waited for right before the fence.

use super::context::{Context, POLL, StepError, Wait};
use crate::sql::Session;
use federator_core::consumers::{short_of, to_reach};
use federator_core::inventory::NodeView;
use node_agent_wire::DcName;

/// Waits until those slots are where their consumers were at the beginning of the wait; a line
/// about it, `None` where there are none. One that does not get there stops nothing: its consumer
/// reads something again.
pub(super) async fn in_step(
    context: &Context<'_>,
    (from, to): (&DcName, &DcName),
    session: &Session,
) -> Option<String> {
    let wait = Wait::new(context.limit);
    let source = leader(context, from).await.ok()?;
    let mut target = leader(context, to).await;
    let reach = to_reach(&source, target.as_ref().ok()?);
    let names: Vec<&str> = reach.keys().map(String::as_str).collect();
    if names.is_empty() {
        return None;
    }
    let mut woken = false;
    loop {
        let seen = match &target {
            Ok(node) => {
                let short = short_of(&reach, node);
                let words = |(name, bytes): (&String, &u64)| format!("{name} by {bytes} bytes");
                short.iter().map(words).collect::<Vec<_>>().join(", ")
            }
            Err(error) => format!("not known ({error})"),
        };
        if seen.is_empty() {
            return Some(format!("slot {} in step on {to}", names.join(", ")));
        }
        if !woken {
            // It sleeps for up to 30 s where nothing has changed for a while. Without it the wait
            // is longer.
            woken = session.reload().await.is_ok();
        }
        if wait.pause(POLL, "the slots to be in step", &seen).await.is_err() {
            return Some(format!("slots of {to} behind their consumers, who read again: {seen}"));
        }
        target = leader(context, to).await;
    }
}

/// What the leader's agent says.
async fn leader(context: &Context<'_>, dc: &DcName) -> Result<NodeView, StepError> {
    let cluster = context.federation.cluster(dc).await?;
    let missing = || StepError::Missing(format!("{dc} has no leader with an agent"));
    let address = cluster.leader_grpc().ok_or_else(missing)?;
    Ok(context.federation.links.status(address).await?)
}
