//! Beginning a cluster.

use super::copy::clear;
use super::life::start_primary;
use super::{Tools, told};
use crate::postgres::Effective;

/// initdb, the first start, users.
pub async fn initdb(tools: Tools, settings: Effective) -> Result<(), String> {
    let server = &tools.server;
    clear(server).await?;
    server.initdb().await.map_err(|e| told(&e))?;
    start_primary(&tools, &settings).await?;
    server.create_users().await.map_err(|e| told(&e))
}
