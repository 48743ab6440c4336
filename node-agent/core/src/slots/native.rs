//! PostgreSQL's own way of carrying logical slots over a change of primary, 17 and later: a standby
//! takes the slots that are marked `failover` over from its primary and keeps them in step
//! (PostgreSQL manual, 47.2.3). It is asked for by the parameter `sync_replication_slots`; the rest
//! that it needs is the agent's to set, in a standby datacenter as within one.
//!
//! Slots are taken over from a primary only: whoever streams from another standby would log an
//! error every ten seconds.

use super::wanted::leads;
use crate::observed::{Cluster, Observed};
use crate::postgres::{Running, SlotFact};
use crate::source::streams_from;
use node_agent_wire::dynamic::Dynamic;
use node_agent_wire::yaml::truth;
use serde_json::Value;

/// The parameter that asks for it.
pub const ASKED_BY: &str = "sync_replication_slots";
/// Without this the primary removes catalogue rows that a slot on the standby needs, and
/// PostgreSQL takes none over.
pub const FEEDBACK: &str = "hot_standby_feedback";

/// Whether a value of [`ASKED_BY`] asks for it.
#[must_use]
pub fn asks(value: &str) -> bool {
    truth(&Value::from(value.trim())) == Some(true)
}

/// What [`ASKED_BY`] and [`FEEDBACK`] must be on this node, where the configuration asks for it:
/// the name and the value of the one that the agent sets.
#[must_use]
pub fn setting(observed: &Observed, cluster: &Cluster) -> (&'static str, &'static str) {
    if behind_standby(observed, cluster) { (ASKED_BY, "off") } else { (FEEDBACK, "on") }
}

/// Whether this node's WAL comes from another standby, or from an archive.
fn behind_standby(observed: &Observed, cluster: &Cluster) -> bool {
    let standby = cluster.config.standby_cluster.as_ref();
    if leads(observed, cluster) {
        return standby.is_some_and(|standby| standby.cascade || standby.host.is_none());
    }
    let Some(leader) = &cluster.leader else { return false };
    let own = cluster.members.get(&observed.me.name);
    observed.me.nostream
        || standby.is_some()
        || own.is_some_and(|own| !streams_from(cluster, own, leader))
}

/// A slot that this node has kept from a time as primary, and that nobody will ever move here: the
/// configuration asks for slots to be taken over, and this node can't.
pub(super) fn stranded(
    observed: &Observed,
    cluster: &Cluster,
    running: &Running,
    slot: &SlotFact,
) -> bool {
    let own = slot.failover && !slot.synced && !slot.physical;
    own && running.in_recovery && asked(&cluster.config) && behind_standby(observed, cluster)
}

fn asked(config: &Dynamic) -> bool {
    match config.parameters.get(ASKED_BY) {
        Some(Value::String(text)) => asks(text),
        Some(other) => truth(other) == Some(true),
        None => false,
    }
}
