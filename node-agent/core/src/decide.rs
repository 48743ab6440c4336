//! One pass: the facts in, one decision out.

use crate::decision::{Act, Decision, Tend};
use crate::demotion::DemotionMode;
use crate::election;
use crate::failsafe::gate;
use crate::follower::{follow, name_of};
use crate::grants;
use crate::leader::lead;
use crate::lost;
use crate::observed::{Cluster, Observed, Request};
use crate::outage;
use crate::pause;
use crate::postgres::{Postgres, Upstream};
use crate::read_only::stop_writing;
use crate::reinit;
use crate::release;
use crate::right::RightToWrite;
use crate::rule::Rule;
use crate::schedule;
use crate::sick;
use crate::slots::{logical, without_dcs};
use crate::source;
use crate::takeover;
use crate::watchdog;
use std::time::Duration;

/// Decides. Total: every combination of facts has an answer, and waiting is one. The next pass is
/// never further away than `loop_wait`.
#[must_use]
pub fn decide(observed: &Observed) -> Decision {
    if let Some((seen, leader)) = lost::without_lost_leader(observed) {
        return lost::in_place_of(leader, decide_as_seen(&seen));
    }
    let mut decision = decide_as_seen(observed);
    lost::watch(observed, &mut decision);
    decision
}

fn decide_as_seen(observed: &Observed) -> Decision {
    let decision = by_role(observed);
    let mut decision = match observed.cluster.known() {
        Some(cluster) => {
            let decision = gate(observed, cluster, decision);
            watchdog::insist(observed, sick::stand_back(observed, cluster, decision))
        }
        None => decision,
    };
    if observed.cluster.known().is_none_or(|cluster| cluster.leader.is_none()) {
        decision.tend.extend(without_dcs::changes(observed).into_iter().map(Tend::Slot));
    }
    schedule::restart(observed, &mut decision);
    if let Some(cluster) = observed.cluster.known() {
        decision = release::first(observed, cluster, decision);
    }
    pause::tidy(observed, &mut decision);
    grants::watch(observed, &mut decision);
    decision.tend.extend(reinit::refused(observed));
    decision.wake.after = decision.wake.after.min(observed.config.timing.loop_wait);
    decision
}

fn by_role(observed: &Observed) -> Decision {
    let loop_wait = observed.config.timing.loop_wait;
    let Some(cluster) = observed.cluster.known() else { return outage::decide(observed) };
    if let Some(job) = observed.job {
        let why = match &observed.directory.progress {
            Some(progress) => format!("{:?} is under way: {progress}", job.kind),
            None => format!("{:?} is under way", job.kind),
        };
        return Decision::wait(Rule::JobRunning, why, loop_wait, "the end of the work");
    }
    let rebuilt =
        reinit::asked(observed, cluster).or_else(|| reinit::interrupted(observed, cluster));
    if let Some(rebuilt) = rebuilt {
        return rebuilt;
    }
    if let Postgres::Unreadable(why) = &observed.postgres {
        let wait = Decision::wait(Rule::DataUnreadable, why.clone(), loop_wait, "an operator");
        // Another member can lead meanwhile.
        return if observed.holds_lease() { wait.act(Act::Release) } else { wait };
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
                take_back(observed)
            }
        }
        Some(_) => led_by_other(observed, cluster),
        // The key vanished before the lease was over (etcd#15247): the keeper puts it back.
        None if observed.holds_lease() => lead(observed, cluster),
        None => leaderless(observed, cluster),
    }
}

fn foreign(observed: &Observed, why: &str) -> Decision {
    let wait = Decision::wait(
        Rule::ForeignSystem,
        format!("{why}: this node takes no part; empty its data directory to let it join"),
        observed.config.timing.loop_wait,
        "an operator",
    );
    // In maintenance mode of a plain cluster it is left alone: it is no second primary of this one.
    let left = observed.cluster.known().is_some_and(|cluster| {
        cluster.config.pause && cluster.record == crate::observed::RecordView::Absent
    });
    if observed.postgres.may_write() && !left {
        let leads = observed.holds_lease();
        let mode = if leads { DemotionMode::Leave } else { DemotionMode::Offline };
        return wait.act(Act::Demote(mode));
    }
    if observed.holds_lease() { wait.act(Act::Release) } else { wait }
}

/// The leader key is this node's, from before the agent restarted, or the lease ran out while
/// nobody else took the key: it may be taken again, nobody else has had it. A fence that was set
/// meanwhile goes first.
fn take_back(observed: &Observed) -> Decision {
    if observed.postgres.may_write()
        && let Err(blocked) = RightToWrite::check(observed)
    {
        return stop_writing(&blocked);
    }
    Decision::wait(
        Rule::Acquire,
        "the leader key is this node's own",
        Duration::ZERO,
        "the leader key",
    )
    .act(Act::Acquire(election::own_key()))
}

fn led_by_other(observed: &Observed, cluster: &Cluster) -> Decision {
    if let Some(stop) = stop_without_key(observed, cluster) {
        return stop;
    }
    if let Postgres::Running(_) = &observed.postgres
        && observed.request == Some(Request::Restart)
    {
        let why = "an operator asked for a restart";
        return Decision::wait(Rule::Restart, why, Duration::ZERO, "the restart").act(Act::Restart);
    }
    if let Some(restart) = takeover::under_guard(observed, cluster) {
        return restart;
    }
    let loop_wait = observed.config.timing.loop_wait;
    let Some(leader) = source::of_leader(cluster) else {
        let why = "the leader's member key is not there";
        return Decision::wait(Rule::AwaitSource, why, loop_wait, "the leader's member key");
    };
    if cluster.config.pause {
        let choice = source::choose(observed, cluster, leader);
        return pause::follow(observed, cluster, &choice.upstream);
    }
    if observed.postgres == Postgres::NoData {
        return copy(observed, cluster, &leader);
    }
    let choice = source::choose(observed, cluster, leader);
    let mut decision = follow(observed, cluster, &choice.upstream, Rule::Replicate);
    let asks = decision.tend.iter().any(|t| matches!(t, Tend::AskHistory(_)));
    decision.tend.extend(choice.ask.filter(|_| !asks).map(Tend::AskHistory));
    logical::settle(observed, cluster, decision)
}

fn copy(observed: &Observed, cluster: &Cluster, leader: &Upstream) -> Decision {
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
    let from = source::to_copy(observed, cluster, leader);
    let why = if from == *leader {
        "copying the leader".to_owned()
    } else {
        format!("copying {}", name_of(&from))
    };
    Decision::wait(Rule::Clone, why, Duration::ZERO, "the base backup").act(Act::Clone(from))
}

/// PostgreSQL may write here and this node is not the leader. In maintenance mode it goes on, as
/// with Patroni, unless the federation forbids it.
fn stop_without_key(observed: &Observed, cluster: &Cluster) -> Option<Decision> {
    if !observed.postgres.may_write() {
        return None;
    }
    if !cluster.config.pause || pause::another_primary(observed, cluster) {
        return Some(lost_lock(observed));
    }
    RightToWrite::check(observed).err().map(|blocked| stop_writing(&blocked))
}

fn lost_lock(observed: &Observed) -> Decision {
    let loop_wait = observed.config.timing.loop_wait;
    Decision::wait(Rule::LostLock, "this node is not the leader", loop_wait, "PostgreSQL to stop")
        .act(Act::Demote(DemotionMode::ImmediateNolock))
}

fn leaderless(observed: &Observed, cluster: &Cluster) -> Decision {
    if let Some(taken) = takeover::take_over(observed, cluster) {
        return taken;
    }
    if let Some(take) = pause::take_key(observed, cluster) {
        return take;
    }
    if let Some(stop) = stop_without_key(observed, cluster) {
        return stop;
    }
    // In maintenance mode only a standby takes part, and only when an operator asks for it.
    let request = schedule::in_force(observed, cluster).filter(|r| r.scheduled_at.is_none());
    let asked = request.is_some() && !observed.postgres.may_write();
    if cluster.config.pause && !asked {
        let (why, loop_wait) = ("maintenance mode; nobody leads", observed.config.timing.loop_wait);
        return Decision::wait(Rule::Paused, why, loop_wait, "the end of pause");
    }
    match &observed.postgres {
        Postgres::NoData => election::race_empty(observed, cluster),
        Postgres::Running(running) => election::race(observed, cluster, running),
        Postgres::Stopped(_)
        | Postgres::Starting { .. }
        | Postgres::Unresponsive { .. }
        | Postgres::Unreadable(_) => {
            follow(observed, cluster, &Upstream::Nobody, Rule::StartStandby)
        }
    }
}
