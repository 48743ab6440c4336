//! The way back before the commit.

use super::{Change, ChangeError, checked, moves_primary, ours};
use node_agent_wire::federation::{FederationRecord, Phase};
use node_agent_wire::{Epoch, OperationId};

/// Turns the operation back, in the record of the datacenter that it is for.
///
/// # Errors
/// The operation is gone, or committed.
pub fn begin_abort(record: &FederationRecord, id: &OperationId) -> Change {
    let operation = ours(record, id)?;
    let past = moves_primary(operation.kind) && record.epoch >= operation.next_epoch;
    match operation.phase {
        Phase::Aborting => Ok(None),
        Phase::Running if !past => {
            let mut operation = operation.clone();
            operation.phase = Phase::Aborting;
            checked(record, FederationRecord { operation: Some(operation), ..record.clone() })
        }
        Phase::Running | Phase::Committed => {
            Err(ChangeError::Committed { operation: id.clone(), epoch: record.epoch })
        }
    }
}

/// The proof that an operation can no longer be committed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AbortBegun(OperationId, Epoch);

impl AbortBegun {
    /// Reads the proof in the record of the datacenter that the operation is for.
    #[must_use]
    pub fn seen(record: &FederationRecord, id: &OperationId) -> Option<Self> {
        let operation = ours(record, id).ok()?;
        let back = operation.phase == Phase::Aborting && operation.to == record.dc;
        back.then(|| Self(id.clone(), operation.next_epoch))
    }
}

/// Takes the operation and its fence out of the record of another datacenter on the way back. A
/// fence that somebody else set stays.
///
/// # Errors
/// The datacenter already knows the epoch that the operation was to begin.
pub fn turn_back(record: &FederationRecord, proof: &AbortBegun) -> Change {
    let mut next = record.clone();
    if next.fence.as_ref().and_then(|f| f.operation.as_ref()) == Some(&proof.0) {
        if !record.names_us() {
            let operation = proof.0.clone();
            return Err(ChangeError::Committed { operation, epoch: record.epoch });
        }
        next.fence = None;
    }
    if ours(record, &proof.0).is_ok() {
        next.operation = None;
    }
    checked(record, next)
}
