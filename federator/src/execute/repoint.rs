//! The other datacenters follow the new primary one: their configuration first, then their record,
//! which lifts the fence. One that does not answer is left behind and needs a rejoin.

use super::context::{Context, POLL, StepError, Wait};
use crate::federation::Federation;
use crate::records::{UpdateError, need_record, update_config, update_config_under, update_record};
use federator_core::change;
use federator_core::conditions::to_repoint;
use federator_core::configuration::{as_standby_of, with_slots};
use federator_core::links::in_order;
use node_agent_wire::DcName;
use node_agent_wire::federation::FederationRecord;
use serde_json::{Map, Value};
use std::time::Duration;

/// How long a silent datacenter is waited for before it is left behind.
const SILENCE_LIMIT: Duration = Duration::from_secs(10);

pub(super) async fn run(context: &mut Context<'_>) -> Result<String, StepError> {
    let to = context.plan.to.clone();
    let winner = need_record(context.federation.dcs(&to)?).await?;
    let mut repointed = Vec::new();
    // Who is found silent here is followed by nobody who comes later.
    for dc in in_order(&to_repoint(&context.plan), |dc| context.source_of(dc, &to)) {
        let wait = Wait::new(SILENCE_LIMIT);
        loop {
            let source = context.source_of(&dc, &to);
            match one(context, &dc, &source, &winner).await {
                Ok(()) => {
                    repointed.push(format!("{dc} follows {source}"));
                    break;
                }
                Err(UpdateError::Dcs(error)) => {
                    let seen = error.to_string();
                    if wait.pause(POLL, &format!("the etcd of {dc}"), &seen).await.is_err() {
                        context.left_behind.insert(dc.clone());
                        break;
                    }
                }
                Err(error) => return Err(error.into()),
            }
        }
    }
    let behind: Vec<&str> = context.left_behind.iter().map(DcName::as_str).collect();
    Ok(match (repointed.is_empty(), behind.is_empty()) {
        (true, true) => "no other datacenter to repoint".into(),
        (false, true) => repointed.join(", "),
        (true, false) => format!("{} does not answer and is left behind", behind.join(", ")),
        (false, false) => format!(
            "{}; {} does not answer and is left behind",
            repointed.join(", "),
            behind.join(", ")
        ),
    })
}

async fn one(
    context: &Context<'_>,
    dc: &DcName,
    source: &DcName,
    winner: &FederationRecord,
) -> Result<(), UpdateError> {
    let hosts = context.federation.cluster(source).await?.postgres_addresses();
    configure_under(context, dc, &hosts, winner).await?;
    let dcs = context.federation.dcs(dc)?;
    update_record(dcs, |record| change::follow(record, winner, &context.plan.id)).await?;
    Ok(())
}

/// Makes `dc` a standby cluster of `hosts`, its source's, for as long as its record may follow the
/// winner's: a datacenter that has become primary since must not be made a standby.
pub(super) async fn configure_under(
    context: &Context<'_>,
    dc: &DcName,
    hosts: &[(String, u16)],
    winner: &FederationRecord,
) -> Result<(), UpdateError> {
    let federation = context.federation;
    let (slot, slots, id) = (federation.slot(dc), federation.slots_on(dc), &context.plan.id);
    update_config_under(
        federation.dcs(dc)?,
        |record| change::follow(record, winner, id).map(|_| ()),
        |config| with_slots(&as_standby_of(config, hosts, &slot), &slots),
    )
    .await
}

/// Makes `dc` a standby cluster of `hosts`, with slots for the other datacenters; `base` is what it
/// begins with when it has no configuration yet.
pub(super) async fn configure(
    federation: &Federation,
    dc: &DcName,
    hosts: &[(String, u16)],
    base: Option<&Map<String, Value>>,
) -> Result<(), UpdateError> {
    let (slot, slots) = (federation.slot(dc), federation.slots_on(dc));
    update_config(federation.dcs(dc)?, |config| {
        let before = config.or(base).cloned().unwrap_or_default();
        with_slots(&as_standby_of(&before, hosts, &slot), &slots)
    })
    .await
}
