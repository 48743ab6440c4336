//! When a step is due, when it is done, whose silence it survives, and where a failure leads: what
//! the executor decides between its reads and writes, as pure functions of what was read.

use crate::change::{self, ChangeError, moves_primary};
use crate::evidence::{EvidenceError, EvidenceSet, FencingEvidence};
use crate::inventory::NodeView;
use crate::plan::{Plan, Step, StepKind};
use node_agent_wire::federation::{Evidence, FederationRecord, FenceAck, Operation, OperationKind};
use node_agent_wire::member::state;
use node_agent_wire::{DcName, Lsn, MemberName, SystemId, TimelineId};

/// Whether the step is to be done: past the commit, what comes before it is not repeated.
#[must_use]
pub fn due(step: &Step, kind: OperationKind, committed: bool) -> bool {
    !committed || step.past_commit || !moves_primary(kind)
}

/// Whether the take must reach `dc`. A lost primary need not answer: its copy only keeps others
/// away.
#[must_use]
pub fn take_needs(kind: OperationKind, to: &DcName, dc: &DcName) -> bool {
    dc == to || kind != OperationKind::Promotion
}

/// Whether the fence must reach the former primary. At a promotion the evidence decides.
#[must_use]
pub fn fence_needs_answer(kind: OperationKind) -> bool {
    kind != OperationKind::Promotion
}

/// Whether the way back must reach `dc`: the former primary of a switchover has to get its right
/// back, another datacenter is only told.
#[must_use]
pub fn way_back_needs(operation: &Operation, dc: &DcName) -> bool {
    *dc == operation.to
        || operation.kind == OperationKind::Switchover && operation.from.as_ref() == Some(dc)
}

/// What a record says of its fence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FenceWord<'r> {
    /// The leader's agent has confirmed that PostgreSQL stopped.
    Acknowledged(&'r FenceAck),
    /// Fenced, not acknowledged.
    Awaited,
    /// There is no fence.
    Lifted,
}

impl<'r> FenceWord<'r> {
    /// Reads it.
    #[must_use]
    pub fn of(record: &'r FederationRecord) -> Self {
        match record.fence.as_ref().map(|fence| &fence.ack) {
            Some(Some(ack)) => Self::Acknowledged(ack),
            Some(None) => Self::Awaited,
            None => Self::Lifted,
        }
    }
}

/// How far behind the target may be when writes are stopped, in bytes of WAL: one segment. All of
/// it is shipped and replayed within the write pause.
pub const PRE_SYNC_LAG_MAX: u64 = 16 * 1024 * 1024;

/// How near the target is to the primary, before writes are stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Nearness {
    /// Near enough; by so many bytes it has replayed less.
    Close(u64),
    /// It has more to receive and to replay than it may.
    Behind(u64),
    /// It receives nothing.
    NotStreaming,
    /// It receives another timeline than the primary writes.
    OtherTimeline(TimelineId),
}

/// Compares the primary's position and timeline with what the target has replayed and receives. To
/// be read in this order: then the lag is never taken for smaller than it is.
#[must_use]
pub fn nearness(
    (written, timeline): (Lsn, TimelineId),
    replayed: Lsn,
    received: Option<TimelineId>,
) -> Nearness {
    match received {
        None => Nearness::NotStreaming,
        Some(found) if found != timeline => Nearness::OtherTimeline(found),
        Some(_) => match written.bytes_since(replayed) {
            lag if lag <= PRE_SYNC_LAG_MAX => Nearness::Close(lag),
            lag => Nearness::Behind(lag),
        },
    }
}

/// What a limit of the write pause does to a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PauseLimit {
    /// Nothing: it lies before the write pause, or past the commit.
    None,
    /// It is broken off when the limit passes.
    BreaksOff,
    /// It is not begun any more. Once begun it goes to its end: its one write may have arrived.
    Forbids,
}

/// What the limit of the write pause does to a step of a switchover.
#[must_use]
pub fn pause_limit(step: StepKind) -> PauseLimit {
    match step {
        StepKind::Fence | StepKind::CatchUp => PauseLimit::BreaksOff,
        StepKind::Commit => PauseLimit::Forbids,
        StepKind::Record
        | StepKind::Supersede
        | StepKind::Take
        | StepKind::Slots
        | StepKind::Prepare
        | StepKind::PreSync
        | StepKind::Fencer
        | StepKind::Acquire
        | StepKind::Promote
        | StepKind::Sequences
        | StepKind::Repoint
        | StepKind::Detach
        | StepKind::Forget
        | StepKind::DropSlots
        | StepKind::Demoted
        | StepKind::Standby
        | StepKind::Stream
        | StepKind::Verify
        | StepKind::Isolate
        | StepKind::Close => PauseLimit::None,
    }
}

/// How far the target is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CatchUp {
    /// It has everything.
    Complete,
    /// It has not replayed beyond the last record of the former primary.
    Behind,
    /// Far enough, and its timeline must be asked for: a position means the same only on the same
    /// timeline.
    TimelineUnknown,
    /// It is on another one.
    OtherTimeline(TimelineId),
}

/// Compares the position that the target has replayed with the former primary's last word, which is
/// where its shutdown checkpoint begins: who has replayed beyond that has it all.
#[must_use]
pub fn catch_up(ack: &FenceAck, replayed: Lsn, timeline: Option<TimelineId>) -> CatchUp {
    if replayed <= ack.checkpoint {
        return CatchUp::Behind;
    }
    match timeline {
        None => CatchUp::TimelineUnknown,
        Some(found) if found == ack.timeline => CatchUp::Complete,
        Some(found) => CatchUp::OtherTimeline(found),
    }
}

/// Why a commit has no evidence.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoEvidence {
    /// None, or one that does not belong here.
    #[error(transparent)]
    Evidence(#[from] EvidenceError),
    /// What it rests on is gone.
    #[error(transparent)]
    Change(#[from] ChangeError),
    /// The former primary's record is needed and not known.
    #[error("the former primary has not acknowledged")]
    FormerUnknown,
}

/// Whether the commit must read the former primary's record again: its acknowledgement was seen
/// when the promotion was planned, and may have gone since.
#[must_use]
pub fn commit_reads_former(operation: &Operation) -> bool {
    operation.kind == OperationKind::Promotion
        && operation.all_evidence().any(|e| matches!(e, Evidence::Acknowledged { .. }))
}

/// Whether the commit rests on grants that the step before it acquires: what the operation carries
/// is only the intent.
#[must_use]
pub fn commit_needs_grants(operation: &Operation) -> bool {
    operation.kind == OperationKind::Promotion
        && operation.all_evidence().any(|e| matches!(e, Evidence::LeaseExpired { .. }))
}

/// The evidence of a commit. `former` is the former primary's record: as the fence left it at a
/// switchover, as read now where [`commit_reads_former`] says so.
///
/// # Errors
/// What is missing.
pub fn commit_evidence(
    operation: &Operation,
    former: Option<&FederationRecord>,
    system_id: Option<&SystemId>,
) -> Result<EvidenceSet, NoEvidence> {
    if operation.kind != OperationKind::Promotion {
        let former = former.ok_or(NoEvidence::FormerUnknown)?;
        return Ok(FencingEvidence::acknowledged(former, Some(operation), system_id)?.into());
    }
    let evidence = EvidenceSet::of(operation)?;
    if commit_reads_former(operation) {
        change::still_acknowledged(former.ok_or(NoEvidence::FormerUnknown)?, &operation.id)?;
    }
    Ok(evidence)
}

/// The datacenters that the operation makes follow its target. A lost primary keeps its fence
/// until it is rejoined: its data may have diverged.
#[must_use]
pub fn to_repoint(plan: &Plan) -> Vec<DcName> {
    let former = plan.from.iter().filter(|_| plan.kind == OperationKind::Switchover);
    plan.followers.iter().chain(former).cloned().collect()
}

/// What one member's agent answered; `Err` with why it is not known.
pub type Answered<'n> = Result<&'n NodeView, String>;

/// The members of a returned datacenter that accept writes, or may, one line each; empty when it
/// is demoted. An acknowledgement speaks for all of them.
pub fn may_write<'n>(
    record: &FederationRecord,
    members: impl Iterator<Item = (&'n MemberName, Answered<'n>)>,
) -> Vec<String> {
    match FenceWord::of(record) {
        FenceWord::Acknowledged(_) => return Vec::new(),
        FenceWord::Awaited | FenceWord::Lifted => {}
    }
    members
        .filter_map(|(name, answered)| match answered {
            Ok(node) if node.writable => Some(format!("{name} accepts writes")),
            Ok(_) => None,
            Err(why) => Some(format!("{name}: {why}")),
        })
        .collect()
}

/// Whether the leader of a standby datacenter streams.
#[must_use]
pub fn link_streams(node: &NodeView) -> bool {
    node.replication_state == "streaming" && !node.writable
}

/// Whether a node of a new or returned datacenter runs and streams.
#[must_use]
pub fn node_streams(node: &NodeView) -> bool {
    node.state == state::RUNNING && link_streams(node)
}

/// The same beside the leader of its datacenter: what still streams on the timeline from before the
/// leader's return, or was last seen to, does not.
#[must_use]
pub fn node_streams_with(node: &NodeView, leader: Option<&NodeView>) -> bool {
    node_streams(node) && leader.is_some_and(|leader| node.timeline >= leader.timeline)
}

/// Where a step that failed leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AfterFailure {
    /// Nothing was taken: it simply ends.
    NotTaken,
    /// The operation stays open, for a resume or an abort.
    Stays,
    /// Committed: it stays open, for a resume.
    StaysCommitted,
    /// Nothing has been committed: it is turned back at once.
    TurnBack,
}

/// `released`: the take failed and left nothing behind.
#[must_use]
pub fn after_failure(
    kind: OperationKind,
    step: StepKind,
    committed: bool,
    released: bool,
) -> AfterFailure {
    let before = matches!(step, StepKind::Record | StepKind::Supersede);
    if before || step == StepKind::Take && released {
        return AfterFailure::NotTaken;
    }
    match (committed, moves_primary(kind)) {
        (true, _) => AfterFailure::StaysCommitted,
        (false, false) => AfterFailure::Stays,
        (false, true) => AfterFailure::TurnBack,
    }
}

#[cfg(test)]
#[path = "conditions_tests.rs"]
mod tests;
