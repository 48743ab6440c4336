//! One pass: the facts in, one decision out.

use crate::decision::{Act, Decision, StopMode};
use crate::election;
use crate::follower::{follow, upstream_of_leader};
use crate::leader::lead;
use crate::observed::{Cluster, Observed, Request};
use crate::postgres::{Postgres, Upstream};
use crate::rule::Rule;
use std::time::Duration;

/// Decides. Total: every combination of facts has an answer, and waiting is one.
#[must_use]
pub fn decide(observed: &Observed) -> Decision {
    let loop_wait = observed.config.timing.loop_wait;
    let Some(cluster) = observed.cluster.known() else { return without_dcs(observed) };
    if let Some(job) = observed.job {
        let why = format!("{:?} for {} s", job.kind, observed.now.since(job.since).as_secs());
        return Decision::wait(Rule::JobRunning, why, loop_wait, "the end of the work");
    }
    if let Postgres::Unreadable(why) = &observed.postgres {
        return Decision::wait(Rule::DataUnreadable, why.clone(), loop_wait, "an operator");
    }
    if let (Some(own), Some(clusters)) = (observed.postgres.system_id(), cluster.system_id())
        && *own != clusters
    {
        return foreign(observed, &format!("system identifier {own}, the cluster's is {clusters}"));
    }
    match &cluster.leader {
        Some(leader) if *leader == observed.me.name => {
            if observed.holds_lease() {
                lead(observed, cluster)
            } else {
                take_back()
            }
        }
        Some(_) => led_by_other(observed, cluster),
        // The key vanished before the lease was over (etcd#15247): the keeper puts it back.
        None if observed.holds_lease() => lead(observed, cluster),
        None => leaderless(observed, cluster),
    }
}

fn without_dcs(observed: &Observed) -> Decision {
    let loop_wait = observed.config.timing.loop_wait;
    if observed.postgres.may_write() && !observed.holds_lease() && observed.job.is_none() {
        return Decision::wait(
            Rule::DcsLostDemote,
            "the DCS can't be read and the lease has run out",
            Duration::ZERO,
            "PostgreSQL to stop",
        )
        .act(Act::Demote { mode: StopMode::Immediate, checkpoint: false, release: false });
    }
    let (why, after) = match observed.lease.held_until {
        Some(until) if observed.holds_lease() => {
            let left = observed.now.until(until);
            (format!("the DCS can't be read; the lease lasts {} ms more", left.as_millis()), left)
        }
        Some(_) | None => ("the DCS can't be read; nothing is changed".to_owned(), loop_wait),
    };
    Decision::wait(Rule::DcsLostKeep, why, after.min(loop_wait), "the DCS")
}

fn foreign(observed: &Observed, why: &str) -> Decision {
    let wait = Decision::wait(
        Rule::ForeignSystem,
        format!("{why}: this node takes no part; empty its data directory to let it join"),
        observed.config.timing.loop_wait,
        "an operator",
    );
    if observed.postgres.may_write() {
        return wait.act(Act::Demote {
            mode: StopMode::Fast,
            checkpoint: false,
            release: observed.holds_lease(),
        });
    }
    if observed.holds_lease() { wait.act(Act::Release) } else { wait }
}

/// The leader key is this node's, from before the agent restarted, or the lease ran out while
/// nobody else took the key: it may be taken again, nobody else has had it.
fn take_back() -> Decision {
    Decision::wait(
        Rule::Acquire,
        "the leader key is this node's own",
        Duration::ZERO,
        "the leader key",
    )
    .act(Act::Acquire(election::own_key()))
}

fn led_by_other(observed: &Observed, cluster: &Cluster) -> Decision {
    if observed.postgres.may_write() && !cluster.config.pause {
        return lost_lock(observed);
    }
    let loop_wait = observed.config.timing.loop_wait;
    let Some(upstream) = upstream_of_leader(cluster) else {
        let why = "the leader's member key is not there";
        return Decision::wait(Rule::AwaitSource, why, loop_wait, "the leader's member key");
    };
    if cluster.config.pause {
        let why = "maintenance mode; another member leads";
        return Decision::wait(Rule::Paused, why, loop_wait, "the end of pause");
    }
    if observed.postgres == Postgres::NoData {
        return clone_leader(observed, cluster, upstream);
    }
    if let Postgres::Running(_) = &observed.postgres
        && observed.request == Some(Request::Restart)
    {
        let why = "an operator asked for a restart";
        return Decision::wait(Rule::Restart, why, Duration::ZERO, "the restart").act(Act::Restart);
    }
    follow(observed, cluster, &upstream, Rule::Replicate)
}

fn clone_leader(observed: &Observed, cluster: &Cluster, upstream: Upstream) -> Decision {
    let loop_wait = observed.config.timing.loop_wait;
    let running = cluster
        .leader_member()
        .is_some_and(|m| m.data.state == node_agent_wire::member::state::RUNNING);
    if cluster.system_id().is_none() || !running {
        let why = "waiting for the leader to run";
        return Decision::wait(Rule::AwaitLeader, why, loop_wait, "a running leader");
    }
    if let Some(until) = observed.stand_back_until.filter(|until| observed.now < *until) {
        let left = observed.now.until(until);
        return Decision::wait(Rule::AwaitLeader, "the base backup failed lately", left, "a retry");
    }
    Decision::wait(Rule::Clone, "copying the leader", Duration::ZERO, "the base backup")
        .act(Act::Clone(upstream))
}

fn lost_lock(observed: &Observed) -> Decision {
    let loop_wait = observed.config.timing.loop_wait;
    Decision::wait(Rule::LostLock, "this node is not the leader", loop_wait, "PostgreSQL to stop")
        .act(Act::Demote { mode: StopMode::Immediate, checkpoint: false, release: false })
}

fn leaderless(observed: &Observed, cluster: &Cluster) -> Decision {
    let loop_wait = observed.config.timing.loop_wait;
    if cluster.config.pause && cluster.failover.value.is_empty() {
        let why = "maintenance mode; nobody leads";
        return Decision::wait(Rule::Paused, why, loop_wait, "the end of pause");
    }
    if observed.postgres.may_write() {
        return lost_lock(observed);
    }
    match &observed.postgres {
        Postgres::NoData => election::race_empty(observed, cluster),
        Postgres::Running(running) => {
            let mut decision = election::race(observed, cluster, running);
            decision.wake.after = decision.wake.after.min(loop_wait);
            decision
        }
        Postgres::Stopped(_)
        | Postgres::Starting { .. }
        | Postgres::Unresponsive { .. }
        | Postgres::Unreadable(_) => {
            follow(observed, cluster, &Upstream::Nobody, Rule::StartStandby)
        }
    }
}
