//! The commit, the one change after which there is no way back, and what it rests on.

use super::{Change, ChangeError, checked, merge_journal, ours, running};
use crate::evidence::{EvidenceError, EvidenceSet, FencingEvidence};
use node_agent_wire::approval::{SignedDocument, approvers};
use node_agent_wire::federation::{Claim, FederationRecord, JournalEntry, OperationKind, Phase};
use node_agent_wire::{Epoch, OperationId};

/// Adds evidence that was found on the way, before the commit, with the journal line of the step
/// that found it: who resumes the operation finds both or neither.
///
/// # Errors
/// The operation is gone, turned back, committed, or no promotion.
pub fn add_evidence(
    record: &FederationRecord,
    id: &OperationId,
    evidence: &FencingEvidence,
    journal: &[JournalEntry],
) -> Change {
    let mut operation = running(record, id)?.clone();
    if operation.kind != OperationKind::Promotion {
        let (dc, why) = (record.dc.clone(), EvidenceError::NoneRecorded);
        return Err(ChangeError::NoEvidence { dc, why });
    }
    let mut set = EvidenceSet::of(&operation).unwrap_or_default();
    set.add(evidence.clone());
    let mut recorded = set.recorded().into_iter();
    operation.evidence = recorded.next();
    operation.further_evidence = recorded.collect();
    merge_journal(&mut operation.journal, journal);
    checked(record, FederationRecord { operation: Some(operation), ..record.clone() })
}

/// Whether the fence that an `acknowledged` promotion rests on is still in the former primary's
/// record, held by the operation so that nobody else can lift it.
///
/// # Errors
/// The operation does not hold the record, or the acknowledged fence is gone.
pub fn still_acknowledged(record: &FederationRecord, id: &OperationId) -> Result<(), ChangeError> {
    ours(record, id)?;
    match record.fence.as_ref().and_then(|f| f.ack.as_ref()) {
        Some(_) => Ok(()),
        None => Err(ChangeError::EvidenceGone { dc: record.dc.clone() }),
    }
}

/// The commit: the one change after which the operation's target is the primary datacenter.
/// `journal` rides along, so that no second write is needed inside the write pause.
///
/// The evidence of a promotion must be enough for the policy of this same record, and so must be
/// the approvals in its operation.
///
/// # Errors
/// The operation is gone, turned back, the target is fenced, or the evidence is not enough.
pub fn commit(
    record: &FederationRecord,
    id: &OperationId,
    evidence: &EvidenceSet,
    journal: &[JournalEntry],
    now_us: i64,
) -> Change {
    let there = ours(record, id)?;
    if there.phase == Phase::Committed {
        return Ok(None);
    }
    let operation = running(record, id)?;
    if let Some(fence) = &record.fence {
        let reason = fence.reason.clone();
        return Err(ChangeError::Fenced { dc: record.dc.clone(), reason });
    }
    if record.epoch.next() != operation.next_epoch {
        let planned = Epoch(operation.next_epoch.0.saturating_sub(1));
        return Err(ChangeError::EpochMoved {
            dc: record.dc.clone(),
            planned,
            found: record.epoch,
        });
    }
    let judged = match operation.kind {
        OperationKind::Promotion => {
            evidence.complete().and_then(|()| evidence.satisfies(&record.policies))
        }
        OperationKind::Setup
        | OperationKind::Switchover
        | OperationKind::Rejoin
        | OperationKind::Fence
        | OperationKind::Remove => evidence.best().map(|_| ()).ok_or(EvidenceError::NoneRecorded),
    };
    if let Err(why) = judged {
        return Err(ChangeError::NoEvidence { dc: record.dc.clone(), why });
    }
    let (have, needed) =
        (approvers(&operation.approvals, &operation.by), record.policies.approvals);
    let promotes = operation.kind == OperationKind::Promotion;
    if promotes && have < usize::try_from(needed).unwrap_or(usize::MAX) {
        return Err(ChangeError::NotApproved { dc: record.dc.clone(), have, needed });
    }
    let mut recorded = evidence.recorded().into_iter();
    let (best, further) = (recorded.next(), recorded.collect::<Vec<_>>());
    let mut next = record.clone();
    next.epoch = operation.next_epoch;
    next.primary = operation.to.clone();
    next.claim = Some(Claim {
        operation: id.clone(),
        kind: operation.kind,
        evidence: best.clone(),
        further_evidence: further.clone(),
        at_us: now_us,
    });
    next.streamed = false;
    next.confirmed = None;
    let mut operation = operation.clone();
    operation.phase = Phase::Committed;
    operation.evidence = best;
    operation.further_evidence = further;
    merge_journal(&mut operation.journal, journal);
    next.operation = Some(operation);
    checked(record, next)
}

/// A commit that carries the signed document of its evidence.
///
/// # Errors
/// Those of the change.
pub fn seal(change: Change, document: Option<&SignedDocument>) -> Change {
    let Some(mut next) = change? else { return Ok(None) };
    if let Some(operation) = next.operation.as_mut() {
        operation.document = document.cloned();
    }
    Ok(Some(next))
}

/// Whether the target of a committed operation may leave standby mode. Who finds the operation
/// gone was overtaken by somebody who went on with it.
///
/// # Errors
/// The operation is gone or not committed, or another datacenter is primary meanwhile.
pub fn may_lead(record: &FederationRecord, id: &OperationId) -> Result<(), ChangeError> {
    let operation = ours(record, id)?;
    if !record.names_us() {
        let (dc, primary) = (record.dc.clone(), record.primary.clone());
        return Err(ChangeError::NotPrimary { dc, primary });
    }
    if record.epoch != operation.next_epoch {
        let (dc, found) = (record.dc.clone(), record.epoch);
        return Err(ChangeError::EpochMoved { dc, planned: operation.next_epoch, found });
    }
    Ok(())
}
