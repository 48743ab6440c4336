//! The settings with their connections: what every command and every step works with.

use crate::dcs::{Dcs, DcsError};
use crate::link::{LinkError, Links};
use crate::settings::Settings;
use federator_core::inventory::Site;
use node_agent_wire::keys::{ClusterPath, LeafName};
use node_agent_wire::member::Member;
use node_agent_wire::{DcName, MemberName, SlotName};
use std::collections::{BTreeMap, BTreeSet};

/// One federation as this command reaches it.
pub struct Federation {
    /// The settings.
    pub settings: Settings,
    /// Each datacenter's etcd.
    pub dcs: BTreeMap<DcName, Dcs>,
    /// The agents.
    pub links: Links,
}

/// The leader and the members of one datacenter, read afresh.
#[derive(Clone, Debug, Default)]
pub struct Cluster {
    /// The holder of the leader key.
    pub leader: Option<MemberName>,
    /// The members.
    pub members: BTreeMap<MemberName, Member>,
}

impl Cluster {
    /// The leader's member data.
    #[must_use]
    pub fn leader(&self) -> Option<&Member> {
        self.members.get(self.leader.as_ref()?)
    }

    /// The gRPC address of the leader.
    #[must_use]
    pub fn leader_grpc(&self) -> Option<&str> {
        self.leader()?.data.grpc.as_deref()
    }

    /// Where PostgreSQL of every member listens, the leader first.
    #[must_use]
    pub fn postgres_addresses(&self) -> Vec<(String, u16)> {
        let mut members: Vec<&Member> = self.members.values().collect();
        members.sort_by_key(|m| Some(&m.name) != self.leader.as_ref());
        members.into_iter().filter_map(Member::postgres_address).collect()
    }
}

impl Federation {
    /// Connects to nothing yet.
    ///
    /// # Errors
    /// The certificates can't be read.
    pub fn new(settings: Settings) -> Result<Self, LinkError> {
        let dcs = settings
            .datacenters
            .iter()
            .map(|(dc, entry)| {
                let path = ClusterPath::new(&entry.namespace, &entry.scope);
                (dc.clone(), Dcs::new(dc.clone(), path, &entry.etcd))
            })
            .collect();
        let links = Links::new(settings.tls.as_ref())?;
        Ok(Self { settings, dcs, links })
    }

    /// A datacenter's etcd.
    ///
    /// # Errors
    /// The settings do not name it.
    pub fn dcs(&self, dc: &DcName) -> Result<&Dcs, DcsError> {
        self.dcs.get(dc).ok_or_else(|| DcsError::NotNamed(dc.clone()))
    }

    /// The datacenters as the inventory holds them.
    #[must_use]
    pub fn sites(&self) -> BTreeMap<DcName, Site> {
        self.settings
            .datacenters
            .iter()
            .map(|(dc, entry)| {
                let site = Site {
                    scope: entry.scope.clone(),
                    namespace: entry.namespace.clone(),
                    etcd: entry.etcd.clone(),
                    slot: entry.slot.clone(),
                    follows: entry.follows.clone(),
                    isolation: entry.isolation,
                    retention: entry.retention,
                    seed: entry.seed.clone(),
                };
                (dc.clone(), site)
            })
            .collect()
    }

    /// The slot of a datacenter on the others.
    #[must_use]
    pub fn slot(&self, dc: &DcName) -> SlotName {
        let entry = self.settings.datacenters.get(dc);
        entry.map_or_else(|| SlotName::from_name(dc.as_str()), |e| e.slot.clone())
    }

    /// The slots of every other datacenter of the settings.
    #[must_use]
    pub fn slots_of_others(&self, dc: &DcName) -> BTreeSet<SlotName> {
        self.settings.datacenters.keys().filter(|o| *o != dc).map(|o| self.slot(o)).collect()
    }

    /// The leader and the members of a datacenter, read afresh.
    ///
    /// # Errors
    /// Its etcd does not answer.
    pub async fn cluster(&self, dc: &DcName) -> Result<Cluster, DcsError> {
        let dcs = self.dcs(dc)?;
        let mut cluster = Cluster::default();
        for (key, (value, _)) in dcs.snapshot().await? {
            match dcs.path().parse(&key) {
                Some(LeafName::Plain(node_agent_wire::keys::Leaf::Leader)) => {
                    cluster.leader = leader(&value);
                }
                Some(LeafName::Member(name)) => {
                    cluster.members.insert(MemberName::new(name), Member::parse(name, &value));
                }
                Some(LeafName::Plain(_)) | None => {}
            }
        }
        Ok(cluster)
    }
}

/// The leader key's value; empty is no leader.
#[must_use]
pub fn leader(value: &[u8]) -> Option<MemberName> {
    let name = String::from_utf8_lossy(value);
    (!name.is_empty()).then(|| MemberName::new(name))
}
