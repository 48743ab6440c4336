//! The lease keeper: a thread of its own with its own connections, so that a slow PostgreSQL, disk
//! or loop never loses the leader key; and it renews only while the loop shows that it is alive,
//! so that a hung agent never keeps it.
//!
//! A beat is one transaction: if the leader key still holds our name, put a new `position`. The
//! right to lead lasts from the moment that the last committed beat was *sent* for one TTL, less
//! the time that stopping PostgreSQL takes; whoever observes the beats counts from when they *saw*
//! it, so delay only helps.
//!
//! In maintenance mode beats carry a mark, `unattended`: nobody else leads until this node says
//! that it has stopped. Only a committed mark lifts the guard's deadline, and the guard has one
//! again before the first beat without the mark is sent.

mod beat;
mod facts;
mod failsafe;
mod mark;

pub use facts::BeatFacts;

use crate::clock;
use crate::dcs::{Compare, Dcs, DcsError, Write};
use crate::message::Messenger;
use crate::postgres::GuardClient;
use crate::watchdog::Watchdog;
use node_agent_core::failsafe::Round;
use node_agent_core::time::Boot;
use node_agent_wire::config::{Credentials, WatchdogConfig};
use node_agent_wire::keys::{ClusterPath, Leaf};
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
    armed: AtomicBool,
    kept: AtomicBool,
    facts: Mutex<BeatFacts>,
    lost: Arc<Notify>,
    /// Something that others wait to read has changed: beat now.
    prompt: Notify,
    /// The last round of asking the members, while the DCS takes no beats.
    round: Mutex<Option<Round>>,
    watchdog: Mutex<Watchdog>,
}

impl Shared {
    fn watchdog(&self) -> MutexGuard<'_, Watchdog> {
        self.watchdog.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the loop asks of the keeper.
enum Command {
    Acquire(Revision, oneshot::Sender<Result<bool, DcsError>>),
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
    pub credentials: Option<Credentials>,
}

/// The time that stopping PostgreSQL may take, inside the TTL.
#[must_use]
pub fn stop_margin(ttl: Duration) -> Duration {
    (ttl / 10).clamp(Duration::from_millis(500), Duration::from_secs(2))
}

impl Keeper {
    /// Starts the thread.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn start(setup: KeeperSetup, ttl: Duration) -> std::io::Result<Self> {
        let shared = Arc::new(Shared {
            held_until: AtomicU64::new(0),
            alive_at: AtomicU64::new(clock::boot().0),
            lease: AtomicI64::new(0),
            ttl_ms: AtomicU64::new(millis(ttl)),
            armed: AtomicBool::new(false),
            kept: AtomicBool::new(setup.kept),
            facts: Mutex::new(BeatFacts::default()),
            lost: setup.lost.clone(),
            prompt: Notify::new(),
            round: Mutex::new(None),
            watchdog: Mutex::new(Watchdog::new(setup.watchdog.clone(), ttl)),
        });
        let (commands, receiver) = mpsc::channel(8);
        let theirs = shared.clone();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        std::thread::Builder::new().name("lease-keeper".into()).spawn(move || {
            let KeeperSetup { connect, path, name, guard_socket, mark_file, credentials, .. } =
                setup;
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
                    beat_ttl: Duration::ZERO,
                    last: None,
                    messenger: Messenger::new(credentials.as_ref()),
                    plans: failsafe::Plans::default(),
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
    }

    /// A new TTL from the configuration.
    pub fn set_ttl(&self, ttl: Duration) {
        self.watchdog().set_ttl(ttl);
        self.shared.ttl_ms.store(millis(ttl), Ordering::SeqCst);
    }

    /// Whether each beat moves the guard's deadline on: set before PostgreSQL becomes writable.
    /// `false` once it has stopped writing, which closes the watchdog too.
    pub fn arm(&self, armed: bool) {
        self.shared.armed.store(armed, Ordering::SeqCst);
        if !armed {
            self.watchdog().close();
        }
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

    /// Takes the leader key if it holds our name, or is absent and `position` is still at this
    /// revision (0: absent): whoever has beaten since this node looked may still lead, even if the
    /// key has vanished again. `true`: this node leads.
    ///
    /// # Errors
    /// When the DCS did not answer; the key may have been taken all the same, and the next read
    /// tells.
    pub async fn acquire(&self, position: Revision) -> Result<bool, DcsError> {
        let (reply, answer) = oneshot::channel();
        self.send(Command::Acquire(position, reply)).await?;
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
    /// The TTL that the last beat carries: what its observers wait, so what it may count with.
    beat_ttl: Duration,
    /// The revision of the last committed beat.
    last: Option<Revision>,
    messenger: Messenger,
    plans: failsafe::Plans,
}

impl Thread {
    async fn run(mut self, mut commands: mpsc::Receiver<Command>) {
        let mut next = clock::boot();
        let shared = self.shared.clone();
        loop {
            let wait = clock::boot().until(next);
            tokio::select! {
                command = commands.recv() => match command {
                    Some(Command::Acquire(position, reply)) => {
                        let _gone_is_fine = reply.send(self.acquire(position).await);
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
        self.ttl() / 3
    }

    /// The deadline of one call: two tries fit into a TTL after a period was lost.
    fn call(&self) -> Duration {
        self.ttl() / 4
    }

    fn leads(&self) -> bool {
        self.shared.held_until.load(Ordering::SeqCst) != 0
    }

    async fn turn(&mut self) {
        let alive = Boot(self.shared.alive_at.load(Ordering::SeqCst));
        let now = clock::boot();
        if now.since(alive) > self.ttl() {
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
        if !carried {
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
            Ok(()) => {}
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
        self.shared.lease.store(lease, Ordering::SeqCst);
        Ok(lease)
    }

    /// One beat of a leader.
    async fn lead_on(&mut self) {
        let sent = clock::boot();
        let until = Boot(self.shared.held_until.load(Ordering::SeqCst));
        if sent >= until && !self.kept() {
            self.lose("the lease's deadline has passed without a renewal");
            return;
        }
        let mark = self.next_mark(sent, until);
        let leader = self.path.key(Leaf::Leader);
        let position = self.position(false, mark);
        let mine = [Compare::ValueIs(leader.clone(), self.name.as_str().into())];
        let deadline = if self.kept() { self.call() } else { self.call().min(sent.until(until)) };
        match self.dcs.write(&mine, &[position], deadline).await {
            Ok(Some(revision)) => self.held(sent, revision, mark),
            Ok(None) => self.put_back(sent, &leader, mark).await,
            Err(error) => {
                let left_ms = millis(clock::boot().until(until));
                tracing::warn!(%error, left_ms, "a renewal of the leader key failed");
                self.ask_members(sent).await;
            }
        }
    }

    async fn acquire(&mut self, position: Revision) -> Result<bool, DcsError> {
        let lease = match self.shared.lease.load(Ordering::SeqCst) {
            0 => self.new_lease().await?,
            lease => lease,
        };
        // An old lease may be near its end: the key must not hang on it.
        let lease = match self.dcs.keep_alive(lease, self.call()).await {
            Ok(()) => lease,
            Err(DcsError::LeaseGone(_)) => self.new_lease().await?,
            Err(error) => return Err(error),
        };
        // A mark of an earlier life stays until the guard has a deadline again.
        let mark = self.kept() || {
            let facts = self.shared.facts.lock().unwrap_or_else(PoisonError::into_inner);
            facts.unattended || facts.was_unattended
        };
        let leader = self.path.key(Leaf::Leader);
        let put = Write::Put { key: leader.clone(), value: self.name.as_str().into(), lease };
        let unbeaten = Compare::AtRevision(self.path.key(Leaf::Position), position);
        for conditions in [
            vec![Compare::Absent(leader.clone()), unbeaten],
            vec![Compare::ValueIs(leader.clone(), self.name.as_str().into())],
        ] {
            let sent = clock::boot();
            let writes = [put.clone(), self.position(false, mark)];
            if let Some(revision) = self.dcs.write(&conditions, &writes, self.call()).await? {
                self.held(sent, revision, mark);
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// A release names the beat that it ends: one that reaches the store late, after this node took
    /// the key anew, must not end that.
    async fn release(&mut self) -> Result<(), DcsError> {
        self.shared.held_until.store(0, Ordering::SeqCst);
        self.set_kept(false);
        if let Some(last) = self.last.take()
            && self.release_over(last).await?
        {
            return Ok(());
        }
        // The answer to a beat was lost, or the key is another's by now.
        let found = self.dcs.read(self.path.prefix(), self.call()).await?;
        let at = |leaf| found.keys.get(&self.path.key(leaf));
        let mine = at(Leaf::Leader).is_some_and(|key| key.value == self.name.as_str().as_bytes());
        if let Some(position) = at(Leaf::Position).filter(|_| mine) {
            self.release_over(position.revision).await?;
        }
        Ok(())
    }

    /// `false`: the key is not ours, or `position` is not at that revision.
    async fn release_over(&mut self, position: Revision) -> Result<bool, DcsError> {
        let leader = self.path.key(Leaf::Leader);
        let conditions = [
            Compare::ValueIs(leader.clone(), self.name.as_str().into()),
            Compare::AtRevision(self.path.key(Leaf::Position), position),
        ];
        let writes = [Write::Delete(leader), self.position(true, false)];
        Ok(self.dcs.write(&conditions, &writes, self.call()).await?.is_some())
    }

    fn held(&mut self, sent: Boot, revision: Revision, mark: bool) {
        let until = sent + self.beat_ttl.saturating_sub(stop_margin(self.beat_ttl));
        self.last = Some(revision);
        self.plans.commit();
        *self.shared.round.lock().unwrap_or_else(PoisonError::into_inner) = None;
        self.shared.held_until.store(until.0, Ordering::SeqCst);
        self.shared.watchdog().feed();
        if mark {
            self.lift();
        } else if self.shared.armed.load(Ordering::SeqCst) {
            self.tell_guard(until);
        }
    }

    /// `true` when the guard has taken the deadline.
    fn tell_guard(&mut self, until: Boot) -> bool {
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
