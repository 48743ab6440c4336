//! The calls. Each that changes something names its epoch; one that is older than what this node
//! knows is refused here, at the node that it targets.

use super::examine::{addresses, examine};
use super::grants;
use crate::clock;
use crate::postgres::divergence::ChangedRelation;
use crate::postgres::{Divergence, Error as PostgresError};
use crate::rest::freshness;
use crate::view::{Handle, View};
use node_agent_core::observed::RecordView;
use node_agent_core::time::Boot;
use node_agent_wire::Epoch;
use node_agent_wire::federation::FederationRecord;
use node_agent_wire::proto::agent_server::Agent;
use node_agent_wire::proto::{
    CheckpointReply, CheckpointRequest, DiscardedWal, Examination, ExamineRequest, FenceReply,
    FenceRequest, NodeStatus, PromoteReply, PromoteRequest, Slot, StatusRequest,
};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio_stream::Stream;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::WatchStream;
use tonic::{Request, Response, Status};

/// No call may wait longer, whatever it asks for.
const WAIT_MAX: Duration = Duration::from_secs(600);
/// What a call waits when it names no deadline.
const WAIT_DEFAULT: Duration = Duration::from_secs(30);

/// The service over the agent's handle.
pub struct Service {
    handle: Handle,
}

impl Service {
    /// For this agent.
    #[must_use]
    pub fn new(handle: Handle) -> Self {
        Self { handle }
    }

    /// Wakes the loop and waits for its work: the view that shows it, `None` when the deadline has
    /// passed. A request under an epoch that is over is refused, also when it turns out to be over
    /// while it waits.
    async fn act(
        &self,
        epoch: Epoch,
        deadline: Duration,
        done: impl Fn(&View) -> bool,
    ) -> Result<Option<Arc<View>>, Status> {
        check_epoch(&self.handle.latest(), epoch).map_err(|refused| *refused)?;
        self.handle.look();
        let ended = |view: &View| done(view) || check_epoch(view, epoch).is_err();
        let view = self.handle.until(deadline, ended).await;
        if let Some(view) = &view {
            check_epoch(view, epoch).map_err(|refused| *refused)?;
        }
        Ok(view)
    }
}

fn record(view: &View) -> Option<&FederationRecord> {
    view.cluster().map(|c| &c.record).and_then(RecordView::get)
}

fn deadline(ms: u32) -> Duration {
    match ms {
        0 => WAIT_DEFAULT,
        ms => Duration::from_millis(u64::from(ms)).min(WAIT_MAX),
    }
}

/// The request's epoch is not older than what this node knows.
fn check_epoch(view: &View, epoch: Epoch) -> Result<(), Box<Status>> {
    match record(view) {
        Some(record) if epoch < record.epoch => {
            Err(Box::new(Status::failed_precondition(format!(
                "epoch {epoch} is over: this node knows epoch {} with primary {}",
                record.epoch, record.primary
            ))))
        }
        Some(_) | None => Ok(()),
    }
}

fn waited(what: &str, view: &View) -> Status {
    Status::deadline_exceeded(format!(
        "waited for {what}; the node is at rule {} {}: {}",
        view.rule.number(),
        view.rule.name(),
        view.why
    ))
}

/// The checkpoint did not come about. Not `UNAVAILABLE`: that says that nobody answered.
fn checkpoint_failed(error: &PostgresError) -> Status {
    let text = format!("CHECKPOINT: {error}; {}", error.hint());
    match error {
        PostgresError::Deadline { .. } => Status::deadline_exceeded(text),
        PostgresError::Config { .. }
        | PostgresError::File { .. }
        | PostgresError::Spawn { .. }
        | PostgresError::Command { .. }
        | PostgresError::Connect { .. }
        | PostgresError::Query { .. }
        | PostgresError::Guard { .. }
        | PostgresError::Start { .. }
        | PostgresError::Refused { .. }
        | PostgresError::Answer { .. } => Status::failed_precondition(text),
    }
}

/// Whether PostgreSQL accepts writes under this epoch, and this node leads.
pub(super) fn promoted(view: &View, epoch: Epoch, now: Boot) -> bool {
    view.writable()
        && view.leads(now)
        && record(view).is_some_and(|r| r.epoch == epoch && r.names_us() && r.fence.is_none())
}

/// Whether the fence that the request means is acknowledged in this view.
pub(super) fn acknowledged(view: &View, epoch: Epoch, operation: &str) -> Option<FenceReply> {
    let fence = record(view)?.fence.as_ref()?;
    let same_operation =
        operation.is_empty() || fence.operation.as_ref().is_some_and(|o| o.as_str() == operation);
    if fence.epoch < epoch || !same_operation {
        return None;
    }
    let ack = fence.ack.as_ref()?;
    Some(FenceReply {
        checkpoint_lsn: ack.checkpoint.0,
        timeline: ack.timeline.0,
        node: ack.node.to_string(),
    })
}

/// What a node says of itself.
#[must_use]
pub fn status(handle: &Handle, view: &View) -> NodeStatus {
    let running = view.running();
    let cluster = view.cluster();
    let record = record(view);
    let copied = view.progress.read();
    let sync = cluster.map(|c| &c.sync.value);
    let standbys: Vec<&str> = sync
        .into_iter()
        .flat_map(|s| s.sync_standby.iter())
        .map(node_agent_wire::MemberName::as_str)
        .collect();
    NodeStatus {
        name: handle.config.name.clone(),
        scope: handle.config.scope.clone(),
        role: view.role().as_str().to_owned(),
        state: view.member.state.clone(),
        writable: view.writable(),
        holds_leader_key: view.leads(clock::boot()),
        leader: cluster
            .and_then(|c| c.leader.as_ref())
            .map(ToString::to_string)
            .unwrap_or_default(),
        timeline: running.map_or(0, |r| r.timeline.0),
        lsn: running.map_or(0, |r| r.lsn.0),
        replay_lsn: running.and_then(|r| r.replay_lsn).map_or(0, |l| l.0),
        replication_state: view.member.replication_state.clone().unwrap_or_default(),
        replay_paused: running.is_some_and(|r| r.replay_paused),
        rule: view.rule.number(),
        why: view.why.clone(),
        epoch: record.map_or(0, |r| r.epoch.0),
        fenced: record.is_some_and(|r| r.fence.is_some()),
        system_id: view.observed.postgres.system_id().map(ToString::to_string).unwrap_or_default(),
        server_version: running.map_or(0, |r| r.server_version),
        synchronous_mode: sync.is_some_and(|s| s.active()),
        sync_standby: standbys.join(","),
        slots: running.map(slots).unwrap_or_default(),
        replayed_commit_at_us: running.and_then(|r| r.replayed_commit_at_us).unwrap_or(0),
        version: crate::publish::VERSION.to_owned(),
        pending_restart: running.is_some_and(|r| r.pending_restart),
        grants: grants::told(view),
        wal_free_bytes: handle.server.wal_free_bytes(),
        slot_wal_limit_bytes: running.and_then(|r| r.slot_wal_limit_bytes),
        copy_done_bytes: copied.map_or(0, |p| p.done_bytes),
        replication_user: handle.server.replication_user(),
        copy_total_bytes: copied.map_or(0, |p| p.total_bytes),
        discarded: handle.server.last_report().as_ref().map(discarded),
    }
}

/// How many tables a status names.
const RELATIONS_SHOWN: usize = 5;

fn discarded(report: &Divergence) -> DiscardedWal {
    let named = |relation: &ChangedRelation| {
        let table = relation.table.clone().unwrap_or_else(|| {
            format!("{}/{}/{}", relation.tablespace, relation.database, relation.filenode)
        });
        let database = relation.database_name.as_ref().map(|name| format!("{name}: "));
        format!("{}{table} ({} records)", database.unwrap_or_default(), relation.records)
    };
    let count = |number: usize| u64::try_from(number).unwrap_or(u64::MAX);
    let beyond = report.relations.len().saturating_sub(RELATIONS_SHOWN);
    DiscardedWal {
        fork: report.fork.0,
        timeline: report.timeline.0,
        bytes: report.bytes,
        transactions: report.transactions,
        first_commit: report.first_commit.clone().unwrap_or_default(),
        last_commit: report.last_commit.clone().unwrap_or_default(),
        relations: report.relations.iter().take(RELATIONS_SHOWN).map(named).collect(),
        relations_not_listed: count(beyond.saturating_add(report.relations_not_listed)),
        complete: report.complete,
        kept_in: report.kept_in.as_ref().map(|p| p.display().to_string()).unwrap_or_default(),
        report: report.report.display().to_string(),
    }
}

fn slots(running: &node_agent_core::postgres::Running) -> Vec<Slot> {
    running
        .slots
        .iter()
        .map(|s| Slot {
            name: s.name.to_string(),
            active: s.active,
            restart_lsn: s.restart_lsn.map_or(0, |l| l.0),
            wal_status: s.wal_status.clone(),
            kind: if s.physical { "physical" } else { "logical" }.to_owned(),
            database: s.database.clone().unwrap_or_default(),
            plugin: s.plugin.clone().unwrap_or_default(),
            confirmed_flush_lsn: s.confirmed_lsn.map(|l| l.0),
            failover: s.failover,
            synced: s.synced,
            lost: if s.lost { s.why_lost().to_owned() } else { String::new() },
        })
        .collect()
}

type StatusStream = Pin<Box<dyn Stream<Item = Result<NodeStatus, Status>> + Send>>;

#[tonic::async_trait]
impl Agent for Service {
    type WatchStatusStream = StatusStream;

    async fn status(&self, _: Request<StatusRequest>) -> Result<Response<NodeStatus>, Status> {
        let view = freshness::view(&self.handle).await;
        Ok(Response::new(status(&self.handle, &view)))
    }

    async fn watch_status(
        &self,
        _: Request<StatusRequest>,
    ) -> Result<Response<StatusStream>, Status> {
        let handle = self.handle.clone();
        let mut last: Option<NodeStatus> = None;
        let stream = WatchStream::new(self.handle.view.clone()).filter_map(move |view| {
            let now = status(&handle, &view);
            let changed = last.as_ref() != Some(&now);
            last = Some(now.clone());
            changed.then_some(Ok(now))
        });
        Ok(Response::new(Box::pin(stream)))
    }

    async fn fence(&self, request: Request<FenceRequest>) -> Result<Response<FenceReply>, Status> {
        let FenceRequest { epoch, operation, deadline_ms } = request.into_inner();
        let epoch = Epoch(epoch);
        let done = |view: &View| acknowledged(view, epoch, &operation);
        let view = self.act(epoch, deadline(deadline_ms), |view| done(view).is_some()).await?;
        view.as_deref()
            .and_then(done)
            .map(Response::new)
            .ok_or_else(|| waited("the acknowledgement of the fence", &self.handle.latest()))
    }

    async fn promote(
        &self,
        request: Request<PromoteRequest>,
    ) -> Result<Response<PromoteReply>, Status> {
        let request = request.into_inner();
        let epoch = Epoch(request.epoch);
        let done = |view: &View| promoted(view, epoch, clock::boot());
        let view = self.act(epoch, deadline(request.deadline_ms), done).await?;
        let Some(view) = view else {
            return Err(waited("PostgreSQL to accept writes", &self.handle.latest()));
        };
        Ok(Response::new(PromoteReply {
            node: self.handle.config.name.clone(),
            timeline: view.running().map_or(0, |r| r.timeline.0),
        }))
    }

    async fn checkpoint(
        &self,
        request: Request<CheckpointRequest>,
    ) -> Result<Response<CheckpointReply>, Status> {
        let deadline = deadline(request.into_inner().deadline_ms);
        let begun = clock::boot();
        self.handle.server.checkpoint(deadline).await.map_err(|error| checkpoint_failed(&error))?;
        let took = clock::boot().since(begun);
        Ok(Response::new(CheckpointReply {
            duration_ms: u32::try_from(took.as_millis()).unwrap_or(u32::MAX),
        }))
    }

    async fn examine(
        &self,
        request: Request<ExamineRequest>,
    ) -> Result<Response<Examination>, Status> {
        let ExamineRequest { hosts, deadline_ms } = request.into_inner();
        let hosts = addresses(&hosts).map_err(|bad| {
            Status::invalid_argument(format!("\"{bad}\" is not an address as in 10.0.0.1:5432"))
        })?;
        let view = freshness::view(&self.handle).await;
        // Each of its questions has the same time; the caller waits as long as it likes.
        let answer = examine(&self.handle, &view, hosts, deadline(deadline_ms)).await;
        Ok(Response::new(answer))
    }
}
