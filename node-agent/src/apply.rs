//! Carries a decision out. No choices are left here.

use crate::clock;
use crate::dcs::{Compare, Dcs, DcsError, Write};
use crate::jobs::{self, Demotion, Jobs, RewindPlan, Tools};
use crate::observe::Memory;
use crate::peers::Peers;
use crate::postgres::{Effective, Error, StopMode};
use crate::publish;
use node_agent_core::decision::{self, Act, Decision, Tend};
use node_agent_core::divergence::SourceHistory;
use node_agent_core::observed::{Cluster, JobKind, Observed, RecordView};
use node_agent_core::postgres::{Postgres, Upstream};
use node_agent_core::slots::SlotChange;
use node_agent_wire::config::LocalConfig;
use node_agent_wire::dynamic::SynchronousMode;
use node_agent_wire::federation::{FederationRecord, FenceAck};
use node_agent_wire::keys::{ClusterPath, Leaf};
use node_agent_wire::{MemberName, Revision, SlotName};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, oneshot};

/// Commits wait for new names once the checkpointer has read them. It does so within milliseconds
/// unless it is in the middle of an fsync; this long after the reload, and seen idle, it has.
const SYNC_NAMES_SETTLE: Duration = Duration::from_secs(1);

/// One question to a source at a time, and its answer.
#[derive(Default)]
pub struct HistoryDesk {
    answer: Arc<Mutex<Option<SourceHistory>>>,
    asking: Arc<Mutex<bool>>,
}

impl HistoryDesk {
    /// The last answer.
    #[must_use]
    pub fn latest(&self) -> Option<SourceHistory> {
        self.answer.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Everything that effects are carried out with.
pub struct Hands {
    /// The local configuration.
    pub config: Arc<LocalConfig>,
    /// The DCS of this datacenter.
    pub dcs: Arc<dyn Dcs>,
    /// Its keys.
    pub path: ClusterPath,
    /// PostgreSQL and the lease.
    pub tools: Tools,
    /// Long work.
    pub jobs: Jobs,
    /// Questions to sources.
    pub desk: HistoryDesk,
    /// Questions to members.
    pub peers: Peers,
    /// Wakes the loop.
    pub wake: Arc<Notify>,
    /// The settings that PostgreSQL was last given.
    pub applied: Option<Effective>,
    /// Who waits for the restart.
    pub restart_reply: Option<oneshot::Sender<Result<(), String>>>,
}

impl Hands {
    /// Carries out everything.
    pub async fn apply(&mut self, memory: &mut Memory, observed: &Observed, decision: Decision) {
        let Some(cluster) = observed.cluster.known() else {
            if let Some(act) = decision.act {
                self.act(memory, observed, None, act).await;
            }
            return;
        };
        // Stopping a primary waits for nothing; everything else comes after its preparations.
        let (urgent, act) = match decision.act {
            act @ Some(Act::Demote { .. }) => (act, None),
            act => (None, act),
        };
        if let Some(act) = urgent {
            self.act(memory, observed, Some(cluster), act).await;
        }
        for tend in decision.tend {
            self.tend(memory, observed, cluster, tend).await;
        }
        if let Some(act) = act {
            self.act(memory, observed, Some(cluster), act).await;
        }
    }

    fn settings(&self, observed: &Observed) -> Effective {
        Effective::merge(&self.config, &observed.config)
    }

    fn deadline(observed: &Observed) -> Duration {
        observed.config.timing.retry_timeout
    }

    async fn act(
        &mut self,
        memory: &mut Memory,
        observed: &Observed,
        cluster: Option<&Cluster>,
        act: Act,
    ) {
        let settings = self.settings(observed);
        let tools = self.tools.clone();
        match act {
            Act::Acquire(winner) => self.acquire(winner.why()).await,
            Act::Release => {
                memory.stand_back_until = Some(clock::boot() + observed.config.timing.ttl);
                note(self.tools.keeper.release().await, "releasing the leader key");
            }
            Act::Promote(_) => {
                memory.data_generation += 1;
                self.jobs.begin(JobKind::Promote, jobs::promote(tools));
            }
            Act::StartPrimary(_) => {
                self.applied = Some(settings.clone());
                self.jobs.begin(JobKind::Start, async move {
                    jobs::start_primary(&tools, &settings).await
                });
            }
            Act::Demote { mode, checkpoint, release } => {
                let how = Demotion { mode: stop_mode(mode), checkpoint, release };
                self.jobs.begin(JobKind::Demote, jobs::demote(tools, how));
            }
            Act::Initdb(_) => self.initdb(memory, settings).await,
            Act::Clone(source) => {
                memory.data_generation += 1;
                self.jobs.begin(JobKind::Clone, jobs::clone(tools, source));
            }
            Act::Rewind { source, timeline, fork } => {
                memory.data_generation += 1;
                let plan = self.rewind_plan(observed, &source, timeline, fork);
                self.jobs.begin(JobKind::Rewind, jobs::rewind(tools, plan));
            }
            Act::AcknowledgeFence(ack) => self.acknowledge(observed, cluster, *ack).await,
            Act::Restart => self.restart(memory, observed, settings),
        }
    }

    async fn acquire(&self, why: &str) {
        match self.tools.keeper.acquire().await {
            Ok(true) => tracing::info!(why, "took the leader key"),
            Ok(false) => tracing::info!("another member took the leader key first"),
            Err(error) => tracing::warn!(%error, "taking the leader key"),
        }
        self.wake.notify_one();
    }

    async fn initdb(&mut self, memory: &mut Memory, settings: Effective) {
        memory.data_generation += 1;
        // Patroni members must see that a bootstrap is under way (contract A.4).
        let key = self.path.key(Leaf::Initialize);
        let absent = [Compare::Absent(key.clone())];
        let put = [Write::put(key, "")];
        note(
            self.dcs.write(&absent, &put, Duration::from_secs(2)).await.map(|_| ()),
            "announcing the bootstrap",
        );
        self.applied = Some(settings.clone());
        let tools = self.tools.clone();
        self.jobs.begin(JobKind::Bootstrap, jobs::initdb(tools, settings));
    }

    fn rewind_plan(
        &self,
        observed: &Observed,
        source: &Upstream,
        timeline: node_agent_wire::TimelineId,
        fork: node_agent_wire::Lsn,
    ) -> RewindPlan {
        // In a standby cluster everybody rewinds to the remote primary: a standby's own control
        // file may still be on the old timeline.
        let remote = observed.config.standby_cluster.as_ref().map(|s| s.hosts());
        let hosts = match (remote, source) {
            (Some(hosts), _) if !hosts.is_empty() => hosts,
            (_, Upstream::Member { host, port, .. }) => vec![(host.clone(), *port)],
            (_, Upstream::Remote { hosts, .. }) => hosts.clone(),
            (_, Upstream::Nobody) => Vec::new(),
        };
        let keep = crate::observe::record_of(observed)
            .is_none_or(|r| r.policies.keep_divergent_wal)
            .then(|| {
                let data = self.tools.server.data_dir();
                let name = data.file_name().map(|n| n.to_string_lossy().into_owned());
                let name = name.unwrap_or_else(|| "data".to_owned());
                data.with_file_name(format!("{name}.divergent-{}", clock::wall_us()))
            });
        RewindPlan { hosts, timeline, fork, keep }
    }

    async fn acknowledge(&self, observed: &Observed, cluster: Option<&Cluster>, ack: FenceAck) {
        let Some(RecordView::Present(keyed)) = cluster.map(|c| &c.record) else { return };
        let mut record = keyed.value.clone();
        let Some(fence) = record.fence.as_mut() else { return };
        tracing::info!(
            checkpoint = %ack.checkpoint, timeline = %ack.timeline, "acknowledging the fence"
        );
        fence.ack = Some(ack);
        self.replace_record(observed, &record, keyed.revision).await;
    }

    async fn replace_record(&self, observed: &Observed, record: &FederationRecord, over: Revision) {
        let current = crate::observe::record_of(observed);
        if let Some(Err(rule)) = current.map(|c| c.check_successor(record)) {
            tracing::error!(%rule, "the federation record is not written");
            return;
        }
        let key = self.path.key(Leaf::Federation);
        let condition = [Compare::AtRevision(key.clone(), over)];
        let Ok(value) = serde_json::to_vec(record) else { return };
        let put = [Write::put(key, value)];
        match self.dcs.write(&condition, &put, Self::deadline(observed)).await {
            Ok(Some(_)) => {}
            Ok(None) => tracing::info!("the federation record changed meanwhile; looking again"),
            Err(error) => tracing::warn!(%error, "the federation record was not written"),
        }
        self.wake.notify_one();
    }

    fn restart(&mut self, memory: &mut Memory, observed: &Observed, settings: Effective) {
        memory.request = None;
        self.applied = Some(settings.clone());
        let primary = matches!(&observed.postgres, Postgres::Running(r) if !r.in_recovery);
        let standby_of = (!primary).then(|| observed.following.clone().unwrap_or(Upstream::Nobody));
        let reply = self.restart_reply.take();
        let tools = self.tools.clone();
        self.jobs.begin(JobKind::Restart, jobs::restart(tools, settings, standby_of, reply));
    }

    async fn tend(
        &mut self,
        memory: &mut Memory,
        observed: &Observed,
        cluster: &Cluster,
        tend: Tend,
    ) {
        let server = self.tools.server.clone();
        match tend {
            Tend::ReplaceRecord { record, over } => {
                self.replace_record(observed, &record, over).await;
            }
            Tend::StartStandby(upstream) => {
                let settings = self.settings(observed);
                self.applied = Some(settings.clone());
                let work = jobs::start_standby(self.tools.clone(), settings, upstream);
                self.jobs.begin(JobKind::Start, work);
            }
            Tend::Follow(upstream) => {
                let settings = self.settings(observed);
                told(server.follow(&upstream, &settings).await, "following another source");
            }
            Tend::AskPeers => self.ask_peers(memory, observed).await,
            Tend::AskHistory(upstream) => self.ask_history(upstream),
            Tend::Slot(change) => self.change_slot(memory, change).await,
            Tend::WriteSync { sync, over } => {
                self.write_at(observed, Leaf::Sync, over, Some(sync.to_json()), "/sync").await;
            }
            Tend::DeleteSync(over) => {
                self.write_at(observed, Leaf::Sync, over, None, "/sync").await;
            }
            Tend::SetSyncNames(names) => {
                let off = observed.config.effective_sync_mode() == SynchronousMode::Off;
                self.set_sync_names(memory, (!off).then_some(names.as_str())).await;
            }
            Tend::ClearFailover { over, why } => {
                tracing::info!(why, "the switchover request is cleared");
                self.write_at(observed, Leaf::Failover, over, Some("{}".into()), "/failover").await;
            }
            Tend::PublishLeader => self.publish_leader(memory, observed, cluster).await,
            Tend::ApplySettings => {
                let settings = self.settings(observed);
                if self.applied.as_ref() != Some(&settings) {
                    told(server.apply_settings(&settings).await, "applying settings");
                    self.applied = Some(settings);
                }
            }
        }
    }

    async fn ask_peers(&self, memory: &mut Memory, observed: &Observed) {
        // Members that have lost their key are asked too, where they answered last; those of the
        // read that this pass is made from are in the memory already.
        let members = memory.members.values().map(|(member, _)| member);
        let poll = self.peers.ask(members, &observed.me.name).await;
        memory.poll = Some(poll);
        self.wake.notify_one();
    }

    fn ask_history(&self, upstream: Upstream) {
        let mut asking = self.desk.asking.lock().unwrap_or_else(PoisonError::into_inner);
        if std::mem::replace(&mut *asking, true) {
            return;
        }
        drop(asking);
        let (answer, asking) = (self.desk.answer.clone(), self.desk.asking.clone());
        let (server, wake) = (self.tools.server.clone(), self.wake.clone());
        tokio::spawn(async move {
            let at = clock::boot();
            let history = history(&server, &upstream).await;
            let changed = {
                let mut slot = answer.lock().unwrap_or_else(PoisonError::into_inner);
                let next = SourceHistory { upstream, at, answer: history };
                let changed = slot
                    .as_ref()
                    .is_none_or(|old| old.upstream != next.upstream || old.answer != next.answer);
                *slot = Some(next);
                changed
            };
            *asking.lock().unwrap_or_else(PoisonError::into_inner) = false;
            if changed {
                wake.notify_one();
            }
        });
    }

    async fn change_slot(&self, memory: &mut Memory, change: SlotChange) {
        let server = &self.tools.server;
        let (name, result): (SlotName, Result<(), Error>) = match change {
            SlotChange::Create(name) => {
                tracing::info!(slot = %name, "creating the slot");
                let result = server.create_slot(&name).await;
                (name, result)
            }
            SlotChange::Drop(name) => {
                tracing::info!(slot = %name, "dropping the slot");
                let result = server.drop_slot(&name).await;
                (name, result)
            }
            SlotChange::Advance(name, to) => {
                let result = server.advance_slot(&name, to).await;
                (name, result)
            }
        };
        match result {
            Ok(()) => {
                memory.slot_errors.remove(&name);
            }
            Err(error) => {
                let text = format!("{error}; {}", error.hint());
                if memory.slot_errors.get(&name) != Some(&text) {
                    tracing::warn!(slot = %name, error = %text, "the slot was not changed");
                    memory.slot_errors.insert(name, text);
                }
            }
        }
    }

    /// Sets the names; and later, when they are sure to be in force everywhere, notes the end of
    /// WAL from which on commits have waited for them.
    /// `None`: synchronous mode is off, the user's own value is restored.
    async fn set_sync_names(&self, memory: &mut Memory, names: Option<&str>) {
        let server = &self.tools.server;
        let since = memory.sync_names.as_ref().filter(|(known, _)| Some(known.as_str()) == names);
        let Some((_, since)) = since else {
            // Whatever happens now: the old position says nothing about these names.
            memory.sync_names_set_at = None;
            memory.sync_names = None;
            tracing::info!(names = names.unwrap_or("(the user's)"), "synchronous_standby_names");
            match server.set_sync_names(names).await {
                Ok(()) => memory.sync_names = names.map(|n| (n.to_owned(), clock::boot())),
                Err(error) => {
                    let hint = error.hint();
                    tracing::warn!(%error, hint, "synchronous_standby_names were not set");
                }
            }
            return;
        };
        if clock::boot().since(*since) < SYNC_NAMES_SETTLE {
            return;
        }
        match server.checkpointer_attends().await {
            Ok(true) => {}
            Ok(false) => return,
            Err(error) => {
                tracing::warn!(%error, hint = error.hint(), "asking for the checkpointer's state");
                return;
            }
        }
        let after = server.observe(clock::boot(), Duration::from_secs(1)).await;
        memory.sync_names_set_at = match after {
            Postgres::Running(running) => Some(running.lsn),
            Postgres::NoData
            | Postgres::Unreadable(_)
            | Postgres::Stopped(_)
            | Postgres::Starting { .. }
            | Postgres::Unresponsive { .. } => None,
        };
    }

    async fn write_at(
        &self,
        observed: &Observed,
        leaf: Leaf<'_>,
        over: Revision,
        value: Option<String>,
        what: &'static str,
    ) {
        let key = self.path.key(leaf);
        let write = match value {
            Some(value) => Write::put(key.clone(), value),
            None => Write::Delete(key.clone()),
        };
        let conditions =
            [Compare::AtRevision(key, over), publish::as_leader(&self.path, &observed.me.name)];
        match self.dcs.write(&conditions, &[write], Self::deadline(observed)).await {
            Ok(Some(_)) => self.wake.notify_one(),
            Ok(None) => {
                tracing::info!(what, "it changed meanwhile; looking again");
                self.wake.notify_one();
            }
            // The next pass tries again in its time.
            Err(error) => tracing::warn!(what, %error, "it was not written"),
        }
    }

    async fn publish_leader(&self, memory: &Memory, observed: &Observed, cluster: &Cluster) {
        let (path, raw) = (&self.path, &memory.raw);
        let bootstrap = &self.config.bootstrap.dcs;
        let writes = publish::leader_writes(path, observed, cluster, raw, bootstrap);
        if writes.is_empty() {
            return;
        }
        let mine = [publish::as_leader(&self.path, &observed.me.name)];
        let written = self.dcs.write(&mine, &writes, Self::deadline(observed)).await;
        note(written.map(|_| ()), "publishing the leader's state");
    }
}

async fn history(
    server: &crate::postgres::Server,
    upstream: &Upstream,
) -> Result<node_agent_wire::history::TimelineHistory, String> {
    const ASK_MAX: Duration = Duration::from_secs(2);
    let (host, port) = match upstream {
        Upstream::Member { host, port, .. } => (host.clone(), *port),
        Upstream::Remote { hosts, .. } => {
            let who = server.remote_identity(hosts, ASK_MAX).await.map_err(|e| e.to_string())?;
            if who.in_recovery {
                return Err(format!("{}:{} is not a primary yet", who.host, who.port));
            }
            (who.host, who.port)
        }
        Upstream::Nobody => return Err("nobody is followed".to_owned()),
    };
    server.history_of(Some((&host, port)), ASK_MAX).await.map_err(|e| e.to_string())
}

fn stop_mode(mode: decision::StopMode) -> StopMode {
    match mode {
        decision::StopMode::Fast => StopMode::Fast,
        decision::StopMode::Immediate => StopMode::Immediate,
    }
}

fn note(result: Result<(), DcsError>, what: &'static str) {
    if let Err(error) = result {
        tracing::warn!(%error, what, "not done");
    }
}

fn told<T>(result: Result<T, Error>, what: &'static str) {
    if let Err(error) = result {
        tracing::warn!(%error, hint = error.hint(), what, "not done");
    }
}

/// A member's name out of the configuration.
#[must_use]
pub fn member_name(config: &LocalConfig) -> MemberName {
    MemberName::new(&config.name)
}
