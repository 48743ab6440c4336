//! The federation record: the key `<namespace>/<scope>/federation` in each datacenter's own DCS.
//!
//! It says who may be primary. Every write is a compare-and-set on the revision that was read and
//! passes [`FederationRecord::check_successor`]: the epoch never goes down, and one epoch never
//! names two primary datacenters.

use crate::approval::{Approval, SignedDocument};
use crate::grant::GrantPolicy;
use crate::ids::{DcName, Epoch, MemberName, OperationId, SlotName, SystemId};
pub use crate::isolation::Isolation;
use crate::lsn::{Lsn, TimelineId};
pub use crate::retention::Retention;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

#[path = "words.rs"]
mod words;

pub use words::{Confirmation, JournalEntry, PreSync, Resolution};

/// The version of the record's format that this code writes.
pub const RECORD_VERSION: u32 = 1;

/// What one datacenter knows of its federation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FederationRecord {
    /// Format version, see [`RECORD_VERSION`].
    pub version: u32,
    /// The name of the federation.
    pub federation: String,
    /// The name of the datacenter whose DCS holds this copy.
    pub dc: DcName,
    /// The present epoch as this datacenter knows it.
    pub epoch: Epoch,
    /// The primary datacenter of that epoch.
    pub primary: DcName,
    /// Set: nobody in this datacenter may accept writes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fence: Option<Fence>,
    /// The operation in progress that involves this datacenter. At most one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operation: Option<Operation>,
    /// How the present epoch came about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub claim: Option<Claim>,
    /// Every datacenter of the federation, this one included.
    pub members: BTreeMap<DcName, DcEntry>,
    /// What the federation agreed on beforehand.
    #[serde(default)]
    pub policies: Policies,
    /// Since the present epoch began, this standby datacenter has been seen streaming from the
    /// primary one. The next change of primary waits for it.
    #[serde(default)]
    pub streamed: bool,
    /// An operator confirmed after a cold start that this epoch is the present one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub confirmed: Option<Confirmation>,
    /// Which datacenter is kept of those that claim the present epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resolution: Option<Resolution>,
}

/// Nobody in the datacenter may accept writes while this is set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fence {
    /// The epoch that the fence makes room for, or has been superseded by.
    pub epoch: Epoch,
    /// The operation that set it; `None` when an agent or an operator did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operation: Option<OperationId>,
    /// Why, for people.
    pub reason: String,
    /// Who set it: an operator, or `agent <name>`.
    pub by: String,
    /// When, in microseconds since the Unix epoch, by the writer's wall clock.
    pub at_us: i64,
    /// The demotion as the former primary's agent confirmed it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ack: Option<FenceAck>,
}

/// The confirmation that the datacenter's primary has stopped, from `pg_controldata`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FenceAck {
    /// The node that was leader.
    pub node: MemberName,
    /// Where its shutdown checkpoint record begins. A standby has everything when it has replayed
    /// beyond this position.
    pub checkpoint: Lsn,
    /// The timeline of that checkpoint.
    pub timeline: TimelineId,
    /// The database system.
    pub system_id: SystemId,
    /// When, in microseconds since the Unix epoch, by the agent's wall clock.
    pub at_us: i64,
}

/// What kind of change an operation is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OperationKind {
    /// A datacenter becomes a standby of the primary one for the first time.
    Setup,
    /// A planned change of the primary datacenter, nothing lost.
    Switchover,
    /// The primary datacenter is lost: another one is promoted on evidence.
    Promotion,
    /// A former primary datacenter becomes a standby.
    Rejoin,
    /// An operator fences a datacenter.
    Fence,
    /// A standby datacenter leaves the federation.
    Remove,
}

impl std::fmt::Display for OperationKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Setup => "setup",
            Self::Switchover => "switchover",
            Self::Promotion => "promotion",
            Self::Rejoin => "rejoin",
            Self::Fence => "fence",
            Self::Remove => "removal",
        })
    }
}

/// An operation in progress. The copy in the target's DCS is the one that counts: commit and abort
/// are compare-and-sets on the same key there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Operation {
    /// Unique; shown to people.
    pub id: OperationId,
    /// What it does.
    pub kind: OperationKind,
    /// The datacenter that gives up the role, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<DcName>,
    /// The datacenter that the operation is for.
    pub to: DcName,
    /// The epoch that the commit will begin; the present one where the primary does not change.
    pub next_epoch: Epoch,
    /// Whether it still goes forward.
    pub phase: Phase,
    /// Who started it.
    pub by: String,
    /// When, in microseconds since the Unix epoch.
    pub started_at_us: i64,
    /// The best evidence that allows the commit of a promotion.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evidence: Option<Evidence>,
    /// What else there is, best first, at most one of a kind.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub further_evidence: Vec<Evidence>,
    /// The loss that was expected when the operator decided.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expected_loss: Option<LossEstimate>,
    /// Who has approved it, beside who started it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub approvals: Vec<Approval>,
    /// The evidence as it was signed at the commit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub document: Option<SignedDocument>,
    /// What has been begun and done, in order.
    #[serde(default)]
    pub journal: Vec<JournalEntry>,
    /// Members whose divergent WAL an operator gives up without a vault.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub waived_vaults: BTreeSet<MemberName>,
    /// Before a switchover stops writes, its target is to be close behind; absent: it does without.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pre_sync: Option<PreSync>,
}

impl Operation {
    /// One that begins: running, without evidence, nothing done yet.
    #[must_use]
    pub fn new(
        id: OperationId,
        kind: OperationKind,
        (from, to): (Option<DcName>, DcName),
        next_epoch: Epoch,
        (by, started_at_us): (&str, i64),
    ) -> Self {
        Self {
            id,
            kind,
            from,
            to,
            next_epoch,
            phase: Phase::Running,
            by: by.to_owned(),
            started_at_us,
            evidence: None,
            further_evidence: Vec::new(),
            expected_loss: None,
            approvals: Vec::new(),
            document: None,
            journal: Vec::new(),
            waived_vaults: BTreeSet::new(),
            pre_sync: None,
        }
    }

    /// All the evidence, best first.
    pub fn all_evidence(&self) -> impl Iterator<Item = &Evidence> {
        self.evidence.iter().chain(&self.further_evidence)
    }
}

/// Forward, or on the way back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// Steps are being taken; not committed yet.
    Running,
    /// An operator or a deadline turned it back before the commit.
    Aborting,
    /// Committed: only forward from here.
    Committed,
}

/// Why it is safe that the former primary datacenter no longer accepts writes, best first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Evidence {
    /// The former primary's agents confirmed the demotion.
    Acknowledged {
        /// Their confirmation.
        ack: FenceAck,
    },
    /// The new primary datacenter holds a majority of the site grants at the new epoch.
    LeaseExpired {
        /// The voters that granted it; empty while they are still to be asked, before the commit.
        voters: Vec<String>,
    },
    /// The configured fencer exited with 0.
    FencedByHook {
        /// Its output.
        output: String,
    },
    /// An operator states it. The weakest kind.
    Attested {
        /// The operator.
        by: String,
        /// Why they are sure.
        reason: String,
        /// When, in microseconds since the Unix epoch.
        at_us: i64,
    },
}

impl Evidence {
    /// The name that documents and commands use.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Acknowledged { .. } => "acknowledged",
            Self::LeaseExpired { .. } => "lease-expired",
            Self::FencedByHook { .. } => "fenced-by-hook",
            Self::Attested { .. } => "attested",
        }
    }
}

/// What a promotion is expected to lose, at most.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LossEstimate {
    /// Bytes of WAL by which the target was behind at the last observation of the primary.
    pub known_bytes: u64,
    /// Upper bound in bytes: the same, plus what the primary can have written since that
    /// observation at twice the highest rate seen. `None` when no observation exists.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_max: Option<u64>,
    /// Upper bound in microseconds: the time since the commit of the last transaction that the
    /// target has replayed. `None` when it never replayed one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub span_us_max: Option<i64>,
    /// The age of the last observation of the primary, in microseconds. `None`: never observed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observation_age_us: Option<i64>,
}

/// How the present epoch came about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    /// The operation that committed it.
    pub operation: OperationId,
    /// What kind it was.
    pub kind: OperationKind,
    /// What proved that the former primary had stopped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evidence: Option<Evidence>,
    /// What else did, best first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub further_evidence: Vec<Evidence>,
    /// When, in microseconds since the Unix epoch.
    pub at_us: i64,
}

/// One datacenter as the others reach it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DcEntry {
    /// Patroni's `scope`.
    pub scope: String,
    /// Patroni's `namespace`.
    pub namespace: String,
    /// The client endpoints of its etcd, `host:port` or URL.
    pub etcd: Vec<String>,
    /// What an isolated primary does.
    #[serde(default)]
    pub isolation: Isolation,
    /// The slot that this datacenter's standby leader uses on the datacenter that it follows.
    pub slot: SlotName,
    /// In a cascade, the standby datacenter that it follows while that one serves
    /// ([`crate::chain::source`]); absent: the primary one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub follows: Option<DcName>,
    /// What gives way when that slot holds back too much WAL.
    #[serde(default)]
    pub retention: Retention,
    /// Its nodes, as last seen.
    #[serde(default)]
    pub nodes: BTreeMap<MemberName, NodeEntry>,
}

/// How to reach one node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeEntry {
    /// PostgreSQL's `host:port`.
    pub postgres: String,
    /// The agent's gRPC `host:port`; `None` for a Patroni member.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grpc: Option<String>,
}

/// What the federation agreed on beforehand.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Policies {
    /// Without a leader for longer than this many seconds, a datacenter does not resume as primary
    /// until another datacenter's record, or an operator, confirms the epoch.
    pub cold_start_after_s: u64,
    /// A planned switchover is refused while the target is further behind than this, in bytes.
    pub switchover_lag_bytes_max: u64,
    /// Divergent WAL is kept in a vault beside the data directory before it is rewound.
    pub keep_divergent_wal: bool,
    /// Which evidence a promotion needs: a formula over the names of [`Evidence`]. Kept as text: a
    /// record that holds one which cannot be read is readable all the same, and promotes nobody.
    pub evidence: String,
    /// So many people other than who asks must approve a promotion.
    pub approvals: u32,
    /// By so many values each sequence is advanced after a promotion that may have lost
    /// transactions; 0: not at all.
    pub sequence_gap: u64,
    /// Site grants; none where absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grants: Option<GrantPolicy>,
    /// A retention runway that is shorter than this many seconds is a problem.
    pub runway_warning_s: u64,
    /// A vault is removed this many seconds after it was sealed; 0: never.
    pub vault_retention_s: u64,
}

/// Any one piece of evidence.
pub const ANY_EVIDENCE: &str = "acknowledged or lease-expired or fenced-by-hook or attested";

impl Default for Policies {
    fn default() -> Self {
        Self {
            cold_start_after_s: 60,
            switchover_lag_bytes_max: 64 * 1024 * 1024,
            keep_divergent_wal: true,
            evidence: ANY_EVIDENCE.to_owned(),
            approvals: 0,
            sequence_gap: 0,
            grants: None,
            runway_warning_s: 4 * 3600,
            vault_retention_s: 30 * 24 * 3600,
        }
    }
}

/// A change of the record that the rules forbid.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordRule {
    /// The epoch would go down.
    #[error("the epoch would go from {from} back to {to}")]
    EpochLowered {
        /// The epoch that is recorded.
        from: Epoch,
        /// The epoch that was to be written.
        to: Epoch,
    },
    /// One epoch would name two primary datacenters.
    #[error("epoch {epoch} would name both {a} and {b} as primary")]
    TwoPrimaries {
        /// The epoch.
        epoch: Epoch,
        /// The recorded primary.
        a: DcName,
        /// The other one.
        b: DcName,
    },
    /// The copy would change the datacenter or the federation that it belongs to.
    #[error("the record would change its federation or datacenter")]
    Identity,
}

impl FederationRecord {
    /// Whether this datacenter is the primary one by its own record.
    #[must_use]
    pub fn names_us(&self) -> bool {
        self.primary == self.dc
    }

    /// The datacenter that `dc` streams from, as far as this record tells.
    #[must_use]
    pub fn source_of<'a>(&'a self, dc: &'a DcName, serves: impl Fn(&DcName) -> bool) -> &'a DcName {
        let wish = |dc: &DcName| self.members.get(dc).and_then(|entry| entry.follows.as_ref());
        let member = |dc: &DcName| self.members.contains_key(dc) && serves(dc);
        crate::chain::source(dc, &self.primary, wish, member)
    }

    /// Whether this datacenter is a member by its own record: that of a removed one names the
    /// others only.
    #[must_use]
    pub fn is_member(&self) -> bool {
        self.members.contains_key(&self.dc)
    }

    /// Checks that `next` may replace this record.
    ///
    /// # Errors
    /// The rule that it would break.
    pub fn check_successor(&self, next: &Self) -> Result<(), RecordRule> {
        if self.federation != next.federation || self.dc != next.dc {
            return Err(RecordRule::Identity);
        }
        if next.epoch < self.epoch {
            return Err(RecordRule::EpochLowered { from: self.epoch, to: next.epoch });
        }
        if next.epoch == self.epoch && next.primary != self.primary {
            return Err(RecordRule::TwoPrimaries {
                epoch: self.epoch,
                a: self.primary.clone(),
                b: next.primary.clone(),
            });
        }
        Ok(())
    }

    /// This record after learning of `peer`'s later epoch: the same epoch and primary, and a fence
    /// when this datacenter had the right to write until now. `None` when `peer` is not later.
    #[must_use]
    pub fn superseded_by(&self, peer: &Self, by: &str, now_us: i64) -> Option<Self> {
        if peer.epoch <= self.epoch || peer.federation != self.federation {
            return None;
        }
        let mut next = self.clone();
        next.epoch = peer.epoch;
        next.primary = peer.primary.clone();
        next.claim = peer.claim.clone();
        next.streamed = false;
        next.confirmed = None;
        next.resolution = None;
        if self.names_us() && peer.primary != self.dc && next.fence.is_none() {
            next.fence = Some(Fence {
                epoch: peer.epoch,
                operation: None,
                reason: format!("{} is primary since epoch {}", peer.primary, peer.epoch),
                by: by.to_owned(),
                at_us: now_us,
                ack: None,
            });
        }
        Some(next)
    }
}

#[cfg(test)]
#[path = "federation_tests.rs"]
mod tests;
