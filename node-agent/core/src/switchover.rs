//! A switchover that an operator asks for by the `failover` key, as the leader carries it out.

use crate::decision::{Act, Decision, SOON, Tend};
use crate::demotion::DemotionMode;
use crate::observed::{Cluster, Observed};
use crate::postgres::{Postgres, Running};
use crate::rule::Rule;
use node_agent_wire::MemberName;
use std::time::Duration;

/// In maintenance mode a running node carries out a switchover that an operator asks for.
pub(crate) fn asked_in_pause(observed: &Observed, cluster: &Cluster) -> bool {
    let failover = &cluster.failover.value;
    // What is planned for later is held until the end of maintenance.
    if failover.scheduled_at.is_some() {
        return false;
    }
    match &observed.postgres {
        Postgres::Running(running) if running.in_recovery => {
            failover.member.as_ref() == Some(&observed.me.name)
        }
        Postgres::Running(_) => !failover.is_empty(),
        Postgres::NoData
        | Postgres::Unreadable(_)
        | Postgres::Stopped(_)
        | Postgres::Starting { .. }
        | Postgres::Unresponsive { .. } => false,
    }
}

/// Begins it, or clears the request with the reason.
pub(crate) fn switchover(observed: &Observed, cluster: &Cluster, running: &Running) -> Decision {
    answer(observed, cluster, running, Rule::Hold, |why| {
        Decision::wait(Rule::Switchover, why, Duration::ZERO, "the shutdown")
            .act(Act::Demote(DemotionMode::Graceful))
    })
}

/// The same for the leader of a standby cluster. Nothing is written here, so nothing has to be
/// stopped: the key changes hands, and this node follows the next leader.
pub(crate) fn hand_over(observed: &Observed, cluster: &Cluster, running: &Running) -> Decision {
    answer(observed, cluster, running, Rule::StandbyLeader, |why| {
        Decision::wait(Rule::StandbySwitchover, why, Duration::ZERO, "another leader")
            .act(Act::Release)
    })
}

/// Begins it with what it is, in words; or clears the request. `steady` is the rule of a leader
/// that has nothing else to do.
fn answer(
    observed: &Observed,
    cluster: &Cluster,
    running: &Running,
    steady: Rule,
    begin: fn(String) -> Decision,
) -> Decision {
    let request = &cluster.failover.value;
    let refuse = |why: String| refuse(cluster, why);
    if request.leader.as_ref().is_some_and(|l| *l != observed.me.name)
        && request.member.as_ref().is_none_or(|m| *m == observed.me.name)
    {
        let why = format!("the switchover to {} is done", observed.me.name);
        return Decision::wait(steady, why.clone(), SOON, "the request to be cleared")
            .tend(Tend::ClearFailover { over: cluster.failover.revision, why })
            .tend(Tend::PublishLeader);
    }
    if let Some(leader) = request.leader.as_ref().filter(|l| **l != observed.me.name) {
        return refuse(format!(
            "the switchover names {leader} as leader, the leader is {}",
            observed.me.name
        ));
    }
    if request.member.as_ref() == Some(&observed.me.name) {
        return refuse("the switchover's candidate leads already".into());
    }
    if cluster.config.pause && request.member.is_none() {
        return refuse("in maintenance mode a switchover needs a named candidate".into());
    }
    let ready = ready_candidates(cluster, running);
    let named = request.member.as_ref();
    if named.is_some_and(|n| !ready.contains(n)) || ready.is_empty() {
        let who = named.map_or("no member", MemberName::as_str);
        return refuse(format!(
            "{who} is not ready to take over: not streaming, or not synchronous"
        ));
    }
    let to = named.map_or_else(|| "the best standby".to_owned(), ToString::to_string);
    begin(format!("switchover to {to}"))
}

/// Clears the request, with the reason.
pub(crate) fn refuse(cluster: &Cluster, why: String) -> Decision {
    Decision::wait(Rule::SwitchoverRefused, why.clone(), SOON, "the request to be cleared")
        .tend(Tend::ClearFailover { over: cluster.failover.revision, why })
        .tend(Tend::PublishLeader)
}

/// Members that could be elected at once: in synchronous mode only synchronous ones (the election
/// takes no other), whether a switchover or a failover is asked for; and in quorum mode only while
/// there are the votes for one of them.
fn ready_candidates(cluster: &Cluster, running: &Running) -> Vec<MemberName> {
    let sync = &cluster.sync.value;
    let streams = |name: &MemberName| {
        running.senders.iter().any(|s| {
            s.state == "streaming" && s.application_name.eq_ignore_ascii_case(name.as_str())
        })
    };
    let voters = sync.sync_standby.iter().filter(|name| streams(name)).count();
    if sync.active() && voters <= usize::try_from(sync.quorum).unwrap_or(usize::MAX) {
        return Vec::new();
    }
    running
        .senders
        .iter()
        .filter(|s| s.state == "streaming")
        .filter_map(|s| {
            cluster
                .members
                .values()
                .find(|m| m.name.as_str().eq_ignore_ascii_case(&s.application_name))
        })
        .filter(|m| !m.nofailover())
        .filter(|m| !sync.active() || sync.covers(&m.name))
        .map(|m| m.name.clone())
        .collect()
}
