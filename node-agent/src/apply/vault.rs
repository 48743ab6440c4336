//! The end of vaults: what was kept long enough is removed, in quiet times only.

use super::Hands;
use crate::clock;
use crate::observe::{Memory, record_of};
use node_agent_core::observed::Observed;
use std::time::Duration;

/// Between two looks.
const PAUSE: Duration = Duration::from_secs(3600);

impl Hands {
    /// Removes vaults that are older than the federation's `vault_retention`. While an operation is
    /// open, or work on the data directory is under way, everything stays; so it does without a
    /// federation, which has no such policy.
    pub fn sweep_vaults(&self, memory: &mut Memory, observed: &Observed) {
        let Some(record) = record_of(observed) else { return };
        let retention = Duration::from_secs(record.policies.vault_retention_s);
        let now = clock::boot();
        let due = memory.vaults_swept_at.is_none_or(|at| now.since(at) >= PAUSE);
        let busy = record.operation.is_some() || observed.job.is_some();
        if retention.is_zero() || !due || busy {
            return;
        }
        memory.vaults_swept_at = Some(now);
        let server = self.tools.server.clone();
        tokio::spawn(async move { server.sweep_vaults(retention).await });
    }
}
