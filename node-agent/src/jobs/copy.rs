//! Filling the data directory from another server.

use super::{Tools, told};
use crate::clock;
use crate::postgres::Server;
use node_agent_core::postgres::{Postgres, Upstream};
use std::time::Duration;

/// A base backup or a rewind.
pub(super) const COPY_MAX: Duration = Duration::from_secs(24 * 3600);

/// A base backup of the first source that answers.
pub async fn clone(tools: Tools, upstream: Upstream) -> Result<(), String> {
    let (host, port) = locate(&tools.server, &upstream).await?;
    let progress = |p: crate::postgres::Progress| {
        tracing::info!(done = p.done_bytes, total = p.total_bytes, "base backup");
    };
    clear(&tools.server).await?;
    tools.server.basebackup(&host, port, progress, COPY_MAX).await.map_err(|e| told(&e))
}

/// Removes what an interrupted initdb or base backup left; anything else in the directory stays,
/// and is an error.
pub(super) async fn clear(server: &Server) -> Result<(), String> {
    match server.observe(clock::boot(), Duration::from_secs(5)).await {
        Postgres::NoData => server.remove_data().await.map_err(|e| told(&e)),
        Postgres::Unreadable(_)
        | Postgres::Stopped(_)
        | Postgres::Starting { .. }
        | Postgres::Running(_)
        | Postgres::Unresponsive { .. } => {
            Err(format!("{} is not empty; nothing was changed", server.data_dir().display()))
        }
    }
}

async fn locate(server: &Server, upstream: &Upstream) -> Result<(String, u16), String> {
    match upstream {
        Upstream::Member { host, port, .. } => Ok((host.clone(), *port)),
        Upstream::Remote { hosts, .. } => server
            .remote_identity(hosts, Duration::from_secs(5))
            .await
            .map(|who| (who.host, who.port))
            .map_err(|e| told(&e)),
        Upstream::Nobody => Err("there is no source to copy".to_owned()),
    }
}
