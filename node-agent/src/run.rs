//! The loop: wait for an event, observe, decide, apply, publish.

use crate::apply::{Hands, HistoryDesk, SlotDesk, WalEndDesk, member_name};
use crate::checkup::Checkup;
use crate::clock;
use crate::dcs::etcd::{Etcd, Login};
use crate::dcs::mirror::{Mirror, Mirrored};
use crate::dcs::{Dcs, DcsError, RawCluster};
use crate::failsafe::{Desk, Question};
use crate::grants::{GrantKeeper, Own};
use crate::jobs::{Jobs, Outcome, Tools};
use crate::keeper::{Keeper, KeeperSetup, Limit};
use crate::link::Links;
use crate::memory::remember;
use crate::message::Messenger;
use crate::observe::{Beats, Memory, Sources, observe};
use crate::peers::Peers;
use crate::plans;
use crate::postgres::Server;
use crate::publish;
use crate::rest::access::ApiPassword;
use crate::stall_watch::watch_stalls;
use crate::view::{Ask, Handle, View};
use crate::watch::watch_cluster;
use node_agent_core::decide;
use node_agent_core::decision::{Act, Decision};
use node_agent_core::observed::{JobKind, Observed, Request};
use node_agent_core::release;
use node_agent_core::rule::Rule;
use node_agent_core::time::Boot;
use node_agent_wire::config::LocalConfig;
use node_agent_wire::dynamic::Dynamic;
use node_agent_wire::keys::ClusterPath;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::{Notify, mpsc, oneshot, watch};

/// Between two attempts to copy logical slots.
const SLOT_COPY_PAUSE: Duration = Duration::from_secs(30);
/// The shortest that a read of the DCS is given.
const READ_MIN: Duration = Duration::from_millis(250);

/// The agent, ready to run.
pub struct Agent {
    pub(crate) hands: Hands,
    pub(crate) memory: Memory,
    beats: Arc<Beats>,
    links: Links,
    wake: Arc<Notify>,
    asks: mpsc::Receiver<Ask>,
    pub(crate) view: watch::Sender<Arc<View>>,
    last_line: String,
    question: Option<Question>,
    passes: u64,
    /// Read again by a reload.
    pub(crate) file: PathBuf,
    /// A pass has found this node to be part of the cluster.
    joined: bool,
}

/// The agent could not begin.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// PostgreSQL's files or programs are not usable.
    #[error("{0}; {hint}", hint = .0.hint())]
    Postgres(#[from] crate::postgres::Error),
    /// The lease keeper has no thread.
    #[error("no thread for the lease keeper: {0}")]
    Keeper(std::io::Error),
}

impl Agent {
    /// Makes the agent and its first view; nothing runs yet. `file`: what a reload reads.
    ///
    /// # Errors
    /// When PostgreSQL's programs or directories can't be used.
    pub async fn new(config: LocalConfig, file: PathBuf) -> Result<(Self, Handle), StartError> {
        let config = Arc::new(config);
        let server = Arc::new(Server::new(&config)?);
        let password = ApiPassword::new(config.restapi.authentication.clone());
        let endpoints = config.etcd3.endpoints();
        let login = Login {
            username: config.etcd3.username.clone().unwrap_or_default(),
            password: config.etcd3.password.clone().unwrap_or_default(),
        };
        let store = Arc::new(Etcd::new(&endpoints, login.clone()));
        let dcs = Arc::new(Mirrored { store, mirror: Arc::new(Mirror::default()) });
        let path = ClusterPath::new(&config.namespace, &config.scope);
        let wake = Arc::new(Notify::new());
        let cached = server.cached_dynamic();
        let dynamic = Dynamic::read(cached.as_ref().unwrap_or(&config.bootstrap.dcs));
        let limit = Arc::new(Limit::default());
        let own = Own { endpoints: endpoints.clone(), login: login.clone() };
        let setup = KeeperSetup {
            connect: Box::new(move || Box::new(Etcd::new(&endpoints, login))),
            path: path.clone(),
            name: member_name(&config),
            guard_socket: server.guard_socket().to_owned(),
            lost: wake.clone(),
            mark_file: server.mark_file().to_owned(),
            kept: server.left_without_deadline(),
            watchdog: config.watchdog.clone(),
            password: password.clone(),
            limit: limit.clone(),
        };
        let keeper = Keeper::start(setup, &dynamic).map_err(StartError::Keeper)?;
        let grants = GrantKeeper::start(member_name(&config), own, limit, wake.clone());
        let tools = Tools {
            server: server.clone(),
            keeper: Arc::new(keeper),
            grants: Arc::new(grants.map_err(StartError::Keeper)?),
            checkpointed: Arc::new(AtomicBool::new(true)),
            progress: Arc::default(),
            rewind_failed: Arc::default(),
            failsafe: Arc::new(Desk::new(clock::boot())),
        };
        let failsafe = tools.failsafe.clone();
        server.abandon_unfinished().await?;
        let memory = Memory { dynamic: cached, ..remember(&config, dynamic) };
        let mut hands = Hands {
            config: config.clone(),
            dcs: dcs.clone(),
            path,
            tools,
            jobs: Jobs::new(wake.clone()),
            desk: HistoryDesk::default(),
            slots: SlotDesk::default(),
            peers: Peers::default(),
            checkup: Checkup::new(wake.clone()),
            messenger: Messenger::new(password.clone()),
            password: password.clone(),
            wake: wake.clone(),
            applied: None,
            leaving: false,
            wal_ends: WalEndDesk::default(),
            restart_reply: None,
        };
        let mut memory = memory;
        let mut links = Links::new(wake.clone());
        let beats = Arc::new(Beats::default());
        let first = first_view(&mut hands, &mut memory, &beats, &mut links).await;
        let (view, watched) = watch::channel(Arc::new(first));
        let (ask, asks) = mpsc::channel(16);
        let handle = Handle { config, password, view: watched, asks: ask, dcs, server, failsafe };
        let agent = Self {
            hands,
            memory,
            beats,
            links,
            wake,
            asks,
            view,
            last_line: String::new(),
            question: None,
            passes: 0,
            file,
            joined: false,
        };
        Ok((agent, handle))
    }

    /// Runs until `stop` resolves, then stops PostgreSQL and gives the leader key back.
    ///
    /// # Errors
    /// When the agent can't be of use here: PostgreSQL is left as it is then.
    pub async fn run(mut self, stop: impl Future<Output = ()>) -> Result<(), String> {
        let watcher = tokio::spawn(watch_cluster(
            self.hands.dcs.clone(),
            self.hands.path.clone(),
            self.beats.clone(),
            self.wake.clone(),
        ));
        let stalls = tokio::spawn(watch_stalls(
            self.hands.tools.server.clone(),
            self.hands.peers.clone(),
            self.view.subscribe(),
            self.memory.stalls.clone(),
            self.wake.clone(),
        ));
        let version = tokio::spawn(warn_of_old_etcd(self.hands.dcs.clone()));
        tokio::pin!(stop);
        loop {
            // Most of a pass is its facts: on the heap.
            let pause = Box::pin(self.pass()).await;
            if self.hands.leaving {
                watcher.abort();
                version.abort();
                return Err(self.last_line);
            }
            if let Some(why) = self.stranger() {
                return Err(why);
            }
            if self.memory.ending && self.view.borrow().rule != Rule::ReleaseSync {
                break;
            }
            let server = self.hands.tools.server.clone();
            tokio::select! {
                () = &mut stop, if !self.memory.ending => {
                    if self.leaves_running() || !release::before_the_end(&self.view.borrow().observed) {
                        break;
                    }
                    self.memory.ending = true;
                }
                () = self.wake.notified() => {}
                () = server.exited() => tracing::debug!("PostgreSQL has ended"),
                ask = self.asks.recv() => self.asked(ask).await,
                () = tokio::time::sleep(pause) => {}
            }
        }
        watcher.abort();
        stalls.abort();
        version.abort();
        self.shut_down().await;
        Ok(())
    }

    async fn asked(&mut self, ask: Option<Ask>) {
        let Some(ask) = ask else { return };
        if let Ask::Reload = ask {
            return self.reload().await;
        }
        if let Ask::Reinitialize { force, from_leader, reply } = ask {
            let busy =
                if force { self.hands.jobs.cancel_copy().await } else { self.hands.jobs.current() };
            if busy.is_none() {
                self.memory.request = Some(Request::Reinit { from_leader });
            }
            let _gone_is_fine = reply.send(busy.map(|job| job.kind));
            return;
        }
        let busy = self.hands.restart_reply.is_some() || self.hands.jobs.current().is_some();
        if let Some(reply) = plans::take(&mut self.memory, busy, ask) {
            self.hands.restart_reply = Some(reply);
        }
    }

    /// Before this node has ever been part of the cluster: its data directory is another cluster's,
    /// and PostgreSQL does not write. Later, and in maintenance mode, the agent stays and says so.
    fn stranger(&mut self) -> Option<String> {
        let view = self.view.borrow();
        let foreign = view.rule == Rule::ForeignSystem;
        self.joined |= !foreign && view.cluster().is_some();
        let settled = !view.observed.postgres.may_write()
            && !view.observed.config.pause
            && !view.observed.holds_lease()
            && self.hands.jobs.current().is_none();
        (foreign && settled && !self.joined).then(|| view.why.clone())
    }

    /// One pass; how long to wait before the next one at the latest.
    async fn pass(&mut self) -> Duration {
        let begun = clock::boot();
        if self.hands.restart_reply.as_ref().is_some_and(oneshot::Sender::is_closed) {
            // Nobody waits for it any more, and was told that it failed.
            self.hands.restart_reply = None;
            if self.memory.request == Some(Request::Restart) {
                self.memory.request = None;
            }
        }
        self.hands.tools.keeper.stamp(begun);
        if let Some(outcome) = self.hands.jobs.reap().await {
            self.ended(outcome);
        }
        let (mut observed, mut decision) = self.look(false).await;
        if decision.act.as_ref().is_some_and(Act::needs_own_read) {
            // The watch may lag: what can't be taken back is decided from a read of its own.
            (observed, decision) = self.look(true).await;
        }
        let line = format!("{} {}: {}", decision.rule.number(), decision.rule.name(), decision.why);
        if line != self.last_line {
            tracing::info!(
                rule = decision.rule.number(),
                name = decision.rule.name(),
                "{}",
                decision.why
            );
            self.last_line = line;
        }
        self.memory.release_asked_at = release::asked_at(&observed, &decision);
        self.tell_keeper(&observed);
        let checkpointed = self.hands.tools.checkpointed.load(Ordering::SeqCst);
        let mut member = publish::member(&self.hands.config, &observed, &decision, checkpointed);
        let pending = self.hands.tools.server.pending();
        if member.pending_restart == Some(true) && !pending.is_empty() {
            member.pending_restart_reason = serde_json::to_value(pending).ok();
        }
        member.scheduled_restart = self.memory.planned.as_ref().map(|p| p.shown.clone());
        let at_once = decision.wake.after.is_zero();
        let pause = decision.wake.after.min(observed.config.timing.loop_wait);
        let view = View {
            raw: self.memory.raw.clone(),
            rule: decision.rule,
            why: decision.why.clone(),
            member,
            dcs_last_seen_s: self.memory.dcs_last_seen_s,
            passes: self.passes,
            pass_took: clock::boot().since(begun),
            progress: self.hands.tools.progress.clone(),
            observed: observed.clone(),
        };
        self.passes += 1;
        let member = view.member.clone();
        self.view.send_replace(Arc::new(view));
        self.hands.apply(&mut self.memory, &observed, decision).await;
        if observed.cluster.known().is_some() {
            self.put_member(&observed, &member).await;
            self.hands.cache_dynamic(&mut self.memory).await;
            self.hands.sweep_vaults(&mut self.memory, &observed);
        }
        if at_once { Duration::from_millis(10) } else { pause }
    }

    /// Observes and decides; `anew`: from a read of the store itself.
    async fn look(&mut self, anew: bool) -> (Observed, Decision) {
        let read = read_cluster(&self.hands, &self.memory, anew).await;
        let sources = Sources {
            server: &self.hands.tools.server,
            keeper: &self.hands.tools.keeper,
            grants: &self.hands.tools.grants,
            beats: &self.beats,
            links: &mut self.links,
            path: &self.hands.path,
            failsafe: &self.hands.tools.failsafe,
            checkup: &self.hands.checkup,
            source: self.hands.desk.latest(),
            slots: &self.hands.slots,
            job: self.hands.jobs.current(),
            wal_end: self.hands.wal_ends.latest(),
            rewind_failed: self.hands.tools.rewind_failed.load(Ordering::SeqCst),
            progress: self.hands.tools.progress.read(),
            local: &self.hands.config,
        };
        let observed = observe(&mut self.memory, sources, read).await;
        let decision = decide(&observed);
        (observed, decision)
    }

    async fn put_member(&self, observed: &Observed, member: &node_agent_wire::member::MemberData) {
        let put = publish::put_member(
            &*self.hands.dcs,
            &self.hands.path,
            &observed.me.name,
            member,
            self.hands.tools.keeper.lease(),
            &self.memory.raw,
            observed.config.timing.retry_timeout,
        );
        if let Err(error) = put.await {
            tracing::warn!(%error, "the member key was not written");
        }
    }

    fn tell_keeper(&mut self, observed: &Observed) {
        let record = crate::observe::record_of(observed);
        self.hands.tools.grants.tell(observed, record.or(observed.last_record.as_ref()));
        let seen = record.filter(|r| !r.names_us()).and_then(|r| {
            let told = self.hands.tools.grants.primary_seen(&r.primary);
            self.links.primary_seen(&r.primary).into_iter().chain(told).max_by_key(|s| s.at_us)
        });
        let mut facts = publish::beat_facts(observed, self.memory.wal.max(), seen);
        self.hands.tools.grants.tell_position(publish::reached(&facts));
        // A primary that this agent found running is under the guard's deadline from now on.
        if facts.writable {
            self.hands.tools.keeper.arm(true);
            let mut watchdog = self.hands.tools.keeper.watchdog();
            if observed.config.pause {
                watchdog.close();
            } else if observed.holds_lease() {
                // Found running, resumed, or with a new TTL. What fails is a fact of the next pass.
                let _seen_there = watchdog.open();
            }
        }
        if let Some(cluster) = observed.cluster.known() {
            self.question = publish::failsafe_question(&self.hands.config, observed, cluster);
        } else if let Some(question) = &mut self.question {
            publish::refresh_question(question, observed);
        }
        facts.failsafe = self.question.clone();
        let keeper = &self.hands.tools.keeper;
        // By a right that may be lost before the writes are seen.
        let opens = observed
            .job
            .as_ref()
            .is_some_and(|job| matches!(job.kind, JobKind::Start | JobKind::Promote));
        let leads = keeper.held_until().is_some() || opens && keeper.armed();
        self.hands.tools.failsafe.tell(observed, leads);
        self.hands.tools.keeper.tell(facts);
    }

    fn ended(&mut self, outcome: Outcome) {
        let Outcome { job, result } = outcome;
        self.memory.starts.work_ended(job.kind, result.is_err());
        let ms = u64::try_from(clock::boot().since(job.since).as_millis()).unwrap_or(u64::MAX);
        match result {
            Ok(()) => {
                tracing::info!(work = ?job.kind, ms, "done");
                self.memory.work_failed = None;
            }
            Err(error) => {
                tracing::error!(work = ?job.kind, ms, error, "failed");
                let now = clock::boot();
                let pause = match job.kind {
                    JobKind::Start | JobKind::Bootstrap | JobKind::Restart => {
                        self.memory.start_failures += 1;
                        self.memory.start_error = Some(error);
                        return;
                    }
                    JobKind::Promote => self.memory.config.timing.ttl,
                    JobKind::Clone | JobKind::Rewind => {
                        self.memory.work_failed = Some(error);
                        Duration::from_secs(5)
                    }
                    JobKind::CopySlots => {
                        // The standby itself is as good as before.
                        self.memory.slots.copy_after = Some(now + SLOT_COPY_PAUSE);
                        return;
                    }
                    JobKind::Demote => return,
                };
                self.memory.stand_back_until = Some(now + pause);
            }
        }
    }
}

async fn read_cluster(
    hands: &Hands,
    memory: &Memory,
    anew: bool,
) -> Result<(RawCluster, Boot), DcsError> {
    let timing = memory.config.timing;
    let lease_time = memory.config.lease_time();
    hands.dcs.mirror.trust_for(lease_time * 2 / 5);
    // A primary that loses the DCS needs time to stop cleanly.
    let left = hands.tools.keeper.held_until().map(|until| {
        let stop = until - node_agent_core::failsafe::stop_ahead(lease_time);
        clock::boot().until(stop).max(READ_MIN)
    });
    let deadline = timing.retry_timeout.min(left.unwrap_or(timing.retry_timeout));
    hands.dcs.cluster(hands.path.prefix(), anew, deadline).await
}

/// The view that is shown before the first pass has acted: facts only.
async fn first_view(
    hands: &mut Hands,
    memory: &mut Memory,
    beats: &Beats,
    links: &mut Links,
) -> View {
    let begun = clock::boot();
    let read = read_cluster(hands, memory, true).await;
    let sources = Sources {
        server: &hands.tools.server,
        keeper: &hands.tools.keeper,
        grants: &hands.tools.grants,
        beats,
        links,
        path: &hands.path,
        failsafe: &hands.tools.failsafe,
        checkup: &hands.checkup,
        source: (None, None),
        slots: &hands.slots,
        job: None,
        wal_end: None,
        rewind_failed: false,
        progress: None,
        local: &hands.config,
    };
    let observed = observe(memory, sources, read).await;
    let decision = decide(&observed);
    View {
        raw: memory.raw.clone(),
        rule: decision.rule,
        why: decision.why.clone(),
        member: publish::member(&hands.config, &observed, &decision, true),
        dcs_last_seen_s: memory.dcs_last_seen_s,
        passes: 0,
        pass_took: clock::boot().since(begun),
        progress: hands.tools.progress.clone(),
        observed,
    }
}

/// etcd before 3.5.13 may revoke leases early; the observer wait covers it, an operator should
/// know.
async fn warn_of_old_etcd(dcs: Arc<dyn Dcs>) {
    let Ok(version) = dcs.version(Duration::from_secs(10)).await else { return };
    let numbers: Vec<u32> = version.split('.').filter_map(|p| p.parse().ok()).collect();
    if numbers.as_slice() < [3, 5, 13].as_slice() {
        tracing::warn!(
            version,
            "this etcd may revoke leases before their time (etcd#15247); 3.5.13 or later is advised"
        );
    }
}
