//! The grant keeper: a thread of its own that takes, renews and gives back the site grants, with
//! one task and one connection for each voter, so that neither a slow PostgreSQL, a slow loop nor a
//! voter that does not answer loses the others; and it renews only while the loop shows that it is
//! alive.
//!
//! What is wanted, and what is done at a voter, is decided in `node_agent_core::grants`; here are
//! the calls, their deadlines, and what the loop and the guard are told.

mod voter;

use crate::clock;
use crate::dcs::etcd::Login;
use crate::keeper::Limit;
use node_agent_core::grant::{Majority, Terms};
use node_agent_core::grants::{Grants, Seat, Want, want};
use node_agent_core::observed::Observed;
use node_agent_core::time::Boot;
use node_agent_wire::federation::FederationRecord;
use node_agent_wire::grant::{Marker, Place, Reached, Voter};
use node_agent_wire::position::PrimarySeen;
use node_agent_wire::{DcName, Epoch, MemberName};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;

/// What the loop told last.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Told {
    want: Want,
    dc: DcName,
    terms: Terms,
    voters: BTreeMap<Voter, Place>,
}

/// How this node reaches the DCS of its own datacenter.
#[derive(Clone)]
pub struct Own {
    /// Its endpoints.
    pub endpoints: Vec<String>,
    /// How to log in there.
    pub login: Login,
}

/// What all tasks share.
struct Shared {
    node: MemberName,
    own: Own,
    limit: Arc<Limit>,
    wake: Arc<Notify>,
    table: Mutex<Table>,
}

/// What is known of the voters.
#[derive(Default)]
struct Table {
    /// For which the voters below were tried.
    want: Want,
    tried: BTreeSet<Voter>,
    seats: BTreeMap<Voter, Seat>,
    sent: BTreeMap<Voter, (Epoch, Boot)>,
    until: Option<Boot>,
    /// How far this node's primary is.
    position: Option<Reached>,
    /// The newest position of a holder in any marker.
    reached: Option<PrimarySeen>,
}

/// The loop's end.
pub struct GrantKeeper {
    told: watch::Sender<Told>,
    shared: Arc<Shared>,
}

impl GrantKeeper {
    /// Starts the thread.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn start(
        node: MemberName,
        own: Own,
        limit: Arc<Limit>,
        wake: Arc<Notify>,
    ) -> std::io::Result<Self> {
        let (told, receiver) = watch::channel(Told::default());
        let shared = Arc::new(Shared { node, own, limit, wake, table: Mutex::default() });
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let theirs = shared.clone();
        std::thread::Builder::new().name("grant-keeper".into()).spawn(move || {
            runtime.block_on(supervise(theirs, receiver));
        })?;
        Ok(Self { told, shared })
    }

    /// What this pass wants, and whether PostgreSQL writes only under grants.
    pub fn tell(&self, observed: &Observed, record: Option<&FederationRecord>) {
        let enforced = record.is_some_and(|record| record.needs_grants(&record.dc));
        self.shared.limit.enforce(enforced);
        let told = match record.and_then(|r| Some((r, r.policies.grants.as_ref()?))) {
            None => Told::default(),
            Some((record, policy)) => Told {
                want: want(observed),
                dc: record.dc.clone(),
                terms: Terms::of(policy),
                voters: record.voters(),
            },
        };
        let (held, idle) = (matches!(told.want, Want::Hold { .. }), told.want == Want::Nothing);
        self.told.send_if_modified(|before| {
            let news = *before != told;
            if news {
                *before = told;
            }
            news
        });
        if !held {
            // At once, also while a call to a voter is under way.
            self.shared.give_up(idle);
        }
    }

    /// How far this node's primary is; `None` when it is none. The renewals carry it.
    pub fn tell_position(&self, position: Option<Reached>) {
        self.shared.table().position = position;
    }

    /// The last position of the primary datacenter in the markers, for the loss estimate: also
    /// when that datacenter itself can't be reached.
    #[must_use]
    pub fn primary_seen(&self, primary: &DcName) -> Option<PrimarySeen> {
        self.shared.table().reached.clone().filter(|seen| seen.dc == *primary)
    }

    /// The grants as a fact; `None` where there are none.
    #[must_use]
    pub fn facts(&self) -> Option<Grants> {
        let (want, voters) = {
            let told = self.told.borrow();
            if told.voters.is_empty() {
                return None;
            }
            (told.want.clone(), told.voters.clone())
        };
        let table = self.shared.table();
        let settled = table.want == want && voters.keys().all(|v| table.tried.contains(v));
        let held = matches!(want, Want::Hold { .. });
        Some(Grants {
            want,
            until: table.until.filter(|_| held),
            settled,
            seats: table.seats.clone(),
        })
    }
}

impl Shared {
    fn table(&self) -> std::sync::MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `idle`: nor are the voters looked at, so what was seen of them gets old.
    fn give_up(&self, idle: bool) {
        let mut table = self.table();
        if idle {
            table.seats.clear();
        }
        table.sent.clear();
        table.until = None;
        self.limit.hold_until(None);
    }

    /// A marker that was read.
    fn saw(&self, marker: &Marker) {
        let Some(reached) = &marker.position else { return };
        let mut table = self.table();
        let known = table.reached.as_ref().map(|before| (before.epoch, before.at_us));
        if known < Some((marker.epoch, reached.at_us)) {
            table.reached = Some(PrimarySeen {
                dc: marker.holder.clone(),
                epoch: marker.epoch,
                lsn: reached.lsn,
                timeline: reached.timeline,
                at_us: reached.at_us,
                seen_at_us: clock::wall_us(),
                wal_rate_max: reached.wal_rate_max,
                consumers: reached.consumers.clone(),
            });
        }
    }

    /// This datacenter does not count with the voter any more.
    fn forget(&self, voter: &Voter, told: &Told) {
        let mut table = self.table();
        if table.sent.remove(voter).is_some() {
            self.count(&mut table, told);
        }
    }

    /// Takes what a task has found. `sent`: when the renewal was sent that succeeded.
    fn note(&self, voter: &Voter, told: &Told, seat: Seat, sent: Option<(Epoch, Boot)>) {
        let mut table = self.table();
        if table.want != told.want {
            table.want = told.want.clone();
            table.tried.clear();
        }
        let settles = table.tried.insert(voter.clone()) && table.tried.len() == told.voters.len();
        let news = table.seats.get(voter).is_none_or(|before| before.ours != seat.ours);
        table.seats.insert(voter.clone(), seat);
        table.seats.retain(|voter, _| told.voters.contains_key(voter));
        if let Some(sent) = sent {
            table.sent.insert(voter.clone(), sent);
        }
        let had = table.until.is_some();
        self.count(&mut table, told);
        if news || settles || had != table.until.is_some() {
            self.wake.notify_one();
        }
    }

    fn count(&self, table: &mut Table, told: &Told) {
        let Want::Hold { epoch, .. } = &told.want else {
            table.until = None;
            return self.limit.hold_until(None);
        };
        table.sent.retain(|voter, _| told.voters.contains_key(voter));
        let now = clock::boot();
        let majority = Majority::of(told.voters.len(), &table.sent, *epoch, &told.terms, now);
        table.until = majority.map(|majority| majority.until());
        self.limit.hold_until(table.until);
    }
}

/// Keeps one task for each voter.
async fn supervise(shared: Arc<Shared>, mut told: watch::Receiver<Told>) {
    let mut tasks: BTreeMap<Voter, (Place, JoinHandle<()>)> = BTreeMap::new();
    loop {
        let wanted = told.borrow_and_update().voters.clone();
        tasks.retain(|voter, (place, task)| {
            let keep = wanted.get(voter) == Some(place);
            if !keep {
                task.abort();
            }
            keep
        });
        for (voter, place) in wanted {
            tasks.entry(voter).or_insert_with_key(|voter| {
                let attend =
                    voter::attend(voter.clone(), place.clone(), shared.clone(), told.clone());
                (place, tokio::spawn(attend))
            });
        }
        if told.changed().await.is_err() {
            return;
        }
    }
}
