//! What the members' answers say in an election: whether a primary lives, whether somebody is
//! better placed, and whether enough of them vote.

use crate::observed::{Cluster, Observed, PeerAnswer, Standing};
use crate::postgres::Running;
use node_agent_wire::{Lsn, MemberName, TimelineId};
use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};

/// The answers of one round.
type Answers = BTreeMap<MemberName, PeerAnswer>;

/// Somebody accepts writes: a member says so of itself, or another one has seen it.
pub(crate) fn live_primary(me: &MemberName, answers: &Answers) -> Option<String> {
    answered(answers).find_map(|(name, standing)| {
        if !standing.in_recovery {
            return Some(format!("{name} still accepts writes"));
        }
        let seen = standing.sees_primary.as_ref().filter(|primary| *primary != me)?;
        Some(format!("{name} sees {seen} accept writes"))
    })
}

fn answered(answers: &Answers) -> impl Iterator<Item = (&MemberName, &Standing)> {
    answers.iter().filter_map(|(name, answer)| match answer {
        PeerAnswer::Answered(standing) => Some((name, standing)),
        PeerAnswer::Silent => None,
    })
}

/// A member that may lead has more WAL, or as much and a higher `failover_priority`.
///
/// In synchronous mode only those that `/sync` names count, and not the leader that it names: what
/// that one has beyond this node was not acknowledged.
pub(crate) fn better(
    observed: &Observed,
    cluster: &Cluster,
    running: &Running,
    asked: &BTreeSet<MemberName>,
    answers: &Answers,
) -> Option<String> {
    rivals(cluster, asked, answers).find_map(|(name, standing)| match against(standing, running) {
        Ordering::Greater => Some(ahead(name, standing, running)),
        // One that has lost its key, and so perhaps the DCS, is not waited for.
        Ordering::Equal if cluster.members.contains_key(name) => {
            let (theirs, own) = (standing.failover_priority, observed.me.failover_priority);
            (theirs > own).then(|| {
                format!("{name} has as much WAL and failover_priority {theirs}, not {own}")
            })
        }
        Ordering::Equal | Ordering::Less => None,
    })
}

/// A member that may lead has more WAL than this node, whatever its priority.
pub(crate) fn has_more(
    cluster: &Cluster,
    running: &Running,
    asked: &BTreeSet<MemberName>,
    answers: &Answers,
) -> Option<String> {
    rivals(cluster, asked, answers)
        .find(|(_, standing)| against(standing, running) == Ordering::Greater)
        .map(|(name, standing)| ahead(name, standing, running))
}

/// The members whose WAL counts in an election.
fn rivals<'a>(
    cluster: &'a Cluster,
    asked: &'a BTreeSet<MemberName>,
    answers: &'a Answers,
) -> impl Iterator<Item = (&'a MemberName, &'a Standing)> {
    let sync = &cluster.sync.value;
    answered(answers)
        .filter(|(name, _)| asked.contains(*name))
        .filter(|(name, _)| {
            !sync.active() || (sync.covers(name) && sync.leader.as_ref() != Some(*name))
        })
        .filter(|(_, standing)| !standing.nofailover && !standing.watchdog_failed)
}

/// More WAL of an older timeline is less: the cluster has gone on from another point.
fn against(standing: &Standing, running: &Running) -> Ordering {
    let theirs = standing.timeline.unwrap_or(running.timeline);
    theirs.cmp(&running.timeline).then(standing.lsn.cmp(&running.lsn))
}

fn ahead(name: &MemberName, standing: &Standing, running: &Running) -> String {
    match standing.timeline {
        Some(theirs) if theirs != running.timeline => {
            format!("{name} is on timeline {theirs}, this node on {}", running.timeline)
        }
        Some(_) | None => {
            format!("{name} is {} bytes ahead", standing.lsn.bytes_since(running.lsn))
        }
    }
}

/// What is missing where `/sync` asks for votes. A vote is the answer of another member that
/// `/sync` names and that has no more than this node: so many together have every acknowledged
/// commit, hence so has this node. The leader that `/sync` names needs none.
pub(crate) fn votes_missing(
    observed: &Observed,
    cluster: &Cluster,
    running: &Running,
    answers: &Answers,
) -> Option<String> {
    let (sync, me) = (&cluster.sync.value, &observed.me.name);
    if !sync.active() || sync.leader.as_ref() == Some(me) {
        return None;
    }
    let votes = answered(answers)
        .filter(|(name, _)| *name != me && sync.sync_standby.contains(*name))
        .filter(|(_, standing)| votes_for(standing, running.timeline, running.lsn))
        .count();
    let needed = usize::try_from(sync.quorum).unwrap_or(usize::MAX);
    (votes < needed).then(|| {
        let others: BTreeSet<MemberName> =
            sync.sync_standby.iter().filter(|name| *name != me).cloned().collect();
        let names = crate::election::join(&others);
        format!("{votes} of {needed} votes; {names} may have more than this node")
    })
}

/// A position that may be less than what the member has is no vote.
fn votes_for(standing: &Standing, timeline: TimelineId, lsn: Lsn) -> bool {
    let known = standing.in_recovery && standing.whole && standing.lsn > Lsn(0);
    known && standing.timeline.is_some_and(|theirs| (theirs, standing.lsn) <= (timeline, lsn))
}
