//! What is to be done, as data. Effects that may not happen without proof carry the proof.

use crate::demotion::DemotionMode;
use crate::election::Winner;
use crate::postgres::Upstream;
use crate::promotion::Eligible;
use crate::right::RightToWrite;
use crate::rule::Rule;
use crate::slots::SlotChange;
use node_agent_wire::federation::{FederationRecord, FenceAck};
use node_agent_wire::status::SyncState;
use node_agent_wire::{Lsn, MemberName, Revision, SlotName, TimelineId};
use std::collections::BTreeSet;
use std::time::Duration;

/// The pause while something short is under way.
pub(crate) const SOON: Duration = Duration::from_millis(200);

/// The outcome of one pass.
#[derive(Debug, PartialEq)]
pub struct Decision {
    /// The rule that fired.
    pub rule: Rule,
    /// One line of why, for people.
    pub why: String,
    /// At most one effect that can't be taken back.
    pub act: Option<Act>,
    /// Effects that may be repeated without harm, in order.
    pub tend: Vec<Tend>,
    /// When to look again at the latest, and for what.
    pub wake: Wake,
}

/// When the next pass is due at the latest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wake {
    /// From now.
    pub after: Duration,
    /// What is waited for.
    pub reason: &'static str,
}

/// How PostgreSQL is stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopMode {
    /// `fast`: sessions end, everything is flushed and shipped to connected standbys.
    Fast,
    /// `immediate`: no checkpoint, nothing is shipped.
    Immediate,
}

/// An effect that can't be taken back.
#[derive(Debug, PartialEq)]
pub enum Act {
    /// Take the leader key by compare-and-set, with the first beat.
    Acquire(Winner),
    /// Give the leader key back, marked as a clean release.
    Release,
    /// Promote PostgreSQL.
    Promote(Eligible),
    /// Start PostgreSQL writable.
    StartPrimary(RightToWrite),
    /// Stop a primary.
    Demote(DemotionMode),
    /// Begin the cluster: initdb and the first start.
    Initdb(RightToWrite),
    /// Copy this source into the empty data directory.
    Clone(Upstream),
    /// Report and keep what leaves history, then rewind.
    Rewind {
        /// Whose history was left.
        source: Upstream,
        /// The servers to be rewound to.
        to: RewindTo,
        /// The last common timeline.
        timeline: TimelineId,
        /// The end of what is common.
        fork: Lsn,
    },
    /// Report what only this directory holds, empty it and copy the source.
    Reinit(Reinit),
    /// Fill the empty data directory by the methods that need no server to copy from.
    CloneLeaderless,
    /// End the agent with a failure; PostgreSQL stays as it is.
    Leave,
    /// Write the acknowledgement of the fence into the record.
    AcknowledgeFence(Box<FenceAck>),
    /// Restart PostgreSQL in its role.
    Restart,
}

impl Act {
    /// Whether it may only follow from a read of the store itself: it makes a node write, or
    /// discards data. Stopping waits for nothing, and the rest is a compare-and-set.
    #[must_use]
    pub fn needs_own_read(&self) -> bool {
        match self {
            Self::Acquire(_)
            | Self::Promote(_)
            | Self::StartPrimary(_)
            | Self::Initdb(_)
            | Self::Clone(_)
            | Self::CloneLeaderless
            | Self::Reinit(_)
            | Self::Rewind { .. } => true,
            Self::Release
            | Self::Demote(_)
            | Self::AcknowledgeFence(_)
            | Self::Leave
            | Self::Restart => false,
        }
    }
}

/// The servers that a data directory is rewound to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RewindTo {
    /// Host and port; the first that will do counts.
    pub hosts: Vec<(String, u16)>,
    /// A read-only one will do: the leader of this standby datacenter.
    pub standby: bool,
}

/// A data directory that is replaced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reinit {
    /// What is copied.
    pub source: Upstream,
    /// The last common timeline and the end of what is common, where something would be lost: it is
    /// reported first.
    pub diverged: Option<(TimelineId, Lsn)>,
    /// An operator asked for it: a report that fails does not stop it.
    pub asked: bool,
    /// By a base backup of the leader, whatever methods are configured.
    pub from_leader: bool,
}

/// An effect that may be repeated.
#[derive(Clone, Debug, PartialEq)]
pub enum Tend {
    /// Replace the record by compare-and-set.
    ReplaceRecord {
        /// The new record.
        record: Box<FederationRecord>,
        /// The revision that it replaces.
        over: Revision,
    },
    /// Point `standby_cluster` at these hosts, for as long as the record is what it was.
    FollowDatacenter {
        /// Host and port of the nodes of the source, its leader first.
        hosts: Vec<(String, u16)>,
        /// This datacenter's slot there.
        slot: SlotName,
        /// The source is a standby datacenter.
        cascade: bool,
        /// The revision of the record.
        under: Revision,
    },
    /// Start PostgreSQL as a standby.
    StartStandby(Upstream),
    /// Let the running standby follow this source.
    Follow(Upstream),
    /// Ask the members where they stand.
    AskPeers,
    /// Ask these members for their votes against the beat of this revision.
    AskVotes {
        /// The beat.
        beat: Revision,
        /// The members.
        of: BTreeSet<MemberName>,
    },
    /// Ask the source for its history.
    AskHistory(Upstream),
    /// Read where the WAL of the stopped server ends.
    ReadWalEnd {
        /// A record that is surely there: the latest checkpoint.
        from: Lsn,
        /// On this timeline.
        timeline: TimelineId,
    },
    /// What somebody asked for is not possible, for this reason; it is forgotten.
    DropRequest(String),
    /// Change a slot.
    Slot(SlotChange),
    /// Copy the files of these logical slots from the leader, with a restart of the standby.
    CopySlots {
        /// The leader.
        from: Upstream,
        /// The slots.
        slots: BTreeSet<SlotName>,
    },
    /// Ask the leader for its slots.
    AskSlots(Upstream),
    /// Write `/sync` over this revision.
    WriteSync {
        /// The value.
        sync: SyncState,
        /// The revision that it replaces.
        over: Revision,
    },
    /// Delete `/sync` at this revision.
    DeleteSync(Revision),
    /// Set `synchronous_standby_names`.
    SetSyncNames(String),
    /// Write `{}` into `/failover` over this revision.
    ClearFailover {
        /// The revision that it replaces.
        over: Revision,
        /// Why.
        why: String,
    },
    /// Write `/status`, `/history`, `initialize` and `config` as far as they are stale.
    PublishLeader,
    /// Forget the planned restart, with the reason.
    DropScheduledRestart(String),
    /// Write into `position` that PostgreSQL of this node, left running in maintenance mode, does
    /// not accept writes any more.
    EndUnattended,
    /// Apply changed settings to PostgreSQL.
    ApplySettings,
}

impl Decision {
    /// A decision that only waits.
    #[must_use]
    pub fn wait(rule: Rule, why: impl Into<String>, after: Duration, reason: &'static str) -> Self {
        Self { rule, why: why.into(), act: None, tend: Vec::new(), wake: Wake { after, reason } }
    }

    /// Adds the irreversible effect; the next pass follows at once.
    #[must_use]
    pub fn act(mut self, act: Act) -> Self {
        self.act = Some(act);
        self
    }

    /// Adds an idempotent effect.
    #[must_use]
    pub fn tend(mut self, tend: Tend) -> Self {
        self.tend.push(tend);
        self
    }
}
