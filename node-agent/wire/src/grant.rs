//! Site grants: what a voter holds, and what the federation agreed on about them.
//!
//! A voter is the DCS of a datacenter, or of the witness. It has two keys: `grant` is the name of
//! the datacenter that holds it and hangs on a lease; `grant_last` is the [`Marker`], which
//! outlives it. In a datacenter they stand under its scope, at the witness under the name of the
//! federation. Every write compares the revisions of both.

use crate::federation::{DcEntry, FederationRecord, Isolation};
use crate::ids::{DcName, Epoch, MemberName, OperationId};
use crate::keys::ClusterPath;
use crate::lsn::{Lsn, TimelineId};
use crate::position::Consumers;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The marker: the last word about a voter's grant. Each renewal writes it, so that others see it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Marker {
    /// The datacenter that has, or had, the grant.
    pub holder: DcName,
    /// At which epoch.
    pub epoch: Epoch,
    /// The node that wrote this.
    pub node: MemberName,
    /// Given back after the holder had stopped writing: nobody has to wait.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub released: bool,
    /// Whoever wants the grant waits this long, in milliseconds, after the last renewal that it
    /// saw: the holder may write until a little less after that renewal.
    pub wait_ms: u64,
    /// The operation that took the grant ahead of its commit; gone with the first renewal of a
    /// datacenter whose record names it at this epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operation: Option<OperationId>,
    /// Whom it was taken from, for an operation that is turned back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<Before>,
    /// How far the holder's primary was: whoever can read a voter knows it when the primary
    /// datacenter is gone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub position: Option<Reached>,
}

/// A primary's position, as its beats have it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reached {
    /// End of WAL.
    pub lsn: Lsn,
    /// The timeline.
    pub timeline: TimelineId,
    /// When it was observed, microseconds since the Unix epoch by the writer's wall clock.
    pub at_us: i64,
    /// Highest WAL rate of the minute before, bytes a second.
    pub wal_rate_max: u64,
    /// Its logical slots; not known when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub consumers: Option<Consumers>,
}

/// The holder before a grant was taken ahead of a commit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Before {
    /// The datacenter.
    pub holder: DcName,
    /// Its epoch.
    pub epoch: Epoch,
}

/// What a federation with site grants agreed on, in the policies of its record. While it is there
/// the leader of the primary datacenter takes and renews the grants, whatever the isolation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct GrantPolicy {
    /// How long the holder may write on one renewal, in milliseconds of its own clock.
    pub holder_ttl_ms: u64,
    /// By how much the rates of two clocks may differ, in millionths.
    pub clock_error_ppm: u32,
    /// The longest time from losing the right to the last commit that is acknowledged, in
    /// milliseconds.
    pub stop_max_ms: u64,
    /// On top of all, in milliseconds.
    pub margin_ms: u64,
    /// A voter in one more place, without PostgreSQL.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub witness: Option<Witness>,
}

impl Default for GrantPolicy {
    fn default() -> Self {
        Self {
            holder_ttl_ms: 15_000,
            clock_error_ppm: 1000,
            stop_max_ms: 3000,
            margin_ms: 1000,
            witness: None,
        }
    }
}

/// The witness.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Witness {
    /// The client endpoints of its etcd, `host:port` or URL.
    pub etcd: Vec<String>,
    /// Its keys stand under `<namespace>/<federation>/`.
    pub namespace: String,
}

/// A voter.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Voter {
    /// The DCS of a datacenter.
    Datacenter(DcName),
    /// The DCS of the witness.
    Witness,
}

impl std::fmt::Display for Voter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Datacenter(dc) => f.pad(dc.as_str()),
            Self::Witness => f.pad("witness"),
        }
    }
}

impl Voter {
    /// Reads what `Display` writes: a datacenter may not be called `witness` where there is one.
    #[must_use]
    pub fn named(name: &str) -> Self {
        if name == "witness" { Self::Witness } else { Self::Datacenter(DcName::new(name)) }
    }
}

/// How many voters are a majority.
#[must_use]
pub fn majority(voters: usize) -> usize {
    voters / 2 + 1
}

/// Where a voter's keys are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Endpoints of its etcd.
    pub etcd: Vec<String>,
    /// What the keys begin with.
    pub path: ClusterPath,
}

/// The voters of a federation.
#[must_use]
pub fn voters(
    federation: &str,
    members: &BTreeMap<DcName, DcEntry>,
    policy: &GrantPolicy,
) -> BTreeMap<Voter, Place> {
    let datacenters = members.iter().map(|(dc, entry)| {
        let path = ClusterPath::new(&entry.namespace, &entry.scope);
        (Voter::Datacenter(dc.clone()), Place { etcd: entry.etcd.clone(), path })
    });
    let witness = policy.witness.as_ref().map(|witness| {
        let path = ClusterPath::new(&witness.namespace, federation);
        (Voter::Witness, Place { etcd: witness.etcd.clone(), path })
    });
    datacenters.chain(witness).collect()
}

impl FederationRecord {
    /// The voters, where the federation has site grants.
    #[must_use]
    pub fn voters(&self) -> BTreeMap<Voter, Place> {
        let policy = self.policies.grants.as_ref();
        policy.map(|p| voters(&self.federation, &self.members, p)).unwrap_or_default()
    }

    /// Whether `dc`, when it is primary, stops without a majority of the grants.
    #[must_use]
    pub fn needs_grants(&self, dc: &DcName) -> bool {
        self.members.get(dc).is_some_and(|entry| entry.isolation == Isolation::Lease)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_marker_says_no_more_than_there_is() {
        let marker = Marker {
            holder: "dc1".into(),
            epoch: Epoch(4),
            node: "pg1".into(),
            released: false,
            wait_ms: 12_010,
            operation: None,
            before: None,
            position: None,
        };
        let text = json!({"holder": "dc1", "epoch": 4, "node": "pg1", "wait_ms": 12_010});
        assert_eq!(serde_json::to_value(&marker).unwrap(), text);
        assert_eq!(serde_json::from_value::<Marker>(text).unwrap(), marker);
        let released = Marker { released: true, ..marker };
        let again = serde_json::to_value(&released).unwrap();
        assert_eq!(serde_json::from_value::<Marker>(again).unwrap(), released);
    }

    #[test]
    fn voters_are_the_datacenters_and_the_witness() {
        let entry = |scope: &str| DcEntry {
            scope: scope.into(),
            namespace: "/service".into(),
            etcd: vec!["a:1".into()],
            isolation: Isolation::Lease,
            slot: crate::SlotName::from_name(scope),
            retention: crate::retention::Retention::default(),
            follows: None,
            nodes: BTreeMap::new(),
        };
        let members =
            BTreeMap::from([("dc1".into(), entry("shop-dc1")), ("dc2".into(), entry("shop-dc2"))]);
        let witness = Witness { etcd: vec!["w:1".into()], namespace: "/service".into() };
        let policy = GrantPolicy { witness: Some(witness), ..GrantPolicy::default() };
        let found = voters("shop", &members, &policy);
        let shown: Vec<(String, &str)> =
            found.iter().map(|(v, place)| (v.to_string(), place.path.prefix())).collect();
        assert_eq!(
            shown,
            [
                ("dc1".into(), "/service/shop-dc1/"),
                ("dc2".into(), "/service/shop-dc2/"),
                ("witness".into(), "/service/shop/"),
            ]
        );
        for voter in found.keys() {
            assert_eq!(Voter::named(&voter.to_string()), *voter);
        }
    }
}
