//! The closed operations of a federation: the value of the key `federation_history`.

use node_agent_wire::approval::{Approval, SignedDocument};
use node_agent_wire::federation::{Evidence, JournalEntry, LossEstimate, Operation, OperationKind};
use node_agent_wire::{DcName, Epoch, MemberName, OperationId};
use serde::{Deserialize, Serialize};

/// How many closed operations are kept.
pub const HISTORY_MAX: usize = 100;

/// How an operation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// All steps done.
    Done,
    /// Turned back before the commit.
    Aborted,
}

/// A base backup, as the command that waited for it saw it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MeasuredCopy {
    /// The datacenter of the node.
    pub dc: DcName,
    /// The node that was filled.
    pub node: MemberName,
    /// It came from another datacenter.
    pub between: bool,
    /// Bytes that arrived.
    pub bytes: u64,
    /// In so many milliseconds.
    pub took_ms: i64,
}

/// A closed operation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClosedOperation {
    /// Its id.
    pub id: OperationId,
    /// What it did.
    pub kind: OperationKind,
    /// The datacenter that gave up the role.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<DcName>,
    /// The datacenter that it was for.
    pub to: DcName,
    /// The epoch that it began, or that it took place in.
    pub epoch: Epoch,
    /// How it ended.
    pub outcome: Outcome,
    /// Who started it.
    pub by: String,
    /// When, microseconds since the Unix epoch.
    pub started_at_us: i64,
    /// When it was closed, microseconds since the Unix epoch.
    pub closed_at_us: i64,
    /// The best evidence of a promotion.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evidence: Option<Evidence>,
    /// What else there was, best first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub further_evidence: Vec<Evidence>,
    /// Who had approved it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub approvals: Vec<Approval>,
    /// The evidence as it was signed at the commit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub document: Option<SignedDocument>,
    /// The loss that the operator was shown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expected_loss: Option<LossEstimate>,
    /// From the fence to the answer of the promotion, in microseconds: the longest time that a
    /// client could not write. `None` when it was not measured in one run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub write_pause_us: Option<i64>,
    /// Base backups that were watched from their beginning to their end.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub copies: Vec<MeasuredCopy>,
    /// Its steps.
    #[serde(default)]
    pub steps: Vec<JournalEntry>,
}

impl ClosedOperation {
    /// Closes an operation.
    #[must_use]
    pub fn new(
        operation: &Operation,
        outcome: Outcome,
        closed_at_us: i64,
        write_pause_us: Option<i64>,
    ) -> Self {
        Self {
            id: operation.id.clone(),
            kind: operation.kind,
            from: operation.from.clone(),
            to: operation.to.clone(),
            epoch: operation.next_epoch,
            outcome,
            by: operation.by.clone(),
            started_at_us: operation.started_at_us,
            closed_at_us,
            evidence: operation.evidence.clone(),
            further_evidence: operation.further_evidence.clone(),
            approvals: operation.approvals.clone(),
            document: operation.document.clone(),
            expected_loss: operation.expected_loss.clone(),
            write_pause_us,
            copies: Vec::new(),
            steps: operation.journal.clone(),
        }
    }
}

/// Appends an entry, newest last, at most [`HISTORY_MAX`]. `None` when it is there already.
#[must_use]
pub fn append(
    history: &[ClosedOperation],
    entry: &ClosedOperation,
) -> Option<Vec<ClosedOperation>> {
    if history.iter().any(|there| there.id == entry.id) {
        return None;
    }
    let keep_from = (history.len() + 1).saturating_sub(HISTORY_MAX);
    let mut next = history[keep_from..].to_vec();
    next.push(entry.clone());
    Some(next)
}

/// The histories of several datacenters as one, oldest first.
#[must_use]
pub fn merge(histories: &[Vec<ClosedOperation>]) -> Vec<ClosedOperation> {
    let mut all: Vec<ClosedOperation> = Vec::new();
    for entry in histories.iter().flatten() {
        if !all.iter().any(|there| there.id == entry.id) {
            all.push(entry.clone());
        }
    }
    all.sort_by_key(|entry| entry.closed_at_us);
    all
}
