//! Every change that the federator makes to a federation record, as a pure function: old record
//! in, new record out, or the rule that would be broken. `Ok(None)` means that it is so already.
//!
//! Commit and abort change the same key, the record of the datacenter that the operation is for,
//! so a compare-and-set lets only one of them happen. The fence of the former primary is lifted
//! only by who holds an [`AbortBegun`], the proof that the commit can no longer happen.

mod back;
mod by_hand;
mod commit;
mod isolate;
mod members;
mod pre_sync;
mod resolve;

pub use back::{AbortBegun, begin_abort, turn_back};
pub use by_hand::{confirm, operator_fence, operator_lift, waive_vaults};
pub use commit::{add_evidence, commit, may_lead, seal, still_acknowledged};
pub use isolate::{Round, isolate};
pub use members::{expel, expelled, forget, forgotten, refresh};
pub use pre_sync::pre_sync;
pub use resolve::{decide, follow_kept, give_way, keep};

use crate::evidence::EvidenceError;
use node_agent_wire::federation::{
    DcEntry, FederationRecord, Fence, JournalEntry, Operation, OperationKind, Phase, Policies,
    RECORD_VERSION, RecordRule,
};
use node_agent_wire::{DcName, Epoch, OperationId};
use std::collections::BTreeMap;

/// A change that is not allowed now.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChangeError {
    /// A rule of the record itself.
    #[error("the record of {dc} may not be changed so: {rule}")]
    Rule {
        /// Whose record.
        dc: DcName,
        /// The rule.
        rule: RecordRule,
    },
    /// Another operation holds the record.
    #[error("{dc} is held by {kind} {operation} that {by} started")]
    Busy {
        /// Whose record.
        dc: DcName,
        /// The operation that is there.
        operation: OperationId,
        /// Its kind.
        kind: OperationKind,
        /// Who started it.
        by: String,
    },
    /// The operation is no longer in the record.
    #[error("operation {operation} is no longer in the record of {dc}")]
    Gone {
        /// Whose record.
        dc: DcName,
        /// The operation that was expected.
        operation: OperationId,
    },
    /// The operation was turned back.
    #[error("operation {operation} is being aborted")]
    Aborting {
        /// The operation.
        operation: OperationId,
    },
    /// The operation was committed: there is no way back.
    #[error("operation {operation} is committed (epoch {epoch}): it only goes forward")]
    Committed {
        /// The operation.
        operation: OperationId,
        /// The epoch that it began.
        epoch: Epoch,
    },
    /// The datacenter is fenced.
    #[error("{dc} is fenced: {reason}")]
    Fenced {
        /// Whose record.
        dc: DcName,
        /// The fence's reason.
        reason: String,
    },
    /// The epoch is not the one that was planned from.
    #[error("{dc} is at epoch {found}, the plan was made for epoch {planned}")]
    EpochMoved {
        /// Whose record.
        dc: DcName,
        /// The planned epoch.
        planned: Epoch,
        /// The epoch that is there.
        found: Epoch,
    },
    /// The evidence that the commit rests on is not in the record any more.
    #[error("the acknowledged fence of {dc} is gone")]
    EvidenceGone {
        /// Whose record.
        dc: DcName,
    },
    /// The evidence is not enough for the record's policy.
    #[error("{dc} may not be promoted: {why}")]
    NoEvidence {
        /// Whose record.
        dc: DcName,
        /// What is missing.
        why: EvidenceError,
    },
    /// Not approved by enough people.
    #[error("{dc} may not be promoted: {have} of {needed} approvals by others")]
    NotApproved {
        /// Whose record.
        dc: DcName,
        /// How many there are.
        have: usize,
        /// How many its policy asks for.
        needed: u32,
    },
    /// The primary datacenter can't be removed.
    #[error("{dc} is the primary datacenter by its own record: it can't be removed")]
    StillPrimary {
        /// Whose record.
        dc: DcName,
    },
    /// A datacenter that was to be removed is a member.
    #[error("{dc} is a member of the federation by the record of {holder}")]
    StillMember {
        /// Which.
        dc: DcName,
        /// Whose record says so.
        holder: DcName,
    },
    /// Another datacenter was chosen to stay primary.
    #[error("{by} has settled epoch {epoch} already: {keep} is kept, by the record of {dc}")]
    Decided {
        /// Whose record.
        dc: DcName,
        /// The epoch.
        epoch: Epoch,
        /// The datacenter that is kept.
        keep: DcName,
        /// Who has chosen.
        by: String,
    },
    /// Only the primary datacenter can be fenced by hand, and followed.
    #[error("{dc} is not the primary datacenter: its record names {primary}")]
    NotPrimary {
        /// Whose record.
        dc: DcName,
        /// The primary that it names.
        primary: DcName,
    },
}

/// What a change yields: a new record, or `None` when nothing has to change.
pub type Change = Result<Option<FederationRecord>, ChangeError>;

/// Whether an operation of this kind moves the right to be primary.
#[must_use]
pub fn moves_primary(kind: OperationKind) -> bool {
    match kind {
        OperationKind::Switchover | OperationKind::Promotion => true,
        OperationKind::Setup
        | OperationKind::Rejoin
        | OperationKind::Fence
        | OperationKind::Remove => false,
    }
}

fn checked(old: &FederationRecord, new: FederationRecord) -> Change {
    match old.check_successor(&new) {
        Ok(()) => Ok((*old != new).then_some(new)),
        Err(rule) => Err(ChangeError::Rule { dc: old.dc.clone(), rule }),
    }
}

fn busy(record: &FederationRecord, held: &Operation) -> ChangeError {
    ChangeError::Busy {
        dc: record.dc.clone(),
        operation: held.id.clone(),
        kind: held.kind,
        by: held.by.clone(),
    }
}

fn ours<'r>(record: &'r FederationRecord, id: &OperationId) -> Result<&'r Operation, ChangeError> {
    match &record.operation {
        Some(operation) if operation.id == *id => Ok(operation),
        Some(_) | None => Err(ChangeError::Gone { dc: record.dc.clone(), operation: id.clone() }),
    }
}

fn running<'r>(
    record: &'r FederationRecord,
    id: &OperationId,
) -> Result<&'r Operation, ChangeError> {
    let operation = ours(record, id)?;
    match operation.phase {
        Phase::Running => Ok(operation),
        Phase::Aborting => Err(ChangeError::Aborting { operation: id.clone() }),
        Phase::Committed => {
            Err(ChangeError::Committed { operation: id.clone(), epoch: operation.next_epoch })
        }
    }
}

/// The first record of a datacenter.
#[must_use]
pub fn first_record(
    federation: &str,
    dc: &DcName,
    primary: &DcName,
    members: BTreeMap<DcName, DcEntry>,
    policies: Policies,
) -> FederationRecord {
    FederationRecord {
        version: RECORD_VERSION,
        federation: federation.to_owned(),
        dc: dc.clone(),
        epoch: Epoch(1),
        primary: primary.clone(),
        fence: None,
        operation: None,
        claim: None,
        members,
        policies,
        streamed: false,
        confirmed: None,
        resolution: None,
    }
}

/// Writes the members and policies as the settings and the inventory have them now.
///
/// # Errors
/// Another operation than `id` holds the record.
pub fn describe(
    record: &FederationRecord,
    id: Option<&OperationId>,
    members: &BTreeMap<DcName, DcEntry>,
    policies: &Policies,
) -> Change {
    if let Some(held) = record.operation.as_ref().filter(|held| Some(&held.id) != id) {
        return Err(busy(record, held));
    }
    let next =
        FederationRecord { members: members.clone(), policies: policies.clone(), ..record.clone() };
    checked(record, next)
}

/// Puts the operation into the record.
///
/// # Errors
/// Another operation holds it, the epoch is not the planned one, or the datacenter is fenced where
/// the operation needs it to be free.
pub fn take(record: &FederationRecord, operation: &Operation) -> Change {
    match &record.operation {
        Some(held) if held.id == operation.id => {
            return match held.phase {
                Phase::Running | Phase::Committed => Ok(None),
                Phase::Aborting => Err(ChangeError::Aborting { operation: held.id.clone() }),
            };
        }
        Some(held) => return Err(busy(record, held)),
        None => {}
    }
    let moves = moves_primary(operation.kind);
    let begins = if moves { record.epoch.next() } else { record.epoch };
    if begins != operation.next_epoch {
        let planned = Epoch(operation.next_epoch.0.saturating_sub(u64::from(moves)));
        let (dc, found) = (record.dc.clone(), record.epoch);
        return Err(ChangeError::EpochMoved { dc, planned, found });
    }
    if let Some(fence) = record.fence.as_ref().filter(|_| moves) {
        // The former primary may be fenced already when the target is promoted on that evidence.
        let former = operation.kind == OperationKind::Promotion && record.dc != operation.to;
        if !former {
            let reason = fence.reason.clone();
            return Err(ChangeError::Fenced { dc: record.dc.clone(), reason });
        }
    }
    checked(record, FederationRecord { operation: Some(operation.clone()), ..record.clone() })
}

/// Makes sure that the record still holds the operation: for who resumes it.
///
/// # Errors
/// The operation is gone, or turned back.
pub fn taken(record: &FederationRecord, id: &OperationId) -> Change {
    match ours(record, id)?.phase {
        Phase::Running | Phase::Committed => Ok(None),
        Phase::Aborting => Err(ChangeError::Aborting { operation: id.clone() }),
    }
}

/// What a take writes: the operation is begun, or, when it was found open, made sure of in the
/// record that counts: closed meanwhile, it is not begun again.
///
/// # Errors
/// Those of [`take`] and [`taken`].
pub fn hold(record: &FederationRecord, operation: &Operation, found_open: bool) -> Change {
    if found_open && record.dc == operation.to {
        return taken(record, &operation.id);
    }
    take(record, operation)
}

/// Lets go of an ended operation in another datacenter than its target. With `winner`, the record
/// of the new primary datacenter, a former primary that does not follow yet learns of the new
/// epoch, fenced, in the same change.
///
/// # Errors
/// The operation's fence is still there and nobody has won.
pub fn let_go(
    record: &FederationRecord,
    winner: Option<&FederationRecord>,
    operation: &Operation,
    now_us: i64,
) -> Change {
    match winner {
        Some(winner) => supersede(record, winner, Some(&operation.id), &operation.by, now_us),
        None => release(record, &operation.id),
    }
}

/// Removes the operation: at its end, or as the way back from a half-finished take. Where its own
/// fence keeps the datacenter from writing, [`turn_back`], [`follow`] or [`supersede`] come first:
/// a fence that no operation holds can be lifted by hand.
///
/// # Errors
/// The operation's fence is still there.
pub fn release(record: &FederationRecord, id: &OperationId) -> Change {
    if ours(record, id).is_err() {
        return Ok(None);
    }
    let fence = record.fence.as_ref().filter(|f| f.operation.as_ref() == Some(id));
    if let Some(fence) = fence.filter(|_| record.names_us()) {
        let reason = fence.reason.clone();
        return Err(ChangeError::Fenced { dc: record.dc.clone(), reason });
    }
    checked(record, FederationRecord { operation: None, ..record.clone() })
}

/// Fences the former primary for an operation that moves the right.
///
/// # Errors
/// The operation is gone or turned back, or another fence is in the way of a switchover.
pub fn fence(record: &FederationRecord, operation: &Operation, now_us: i64) -> Change {
    if record.epoch >= operation.next_epoch {
        return Err(ChangeError::Committed {
            operation: operation.id.clone(),
            epoch: record.epoch,
        });
    }
    running(record, &operation.id)?;
    if let Some(there) = &record.fence {
        let same = there.operation.as_ref() == Some(&operation.id);
        if same || operation.kind == OperationKind::Promotion {
            return Ok(None);
        }
        let reason = there.reason.clone();
        return Err(ChangeError::Fenced { dc: record.dc.clone(), reason });
    }
    let fence = Fence {
        epoch: operation.next_epoch,
        operation: Some(operation.id.clone()),
        reason: format!("{} to {}", operation.kind, operation.to),
        by: operation.by.clone(),
        at_us: now_us,
        ack: None,
    };
    checked(record, FederationRecord { fence: Some(fence), ..record.clone() })
}

/// Makes a datacenter follow `winner`'s epoch, free of its fence: done once its configuration
/// makes it a standby cluster of the winner. An operation that is not `keep` and belongs to an
/// earlier epoch goes with the epoch.
///
/// # Errors
/// The datacenter knows a later epoch than `winner`, or `winner` is not the primary one any more.
pub fn follow(record: &FederationRecord, winner: &FederationRecord, keep: &OperationId) -> Change {
    if !winner.names_us() {
        let (dc, primary) = (winner.dc.clone(), winner.primary.clone());
        return Err(ChangeError::NotPrimary { dc, primary });
    }
    let mut next = record.clone();
    if next.epoch != winner.epoch {
        next.streamed = false;
        next.confirmed = None;
    }
    next.epoch = winner.epoch;
    next.primary = winner.primary.clone();
    next.claim = winner.claim.clone();
    next.fence = None;
    next.operation = next.operation.filter(|o| o.id == *keep);
    if let Some(operation) = next.operation.as_mut().filter(|o| moves_primary(o.kind)) {
        operation.phase = Phase::Committed;
    }
    checked(record, next)
}

/// Brings a returned datacenter to `winner`'s epoch with a fence, before anything else. A copy of
/// an operation that its target no longer has goes away.
///
/// # Errors
/// A rule of the record.
pub fn supersede(
    record: &FederationRecord,
    winner: &FederationRecord,
    orphan: Option<&OperationId>,
    by: &str,
    now_us: i64,
) -> Change {
    let mut next = record.superseded_by(winner, by, now_us).unwrap_or_else(|| record.clone());
    if next.operation.as_ref().map(|o| &o.id) == orphan {
        next.operation = None;
    }
    checked(record, next)
}

/// Notes that the standby datacenter streams from the primary one in this epoch.
///
/// # Errors
/// The epoch has moved on.
pub fn mark_streamed(record: &FederationRecord, epoch: Epoch) -> Change {
    if record.epoch != epoch {
        let (dc, found) = (record.dc.clone(), record.epoch);
        return Err(ChangeError::EpochMoved { dc, planned: epoch, found });
    }
    checked(record, FederationRecord { streamed: true, ..record.clone() })
}

/// Writes journal entries into the operation.
///
/// # Errors
/// The operation is gone, or turned back.
pub fn journal(record: &FederationRecord, id: &OperationId, entries: &[JournalEntry]) -> Change {
    let mut operation = ours(record, id)?.clone();
    if operation.phase == Phase::Aborting {
        return Err(ChangeError::Aborting { operation: id.clone() });
    }
    merge_journal(&mut operation.journal, entries);
    checked(record, FederationRecord { operation: Some(operation), ..record.clone() })
}

/// Lays `entries` over `journal`, one line for each step.
pub fn merge_journal(journal: &mut Vec<JournalEntry>, entries: &[JournalEntry]) {
    for entry in entries {
        match journal.iter_mut().find(|there| there.step == entry.step) {
            Some(there) => *there = entry.clone(),
            None => journal.push(entry.clone()),
        }
    }
}

#[cfg(test)]
mod tests;
