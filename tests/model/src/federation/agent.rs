//! The agent of a datacenter's leader: what it sees, the real `decide`, and its effects.

use super::dc;
use super::record::{Ack, Rec};
use super::world::{Dc, Id, PLACES, Pg, World};
use crate::healthy::{self, NOW, WALL_US};
use crate::wal::{Record, Wal, position};
use node_agent_core::beginning::Beginnings;
use node_agent_core::decide;
use node_agent_core::decision::{Act, Decision, StopMode, Tend};
use node_agent_core::divergence::SourceHistory;
use node_agent_core::observed::{Keyed, Observed, RecordView};
use node_agent_core::postgres::{ControlData, ControlState, Postgres, Running, Upstream};
use node_agent_core::time::Fact;
use node_agent_wire::dynamic::Dynamic;
use node_agent_wire::position::Position;
use node_agent_wire::{Lsn, Revision, SlotName};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::time::Duration;

/// Another datacenter's record, as the agent knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Peer {
    /// Not asked since the agent started.
    NotAsked,
    /// Asked, no answer.
    Silent,
    /// This record.
    Known {
        /// The epoch.
        epoch: u8,
        /// Its primary.
        primary: Id,
    },
}

/// Everything that one decision is made from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct View {
    count: u8,
    me: Id,
    dc: Dc,
    peers: [Peer; PLACES],
    /// The history of the datacenter that `standby_cluster` names.
    source: Option<Wal>,
    streams: bool,
    /// Deliberate: the record is not looked at.
    blind: bool,
    /// Deliberate: how timelines begin is not looked at.
    alike: bool,
}

/// One effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Write this record.
    Record(Rec),
    /// Write the acknowledgement.
    Acknowledge(Ack),
    /// Stop a primary, cleanly or not.
    Stop(bool),
    /// Start or point a standby.
    Follow(Option<Id>),
    /// Rewind to the source, keeping so many records.
    Rewind(u8),
    /// Give the data directory up for a copy of this datacenter.
    Copy(Id),
    /// Promote.
    Promote,
    /// Start as primary.
    StartPrimary,
}

type Effects = [Option<Effect>; 3];

thread_local! {
    static KNOWN: RefCell<BTreeMap<View, Effects>> = const { RefCell::new(BTreeMap::new()) };
}

impl View {
    /// What the leader of `me` sees when it looks at the others with success or not.
    #[must_use]
    pub fn of(world: &World, me: Id, answers: impl Fn(Id) -> bool, blind: bool) -> Self {
        let dc = *world.dc(me);
        let mut peers = [Peer::Silent; PLACES];
        for other in world.places().filter(|other| *other != me) {
            let rec = world.dc(other).rec;
            peers[usize::from(other)] = match (answers(other), dc.seen[usize::from(other)]) {
                _ if !dc.asked => Peer::NotAsked,
                (true, _) => Peer::Known { epoch: rec.epoch, primary: rec.primary },
                (false, Some(seen)) => Peer::Known { epoch: seen.epoch, primary: seen.primary },
                (false, None) => Peer::Silent,
            };
        }
        let source = dc.standby.filter(|of| *of != me).map(|of| world.dc(of).wal);
        let seen = [None; PLACES];
        let streams = world.streams(me);
        Self {
            count: world.count,
            me,
            dc: Dc { seen, ..dc },
            peers,
            source,
            streams,
            blind,
            alike: false,
        }
    }

    /// The same without a look at how timelines begin.
    #[must_use]
    pub fn by_history_alone(self) -> Self {
        Self { alike: true, ..self }
    }

    fn beginnings(&self, wal: &Wal) -> Beginnings {
        let mut all = wal.beginnings();
        if self.alike {
            all.values_mut().for_each(|begun| begun.record.clear());
        }
        all
    }

    /// What it knows of the others that its own record does not have.
    pub fn later(&self) -> impl Iterator<Item = (Id, u8, Id)> + '_ {
        let rec = self.dc.rec;
        (0..).zip(self.peers).filter_map(move |(place, peer)| match peer {
            Peer::Known { epoch, primary }
                if epoch > rec.epoch || epoch == rec.epoch && primary != rec.primary =>
            {
                Some((place, epoch, primary))
            }
            Peer::Known { .. } | Peer::NotAsked | Peer::Silent => None,
        })
    }

    /// The effects that the real function decides on, in order.
    #[must_use]
    pub fn effects(&self) -> Effects {
        if let Some(known) = KNOWN.with_borrow(|known| known.get(self).copied()) {
            return known;
        }
        let effects = read(&decide(&self.observed()));
        KNOWN.with_borrow_mut(|known| known.insert(*self, effects));
        effects
    }

    /// The facts as production would gather them.
    fn observed(&self) -> Observed {
        let mut observed = healthy::cluster();
        let rec = self.dc.rec;
        observed.config = config(self.dc.standby);
        observed.peers = (0..self.count)
            .filter(|place| *place != self.me)
            .map(|place| (dc(place), self.peer(place)))
            .collect();
        observed.own_history = Some(self.dc.wal.history());
        observed.directory.beginnings = self.beginnings(&self.dc.wal);
        observed.postgres = self.postgres();
        observed.following = match self.dc.pg {
            Pg::Standby { follows } => Some(follows.map_or(Upstream::Nobody, upstream)),
            Pg::Primary | Pg::Down { .. } => None,
        };
        observed.source = self.dc.standby.zip(self.source).map(|(of, wal)| SourceHistory {
            upstream: upstream(of),
            at: NOW,
            answer: Ok(wal.history()),
            beginnings: self.beginnings(&wal),
            same_wal: None,
            wal_since: None,
        });
        let cluster = healthy::dcs(&mut observed);
        cluster.config = config(self.dc.standby);
        cluster.history = None;
        cluster.members.retain(|name, _| name.as_str() == "pg1");
        cluster.status.optime = Some(self.dc.wal.end());
        cluster.position = self.position();
        if !self.blind {
            let record = Keyed { value: rec.real(self.me, self.count), revision: Revision(1) };
            cluster.record = RecordView::Present(Box::new(record));
        }
        observed
    }

    fn peer(&self, place: Id) -> Fact<node_agent_wire::federation::FederationRecord> {
        match self.peers[usize::from(place)] {
            Peer::NotAsked => Fact::Unknown { since: NOW, tried: false },
            Peer::Silent => Fact::Unknown { since: NOW, tried: true },
            Peer::Known { epoch, primary } => {
                let rec = Rec { epoch, primary, ..Rec::first(primary) };
                Fact::Known { value: rec.real(place, self.count), at: NOW }
            }
        }
    }

    fn postgres(&self) -> Postgres {
        let wal = &self.dc.wal;
        let running = |in_recovery: bool| {
            Postgres::Running(Box::new(Running {
                in_recovery,
                timeline: wal.timeline(),
                lsn: wal.end(),
                receive_lsn: Some(wal.end()),
                replay_lsn: Some(wal.end()),
                receiver: self.streams.then(|| healthy::receiver("streaming")),
                ..healthy::standby()
            }))
        };
        match self.dc.pg {
            Pg::Primary => running(false),
            Pg::Standby { .. } => running(true),
            Pg::Down { primary, clean } => Postgres::Stopped(control(wal, primary, clean)),
        }
    }

    /// As the key reads: what is not given has its default.
    fn position(&self) -> Option<Position> {
        let age = Duration::from_secs(if self.dc.warm { 1 } else { 3600 });
        let wrote = WALL_US - i64::try_from(age.as_micros()).unwrap_or(0);
        let json = serde_json::json!({
            "leader": "pg1", "beat": 1, "ttl_ms": 3000, "writable": self.dc.pg == Pg::Primary,
            "at_us": WALL_US, "wrote_at_us": wrote, "lsn": self.dc.wal.end(),
        });
        serde_json::from_value(json).ok()
    }
}

/// Where the leader of a standby of `place` replicates from.
#[must_use]
pub fn upstream(place: Id) -> Upstream {
    let slot = Some(SlotName::from_name("link"));
    Upstream::Remote { hosts: vec![(host(place), 5432)], slot, cascade: false }
}

fn host(place: Id) -> String {
    format!("10.9.0.{place}")
}

fn place_of(upstream: &Upstream) -> Option<Id> {
    match upstream {
        Upstream::Remote { hosts, .. } => {
            let (host, _) = hosts.first()?;
            host.rsplit('.').next()?.parse().ok()
        }
        Upstream::Member { .. } | Upstream::Archive { .. } | Upstream::Nobody => None,
    }
}

/// The dynamic configuration of a datacenter.
#[must_use]
pub fn config_json(standby: Option<Id>) -> serde_json::Map<String, serde_json::Value> {
    let mut json = serde_json::json!({
        "ttl": 3, "loop_wait": 1, "retry_timeout": 1,
        "postgresql": { "use_pg_rewind": true, "use_slots": false },
    });
    if let Some(of) = standby {
        json["standby_cluster"] = serde_json::json!({
            "host": host(of), "port": 5432, "primary_slot_name": "link",
        });
    }
    json.as_object().cloned().unwrap_or_default()
}

fn config(standby: Option<Id>) -> Dynamic {
    Dynamic::read(&config_json(standby))
}

fn control(wal: &Wal, primary: bool, clean: bool) -> ControlData {
    let state = match (primary, clean) {
        (true, true) => ControlState::ShutDown,
        (true, false) => ControlState::InProduction,
        (false, _) => ControlState::InArchiveRecovery,
    };
    let min_recovery_end = if primary { Lsn(0) } else { wal.end() };
    ControlData {
        timeline: wal.timeline(),
        checkpoint: position(wal.len().saturating_sub(1)),
        min_recovery_end,
        min_recovery_timeline: wal.timeline(),
        ..healthy::control(state)
    }
}

fn read(decision: &Decision) -> Effects {
    let tend = decision.tend.iter().filter_map(of_tend);
    let mut all = tend.chain(decision.act.iter().filter_map(of_act));
    let effects = [all.next(), all.next(), all.next()];
    assert!(all.next().is_none(), "more effects than the model carries out: {decision:?}");
    effects
}

fn of_tend(tend: &Tend) -> Option<Effect> {
    match tend {
        Tend::ReplaceRecord { record, .. } => Some(Effect::Record(Rec::of(record))),
        Tend::StartStandby(upstream) | Tend::Follow(upstream) => {
            Some(Effect::Follow(place_of(upstream)))
        }
        // The model's datacenters see no addresses of each other.
        Tend::FollowDatacenter { .. }
        | Tend::AskPeers
        | Tend::AskHistory(_)
        | Tend::Slot(_)
        | Tend::CopySlots { .. }
        | Tend::AskSlots(_)
        | Tend::PublishLeader
        | Tend::EndUnattended
        | Tend::AskVotes { .. }
        | Tend::ReadWalEnd { .. }
        | Tend::DropRequest(_)
        | Tend::DropScheduledRestart(_)
        | Tend::SetSyncNames(_)
        | Tend::WriteSync { .. }
        | Tend::DeleteSync(_)
        | Tend::ClearFailover { .. }
        | Tend::ApplySettings => None,
    }
}

fn of_act(act: &Act) -> Option<Effect> {
    match act {
        Act::Promote(_) => Some(Effect::Promote),
        Act::StartPrimary(_) => Some(Effect::StartPrimary),
        Act::Demote(mode) => Some(Effect::Stop(mode.how(false).stop == StopMode::Fast)),
        Act::AcknowledgeFence(ack) => Some(Effect::Acknowledge(Ack::of(ack))),
        Act::Rewind { fork, .. } => {
            // `position` counts records from one.
            let records = (fork.0 / position(0).0).saturating_sub(1);
            Some(Effect::Rewind(u8::try_from(records).unwrap_or(u8::MAX)))
        }
        Act::Reinit(reinit) => place_of(&reinit.source).map(Effect::Copy),
        Act::Acquire(_)
        | Act::Release
        | Act::Initdb(_)
        | Act::Clone(_)
        | Act::CloneLeaderless
        | Act::Leave
        | Act::Restart => unreachable!("not for the only node of a datacenter: {act:?}"),
    }
}

/// Carries the effects out; whether all of them had room.
pub fn carry_out(world: &mut World, me: Id, effects: Effects) -> bool {
    for effect in effects.into_iter().flatten() {
        let before = world.dc(me).wal;
        let room = before.has_room();
        match effect {
            Effect::Record(rec) => world.put(me, rec),
            Effect::Acknowledge(ack) => {
                let mut rec = world.dc(me).rec;
                if let Some(fence) = rec.fence.as_mut() {
                    fence.ack = Some(ack);
                }
                world.put(me, rec);
            }
            Effect::Stop(clean) => {
                let dc = world.dc_mut(me);
                dc.pg = Pg::Down { primary: true, clean };
                if clean {
                    if !room {
                        return false;
                    }
                    dc.wal.push(Record::Shutdown);
                }
            }
            Effect::Follow(follows) => world.dc_mut(me).pg = Pg::Standby { follows },
            Effect::Rewind(records) => {
                let source = world.dc(me).standby.map(|of| world.dc(of).wal.timeline());
                let dc = world.dc_mut(me);
                // Between timelines of one number pg_rewind does nothing.
                if source != Some(before.timeline()) {
                    dc.wal = before.first(records);
                }
                dc.pg = Pg::Down { primary: false, clean: true };
            }
            Effect::Copy(source) => {
                let copied = world.dc(source).wal;
                let dc = world.dc_mut(me);
                (dc.wal, dc.pg) = (copied, Pg::Down { primary: false, clean: true });
            }
            Effect::Promote => {
                if !room {
                    return false;
                }
                let dc = world.dc_mut(me);
                let next = u8::try_from(before.timeline().0 + 1).unwrap_or(u8::MAX);
                // No datacenter promotes twice at one position in one epoch.
                dc.wal.push(Record::Timeline(next, me * 16 + dc.rec.epoch));
                (dc.pg, dc.warm) = (Pg::Primary, true);
            }
            Effect::StartPrimary => {
                let dc = world.dc_mut(me);
                (dc.pg, dc.warm) = (Pg::Primary, true);
            }
        }
    }
    true
}
