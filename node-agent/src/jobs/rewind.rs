//! Making a diverged data directory follow again.

use super::copy::COPY_MAX;
use super::life::STOP_MAX;
use super::{Tools, told};
use crate::postgres::StopMode;
use node_agent_wire::{Lsn, TimelineId};
use std::path::PathBuf;
use std::time::Duration;

/// Finding a server that knows the names of the tables in a divergence report.
const NAMES_MAX: Duration = Duration::from_secs(10);

/// What a rewind works on.
#[derive(Clone, Debug)]
pub struct RewindPlan {
    /// Sources in order; the first that is read-write counts.
    pub hosts: Vec<(String, u16)>,
    /// The last common timeline.
    pub timeline: TimelineId,
    /// The end of what is common.
    pub fork: Lsn,
    /// Where divergent WAL is kept; `None`: it is not.
    pub keep: Option<PathBuf>,
}

/// Reports and keeps what will be lost, then rewinds. Nothing is discarded before the report is
/// written (I8).
pub async fn rewind(tools: Tools, plan: RewindPlan) -> Result<(), String> {
    let server = &tools.server;
    server.stop(StopMode::Fast, STOP_MAX).await.map_err(|e| told(&e))?;
    let mut lost = server
        .divergence_report(plan.fork, plan.timeline, plan.keep)
        .await
        .map_err(|e| format!("nothing was discarded, the report of it failed: {}", told(&e)))?;
    if let Err(error) = server.name_relations(&mut lost, &plan.hosts, NAMES_MAX).await {
        // The report is written; the WAL's own numbers of the tables stay in it.
        tracing::warn!(error = %told(&error), "the divergence report names no tables");
    }
    tracing::warn!(
        bytes = lost.bytes,
        transactions = lost.transactions,
        first_commit = lost.first_commit.as_deref().unwrap_or("none"),
        last_commit = lost.last_commit.as_deref().unwrap_or("none"),
        complete = lost.complete,
        fork = %plan.fork,
        timeline = %plan.timeline,
        report = %lost.report.display(),
        "discarding divergent WAL"
    );
    server.rewind(&plan.hosts, COPY_MAX).await.map_err(|e| told(&e))
}
