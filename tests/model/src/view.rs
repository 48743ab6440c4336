//! What one agent sees of a model's world, and what the real `decide` makes of it.
//!
//! A view is small and comparable, so that each different view is decided once and remembered: the
//! checker asks millions of times.

use crate::facts::{control, poll};
use crate::healthy::{self, NOW};
pub use crate::timing::Timing;
use crate::wal::Wal;
use node_agent_core::divergence::SourceHistory;
use node_agent_core::failsafe;
use node_agent_core::observed::{Keyed, Lease, Observed, Observer};
use node_agent_core::postgres::{Postgres, Running, Upstream};
use node_agent_core::promise::Promise;
use node_agent_core::time::Fact;
use node_agent_wire::dynamic::{Dynamic, FailsafeMode};
use node_agent_wire::position::{FailsafeTerms, Position};
use node_agent_wire::status::{Failover, SyncState};
use node_agent_wire::{MemberName, Revision};
use std::collections::BTreeSet;

/// Nodes of each model.
pub const NODES: usize = 3;
/// A node, by its place.
pub type Id = u8;

/// Every node of a model.
pub fn nodes() -> impl Iterator<Item = Id> {
    0..3
}

/// The member's name.
#[must_use]
pub fn name(id: Id) -> MemberName {
    MemberName::from(["pg1", "pg2", "pg3"][usize::from(id)])
}

/// The member of that name.
#[must_use]
pub fn id(name: &MemberName) -> Option<Id> {
    nodes().find(|id| self::name(*id) == *name)
}

/// A set of nodes, one bit each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Set(pub u8);

impl Set {
    /// Whether it holds the node.
    #[must_use]
    pub fn has(self, id: Id) -> bool {
        self.0 & (1 << id) != 0
    }

    /// The set with the node.
    #[must_use]
    pub fn with(self, id: Id) -> Self {
        Self(self.0 | 1 << id)
    }

    /// Its nodes.
    pub fn iter(self) -> impl Iterator<Item = Id> {
        nodes().filter(move |id| self.has(*id))
    }

    /// How many.
    #[must_use]
    pub fn len(self) -> u8 {
        u8::from(self.has(0)) + u8::from(self.has(1)) + u8::from(self.has(2))
    }

    /// Nobody.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    fn names(self) -> BTreeSet<MemberName> {
        self.iter().map(name).collect()
    }
}

/// `/sync`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sync {
    /// Who wrote it.
    pub leader: Option<Id>,
    /// Who may be elected beside it.
    pub standbys: Set,
    /// Votes needed in quorum mode.
    pub quorum: u8,
}

impl Sync {
    /// The model's form of what the agent writes.
    #[must_use]
    pub fn of(state: &SyncState) -> Self {
        Self {
            leader: state.leader.as_ref().and_then(id),
            standbys: state.sync_standby.iter().filter_map(id).fold(Set::default(), Set::with),
            quorum: u8::try_from(state.quorum).unwrap_or(u8::MAX),
        }
    }

    fn state(self) -> SyncState {
        SyncState {
            leader: self.leader.map(name),
            sync_standby: self.standbys.names(),
            quorum: u32::from(self.quorum),
        }
    }
}

/// The last beat.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Beat {
    /// Whose.
    pub leader: Id,
    /// It gave the key up.
    pub released: bool,
    /// PostgreSQL may go on without it (maintenance mode).
    pub unattended: bool,
    /// The TTL that it counts with, in ticks.
    pub ttl: u8,
}

/// The `failover` key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Asked {
    /// Who leads now.
    pub leader: Id,
    /// Who is to.
    pub candidate: Option<Id>,
}

/// The DCS as it was read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Store {
    /// `leader`.
    pub leader: Option<Id>,
    /// `position`.
    pub beat: Option<Beat>,
    /// Ticks since this node first saw that beat.
    pub beat_age: u8,
    /// `sync`.
    pub sync: Sync,
    /// `failover`.
    pub asked: Option<Asked>,
    /// Members whose keys are there.
    pub members: Set,
}

/// `synchronous_standby_names`: wait for so many of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Names {
    /// How many.
    pub need: u8,
    /// Of whom.
    pub of: Set,
    /// `ANY`, not `FIRST`: what the text says, no difference while all of them are needed.
    pub any: bool,
}

impl Names {
    /// Reads what the agent sets.
    ///
    /// # Panics
    /// On a form that the agent does not make.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let of = nodes()
            .filter(|id| text.contains(&format!("\"{}\"", name(*id))))
            .fold(Set::default(), Set::with);
        if text == "*" {
            return Self { need: 1, of: Set(0b111), any: false };
        }
        let any = text.starts_with("ANY ");
        let number = text.trim_start_matches("ANY ").split(' ').next().unwrap_or_default();
        let need = match (text, of.len()) {
            ("", _) => 0,
            (_, 1) if text.starts_with('"') => 1,
            (_, _) => number.parse().unwrap_or_else(|_| panic!("names of an unknown form: {text}")),
        };
        Self { need, of, any }
    }

    /// As the agent writes it.
    #[must_use]
    pub fn text(self) -> String {
        let quoted: Vec<String> = self.of.iter().map(|id| format!("\"{}\"", name(id))).collect();
        match (self.need, self.any, quoted.as_slice()) {
            (0, _, _) => String::new(),
            (1, false, [_, _, _]) => "*".to_owned(),
            (1, false, [one]) => one.clone(),
            (need, any, several) => {
                let kind = if any { "ANY " } else { "" };
                format!("{kind}{need} ({})", several.join(","))
            }
        }
    }
}

/// PostgreSQL on the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Server {
    /// No process.
    Down {
        /// It was a primary when it stopped or died.
        primary: bool,
        /// Its WAL.
        wal: Wal,
    },
    /// Accepts writes.
    Primary {
        /// Its WAL.
        wal: Wal,
        /// `synchronous_standby_names` as configured.
        names: Names,
        /// Where each connected standby has flushed to, in records.
        flushed: [Option<u8>; NODES],
    },
    /// In recovery.
    Standby {
        /// Its WAL.
        wal: Wal,
        /// `synchronous_standby_names` as configured.
        names: Names,
        /// The node that it is set to follow.
        follows: Option<Id>,
        /// Its receiver is connected there.
        streams: bool,
    },
}

/// What a member answers when it is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Answer {
    /// Nothing.
    Silent,
    /// It runs.
    Runs {
        /// And accepts writes.
        primary: bool,
        /// Up to here.
        wal: Wal,
    },
}

/// Settings that a model chooses once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Mode {
    /// Asynchronous.
    #[default]
    Async,
    /// `synchronous_mode: true`.
    Sync,
    /// The same with `synchronous_mode_strict`.
    Strict,
    /// `synchronous_mode: quorum`.
    Quorum,
}

/// What a node knows of failsafe mode. Every member is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Failsafe {
    /// A majority is enough, by the configuration.
    pub majority: bool,
    /// By the last beat.
    pub beat_majority: bool,
    /// Whom this node has accepted, and for how many ticks more.
    pub promise: Option<(Id, u8)>,
    /// Votes against the last beat: asked for so many ticks ago, and by whom they were given.
    pub votes: Option<(u8, Set)>,
    /// Ticks since the agent started.
    pub up: u8,
}

/// Everything that one decision is made from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct View {
    /// This node.
    pub me: Id,
    /// The clocks.
    pub timing: Timing,
    /// Maintenance mode.
    pub pause: bool,
    /// A leader that is silent for a TTL is lost, while the store still has its key.
    pub lost: bool,
    /// The settings.
    pub mode: Mode,
    /// Standbys wanted.
    pub count: u8,
    /// Ticks that the lease is held for; 0 when it is not.
    pub held: u8,
    /// The keeper leads, or has not noticed yet that the lease is over.
    pub leads: bool,
    /// The last committed beat lets PostgreSQL go on without it.
    pub kept: bool,
    /// The DCS; `None` when it could not be read.
    pub store: Option<Store>,
    /// PostgreSQL.
    pub server: Server,
    /// End of WAL, in records, from which on commits have waited for the names.
    pub names_set_at: Option<u8>,
    /// A write of `/sync` may still arrive.
    pub sync_unsure: bool,
    /// What the members have answered just now; `None` when they were not asked.
    pub poll: Option<[Answer; NODES]>,
    /// The history of the leader as it answered; the key's holder is who is asked.
    pub source: Option<Wal>,
    /// PostgreSQL did not start here.
    pub start_failed: bool,
    /// Failsafe mode.
    pub failsafe: Option<Failsafe>,
}

impl View {
    /// The facts as production would gather them.
    #[must_use]
    pub fn observed(&self) -> Observed {
        let mut observed = healthy::cluster();
        observed.me.name = name(self.me);
        observed.config = self.config();
        observed.sync_names_ours = true;
        observed.sync_names_set_at = self.names_set_at.map(crate::wal::position);
        observed.sync_unsure = self.sync_unsure;
        let held_until = self.leads.then(|| self.timing.ahead(self.held));
        observed.lease = Lease { held_until, kept: self.kept };
        observed.start_failures = u32::from(self.start_failed);
        observed.poll = self.poll.map(|answers| poll(self.me, answers));
        self.show_server(&mut observed);
        self.show_failsafe(&mut observed);
        let Some(store) = self.store else {
            observed.cluster = Fact::Unknown { since: NOW, tried: true };
            return observed;
        };
        observed.observer = Observer {
            beat_seen_at: store.beat.map(|_| self.timing.ago(store.beat_age)),
            last_leader: None,
        };
        self.show_store(&mut observed, &store);
        if let Some(leader) = store.leader.filter(|leader| *leader != self.me) {
            observed.source = self.source.map(|wal| SourceHistory {
                upstream: healthy::member_upstream(name(leader).as_str()),
                at: NOW,
                answer: Ok(wal.history()),
                beginnings: wal.beginnings(),
                same_wal: None,
                wal_since: None,
            });
        }
        observed
    }

    fn config(&self) -> Dynamic {
        let mut config = config(self.mode, self.count, self.pause);
        config.timing.ttl = self.timing.ticks(self.timing.ttl);
        config.primary_lost_timeout = self.lost.then_some(config.timing.ttl);
        config.failsafe = match self.failsafe {
            None => FailsafeMode::Off,
            Some(known) if known.majority => FailsafeMode::Majority,
            Some(_) => FailsafeMode::All,
        };
        config
    }

    fn show_failsafe(&self, observed: &mut Observed) {
        let Some(known) = self.failsafe else { return };
        observed.started_at = self.timing.ago(known.up);
        observed.failsafe = failsafe::Failsafe {
            round: None,
            told: std::collections::BTreeMap::new(),
            promise: known
                .promise
                .map(|(to, left)| Promise { leader: name(to), until: self.timing.ahead(left) }),
            votes: known.votes.map(|(age, granted)| failsafe::Votes {
                asked_at: self.timing.ago(age),
                beat: Revision(1),
                granted: granted.names(),
            }),
        };
    }

    fn show_store(&self, observed: &mut Observed, store: &Store) {
        let cluster = healthy::dcs(observed);
        cluster.config = self.config();
        cluster.leader = store.leader.map(name);
        cluster.history = None;
        cluster.status.optime = None;
        cluster.members.retain(|name, _| id(name).is_some_and(|id| store.members.has(id)));
        cluster.sync = Keyed { value: store.sync.state(), revision: Revision(1) };
        cluster.position = store.beat.and_then(|beat| position(&beat, self.timing));
        cluster.position_revision = Revision(1);
        if let (Some(known), Some(position)) = (self.failsafe, &mut cluster.position) {
            let members = nodes().map(name).collect();
            position.failsafe = Some(FailsafeTerms { members, majority: known.beat_majority });
        }
        if let Some(asked) = store.asked {
            let value = Failover {
                leader: Some(name(asked.leader)),
                member: asked.candidate.map(name),
                ..Failover::default()
            };
            cluster.failover = Keyed { value, revision: Revision(1) };
        }
    }

    fn show_server(&self, observed: &mut Observed) {
        observed.following = None;
        match self.server {
            Server::Down { primary, wal } => {
                observed.own_history = Some(wal.history());
                observed.directory.beginnings = wal.beginnings();
                observed.postgres = Postgres::Stopped(control(primary, &wal));
            }
            Server::Primary { wal, names, flushed } => {
                observed.own_history = Some(wal.history());
                observed.directory.beginnings = wal.beginnings();
                let mut running = running(&wal, names);
                running.in_recovery = false;
                running.senders = nodes()
                    .filter_map(|id| Some((id, flushed[usize::from(id)]?)))
                    .map(|(id, flushed)| {
                        let mut sender = healthy::sender(name(id).as_str());
                        sender.flush_lsn = Some(crate::wal::position(flushed));
                        let kind = if names.any { "quorum" } else { "sync" };
                        let waited = names.need > 0 && names.of.has(id);
                        sender.sync_state = if waited { kind } else { "async" }.into();
                        sender
                    })
                    .collect();
                observed.postgres = Postgres::Running(Box::new(running));
            }
            Server::Standby { wal, names, follows, streams } => {
                observed.own_history = Some(wal.history());
                observed.directory.beginnings = wal.beginnings();
                observed.following = Some(match follows {
                    Some(id) => healthy::member_upstream(name(id).as_str()),
                    None => Upstream::Nobody,
                });
                let mut running = running(&wal, names);
                running.receiver = streams.then(|| healthy::receiver("streaming"));
                observed.postgres = Postgres::Running(Box::new(running));
            }
        }
    }
}

fn config(mode: Mode, count: u8, pause: bool) -> Dynamic {
    let value = match mode {
        Mode::Async => serde_json::json!(false),
        Mode::Sync | Mode::Strict => serde_json::json!(true),
        Mode::Quorum => serde_json::json!("quorum"),
    };
    let json = serde_json::json!({
        "loop_wait": 1, "retry_timeout": 1, "pause": pause,
        "synchronous_mode": value,
        "synchronous_mode_strict": mode == Mode::Strict,
        "synchronous_node_count": count,
        "postgresql": { "use_pg_rewind": true, "use_slots": false },
    });
    json.as_object().map(Dynamic::read).unwrap_or_default()
}

fn running(wal: &Wal, names: Names) -> Running {
    Running {
        timeline: wal.timeline(),
        lsn: wal.end(),
        receive_lsn: Some(wal.end()),
        replay_lsn: Some(wal.end()),
        sync_names: names.text(),
        ..healthy::standby()
    }
}

/// As the key reads: what is not given has its default, whatever fields there are.
fn position(beat: &Beat, timing: Timing) -> Option<Position> {
    let ttl_ms = u64::from(beat.ttl) * u64::from(timing.tick_ms);
    let json = serde_json::json!({
        "leader": name(beat.leader), "beat": 1, "ttl_ms": ttl_ms, "released": beat.released,
        "unattended": beat.unattended, "writable": false, "at_us": 0,
    });
    serde_json::from_value(json).ok()
}
