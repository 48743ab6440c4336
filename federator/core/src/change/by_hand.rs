//! Changes that an operator makes to one record, outside any operation.

use super::{Change, ChangeError, busy, checked};
use node_agent_wire::federation::{Confirmation, FederationRecord, Fence};
use node_agent_wire::{MemberName, OperationId};
use std::collections::BTreeSet;

/// Fences the primary datacenter by an operator's hand.
///
/// # Errors
/// An operation is in progress, or the datacenter is not the primary one by its own record.
pub fn operator_fence(record: &FederationRecord, by: &str, now_us: i64) -> Change {
    if let Some(held) = &record.operation {
        return Err(busy(record, held));
    }
    if !record.names_us() {
        let (dc, primary) = (record.dc.clone(), record.primary.clone());
        return Err(ChangeError::NotPrimary { dc, primary });
    }
    if record.fence.is_some() {
        return Ok(None);
    }
    let fence = Fence {
        epoch: record.epoch.next(),
        operation: None,
        reason: format!("fenced by {by}"),
        by: by.to_owned(),
        at_us: now_us,
        ack: None,
    };
    checked(record, FederationRecord { fence: Some(fence), ..record.clone() })
}

/// Lifts a fence by an operator's hand.
///
/// # Errors
/// An operation is in progress, or another datacenter has become primary: then only a rejoin does.
pub fn operator_lift(record: &FederationRecord) -> Change {
    if let Some(held) = &record.operation {
        return Err(busy(record, held));
    }
    if record.fence.is_none() {
        return Ok(None);
    }
    if !record.names_us() {
        let (dc, primary) = (record.dc.clone(), record.primary.clone());
        return Err(ChangeError::NotPrimary { dc, primary });
    }
    super::resolve::may_lift(record)?;
    checked(record, FederationRecord { fence: None, ..record.clone() })
}

/// Gives up the vaults of these members in an open rejoin.
///
/// # Errors
/// The operation is gone.
pub fn waive_vaults(
    record: &FederationRecord,
    id: &OperationId,
    members: &BTreeSet<MemberName>,
) -> Change {
    let mut operation = super::ours(record, id)?.clone();
    operation.waived_vaults.extend(members.iter().cloned());
    checked(record, FederationRecord { operation: Some(operation), ..record.clone() })
}

/// Notes an operator's word that the present epoch still holds after a cold start.
///
/// # Errors
/// An operation is in progress.
pub fn confirm(record: &FederationRecord, by: &str, now_us: i64) -> Change {
    if let Some(held) = &record.operation {
        return Err(busy(record, held));
    }
    let confirmed = Some(Confirmation { epoch: record.epoch, by: by.to_owned(), at_us: now_us });
    checked(record, FederationRecord { confirmed, ..record.clone() })
}
