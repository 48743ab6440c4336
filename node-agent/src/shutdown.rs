//! The end of the agent: PostgreSQL is stopped and the leader key given back, or, in maintenance
//! mode, both are left.

use crate::clock;
use crate::dcs::Dcs;
use crate::postgres::StopMode;
use crate::run::Agent;
use std::time::Duration;

/// PostgreSQL is given this long before it is stopped hard.
const SHUTDOWN_MAX: Duration = Duration::from_secs(60);

impl Agent {
    /// In maintenance mode a primary may be left without its agent once the DCS says so to the
    /// others; a standby may always.
    pub(crate) fn leaves_running(&self) -> bool {
        let observed = &self.view.borrow().observed;
        let standby = observed.postgres.is_standby();
        let plain = observed.cluster.known().is_none_or(|c| c.record.get().is_none());
        self.memory.config.pause && (self.hands.tools.keeper.kept() || (standby && plain))
    }

    pub(crate) async fn shut_down(self) {
        let tools = &self.hands.tools;
        if self.leaves_running() {
            tracing::info!("shutting down in maintenance mode: PostgreSQL is left running");
            return;
        }
        tracing::info!("shutting down: stopping PostgreSQL");
        let was_leader = tools.keeper.held_until().is_some();
        let stopping = async {
            let stopped = tools.server.stop(StopMode::Fast, SHUTDOWN_MAX).await;
            if let Err(error) = &stopped {
                tracing::error!(%error, hint = error.hint(), "PostgreSQL did not stop");
                return;
            }
            tools.keeper.arm(false);
            if was_leader && let Err(error) = tools.keeper.release().await {
                tracing::warn!(%error, "the leader key runs out by itself");
            }
            let lease = tools.keeper.lease();
            if lease != 0 {
                let ended = self.hands.dcs.revoke(lease, Duration::from_secs(2)).await;
                if let Err(error) = ended {
                    tracing::debug!(%error, "the member key runs out by itself");
                }
            }
        };
        // The lease stays alive while the shutdown checkpoint is written and shipped.
        tokio::pin!(stopping);
        loop {
            tokio::select! {
                () = &mut stopping => return,
                () = tokio::time::sleep(Duration::from_millis(200)) => {
                    tools.keeper.stamp(clock::boot());
                }
            }
        }
    }
}
