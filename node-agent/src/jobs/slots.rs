//! Copying the leader's logical slots into a standby.

use super::life::STOP_MAX;
use super::{Tools, start_standby, told};
use crate::postgres::{Effective, Error, StopMode};
use node_agent_core::postgres::Upstream;
use node_agent_wire::SlotName;
use std::collections::BTreeSet;
use std::time::Duration;

/// Reading the files from the leader.
const READ_MAX: Duration = Duration::from_secs(5);
/// Reading one segment of WAL from the leader.
const WAL_MAX: Duration = Duration::from_secs(30);
/// The restartpoint before the shutdown may take this long, then the shutdown does the rest.
const RESTARTPOINT_MAX: Duration = Duration::from_secs(30);
/// A start that takes longer has failed.
const START_MAX: Duration = Duration::from_secs(300);

/// Which slots, from where.
#[derive(Clone, Debug)]
pub struct SlotCopy {
    /// Host and port of the leader.
    pub leader: (String, u16),
    /// The slots.
    pub slots: BTreeSet<SlotName>,
    /// What the standby follows.
    pub upstream: Upstream,
}

/// Copies what can be copied; PostgreSQL is only stopped when there is something.
pub async fn copy_slots(tools: Tools, settings: Effective, plan: SlotCopy) -> Result<(), String> {
    let server = &tools.server;
    let (host, port) = &plan.leader;
    let files =
        server.read_slots(host, *port, &plan.slots, READ_MAX).await.map_err(|e| told(&e))?;
    if files.is_empty() {
        return Err(format!("{host}:{port} has none of the slots any more"));
    }
    let wal = server.fetch_wal(host, *port, &files, WAL_MAX).await.map_err(|e| told(&e))?;
    let names: BTreeSet<SlotName> = files.iter().map(|file| file.name.clone()).collect();
    if let Err(error) = server.checkpoint(RESTARTPOINT_MAX).await {
        tracing::warn!(%error, "no restartpoint before the restart; the shutdown makes one");
    }
    server.stop(StopMode::Fast, STOP_MAX).await.map_err(|e| told(&e))?;
    let written = match wal {
        Some(wal) => match server.place_wal(&wal).await {
            Ok(()) => server.write_slots(files).await,
            Err(error) => Err(error),
        },
        None => server.write_slots(files).await,
    };
    let started = start(&tools, &settings, &plan.upstream).await;
    match (written, started) {
        (Ok(()), Ok(())) => {
            tracing::info!(slots = ?names, "logical slots copied from {host}:{port}");
            Ok(())
        }
        (Err(error), Ok(())) => Err(told(&error)),
        (_, Err(error)) => {
            // Without the standby no slot is of use.
            tracing::error!(error, "PostgreSQL did not start with the slots; they are taken out");
            server.stop(StopMode::Immediate, STOP_MAX).await.map_err(|e| told(&e))?;
            server.remove_slots(&names).map_err(|e| told(&e))?;
            start(&tools, &settings, &plan.upstream).await?;
            Err(error)
        }
    }
}

async fn start(tools: &Tools, settings: &Effective, upstream: &Upstream) -> Result<(), String> {
    start_standby(tools.clone(), settings.clone(), upstream.clone()).await?;
    tools.server.wait_ready(START_MAX).await.map_err(|e: Error| told(&e))
}
