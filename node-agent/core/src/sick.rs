//! A primary that lives and can't do its work: it answers nobody, or its disk is full.
//!
//! Patroni keeps the leader key in both cases (behaviour §20). So does this agent, and says so,
//! unless `primary_unresponsive_timeout` or `primary_disk_full_timeout` is set: then it stops the
//! primary and releases the key, provided that another member could take it.

use crate::decision::{Act, Decision, Tend};
use crate::demotion::DemotionMode;
use crate::election::fresh_poll;
use crate::observed::{Cluster, Observed, PeerAnswer};
use crate::postgres::Postgres;
use crate::rule::Rule;
use crate::starts::EarlyEnd;
use crate::time::Boot;
use node_agent_wire::member::state;
use std::time::Duration;

/// How PostgreSQL on this node is unwell.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Health {
    /// It has accepted no new session since then, though it may still serve old ones.
    pub silent_since: Option<Boot>,
    /// A disk that it writes to is full.
    pub disk_full: Option<DiskFull>,
    /// It does not come up.
    pub early_end: Option<EarlyEnd>,
}

/// A full disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskFull {
    /// When it was first seen so.
    pub since: Boot,
    /// Which, and what it lacks. Does not change from second to second.
    pub what: String,
}

/// Another member could take the key: it runs, may lead, and has everything where that is promised.
#[must_use]
pub fn failover_possible(observed: &Observed, cluster: &Cluster) -> bool {
    let sync = &cluster.sync.value;
    cluster.members.values().any(|member| {
        member.name != observed.me.name
            && member.data.state == state::RUNNING
            && !member.nofailover()
            && (!sync.active() || sync.covers(&member.name))
    })
}

/// What the leader decides when its PostgreSQL is unwell; `decision` is what it would do otherwise.
pub(crate) fn review(observed: &Observed, cluster: &Cluster, decision: Decision) -> Decision {
    if decision.act.is_some() || !observed.postgres.may_write() {
        return decision;
    }
    let decision = match silent_since(observed) {
        Some(since) => silent(observed, cluster, since, decision),
        None => decision,
    };
    match &observed.health.disk_full {
        Some(full) if decision.act.is_none() => disk_full(observed, cluster, full, decision),
        Some(_) | None => decision,
    }
}

fn silent_since(observed: &Observed) -> Option<Boot> {
    match &observed.postgres {
        Postgres::Unresponsive { since, .. } => {
            Some(observed.health.silent_since.map_or(*since, |silent| silent.min(*since)))
        }
        Postgres::Running(_) => observed.health.silent_since,
        Postgres::NoData
        | Postgres::Unreadable(_)
        | Postgres::Stopped(_)
        | Postgres::Starting { .. } => None,
    }
}

/// Whether the time is over, and what is left of it otherwise; `None`: there is no limit.
fn left(observed: &Observed, since: Boot, limit: Option<Duration>) -> Option<Duration> {
    Some(limit?.saturating_sub(observed.now.since(since)))
}

fn silent(observed: &Observed, cluster: &Cluster, since: Boot, decision: Decision) -> Decision {
    let what = "PostgreSQL accepts no session".to_owned();
    let possible = failover_possible(observed, cluster);
    let limit = cluster.config.primary_unresponsive_timeout;
    let left = left(observed, since, limit);
    if possible && left == Some(Duration::ZERO) {
        let stop = Act::Demote(DemotionMode::Immediate);
        return Decision::wait(Rule::SilentFailover, what, Duration::ZERO, "another leader")
            .act(stop);
    }
    let next = match left {
        None => "primary_unresponsive_timeout is off: the leader key is kept".to_owned(),
        Some(_) if !possible => "no other member could lead: the leader key is kept".to_owned(),
        Some(_) => after(limit, "primary_unresponsive_timeout"),
    };
    let mut decision = remark(Rule::Silent, format!("{what}; {next}"), decision);
    if let Some(left) = left.filter(|left| possible && !left.is_zero()) {
        decision.wake.after = decision.wake.after.min(left);
    }
    decision
}

fn disk_full(
    observed: &Observed,
    cluster: &Cluster,
    full: &DiskFull,
    decision: Decision,
) -> Decision {
    let what = format!("disk full: {}", full.what);
    let possible = failover_possible(observed, cluster);
    let limit = cluster.config.primary_disk_full_timeout;
    let left = left(observed, full.since, limit);
    if possible && left == Some(Duration::ZERO) {
        let stop = Act::Demote(DemotionMode::Leave);
        return Decision::wait(Rule::DiskFullFailover, what, Duration::ZERO, "another leader")
            .act(stop);
    }
    let next = match left {
        None => "primary_disk_full_timeout is off: free some space".to_owned(),
        Some(_) if !possible => "no other member could lead: free some space".to_owned(),
        Some(_) => after(limit, "primary_disk_full_timeout"),
    };
    let mut decision = remark(Rule::DiskFull, format!("{what}; {next}"), decision);
    if let Some(left) = left.filter(|left| possible && !left.is_zero()) {
        decision.wake.after = decision.wake.after.min(left);
    }
    decision
}

/// Without what changes each second: it is in every log line and in the member key.
fn after(limit: Option<Duration>, setting: &str) -> String {
    let seconds = limit.unwrap_or_default().as_secs();
    format!("another member takes over after {seconds} s ({setting})")
}

/// The same work with the true state over it. Only what would say that all is well is replaced.
fn remark(rule: Rule, why: String, mut decision: Decision) -> Decision {
    if matches!(decision.rule, Rule::Hold | Rule::AwaitStart) {
        decision.rule = rule;
        decision.why = why;
    }
    decision
}

/// Nobody takes the leader key with a full disk while another member that answers could.
pub(crate) fn stand_back(observed: &Observed, cluster: &Cluster, decision: Decision) -> Decision {
    let (Some(Act::Acquire(_)), Some(full)) = (&decision.act, &observed.health.disk_full) else {
        return decision;
    };
    let own = cluster.leader.as_ref() == Some(&observed.me.name);
    let other = fresh_poll(observed).is_some_and(|poll| {
        poll.answers.iter().any(|(name, answer)| {
            let able = cluster.members.get(name).is_some_and(|member| !member.nofailover());
            let named = !cluster.sync.value.active() || cluster.sync.value.covers(name);
            able && named && matches!(answer, PeerAnswer::Answered(_))
        })
    });
    if own || !other {
        return decision;
    }
    let why = format!("disk full: {}; another member can lead", full.what);
    let pause = observed.config.timing.loop_wait.min(Duration::from_millis(500));
    Decision::wait(Rule::DiskFullBars, why, pause, "another leader").tend(Tend::AskPeers)
}
