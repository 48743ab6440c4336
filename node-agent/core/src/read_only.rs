//! This node holds the leader key of a datacenter that has no right to write.

use crate::abroad;
use crate::decision::{Act, Decision, SOON, Tend};
use crate::demotion::DemotionMode;
use crate::follower::follow;
use crate::leader::{does_not_start, has_others, restart};
use crate::observed::{Cluster, Keyed, Observed, RecordView, Request};
use crate::postgres::{ControlData, ControlState, Postgres, Upstream};
use crate::right::WriteBlocked;
use crate::rule::Rule;
use crate::schedule::{self, When};
use crate::source;
use crate::switchover::{hand_over, refuse};
use node_agent_wire::federation::{FederationRecord, Fence, FenceAck};
use node_agent_wire::{Lsn, SystemId, TimelineId};
use std::time::Duration;

/// The datacenter has no right to write, and PostgreSQL may be writing.
pub(crate) fn stop_writing(blocked: &WriteBlocked) -> Decision {
    let mode = match blocked {
        WriteBlocked::StandbyCluster => DemotionMode::DemoteCluster,
        WriteBlocked::DcsUnknown
        | WriteBlocked::RecordUnreadable(_)
        | WriteBlocked::Fenced { .. }
        | WriteBlocked::NamesAnother { .. }
        | WriteBlocked::HandEdited { .. }
        | WriteBlocked::Superseded { .. }
        | WriteBlocked::Conflict { .. }
        | WriteBlocked::PeersNotAsked(_)
        | WriteBlocked::ColdStart { .. }
        | WriteBlocked::NoGrants { .. } => DemotionMode::Fence,
    };
    Decision::wait(Rule::FenceDemote, blocked.to_string(), Duration::ZERO, "PostgreSQL to stop")
        .act(Act::Demote(mode))
}

pub(crate) fn lead_read_only(
    observed: &Observed,
    cluster: &Cluster,
    blocked: &WriteBlocked,
) -> Decision {
    let adoption = match &cluster.record {
        RecordView::Present(keyed) => adopt(observed, keyed, blocked),
        RecordView::Absent | RecordView::Unreadable(_) => None,
    };
    if observed.postgres.may_write() {
        // What was learnt is written down in the same pass: this agent may not live to the next.
        let mut stop = stop_writing(blocked);
        stop.tend.extend(adoption.into_iter().flat_map(|a| a.tend));
        return stop;
    }
    if let Some(adoption) = adoption {
        return adoption;
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
    if let Postgres::Running(_) = &observed.postgres
        && observed.request == Some(Request::Restart)
    {
        return restart();
    }
    let upstream = source::of_standby_leader(cluster);
    if observed.postgres == Postgres::NoData {
        return lead_without_data(observed, cluster, &upstream, blocked);
    }
    if let Postgres::Stopped(_) = &observed.postgres
        && observed.start_failures > 0
        && has_others(observed, cluster)
    {
        return does_not_start(observed);
    }
    if unacknowledged(cluster) && !observed.postgres.is_standby() {
        // Nobody to follow before the acknowledgement: it must tell where this datacenter ended.
        return follow(observed, cluster, &Upstream::Nobody, Rule::ReadOnly);
    }
    let steady = if upstream == Upstream::Nobody { Rule::ReadOnly } else { Rule::StandbyLeader };
    let mut planned = None;
    if let Postgres::Running(running) = &observed.postgres
        && !cluster.failover.value.is_empty()
        && follows_by_right(cluster, blocked)
    {
        match schedule::switchover(&cluster.failover.value, observed) {
            When::Now => return hand_over(observed, cluster, running),
            When::Never(why) => return refuse(cluster, why),
            When::In(left) => planned = Some(left),
        }
    }
    let mut decision = follow(observed, cluster, &upstream, steady);
    decision.tend.extend(leftovers(cluster, blocked, decision.rule));
    decision.tend.extend(abroad::tend(observed, cluster, blocked));
    decision.wake.after = planned.unwrap_or(Duration::MAX).min(decision.wake.after);
    decision.tend.push(Tend::PublishLeader);
    if decision.rule == Rule::ReadOnly {
        decision.why = blocked.to_string();
    }
    if unacknowledged(cluster) && cluster.record.get().is_some_and(FederationRecord::names_us) {
        if let (Some(end), Postgres::Running(_)) = (published_end(cluster), &observed.postgres) {
            decision.why = format!("{blocked}; to be acknowledged when {end} is replayed here");
        }
        decision.wake.after = decision.wake.after.min(SOON);
    }
    decision
}

/// What an earlier life as primary left in the DCS and a datacenter without the right to write
/// has no use for.
fn leftovers(cluster: &Cluster, blocked: &WriteBlocked, rule: Rule) -> Vec<Tend> {
    let mut tend = Vec::new();
    if !cluster.failover.value.is_empty() && !follows_by_right(cluster, blocked) {
        let over = cluster.failover.revision;
        let why = format!("no switchover here now: {blocked}");
        tend.push(Tend::ClearFailover { over, why });
    }
    // Another cluster holds what was acknowledged: the old list only keeps nodes from leading. By
    // the configuration alone that is known once this node replicates from it.
    let elsewhere = match blocked {
        WriteBlocked::NamesAnother { .. } => true,
        WriteBlocked::StandbyCluster => {
            cluster.record == RecordView::Absent && rule == Rule::StandbyLeader
        }
        WriteBlocked::DcsUnknown
        | WriteBlocked::RecordUnreadable(_)
        | WriteBlocked::Fenced { .. }
        | WriteBlocked::HandEdited { .. }
        | WriteBlocked::Superseded { .. }
        | WriteBlocked::Conflict { .. }
        | WriteBlocked::PeersNotAsked(_)
        | WriteBlocked::ColdStart { .. }
        | WriteBlocked::NoGrants { .. } => false,
    };
    if elsewhere && cluster.sync.value.active() {
        tend.push(Tend::DeleteSync(cluster.sync.revision));
    }
    tend
}

/// A standby cluster as it should be: nothing but its place keeps it from writing, and no operation
/// of the federation is under way that counts on its leader.
fn follows_by_right(cluster: &Cluster, blocked: &WriteBlocked) -> bool {
    let quiet = cluster.record.get().is_none_or(|record| record.operation.is_none());
    let place = match blocked {
        WriteBlocked::NamesAnother { .. } => true,
        WriteBlocked::StandbyCluster => cluster.record == RecordView::Absent,
        WriteBlocked::DcsUnknown
        | WriteBlocked::RecordUnreadable(_)
        | WriteBlocked::Fenced { .. }
        | WriteBlocked::HandEdited { .. }
        | WriteBlocked::Superseded { .. }
        | WriteBlocked::Conflict { .. }
        | WriteBlocked::PeersNotAsked(_)
        | WriteBlocked::ColdStart { .. }
        | WriteBlocked::NoGrants { .. } => false,
    };
    place && quiet
}

fn lead_without_data(
    observed: &Observed,
    cluster: &Cluster,
    upstream: &Upstream,
    why: &WriteBlocked,
) -> Decision {
    let methods = source::standby_methods(upstream, cluster.config.standby_cluster.as_ref());
    let nothing = *upstream == (Upstream::Archive { of: None }) && methods.is_none();
    if *upstream == Upstream::Nobody || nothing {
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

/// Writes what another datacenter's record says into this datacenter's own, so that it outlives
/// the link and this agent: a later epoch is taken over (I7), a claim on the same epoch is fenced.
fn adopt(
    observed: &Observed,
    keyed: &Keyed<FederationRecord>,
    blocked: &WriteBlocked,
) -> Option<Decision> {
    let by = format!("agent {}", observed.me.name);
    let (rule, record) = match blocked {
        WriteBlocked::Superseded { dc, .. } => {
            let peer = observed.peers.get(dc)?.known()?;
            (Rule::AdoptEpoch, keyed.value.superseded_by(peer, &by, observed.wall_us)?)
        }
        WriteBlocked::NamesAnother { .. } | WriteBlocked::HandEdited { .. } => {
            let (_, peer) = abroad::later_epoch(observed, &keyed.value)?;
            (Rule::AdoptEpoch, keyed.value.superseded_by(peer, &by, observed.wall_us)?)
        }
        WriteBlocked::Conflict { epoch, .. } => {
            let fence = Fence {
                epoch: epoch.next(),
                operation: None,
                reason: blocked.to_string(),
                by,
                at_us: observed.wall_us,
                ack: None,
            };
            let record = FederationRecord { fence: Some(fence), ..keyed.value.clone() };
            (Rule::FenceConflict, record)
        }
        WriteBlocked::DcsUnknown
        | WriteBlocked::RecordUnreadable(_)
        | WriteBlocked::Fenced { .. }
        | WriteBlocked::StandbyCluster
        | WriteBlocked::PeersNotAsked(_)
        | WriteBlocked::ColdStart { .. }
        | WriteBlocked::NoGrants { .. } => return None,
    };
    let why = if keyed.value.names_us() {
        blocked.to_string()
    } else {
        format!("{} is primary since epoch {}", record.primary, record.epoch)
    };
    let wait = Decision::wait(rule, why, Duration::ZERO, "the record to be written");
    Some(wait.tend(Tend::ReplaceRecord { record: Box::new(record), over: keyed.revision }))
}

fn unacknowledged(cluster: &Cluster) -> bool {
    cluster.record.get().and_then(|r| r.fence.as_ref()).is_some_and(|fence| fence.ack.is_none())
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
            // A standby answers as soon as it is consistent, which may be before the end of its
            // WAL; and another node than the last leader may never have had all of it. What was
            // published as written before the stop must be there (I3).
            let names_us = cluster.record.get().is_some_and(FederationRecord::names_us);
            if names_us && published_end(cluster).is_some_and(|written| replayed < written) {
                return None;
            }
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

/// The furthest end of WAL that a leader of this datacenter published.
fn published_end(cluster: &Cluster) -> Option<Lsn> {
    cluster.status.optime.max(cluster.position.as_ref().and_then(|p| p.lsn))
}
