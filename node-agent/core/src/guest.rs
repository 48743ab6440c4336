//! The guest: a standby of another datacenter that commits wait for as well, for the moments before
//! a planned switchover stops writes, so that little is left to be shipped then.
//!
//! It is asked for by the operation in the datacenter's own record. The primary grants it as long
//! as everything that it is for holds, and for a time only, by its own clock: whoever asked may be
//! dead. `/sync` never names it and no election asks it. Beside a guest PostgreSQL waits for
//! *every* standby of the set that it waited for so many of before, so that whatever `/sync`
//! promises is kept ([`crate::sync`]).

use crate::observed::{Cluster, Observed};
use crate::postgres::{Postgres, Running};
use crate::waits::{Form, Waits};
use node_agent_wire::dynamic::SynchronousMode;
use node_agent_wire::federation::{FederationRecord, OperationKind, Phase, PreSync};
use node_agent_wire::{MemberName, OperationId};
use std::time::Duration;

/// The longest that commits wait for a guest, whatever the request says.
const TIME_MAX: Duration = Duration::from_secs(30);

/// What tells one request from another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// The operation.
    pub operation: OperationId,
    /// Its number there.
    pub number: u32,
}

/// The request that a record holds, with what tells it from others.
#[must_use]
pub fn request(record: &FederationRecord) -> Option<Request> {
    let (operation, asked) = open(record)?;
    asked.standby.as_ref()?;
    Some(Request { operation: operation.clone(), number: asked.request })
}

/// What an open switchover asks of this datacenter, which may write.
fn open(record: &FederationRecord) -> Option<(&OperationId, &PreSync)> {
    let operation = record.operation.as_ref()?;
    let running = operation.kind == OperationKind::Switchover
        && operation.phase == Phase::Running
        && operation.from.as_ref() == Some(&record.dc);
    let writes = record.names_us() && record.fence.is_none();
    let asked = operation.pre_sync.as_ref().filter(|_| running && writes)?;
    Some((&operation.id, asked))
}

/// The guest that commits are to wait for now.
pub(crate) fn guest(
    observed: &Observed,
    cluster: &Cluster,
    running: &Running,
) -> Option<MemberName> {
    let (_, asked) = open(cluster.record.get()?)?;
    let guest = asked.standby.as_ref()?;
    let time = Duration::from_millis(asked.limit_ms.into()).min(TIME_MAX);
    let in_time = observed.guest_asked_at.is_some_and(|at| observed.now.since(at) < time);
    let own = cluster.members.keys().chain([&observed.me.name]).any(|name| same(name, guest));
    let streams = running.senders.iter().any(|sender| {
        sender.state == "streaming" && sender.application_name.eq_ignore_ascii_case(guest.as_str())
    });
    let granted = in_time
        && !own
        && streams
        && !cluster.config.pause
        && !observed.sync_lost.contains(guest)
        && may_set(observed, cluster, running);
    granted.then(|| guest.clone())
}

/// Names that the user has configured are not ours to change; and not before an uncertain write of
/// `/sync` is settled.
fn may_set(observed: &Observed, cluster: &Cluster, running: &Running) -> bool {
    match cluster.config.effective_sync_mode() {
        SynchronousMode::Off => observed.sync_names_ours || running.sync_names.is_empty(),
        SynchronousMode::On | SynchronousMode::Quorum => !observed.sync_unsure,
    }
}

fn same(a: &MemberName, b: &MemberName) -> bool {
    a.as_str().eq_ignore_ascii_case(b.as_str())
}

/// `synchronous_standby_names` without the guest, where the DCS can't be read while they hold one:
/// nobody would take it back. Whatever the names without it promise, they promised with it.
pub(crate) fn left_behind(observed: &Observed) -> Option<String> {
    let Postgres::Running(running) = &observed.postgres else { return None };
    let (_, asked) = open(observed.last_record.as_ref()?)?;
    let guest = asked.standby.as_ref()?;
    let mut waits = Waits::read(&running.sync_names);
    if running.in_recovery || !observed.sync_names_ours || !waits.set.remove(guest) {
        return None;
    }
    waits.num = waits.set.len();
    let (form, strict) = match observed.config.effective_sync_mode() {
        SynchronousMode::Off => (Form::Plain, false),
        SynchronousMode::On => (Form::Plain, observed.config.synchronous_mode_strict),
        SynchronousMode::Quorum => (Form::Quorum, observed.config.synchronous_mode_strict),
    };
    Some(waits.render(form, strict))
}
