//! What the primary does for synchronous replication in one pass.

use crate::decision::Tend;
use crate::observed::{Cluster, Observed};
use crate::postgres::Running;
use crate::sync::{self, SyncInput, SyncStep};
use node_agent_wire::dynamic::SynchronousMode;
use node_agent_wire::{Lsn, MemberName};

/// The next step towards the wanted state, if one is due.
pub(crate) fn sync_step(observed: &Observed, cluster: &Cluster, running: &Running) -> Option<Tend> {
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
pub(crate) fn awaits_sync(observed: &Observed, cluster: &Cluster, running: &Running) -> bool {
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
