//! This node holds the leader key.

use crate::decision::{Act, Decision, StopMode, Tend, Wake};
use crate::follower::{follow, upstream_of_standby_leader};
use crate::observed::{Cluster, Keyed, Observed, RecordView, Request};
use crate::postgres::{ControlData, ControlState, Postgres, Running, Upstream};
use crate::promotion::{NotYet, eligible};
use crate::right::{RightToWrite, WriteBlocked};
use crate::rule::Rule;
use crate::slots;
use crate::sync::{self, SyncInput, SyncStep};
use node_agent_wire::dynamic::SynchronousMode;
use node_agent_wire::federation::{FederationRecord, FenceAck};
use node_agent_wire::{Lsn, MemberName, SystemId, TimelineId};
use std::time::Duration;

/// The pause while something short is under way.
const SOON: Duration = Duration::from_millis(200);

/// Decides for the holder of the leader key.
#[must_use]
pub fn lead(observed: &Observed, cluster: &Cluster) -> Decision {
    match RightToWrite::check(observed) {
        Err(blocked) => lead_read_only(observed, cluster, &blocked),
        Ok(_) if cluster.config.pause => paused(observed),
        Ok(right) => lead_primary(observed, cluster, right),
    }
}

fn paused(observed: &Observed) -> Decision {
    let loop_wait = observed.config.timing.loop_wait;
    Decision::wait(Rule::Paused, "maintenance mode; this node leads", loop_wait, "the end of pause")
        .tend(Tend::PublishLeader)
}

fn lead_read_only(observed: &Observed, cluster: &Cluster, blocked: &WriteBlocked) -> Decision {
    if observed.postgres.may_write() {
        return Decision::wait(
            Rule::FenceDemote,
            blocked.to_string(),
            Duration::ZERO,
            "PostgreSQL to stop",
        )
        .act(Act::Demote { mode: StopMode::Fast, checkpoint: false, release: false });
    }
    if let (WriteBlocked::Superseded { dc, .. }, RecordView::Present(keyed)) =
        (blocked, &cluster.record)
        && let Some(decision) = adopt(observed, keyed, dc, blocked)
    {
        return decision;
    }
    if let Some(ack) = acknowledgement(observed, cluster) {
        return Decision::wait(
            Rule::FenceAcknowledge,
            format!("stopped writing at {} on timeline {}", ack.checkpoint, ack.timeline),
            Duration::ZERO,
            "the record to be written",
        )
        .act(Act::AcknowledgeFence(Box::new(ack)));
    }
    let upstream = upstream_of_standby_leader(cluster);
    if observed.postgres == Postgres::NoData {
        return lead_without_data(observed, &upstream, blocked);
    }
    if unacknowledged(cluster) && !settled_for_ack(&observed.postgres) {
        // Nobody to follow before the acknowledgement: it must tell where this datacenter ended.
        return follow(observed, cluster, &Upstream::Nobody, Rule::ReadOnly);
    }
    let steady = if upstream == Upstream::Nobody { Rule::ReadOnly } else { Rule::StandbyLeader };
    let mut decision = follow(observed, cluster, &upstream, steady);
    decision.tend.push(Tend::PublishLeader);
    if decision.rule == Rule::ReadOnly {
        decision.why = blocked.to_string();
    }
    decision
}

fn lead_without_data(observed: &Observed, upstream: &Upstream, why: &WriteBlocked) -> Decision {
    if *upstream == Upstream::Nobody {
        return Decision::wait(
            Rule::GiveUp,
            format!("no data directory, and nobody to copy: {why}"),
            observed.config.timing.loop_wait,
            "another leader",
        )
        .act(Act::Release);
    }
    if let Some(until) = observed.stand_back_until.filter(|until| observed.now < *until) {
        let left = observed.now.until(until);
        return Decision::wait(Rule::AwaitSource, "the base backup failed lately", left, "a retry");
    }
    Decision::wait(
        Rule::Bootstrap,
        "copying the primary datacenter",
        Duration::ZERO,
        "the base backup",
    )
    .act(Act::Clone(upstream.clone()))
}

/// Takes a later epoch over into this datacenter's own record (I7).
fn adopt(
    observed: &Observed,
    keyed: &Keyed<FederationRecord>,
    dc: &node_agent_wire::DcName,
    blocked: &WriteBlocked,
) -> Option<Decision> {
    let peer = observed.peers.get(dc)?.known()?;
    let by = format!("agent {}", observed.me.name);
    let record = keyed.value.superseded_by(peer, &by, observed.wall_us)?;
    Some(
        Decision::wait(
            Rule::AdoptEpoch,
            blocked.to_string(),
            Duration::ZERO,
            "the record to be written",
        )
        .act(Act::ReplaceRecord { record: Box::new(record), over: keyed.revision }),
    )
}

fn unacknowledged(cluster: &Cluster) -> bool {
    cluster.record.get().and_then(|r| r.fence.as_ref()).is_some_and(|fence| fence.ack.is_none())
}

fn settled_for_ack(postgres: &Postgres) -> bool {
    match postgres {
        Postgres::Running(running) => running.in_recovery,
        Postgres::NoData
        | Postgres::Unreadable(_)
        | Postgres::Stopped(_)
        | Postgres::Starting { .. }
        | Postgres::Unresponsive { .. } => false,
    }
}

/// The final position, once PostgreSQL has stopped writing: the shutdown checkpoint of a clean
/// stop; after a crash, the end of what recovery has replayed.
fn acknowledgement(observed: &Observed, cluster: &Cluster) -> Option<FenceAck> {
    if !unacknowledged(cluster) {
        return None;
    }
    let ack = |checkpoint: Lsn, timeline: TimelineId, system_id: &SystemId| FenceAck {
        node: observed.me.name.clone(),
        checkpoint,
        timeline,
        system_id: system_id.clone(),
        at_us: observed.wall_us,
    };
    match &observed.postgres {
        Postgres::Stopped(ControlData {
            state: ControlState::ShutDown,
            checkpoint,
            timeline,
            system_id,
            ..
        }) => Some(ack(*checkpoint, *timeline, system_id)),
        Postgres::Running(running) if running.in_recovery => {
            let replayed = running.replay_lsn.filter(|replayed| *replayed >= running.lsn)?;
            Some(ack(Lsn(replayed.0.saturating_sub(1)), running.timeline, &running.system_id))
        }
        Postgres::NoData
        | Postgres::Unreadable(_)
        | Postgres::Stopped(_)
        | Postgres::Starting { .. }
        | Postgres::Running(_)
        | Postgres::Unresponsive { .. } => None,
    }
}

fn lead_primary(observed: &Observed, cluster: &Cluster, right: RightToWrite) -> Decision {
    match &observed.postgres {
        Postgres::NoData => begin(observed, cluster, right),
        Postgres::Stopped(control) => start_as_leader(observed, cluster, control, right),
        Postgres::Starting { since, standby, .. } => {
            let timeout = cluster.config.primary_start_timeout;
            if !standby && observed.now.since(*since) > timeout && has_others(observed, cluster) {
                return Decision::wait(
                    Rule::GiveUp,
                    format!("PostgreSQL has been starting for more than {} s", timeout.as_secs()),
                    Duration::ZERO,
                    "PostgreSQL to stop",
                )
                .act(Act::Demote {
                    mode: StopMode::Immediate,
                    checkpoint: false,
                    release: true,
                });
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
        Postgres::Running(running) if running.in_recovery => promote(observed),
        Postgres::Running(running) => hold(observed, cluster, running),
    }
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
        return Decision::wait(
            Rule::GiveUp,
            "PostgreSQL does not start here",
            observed.config.timing.loop_wait,
            "another leader",
        )
        .act(Act::Release);
    }
    if !control.was_primary() {
        return follow(observed, cluster, &Upstream::Nobody, Rule::StartStandby);
    }
    Decision::wait(
        Rule::StartPrimary,
        "this node leads and PostgreSQL is not running",
        Duration::ZERO,
        "PostgreSQL to accept connections",
    )
    .act(Act::StartPrimary(right))
}

fn has_others(observed: &Observed, cluster: &Cluster) -> bool {
    cluster.members.keys().any(|name| *name != observed.me.name)
}

fn promote(observed: &Observed) -> Decision {
    let soon = |rule: Rule, why: String| Decision::wait(rule, why, SOON, "the next step");
    match eligible(observed) {
        Ok(proof) => Decision::wait(
            Rule::Promote,
            match proof.epoch() {
                Some(epoch) => format!("leader at epoch {epoch}"),
                None => "leader".to_owned(),
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
        Err(NotYet::Blocked(blocked)) => soon(Rule::ReadOnly, blocked.to_string()),
        Err(NotYet::NoLease) => soon(Rule::AwaitStart, "the lease is not held".into()),
        Err(NotYet::NotAStandby) => soon(Rule::AwaitStart, "PostgreSQL is not ready".into()),
    }
}

fn hold(observed: &Observed, cluster: &Cluster, running: &Running) -> Decision {
    if !cluster.failover.value.is_empty() {
        return switchover(observed, cluster, running);
    }
    let mut decision = Decision::wait(
        Rule::Hold,
        format!("primary on timeline {}", running.timeline),
        observed.config.timing.loop_wait,
        "a change in the DCS",
    )
    .tend(Tend::PublishLeader);
    if observed.request == Some(Request::Restart) {
        decision.rule = Rule::Restart;
        decision.why = "an operator asked for a restart".to_owned();
        return decision.act(Act::Restart);
    }
    match sync_step(observed, cluster, running) {
        Some(step) => {
            decision.tend.push(step);
            decision.wake = Wake::next();
        }
        None => decision.tend.push(Tend::ApplySettings),
    }
    decision.tend.extend(slots::changes(observed, cluster, running).into_iter().map(Tend::Slot));
    decision
}

impl Wake {
    /// The next step of a sequence: at once.
    fn next() -> Self {
        Self { after: Duration::from_millis(20), reason: "the next step" }
    }
}

fn sync_step(observed: &Observed, cluster: &Cluster, running: &Running) -> Option<Tend> {
    let state = &cluster.sync;
    if cluster.config.effective_sync_mode() == SynchronousMode::Off {
        // First the promise is withdrawn, then PostgreSQL stops waiting.
        if state.value.active() {
            return Some(Tend::DeleteSync(state.revision));
        }
        return (observed.sync_names_set_at.is_some() && !running.sync_names.is_empty())
            .then(|| Tend::SetSyncNames(String::new()));
    }
    let candidates = sync_candidates(cluster, running);
    let input = SyncInput {
        me: &observed.me.name,
        candidates: &candidates,
        count: usize::try_from(cluster.config.synchronous_node_count.max(1)).unwrap_or(1),
        strict: cluster.config.synchronous_mode_strict,
        sync: &state.value,
        running,
        names_set_at: observed.sync_names_set_at,
    };
    match sync::step(&input) {
        SyncStep::Write(sync) => Some(Tend::WriteSync { sync, over: state.revision }),
        SyncStep::Names(names) => Some(Tend::SetSyncNames(names)),
        SyncStep::Settled if observed.sync_names_set_at.is_none() => {
            // After a restart of the agent: learn where the names in force apply from.
            Some(Tend::SetSyncNames(running.sync_names.clone()))
        }
        SyncStep::Settled => None,
    }
}

/// Members that stream to this primary and may be synchronous, the most advanced first.
fn sync_candidates(cluster: &Cluster, running: &Running) -> Vec<MemberName> {
    let mut streaming: Vec<(Lsn, MemberName)> = running
        .senders
        .iter()
        .filter(|s| s.state == "streaming")
        .filter_map(|s| {
            let member = cluster
                .members
                .values()
                .find(|m| m.name.as_str().eq_ignore_ascii_case(&s.application_name))?;
            let barred = member.tag("nosync") || member.tag("nofailover");
            (!barred).then(|| (s.flush_lsn.unwrap_or_default(), member.name.clone()))
        })
        .collect();
    streaming.sort_by(|a, b| b.0.cmp(&a.0).then_with(|| a.1.cmp(&b.1)));
    streaming.into_iter().map(|(_, name)| name).collect()
}

fn switchover(observed: &Observed, cluster: &Cluster, running: &Running) -> Decision {
    let request = &cluster.failover.value;
    let refuse = |why: String| {
        Decision::wait(Rule::SwitchoverRefused, why.clone(), SOON, "the request to be cleared")
            .tend(Tend::ClearFailover { over: cluster.failover.revision, why })
            .tend(Tend::PublishLeader)
    };
    if let Some(leader) = request.leader.as_ref().filter(|l| **l != observed.me.name) {
        return refuse(format!(
            "the switchover names {leader} as leader, the leader is {}",
            observed.me.name
        ));
    }
    if request.member.as_ref() == Some(&observed.me.name) {
        return refuse("the switchover's candidate leads already".into());
    }
    if request.scheduled_at.is_some() {
        return refuse("scheduled switchovers are not carried out by this version".into());
    }
    let ready = ready_candidates(cluster, running, request.leader.is_some());
    let named = request.member.as_ref();
    if named.is_some_and(|n| !ready.contains(n)) || ready.is_empty() {
        let who = named.map_or("no member", MemberName::as_str);
        return refuse(format!(
            "{who} is not ready to take over: not streaming, or not synchronous"
        ));
    }
    let to = named.map_or_else(|| "the best standby".to_owned(), ToString::to_string);
    Decision::wait(Rule::Switchover, format!("switchover to {to}"), Duration::ZERO, "the shutdown")
        .act(Act::Demote { mode: StopMode::Fast, checkpoint: true, release: true })
}

fn ready_candidates(cluster: &Cluster, running: &Running, planned: bool) -> Vec<MemberName> {
    let sync = &cluster.sync.value;
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
        .filter(|m| !m.tag("nofailover"))
        .filter(|m| !planned || !sync.active() || sync.covers(&m.name))
        .map(|m| m.name.clone())
        .collect()
}
