//! The key space of one cluster in the DCS (contract A.1), and the keys that we add.

use crate::ids::MemberName;

/// Where one cluster lives: `/<namespace>/<scope>/`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ClusterPath(String);

impl ClusterPath {
    /// Joins namespace and scope; runs of slashes count as one (contract A.1).
    #[must_use]
    pub fn new(namespace: &str, scope: &str) -> Self {
        let parts: Vec<&str> =
            namespace.split('/').chain(scope.split('/')).filter(|p| !p.is_empty()).collect();
        Self(format!("/{}/", parts.join("/")))
    }

    /// The prefix of every key of the cluster, with a slash at its end.
    #[must_use]
    pub fn prefix(&self) -> &str {
        &self.0
    }

    /// The full name of a key.
    #[must_use]
    pub fn key(&self, leaf: Leaf<'_>) -> String {
        match leaf {
            Leaf::Member(name) => format!("{}members/{name}", self.0),
            plain @ (Leaf::Initialize
            | Leaf::Config
            | Leaf::Leader
            | Leaf::Failover
            | Leaf::History
            | Leaf::Status
            | Leaf::Sync
            | Leaf::Failsafe
            | Leaf::Federation
            | Leaf::FederationHistory
            | Leaf::FederationApprovals
            | Leaf::Position
            | Leaf::Grant
            | Leaf::GrantLast) => format!("{}{}", self.0, plain.name()),
        }
    }

    /// What a full key name is inside this cluster; `None` for a key that nobody here knows.
    #[must_use]
    pub fn parse<'k>(&self, key: &'k str) -> Option<LeafName<'k>> {
        let rest = key.strip_prefix(self.0.as_str())?;
        if let Some(member) = rest.strip_prefix("members/") {
            return (!member.is_empty() && !member.contains('/'))
                .then_some(LeafName::Member(member));
        }
        Leaf::PLAIN.iter().find(|leaf| leaf.name() == rest).map(|leaf| LeafName::Plain(*leaf))
    }
}

/// One key of a cluster, to be written or read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leaf<'a> {
    /// The system identifier; empty while a bootstrap is under way.
    Initialize,
    /// The dynamic configuration.
    Config,
    /// The name of the leader, on its lease.
    Leader,
    /// `members/<name>`: what a member says of itself, on its lease.
    Member(&'a MemberName),
    /// A pending switchover or failover.
    Failover,
    /// The timelines of the cluster.
    History,
    /// The leader's last WAL position and its slots.
    Status,
    /// The synchronous standbys.
    Sync,
    /// The failsafe topology.
    Failsafe,
    /// Ours: the federation record.
    Federation,
    /// Ours: the closed operations of the federation.
    FederationHistory,
    /// Ours: the promotions that somebody has asked for, with their approvals.
    FederationApprovals,
    /// Ours: the leader's beat and position.
    Position,
    /// Ours: the datacenter that holds this voter's site grant, on a lease.
    Grant,
    /// Ours: the marker of the site grant, see [`crate::grant`].
    GrantLast,
}

/// A key as found in the DCS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeafName<'k> {
    /// A key with a fixed name.
    Plain(Leaf<'static>),
    /// `members/<this>`.
    Member(&'k str),
}

impl Leaf<'_> {
    const PLAIN: [Leaf<'static>; 14] = [
        Leaf::Initialize,
        Leaf::Config,
        Leaf::Leader,
        Leaf::Failover,
        Leaf::History,
        Leaf::Status,
        Leaf::Sync,
        Leaf::Failsafe,
        Leaf::Federation,
        Leaf::FederationHistory,
        Leaf::FederationApprovals,
        Leaf::Position,
        Leaf::Grant,
        Leaf::GrantLast,
    ];

    fn name(self) -> &'static str {
        match self {
            Leaf::Initialize => "initialize",
            Leaf::Config => "config",
            Leaf::Leader => "leader",
            Leaf::Member(_) => "members/",
            Leaf::Failover => "failover",
            Leaf::History => "history",
            Leaf::Status => "status",
            Leaf::Sync => "sync",
            Leaf::Failsafe => "failsafe",
            Leaf::Federation => "federation",
            Leaf::FederationHistory => "federation_history",
            Leaf::FederationApprovals => "federation_approvals",
            Leaf::Position => "position",
            Leaf::Grant => "grant",
            Leaf::GrantLast => "grant_last",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn path_squeezes_slashes_and_keys_round_trip() {
        let path = ClusterPath::new("//service/", "/shop-dc1");
        assert_eq!(path.prefix(), "/service/shop-dc1/");
        for leaf in Leaf::PLAIN {
            assert_eq!(path.parse(&path.key(leaf)), Some(LeafName::Plain(leaf)));
        }
        let name = MemberName::new("pg1");
        assert_eq!(path.key(Leaf::Member(&name)), "/service/shop-dc1/members/pg1");
        assert_eq!(path.parse("/service/shop-dc1/members/pg1"), Some(LeafName::Member("pg1")));
        assert_eq!(path.parse("/service/shop-dc1/members/a/b"), None);
        assert_eq!(path.parse("/service/shop-dc1/optime/leader"), None);
        assert_eq!(path.parse("/service/shop-dc10/leader"), None);
    }
}
