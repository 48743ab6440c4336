//! What this node is at this moment: the last view, and the clock for the lease. Every answer of
//! the REST API that depends on the role asks here, so that no two of them can disagree.

use crate::view::View;
use node_agent_core::observed::RecordView;
use node_agent_core::time::Boot;
use node_agent_wire::dynamic::{Dynamic, SynchronousMode};
use node_agent_wire::federation::FederationRecord;
use node_agent_wire::member::{Role, state};

/// The cluster follows another datacenter: by its configuration or its federation record, or a
/// fence has stopped it for that.
#[must_use]
pub fn in_standby_cluster(view: &View) -> bool {
    let record = view.cluster().map_or(&RecordView::Absent, |cluster| &cluster.record);
    follows_another(&view.observed.config, record)
}

/// The same by the values themselves.
#[must_use]
pub fn follows_another(config: &Dynamic, record: &RecordView) -> bool {
    let elsewhere = |record: &FederationRecord| !record.names_us() || record.fence.is_some();
    config.standby_cluster.is_some() || record.get().is_some_and(elsewhere)
}

/// The record can't be read: nobody in this datacenter may accept writes.
fn record_unreadable(view: &View) -> bool {
    view.cluster().is_some_and(|cluster| match &cluster.record {
        RecordView::Unreadable(_) => true,
        RecordView::Absent | RecordView::Present(_) => false,
    })
}

/// Clients may be sent here to write: the lease is held, the datacenter may accept writes, and
/// PostgreSQL does, or did when it last answered.
///
/// Stricter than Patroni, which looks at the lease only: a leader that is fenced, or not promoted
/// yet, is no place to write.
#[must_use]
pub fn primary(view: &View, now: Boot) -> bool {
    view.leads(now)
        && !in_standby_cluster(view)
        && !record_unreadable(view)
        && view.observed.postgres.may_write()
}

/// The leader of a standby cluster, running.
#[must_use]
pub fn standby_leader(view: &View, now: Boot) -> bool {
    view.leads(now)
        && in_standby_cluster(view)
        && view.running().is_some_and(|running| running.in_recovery)
}

/// The role as `GET /patroni` says it: what PostgreSQL is, while it answers.
#[must_use]
pub fn role(view: &View, now: Boot) -> Role {
    match view.running() {
        Some(running) if !running.in_recovery => Role::Primary,
        Some(_) if view.leads(now) && in_standby_cluster(view) => Role::StandbyLeader,
        Some(_) => Role::Replica,
        None => view.role(),
    }
}

/// The state as `GET /patroni` says it.
#[must_use]
pub fn state_word(view: &View) -> &str {
    if view.running().is_none() && view.member.state == state::RUNNING {
        return "unknown";
    }
    &view.member.state
}

/// PostgreSQL answers and is not on its way somewhere else.
#[must_use]
pub fn is_running(view: &View) -> bool {
    state_word(view) == state::RUNNING
}

/// Which synchronous mode this replica is listed under in `/sync`; `Off` when it is not.
#[must_use]
pub fn listed_in_sync(view: &View, now: Boot) -> SynchronousMode {
    let Some(cluster) = view.cluster() else { return SynchronousMode::Off };
    let me = view.observed.me.name.as_str();
    let listed = role(view, now) == Role::Replica
        && view.running().is_some()
        && cluster.sync.value.sync_standby.iter().any(|n| n.as_str().eq_ignore_ascii_case(me));
    if listed { view.observed.config.effective_sync_mode() } else { SynchronousMode::Off }
}

/// The end of WAL of the leader as far as this node knows: from `/status`, or from the receiver.
#[must_use]
pub fn leader_lsn(view: &View) -> Option<u64> {
    let published = view.cluster().and_then(|c| c.status.optime);
    let received = view.running().and_then(|r| r.receiver.as_ref()).and_then(|r| r.latest_end_lsn);
    published.max(received).map(|lsn| lsn.0)
}
