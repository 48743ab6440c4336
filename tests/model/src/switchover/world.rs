//! The hosts and the store of the switchover model, in a few bytes.

use crate::view::{Asked, Id, NODES, Names, Set, Sync, nodes};
use crate::wal::{Record, Wal};
use node_agent_core::lease::Request;
use node_agent_wire::Revision;

/// The revision of `position` as it is.
pub const PRESENT: Revision = Revision(2);
const PAST: Revision = Revision(1);

/// PostgreSQL.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Pg {
    /// Runs in recovery.
    Standby,
    /// Accepts writes.
    Primary,
    /// Shuts down: it accepts no more writes, and ships what it has.
    Stopping,
    /// Does not run.
    Down {
        /// It was a primary.
        primary: bool,
    },
}

impl Pg {
    /// The guard has a deadline for it.
    pub(super) fn under_guard(self) -> bool {
        matches!(self, Self::Primary | Self::Stopping)
    }
}

/// The world.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct World {
    pub(super) wal: [Wal; NODES],
    pub(super) pg: [Pg; NODES],
    /// Who holds the right to lead.
    pub(super) holds: Set,
    /// Whose agent waits for the end of a shutdown, to release the key.
    pub(super) demoting: Set,
    /// Hosts that are lost.
    pub(super) gone: Set,
    /// Who does not hear the others.
    pub(super) deaf: Set,
    pub(super) connected: Set,
    /// On their way to the store.
    pub(super) calls: [Option<Request>; NODES],
    pub(super) last: [Option<Revision>; NODES],
    pub(super) key: Option<Id>,
    pub(super) beat_by: Id,
    pub(super) released: bool,
    pub(super) long_ago: bool,
    pub(super) request: Option<Asked>,
    /// The clearing of the request on its way, and whether it would still succeed.
    pub(super) clear: Option<bool>,
    pub(super) wrong_clear: bool,
    pub(super) rewound: bool,
    pub(super) sync: Sync,
    /// `synchronous_standby_names`, which outlive a restart.
    pub(super) names: [Names; NODES],
    pub(super) set_at: Option<u8>,
    pub(super) acknowledged: u8,
    pub(super) timeline: u8,
    pub(super) rows: u8,
    pub(super) requests: u8,
    pub(super) faults: u8,
}

impl World {
    /// The first node leads, the others stream from it.
    pub(super) fn healthy(sync: Sync, rows: u8, requests: u8, faults: u8) -> Self {
        Self {
            wal: [Wal::default(); NODES],
            pg: [Pg::Primary, Pg::Standby, Pg::Standby],
            holds: Set(0b001),
            demoting: Set(0),
            gone: Set(0),
            deaf: Set(0),
            connected: Set(0b110),
            calls: [None; NODES],
            last: [Some(PRESENT), None, None],
            key: Some(0),
            beat_by: 0,
            released: false,
            long_ago: false,
            request: None,
            clear: None,
            wrong_clear: false,
            rewound: false,
            sync,
            names: [Names::default(); NODES],
            set_at: None,
            acknowledged: 0,
            timeline: 1,
            rows,
            requests,
            faults,
        }
    }

    pub(super) fn at(&self, id: Id) -> Pg {
        self.pg[usize::from(id)]
    }

    pub(super) fn set(&mut self, id: Id, pg: Pg) {
        self.pg[usize::from(id)] = pg;
    }

    /// Who ships WAL.
    pub(super) fn source(&self) -> Option<Id> {
        let first = |pg| nodes().find(|id| self.at(*id) == pg);
        first(Pg::Primary).or_else(|| first(Pg::Stopping))
    }

    /// The observer wait: whoever beat last holds the right, or its PostgreSQL may still write.
    pub(super) fn may_still_lead(&self) -> bool {
        self.holds.has(self.beat_by) || self.at(self.beat_by).under_guard()
    }

    /// The bound on what happens one after the other: one promotion, and then a shutdown.
    pub(super) fn has_room(&self) -> bool {
        self.timeline <= 2 && self.wal.iter().all(|wal| wal.len() <= 4)
    }

    pub(super) fn ask(&mut self, asked: Asked) {
        self.change_request(Some(asked));
    }

    pub(super) fn change_request(&mut self, to: Option<Asked>) {
        self.request = to;
        self.clear = self.clear.map(|_| false);
    }

    pub(super) fn may_connect(&self, id: Id) -> bool {
        let Some(source) = self.source().filter(|_| !self.gone.has(id)) else { return false };
        let (own, whole) = (&self.wal[usize::from(id)], &self.wal[usize::from(source)]);
        let follows =
            own.len() <= whole.len() && own.records().zip(whole.records()).all(|(a, b)| a == b);
        self.at(id) == Pg::Standby && self.at(source) == Pg::Primary && follows
    }

    pub(super) fn connect(&mut self, id: Id) {
        self.connected = self.connected.with(id);
    }

    pub(super) fn receive(&mut self, id: Id) {
        let Some(source) = self.source() else { return };
        let source = self.wal[usize::from(source)];
        let own = &mut self.wal[usize::from(id)];
        own.receive(&source, own.len() + 1);
    }

    /// A shutdown ends when every connected standby has everything.
    pub(super) fn stops(&self, id: Id) -> bool {
        let all = self.wal[usize::from(id)].len();
        let has = |standby: Id| self.wal[usize::from(standby)].len() >= all;
        self.at(id) == Pg::Stopping && self.connected.iter().all(has)
    }

    /// Nothing is shipped any more.
    pub(super) fn stopped(&mut self, id: Id) {
        self.set(id, Pg::Down { primary: true });
        self.connected = Set(0);
    }

    /// The guard stops at the deadline what may write.
    pub(super) fn lose_right(&mut self, id: Id) {
        if self.at(id).under_guard() {
            let all = self.wal[usize::from(id)].len();
            let shipped = nodes().any(|o| o != id && self.wal[usize::from(o)].len() >= all);
            if self.at(id) == Pg::Stopping && !shipped {
                // It was ended before it wrote the checkpoint.
                self.wal[usize::from(id)].cut_shutdown();
            }
            self.stopped(id);
        }
        self.holds.0 &= !(1 << id);
        self.last[usize::from(id)] = None;
        self.demoting.0 &= !(1 << id);
    }

    pub(super) fn kill_agent(&mut self, id: Id) {
        self.holds.0 &= !(1 << id);
        self.demoting.0 &= !(1 << id);
        self.last[usize::from(id)] = None;
        if self.key == Some(id) {
            self.set_at = None;
        }
    }

    pub(super) fn crash(&mut self, id: Id) {
        if self.at(id) == Pg::Standby {
            self.set(id, Pg::Down { primary: false });
        }
        self.connected.0 &= !(1 << id);
        self.gone = self.gone.with(id);
    }

    /// Any write of `position` is a new revision to whoever remembers one.
    pub(super) fn write_position(&mut self, id: Id, released: bool) {
        (self.beat_by, self.released, self.long_ago) = (id, released, false);
        self.last = self.last.map(|last| last.map(|_| PAST));
        for call in self.calls.iter_mut().flatten() {
            match call {
                Request::Beat { over }
                | Request::Acquire { over }
                | Request::Replace { over }
                | Request::TakeBack { over }
                | Request::PutBack { over }
                | Request::Release { over } => *over = PAST,
            }
        }
    }

    /// A commit returns once the standbys that PostgreSQL waits for have flushed it.
    pub(super) fn acknowledge(&mut self) {
        let Some(source) = self.source().filter(|id| self.at(*id) == Pg::Primary) else { return };
        for (at, record) in (1..).zip(self.wal[usize::from(source)].records()) {
            let Record::Row(row) = record else { continue };
            let has = |id: &Id| self.wal[usize::from(*id)].len() >= at;
            let names = self.names[usize::from(source)];
            let of = Set(names.of.0 & self.connected.0);
            if of.iter().filter(has).count() >= usize::from(names.need) {
                self.acknowledged |= 1 << row;
            }
        }
    }

    fn has_all(&self, id: Id) -> bool {
        (0..8)
            .filter(|row| self.acknowledged & (1 << row) != 0)
            .all(|row| self.wal[usize::from(id)].has(row))
    }

    /// Whoever accepts writes has every acknowledged row.
    pub(super) fn leader_has_all(&self) -> bool {
        nodes().filter(|id| self.at(*id) == Pg::Primary).all(|id| self.has_all(id))
    }

    /// So has everybody whom `/sync` names, of whom each may be elected.
    pub(super) fn keeps_what_is_promised(&self) -> bool {
        let named = self.sync.standbys.iter().chain(self.sync.leader);
        named.into_iter().all(|id| self.has_all(id))
    }
}
