//! Stopping a primary, and giving the leader key to whoever has everything.

use super::life::STOP_MAX;
use super::{Tools, told};
use crate::clock;
use crate::dcs::{Dcs, Write};
use crate::peers::Peers;
use crate::postgres::{Server, StopMode};
use crate::publish::as_leader;
use node_agent_core::decision;
use node_agent_core::demotion::{DemotionMode, Patience, Release, heir};
use node_agent_core::observed::Cluster;
use node_agent_core::postgres::{ControlData, ControlState};
use node_agent_wire::keys::{ClusterPath, Leaf};
use node_agent_wire::{Lsn, MemberName};
use std::sync::Arc;
use std::time::Duration;

/// A shutdown that may take as long as it takes.
const STOP_FOR_EVER: Duration = Duration::from_secs(24 * 3600);
/// An urgent stop escalates soon: the lease is gone.
const STOP_URGENT_MAX: Duration = Duration::from_millis(500);
/// Once another member has the key, what is left of the shutdown (the archiver, other standbys) may
/// take this long.
const LEFTOVERS_MAX: Duration = Duration::from_secs(120);
/// The CHECKPOINT before a switchover may take this long, then the shutdown does the rest.
const CHECKPOINT_MAX: Duration = Duration::from_secs(30);
/// Writing the final position; the key is released all the same.
const STATUS_MAX: Duration = Duration::from_secs(2);
/// Between two looks at the control file and the members.
const LOOK_PAUSE: Duration = Duration::from_millis(200);

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
    /// The cluster as it was when the decision was made; `None`: the DCS was out of reach.
    pub cluster: Option<Cluster>,
    /// For asking the others how far they are.
    pub peers: Peers,
}

/// Stops a primary.
pub async fn demote(tools: Tools, mode: DemotionMode, farewell: Farewell) -> Result<(), String> {
    let server = &tools.server;
    let archives = mode == DemotionMode::DemoteCluster && archives(server).await;
    let how = mode.how(archives);
    if how.checkpoint
        && let Err(error) = server.checkpoint(CHECKPOINT_MAX).await
    {
        tracing::warn!(%error, "the checkpoint before the shutdown failed; the shutdown makes one");
    }
    let patience = match how.patience {
        Patience::Configured => farewell.limit.unwrap_or(STOP_FOR_EVER),
        Patience::Endless => STOP_FOR_EVER,
        Patience::Minute => STOP_MAX,
        Patience::Short => STOP_URGENT_MAX,
    };
    let stop = match how.stop {
        decision::StopMode::Fast => StopMode::Fast,
        decision::StopMode::Immediate => StopMode::Immediate,
    };
    let (control, released) = if how.release.before_the_end() {
        stop_and_hand_over(&tools, &farewell, stop, patience).await?
    } else {
        (server.stop(stop, patience).await.map_err(|e| told(&e))?, false)
    };
    tools.keeper.arm(false);
    let (state, checkpoint) = (control.state, control.checkpoint);
    tracing::info!(mode = mode.name(), ?state, %checkpoint, "stopped");
    if released {
        return Ok(());
    }
    let clean = state == ControlState::ShutDown;
    if how.archive && clean {
        // The key is kept meanwhile: whoever restores from the archive is to find the end there.
        match server.archive_checkpoint(&control).await {
            Ok(file) => tracing::info!(file, "archived the segment of the shutdown checkpoint"),
            Err(error) => {
                let hint = error.hint();
                tracing::error!(%error, hint, "the shutdown checkpoint's segment is not archived");
            }
        }
    }
    let release = match how.release {
        Release::Never => false,
        Release::Stopped | Release::HeldOrStopped => true,
        Release::Held => farewell.heir(&control).await.is_ok(),
    };
    if clean && (release || how.release.before_the_end() || how.archive) {
        farewell.tell(checkpoint).await;
    }
    if release {
        tools.keeper.release().await.map_err(|e| e.to_string())?;
    }
    Ok(())
}

/// Whether PostgreSQL archives by a command.
async fn archives(server: &Server) -> bool {
    server
        .archive_command()
        .await
        .unwrap_or_else(|error| {
            tracing::warn!(%error, hint = error.hint(), "archive_command is not known");
            None
        })
        .is_some()
}

/// Stops, and gives the key away on the way when it can be. `true`: it is given away.
async fn stop_and_hand_over(
    tools: &Tools,
    farewell: &Farewell,
    stop: StopMode,
    patience: Duration,
) -> Result<(ControlData, bool), String> {
    let server = &tools.server;
    let stopping = server.stop(stop, patience);
    tokio::pin!(stopping);
    let (to, control) = tokio::select! {
        stopped = &mut stopping => return Ok((stopped.map_err(|e| told(&e))?, false)),
        found = farewell.await_heir(server) => found,
    };
    let checkpoint = control.checkpoint;
    tracing::info!(
        %to, %checkpoint, "PostgreSQL has written its last record and waits for others: the \
        leader key is released, a member has everything"
    );
    farewell.tell(checkpoint).await;
    // The lease's end is no reason any more to cut the archiver off: nothing here can write.
    tools.keeper.arm(false);
    let end = clock::boot() + LEFTOVERS_MAX * 2;
    if let Err(error) = server.guard_until(end).await {
        tracing::warn!(%error, "the guard ends PostgreSQL with the lease, perhaps too early");
    }
    let release = tools.keeper.release().await;
    let control = match tokio::time::timeout(LEFTOVERS_MAX, &mut stopping).await {
        Ok(stopped) => stopped.map_err(|e| told(&e))?,
        Err(_) => {
            tracing::warn!("PostgreSQL still waits for its archiver or a standby: it is ended");
            let stopped = server.stop(StopMode::Immediate, STOP_URGENT_MAX).await;
            let control = stopped.map_err(|e| told(&e))?;
            server.archive_waiting().await;
            control
        }
    };
    release.map_err(|e| e.to_string())?;
    Ok((control, true))
}

impl Farewell {
    /// Until PostgreSQL has written its shutdown checkpoint and a member that may lead has it;
    /// who, and the control file.
    async fn await_heir(&self, server: &Server) -> (MemberName, ControlData) {
        loop {
            tokio::time::sleep(LOOK_PAUSE).await;
            let Ok(before) = server.control().await else { continue };
            if before.state != ControlState::ShutDown {
                continue;
            }
            let found = self.heir(&before).await;
            // Read twice: one reading may have met the moment of writing.
            if let (Ok(heir), Ok(after)) = (found, server.control().await)
                && after == before
            {
                return (heir, after);
            }
        }
    }

    async fn heir(&self, control: &ControlData) -> Result<MemberName, String> {
        let cluster = self.cluster.as_ref().ok_or("the DCS was out of reach")?;
        let poll = self.peers.ask(cluster.members.values(), &self.name).await;
        heir(control, cluster, &poll.answers)
    }

    /// Where the WAL of this primary ended, before others may race: who lags is judged by it.
    async fn tell(&self, end: Lsn) {
        let mut status = self.cluster.as_ref().map(|c| c.status.clone()).unwrap_or_default();
        status.optime = Some(end);
        let mine = [as_leader(&self.path, &self.name)];
        let put = [Write::put(self.path.key(Leaf::Status), status.to_json())];
        if let Err(error) = self.dcs.write(&mine, &put, STATUS_MAX).await {
            tracing::warn!(%error, "the final position was not written");
        }
    }
}
