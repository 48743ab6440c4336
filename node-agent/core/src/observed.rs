//! Everything that one decision is made from.

use crate::abroad::Abroad;
use crate::directory::Directory;
use crate::divergence::SourceHistory;
use crate::failsafe::Failsafe;
use crate::grants::Grants;
use crate::postgres::{Postgres, Upstream};
use crate::schedule::ScheduledRestart;
use crate::sick::Health;
use crate::slots::SlotMemory;
use crate::time::{Boot, Fact};
use node_agent_wire::dynamic::Dynamic;
use node_agent_wire::federation::FederationRecord;
use node_agent_wire::history::TimelineHistory;
use node_agent_wire::member::Member;
use node_agent_wire::position::Position;
use node_agent_wire::status::{Failover, Status, SyncState};
use node_agent_wire::{DcName, Lsn, MemberName, Revision, SystemId, TimelineId};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// This node, from its configuration file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Me {
    /// The member name.
    pub name: MemberName,
    /// Tag `nofailover`, or a `failover_priority` of zero or less.
    pub nofailover: bool,
    /// `failover_priority`: between members at the same position the higher one leads.
    pub failover_priority: i64,
    /// May begin a new cluster by initdb.
    pub may_bootstrap: bool,
    /// Tag `nostream`: WAL comes from the archive only.
    pub nostream: bool,
    /// Tag `replicatefrom`: the member to follow in place of the leader.
    pub replicatefrom: Option<MemberName>,
}

/// A value of the DCS with the revision for compare-and-set; revision 0 when the key is absent.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Keyed<T> {
    /// The value.
    pub value: T,
    /// `mod_revision` of the key.
    pub revision: Revision,
}

/// The federation record as it was found.
#[derive(Clone, Debug, PartialEq)]
pub enum RecordView {
    /// No key: a plain cluster.
    Absent,
    /// The record.
    Present(Box<Keyed<FederationRecord>>),
    /// A key that can't be read: nobody may write.
    Unreadable(String),
}

impl RecordView {
    /// The record, when there is a readable one.
    #[must_use]
    pub fn get(&self) -> Option<&FederationRecord> {
        match self {
            Self::Present(keyed) => Some(&keyed.value),
            Self::Absent | Self::Unreadable(_) => None,
        }
    }
}

/// One consistent read of the cluster's prefix.
#[derive(Clone, Debug, PartialEq)]
pub struct Cluster {
    /// The revision of the store.
    pub revision: Revision,
    /// `initialize`: `None` when absent, empty while a bootstrap is under way.
    pub initialize: Option<String>,
    /// `config` as read, with defaults.
    pub config: Dynamic,
    /// Whether the `config` key is there.
    pub config_present: bool,
    /// `leader`.
    pub leader: Option<MemberName>,
    /// `members/`.
    pub members: BTreeMap<MemberName, Member>,
    /// `failover`.
    pub failover: Keyed<Failover>,
    /// `status`.
    pub status: Status,
    /// `sync`.
    pub sync: Keyed<SyncState>,
    /// `history`.
    pub history: Option<TimelineHistory>,
    /// `federation`.
    pub record: RecordView,
    /// `position`.
    pub position: Option<Position>,
    /// The `mod_revision` of `position`; 0 when the key is absent.
    pub position_revision: Revision,
    /// `failsafe`: members and the addresses of their REST APIs.
    pub failsafe: BTreeMap<MemberName, String>,
}

impl Cluster {
    /// The system identifier in `initialize`, when valid: ten digits or more (contract A.4).
    #[must_use]
    pub fn system_id(&self) -> Option<SystemId> {
        let text = self.initialize.as_deref()?;
        let valid = text.len() >= 10 && text.bytes().all(|b| b.is_ascii_digit());
        valid.then(|| SystemId::new(text))
    }

    /// The leader's member, when its key is there.
    #[must_use]
    pub fn leader_member(&self) -> Option<&Member> {
        self.members.get(self.leader.as_ref()?)
    }
}

/// The leader lease as the keeper holds it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lease {
    /// The right to lead ends here: the moment at which the last committed beat was sent, plus the
    /// TTL, less the time that stopping PostgreSQL takes. `None`: this node is not the leader.
    pub held_until: Option<Boot>,
    /// The last committed beat said that PostgreSQL may go on without it ([`crate::pause`]).
    pub kept: bool,
}

/// What this node has seen of the leader's beats, by its own clock.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Observer {
    /// When the latest beat was first seen; the agent's start when one was there already.
    pub beat_seen_at: Option<Boot>,
    /// The last leader whose key was seen.
    pub last_leader: Option<MemberName>,
}

/// What a member's REST API answered during an election.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PeerAnswer {
    /// It answered.
    Answered(Standing),
    /// It did not answer, or has no running PostgreSQL.
    Silent,
}

/// Where a member that answered stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// It runs and does not accept writes.
    pub in_recovery: bool,
    /// Received or replayed up to here.
    pub lsn: Lsn,
    /// `lsn` counts all WAL that it has: after a restart a standby answers before it has read
    /// what it received earlier.
    pub whole: bool,
    /// Replayed up to here, the end of a record; zero where it does not say.
    pub replayed: Lsn,
    /// On this timeline.
    pub timeline: Option<TimelineId>,
    /// It may not become leader.
    pub nofailover: bool,
    /// Its `failover_priority`.
    pub failover_priority: i64,
    /// It needs a watchdog and can't use it: it may not become leader.
    pub watchdog_failed: bool,
    /// A member that it has itself seen accepting writes, a moment ago.
    pub sees_primary: Option<MemberName>,
}

/// The answers of one round.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Poll {
    /// When the round was begun.
    pub asked_at: Boot,
    /// By member.
    pub answers: BTreeMap<MemberName, PeerAnswer>,
}

/// How old the members' answers may be when the key is taken, counted from the question. More than
/// a silent member may take to be given up, or one that hangs would keep all others from leading.
const POLL_AGE_MAX: Duration = Duration::from_millis(3000);

impl Poll {
    /// Whether the answers are young enough to act on.
    #[must_use]
    pub fn is_fresh(&self, now: Boot) -> bool {
        now.since(self.asked_at) < POLL_AGE_MAX
    }

    /// The first member that answered as one that accepts writes.
    #[must_use]
    pub fn primary(&self) -> Option<&MemberName> {
        self.answers.iter().find_map(|(name, answer)| match answer {
            PeerAnswer::Answered(standing) => (!standing.in_recovery).then_some(name),
            PeerAnswer::Silent => None,
        })
    }
}

/// Long work under way: one at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Job {
    /// What.
    pub kind: JobKind,
    /// Since when.
    pub since: Boot,
}

/// Kinds of long work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum JobKind {
    /// initdb and the first start.
    Bootstrap,
    /// A base backup.
    Clone,
    /// pg_rewind.
    Rewind,
    /// Stopping a primary.
    Demote,
    /// Starting PostgreSQL.
    Start,
    /// Promoting it.
    Promote,
    /// A restart that an operator asked for.
    Restart,
    /// Copying the leader's logical slots, with a restart.
    CopySlots,
}

/// What an operator or the federator asked of this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// Restart PostgreSQL in its present role.
    Restart,
    /// Replace the data directory by a new copy.
    Reinit {
        /// By a base backup of the leader, whatever methods are configured.
        from_leader: bool,
    },
}

/// The view that one decision is made from.
#[derive(Clone, Debug, PartialEq)]
pub struct Observed {
    /// Now.
    pub now: Boot,
    /// Now by the wall clock, microseconds since the Unix epoch. Only compared with what this
    /// datacenter's own machines wrote, for the cold-start rule.
    pub wall_us: i64,
    /// When the agent started.
    pub started_at: Boot,
    /// This node.
    pub me: Me,
    /// The DCS of this datacenter.
    pub cluster: Fact<Cluster>,
    /// The last configuration read; defaults before the first.
    pub config: Dynamic,
    /// The leader lease.
    pub lease: Lease,
    /// The beats of another leader.
    pub observer: Observer,
    /// Promises and answers of failsafe mode.
    pub failsafe: Failsafe,
    /// Why the watchdog can't be used, where it is required.
    pub watchdog_failed: Option<String>,
    /// How PostgreSQL is unwell.
    pub health: Health,
    /// The federation record as it was last read, kept while the DCS is out of reach.
    pub last_record: Option<FederationRecord>,
    /// PostgreSQL on this node.
    pub postgres: Postgres,
    /// The data directory, beside what PostgreSQL says of it.
    pub directory: Directory,
    /// The history of the local data directory's timeline.
    pub own_history: Option<TimelineHistory>,
    /// The upstream that PostgreSQL is configured with.
    pub following: Option<Upstream>,
    /// The last look at the upstream's history.
    pub source: Option<SourceHistory>,
    /// The last look at another upstream than that.
    pub other_source: Option<SourceHistory>,
    /// The last round of asking the members.
    pub poll: Option<Poll>,
    /// Members seen in the DCS, and when last.
    pub members_seen: BTreeMap<MemberName, Boot>,
    /// The records of the other datacenters.
    pub peers: BTreeMap<DcName, Fact<FederationRecord>>,
    /// What was seen there beside the record.
    pub abroad: BTreeMap<DcName, Abroad>,
    /// Site grants, where the federation has them and this node leads.
    pub grants: Option<Grants>,
    /// Long work under way.
    pub job: Option<Job>,
    /// Starts of PostgreSQL that failed since it last ran.
    pub start_failures: u32,
    /// This agent stopped PostgreSQL itself, to start it in another role.
    pub stopped_by_us: bool,
    /// A promotion or rewind failed lately: stand back until then.
    pub stand_back_until: Option<Boot>,
    /// `synchronous_standby_names` is the agent's, not a value of the user's configuration.
    pub sync_names_ours: bool,
    /// The end of WAL from which on commits are sure to have waited for the names in force.
    pub sync_names_set_at: Option<Lsn>,
    /// A write of `/sync` by this agent may still arrive: its outcome is not known, or the agent
    /// was started since and may have sent one before.
    pub sync_unsure: bool,
    /// When the record's present request to wait for a guest was first seen ([`crate::guest`]).
    pub guest_asked_at: Option<Boot>,
    /// Standbys that sessions wait for in vain, and whose agents do not answer either.
    pub sync_lost: BTreeSet<MemberName>,
    /// What somebody asked for.
    pub request: Option<Request>,
    /// A restart that is planned for later.
    pub scheduled_restart: Option<ScheduledRestart>,
    /// Since when the leader is asked to leave this node out of `/sync`.
    pub release_asked_at: Option<Boot>,
    /// The agent was told to stop.
    pub ending: bool,
    /// What this agent remembers of slots.
    pub slots: SlotMemory,
}

impl Observed {
    /// What an upstream answered last, when asked for its history.
    #[must_use]
    pub fn history_of(&self, upstream: &Upstream) -> Option<&SourceHistory> {
        self.source.iter().chain(&self.other_source).find(|s| s.upstream == *upstream)
    }

    /// Whether this node holds the right to lead at this moment.
    #[must_use]
    pub fn holds_lease(&self) -> bool {
        self.lease.held_until.is_some_and(|until| self.now < until)
    }
}
