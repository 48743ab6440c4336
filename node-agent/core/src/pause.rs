//! Maintenance mode (behaviour §17): roles stay as they are, nothing is started, stopped or
//! promoted unless an operator asks for it.
//!
//! PostgreSQL goes on when its agent is stopped or the DCS is lost. That is safe because nobody
//! takes over meanwhile: while it is so, the leader's beats carry a mark (`unattended`), and
//! whoever finds the mark of another node does not lead before that node has said that it does not
//! write any more. The guard's deadline is lifted only once a beat with the mark is committed, and
//! set again before the first beat without it (`keeper.rs`). In a federation there is no mark:
//! invariant I1 holds in maintenance mode as well.

use crate::decision::{Act, Decision, Tend, Wake};
use crate::election::{self, fresh_poll, observer_wait};
use crate::follower;
use crate::leader::restart;
use crate::observed::{Cluster, Observed, PeerAnswer, RecordView, Request};
use crate::postgres::{Postgres, Running, Upstream};
use crate::right::RightToWrite;
use crate::rule::Rule;
use crate::slots;
use crate::standing;
use crate::synchronous::sync_step;
use node_agent_wire::member::{Role, state};
use std::time::Duration;

/// Between two questions to a member that may still write.
const ASK_PAUSE: Duration = Duration::from_millis(500);

fn paused(observed: &Observed, why: &str) -> Decision {
    let loop_wait = observed.config.timing.loop_wait;
    Decision::wait(Rule::Paused, format!("maintenance mode; {why}"), loop_wait, "the end of pause")
}

fn down(observed: &Observed, why: &str) -> Decision {
    let decision = paused(observed, why);
    Decision { rule: Rule::PausedDown, ..decision }
}

/// Whether the leader's beats may carry the mark.
#[must_use]
pub fn may_be_unattended(observed: &Observed) -> bool {
    match observed.cluster.known() {
        Some(cluster) => {
            cluster.config.pause
                && cluster.record == RecordView::Absent
                && cluster.config.standby_cluster.is_none()
        }
        // Nothing new is known: what the last committed beat said stays.
        None => observed.lease.kept,
    }
}

/// Decides for the holder of the leader key.
pub(crate) fn lead(observed: &Observed, cluster: &Cluster) -> Decision {
    match &observed.postgres {
        Postgres::Running(running) => lead_running(observed, cluster, running),
        Postgres::Stopped(_) | Postgres::NoData => {
            down(observed, "PostgreSQL is not running and is not started").act(Act::Release)
        }
        Postgres::Unreadable(_) | Postgres::Starting { .. } | Postgres::Unresponsive { .. } => {
            paused(observed, "this node leads").tend(Tend::PublishLeader)
        }
    }
}

fn lead_running(observed: &Observed, cluster: &Cluster, running: &Running) -> Decision {
    if observed.request == Some(Request::Restart) {
        return restart();
    }
    let mut decision = paused(observed, "this node leads").tend(Tend::PublishLeader);
    // Commits must not hang on a standby that has left.
    match sync_step(observed, cluster, running).filter(|_| !running.in_recovery) {
        Some(step) => {
            decision.tend.push(step);
            decision.wake = Wake::next();
        }
        None => decision.tend.push(Tend::ApplySettings),
    }
    let slots = slots::changes(observed, cluster, running);
    decision.tend.extend(slots.into_iter().map(Tend::Slot));
    decision
}

/// Another member leads.
pub(crate) fn follow(observed: &Observed, cluster: &Cluster, upstream: &Upstream) -> Decision {
    match &observed.postgres {
        Postgres::Running(running) if running.in_recovery => {
            let decision = follower::follow(observed, cluster, upstream, Rule::Replicate);
            // A rewind would stop PostgreSQL.
            if decision.act.is_some() { paused(observed, &decision.why) } else { decision }
        }
        // Stopped on purpose, to become a standby: that is finished.
        Postgres::Stopped(_) if observed.stopped_by_us => {
            follower::follow(observed, cluster, upstream, Rule::Replicate)
        }
        Postgres::Stopped(_) => down(observed, "PostgreSQL is not running and is not started"),
        Postgres::Running(_) => paused(observed, "a primary without the leader key"),
        Postgres::NoData
        | Postgres::Unreadable(_)
        | Postgres::Starting { .. }
        | Postgres::Unresponsive { .. } => paused(observed, "another member leads"),
    }
}

/// Two nodes would accept writes: another one leads and says that it is primary. That is not left
/// to maintenance mode.
pub(crate) fn another_primary(observed: &Observed, cluster: &Cluster) -> bool {
    cluster.leader_member().is_some_and(|leader| {
        leader.name != observed.me.name
            && leader.data.role == Some(Role::Primary)
            && leader.data.state == state::RUNNING
    })
}

/// Nobody leads, and PostgreSQL accepts writes here. It takes the key when nobody else can be
/// writing; a mark of its own says that nobody has led since.
pub(crate) fn take_key(observed: &Observed, cluster: &Cluster) -> Option<Decision> {
    let Postgres::Running(running) = &observed.postgres else { return None };
    let marked = cluster
        .position
        .as_ref()
        .is_some_and(|p| p.unattended && !p.released && p.leader == observed.me.name);
    if running.in_recovery || !(cluster.config.pause || marked) {
        return None;
    }
    RightToWrite::check(observed).ok()?;
    let take = |why: &str| {
        Decision::wait(Rule::PausedAcquire, why, Duration::ZERO, "the leader key")
            .act(Act::Acquire(election::own_key()))
    };
    if marked {
        return Some(take("nobody has led since this node was left running"));
    }
    if let Some(wait) = observer_wait(observed, cluster) {
        return Some(wait);
    }
    if let Some(wait) = left_running(observed, cluster) {
        return Some(wait);
    }
    let sync = &cluster.sync.value;
    if sync.active() && !sync.covers(&observed.me.name) {
        let why = "a primary that /sync does not name; delete /sync to let it lead all the same";
        return Some(paused(observed, why));
    }
    if cluster.history.as_ref().is_some_and(|h| running.timeline < h.timeline) {
        return Some(paused(observed, "a primary on an older timeline than the cluster's"));
    }
    let Some(poll) = fresh_poll(observed) else {
        let ask = paused(observed, "a primary without the leader key: asking the other members");
        let wake = Wake { after: ASK_PAUSE, reason: "the members' answers" };
        return Some(Decision { wake, ..ask.tend(Tend::AskPeers) });
    };
    if let Some(why) = standing::live_primary(&observed.me.name, &poll.answers) {
        return Some(paused(observed, &format!("{why}, too: stop one of the two")));
    }
    // The members were asked before this node was looked at: none that follows it can be ahead.
    let asked = election::ask_whom(observed, cluster);
    if let Some(why) = standing::has_more(cluster, running, &asked, &poll.answers) {
        let why = format!("{why}: one of the two has the wrong data; find out which");
        let wait = paused(observed, &format!("a primary without the leader key, and {why}"));
        let wake = Wake { after: ASK_PAUSE, reason: "the members' answers" };
        return Some(Decision { wake, ..wait.tend(Tend::AskPeers) });
    }
    if let Some(why) = standing::votes_missing(observed, cluster, running, &poll.answers) {
        let why = format!("a primary without the votes that /sync asks for: {why}");
        let wait = paused(observed, &format!("{why}; delete /sync to let it lead all the same"));
        let wake = Wake { after: ASK_PAUSE, reason: "votes" };
        return Some(Decision { wake, ..wait.tend(Tend::AskPeers) });
    }
    Some(take("maintenance mode; the only primary, and nobody leads"))
}

/// The last leader was left running in maintenance mode: this node must not lead before it is
/// known to have stopped writing.
pub(crate) fn left_running(observed: &Observed, cluster: &Cluster) -> Option<Decision> {
    let position = cluster.position.as_ref()?;
    if !position.unattended || position.released || position.leader == observed.me.name {
        return None;
    }
    let stopped = fresh_poll(observed).is_some_and(|poll| {
        matches!(
            poll.answers.get(&position.leader),
            Some(PeerAnswer::Answered(standing)) if standing.in_recovery
        )
    });
    if stopped {
        return None;
    }
    let last = &position.leader;
    let why = format!(
        "{last} was left running in maintenance mode and may still accept writes: start its agent, \
         or, when PostgreSQL is sure to be stopped there, delete the key position"
    );
    Some(
        Decision::wait(Rule::LeftRunning, why, ASK_PAUSE, "the last leader's word")
            .tend(Tend::AskPeers),
    )
}

/// This node left the mark, its lease is gone, and it does not write any more: it says so.
pub(crate) fn tidy(observed: &Observed, decision: &mut Decision) {
    let Some(cluster) = observed.cluster.known() else { return };
    let mine = cluster
        .position
        .as_ref()
        .is_some_and(|p| p.unattended && !p.released && p.leader == observed.me.name);
    let at_rest = match &observed.postgres {
        Postgres::Stopped(_) | Postgres::NoData => true,
        Postgres::Running(running) => running.in_recovery,
        Postgres::Unreadable(_) | Postgres::Starting { .. } | Postgres::Unresponsive { .. } => {
            false
        }
    };
    // A beat may be under way as long as the keeper leads, held or not: its answer would give the
    // right back after somebody else has taken the release at its word.
    let leads = cluster.leader.is_some() || observed.lease.held_until.is_some();
    if mine && at_rest && !leads && observed.job.is_none() && decision.act.is_none() {
        decision.tend.push(Tend::EndUnattended);
    }
}
