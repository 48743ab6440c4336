//! Making a diverged data directory follow again.

use super::copy::COPY_MAX;
use super::life::STOP_MAX;
use super::{Tools, told};
use crate::postgres::{Effective, Error, Server, StopMode};
use node_agent_core::decision::RewindTo;
use node_agent_wire::{Lsn, TimelineId};
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Finding a server that knows the names of the tables in a divergence report.
const NAMES_MAX: Duration = Duration::from_secs(10);

/// What a rewind works on.
#[derive(Clone, Debug)]
pub struct RewindPlan {
    /// The servers to be rewound to.
    pub to: RewindTo,
    /// The last common timeline.
    pub timeline: TimelineId,
    /// The end of what is common.
    pub fork: Lsn,
    /// Where divergent WAL is kept; `None`: it is not.
    pub keep: Option<PathBuf>,
    /// The archive's commands are among them.
    pub settings: Effective,
}

/// Reports and keeps what will be lost, then rewinds. Nothing is discarded before the report is
/// written (I8).
pub async fn rewind(tools: Tools, plan: RewindPlan) -> Result<(), String> {
    let server = &tools.server;
    server.stop(StopMode::Fast, STOP_MAX).await.map_err(|e| told(&e))?;
    let lost = Loss { timeline: plan.timeline, fork: plan.fork, keep: plan.keep };
    report_loss(server, lost, &plan.settings, &plan.to.hosts).await?;
    let done = server.rewind(&plan.to, &plan.settings, COPY_MAX).await;
    let hopeless = done.as_ref().is_err_and(|failure| failure.hopeless);
    tools.rewind_failed.store(hopeless, Ordering::SeqCst);
    done.map_err(|failure| told(&failure.error))
}

/// What is to be reported.
pub(super) struct Loss {
    /// The last common timeline.
    pub(super) timeline: TimelineId,
    /// The end of what is common.
    pub(super) fork: Lsn,
    /// Where divergent WAL is kept; `None`: it is not.
    pub(super) keep: Option<PathBuf>,
}

/// Writes the report of what is beyond the fork, and keeps that WAL where asked. `settings`: the
/// archive's commands are among them.
pub(super) async fn report_loss(
    server: &Server,
    Loss { timeline, fork, keep }: Loss,
    settings: &Effective,
    hosts: &[(String, u16)],
) -> Result<(), String> {
    let failed = |e: Error| format!("nothing was discarded, the report of it failed: {}", told(&e));
    server.prepare_rewind(settings).await.map_err(failed)?;
    let mut lost = server.divergence_report(fork, timeline, keep).await.map_err(failed)?;
    if let Err(error) = server.name_relations(&mut lost, hosts, NAMES_MAX).await {
        // The report is written; the WAL's own numbers of the tables stay in it.
        tracing::warn!(error = %told(&error), "the divergence report names no tables");
    }
    tracing::warn!(
        bytes = lost.bytes,
        transactions = lost.transactions,
        first_commit = lost.first_commit.as_deref().unwrap_or("none"),
        last_commit = lost.last_commit.as_deref().unwrap_or("none"),
        complete = lost.complete,
        fork = %fork,
        timeline = %timeline,
        report = %lost.report.display(),
        "discarding divergent WAL"
    );
    server.note_report(lost);
    Ok(())
}
