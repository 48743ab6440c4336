//! The steps of a removal: the datacenter is told first, then the others forget it, then its slots
//! go.

use super::context::{Context, POLL, StepError, Wait};
use crate::clock::now_us;
use crate::records::{UpdateError, update_config_under, update_record};
use federator_core::change;
use federator_core::configuration::{as_primary, without_slots};
use node_agent_wire::DcName;
use std::collections::BTreeSet;

/// Fences the datacenter, and ends its link.
pub(super) async fn detach(context: &mut Context<'_>) -> Result<String, StepError> {
    let dc = context.from()?;
    let federation = context.federation;
    let dcs = federation.dcs(&dc)?;
    let (id, by) = (&context.plan.id, &context.plan.by);
    match update_record(dcs, |record| change::expel(record, id, by, now_us())).await {
        Ok(_) => {}
        Err(UpdateError::NoRecord(_)) => return Ok(format!("{dc} has no record, nor rights")),
        Err(UpdateError::Dcs(error)) if context.inventory.view(&dc).is_none() => {
            return Ok(format!("{dc} is not told: {error}"));
        }
        Err(error) => return Err(error.into()),
    }
    let slots: BTreeSet<_> = federation.slots_of_others(&dc);
    update_config_under(dcs, change::expelled, |config| without_slots(&as_primary(config), &slots))
        .await?;
    Ok(format!("{dc} is fenced and follows nobody"))
}

/// Takes the datacenter out of the records and its slot out of the configurations of the others.
pub(super) async fn forget(context: &mut Context<'_>) -> Result<String, StepError> {
    let dc = context.from()?;
    let slots = BTreeSet::from([context.federation.slot(&dc)]);
    let list = context.plan.participants();
    for other in &list {
        let dcs = context.federation.dcs(other)?;
        let id = &context.plan.id;
        update_record(dcs, |record| change::forget(record, id, &dc)).await?;
        update_config_under(
            dcs,
            |record| change::forgotten(record, &dc),
            |config| without_slots(config, &slots),
        )
        .await?;
    }
    let names: Vec<&str> = list.iter().map(DcName::as_str).collect();
    Ok(format!("{dc} is no member in the records of {}", names.join(", ")))
}

/// Waits until no node keeps the slot.
pub(super) async fn drop_slots(context: &mut Context<'_>) -> Result<String, StepError> {
    let slot = context.federation.slot(&context.from()?);
    let wait = Wait::new(context.limit);
    loop {
        let mut kept = Vec::new();
        for dc in context.plan.participants() {
            let cluster = context.federation.cluster(&dc).await?;
            for (name, node) in context.nodes(&cluster).await {
                match node {
                    Ok(node) => match node.slots.get(slot.as_str()) {
                        Some(there) if there.active => {
                            kept.push(format!("somebody still reads from it on {name}"));
                        }
                        Some(_) => kept.push(format!("{name} has it")),
                        None => {}
                    },
                    Err(error) => kept.push(format!("{name}: {error}")),
                }
            }
        }
        if kept.is_empty() {
            return Ok(format!("no node has slot {slot}"));
        }
        let what = format!("slot {slot} to be dropped everywhere");
        wait.pause(POLL, &what, &kept.join("; ")).await?;
    }
}
