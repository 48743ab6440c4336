//! This node holds the leader key.

use crate::decision::{Act, Decision, SOON, Tend, Wake};
use crate::demotion::DemotionMode;
use crate::follower::follow;
use crate::guest::guest;
use crate::observed::{Cluster, Observed, Request};
use crate::pause;
use crate::postgres::{ControlData, ControlState, Postgres, Running, Upstream};
use crate::promotion::{NotYet, eligible};
use crate::read_only::lead_read_only;
use crate::right::RightToWrite;
use crate::rule::Rule;
use crate::schedule::{self, When};
use crate::sick;
use crate::slots;
use crate::starts;
use crate::switchover::{asked_in_pause, refuse, switchover};
use crate::synchronous::{awaits_sync, sync_step, waits_in_vain};
use crate::takeover::under_guard;
use std::time::Duration;

/// Decides for the holder of the leader key.
#[must_use]
pub fn lead(observed: &Observed, cluster: &Cluster) -> Decision {
    match RightToWrite::check(observed) {
        Err(blocked) => lead_read_only(observed, cluster, &blocked),
        Ok(_) if cluster.config.pause && !asked_in_pause(observed, cluster) => {
            pause::lead(observed, cluster)
        }
        Ok(right) => sick::review(observed, cluster, lead_primary(observed, cluster, right)),
    }
}

pub(crate) fn restart() -> Decision {
    let why = "an operator asked for a restart";
    Decision::wait(Rule::Restart, why, Duration::ZERO, "the restart").act(Act::Restart)
}

fn lead_primary(observed: &Observed, cluster: &Cluster, right: RightToWrite) -> Decision {
    if let Some(restart) = under_guard(observed, cluster) {
        return restart.tend(Tend::PublishLeader);
    }
    match &observed.postgres {
        Postgres::NoData => begin(observed, cluster, right),
        Postgres::Stopped(control) => start_as_leader(observed, cluster, control, right),
        Postgres::Starting { since, standby, .. } => {
            let timeout = cluster.config.primary_start_timeout;
            if observed.now.since(*since) > timeout && sick::failover_possible(observed, cluster) {
                return give_up_start(timeout, *standby);
            }
            let why = "this node leads; PostgreSQL is starting";
            Decision::wait(Rule::AwaitStart, why, SOON, "PostgreSQL to accept connections")
        }
        Postgres::Unresponsive { .. } | Postgres::Unreadable(_) => Decision::wait(
            Rule::AwaitStart,
            "this node leads; PostgreSQL does not answer",
            observed.config.timing.loop_wait,
            "PostgreSQL to answer",
        ),
        Postgres::Running(running) if running.in_recovery => promote(observed, cluster, running),
        Postgres::Running(running) => hold(observed, cluster, running),
    }
}

fn give_up_start(timeout: Duration, standby: bool) -> Decision {
    let why = format!("PostgreSQL has been starting for more than {} s", timeout.as_secs());
    let wait = Decision::wait(Rule::GiveUp, why, Duration::ZERO, "another leader");
    if standby {
        return wait.act(Act::Release);
    }
    wait.act(Act::Demote(DemotionMode::Immediate))
}

fn begin(observed: &Observed, cluster: &Cluster, right: RightToWrite) -> Decision {
    let new = cluster.initialize.as_deref().unwrap_or("").is_empty();
    if new && observed.me.may_bootstrap && observed.start_failures == 0 {
        return Decision::wait(Rule::Bootstrap, "a new cluster", Duration::ZERO, "initdb")
            .act(Act::Initdb(right));
    }
    Decision::wait(
        Rule::GiveUp,
        "this node leads and has no data directory",
        observed.config.timing.loop_wait,
        "another leader",
    )
    .act(Act::Release)
}

fn start_as_leader(
    observed: &Observed,
    cluster: &Cluster,
    control: &ControlData,
    right: RightToWrite,
) -> Decision {
    if observed.start_failures > 0 && has_others(observed, cluster) {
        return does_not_start(observed);
    }
    let timeout = cluster.config.primary_start_timeout;
    if timeout.is_zero() && crashed(control) && sick::failover_possible(observed, cluster) {
        let why =
            "PostgreSQL has crashed and primary_start_timeout is 0: another member takes over";
        return Decision::wait(Rule::CrashFailover, why, Duration::ZERO, "another leader")
            .act(Act::Release);
    }
    if !control.was_primary() {
        return follow(observed, cluster, &Upstream::Nobody, Rule::StartStandby);
    }
    if let Some(wait) = starts::wait(observed) {
        return wait;
    }
    Decision::wait(
        Rule::StartPrimary,
        "this node leads and PostgreSQL is not running",
        Duration::ZERO,
        "PostgreSQL to accept connections",
    )
    .act(Act::StartPrimary(right))
}

/// It was primary and did not stop cleanly.
fn crashed(control: &ControlData) -> bool {
    match control.state {
        ControlState::InProduction | ControlState::InCrashRecovery | ControlState::ShuttingDown => {
            true
        }
        ControlState::ShutDown
        | ControlState::ShutDownInRecovery
        | ControlState::InArchiveRecovery
        | ControlState::StartingUp => false,
    }
}

pub(crate) fn does_not_start(observed: &Observed) -> Decision {
    let loop_wait = observed.config.timing.loop_wait;
    let why = match &observed.health.early_end {
        Some(end) => format!("PostgreSQL does not start here: {}", end.said),
        None => "PostgreSQL does not start here".to_owned(),
    };
    Decision::wait(Rule::GiveUp, why, loop_wait, "another leader").act(Act::Release)
}

pub(crate) fn has_others(observed: &Observed, cluster: &Cluster) -> bool {
    cluster.members.keys().any(|name| *name != observed.me.name)
}

fn promote(observed: &Observed, cluster: &Cluster, running: &Running) -> Decision {
    let soon = |rule: Rule, why: String| Decision::wait(rule, why, SOON, "the next step");
    let warning = slots::logical::warning(observed, cluster, running);
    match eligible(observed) {
        Ok(proof) => Decision::wait(
            Rule::Promote,
            match proof.epoch() {
                Some(epoch) => format!("leader at epoch {epoch}{warning}"),
                None => format!("leader{warning}"),
            },
            Duration::ZERO,
            "PostgreSQL to accept writes",
        )
        .act(Act::Promote(proof)),
        Err(NotYet::WriteSync { sync, over }) => {
            soon(Rule::PrepareSync, "/sync must name this node before it is promoted".into())
                .tend(Tend::WriteSync { sync, over })
        }
        Err(NotYet::SetNames(names)) => {
            soon(Rule::PrepareSync, "synchronous_standby_names of an earlier life".into())
                .tend(Tend::SetSyncNames(names))
        }
        Err(NotYet::Lacks(why)) => soon(Rule::GiveUp, why).act(Act::Release),
        Err(NotYet::Blocked(blocked)) => soon(Rule::ReadOnly, blocked.to_string()),
        Err(NotYet::NoLease) => soon(Rule::AwaitStart, "the lease is not held".into()),
        Err(NotYet::NotAStandby) => soon(Rule::AwaitStart, "PostgreSQL is not ready".into()),
    }
}

fn hold(observed: &Observed, cluster: &Cluster, running: &Running) -> Decision {
    let mut why = format!("primary on timeline {}", running.timeline);
    let mut after = observed.config.timing.loop_wait;
    let request = &cluster.failover.value;
    if !request.is_empty() {
        match schedule::switchover(request, observed) {
            When::Now => return switchover(observed, cluster, running),
            When::Never(why) => return refuse(cluster, why),
            When::In(left) => {
                let at = request.scheduled_at.as_deref().unwrap_or_default();
                why = format!("{why}; a switchover is planned for {at}");
                after = after.min(left);
            }
        }
    }
    let mut decision =
        Decision::wait(Rule::Hold, why, after, "a change in the DCS").tend(Tend::PublishLeader);
    if observed.request == Some(Request::Restart) {
        return restart().tend(Tend::PublishLeader);
    }
    if let Some(lost) = waits_in_vain(observed, cluster, running) {
        (decision.rule, decision.why) = (Rule::SyncLost, lost);
    }
    match sync_step(observed, cluster, running) {
        Some(Tend::SetSyncNames(names)) if names == running.sync_names => {
            // Nothing changes: it is waited until these names are sure to be in force.
            decision.tend.push(Tend::SetSyncNames(names));
            decision.wake.after = decision.wake.after.min(SOON);
        }
        Some(step) => {
            decision.tend.push(step);
            decision.wake = Wake::next();
        }
        None => {
            decision.tend.push(Tend::ApplySettings);
            if awaits_sync(observed, cluster, running) {
                decision.wake.after = decision.wake.after.min(SOON);
            }
        }
    }
    if guest(observed, cluster, running).is_some() {
        // The end of its time must not be slept through.
        decision.wake.after = decision.wake.after.min(SOON);
    }
    decision.tend.extend(slots::changes(observed, cluster, running).into_iter().map(Tend::Slot));
    decision
}

impl Wake {
    /// The next step of a sequence: at once.
    pub(crate) fn next() -> Self {
        Self { after: Duration::from_millis(20), reason: "the next step" }
    }
}
