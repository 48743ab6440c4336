//! A standby that `/sync` names is restarted, or its agent is stopped: it asks to be left out first
//! (behaviour 12), so that no session of the primary waits for it meanwhile. It asks as Patroni's
//! members do, by the tag `nosync` in its key, which leaders of both kinds go by.

use crate::decision::{Act, Decision, Tend};
use crate::observed::{Cluster, JobKind, Observed};
use crate::postgres::Postgres;
use crate::rule::Rule;

/// How many `loop_wait` a leader has: one until it looks, and one for good measure.
const PATIENCE: u32 = 2;

/// Puts off a restart, or the end, of this standby until `/sync` does not name it any more.
pub(crate) fn first(observed: &Observed, cluster: &Cluster, mut decision: Decision) -> Decision {
    let ends = observed.ending && !observed.holds_lease() && !observed.postgres.may_write();
    if ends {
        decision.act = None;
        decision.tend.clear();
    } else if !restarts(&decision) {
        return decision;
    }
    let loop_wait = observed.config.timing.loop_wait;
    let asked = observed.release_asked_at.unwrap_or(observed.now);
    let left = observed.now.until(asked + loop_wait * PATIENCE);
    if !named(observed, cluster) || left.is_zero() {
        return decision;
    }
    let goal = if ends { "the agent is being stopped" } else { decision.why.as_str() };
    let why = format!("{goal}: asking to be left out of /sync first");
    let mut wait = Decision::wait(Rule::ReleaseSync, why, left, "the leader to change /sync");
    wait.tend = decision.tend.into_iter().filter(|tend| !begins(tend)).collect();
    wait
}

/// Whether an agent that is told to stop asks first.
#[must_use]
pub fn before_the_end(observed: &Observed) -> bool {
    observed.cluster.known().is_some_and(|cluster| named(observed, cluster))
}

fn restarts(decision: &Decision) -> bool {
    matches!(decision.act, Some(Act::Restart))
        || decision.tend.iter().any(|tend| matches!(tend, Tend::CopySlots { .. }))
}

/// What belongs to the restart itself.
fn begins(tend: &Tend) -> bool {
    matches!(tend, Tend::CopySlots { .. } | Tend::DropScheduledRestart(_))
}

fn named(observed: &Observed, cluster: &Cluster) -> bool {
    let Postgres::Running(running) = &observed.postgres else { return false };
    let (me, sync) = (&observed.me.name, &cluster.sync.value);
    let led = cluster.leader.is_some() && cluster.leader == sync.leader;
    let other = cluster.leader.as_ref() != Some(me);
    running.in_recovery && led && other && sync.covers(me)
}

/// Whether this standby is on its way into a restart or to its end: its key says `nosync`.
#[must_use]
pub fn leaving(observed: &Observed, decision: &Decision) -> bool {
    let job = observed.job.map(|job| job.kind);
    let busy = matches!(job, Some(JobKind::Restart | JobKind::CopySlots));
    let asks = decision.rule == Rule::ReleaseSync || observed.ending;
    let goes = asks || restarts(decision) || busy;
    goes && !observed.holds_lease() && !observed.postgres.may_write()
}

/// A planned restart whose time passes while the leader is waited for is not missed.
pub(crate) fn under_way(observed: &Observed) -> bool {
    let limit = observed.config.timing.loop_wait * (PATIENCE + 1);
    observed.release_asked_at.is_some_and(|at| observed.now.since(at) <= limit)
}

/// When the leader was first asked, for the next pass.
#[must_use]
pub fn asked_at(observed: &Observed, decision: &Decision) -> Option<crate::time::Boot> {
    let asks = decision.rule == Rule::ReleaseSync;
    asks.then(|| observed.release_asked_at.unwrap_or(observed.now))
}
