//! The configuration of a standby datacenter, pointed at the datacenter that it follows now.

use super::Hands;
use crate::dcs::{Compare, Dcs, Write, cluster};
use crate::observe::Memory;
use crate::publish;
use node_agent_core::observed::Observed;
use node_agent_wire::Revision;
use node_agent_wire::keys::Leaf;
use serde_json::{Map, Value};

/// The configuration, pointed at the source.
pub(super) type Pointed<'c> = dyn Fn(&Map<String, Value>) -> Map<String, Value> + Sync + 'c;

impl Hands {
    /// Writes `standby_cluster`, if neither the configuration nor the record has changed since the
    /// read that this pass is made from.
    pub(super) async fn follow_datacenter(
        &self,
        memory: &Memory,
        observed: &Observed,
        next: &Pointed<'_>,
        under: Revision,
    ) {
        let Some(config) = cluster::config_object(&self.path, &memory.raw) else { return };
        let next = next(&config);
        let Ok(value) = serde_json::to_vec(&next) else { return };
        let key = self.path.key(Leaf::Config);
        let conditions = [
            Compare::AtRevision(self.path.key(Leaf::Federation), under),
            Compare::AtRevision(key.clone(), memory.raw.revision_of(&key)),
            publish::as_leader(&self.path, &observed.me.name),
        ];
        let section = next.get("standby_cluster").map(ToString::to_string).unwrap_or_default();
        match self.dcs.write(&conditions, &[Write::put(key, value)], Self::deadline(observed)).await
        {
            Ok(Some(_)) => {
                tracing::info!(section, "standby_cluster now names the source's nodes");
            }
            Ok(None) => {
                tracing::info!("record or configuration changed meanwhile; looking again");
            }
            Err(error) => tracing::warn!(%error, "standby_cluster was not written"),
        }
        self.wake.notify_one();
    }
}
