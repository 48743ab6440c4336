//! Replacing a data directory: because an operator asked for it, or because pg_rewind left it
//! half changed.

use crate::decision::{Act, Decision, Reinit, SOON, Tend};
use crate::divergence::{Verdict, verdict};
use crate::follower::name_of;
use crate::observed::{Cluster, Observed, Request};
use crate::postgres::{Postgres, Upstream};
use crate::rewind::{end_of_own_wal, removal_allowed};
use crate::rule::Rule;
use crate::source;
use node_agent_wire::{Lsn, TimelineId};
use std::time::Duration;

/// Why a member can't be reinitialised now, in the words that Patroni's tools know (contract B.7).
#[must_use]
pub fn refusal(observed: &Observed) -> Option<&'static str> {
    let leader = observed.cluster.known().and_then(|cluster| cluster.leader.as_ref());
    if observed.holds_lease() || leader == Some(&observed.me.name) {
        return Some("I am the leader, can not reinitialize");
    }
    leader.is_none().then_some("Cluster has no leader, can not reinitialize")
}

/// A request that is not possible is forgotten, whatever else is decided.
pub(crate) fn refused(observed: &Observed) -> Option<Tend> {
    match observed.request {
        Some(Request::Reinit { .. }) => {
            observed.cluster.known()?;
            refusal(observed).map(|why| Tend::DropRequest(why.to_owned()))
        }
        Some(Request::Restart) | None => None,
    }
}

/// What an operator's wish for a new copy leads to.
pub(crate) fn asked(observed: &Observed, cluster: &Cluster) -> Option<Decision> {
    let Some(Request::Reinit { from_leader }) = observed.request else { return None };
    // A server that may write is stopped by the rules for that first.
    if observed.postgres.may_write() || refusal(observed).is_some() {
        return None;
    }
    let leader = source::of_leader(cluster)?;
    let diverged = match lost(observed, &leader) {
        Lost::Unknown => {
            let why = "a new copy is asked for: comparing the histories first";
            let wait = Decision::wait(Rule::Reinitialize, why, SOON, "the source's history");
            return Some(wait.tend(Tend::AskHistory(leader)));
        }
        Lost::Nothing => None,
        Lost::Since(timeline, fork) => Some((timeline, fork)),
    };
    let source = if from_leader { leader } else { source::to_copy(observed, cluster, &leader) };
    let why = format!("an operator asked for a new copy of this member: of {}", name_of(&source));
    let wait = Decision::wait(Rule::Reinitialize, why, Duration::ZERO, "the base backup");
    Some(wait.act(Act::Reinit(Reinit { source, diverged, asked: true, from_leader })))
}

/// What only this directory holds.
enum Lost {
    Nothing,
    Since(TimelineId, Lsn),
    /// The source has not been asked.
    Unknown,
}

fn lost(observed: &Observed, source: &Upstream) -> Lost {
    if end_of_own_wal(observed).is_none() || observed.own_history.is_none() {
        return Lost::Nothing;
    }
    let Some(asked) = observed.history_of(source) else { return Lost::Unknown };
    match verdict(observed, asked) {
        Some(
            Verdict::Diverged { timeline, fork }
            | Verdict::BegunTwice { parent: timeline, fork, .. },
        ) => Lost::Since(timeline, fork),
        // Where it can't be told: the operator does not want it.
        Some(Verdict::InHistory | Verdict::CanNotTell | Verdict::Unproven { .. }) | None => {
            Lost::Nothing
        }
    }
}

/// pg_rewind was stopped half-way: the files are of two servers, and nobody can use them.
pub(crate) fn interrupted(observed: &Observed, cluster: &Cluster) -> Option<Decision> {
    let Postgres::Unreadable(why) = &observed.postgres else { return None };
    if !observed.directory.rewind_interrupted {
        return None;
    }
    let pause = observed.config.timing.loop_wait;
    if observed.holds_lease() {
        // Another member can lead meanwhile.
        let wait = Decision::wait(Rule::RewindInterrupted, why.clone(), pause, "another leader");
        return Some(wait.act(Act::Release));
    }
    if !interrupted_replaceable(observed) {
        let why = format!(
            "{why}: reinitialize this member (patronictl reinit), or set \
             remove_data_directory_on_rewind_failure"
        );
        return Some(Decision::wait(Rule::RewindInterrupted, why, pause, "an operator"));
    }
    if let Some(wait) = await_leader(observed, cluster, why) {
        return Some(wait);
    }
    let source = source::to_copy(observed, cluster, &source::of_leader(cluster)?);
    let wait = Decision::wait(Rule::CopyAgain, why.clone(), Duration::ZERO, "the base backup");
    // What the rewind was to discard was reported before it began.
    let reinit = Reinit { source, diverged: None, asked: false, from_leader: false };
    Some(wait.act(Act::Reinit(reinit)))
}

/// A directory that pg_rewind left half changed is replaced without anybody's word.
pub(crate) fn interrupted_replaceable(observed: &Observed) -> bool {
    let paused = observed.cluster.known().is_none_or(|cluster| cluster.config.pause);
    observed.directory.rewind_interrupted && removal_allowed(observed) && !paused
}

/// A directory is only given up when there is something to put in its place.
pub(crate) fn await_leader(observed: &Observed, cluster: &Cluster, why: &str) -> Option<Decision> {
    let running = cluster
        .leader_member()
        .is_some_and(|m| m.data.state == node_agent_wire::member::state::RUNNING);
    let other = cluster.leader.as_ref() != Some(&observed.me.name);
    let ready =
        other && running && cluster.system_id().is_some() && source::of_leader(cluster).is_some();
    if ready {
        return None;
    }
    let why = format!("{why}; to be copied anew when a leader runs");
    let pause = observed.config.timing.loop_wait;
    Some(Decision::wait(Rule::AwaitLeader, why, pause, "a running leader"))
}
