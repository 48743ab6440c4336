//! Starting, promoting and restarting PostgreSQL.

use super::{Tools, told};
use crate::keeper::Keeper;
use crate::postgres::{Effective, Error, StartAs, StopMode};
use node_agent_core::postgres::Upstream;
use node_agent_core::time::Boot;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::oneshot;

/// A restart, a promotion or a start that takes longer has failed.
const START_MAX: Duration = Duration::from_secs(300);
/// A clean shutdown that takes longer is escalated.
pub(super) const STOP_MAX: Duration = Duration::from_secs(60);
/// The checkpoint after a promotion is made in the background.
const CHECKPOINT_AFTER_MAX: Duration = Duration::from_secs(24 * 3600);

/// When the right to write ends now; in the past when there is none.
pub(super) fn lease_end(keeper: &Keeper) -> Boot {
    keeper.write_until()
}

/// Starts writable, the guard armed with the lease's end from the first moment.
pub async fn start_primary(tools: &Tools, settings: &Effective) -> Result<(), Error> {
    start_primary_within(tools, settings, START_MAX).await
}

/// The same, failing when it has not begun to accept sessions by then; it may still do so.
pub async fn start_primary_within(
    tools: &Tools,
    settings: &Effective,
    limit: Duration,
) -> Result<(), Error> {
    tools.keeper.watchdog().open().map_err(|error| Error::Refused {
        action: "start PostgreSQL writable".to_owned(),
        reason: error.to_string(),
    })?;
    tools.keeper.arm(true);
    let deadline = lease_end(&tools.keeper);
    tools.server.start(StartAs::Primary { deadline }, settings).await?;
    tools.server.wait_ready(limit).await
}

/// Starts as a standby.
pub async fn start_standby(
    tools: Tools,
    settings: Effective,
    upstream: Upstream,
) -> Result<(), String> {
    tools.keeper.arm(false);
    let server = &tools.server;
    server.start(StartAs::Standby(&upstream), &settings).await.map_err(|e| told(&e))
}

/// Promotes, the guard armed first, and has the checkpoint made in the background.
pub async fn promote(tools: Tools) -> Result<(), String> {
    tools.keeper.watchdog().open().map_err(|error| error.to_string())?;
    tools.keeper.arm(true);
    tools.checkpointed.store(false, Ordering::SeqCst);
    let end = || lease_end(&tools.keeper);
    let promoted = tools.server.promote(end, START_MAX).await.map_err(|e| told(&e));
    let checkpointed = tools.checkpointed.clone();
    if promoted.is_err() {
        checkpointed.store(true, Ordering::SeqCst);
        return promoted;
    }
    // pg_rewind of other members needs the new timeline in the control file: a checkpoint.
    let server = tools.server.clone();
    tokio::spawn(async move {
        if let Err(error) = server.checkpoint(CHECKPOINT_AFTER_MAX).await {
            tracing::warn!(%error, "the checkpoint after the promotion failed");
        }
        checkpointed.store(true, Ordering::SeqCst);
    });
    Ok(())
}

/// Stops and starts in the same role. `limit`: how long the start may take.
pub async fn restart(
    tools: Tools,
    settings: Effective,
    standby_of: Option<Upstream>,
    limit: Option<Duration>,
    reply: Option<oneshot::Sender<Result<(), String>>>,
) -> Result<(), String> {
    let limit = limit.unwrap_or(START_MAX);
    let work = async {
        tools.server.stop(StopMode::Fast, STOP_MAX).await.map_err(|e| told(&e))?;
        match standby_of {
            Some(upstream) => {
                start_standby(tools.clone(), settings, upstream).await?;
                tools.server.wait_ready(limit).await.map_err(|e| told(&e))
            }
            None => start_primary_within(&tools, &settings, limit).await.map_err(|e| told(&e)),
        }
    };
    let result = work.await;
    if let Some(reply) = reply {
        let _gone_is_fine = reply.send(result.clone());
    }
    result
}
