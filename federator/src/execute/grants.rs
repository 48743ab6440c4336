//! The steps about site grants: the target of a promotion acquires them before the commit; a setup
//! waits until the primary datacenter holds them before it depends on them.

use super::context::{Context, POLL, StepError, Wait};
use crate::records::{need_record, update_record};
use federator_core::change::{self, Round};
use federator_core::evidence::FencingEvidence;
use federator_core::grants::{GrantsView, countdown};
use node_agent_wire::DcName;
use node_agent_wire::federation::Isolation;
use std::collections::BTreeMap;

/// Waits until the target's leader has acquired a majority at the new epoch for this operation. It
/// learns of the wish from the operation in its own record.
pub(super) async fn acquire(context: &mut Context<'_>) -> Result<String, StepError> {
    let to = context.plan.to.clone();
    let operation = context.plan.operation();
    let wait = Wait::new(context.limit);
    let what = format!("{to} to hold a majority of the site grants");
    let mut said = String::new();
    loop {
        let view = grants_of(context, &to).await;
        let record = need_record(context.federation.dcs(&to)?).await?;
        let held = view.as_ref().ok();
        let why = match FencingEvidence::lease_expired(&record, &operation, held) {
            Ok(evidence) => {
                let voters = held.map_or(0, |view| view.voters.len());
                let ours = held.map_or(0, |v| v.voters.iter().filter(|seat| seat.ours).count());
                context.acquired = Some(evidence);
                let epoch = operation.next_epoch;
                return Ok(format!("{to} holds {ours} of {voters} grants for epoch {epoch}"));
            }
            Err(error) => error.to_string(),
        };
        let seen = match &view {
            Ok(view) => format!("{why}; {}", countdown(&to, Some(view))),
            Err(silent) => silent.clone(),
        };
        // Whole seconds of the countdown: a line a second.
        let line = view.map_or(seen.clone(), |view| {
            countdown(&to, Some(&GrantsView { claimable_in_ms: whole(&view), ..view.clone() }))
        });
        if line != said {
            context.progress.say(&line);
            said = line;
        }
        wait.pause(POLL, &what, &seen).await?;
    }
}

fn whole(view: &GrantsView) -> Option<u64> {
    view.claimable_in_ms.map(|ms| ms.div_ceil(1000) * 1000)
}

/// What the leader's agent of a datacenter says of the grants.
async fn grants_of(context: &Context<'_>, dc: &DcName) -> Result<GrantsView, String> {
    let cluster = context.federation.cluster(dc).await.map_err(|error| error.to_string())?;
    let address = cluster.leader_grpc().ok_or_else(|| format!("{dc} has no leader"))?;
    let node = context.federation.links.status(address).await;
    let grants = node.map_err(|error| error.to_string())?.grants;
    grants.ok_or_else(|| format!("the leader's agent of {dc} knows of no grants yet"))
}

/// Makes isolation what the settings say, in two rounds (see [`Round`]). Between them the primary
/// datacenter must say that it needs its grants.
pub(super) async fn isolate(context: &mut Context<'_>) -> Result<String, StepError> {
    let settings = &context.federation.settings.datacenters;
    let wanted: BTreeMap<DcName, Isolation> =
        settings.iter().map(|(dc, entry)| (dc.clone(), entry.isolation)).collect();
    let primary = context.plan.primary.clone();
    let leased = wanted.get(&primary) == Some(&Isolation::Lease);
    let held = await_grants(context, &primary, false).await?;
    write(context, &wanted, Round::First).await?;
    if leased {
        await_grants(context, &primary, true).await?;
    }
    write(context, &wanted, Round::Second).await?;
    let count = wanted.values().filter(|isolation| **isolation == Isolation::Lease).count();
    Ok(format!("{held}; isolation lease in {count} of {} datacenters", wanted.len()))
}

async fn write(
    context: &Context<'_>,
    wanted: &BTreeMap<DcName, Isolation>,
    round: Round,
) -> Result<(), StepError> {
    for dc in context.federation.dcs.keys() {
        let (dcs, id) = (context.federation.dcs(dc)?, &context.plan.id);
        update_record(dcs, |record| change::isolate(record, id, wanted, round)).await?;
    }
    Ok(())
}

/// Waits until the leader of the primary datacenter holds a majority, and, when `enforced`, writes
/// only with it.
async fn await_grants(
    context: &Context<'_>,
    primary: &DcName,
    enforced: bool,
) -> Result<String, StepError> {
    let wait = Wait::new(context.limit);
    let what = format!("{primary} to hold a majority of the site grants");
    loop {
        let seen = match grants_of(context, primary).await {
            Ok(view) if view.left_ms > 0 && (view.enforced || !enforced) => {
                let ours = view.voters.iter().filter(|seat| seat.ours).count();
                return Ok(format!("{primary} holds {ours} of {} grants", view.voters.len()));
            }
            Ok(view) => {
                let silent = view.voters.iter().filter(|seat| !seat.silent.is_empty());
                let silent: Vec<String> =
                    silent.map(|seat| format!("{}: {}", seat.voter, seat.silent)).collect();
                format!("no majority; {}", silent.join("; "))
            }
            Err(why) => why,
        };
        wait.pause(POLL, &what, &seen).await?;
    }
}
