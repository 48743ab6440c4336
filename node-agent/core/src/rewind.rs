//! What becomes of a data directory that its source's history may not contain: followed, rewound,
//! copied anew, or left alone. Nothing is discarded here without a report first (I8).

use crate::decision::{Act, Decision, Reinit, Tend};
use crate::divergence::{OwnEnd, Verdict, own_end, verdict};
use crate::follower::{due, name_of, streams_from};
use crate::observed::{Cluster, Observed, RecordView};
use crate::postgres::{ControlData, Postgres, Upstream};
use crate::rule::Rule;
use crate::source::{self, data_of};
use node_agent_wire::federation::OperationKind;
use node_agent_wire::{Lsn, TimelineId};
use std::time::Duration;

/// What comparing the histories says.
pub(crate) enum Judgement {
    /// The local WAL is part of the source's history.
    Follow,
    /// It is not, or what comes next is gone there: this is what to do.
    Diverged(Decision),
    /// The source was asked and did not answer.
    Silent(String),
    /// The source must be asked first.
    Ask(String),
}

/// Compares the local history with the one of `upstream`.
pub(crate) fn judge(observed: &Observed, cluster: &Cluster, upstream: &Upstream) -> Judgement {
    if *upstream == (Upstream::Archive { of: None }) {
        // There is nobody to ask; PostgreSQL itself takes no timeline that is no child of its own.
        return Judgement::Follow;
    }
    let Some(source) = observed.history_of(upstream) else {
        let whom = name_of(&data_of(upstream));
        return Judgement::Ask(format!("asking {whom} for its history"));
    };
    let history = match &source.answer {
        Ok(history) => history,
        Err(why) => {
            let name = name_of(&data_of(upstream));
            return Judgement::Silent(format!("the history of {name} is not known: {why}"));
        }
    };
    let (Some(own), Some(verdict)) = (end_of_own_wal(observed), verdict(observed, source)) else {
        return Judgement::Ask("the local history is not known yet".into());
    };
    if own.timeline > history.timeline
        && (due(observed, upstream) || streams_from(observed, upstream))
    {
        // The source has moved on since it was asked, or the local timeline is foreign to it. What
        // it streams itself is not foreign to it.
        return Judgement::Ask(format!("{} may be on a later timeline now", name_of(upstream)));
    }
    match verdict {
        Verdict::InHistory if source.has_dropped_after(own) && starves(observed) => {
            out_of_wal(observed, cluster, own, upstream)
        }
        Verdict::InHistory => Judgement::Follow,
        Verdict::Diverged { .. } | Verdict::BegunTwice { .. }
            if in_the_middle(cluster, upstream) =>
        {
            Judgement::Silent(format!(
                "the history of {} is not this node's; it may be behind the leader",
                name_of(upstream)
            ))
        }
        Verdict::Diverged { timeline, fork } => {
            let left = Left { upstream, source: history.timeline, timeline, fork, twice: None };
            Judgement::Diverged(settle(observed, cluster, own, &left))
        }
        Verdict::BegunTwice { timeline, parent, fork } => {
            let twice = Some(timeline);
            let left = Left { upstream, source: history.timeline, timeline: parent, fork, twice };
            Judgement::Diverged(settle(observed, cluster, own, &left))
        }
        Verdict::Unproven { timeline } => Judgement::Silent(format!(
            "nobody can tell whether timeline {timeline} is the same one here and in {}: its \
             beginning is known on one side at most, and the WAL does not show it; to give up \
             what is here, reinitialize this member (patronictl reinit)",
            name_of(upstream)
        )),
        Verdict::CanNotTell => Judgement::Silent(format!(
            "this node crashed as primary and {} is still on timeline {}",
            name_of(upstream),
            history.timeline
        )),
    }
}

/// A standby that has read all WAL that it has, gets none by a stream, and has no archive.
pub(crate) fn starves(observed: &Observed) -> bool {
    match &observed.postgres {
        Postgres::Running(running) => {
            let streams = running.receiver.as_ref().is_some_and(|r| r.status == "streaming");
            running.in_recovery && running.wal_read && !streams && !running.restores
        }
        Postgres::NoData
        | Postgres::Unreadable(_)
        | Postgres::Stopped(_)
        | Postgres::Starting { .. }
        | Postgres::Unresponsive { .. } => false,
    }
}

/// The source has removed what comes next. Nothing that only this node has is lost by a new copy,
/// but the copy may be large: it is for an operator to begin, by a rejoin.
fn out_of_wal(
    observed: &Observed,
    cluster: &Cluster,
    own: OwnEnd,
    upstream: &Upstream,
) -> Judgement {
    if !given_up(cluster) || cluster.config.pause || in_the_middle(cluster, upstream) {
        return Judgement::Follow;
    }
    let why = format!("{} has no more WAL from {} on", name_of(upstream), own.lsn);
    Judgement::Diverged(copy_again(observed, cluster, upstream, None, why))
}

/// A member between this node and the leader: it says nothing of what the cluster's history is.
fn in_the_middle(cluster: &Cluster, upstream: &Upstream) -> bool {
    match upstream {
        Upstream::Member { name, .. } => {
            cluster.leader.as_ref().is_some_and(|leader| leader != name)
        }
        Upstream::Remote { .. } | Upstream::Archive { .. } | Upstream::Nobody => false,
    }
}

/// Where the local WAL ends: by the control file, or by the WAL itself where that was read.
#[must_use]
pub fn end_of_own_wal(observed: &Observed) -> Option<OwnEnd> {
    let end = own_end(&observed.postgres)?;
    if end.exact {
        return Some(end);
    }
    let (Some(control), Some(read)) = (stopped(observed), &observed.directory.wal_end) else {
        return Some(end);
    };
    let same = read.checkpoint == control.checkpoint && read.timeline == end.timeline;
    match read.last_record {
        // Records of a shared timeline are the same on both sides, so the last one is within the
        // source's history when it begins there.
        Ok(last) if same => Some(OwnEnd { lsn: Lsn(last.0.saturating_add(1)), exact: true, ..end }),
        Ok(_) | Err(_) => Some(end),
    }
}

fn stopped(observed: &Observed) -> Option<&ControlData> {
    match &observed.postgres {
        Postgres::Stopped(control) => Some(control),
        Postgres::NoData
        | Postgres::Unreadable(_)
        | Postgres::Starting { .. }
        | Postgres::Running(_)
        | Postgres::Unresponsive { .. } => None,
    }
}

/// Where the local WAL left the source's history.
struct Left<'a> {
    upstream: &'a Upstream,
    source: TimelineId,
    timeline: TimelineId,
    fork: Lsn,
    /// The timeline that both began at the fork.
    twice: Option<TimelineId>,
}

/// Why pg_rewind is not the way to the history of a source on the timeline `source`. `twice`: a
/// timeline was begun by both.
pub(crate) fn obstacle(
    observed: &Observed,
    source: TimelineId,
    twice: bool,
) -> Option<&'static str> {
    let rewindable = match &observed.postgres {
        Postgres::Stopped(control) | Postgres::Starting { control, .. } => control.rewindable,
        Postgres::Running(_) => true,
        Postgres::NoData | Postgres::Unreadable(_) | Postgres::Unresponsive { .. } => false,
    };
    if !observed.config.use_pg_rewind {
        return Some("use_pg_rewind is off");
    }
    if !rewindable {
        return Some("pg_rewind needs data checksums or wal_log_hints");
    }
    // It compares the numbers first, and then the positions (PostgreSQL source, `pg_rewind.c`).
    let own = observed.own_history.as_ref().map(|history| history.timeline);
    (twice || own == Some(source))
        .then_some("pg_rewind takes timelines of one number for the same one")
}

/// An operator has given up what only this datacenter has: `federator rejoin` says for each node
/// what it will lose, and asks. That lasts as long as its operation.
fn given_up(cluster: &Cluster) -> bool {
    let RecordView::Present(keyed) = &cluster.record else { return false };
    let rejoin = |kind: OperationKind| kind == OperationKind::Rejoin;
    let record = &keyed.value;
    record.operation.as_ref().is_some_and(|o| rejoin(o.kind) && o.to == record.dc)
}

fn settle(observed: &Observed, cluster: &Cluster, own: OwnEnd, left: &Left<'_>) -> Decision {
    let why = format!(
        "local WAL left the history of {} (timeline {}) at {} on timeline {}",
        name_of(left.upstream),
        left.source,
        left.fork,
        left.timeline
    );
    let why = match left.twice {
        Some(timeline) => format!("{why}: both began timeline {timeline} there"),
        None => why,
    };
    let lost = Some((left.timeline, left.fork));
    if let Some(obstacle) = obstacle(observed, left.source, left.twice.is_some()) {
        if let Some(read) = read_wal_first(observed, own) {
            return read;
        }
        return without_rewind(observed, cluster, left, &format!("{why}; {obstacle}"));
    }
    let allowed = removal_allowed(observed) || given_up(cluster);
    if observed.directory.rewind_failed && allowed {
        let why = format!("{why}; pg_rewind failed");
        return copy_again(observed, cluster, left.upstream, lost, why);
    }
    if let Some(until) = observed.stand_back_until.filter(|until| observed.now < *until) {
        let failed = observed.directory.work_failed.as_deref().unwrap_or("pg_rewind failed lately");
        return Decision::wait(
            Rule::AwaitSource,
            format!("{why}; {failed}"),
            observed.now.until(until),
            "the next attempt",
        );
    }
    let (timeline, fork) = (left.timeline, left.fork);
    Decision::wait(Rule::Rewind, why, Duration::ZERO, "pg_rewind").act(Act::Rewind {
        source: data_of(left.upstream),
        to: source::to_rewind(observed, left.upstream),
        timeline,
        fork,
    })
}

/// A primary that died has no exact end of WAL in its control file; the segments have it.
fn read_wal_first(observed: &Observed, own: OwnEnd) -> Option<Decision> {
    let control = stopped(observed).filter(|_| !own.exact)?;
    let read = &observed.directory.wal_end;
    if read.as_ref().is_some_and(|read| read.checkpoint == control.checkpoint) {
        return None;
    }
    let why = "this node crashed as primary: reading where its WAL ends";
    let wait = Decision::wait(Rule::AwaitSource, why, Duration::from_millis(500), "pg_waldump");
    Some(wait.tend(Tend::ReadWalEnd { from: control.checkpoint, timeline: own.timeline }))
}

fn without_rewind(observed: &Observed, cluster: &Cluster, left: &Left<'_>, why: &str) -> Decision {
    if observed.config.remove_data_directory_on_diverged_timelines || given_up(cluster) {
        let lost = Some((left.timeline, left.fork));
        return copy_again(observed, cluster, left.upstream, lost, why.to_owned());
    }
    let why = format!(
        "{why}: reinitialize this member (patronictl reinit), or set \
         remove_data_directory_on_diverged_timelines"
    );
    let pause = observed.config.timing.loop_wait;
    Decision::wait(Rule::RewindImpossible, why, pause, "an operator")
}

/// The configuration lets a directory be removed that pg_rewind failed on.
pub(crate) fn removal_allowed(observed: &Observed) -> bool {
    observed.config.remove_data_directory_on_rewind_failure
        || observed.config.remove_data_directory_on_diverged_timelines
}

/// Replaces the directory by a copy of the leader. What a standby leader has beyond the other
/// datacenter is for an operator to give up (behaviour §15). `lost`: the last common timeline and
/// the end of what is common.
fn copy_again(
    observed: &Observed,
    cluster: &Cluster,
    upstream: &Upstream,
    lost: Option<(TimelineId, Lsn)>,
    why: String,
) -> Decision {
    let pause = observed.config.timing.loop_wait;
    let source = match upstream {
        Upstream::Member { .. } | Upstream::Archive { of: Some(_) } => {
            source::to_copy(observed, cluster, upstream)
        }
        Upstream::Remote { .. } if given_up(cluster) => {
            return reinit(observed, lost, upstream.clone(), why);
        }
        Upstream::Remote { .. } | Upstream::Archive { of: None } | Upstream::Nobody => {
            let why = format!(
                "{why}; a standby leader's directory is not removed by itself: federator rejoin, \
                 where there is a federation"
            );
            return Decision::wait(Rule::RewindImpossible, why, pause, "an operator");
        }
    };
    if let Some(wait) = crate::reinit::await_leader(observed, cluster, &why) {
        return wait;
    }
    reinit(observed, lost, source, why)
}

fn reinit(
    observed: &Observed,
    diverged: Option<(TimelineId, Lsn)>,
    source: Upstream,
    why: String,
) -> Decision {
    let failed = observed.directory.work_failed.as_deref().unwrap_or_default();
    let waits = observed.stand_back_until.filter(|until| observed.now < *until);
    if let Some(until) = waits.filter(|_| !failed.is_empty() && !observed.directory.rewind_failed) {
        let (why, pause) = (format!("{why}; {failed}"), observed.now.until(until));
        return Decision::wait(Rule::AwaitSource, why, pause, "the next attempt");
    }
    let wait = Decision::wait(Rule::CopyAgain, why, Duration::ZERO, "the base backup");
    wait.act(Act::Reinit(Reinit { source, diverged, asked: false, from_leader: false }))
}
