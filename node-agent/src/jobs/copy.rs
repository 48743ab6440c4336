//! Filling the data directory from another server or a backup.

use super::rewind::{Loss, report_loss};
use super::{Tools, told};
use crate::postgres::method::{CopyMethod, CopyOf};
use crate::postgres::{Effective, Error, Server, StopMode};
use node_agent_core::postgres::Upstream;
use node_agent_wire::{Lsn, TimelineId};
use std::path::PathBuf;
use std::time::Duration;

/// A base backup or a rewind.
pub(super) const COPY_MAX: Duration = Duration::from_secs(24 * 3600);
/// A member that is to be replaced need not stop cleanly.
const STOP_MAX: Duration = Duration::from_secs(5);

/// … and one whose WAL is to be reported first.
const CLEAN_STOP_MAX: Duration = Duration::from_secs(60);

/// What is copied, and how.
#[derive(Clone, Debug)]
pub struct CopyPlan {
    /// The server to copy; `Upstream::Nobody` leaves the methods that need none.
    pub source: Upstream,
    /// The methods in order.
    pub methods: Vec<CopyMethod>,
}

impl CopyPlan {
    /// Which of the configured lists of methods counts.
    #[must_use]
    pub fn list_for(source: &Upstream, standby_cluster: bool) -> CopyOf {
        match source {
            Upstream::Member { .. } | Upstream::Archive { of: Some(_) } => CopyOf::Member,
            Upstream::Remote { .. } | Upstream::Archive { of: None } => CopyOf::AnotherDatacenter,
            Upstream::Nobody if standby_cluster => CopyOf::AnotherDatacenter,
            Upstream::Nobody => CopyOf::Member,
        }
    }
}

/// Fills an empty data directory.
pub async fn clone(tools: Tools, plan: CopyPlan) -> Result<(), String> {
    let source = locate(&tools.server, &plan.source).await?;
    let source = source.as_ref().map(|(host, port)| (host.as_str(), *port));
    let mut report = |progress| tools.progress.set(Some(progress));
    let copied = tools.server.copy(&plan.methods, source, &mut report, COPY_MAX).await;
    tools.progress.set(None);
    copied.map_err(|e| told(&e))
}

/// What a data directory is replaced by.
#[derive(Clone, Debug)]
pub struct ReinitPlan {
    /// What is copied, and how.
    pub copy: CopyPlan,
    /// The last common timeline and the end of what is common with the source, where only this
    /// directory has what is beyond.
    pub diverged: Option<(TimelineId, Lsn)>,
    /// Where divergent WAL is kept; `None`: it is not.
    pub keep: Option<PathBuf>,
    /// An operator asked for it.
    pub asked: bool,
    /// The archive's commands are among them.
    pub settings: Effective,
}

/// Reports and keeps what will be lost, gives the data directory up and fills it anew. Nothing is
/// discarded before the report is written (I8).
pub async fn reinit(tools: Tools, plan: ReinitPlan) -> Result<(), String> {
    let server = &tools.server;
    if plan.diverged.is_some() {
        // A standby's control file says how far it has come only after a clean stop, and without
        // that the report would miss what it has.
        let stopped = server.stop(StopMode::Fast, CLEAN_STOP_MAX).await;
        if let Err(error) = stopped {
            tracing::warn!(error = %told(&error), "no clean stop before the report");
        }
    }
    if let Err(error) = server.stop(StopMode::Immediate, STOP_MAX).await {
        // Of a directory that is to be replaced nothing needs to be readable.
        match error {
            Error::Deadline { .. } | Error::Guard { .. } => return Err(told(&error)),
            Error::Config { .. }
            | Error::File { .. }
            | Error::Spawn { .. }
            | Error::Command { .. }
            | Error::Connect { .. }
            | Error::Query { .. }
            | Error::Start { .. }
            | Error::Refused { .. }
            | Error::Answer { .. } => {
                tracing::info!(%error, "the data directory to be replaced");
            }
        }
    }
    if let Some((timeline, fork)) = plan.diverged {
        let source = match &plan.copy.source {
            Upstream::Member { host, port, .. } => vec![(host.clone(), *port)],
            Upstream::Remote { hosts, .. } => hosts.clone(),
            Upstream::Archive { of: Some(peer) } => vec![(peer.host.clone(), peer.port)],
            Upstream::Archive { of: None } | Upstream::Nobody => Vec::new(),
        };
        let lost = Loss { timeline, fork, keep: plan.keep };
        match report_loss(server, lost, &plan.settings, &source).await {
            Ok(()) => {}
            Err(why) if plan.asked => {
                tracing::warn!(why, "an operator wants a new copy: what is lost is not known");
            }
            Err(why) => return Err(why),
        }
    }
    server.give_up_data().await.map_err(|e| told(&e))?;
    clone(tools, plan.copy).await
}

/// Host and port of the source; `None` when there is none.
async fn locate(server: &Server, upstream: &Upstream) -> Result<Option<(String, u16)>, String> {
    match upstream {
        Upstream::Member { host, port, .. } => Ok(Some((host.clone(), *port))),
        Upstream::Remote { hosts, .. } => server
            .remote_identity(hosts, Duration::from_secs(5))
            .await
            .map(|who| Some((who.host, who.port)))
            .map_err(|e| told(&e)),
        Upstream::Archive { of: Some(peer) } => Ok(Some((peer.host.clone(), peer.port))),
        Upstream::Archive { of: None } | Upstream::Nobody => Ok(None),
    }
}
