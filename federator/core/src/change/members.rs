//! The members section of the records, kept up to date.

use super::{Change, ChangeError, busy, checked};
use node_agent_wire::federation::{DcEntry, FederationRecord, Fence};
use node_agent_wire::{DcName, OperationId};
use std::collections::BTreeMap;

/// Writes down the nodes of the members as they are now: at the end of every operation, so that
/// nodes that were added since are known to the other datacenters. What else a record says of a
/// member changes by its own operations only. A member that was not seen keeps its nodes.
///
/// # Errors
/// None.
pub fn refresh(record: &FederationRecord, seen: &BTreeMap<DcName, DcEntry>) -> Change {
    let mut next = record.clone();
    for (dc, entry) in &mut next.members {
        let nodes = seen.get(dc).map(|seen| &seen.nodes).filter(|nodes| !nodes.is_empty());
        if let Some(nodes) = nodes {
            entry.nodes.clone_from(nodes);
        }
    }
    checked(record, next)
}

fn free_for(record: &FederationRecord, id: &OperationId) -> Result<(), ChangeError> {
    match &record.operation {
        Some(held) if held.id != *id => Err(busy(record, held)),
        Some(_) | None => Ok(()),
    }
}

/// Tells a standby datacenter that it is removed: its record is fenced, and names it as a member no
/// more. Nobody there has the right to write from then on, whatever else is configured.
///
/// # Errors
/// It is the primary datacenter by its own record, or another operation holds the record.
pub fn expel(record: &FederationRecord, id: &OperationId, by: &str, now_us: i64) -> Change {
    free_for(record, id)?;
    if record.names_us() && record.fence.is_none() {
        return Err(ChangeError::StillPrimary { dc: record.dc.clone() });
    }
    let mut next = record.clone();
    next.members.remove(&record.dc);
    (next.streamed, next.confirmed) = (false, None);
    next.fence.get_or_insert_with(|| Fence {
        epoch: record.epoch,
        operation: None,
        reason: format!("removed from the federation {} by {by}", record.federation),
        by: by.to_owned(),
        at_us: now_us,
        ack: None,
    });
    checked(record, next)
}

/// Whether the datacenter was told that it is removed.
///
/// # Errors
/// It is a member, or not fenced.
pub fn expelled(record: &FederationRecord) -> Result<(), ChangeError> {
    if record.is_member() || record.fence.is_none() {
        let (dc, holder) = (record.dc.clone(), record.dc.clone());
        return Err(ChangeError::StillMember { dc, holder });
    }
    Ok(())
}

/// Takes the removed datacenter out of another one's record.
///
/// # Errors
/// It is the primary one by this record, or another operation holds it.
pub fn forget(record: &FederationRecord, id: &OperationId, dc: &DcName) -> Change {
    free_for(record, id)?;
    if record.primary == *dc {
        return Err(ChangeError::StillPrimary { dc: dc.clone() });
    }
    let mut next = record.clone();
    next.members.remove(dc);
    checked(record, next)
}

/// Whether the record names the removed datacenter no more.
///
/// # Errors
/// It does.
pub fn forgotten(record: &FederationRecord, dc: &DcName) -> Result<(), ChangeError> {
    if record.members.contains_key(dc) {
        let (dc, holder) = (dc.clone(), record.dc.clone());
        return Err(ChangeError::StillMember { dc, holder });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{inventory, operation, record};
    use node_agent_wire::federation::OperationKind;

    #[test]
    fn a_removed_datacenter_is_fenced_and_a_primary_is_not_removed() {
        let id = OperationId::from("op-1");
        let before = record("dc2", 1, "dc1");
        assert!(expelled(&before).is_err());
        let next = expel(&before, &id, "ann", 5).unwrap().unwrap();
        assert!(!next.is_member() && next.fence.is_some() && !next.streamed);
        assert_eq!((expelled(&next), expel(&next, &id, "bob", 6)), (Ok(()), Ok(None)));
        assert!(expel(&record("dc1", 1, "dc1"), &id, "ann", 5).is_err(), "the primary");
        let mut held = before;
        held.operation = Some(operation(OperationKind::Promotion, "dc1", "dc2"));
        assert!(expel(&held, &OperationId::from("op-2"), "ann", 5).is_err(), "busy");

        let dc2 = DcName::from("dc2");
        let other = record("dc1", 1, "dc1");
        assert!(forgotten(&other, &dc2).is_err());
        let next = forget(&other, &id, &dc2).unwrap().unwrap();
        assert_eq!((next.members.len(), forgotten(&next, &dc2)), (1, Ok(())));
        assert!(forget(&other, &id, &"dc1".into()).is_err(), "the primary");
    }

    #[test]
    fn new_nodes_are_written_down_and_nothing_else() {
        let before = record("dc1", 1, "dc1");
        let mut seen = inventory().entries(Some(&before));
        let dc2 = DcName::from("dc2");
        seen.get_mut(&dc2).unwrap().scope = "other".into();
        seen.insert("dc9".into(), seen[&dc2].clone());
        let next = refresh(&before, &seen).unwrap().unwrap();
        assert_eq!(next.members[&dc2].nodes, seen[&dc2].nodes);
        assert_eq!(next.members[&dc2].scope, before.members[&dc2].scope);
        assert_eq!(next.members.len(), 2);
        assert_eq!(refresh(&next, &seen), Ok(None));
        seen.get_mut(&dc2).unwrap().nodes.clear();
        assert_eq!(refresh(&next, &seen), Ok(None), "a silent one keeps its nodes");
    }
}
