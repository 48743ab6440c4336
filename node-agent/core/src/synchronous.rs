//! What the primary does for synchronous replication in one pass: who may be synchronous, what is
//! wanted, and the next step towards it.

use crate::decision::Tend;
use crate::guest::guest;
use crate::observed::{Cluster, Observed};
use crate::postgres::{Running, Walsender};
use crate::quorum;
use crate::sync::{self, Goal, SyncInput, SyncStep};
use crate::waits::{Form, Waits};
use node_agent_wire::dynamic::SynchronousMode;
use node_agent_wire::member::Member;
use node_agent_wire::status::SyncState;
use node_agent_wire::{Lsn, MemberName};
use serde_json::Value;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

/// The next step towards the wanted state, if one is due.
pub(crate) fn sync_step(observed: &Observed, cluster: &Cluster, running: &Running) -> Option<Tend> {
    let state = &cluster.sync;
    if let Some(overtake) = overtake(observed, cluster) {
        return Some(overtake);
    }
    if cluster.config.effective_sync_mode() == SynchronousMode::Off {
        // First the promise is withdrawn, then PostgreSQL stops waiting.
        if state.value.active() {
            return Some(Tend::DeleteSync(state.revision));
        }
        return without_mode(observed, guest(observed, cluster, running), running);
    }
    match next(observed, cluster, running) {
        SyncStep::Write(sync) => Some(Tend::WriteSync { sync, over: state.revision }),
        SyncStep::Names(names) => Some(Tend::SetSyncNames(names)),
        SyncStep::Settled | SyncStep::Confirming if observed.sync_names_set_at.is_none() => {
            // After a restart of the agent: learn where the names in force apply from.
            Some(Tend::SetSyncNames(running.sync_names.clone()))
        }
        SyncStep::Settled | SyncStep::Confirming => None,
    }
}

/// Without synchronous mode PostgreSQL waits for nobody but a guest; and for whom the user says.
fn without_mode(observed: &Observed, guest: Option<MemberName>, running: &Running) -> Option<Tend> {
    let ours = observed.sync_names_ours && !running.sync_names.is_empty();
    let names = match guest {
        Some(guest) => Goal::plain([guest].into()).waits.render(Form::Plain, false),
        None if ours => String::new(),
        None => return None,
    };
    (names != running.sync_names).then_some(Tend::SetSyncNames(names))
}

/// A write of `/sync` that may still arrive would promise what PostgreSQL has ceased to wait for.
/// One over the present revision makes it fail, before anything else is changed.
fn overtake(observed: &Observed, cluster: &Cluster) -> Option<Tend> {
    let state = &cluster.sync;
    let off = cluster.config.effective_sync_mode() == SynchronousMode::Off;
    let unused = off && !state.value.active() && !observed.sync_names_ours;
    if !observed.sync_unsure || unused {
        return None;
    }
    let me = &observed.me.name;
    let own = state.value.leader.as_ref() == Some(me);
    let nobody = || SyncState { leader: Some(me.clone()), ..SyncState::default() };
    let sync = if own { state.value.clone() } else { nobody() };
    Some(Tend::WriteSync { sync, over: state.revision })
}

/// A standby is waited for by PostgreSQL and has not caught up yet: `/sync` is to name it soon.
pub(crate) fn awaits_sync(observed: &Observed, cluster: &Cluster, running: &Running) -> bool {
    cluster.config.effective_sync_mode() != SynchronousMode::Off
        && next(observed, cluster, running) == SyncStep::Confirming
}

/// A standby that is lost is still named or waited for.
pub(crate) fn waits_in_vain(
    observed: &Observed,
    cluster: &Cluster,
    running: &Running,
) -> Option<String> {
    let waited_for = Waits::read(&running.sync_names).set;
    let lost = observed.sync_lost.iter().find(|name| {
        cluster.sync.value.sync_standby.contains(*name) || waited_for.contains(*name)
    })?;
    Some(if cluster.members.contains_key(lost) {
        format!("sessions wait in vain for {lost}, and its agent does not answer")
    } else {
        format!("sessions wait in vain for {lost}")
    })
}

fn next(observed: &Observed, cluster: &Cluster, running: &Running) -> SyncStep {
    let guest = guest(observed, cluster, running);
    let goal = Goal { guest, ..goal(observed, cluster, running) };
    sync::step(&SyncInput {
        me: &observed.me.name,
        goal: &goal,
        strict: cluster.config.synchronous_mode_strict,
        sync: &cluster.sync.value,
        names: &running.sync_names,
        confirmed: &confirmed(observed, cluster, running),
    })
}

fn goal(observed: &Observed, cluster: &Cluster, running: &Running) -> Goal {
    let candidates = candidates(observed, cluster, running);
    let count = usize::try_from(cluster.config.synchronous_node_count.max(1)).unwrap_or(1);
    let names = |barred: bool| -> Vec<MemberName> {
        candidates.iter().filter(|c| c.nofailover == barred).map(|c| c.name.clone()).collect()
    };
    let (electable, others) = (names(false), names(true));
    match cluster.config.effective_sync_mode() {
        SynchronousMode::Quorum => quorum::goal(
            &electable,
            &others,
            count,
            &cluster.sync.value,
            &Waits::read(&running.sync_names),
        ),
        SynchronousMode::On | SynchronousMode::Off => {
            Goal::plain(electable.into_iter().chain(others).take(count).collect())
        }
    }
}

/// PostgreSQL waits for them, and they have everything up to when that began.
fn confirmed(observed: &Observed, cluster: &Cluster, running: &Running) -> BTreeSet<MemberName> {
    let Some(set_at) = observed.sync_names_set_at else { return BTreeSet::new() };
    let waited_for = Waits::read(&running.sync_names).set;
    streaming(cluster, running)
        .into_values()
        .filter(|(member, sender)| {
            waited_for.contains(&member.name)
                && matches!(sender.sync_state.as_str(), "sync" | "quorum")
                && sender.flush_lsn.is_some_and(|flushed| flushed >= set_at)
        })
        .map(|(member, _)| member.name.clone())
        .collect()
}

/// A standby that may be synchronous.
struct Candidate {
    name: MemberName,
    nofailover: bool,
    lsn: Lsn,
}

/// Members that stream to this primary, each with its most advanced sender: a lost connection may
/// still show beside the new one.
fn streaming<'a>(
    cluster: &'a Cluster,
    running: &'a Running,
) -> BTreeMap<&'a MemberName, (&'a Member, &'a Walsender)> {
    let mut found: BTreeMap<&MemberName, (&Member, &Walsender)> = BTreeMap::new();
    for sender in running.senders.iter().filter(|s| s.state == "streaming") {
        let member = cluster
            .members
            .values()
            .find(|m| m.name.as_str().eq_ignore_ascii_case(&sender.application_name));
        let Some(member) = member else { continue };
        let known = found.get(&member.name);
        if known.is_none_or(|(_, known)| known.flush_lsn < sender.flush_lsn) {
            found.insert(&member.name, (member, sender));
        }
    }
    found
}

/// Those that may be synchronous, the best first: one that may lead, the higher `sync_priority`,
/// one that is synchronous already (or PostgreSQL waits for already: without that two standbys
/// that take turns in being ahead would replace each other before either is confirmed), the most
/// advanced.
fn candidates(observed: &Observed, cluster: &Cluster, running: &Running) -> Vec<Candidate> {
    let streaming = streaming(cluster, running);
    let waited_for = Waits::read(&running.sync_names).set;
    let position = |s: &Walsender| acknowledged(cluster, s).unwrap_or_default();
    let mut ranked: Vec<_> = streaming
        .values()
        .filter(|(member, sender)| {
            !member.nosync()
                && !observed.sync_lost.contains(&member.name)
                && !cascades(member, &streaming)
                && has_joined(observed, cluster, running, member, sender)
        })
        .map(|(member, sender)| {
            let promised = cluster.sync.value.sync_standby.contains(&member.name);
            let rank = 2 * u8::from(!promised) + u8::from(!waited_for.contains(&member.name));
            let priority = Reverse(member.sync_priority());
            let (nofailover, lsn) = (member.nofailover(), position(sender));
            let name = member.name.clone();
            ((nofailover, priority, rank, Reverse(lsn)), Candidate { name, nofailover, lsn })
        })
        .collect();
    ranked.sort_by(|(a, c), (b, d)| a.cmp(b).then_with(|| c.name.cmp(&d.name)));
    let mut candidates: Vec<Candidate> = ranked.into_iter().map(|(_, c)| c).collect();
    if let Some(lag_max) = cluster.config.maximum_lag_on_syncnode {
        let ahead = match candidates.as_slice() {
            [] | [_] => running.lsn,
            several => several.iter().map(|c| c.lsn).max().unwrap_or_default(),
        };
        candidates.retain(|c| ahead.bytes_since(c.lsn) <= lag_max);
    }
    candidates
}

/// Up to where a commit counts as acknowledged by this standby.
fn acknowledged(cluster: &Cluster, sender: &Walsender) -> Option<Lsn> {
    let setting = cluster.config.parameters.get("synchronous_commit").and_then(Value::as_str);
    match setting {
        Some("remote_write") => sender.write_lsn,
        Some("remote_apply") => sender.replay_lsn,
        Some(_) | None => sender.flush_lsn,
    }
}

/// It is meant to stream from another member, which streams from here: it is on its way there.
fn cascades(member: &Member, streaming: &BTreeMap<&MemberName, (&Member, &Walsender)>) -> bool {
    member.replicatefrom().is_some_and(|source| {
        streaming.keys().any(|name| **name != member.name && **name == source)
    })
}

/// A member joins once it has flushed WAL of the present timeline: right after a promotion its
/// sender still shows the old one, and commits would wait until it has switched.
fn has_joined(
    observed: &Observed,
    cluster: &Cluster,
    running: &Running,
    member: &Member,
    sender: &Walsender,
) -> bool {
    let history = observed.own_history.as_ref().filter(|h| h.timeline == running.timeline);
    let began = history.map(|h| h.ancestors.last().map(|a| a.ended_at));
    cluster.sync.value.covers(&member.name) || began.is_some_and(|began| sender.flush_lsn > began)
}
