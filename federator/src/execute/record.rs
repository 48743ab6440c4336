//! The records at the beginning: created for a setup, brought to the present epoch for a rejoin.

use super::context::{Context, StepError};
use crate::clock::now_us;
use crate::records::{create_record, need_record, read_record, update_record};
use federator_core::change;
use federator_core::resume::{Direction, open_operations};

/// Creates what is missing, and describes the members as they are now in what is there.
pub(super) async fn run(context: &mut Context<'_>) -> Result<String, StepError> {
    let newest = context.inventory.newest().cloned();
    let mut entries = context.inventory.entries(newest.as_ref());
    let new = context.plan.new_standbys();
    entries.retain(|dc, _| {
        *dc == context.plan.primary || new.contains(dc) || context.inventory.is_member(dc)
    });
    let mut policies = context.federation.settings.policies.clone();
    if policies.grants.is_none() {
        // As long as a datacenter may need its grants, they go on.
        policies.grants = newest.as_ref().and_then(|record| record.policies.grants.clone());
    }
    let (mut created, mut kept) = (0_u32, 0_u32);
    for dc in entries.keys() {
        let dcs = context.federation.dcs(dc)?;
        if read_record(dcs).await?.is_none() {
            let mut record = change::first_record(
                &context.federation.settings.federation,
                dc,
                &context.plan.primary,
                entries.clone(),
                policies.clone(),
            );
            if let Some(newest) = &newest {
                record.epoch = newest.epoch;
                record.claim = newest.claim.clone();
            }
            if create_record(dcs, &record).await? {
                created += 1;
                continue;
            }
        }
        if let Some(newest) = newest.as_ref().filter(|_| new.contains(dc)) {
            // One that was removed may have missed an epoch.
            let by = &context.plan.by;
            update_record(dcs, |record| change::supersede(record, newest, None, by, now_us()))
                .await?;
        }
        update_record(dcs, |record| {
            change::describe(record, Some(&context.plan.id), &entries, &policies)
        })
        .await?;
        kept += 1;
    }
    Ok(format!("{created} created, {kept} there already, epoch {}", context.plan.next_epoch))
}

/// Fences a returned datacenter at the present epoch before anything else happens to it.
pub(super) async fn supersede(context: &mut Context<'_>) -> Result<String, StepError> {
    let winner = need_record(context.federation.dcs(&context.plan.primary)?).await?;
    let orphan = open_operations(&context.inventory)
        .into_iter()
        .find(|open| open.direction == Direction::Over && open.held_by.contains(&context.plan.to))
        .map(|open| open.operation.id);
    let by = context.plan.by.clone();
    let record = update_record(context.federation.dcs(&context.plan.to)?, |record| {
        change::supersede(record, &winner, orphan.as_ref(), &by, now_us())
    })
    .await?;
    let fence = if record.fence.is_some() { ", fenced" } else { "" };
    Ok(format!("{} knows epoch {} of {}{fence}", record.dc, record.epoch, record.primary))
}
