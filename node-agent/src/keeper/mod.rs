//! The lease keeper: a thread of its own with its own connections, so that a slow PostgreSQL, disk
//! or loop never loses the leader key; and it renews only while the loop shows that it is alive,
//! so that a hung agent never keeps it.
//!
//! What the transactions ask for and what their answers mean is decided in
//! `node_agent_core::lease`; here are the calls, their deadlines, and what the loop and the guard
//! are told.

mod beat;
mod facts;
mod failsafe;
mod limit;
mod mark;
mod take;

pub use facts::BeatFacts;
pub use limit::Limit;
pub use take::Bid;

use crate::clock;
use crate::dcs::{Dcs, DcsError};
use crate::message::Messenger;
use crate::postgres::GuardClient;
use crate::rest::access::ApiPassword;
use crate::watchdog::Watchdog;
use node_agent_core::failsafe::Round;
use node_agent_core::lease::{self, GuardOrder, Outcome, Ttls};
use node_agent_core::terms::Plans;
use node_agent_core::time::Boot;
use node_agent_wire::config::WatchdogConfig;
use node_agent_wire::dynamic::Dynamic;
use node_agent_wire::keys::ClusterPath;
use node_agent_wire::{MemberName, Revision};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, mpsc, oneshot};

/// Shared between the keeper's thread and the loop.
pub struct Shared {
    held_until: AtomicU64,
    alive_at: AtomicU64,
    lease: AtomicI64,
    ttl_ms: AtomicU64,
    /// What beats count with: the TTL, or less.
    lease_time_ms: AtomicU64,
    armed: AtomicBool,
    kept: AtomicBool,
    facts: Mutex<BeatFacts>,
    lost: Arc<Notify>,
    /// Something that others wait to read has changed: beat now.
    prompt: Notify,
    /// The last round of asking the members, while the DCS takes no beats.
    round: Mutex<Option<Round>>,
    watchdog: Mutex<Watchdog>,
    /// The end of the site grants.
    limit: Arc<Limit>,
}

impl Shared {
    fn new(config: &Dynamic, kept: bool, lost: Arc<Notify>, watchdog: Watchdog) -> Self {
        Self {
            held_until: AtomicU64::new(0),
            alive_at: AtomicU64::new(clock::boot().0),
            lease: AtomicI64::new(0),
            ttl_ms: AtomicU64::new(millis(config.timing.ttl)),
            lease_time_ms: AtomicU64::new(millis(config.lease_time())),
            armed: AtomicBool::new(false),
            kept: AtomicBool::new(kept),
            facts: Mutex::new(BeatFacts::default()),
            lost,
            prompt: Notify::new(),
            round: Mutex::new(None),
            watchdog: Mutex::new(watchdog),
            limit: Arc::default(),
        }
    }

    fn watchdog(&self) -> MutexGuard<'_, Watchdog> {
        self.watchdog.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the loop asks of the keeper.
enum Command {
    Acquire(Bid, oneshot::Sender<Result<bool, DcsError>>),
    Release(oneshot::Sender<Result<(), DcsError>>),
}

/// The loop's end.
pub struct Keeper {
    shared: Arc<Shared>,
    commands: mpsc::Sender<Command>,
}

/// What the keeper's thread works with.
pub struct KeeperSetup {
    /// Its own connection to the DCS; made inside its thread.
    pub connect: Box<dyn FnOnce() -> Box<dyn Dcs> + Send>,
    /// The cluster's keys.
    pub path: ClusterPath,
    /// This member.
    pub name: MemberName,
    /// The guard's socket.
    pub guard_socket: PathBuf,
    /// Woken when the lease is lost.
    pub lost: Arc<Notify>,
    /// Exists while the guard has no deadline because of maintenance mode.
    pub mark_file: PathBuf,
    /// PostgreSQL was found running in that state.
    pub kept: bool,
    /// The kernel's watchdog.
    pub watchdog: WatchdogConfig,
    /// The password of the cluster's REST API.
    pub password: ApiPassword,
    /// The end of the site grants.
    pub limit: Arc<Limit>,
}

impl Keeper {
    /// Starts the thread.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn start(setup: KeeperSetup, config: &Dynamic) -> std::io::Result<Self> {
        let watchdog = Watchdog::new(setup.watchdog.clone(), config.lease_time());
        let shared = Shared::new(config, setup.kept, setup.lost.clone(), watchdog);
        setup.limit.stamp(clock::boot());
        let shared = Arc::new(Shared { limit: setup.limit.clone(), ..shared });
        let (commands, receiver) = mpsc::channel(8);
        let theirs = shared.clone();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        std::thread::Builder::new().name("lease-keeper".into()).spawn(move || {
            let KeeperSetup { connect, path, name, guard_socket, mark_file, password, .. } = setup;
            runtime.block_on(async move {
                let thread = Thread {
                    dcs: connect(),
                    path,
                    name,
                    guard_socket,
                    mark_file,
                    guard: None,
                    shared: theirs,
                    beat: 0,
                    ttls: lease::ttls(Duration::ZERO, Duration::ZERO),
                    in_force: Duration::ZERO,
                    renewed: Boot(0),
                    lost_leader: None,
                    last: None,
                    messenger: Messenger::new(password),
                    plans: Plans::default(),
                };
                thread.run(receiver).await;
            });
        })?;
        Ok(Self { shared, commands })
    }

    /// The right to lead ends here; `None` when this node does not lead.
    #[must_use]
    pub fn held_until(&self) -> Option<Boot> {
        match self.shared.held_until.load(Ordering::SeqCst) {
            0 => None,
            until => Some(Boot(until)),
        }
    }

    /// The last committed beat says that PostgreSQL may go on without its lease (maintenance mode).
    #[must_use]
    pub fn kept(&self) -> bool {
        self.shared.kept.load(Ordering::SeqCst)
    }

    /// The lease that the member key hangs on; 0 while there is none.
    #[must_use]
    pub fn lease(&self) -> i64 {
        self.shared.lease.load(Ordering::SeqCst)
    }

    /// The loop is alive: the keeper may go on for another TTL.
    pub fn stamp(&self, now: Boot) {
        self.shared.alive_at.store(now.0, Ordering::SeqCst);
        self.shared.limit.stamp(now);
    }

    /// A new configuration.
    pub fn configure(&self, config: &Dynamic) {
        let (ttl, lease_time) = (millis(config.timing.ttl), millis(config.lease_time()));
        self.watchdog().set_ttl(config.lease_time());
        let before = self.shared.ttl_ms.swap(ttl, Ordering::SeqCst);
        let beats_before = self.shared.lease_time_ms.swap(lease_time, Ordering::SeqCst);
        if (before, beats_before) != (ttl, lease_time) {
            self.shared.prompt.notify_one();
        }
    }

    /// Whether each beat moves the guard's deadline on: set before PostgreSQL becomes writable.
    /// `false` once it has stopped writing, which closes the watchdog too.
    pub fn arm(&self, armed: bool) {
        self.shared.armed.store(armed, Ordering::SeqCst);
        if !armed {
            self.watchdog().close();
        }
    }

    /// Whether PostgreSQL writes, or is about to, by the last call of [`Self::arm`].
    #[must_use]
    pub fn armed(&self) -> bool {
        self.shared.armed.load(Ordering::SeqCst)
    }

    /// The watchdog of this host: opened before PostgreSQL becomes writable.
    pub fn watchdog(&self) -> MutexGuard<'_, Watchdog> {
        self.shared.watchdog()
    }

    /// What the next beats carry. A new role or epoch, here or in the primary datacenter, is told
    /// at once.
    pub fn tell(&self, facts: BeatFacts) {
        let mut told = self.shared.facts.lock().unwrap_or_else(PoisonError::into_inner);
        let news = told.news() != facts.news();
        *told = facts;
        drop(told);
        if news {
            self.shared.prompt.notify_one();
        }
    }

    /// Takes the leader key if it holds our name, is absent, or is that of the lost leader of the
    /// bid, and `position` is still at the bid's revision: whoever has beaten since this node
    /// looked may still lead, even if the key has vanished again. `true`: this node leads.
    ///
    /// # Errors
    /// When the DCS did not answer; the key may have been taken all the same, and the next read
    /// tells.
    pub async fn acquire(&self, bid: Bid) -> Result<bool, DcsError> {
        let (reply, answer) = oneshot::channel();
        self.send(Command::Acquire(bid, reply)).await?;
        answer.await.map_err(|_| gone())?
    }

    /// Gives the leader key back, marked as a clean release.
    ///
    /// # Errors
    /// When the DCS did not answer; the lease runs out then.
    pub async fn release(&self) -> Result<(), DcsError> {
        // From here on this node does not count itself leader, whatever the DCS answers.
        self.shared.held_until.store(0, Ordering::SeqCst);
        let (reply, answer) = oneshot::channel();
        self.send(Command::Release(reply)).await?;
        answer.await.map_err(|_| gone())?
    }

    async fn send(&self, command: Command) -> Result<(), DcsError> {
        self.commands.send(command).await.map_err(|_| gone())
    }
}

fn gone() -> DcsError {
    DcsError::Refused { what: "the lease keeper", why: "its thread has ended".into() }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

struct Thread {
    dcs: Box<dyn Dcs>,
    path: ClusterPath,
    name: MemberName,
    guard_socket: PathBuf,
    mark_file: PathBuf,
    guard: Option<GuardClient>,
    shared: Arc<Shared>,
    beat: u64,
    /// Those of the last beat that was sent.
    ttls: Ttls,
    /// The TTL that the guard's deadline may have been counted with.
    in_force: Duration,
    /// When the lease was last renewed; its TTL is that of the configuration.
    renewed: Boot,
    /// Whose key this node last tried to replace.
    lost_leader: Option<MemberName>,
    /// The revision of the last committed beat.
    last: Option<Revision>,
    messenger: Messenger,
    plans: Plans,
}

impl Thread {
    async fn run(mut self, mut commands: mpsc::Receiver<Command>) {
        let mut next = clock::boot();
        let shared = self.shared.clone();
        loop {
            let wait = clock::boot().until(next);
            tokio::select! {
                command = commands.recv() => match command {
                    Some(Command::Acquire(bid, reply)) => {
                        let _gone_is_fine = reply.send(self.acquire(bid).await);
                        next = clock::boot() + self.period();
                    }
                    Some(Command::Release(reply)) => {
                        let _gone_is_fine = reply.send(self.release().await);
                    }
                    None => return,
                },
                () = tokio::time::sleep(wait) => {
                    next = clock::boot() + self.period();
                    self.turn().await;
                }
                () = shared.limit.moved() => self.grants_moved(),
                () = shared.prompt.notified() => {
                    next = clock::boot() + self.period();
                    self.turn().await;
                }
            }
        }
    }

    fn ttl(&self) -> Duration {
        Duration::from_millis(self.shared.ttl_ms.load(Ordering::SeqCst))
    }

    fn period(&self) -> Duration {
        // A lower time is carried only by the beat after the one that counts with it.
        if self.leads() { self.lease_time() / 3 } else { self.ttl() / 3 }
    }

    /// What beats are to count with.
    fn lease_time(&self) -> Duration {
        Duration::from_millis(self.shared.lease_time_ms.load(Ordering::SeqCst))
    }

    /// The deadline of one call: two tries fit into a TTL after a period was lost.
    fn call(&self) -> Duration {
        let time = if self.leads() { self.lease_time() } else { self.ttl() };
        time / 4
    }

    fn leads(&self) -> bool {
        self.shared.held_until.load(Ordering::SeqCst) != 0
    }

    async fn turn(&mut self) {
        let alive = Boot(self.shared.alive_at.load(Ordering::SeqCst));
        let now = clock::boot();
        if !lease::loop_alive(alive, now, self.ttl()) {
            tracing::error!(
                silent_ms = millis(now.since(alive)),
                "the agent's loop is stuck: its lease is no longer renewed"
            );
            return;
        }
        if self.leads() {
            self.lead_on().await;
        }
        let carried = self.shared.round.lock().unwrap_or_else(PoisonError::into_inner).is_some();
        // A leader beats more often than the lease needs, where its beats carry less than the TTL.
        let due = clock::boot().since(self.renewed) + self.period() > self.ttl() / 3;
        if due && !carried {
            // In vain while the DCS is out of reach, and the next round must not be late.
            self.keep_lease().await;
        }
    }

    async fn keep_lease(&mut self) {
        let lease = self.shared.lease.load(Ordering::SeqCst);
        let outcome = if lease == 0 {
            self.new_lease().await.map(|_| ())
        } else {
            self.dcs.keep_alive(lease, self.call()).await
        };
        match outcome {
            Ok(()) => self.renewed = clock::boot(),
            Err(DcsError::LeaseGone(_)) => {
                tracing::warn!("the lease is gone: a new one is taken");
                self.shared.lease.store(0, Ordering::SeqCst);
                if let Err(error) = self.new_lease().await {
                    tracing::warn!(%error, "no new lease");
                }
                // The member key, and the leader key if it was there, hung on the old lease.
                self.shared.lost.notify_one();
                if self.leads() {
                    self.lead_on().await;
                }
            }
            Err(error) => tracing::warn!(%error, "the lease was not renewed"),
        }
    }

    async fn new_lease(&mut self) -> Result<i64, DcsError> {
        let lease = self.dcs.grant(self.ttl(), self.call()).await?;
        self.renewed = clock::boot();
        self.shared.lease.store(lease, Ordering::SeqCst);
        Ok(lease)
    }

    /// One beat of a leader.
    async fn lead_on(&mut self) {
        let sent = clock::boot();
        let until = Boot(self.shared.held_until.load(Ordering::SeqCst));
        if let Err(why) = lease::may_beat(sent, until, self.kept()) {
            self.lose(why);
            return;
        }
        let Some(last) = self.last else {
            return self.lose("this node does not know its last beat");
        };
        let mark = self.next_mark(sent, until);
        let answer = self.beat_over(last, mark, sent, until).await;
        if answer == Outcome::LookAgain {
            self.look_again(mark, until).await;
        }
    }

    fn held(&mut self, until: Boot, beat: Revision, mark: bool) {
        self.last = Some(beat);
        self.plans.commit();
        *self.shared.round.lock().unwrap_or_else(PoisonError::into_inner) = None;
        self.shared.held_until.store(until.0, Ordering::SeqCst);
        self.shared.watchdog().feed();
        let told = match lease::guard_order(mark, self.shared.armed.load(Ordering::SeqCst), until) {
            GuardOrder::Lift => {
                self.lift();
                true
            }
            GuardOrder::Deadline(until) => self.tell_guard(until),
            GuardOrder::Nothing => true,
        };
        self.in_force = lease::in_force(self.in_force, self.ttls.counted, told);
    }

    /// `true` when the guard has taken the deadline.
    fn tell_guard(&mut self, until: Boot) -> bool {
        let Some(until) = self.shared.limit.cap(until) else { return false };
        if self.guard.is_none() {
            self.guard = GuardClient::connect(&self.guard_socket, Duration::from_millis(100)).ok();
        }
        let told = match self.guard.as_mut() {
            Some(guard) => guard.set_deadline(until),
            None => return false,
        };
        if told.is_err() {
            // A new guard after a restart of PostgreSQL: connect again at once.
            self.guard = GuardClient::connect(&self.guard_socket, Duration::from_millis(100)).ok();
            if let Some(guard) = self.guard.as_mut()
                && let Err(error) = guard.set_deadline(until)
            {
                tracing::warn!(%error, "the guard did not take the new deadline");
                self.guard = None;
            }
        }
        self.guard.is_some()
    }

    fn lose(&mut self, why: &str) {
        tracing::warn!(why, "this node no longer leads");
        self.set_kept(false);
        self.shared.held_until.store(0, Ordering::SeqCst);
        self.last = None;
        self.shared.lost.notify_one();
    }
}

#[cfg(test)]
mod keeper_tests;
