//! Starting, promoting, stopping and restarting PostgreSQL.

use super::{Tools, told};
use crate::dcs::{Dcs, Write};
use crate::keeper::Keeper;
use crate::postgres::{Effective, Error, StartAs, StopMode};
use crate::publish::as_leader;
use node_agent_core::decision;
use node_agent_core::demotion::{DemotionMode, Patience};
use node_agent_core::postgres::{ControlState, Upstream};
use node_agent_core::time::Boot;
use node_agent_wire::keys::{ClusterPath, Leaf};
use node_agent_wire::status::Status;
use node_agent_wire::{Lsn, MemberName};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::oneshot;

/// A restart, a promotion or a start that takes longer has failed.
const START_MAX: Duration = Duration::from_secs(300);
/// A clean shutdown that takes longer is escalated.
pub(super) const STOP_MAX: Duration = Duration::from_secs(60);
/// A shutdown that may take as long as it takes.
const STOP_FOR_EVER: Duration = Duration::from_secs(24 * 3600);
/// Writing the final position; the key is released all the same.
const STATUS_MAX: Duration = Duration::from_secs(2);
/// An urgent stop escalates soon: the lease is gone.
const STOP_URGENT_MAX: Duration = Duration::from_millis(500);
/// The CHECKPOINT before a switchover may take this long, then the shutdown does the rest.
const CHECKPOINT_MAX: Duration = Duration::from_secs(30);
/// The checkpoint after a promotion is made in the background.
const CHECKPOINT_AFTER_MAX: Duration = Duration::from_secs(24 * 3600);

/// When the lease ends now; in the past when it is not held.
pub(super) fn lease_end(keeper: &Keeper) -> Boot {
    keeper.held_until().unwrap_or_default()
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
    let deadline = lease_end(&tools.keeper);
    let promoted = tools.server.promote(deadline, START_MAX).await.map_err(|e| told(&e));
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

/// What a stop needs beside its row of the table.
pub struct Farewell {
    /// `primary_stop_timeout`, where it applies.
    pub limit: Option<Duration>,
    /// The DCS.
    pub dcs: Arc<dyn Dcs>,
    /// The cluster's keys.
    pub path: ClusterPath,
    /// This member.
    pub name: MemberName,
    /// `/status` as it is.
    pub status: Status,
}

/// Stops a primary.
pub async fn demote(tools: Tools, mode: DemotionMode, farewell: Farewell) -> Result<(), String> {
    let (server, how) = (&tools.server, mode.how());
    if how.checkpoint
        && let Err(error) = server.checkpoint(CHECKPOINT_MAX).await
    {
        tracing::warn!(%error, "the checkpoint before the shutdown failed; the shutdown makes one");
    }
    let patience = match how.patience {
        Patience::Configured => farewell.limit.unwrap_or(STOP_FOR_EVER),
        Patience::Minute => STOP_MAX,
        Patience::Short => STOP_URGENT_MAX,
    };
    let stop = match how.stop {
        decision::StopMode::Fast => StopMode::Fast,
        decision::StopMode::Immediate => StopMode::Immediate,
    };
    let control = server.stop(stop, patience).await.map_err(|e| told(&e))?;
    tools.keeper.arm(false);
    let (state, checkpoint) = (control.state, control.checkpoint);
    tracing::info!(mode = mode.name(), ?state, %checkpoint, "stopped");
    if how.release {
        if state == ControlState::ShutDown {
            farewell.tell(checkpoint).await;
        }
        tools.keeper.release().await.map_err(|e| e.to_string())?;
    }
    Ok(())
}

impl Farewell {
    /// Where the WAL of this primary ended, before others may race: who lags is judged by it.
    async fn tell(self, end: Lsn) {
        let Self { dcs, path, name, mut status, .. } = self;
        status.optime = Some(end);
        let mine = [as_leader(&path, &name)];
        let put = [Write::put(path.key(Leaf::Status), status.to_json())];
        if let Err(error) = dcs.write(&mine, &put, STATUS_MAX).await {
            tracing::warn!(%error, "the final position was not written");
        }
    }
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
