//! Beginning a cluster.

use super::copy::COPY_MAX;
use super::life::{lease_end, start_primary};
use super::{Tools, told};
use crate::postgres::method::{BootstrapMethod, BootstrapPlan};
use crate::postgres::{Effective, Error, StartAs, StopMode};
use std::collections::BTreeMap;
use std::time::Duration;

/// What a failed bootstrap left running need not stop cleanly.
const STOP_MAX: Duration = Duration::from_secs(5);

/// initdb or the configured command, the first start, users, `post_bootstrap`. What a failure
/// leaves is set aside under another name.
pub async fn bootstrap(
    tools: Tools,
    settings: Effective,
    plan: BootstrapPlan,
) -> Result<(), String> {
    let made = make(&tools, &settings, &plan).await.map_err(|e| told(&e));
    let Err(why) = made else { return Ok(()) };
    tools.keeper.arm(false);
    if let Err(error) = tools.server.stop(StopMode::Immediate, STOP_MAX).await {
        tracing::debug!(%error, "stopping what the failed bootstrap left");
    }
    match tools.server.set_aside().await {
        Ok(None) => Err(why),
        Ok(Some(place)) => Err(format!("{why}; what it left is in {}", place.display())),
        Err(error) => Err(format!("{why}; and what it left was not set aside: {}", told(&error))),
    }
}

async fn make(tools: &Tools, settings: &Effective, plan: &BootstrapPlan) -> Result<(), Error> {
    let server = &tools.server;
    server.create(&plan.method, COPY_MAX).await?;
    match &plan.method {
        BootstrapMethod::Initdb => {
            start_primary(tools, settings).await?;
            server.create_users(false).await?;
        }
        BootstrapMethod::Custom { keep_existing, recovery, .. } => {
            let recovery = Some(recovery).filter(|settings| !settings.is_empty());
            let (trusting, hba) = server.trusting(settings)?;
            match (recovery, keep_existing) {
                (None, false) => start_primary(tools, &trusting).await?,
                (recovery, _) => recover(tools, &trusting, recovery).await?,
            }
            server.create_users(true).await?;
            server.distrust(settings, hba).await?;
        }
    }
    if let Some(command) = &plan.afterwards {
        server.post_bootstrap(command, COPY_MAX).await?;
    }
    server.bootstrapped()
}

/// Starts in recovery, and waits until PostgreSQL has ended it by itself. The guard is armed with
/// the lease's end from the first moment: nobody knows when the end comes.
async fn recover(
    tools: &Tools,
    settings: &Effective,
    recovery: Option<&BTreeMap<String, String>>,
) -> Result<(), Error> {
    tools.keeper.arm(true);
    let role = StartAs::Recovery { deadline: lease_end(&tools.keeper), settings: recovery };
    tools.server.start(role, settings).await?;
    tools.server.wait_recovered(COPY_MAX).await
}
