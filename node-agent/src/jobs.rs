//! Long work, one piece at a time, beside the loop: it goes on observing and renewing meanwhile.

use crate::clock;
use crate::keeper::Keeper;
use crate::postgres::{Effective, Error, Server, StartAs, StopMode};
use node_agent_core::observed::{Job, JobKind};
use node_agent_core::postgres::{Postgres, Upstream};
use node_agent_core::time::Boot;
use node_agent_wire::{Lsn, TimelineId};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::{Notify, oneshot};
use tokio::task::JoinHandle;

/// A restart, a promotion or a start that takes longer has failed.
const START_MAX: Duration = Duration::from_secs(300);
/// A clean shutdown that takes longer is escalated.
const STOP_MAX: Duration = Duration::from_secs(60);
/// An urgent stop escalates soon: the lease is gone.
const STOP_URGENT_MAX: Duration = Duration::from_millis(500);
/// The CHECKPOINT before a switchover may take this long, then the shutdown does the rest.
const CHECKPOINT_MAX: Duration = Duration::from_secs(30);
/// Finding a server that knows the names of the tables in a divergence report.
const NAMES_MAX: Duration = Duration::from_secs(10);
/// A base backup or a rewind.
const COPY_MAX: Duration = Duration::from_secs(24 * 3600);

/// What a job came to.
#[derive(Debug)]
pub struct Outcome {
    /// Which job.
    pub job: Job,
    /// Why it failed.
    pub result: Result<(), String>,
}

/// What jobs work with.
#[derive(Clone)]
pub struct Tools {
    /// PostgreSQL.
    pub server: Arc<Server>,
    /// The lease.
    pub keeper: Arc<Keeper>,
    /// `false` from a promotion until its checkpoint is done.
    pub checkpointed: Arc<AtomicBool>,
}

/// The job under way, if any.
pub struct Jobs {
    current: Option<(Job, JoinHandle<Result<(), String>>)>,
    done: Arc<Notify>,
}

impl Jobs {
    /// None; `done` is notified when one ends.
    #[must_use]
    pub fn new(done: Arc<Notify>) -> Self {
        Self { current: None, done }
    }

    /// The job under way.
    #[must_use]
    pub fn current(&self) -> Option<Job> {
        self.current.as_ref().map(|(job, _)| *job)
    }

    /// Begins a job. Refused while another one runs.
    pub fn begin(
        &mut self,
        kind: JobKind,
        work: impl Future<Output = Result<(), String>> + Send + 'static,
    ) {
        if self.current.is_some() {
            tracing::error!(?kind, "a second job was to begin; it is not begun");
            return;
        }
        let done = self.done.clone();
        let task = tokio::spawn(async move {
            let result = work.await;
            done.notify_one();
            result
        });
        self.current = Some((Job { kind, since: clock::boot() }, task));
    }

    /// The outcome of a job that has ended since the last call.
    pub async fn reap(&mut self) -> Option<Outcome> {
        if !self.current.as_ref().is_some_and(|(_, task)| task.is_finished()) {
            return None;
        }
        let (job, task) = self.current.take()?;
        let result = match task.await {
            Ok(result) => result,
            Err(error) => Err(format!("the work itself failed: {error}")),
        };
        Some(Outcome { job, result })
    }
}

/// An error with its hint, in one line.
fn told(error: &Error) -> String {
    format!("{error}; {}", error.hint())
}

/// When the lease ends now; in the past when it is not held.
fn lease_end(keeper: &Keeper) -> Boot {
    keeper.held_until().unwrap_or_default()
}

/// initdb, the first start, users.
pub async fn initdb(tools: Tools, settings: Effective) -> Result<(), String> {
    let server = &tools.server;
    clear(server).await?;
    server.initdb().await.map_err(|e| told(&e))?;
    start_primary(&tools, &settings).await?;
    server.create_users().await.map_err(|e| told(&e))
}

/// Starts writable, the guard armed with the lease's end from the first moment.
pub async fn start_primary(tools: &Tools, settings: &Effective) -> Result<(), String> {
    tools.keeper.arm(true);
    let deadline = lease_end(&tools.keeper);
    tools.server.start(StartAs::Primary { deadline }, settings).await.map_err(|e| told(&e))?;
    tools.server.wait_ready(START_MAX).await.map_err(|e| told(&e))
}

/// Starts as a standby.
pub async fn start_standby(
    tools: Tools,
    settings: Effective,
    upstream: Upstream,
) -> Result<(), String> {
    tools.keeper.arm(false);
    let server = &tools.server;
    server.start(StartAs::Standby(&upstream), &settings).await.map_err(|e| told(&e))
}

/// Promotes, the guard armed first, and has the checkpoint made in the background.
pub async fn promote(tools: Tools) -> Result<(), String> {
    tools.keeper.arm(true);
    tools.checkpointed.store(false, Ordering::SeqCst);
    let deadline = lease_end(&tools.keeper);
    let promoted = tools.server.promote(deadline, START_MAX).await.map_err(|e| told(&e));
    let checkpointed = tools.checkpointed.clone();
    if promoted.is_err() {
        checkpointed.store(true, Ordering::SeqCst);
        return promoted;
    }
    // pg_rewind of other members needs the new timeline in the control file: a checkpoint.
    let server = tools.server.clone();
    tokio::spawn(async move {
        if let Err(error) = server.checkpoint(COPY_MAX).await {
            tracing::warn!(%error, "the checkpoint after the promotion failed");
        }
        checkpointed.store(true, Ordering::SeqCst);
    });
    Ok(())
}

/// How a primary is stopped.
#[derive(Clone, Copy, Debug)]
pub struct Demotion {
    /// How.
    pub mode: StopMode,
    /// CHECKPOINT first.
    pub checkpoint: bool,
    /// Release the leader key afterwards.
    pub release: bool,
}

/// Stops a primary.
pub async fn demote(tools: Tools, how: Demotion) -> Result<(), String> {
    let server = &tools.server;
    if how.checkpoint
        && let Err(error) = server.checkpoint(CHECKPOINT_MAX).await
    {
        tracing::warn!(%error, "the checkpoint before the shutdown failed; the shutdown makes one");
    }
    let deadline = match how.mode {
        StopMode::Fast => STOP_MAX,
        StopMode::Immediate => STOP_URGENT_MAX,
    };
    let control = server.stop(how.mode, deadline).await.map_err(|e| told(&e))?;
    tools.keeper.arm(false);
    tracing::info!(state = ?control.state, checkpoint = %control.checkpoint, "stopped");
    if how.release {
        tools.keeper.release().await.map_err(|e| e.to_string())?;
    }
    Ok(())
}

/// A base backup of the first source that answers.
pub async fn clone(tools: Tools, upstream: Upstream) -> Result<(), String> {
    let (host, port) = locate(&tools.server, &upstream).await?;
    let progress = |p: crate::postgres::Progress| {
        tracing::info!(done = p.done_bytes, total = p.total_bytes, "base backup");
    };
    clear(&tools.server).await?;
    tools.server.basebackup(&host, port, progress, COPY_MAX).await.map_err(|e| told(&e))
}

/// Removes what an interrupted initdb or base backup left; anything else in the directory stays,
/// and is an error.
async fn clear(server: &Server) -> Result<(), String> {
    match server.observe(clock::boot(), Duration::from_secs(5)).await {
        Postgres::NoData => server.remove_data().await.map_err(|e| told(&e)),
        Postgres::Unreadable(_)
        | Postgres::Stopped(_)
        | Postgres::Starting { .. }
        | Postgres::Running(_)
        | Postgres::Unresponsive { .. } => {
            Err(format!("{} is not empty; nothing was changed", server.data_dir().display()))
        }
    }
}

async fn locate(server: &Server, upstream: &Upstream) -> Result<(String, u16), String> {
    match upstream {
        Upstream::Member { host, port, .. } => Ok((host.clone(), *port)),
        Upstream::Remote { hosts, .. } => server
            .remote_identity(hosts, Duration::from_secs(5))
            .await
            .map(|who| (who.host, who.port))
            .map_err(|e| told(&e)),
        Upstream::Nobody => Err("there is no source to copy".to_owned()),
    }
}

/// What a rewind works on.
#[derive(Clone, Debug)]
pub struct RewindPlan {
    /// Sources in order; the first that is read-write counts.
    pub hosts: Vec<(String, u16)>,
    /// The last common timeline.
    pub timeline: TimelineId,
    /// The end of what is common.
    pub fork: Lsn,
    /// Where divergent WAL is kept; `None`: it is not.
    pub keep: Option<PathBuf>,
}

/// Reports and keeps what will be lost, then rewinds. Nothing is discarded before the report is
/// written (I8).
pub async fn rewind(tools: Tools, plan: RewindPlan) -> Result<(), String> {
    let server = &tools.server;
    server.stop(StopMode::Fast, STOP_MAX).await.map_err(|e| told(&e))?;
    let mut lost = server
        .divergence_report(plan.fork, plan.timeline, plan.keep)
        .await
        .map_err(|e| format!("nothing was discarded, the report of it failed: {}", told(&e)))?;
    if let Err(error) = server.name_relations(&mut lost, &plan.hosts, NAMES_MAX).await {
        // The report is written; the WAL's own numbers of the tables stay in it.
        tracing::warn!(error = %told(&error), "the divergence report names no tables");
    }
    tracing::warn!(
        bytes = lost.bytes,
        transactions = lost.transactions,
        first_commit = lost.first_commit.as_deref().unwrap_or("none"),
        last_commit = lost.last_commit.as_deref().unwrap_or("none"),
        complete = lost.complete,
        fork = %plan.fork,
        timeline = %plan.timeline,
        report = %lost.report.display(),
        "discarding divergent WAL"
    );
    server.rewind(&plan.hosts, COPY_MAX).await.map_err(|e| told(&e))
}

/// Stops and starts in the same role.
pub async fn restart(
    tools: Tools,
    settings: Effective,
    standby_of: Option<Upstream>,
    reply: Option<oneshot::Sender<Result<(), String>>>,
) -> Result<(), String> {
    let work = async {
        tools.server.stop(StopMode::Fast, STOP_MAX).await.map_err(|e| told(&e))?;
        match standby_of {
            Some(upstream) => {
                start_standby(tools.clone(), settings, upstream).await?;
                tools.server.wait_ready(START_MAX).await.map_err(|e| told(&e))
            }
            None => start_primary(&tools, &settings).await,
        }
    };
    let result = work.await;
    if let Some(reply) = reply {
        let _gone_is_fine = reply.send(result.clone());
    }
    result
}
