//! Effects that can't be taken back.

use super::{Hands, note};
use crate::clock;
use crate::dcs::{Compare, Dcs, Write};
use crate::jobs::{self, CopyPlan, Farewell, ReinitPlan, RewindPlan, told};
use crate::keeper::Bid;
use crate::observe::Memory;
use crate::postgres::Effective;
use crate::postgres::method::{BootstrapPlan, CopyMethod, base_backup, copy_methods};
use crate::publish;
use node_agent_core::decision::{Act, Reinit};
use node_agent_core::election::Winner;
use node_agent_core::observed::{Cluster, JobKind, Observed, RecordView};
use node_agent_core::postgres::{Postgres, Upstream};
use node_agent_wire::Revision;
use node_agent_wire::dynamic::SynchronousMode;
use node_agent_wire::federation::{FederationRecord, FenceAck};
use node_agent_wire::keys::Leaf;
use std::path::PathBuf;
use std::time::Duration;

/// Taking the announcement of a bootstrap back.
const WITHDRAW_MAX: Duration = Duration::from_secs(5);
/// Before a copy is tried again that can't be begun.
const COPY_PAUSE: Duration = Duration::from_secs(5);

impl Hands {
    pub(super) async fn act(
        &mut self,
        memory: &mut Memory,
        observed: &Observed,
        cluster: Option<&Cluster>,
        act: Act,
    ) {
        let settings = self.settings(observed);
        let tools = self.tools.clone();
        match act {
            Act::Acquire(winner) => self.acquire(memory, &winner).await,
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
                let limit = observed.config.primary_start_timeout;
                self.jobs.begin(JobKind::Start, async move {
                    // 0 asks for a failover in place of recovery; when nobody could take over, it
                    // takes as long as it takes.
                    if limit.is_zero() {
                        let started = jobs::start_primary(&tools, &settings).await;
                        return started.map_err(|e| told(&e));
                    }
                    jobs::start_primary_within(&tools, &settings, limit).await.map_err(|e| told(&e))
                });
            }
            Act::Demote(mode) => {
                memory.stopped_by_us = true;
                let farewell = self.farewell(observed);
                self.jobs.begin(JobKind::Demote, jobs::demote(tools, mode, farewell));
            }
            Act::Initdb(_) => self.bootstrap(memory, observed, settings).await,
            Act::Clone(source) => self.clone(memory, observed, source),
            Act::CloneLeaderless => self.clone(memory, observed, Upstream::Nobody),
            Act::Reinit(reinit) => self.reinit(memory, observed, reinit),
            Act::Leave => self.leaving = true,
            Act::Rewind { source: _, to, timeline, fork } => {
                memory.data_generation += 1;
                let keep = self.place_of_divergent_wal(observed);
                let plan = RewindPlan { to, timeline, fork, keep, settings };
                self.jobs.begin(JobKind::Rewind, jobs::rewind(tools, plan));
            }
            Act::AcknowledgeFence(ack) => self.acknowledge(observed, cluster, *ack).await,
            Act::Restart => self.restart(memory, observed, settings),
        }
    }

    fn farewell(&self, observed: &Observed) -> Farewell {
        let config = &observed.config;
        let synchronous = config.effective_sync_mode() != SynchronousMode::Off;
        Farewell {
            limit: config.primary_stop_timeout.filter(|_| synchronous),
            dcs: self.dcs.clone(),
            path: self.path.clone(),
            name: observed.me.name.clone(),
            cluster: observed.cluster.known().cloned(),
            peers: self.peers.clone(),
        }
    }

    async fn acquire(&self, memory: &Memory, winner: &Winner) {
        let position = memory.raw.revision_of(&self.path.key(Leaf::Position));
        let bid = Bid { position, over: winner.over().cloned() };
        if let Err(promise) = self.tools.failsafe.begin_race(&memory.me.name, position) {
            // Given since the decision was made.
            tracing::info!(leader = %promise.leader, "the leader key is not taken: it leads on");
            return;
        }
        let outcome = self.tools.keeper.acquire(bid).await;
        self.tools.failsafe.end_race(self.tools.keeper.held_until().is_some());
        match outcome {
            Ok(true) => tracing::info!(why = winner.why(), "took the leader key"),
            Ok(false) => tracing::info!("another member took the leader key first"),
            Err(error) => tracing::warn!(%error, "taking the leader key"),
        }
        self.wake.notify_one();
    }

    async fn bootstrap(&mut self, memory: &mut Memory, observed: &Observed, settings: Effective) {
        memory.data_generation += 1;
        let plan = match BootstrapPlan::read(&self.config) {
            Ok(plan) => plan,
            Err(error) => {
                memory.start_failures += 1;
                tracing::error!(%error, hint = error.hint(), "the cluster can't be begun");
                return;
            }
        };
        // Patroni members must see that a bootstrap is under way (contract A.4).
        let key = self.path.key(Leaf::Initialize);
        let absent = [Compare::Absent(key.clone())];
        let put = [Write::put(key, "")];
        note(
            self.dcs.write(&absent, &put, Duration::from_secs(2)).await.map(|_| ()),
            "announcing the bootstrap",
        );
        self.applied = Some(settings.clone());
        let work = jobs::bootstrap(self.tools.clone(), settings, plan);
        let (dcs, path) = (self.dcs.clone(), self.path.clone());
        let mine = publish::as_leader(&self.path, &observed.me.name);
        self.jobs.begin(JobKind::Bootstrap, async move {
            let made = work.await;
            if made.is_err() {
                // Otherwise every other member would wait for a bootstrap that has ended.
                let key = path.key(Leaf::Initialize);
                let unfinished = [mine, Compare::ValueIs(key.clone(), "".into())];
                let gone = dcs.write(&unfinished, &[Write::Delete(key)], WITHDRAW_MAX).await;
                note(gone.map(|_| ()), "withdrawing the bootstrap");
            }
            made
        });
    }

    /// The configured methods, or none with a line in the log.
    fn copy_plan(&self, observed: &Observed, source: Upstream) -> Option<CopyPlan> {
        let standby = observed.config.standby_cluster.is_some();
        let list = CopyPlan::list_for(&source, standby);
        match copy_methods(&self.config, &observed.config, list) {
            Ok(methods) => Some(CopyPlan { source, methods }),
            Err(error) => {
                tracing::error!(%error, hint = error.hint(), "the data directory is not filled");
                None
            }
        }
    }

    fn clone(&mut self, memory: &mut Memory, observed: &Observed, source: Upstream) {
        memory.data_generation += 1;
        match self.copy_plan(observed, source) {
            Some(plan) => {
                self.jobs.begin(JobKind::Clone, jobs::clone(self.tools.clone(), plan));
            }
            None => memory.stand_back_until = Some(clock::boot() + COPY_PAUSE),
        }
    }

    fn reinit(&mut self, memory: &mut Memory, observed: &Observed, reinit: Reinit) {
        memory.data_generation += 1;
        memory.request = None;
        let copy = if reinit.from_leader {
            Some(CopyPlan { source: reinit.source, methods: vec![self.base_backup(observed)] })
        } else {
            self.copy_plan(observed, reinit.source)
        };
        let Some(copy) = copy else {
            memory.stand_back_until = Some(clock::boot() + COPY_PAUSE);
            return;
        };
        let (keep, diverged) = (self.place_of_divergent_wal(observed), reinit.diverged);
        let settings = self.settings(observed);
        let plan = ReinitPlan { copy, diverged, keep, asked: reinit.asked, settings };
        self.jobs.begin(JobKind::Clone, jobs::reinit(self.tools.clone(), plan));
    }

    fn base_backup(&self, observed: &Observed) -> CopyMethod {
        base_backup(&self.config, &observed.config).unwrap_or_else(|error| {
            tracing::warn!(%error, hint = error.hint(), "base backup without its options");
            CopyMethod::Basebackup(Vec::new())
        })
    }

    /// Where WAL that is discarded is kept; `None`: it is not.
    fn place_of_divergent_wal(&self, observed: &Observed) -> Option<PathBuf> {
        let record = crate::observe::record_of(observed);
        let waived = |record: &FederationRecord| {
            let rejoin = record.operation.as_ref().filter(|o| o.to == record.dc);
            rejoin.is_some_and(|o| o.waived_vaults.contains(&observed.me.name))
        };
        record
            .is_none_or(|record| record.policies.keep_divergent_wal && !waived(record))
            .then(|| self.tools.server.next_vault(clock::wall_us()))
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

    pub(super) async fn replace_record(
        &self,
        observed: &Observed,
        record: &FederationRecord,
        over: Revision,
    ) {
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
        let asked = memory.request.take().is_some();
        let planned = observed.scheduled_restart.as_ref().filter(|_| !asked);
        let limit = memory.restart_timeout.take().filter(|_| asked);
        let limit = limit.or(planned.and_then(|planned| planned.timeout));
        self.applied = Some(settings.clone());
        let primary = matches!(&observed.postgres, Postgres::Running(r) if !r.in_recovery);
        let standby_of = (!primary).then(|| observed.following.clone().unwrap_or(Upstream::Nobody));
        let reply = self.restart_reply.take();
        let tools = self.tools.clone();
        self.jobs.begin(JobKind::Restart, jobs::restart(tools, settings, standby_of, limit, reply));
    }
}
