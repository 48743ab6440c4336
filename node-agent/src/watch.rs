//! The watch of the cluster's keys: wakes the loop on changes that matter to it, notes every beat
//! when it arrives, and keeps the mirror.

use crate::clock;
use crate::dcs::mirror::Mirrored;
use crate::dcs::{Change, Dcs};
use crate::observe::Beats;
use node_agent_wire::keys::{ClusterPath, Leaf, LeafName};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;

/// One call to the store.
const CALL_MAX: Duration = Duration::from_secs(5);
/// Between two attempts.
const PAUSE: Duration = Duration::from_millis(200);

/// Watches for ever.
pub async fn watch_cluster(
    dcs: Arc<Mirrored>,
    path: ClusterPath,
    beats: Arc<Beats>,
    wake: Arc<Notify>,
) {
    loop {
        let begun = async {
            let (raw, _) = dcs.cluster(path.prefix(), true, CALL_MAX).await?;
            dcs.watch(path.prefix(), raw.revision, CALL_MAX).await
        };
        match begun.await {
            Ok(mut changes) => {
                dcs.mirror.watched();
                // What changed before the watch began is seen by the pass that this starts.
                wake.notify_one();
                loop {
                    match changes.next().await {
                        Ok(batch) => {
                            dcs.mirror.heard(&batch, clock::boot());
                            if batch.iter().any(|c| matters(&path, &beats, c)) {
                                wake.notify_one();
                            }
                        }
                        Err(error) => {
                            tracing::debug!(%error, "the watch is begun anew");
                            break;
                        }
                    }
                }
                dcs.mirror.unwatched();
                wake.notify_one();
            }
            Err(error) => tracing::debug!(%error, "no watch yet"),
        }
        tokio::time::sleep(PAUSE).await;
    }
}

fn matters(path: &ClusterPath, beats: &Beats, change: &Change) -> bool {
    match path.parse(&change.key) {
        Some(LeafName::Plain(Leaf::Position)) => {
            if change.value.is_some() {
                beats.saw(change.revision, clock::boot());
            }
            false
        }
        Some(LeafName::Plain(
            Leaf::Leader
            | Leaf::Config
            | Leaf::Failover
            | Leaf::Federation
            | Leaf::Initialize
            | Leaf::Sync,
        )) => true,
        // A member that comes needs its slot, one that goes may be a candidate less.
        Some(LeafName::Member(_)) => change.created || change.value.is_none(),
        Some(LeafName::Plain(
            Leaf::Member(_)
            | Leaf::History
            | Leaf::Status
            | Leaf::Failsafe
            | Leaf::FederationHistory
            | Leaf::FederationApprovals
            | Leaf::Grant
            | Leaf::GrantLast,
        ))
        | None => false,
    }
}
