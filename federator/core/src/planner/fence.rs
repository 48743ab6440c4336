//! A fence set or lifted by an operator's hand.

use super::{no_operation, reachable, record_of, unknown_dc};
use crate::change;
use crate::guards::Refusal;
use crate::inventory::Inventory;
use node_agent_wire::DcName;
use node_agent_wire::federation::FederationRecord;

/// What the command will do, in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FencePlan {
    /// Changes the record.
    Do(String),
    /// It is so already.
    NothingToDo(String),
}

/// Plans setting (`lift` false) or lifting the fence of `dc`.
///
/// # Errors
/// What stands in the way.
pub fn plan(
    inventory: &Inventory,
    dc: &DcName,
    lift: bool,
    by: &str,
    now_us: i64,
) -> Result<FencePlan, Refusal> {
    if !inventory.sites.contains_key(dc) {
        return Err(unknown_dc(inventory, dc));
    }
    reachable(inventory, dc)?;
    let record = record_of(inventory, dc)?;
    no_operation(inventory)?;
    if lift {
        let later = inventory.newest().filter(|n| n.epoch > record.epoch);
        if let Some(newest) = later {
            return Err(Refusal::Disagreement {
                detail: format!("{} is primary at epoch {}", newest.primary, newest.epoch),
                behind: Some(dc.clone()),
            });
        }
        return Ok(match change::operator_lift(record).map_err(|e| Refusal::from(&e))? {
            Some(_) => FencePlan::Do(format!("lift the fence of {dc}: it accepts writes again")),
            None => FencePlan::NothingToDo(format!("{dc} is not fenced")),
        });
    }
    let next = change::operator_fence(record, by, now_us).map_err(|e| Refusal::from(&e))?;
    let acknowledged = record.fence.as_ref().is_some_and(|f| f.ack.is_some());
    Ok(match next {
        None if acknowledged => {
            FencePlan::NothingToDo(format!("{dc} is fenced and has acknowledged"))
        }
        Some(_) | None => FencePlan::Do(format!(
            "fence {dc}: its primary stops, and nobody can write until the fence is lifted or \
             another datacenter is promoted"
        )),
    })
}

/// The record whose epoch an operator may confirm after a cold start.
///
/// # Errors
/// The datacenter is not the primary one, is fenced, or another one knows a later epoch.
pub fn confirmable<'i>(
    inventory: &'i Inventory,
    dc: &DcName,
) -> Result<&'i FederationRecord, Refusal> {
    if !inventory.sites.contains_key(dc) {
        return Err(unknown_dc(inventory, dc));
    }
    let record = record_of(inventory, dc)?;
    no_operation(inventory)?;
    if let Some(newest) = inventory.newest().filter(|n| n.epoch > record.epoch) {
        return Err(Refusal::Disagreement {
            detail: format!("{} is primary at epoch {}", newest.primary, newest.epoch),
            behind: Some(dc.clone()),
        });
    }
    if !record.names_us() {
        let reason = format!("{dc} is a standby: its record names {}", record.primary);
        return Err(Refusal::Change { reason });
    }
    match &record.fence {
        Some(fence) => Err(Refusal::Fenced { dc: dc.clone(), reason: fence.reason.clone() }),
        None => Ok(record),
    }
}
