//! What a rejoin would do to this node, asked beforehand: looks at the data directory and at the
//! source, and changes nothing.

use crate::apply::past;
use crate::clock;
use crate::jobs::CopyPlan;
use crate::postgres::Server;
use crate::postgres::method::copy_methods;
use crate::view::{Handle, View};
use node_agent_core::directory::WalEnd;
use node_agent_core::divergence::own_end;
use node_agent_core::observed::Observed;
use node_agent_core::postgres::{Postgres, Upstream};
use node_agent_core::prospect::{Fate, Prospect, prospect};
use node_agent_core::rewind::end_of_own_wal;
use node_agent_wire::member::split_host_port;
use node_agent_wire::proto::Examination;
use std::time::Duration;

/// PostgreSQL's port where an address gives none.
const POSTGRES_PORT: u16 = 5432;

/// The addresses of a request.
///
/// # Errors
/// The first that is none.
pub(super) fn addresses(hosts: &[String]) -> Result<Vec<(String, u16)>, String> {
    let read = |host: &String| split_host_port(host, POSTGRES_PORT).ok_or_else(|| host.clone());
    hosts.iter().map(read).collect()
}

/// The answer; without `hosts` only what this node says of itself. What can't be told within
/// `limit` is said to be unknown.
pub(super) async fn examine(
    handle: &Handle,
    view: &View,
    hosts: Vec<(String, u16)>,
    limit: Duration,
) -> Examination {
    let server = &handle.server;
    let mut answer = Examination {
        needs_primary: server.rewinds_to_primary_only().await,
        copy_methods: methods(handle, view),
        ..Examination::default()
    };
    if hosts.is_empty() {
        match tokio::time::timeout(limit, server.data_bytes()).await {
            Ok(Ok(bytes)) => answer.data_bytes = Some(bytes),
            Ok(Err(error)) => answer.bytes_unknown = error.to_string(),
            Err(_) => answer.bytes_unknown = format!("not counted within {limit:?}"),
        }
        return answer;
    }
    let upstream = Upstream::Remote { hosts: hosts.clone(), slot: None, cascade: false };
    let source = past(server, &upstream, clock::boot()).await;
    let mut observed = view.observed.clone();
    read_wal_end(server, &mut observed).await;
    let mut found = prospect(&observed, &source);
    if let Fate::Rewind { timeline, fork } = found.fate
        && let Some(own) = &observed.own_history
    {
        let survey = server.survey_rewind(&hosts, own, (timeline, fork), limit);
        match tokio::time::timeout(limit, survey).await {
            Ok(Ok(Some(survey))) => {
                answer.rewind_bytes = Some(survey.fetched);
                answer.rewind_bytes_max = Some(survey.at_most);
            }
            Ok(Ok(None)) => {
                found = found.without_wal_before_the_fork(archived(&observed));
                answer.bytes_unknown = "the WAL before the fork is in the archive at best".into();
            }
            Ok(Err(error)) => answer.bytes_unknown = error.to_string(),
            Err(_) => answer.bytes_unknown = format!("not counted within {limit:?}"),
        }
    }
    tell(answer, &observed, found)
}

fn tell(answer: Examination, observed: &Observed, found: Prospect) -> Examination {
    let lost = found.fate.lost();
    let end = end_of_own_wal(observed).map(|end| end.lsn);
    Examination {
        verdict: found.fate.name().to_owned(),
        why: found.why,
        fork: lost.map(|(_, fork)| fork.0),
        fork_timeline: lost.map_or(0, |(timeline, _)| timeline.0),
        end: end.map_or(0, |end| end.0),
        ..answer
    }
}

/// Names of the methods that fill the directory; empty when the configuration can't be used.
fn methods(handle: &Handle, view: &View) -> Vec<String> {
    let list = CopyPlan::list_for(&Upstream::Nobody, false);
    match copy_methods(&handle.config, &view.observed.config, list) {
        Ok(methods) => methods.iter().map(|method| method.name().to_owned()).collect(),
        Err(error) => {
            tracing::info!(%error, hint = error.hint(), "the methods of a copy");
            Vec::new()
        }
    }
}

fn archived(observed: &Observed) -> bool {
    match &observed.postgres {
        Postgres::Running(running) => running.restores,
        Postgres::NoData
        | Postgres::Unreadable(_)
        | Postgres::Stopped(_)
        | Postgres::Starting { .. }
        | Postgres::Unresponsive { .. } => false,
    }
}

/// Where the WAL of a primary that died ends, as it is read before a decision too.
async fn read_wal_end(server: &Server, observed: &mut Observed) {
    let Postgres::Stopped(control) = &observed.postgres else { return };
    let known = observed.directory.wal_end.as_ref();
    let Some(end) = own_end(&observed.postgres).filter(|end| !end.exact) else { return };
    if known.is_some_and(|known| known.checkpoint == control.checkpoint) {
        return;
    }
    let checkpoint = control.checkpoint;
    let last_record = server.last_record(end.timeline, checkpoint).await;
    let last_record = last_record.map_err(|error| error.to_string());
    observed.directory.wal_end = Some(WalEnd { checkpoint, timeline: end.timeline, last_record });
}
