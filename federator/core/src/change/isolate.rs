//! Turning isolation `lease` on and off without a moment in which one record lets others count on
//! grants that the datacenter itself does not need yet.

use super::{Change, busy, checked};
use node_agent_wire::federation::{FederationRecord, Isolation};
use node_agent_wire::{DcName, OperationId};
use std::collections::BTreeMap;

/// The records are written twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Round {
    /// A datacenter learns from its own record that it needs grants; the others learn that they can
    /// no longer count on those of somebody else.
    First,
    /// Everybody knows everything.
    Second,
}

/// Makes the isolation in the members what is `wanted`, as far as the round allows it.
///
/// # Errors
/// Another operation than `id` holds the record.
pub fn isolate(
    record: &FederationRecord,
    id: &OperationId,
    wanted: &BTreeMap<DcName, Isolation>,
    round: Round,
) -> Change {
    if let Some(held) = record.operation.as_ref().filter(|held| held.id != *id) {
        return Err(busy(record, held));
    }
    let mut next = record.clone();
    for (dc, entry) in &mut next.members {
        let Some(wanted) = wanted.get(dc) else { continue };
        let now = match (round, wanted) {
            (Round::Second, _) => true,
            (Round::First, Isolation::Lease) => *dc == record.dc,
            (Round::First, Isolation::Manual) => *dc != record.dc,
        };
        if now {
            entry.isolation = *wanted;
        }
    }
    checked(record, next)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;

    #[test]
    fn nobody_counts_on_grants_that_are_not_needed() {
        let (lease, manual) = (Isolation::Lease, Isolation::Manual);
        let all = |isolation| ["dc1", "dc2"].map(|dc| (DcName::from(dc), isolation)).into();
        let of = |record: &FederationRecord| {
            ["dc1", "dc2"].map(|dc| record.members[&DcName::from(dc)].isolation)
        };
        let id = OperationId::from("op-1");
        for (what, before, wanted, first) in
            [("on", manual, lease, [lease, manual]), ("off", lease, manual, [lease, manual])]
        {
            let mut record = fixture::record("dc1", 1, "dc1");
            for entry in record.members.values_mut() {
                entry.isolation = before;
            }
            let one = isolate(&record, &id, &all(wanted), Round::First).unwrap().unwrap();
            assert_eq!(of(&one), first, "{what}, first");
            let two = isolate(&one, &id, &all(wanted), Round::Second).unwrap().unwrap();
            assert_eq!(of(&two), [wanted, wanted], "{what}, second");
            assert_eq!(isolate(&two, &id, &all(wanted), Round::Second), Ok(None), "{what}, again");
        }
    }
}
