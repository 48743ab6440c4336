//! A leader that is silent for longer than its beats give it, while the store still has its key.
//!
//! etcd keeps the key of a host that vanished for a whole TTL. With `primary_lost_timeout` the
//! beats name a shorter time, the leader counts its own right with it, and a standby that has seen
//! no beat for so long takes the key as absent. It replaces it by compare-and-set over that very
//! beat, so a leader that has beaten since keeps it. The argument why never two lead is that of
//! the TTL: docs/federation-safety.md ("A primary that is lost").

use crate::decision::{Act, Decision, Tend};
use crate::election::fresh_poll;
use crate::observed::{Cluster, Observed};
use crate::postgres::Postgres;
use crate::rule::Rule;
use crate::time::Fact;
use node_agent_wire::MemberName;
use std::time::Duration;

/// The members are asked so long before a wait ends that an answer, or a silence, is there then.
const ASK_AHEAD: Duration = Duration::from_millis(1200);

/// The leader of another node, whose beats name a time that is not over.
fn left<'a>(observed: &Observed, cluster: &'a Cluster) -> Option<(&'a MemberName, Duration)> {
    cluster.config.lost_after()?;
    let leader = cluster.leader.as_ref().filter(|leader| **leader != observed.me.name)?;
    let beat = cluster.position.as_ref().filter(|beat| beat.leader == *leader)?;
    // It was released, it may go on without its lease, or without the DCS.
    if beat.released || beat.unattended || beat.failsafe.is_some() {
        return None;
    }
    let standby = matches!(&observed.postgres, Postgres::Running(r) if r.in_recovery);
    // With a lease of its own left over, an absent key would pass for this node's.
    if !standby || observed.job.is_some() || observed.holds_lease() {
        return None;
    }
    let seen = observed.observer.beat_seen_at.unwrap_or(observed.started_at);
    let over = seen + Duration::from_millis(beat.ttl_ms);
    Some((leader, observed.now.until(over)))
}

/// What is seen when the lost leader's key counts as absent, and who is lost.
pub(crate) fn without_lost_leader(observed: &Observed) -> Option<(Observed, MemberName)> {
    let cluster = observed.cluster.known()?;
    let (leader, _) = left(observed, cluster).filter(|(_, left)| left.is_zero())?;
    let mut seen = observed.clone();
    if let Fact::Known { value, .. } = &mut seen.cluster {
        value.leader = None;
    }
    Some((seen, leader.clone()))
}

/// Says over whose key the decision was made.
pub(crate) fn in_place_of(lost: MemberName, mut decision: Decision) -> Decision {
    decision.why = format!("{lost} leads and has been silent for too long; {}", decision.why);
    decision.act = match decision.act {
        Some(Act::Acquire(winner)) => {
            decision.rule = Rule::PrimaryLost;
            Some(Act::Acquire(winner.in_place_of(lost)))
        }
        other => other,
    };
    decision
}

/// Another member leads: looks again when its time is over, and asks the members shortly before.
pub(crate) fn watch(observed: &Observed, decision: &mut Decision) {
    let Some(cluster) = observed.cluster.known() else { return };
    if let Some((_, left)) = left(observed, cluster) {
        ahead(observed, decision, left);
    }
}

/// A wait that ends in an election unless a beat comes: the members are asked before its end.
pub(crate) fn ahead(observed: &Observed, decision: &mut Decision, left: Duration) {
    let asking = left.saturating_sub(ASK_AHEAD);
    if asking.is_zero() {
        decision.wake.after = decision.wake.after.min(left);
        if fresh_poll(observed).is_none() && !decision.tend.contains(&Tend::AskPeers) {
            decision.tend.push(Tend::AskPeers);
        }
    } else {
        decision.wake.after = decision.wake.after.min(asking);
    }
}
