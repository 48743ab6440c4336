//! The target leaves standby mode: its configuration first, then its leader is told directly, so
//! that no poll interval is waited for.

use super::context::{Context, StepError, Wait};
use crate::records::update_config_under;
use federator_core::change;
use federator_core::configuration::as_primary;
use std::time::{Duration, Instant};

/// The pause between two attempts.
const RETRY: Duration = Duration::from_millis(50);

pub(super) async fn run(context: &mut Context<'_>) -> Result<String, StepError> {
    let to = context.plan.to.clone();
    let dcs = context.federation.dcs(&to)?;
    let (epoch, id) = (context.plan.next_epoch, context.plan.id.clone());
    update_config_under(dcs, |record| change::may_lead(record, &id), as_primary).await?;
    let wait = Wait::new(context.limit);
    let what = format!("a node of {to} to accept writes");
    loop {
        let cluster = context.federation.cluster(&to).await?;
        let seen = match (cluster.leader_grpc(), &cluster.leader) {
            (Some(address), Some(leader)) => {
                let limit = wait.left().max(RETRY);
                match context.federation.links.promote(address, epoch, &id, limit).await {
                    Ok(timeline) => {
                        context.pause.1 = Some(Instant::now());
                        return Ok(format!(
                            "{leader} accepts writes on timeline {timeline}{}",
                            pause_words(context)
                        ));
                    }
                    Err(error) => error.to_string(),
                }
            }
            (None, Some(leader)) => format!("{leader} publishes no gRPC address"),
            (_, None) => format!("{to} has no leader"),
        };
        // An agent that was told before, or saw the record by itself, may have done it already.
        let nodes = context.nodes(&cluster).await;
        let writer = nodes.iter().find(|(_, node)| node.as_ref().is_ok_and(|n| n.writable));
        if let Some((name, _)) = writer {
            context.pause.1 = Some(Instant::now());
            return Ok(format!("{name} accepts writes{}", pause_words(context)));
        }
        wait.pause(RETRY, &what, &seen).await?;
    }
}

fn pause_words(context: &Context<'_>) -> String {
    match context.pause {
        (Some(fenced), Some(writable)) => {
            format!("; write pause {} ms", writable.duration_since(fenced).as_millis())
        }
        (_, _) => String::new(),
    }
}
