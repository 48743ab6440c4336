//! This node holds the leader key.

use crate::decision::{Act, Decision, SOON, StopMode, Tend, Wake};
use crate::follower::{follow, upstream_of_standby_leader};
use crate::observed::{Cluster, Keyed, Observed, RecordView, Request};
use crate::postgres::{ControlData, ControlState, Postgres, Running, Upstream};
use crate::promotion::{NotYet, eligible};
use crate::right::{RightToWrite, WriteBlocked};
use crate::rule::Rule;
use crate::slots;
use crate::switchover::{asked_in_pause, switchover};
use crate::sync::{self, SyncInput, SyncStep};
use node_agent_wire::dynamic::SynchronousMode;
use node_agent_wire::federation::{FederationRecord, Fence, FenceAck};
use node_agent_wire::{Lsn, MemberName, SystemId, TimelineId};
use std::time::Duration;

/// Decides for the holder of the leader key.
#[must_use]
pub fn lead(observed: &Observed, cluster: &Cluster) -> Decision {
    match RightToWrite::check(observed) {
        Err(blocked) => lead_read_only(observed, cluster, &blocked),
        Ok(_) if cluster.config.pause && !asked_in_pause(observed, cluster) => {
            paused(observed, cluster)
        }
        Ok(right) => lead_primary(observed, cluster, right),
    }
}

fn paused(observed: &Observed, cluster: &Cluster) -> Decision {
    let loop_wait = observed.config.timing.loop_wait;
    let why = "maintenance mode; this node leads";
    let mut decision =
        Decision::wait(Rule::Paused, why, loop_wait, "the end of pause").tend(Tend::PublishLeader);
    if let Postgres::Running(running) = &observed.postgres {
        if observed.request == Some(Request::Restart) {
            return restart();
        }
        // Commits must not hang on a standby that has left.
        if !running.in_recovery
            && let Some(step) = sync_step(observed, cluster, running)
        {
            decision.tend.push(step);
            decision.wake = Wake::next();
        }
        let slots = slots::changes(observed, cluster, running);
        decision.tend.extend(slots.into_iter().map(Tend::Slot));
    }
    decision
}

fn restart() -> Decision {
    let why = "an operator asked for a restart";
    Decision::wait(Rule::Restart, why, Duration::ZERO, "the restart").act(Act::Restart)
}

/// The datacenter has no right to write, and PostgreSQL may be writing.
pub(crate) fn stop_writing(blocked: &WriteBlocked) -> Decision {
    Decision::wait(Rule::FenceDemote, blocked.to_string(), Duration::ZERO, "PostgreSQL to stop")
        .act(Act::Demote { mode: StopMode::Fast, checkpoint: false, release: false })
}

fn lead_read_only(observed: &Observed, cluster: &Cluster, blocked: &WriteBlocked) -> Decision {
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
    let upstream = upstream_of_standby_leader(cluster);
    if observed.postgres == Postgres::NoData {
        return lead_without_data(observed, &upstream, blocked);
    }
    if let Postgres::Stopped(_) = &observed.postgres
        && observed.start_failures > 0
        && has_others(observed, cluster)
    {
        return does_not_start(observed);
    }
    if unacknowledged(cluster) && !settled_for_ack(&observed.postgres) {
        // Nobody to follow before the acknowledgement: it must tell where this datacenter ended.
        return follow(observed, cluster, &Upstream::Nobody, Rule::ReadOnly);
    }
    let steady = if upstream == Upstream::Nobody { Rule::ReadOnly } else { Rule::StandbyLeader };
    let mut decision = follow(observed, cluster, &upstream, steady);
    decision.tend.extend(leftovers(cluster, blocked));
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
fn leftovers(cluster: &Cluster, blocked: &WriteBlocked) -> Vec<Tend> {
    let mut tend = Vec::new();
    if !cluster.failover.value.is_empty() {
        let over = cluster.failover.revision;
        let why = format!("switchovers are for the primary's datacenter only: {blocked}");
        tend.push(Tend::ClearFailover { over, why });
    }
    // Another datacenter holds what was acknowledged: the old list only keeps nodes from leading.
    if matches!(blocked, WriteBlocked::NamesAnother { .. }) && cluster.sync.value.active() {
        tend.push(Tend::DeleteSync(cluster.sync.revision));
    }
    tend
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
        | WriteBlocked::NamesAnother { .. }
        | WriteBlocked::HandEdited { .. }
        | WriteBlocked::StandbyCluster
        | WriteBlocked::PeersNotAsked(_)
        | WriteBlocked::ColdStart { .. }
        | WriteBlocked::NoGrants => return None,
    };
    let wait =
        Decision::wait(rule, blocked.to_string(), Duration::ZERO, "the record to be written");
    Some(wait.tend(Tend::ReplaceRecord { record: Box::new(record), over: keyed.revision }))
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

fn lead_primary(observed: &Observed, cluster: &Cluster, right: RightToWrite) -> Decision {
    match &observed.postgres {
        Postgres::NoData => begin(observed, cluster, right),
        Postgres::Stopped(control) => start_as_leader(observed, cluster, control, right),
        Postgres::Starting { since, standby, .. } => {
            let timeout = cluster.config.primary_start_timeout;
            if observed.now.since(*since) > timeout && has_others(observed, cluster) {
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
        Postgres::Running(running) if running.in_recovery => promote(observed),
        Postgres::Running(running) => hold(observed, cluster, running),
    }
}

fn give_up_start(timeout: Duration, standby: bool) -> Decision {
    let why = format!("PostgreSQL has been starting for more than {} s", timeout.as_secs());
    let wait = Decision::wait(Rule::GiveUp, why, Duration::ZERO, "another leader");
    if standby {
        return wait.act(Act::Release);
    }
    wait.act(Act::Demote { mode: StopMode::Immediate, checkpoint: false, release: true })
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

fn does_not_start(observed: &Observed) -> Decision {
    let (why, loop_wait) = ("PostgreSQL does not start here", observed.config.timing.loop_wait);
    Decision::wait(Rule::GiveUp, why, loop_wait, "another leader").act(Act::Release)
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
        return restart().tend(Tend::PublishLeader);
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
        return (observed.sync_names_ours && !running.sync_names.is_empty())
            .then(|| Tend::SetSyncNames(String::new()));
    }
    let candidates = sync_candidates(observed, cluster, running);
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

/// A standby is waited for by PostgreSQL and has not caught up yet: `/sync` is to name it soon.
fn awaits_sync(observed: &Observed, cluster: &Cluster, running: &Running) -> bool {
    let wanted = usize::try_from(cluster.config.synchronous_node_count.max(1)).unwrap_or(1);
    let possible = sync_candidates(observed, cluster, running).len().min(wanted);
    cluster.config.effective_sync_mode() != SynchronousMode::Off
        && cluster.sync.value.sync_standby.len() < possible
}

/// Members that stream to this primary and may be synchronous, the most advanced first.
///
/// A member joins once it has flushed WAL of the present timeline: right after a promotion its
/// sender still shows the old one, and commits would wait until it has switched.
fn sync_candidates(observed: &Observed, cluster: &Cluster, running: &Running) -> Vec<MemberName> {
    let history = observed.own_history.as_ref().filter(|h| h.timeline == running.timeline);
    let began = history.map(|h| h.ancestors.last().map(|a| a.ended_at));
    let mut streaming: Vec<(Lsn, MemberName)> = running
        .senders
        .iter()
        .filter(|s| s.state == "streaming")
        .filter_map(|s| {
            let member = cluster
                .members
                .values()
                .find(|m| m.name.as_str().eq_ignore_ascii_case(&s.application_name))?;
            let barred = member.nosync() || member.nofailover();
            let joined = cluster.sync.value.covers(&member.name);
            let ready = joined || began.is_some_and(|began| s.flush_lsn > began);
            (ready && !barred).then(|| (s.flush_lsn.unwrap_or_default(), member.name.clone()))
        })
        .collect();
    streaming.sort_by(|a, b| b.0.cmp(&a.0).then_with(|| a.1.cmp(&b.1)));
    streaming.into_iter().map(|(_, name)| name).collect()
}
