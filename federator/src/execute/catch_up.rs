//! Waits until the target has replayed everything that the former primary wrote. The former primary
//! said where its shutdown checkpoint begins: who has replayed beyond that has it all.

use super::context::{Context, StepError, Wait};
use federator_core::conditions::{CatchUp, catch_up};
use node_agent_wire::TimelineId;
use std::time::Duration;

/// The pause between two looks, inside the write pause.
const REPLAY_POLL: Duration = Duration::from_millis(5);

pub(super) async fn run(context: &mut Context<'_>) -> Result<String, StepError> {
    let missing = |what: &str| StepError::Missing(what.to_owned());
    let to = context.plan.to.clone();
    let ack = context
        .former
        .as_ref()
        .and_then(|record| record.fence.as_ref()?.ack.clone())
        .ok_or_else(|| missing("the former primary has not acknowledged"))?;
    let wait = Wait::new(context.limit);
    let what = format!("{to} to replay beyond {}", ack.checkpoint);
    let mut session = match context.session.take() {
        Some(session) => session,
        None => context.leader_session(&to).await?,
    };
    loop {
        let seen = match session.replay().await {
            Ok(replay) => {
                // The WAL receiver ends with the primary: what it received last still counts.
                context.timeline = replay.timeline.or(context.timeline);
                let Some(lsn) = replay.lsn else {
                    return Err(missing("the leader of the target is no standby"));
                };
                let mut state = catch_up(&ack, lsn, context.timeline);
                if state == CatchUp::TimelineUnknown {
                    state = catch_up(&ack, lsn, Some(timeline(context).await?));
                }
                match state {
                    CatchUp::Complete => {
                        context.session = Some(session);
                        return Ok(format!("{to} has replayed up to {lsn}"));
                    }
                    CatchUp::OtherTimeline(found) => {
                        let expected = ack.timeline;
                        return Err(StepError::OtherTimeline { dc: to, found, expected });
                    }
                    CatchUp::Behind | CatchUp::TimelineUnknown => {
                        format!("replayed up to {lsn}")
                    }
                }
            }
            Err(error) => {
                // The leader may have changed; a session that is broken does not come back.
                if let Ok(fresh) = context.leader_session(&to).await {
                    session = fresh;
                }
                error.to_string()
            }
        };
        wait.pause(REPLAY_POLL, &what, &seen).await?;
    }
}

/// The target's timeline, by its leader's agent.
async fn timeline(context: &Context<'_>) -> Result<TimelineId, StepError> {
    let dc = &context.plan.to;
    let cluster = context.federation.cluster(dc).await?;
    let address = cluster
        .leader_grpc()
        .ok_or_else(|| StepError::Missing(format!("{dc} has no leader with an agent")))?;
    Ok(context.federation.links.status(address).await?.timeline)
}
