//! The other datacenters follow the new primary one: their configuration first, then their record,
//! which lifts the fence. One that does not answer is left behind and needs a rejoin.

use super::context::{Context, POLL, StepError, Wait};
use crate::records::{UpdateError, need_record, update_config, update_config_under, update_record};
use federator_core::change;
use federator_core::conditions::to_repoint;
use federator_core::configuration::{as_standby_of, with_seed, with_slots};
use federator_core::links::in_order;
use node_agent_wire::federation::FederationRecord;
use node_agent_wire::member::Member;
use node_agent_wire::{DcName, SlotName};
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
    let source = Source::of(context, source, &winner.primary).await?;
    configure_under(context, dc, &source, winner).await?;
    let dcs = context.federation.dcs(dc)?;
    update_record(dcs, |record| change::follow(record, winner, &context.plan.id)).await?;
    Ok(())
}

/// The servers of a datacenter that another one is to follow.
pub(super) struct Source {
    hosts: Vec<(String, u16)>,
    cascade: bool,
}

impl Source {
    /// All nodes of the primary datacenter: PostgreSQL finds the primary among them. Of a standby
    /// datacenter the leader alone; the agents follow its failovers.
    pub(super) async fn of(
        context: &Context<'_>,
        dc: &DcName,
        primary: &DcName,
    ) -> Result<Self, UpdateError> {
        let cluster = context.federation.cluster(dc).await?;
        let cascade = dc != primary;
        let hosts = match cascade {
            true => cluster.leader().and_then(Member::postgres_address).into_iter().collect(),
            false => cluster.postgres_addresses(),
        };
        Ok(Self { hosts, cascade })
    }

    /// Whether there is anybody to follow.
    pub(super) fn is_empty(&self) -> bool {
        self.hosts.is_empty()
    }

    fn named_in(&self, config: &Map<String, Value>, slot: &SlotName) -> Map<String, Value> {
        as_standby_of(config, &self.hosts, slot, self.cascade)
    }
}

/// Makes `dc` a standby cluster of its source, for as long as its record may follow the
/// winner's: a datacenter that has become primary since must not be made a standby.
pub(super) async fn configure_under(
    context: &Context<'_>,
    dc: &DcName,
    source: &Source,
    winner: &FederationRecord,
) -> Result<(), UpdateError> {
    let (federation, seed) = (context.federation, context.seed(dc));
    let (slot, slots, id) = (federation.slot(dc), context.slots_on(dc), &context.plan.id);
    update_config_under(
        federation.dcs(dc)?,
        |record| change::follow(record, winner, id).map(|_| ()),
        |config| with_seed(&with_slots(&source.named_in(config, &slot), &slots), &seed),
    )
    .await
}

/// Makes `dc` a standby cluster of its source, with slots for the other datacenters; `base` is what
/// it begins with when it has no configuration yet.
pub(super) async fn configure(
    context: &Context<'_>,
    dc: &DcName,
    source: &Source,
    base: Option<&Map<String, Value>>,
) -> Result<(), UpdateError> {
    let (federation, seed) = (context.federation, context.seed(dc));
    let (slot, slots) = (federation.slot(dc), context.slots_on(dc));
    update_config(federation.dcs(dc)?, |config| {
        let before = config.or(base).cloned().unwrap_or_default();
        with_seed(&with_slots(&source.named_in(&before, &slot), &slots), &seed)
    })
    .await
}
