//! The configuration of a standby datacenter, pointed at the datacenter that it follows now.

use super::Hands;
use crate::dcs::{Compare, Dcs, Write, cluster};
use crate::observe::Memory;
use crate::publish;
use node_agent_core::observed::Observed;
use node_agent_wire::dynamic::as_standby_of;
use node_agent_wire::keys::Leaf;
use node_agent_wire::{Revision, SlotName};

impl Hands {
    /// Writes `standby_cluster`, if neither the configuration nor the record has changed since the
    /// read that this pass is made from.
    pub(super) async fn follow_datacenter(
        &self,
        memory: &Memory,
        observed: &Observed,
        hosts: &[(String, u16)],
        slot: &SlotName,
        under: Revision,
    ) {
        let Some(config) = cluster::config_object(&self.path, &memory.raw) else { return };
        let next = as_standby_of(&config, hosts, slot);
        let Ok(value) = serde_json::to_vec(&next) else { return };
        let key = self.path.key(Leaf::Config);
        let conditions = [
            Compare::AtRevision(self.path.key(Leaf::Federation), under),
            Compare::AtRevision(key.clone(), memory.raw.revision_of(&key)),
            publish::as_leader(&self.path, &observed.me.name),
        ];
        let names: Vec<String> = hosts.iter().map(|(h, p)| format!("{h}:{p}")).collect();
        let names = names.join(", ");
        match self.dcs.write(&conditions, &[Write::put(key, value)], Self::deadline(observed)).await
        {
            Ok(Some(_)) => {
                tracing::info!(hosts = names, "standby_cluster now names the source's nodes");
            }
            Ok(None) => {
                tracing::info!("record or configuration changed meanwhile; looking again");
            }
            Err(error) => tracing::warn!(%error, "standby_cluster was not written"),
        }
        self.wake.notify_one();
    }
}
