//! Why an operation is refused: an enum with reasons, never a bool. Each says what to do next.

use crate::change::ChangeError;
use node_agent_wire::federation::OperationKind;
use node_agent_wire::{DcName, Epoch, OperationId, SystemId};
use serde::Serialize;

/// What stands in the way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, thiserror::Error)]
#[serde(tag = "refusal", rename_all = "kebab-case")]
pub enum Refusal {
    /// The datacenter is not in the settings.
    #[error("{dc} is not a datacenter of this federation; known: {known}")]
    UnknownDc {
        /// What was asked for.
        dc: DcName,
        /// The names, with commas between.
        known: String,
    },
    /// The datacenter does not answer.
    #[error("{dc} does not answer: {why}")]
    Unreachable {
        /// Which.
        dc: DcName,
        /// What went wrong.
        why: String,
    },
    /// There is no record.
    #[error("{dc} has no federation record")]
    NoRecord {
        /// Which.
        dc: DcName,
    },
    /// The record can't be read, or is another federation's.
    #[error("the federation record of {dc} can't be used: {why}")]
    BadRecord {
        /// Which.
        dc: DcName,
        /// What is wrong.
        why: String,
    },
    /// The records name different primaries or epochs.
    #[error("the records disagree: {detail}")]
    Disagreement {
        /// Who says what.
        detail: String,
        /// A datacenter that has to be brought back first.
        behind: Option<DcName>,
    },
    /// Another operation is open.
    #[error("{kind} {operation} is in progress, started by {by}")]
    OperationOpen {
        /// Its id.
        operation: OperationId,
        /// Its kind.
        kind: OperationKind,
        /// Who started it.
        by: String,
    },
    /// The target is the primary already.
    #[error("{dc} is the primary datacenter already (epoch {epoch})")]
    AlreadyPrimary {
        /// Which.
        dc: DcName,
        /// Since this epoch.
        epoch: Epoch,
    },
    /// No leader, or it does not run.
    #[error("{dc} has no running leader")]
    NoLeader {
        /// Which.
        dc: DcName,
    },
    /// The leader's agent does not answer.
    #[error("the leader's agent of {dc} does not answer: {why}")]
    AgentSilent {
        /// Which.
        dc: DcName,
        /// What went wrong.
        why: String,
    },
    /// The leader's PostgreSQL does not answer to SQL.
    #[error("SQL on the leader of {dc} failed: {why}")]
    SqlFailed {
        /// Which.
        dc: DcName,
        /// What went wrong.
        why: String,
    },
    /// Maintenance mode.
    #[error("{dc} is paused (maintenance mode)")]
    Paused {
        /// Which.
        dc: DcName,
    },
    /// The datacenter is fenced.
    #[error("{dc} is fenced: {reason}")]
    Fenced {
        /// Which.
        dc: DcName,
        /// Why.
        reason: String,
    },
    /// The link is down.
    #[error("{dc} does not stream from {source_dc} (its WAL receiver: {state})")]
    NotStreaming {
        /// Which.
        dc: DcName,
        /// From where.
        source_dc: DcName,
        /// What its receiver does.
        state: String,
    },
    /// Another timeline.
    #[error("{dc} is on timeline {target}, {source_dc} on {source_timeline}")]
    OtherTimeline {
        /// The target.
        dc: DcName,
        /// Its timeline.
        target: u32,
        /// The source.
        source_dc: DcName,
        /// Its timeline.
        source_timeline: u32,
    },
    /// Too far behind.
    #[error("{dc} is {lag} bytes behind, the policy allows {limit}")]
    LagTooHigh {
        /// Which.
        dc: DcName,
        /// Bytes.
        lag: u64,
        /// Bytes.
        limit: u64,
    },
    /// Replay is paused.
    #[error("replay is paused on the leader of {dc}")]
    ReplayPaused {
        /// Which.
        dc: DcName,
    },
    /// Replay is delayed.
    #[error("recovery_min_apply_delay on the leader of {dc} is {ms} ms")]
    ApplyDelay {
        /// Which.
        dc: DcName,
        /// Milliseconds.
        ms: i64,
    },
    /// The way back from the last change of primary has not been seen working.
    #[error("{dc} has not been seen streaming since epoch {epoch} began")]
    NotStreamed {
        /// Which.
        dc: DcName,
        /// The epoch.
        epoch: Epoch,
    },
    /// The primary lives: no promotion.
    #[error("{dc} is alive: its leader {leader} answers")]
    PrimaryAlive {
        /// The primary.
        dc: DcName,
        /// Its leader.
        leader: String,
        /// Who was to be promoted.
        target: DcName,
    },
    /// The primary's leader key is held although its agent does not answer.
    #[error("the leader key of {dc} is still held by {leader}, whose agent does not answer")]
    LeaderKeyHeld {
        /// The primary.
        dc: DcName,
        /// Its leader.
        leader: String,
    },
    /// Nothing proves that the primary has stopped.
    #[error("nothing proves that {dc} has stopped accepting writes")]
    NoEvidence {
        /// The primary.
        dc: DcName,
        /// Who was to be promoted.
        target: DcName,
        /// What was looked at, one line each.
        missing: Vec<String>,
        /// The kinds that would be enough beside what there is: alternatives.
        lacking: Vec<String>,
        /// What to do: alternatives.
        next: Vec<String>,
    },
    /// The evidence policy of the record is no formula.
    #[error("{why}")]
    BadPolicy {
        /// Whose record.
        dc: DcName,
        /// Where it goes wrong.
        why: String,
    },
    /// Another datacenter has more of the lost primary's WAL.
    #[error("{dc} holds {more}")]
    HoldsMore {
        /// Which.
        dc: DcName,
        /// Who was to be promoted.
        target: DcName,
        /// How much.
        more: String,
    },
    /// More loss than accepted.
    #[error("the promotion may lose {estimate}, more than --max-loss {limit}")]
    LossTooHigh {
        /// In words.
        estimate: String,
        /// In words.
        limit: String,
    },
    /// Two database systems.
    #[error("{a} holds database system {a_id}, {b} holds {b_id}")]
    OtherSystem {
        /// The primary.
        a: DcName,
        /// Its system.
        a_id: SystemId,
        /// The other one.
        b: DcName,
        /// Its system.
        b_id: SystemId,
    },
    /// Names that must be unique are not.
    #[error("{what} {name} is used twice: {places}")]
    Collision {
        /// `member name` or `slot name`.
        what: String,
        /// The name.
        name: String,
        /// By whom.
        places: String,
    },
    /// A version or setting that does not fit.
    #[error("{what} of {dc} is {found}, {primary} has {expected}")]
    Incompatible {
        /// `major version` or a setting.
        what: String,
        /// The standby.
        dc: DcName,
        /// There.
        found: String,
        /// The primary.
        primary: DcName,
        /// There.
        expected: String,
    },
    /// Which datacenter is the primary one can't be told.
    #[error("no datacenter, or more than one, has a running primary: {found}")]
    PrimaryUnclear {
        /// Those that have.
        found: String,
    },
    /// No standby datacenter in the settings.
    #[error("the settings name no datacenter beside {0}")]
    Alone(
        /// The only one.
        DcName,
    ),
    /// The settings lack a member.
    #[error("{dc} is a member of the federation and is not in the settings")]
    NotInSettings {
        /// Which.
        dc: DcName,
    },
    /// There is no federation to join.
    #[error("there is no federation yet: no datacenter that answers has a record")]
    NoFederation,
    /// The primary datacenter can't be removed.
    #[error("{dc} is the primary datacenter")]
    RemovesPrimary {
        /// Which.
        dc: DcName,
    },
    /// Another datacenter streams from the one that is to be removed.
    #[error("{by} follows {dc}")]
    Followed {
        /// Who is to be removed.
        dc: DcName,
        /// Who follows it.
        by: DcName,
    },
    /// A datacenter that is to be removed can't be told.
    #[error("{dc} can't be told that it is removed: {why}")]
    Untold {
        /// Which.
        dc: DcName,
        /// What went wrong.
        why: String,
    },
    /// A datacenter that is to join has a writable primary of its own.
    #[error("{dc} accepts writes as a cluster of its own: what it wrote would be discarded")]
    WritesOnItsOwn {
        /// Which.
        dc: DcName,
    },
    /// A change of a record that its rules forbid.
    #[error("{reason}")]
    Change {
        /// The rule in words.
        reason: String,
    },
}

impl From<&ChangeError> for Refusal {
    fn from(error: &ChangeError) -> Self {
        Self::Change { reason: error.to_string() }
    }
}

impl Refusal {
    /// Something does not answer, or what it would have said is missing: not a verdict about the
    /// federation itself.
    #[must_use]
    pub fn is_silence(&self) -> bool {
        matches!(
            self,
            Self::Unreachable { .. }
                | Self::AgentSilent { .. }
                | Self::SqlFailed { .. }
                | Self::PrimaryUnclear { .. }
        )
    }

    /// What the operator can do; may be empty.
    #[must_use]
    pub fn hint(&self) -> String {
        match self {
            Self::UnknownDc { .. } => "use one of these names".into(),
            Self::Unreachable { dc, .. } => {
                format!("check the etcd endpoints of {dc} in the settings and the network to it")
            }
            Self::NoRecord { .. } => "federator setup".into(),
            Self::BadRecord { .. } => {
                "look at the key `federation` of that datacenter; another federation may own it"
                    .into()
            }
            Self::Disagreement { behind: Some(dc), .. } => format!("federator rejoin {dc}"),
            Self::Disagreement { behind: None, .. } => "federator status shows each record".into(),
            Self::OperationOpen { .. } => "federator resume, or federator abort".into(),
            Self::AlreadyPrimary { .. } => "nothing to do".into(),
            Self::NoLeader { dc } | Self::AgentSilent { dc, .. } => {
                format!(
                    "look at the agents' logs in {dc}; federator status says what they wait for"
                )
            }
            Self::SqlFailed { .. } => {
                "check credentials.superuser in the settings and pg_hba there".into()
            }
            Self::Paused { dc } => format!("resume {dc} first (patronictl resume)"),
            Self::Fenced { dc, .. } => {
                format!("federator fence --lift {dc}, or federator rejoin {dc}")
            }
            Self::NotStreaming { .. } | Self::NotStreamed { .. } | Self::OtherTimeline { .. } => {
                "federator status says what the standby waits for".into()
            }
            Self::LagTooHigh { .. } => {
                "wait until it has caught up, or raise policies.switchover_lag_max".into()
            }
            Self::ReplayPaused { .. } => "SELECT pg_wal_replay_resume() there".into(),
            Self::ApplyDelay { .. } => "set recovery_min_apply_delay to 0 there".into(),
            Self::PrimaryAlive { dc, target, .. } => {
                format!("federator switchover --to {target}, or federator fence {dc} first")
            }
            Self::LeaderKeyHeld { dc, .. } => format!(
                "wait until the key expires, or federator fence {dc}; --force when the host is off"
            ),
            Self::NoEvidence { next, .. } => next.join("; or "),
            Self::BadPolicy { dc, .. } => format!(
                "correct policies.evidence in the key `federation` of {dc}, or bring the primary \
                 datacenter back and type: federator setup"
            ),
            Self::HoldsMore { dc, target, .. } => format!(
                "federator promote {dc}; or, to give that up: federator promote {target} --force"
            ),
            Self::LossTooHigh { .. } => "bring the primary datacenter back, or accept more".into(),
            Self::OtherSystem { b, .. } => {
                format!("empty the data directories and the DCS of {b} to clone it anew")
            }
            Self::Collision { .. } => "rename one of them".into(),
            Self::Incompatible { .. } => "make both datacenters equal first".into(),
            Self::PrimaryUnclear { .. } => "federator setup --primary DC".into(),
            Self::Alone(_) => "add another datacenter to the settings".into(),
            Self::NotInSettings { dc } => {
                format!("write {dc} into datacenters; to be rid of it: federator remove-dc {dc}")
            }
            Self::NoFederation => "federator setup".into(),
            Self::RemovesPrimary { .. } => "federator switchover --to another one first".into(),
            Self::Followed { by, .. } => format!(
                "take follows out of datacenters.{by} in the settings, then: federator setup"
            ),
            Self::Untold { dc, .. } => format!(
                "--force removes it all the same; should {dc} come back, its record keeps it \
                 read-only. Then remove it once more"
            ),
            Self::WritesOnItsOwn { dc } => format!(
                "if its rows do not count: stop its agents, empty its data directories and its \
                 keys in etcd, and add it then; if they do, leave {dc} out of the settings"
            ),
            Self::Change { .. } => "federator status".into(),
        }
    }
}

/// One line of a checklist.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What was checked.
    pub check: String,
    /// The verdict with its reason.
    pub verdict: Verdict,
}

/// How a check ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// Fine; what was found.
    Ok(String),
    /// Goes on, but the operator should know.
    Warning(String),
    /// Stands in the way.
    Refused(Refusal),
}

/// A checklist under construction.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Checklist(pub Vec<Finding>);

impl Checklist {
    /// A line that is fine.
    pub fn ok(&mut self, check: impl Into<String>, note: impl Into<String>) {
        self.0.push(Finding { check: check.into(), verdict: Verdict::Ok(note.into()) });
    }

    /// A line that the operator should know.
    pub fn warn(&mut self, check: impl Into<String>, note: impl Into<String>) {
        self.0.push(Finding { check: check.into(), verdict: Verdict::Warning(note.into()) });
    }

    /// A line that stands in the way.
    pub fn refuse(&mut self, check: impl Into<String>, refusal: Refusal) {
        self.0.push(Finding { check: check.into(), verdict: Verdict::Refused(refusal) });
    }

    /// A line that is fine, or stands in the way.
    pub fn check(&mut self, check: &str, result: Result<String, Refusal>) {
        match result {
            Ok(note) => self.ok(check, note),
            Err(refusal) => self.refuse(check, refusal),
        }
    }

    /// What stands in the way.
    #[must_use]
    pub fn refusals(&self) -> Vec<Refusal> {
        self.0
            .iter()
            .filter_map(|finding| match &finding.verdict {
                Verdict::Refused(refusal) => Some(refusal.clone()),
                Verdict::Ok(_) | Verdict::Warning(_) => None,
            })
            .collect()
    }
}
