//! Resolve: one epoch that two datacenters claim, both read-only since they know of each other.

use super::{reachable, record_of, unknown_dc};
use crate::guards::Refusal;
use crate::inventory::Inventory;
use node_agent_wire::federation::Phase;
use node_agent_wire::{DcName, Epoch};

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settlement {
    /// The epoch that is claimed more than once.
    pub epoch: Epoch,
    /// The datacenter that stays primary.
    pub keep: DcName,
    /// The claimants that give way.
    pub losers: Vec<DcName>,
    /// The claimant whose record says which one is kept: the first by name.
    pub decides: DcName,
}

/// What a resolve comes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ResolvePlan {
    /// This is done.
    Do(Settlement),
    /// Nothing, and why.
    NothingToDo(String),
}

/// Plans the settlement of the newest epoch in favour of `keep`. Every datacenter of the settings
/// must answer: one that does not may claim the epoch as well.
///
/// # Errors
/// A datacenter does not answer, `keep` does not claim the epoch, or an operation is open.
pub fn plan(inventory: &Inventory, keep: &DcName) -> Result<ResolvePlan, Refusal> {
    if !inventory.sites.contains_key(keep) {
        return Err(unknown_dc(inventory, keep));
    }
    for dc in inventory.sites.keys() {
        reachable(inventory, dc)?;
        record_of(inventory, dc)?;
    }
    let newest = inventory.newest().map(|record| record.epoch).unwrap_or_default();
    let claims = inventory.records().filter(|(_, r)| r.epoch == newest && r.names_us());
    let claimants: Vec<DcName> = claims.map(|(dc, _)| dc.clone()).collect();
    let (Some(decides), true) = (claimants.first(), claimants.len() > 1) else {
        let by = claimants.first().map_or("nobody", DcName::as_str);
        return Ok(ResolvePlan::NothingToDo(format!(
            "epoch {newest} is claimed by {by} alone; what was left behind returns with federator \
             rejoin"
        )));
    };
    if !claimants.contains(keep) {
        let names: Vec<&str> = claimants.iter().map(DcName::as_str).collect();
        let reason = format!("{keep} does not claim epoch {newest}, {} do", names.join(" and "));
        return Err(Refusal::Change { reason });
    }
    for (_, record) in inventory.records() {
        if let Some(open) = record.operation.as_ref()
            && !(open.phase == Phase::Committed && open.next_epoch <= newest)
        {
            return Err(Refusal::OperationOpen {
                operation: open.id.clone(),
                kind: open.kind,
                by: open.by.clone(),
            });
        }
    }
    let losers = claimants.iter().filter(|dc| *dc != keep).cloned().collect();
    let (keep, decides) = (keep.clone(), decides.clone());
    Ok(ResolvePlan::Do(Settlement { epoch: newest, keep, losers, decides }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{inventory, operation, record, record_mut};
    use node_agent_wire::federation::OperationKind;

    fn claimed_twice() -> Inventory {
        let mut inventory = inventory();
        for dc in ["dc1", "dc2"] {
            *record_mut(&mut inventory, dc) = record(dc, 2, dc);
        }
        inventory
    }

    #[test]
    fn both_ways_and_none() {
        for (keep, losers) in [("dc1", ["dc2"]), ("dc2", ["dc1"])] {
            let Ok(ResolvePlan::Do(plan)) = plan(&claimed_twice(), &keep.into()) else {
                panic!("no plan to keep {keep}");
            };
            assert_eq!((plan.epoch, plan.keep.as_str()), (Epoch(2), keep));
            assert_eq!(
                (plan.losers, plan.decides.as_str()),
                (losers.map(Into::into).to_vec(), "dc1")
            );
        }
        let nothing = plan(&inventory(), &"dc1".into());
        assert!(matches!(nothing, Ok(ResolvePlan::NothingToDo(_))), "{nothing:?}");
    }

    #[test]
    fn refusals() {
        let stranger = plan(&claimed_twice(), &"dc9".into());
        assert!(matches!(stranger, Err(Refusal::UnknownDc { .. })), "{stranger:?}");
        let mut silent = claimed_twice();
        let fact = crate::inventory::Fact::Unknown { since_us: 0, why: "no answer".into() };
        silent.dcs.insert("dc2".into(), fact);
        let silent = plan(&silent, &"dc1".into());
        assert!(matches!(silent, Err(Refusal::Unreachable { .. })), "{silent:?}");
        let mut open = claimed_twice();
        let held = operation(OperationKind::Rejoin, "dc1", "dc2");
        record_mut(&mut open, "dc1").operation = Some(held);
        let open = plan(&open, &"dc1".into());
        assert!(matches!(open, Err(Refusal::OperationOpen { .. })), "{open:?}");
    }
}
