//! Datacenters, federators and what is on its way, in a few bytes.

use super::record::{Held, Kind, Proof, Rec, SmallPhase};
use crate::wal::{Record, Wal};

/// A datacenter, by its place.
pub type Id = u8;
/// The most datacenters of a model.
pub const PLACES: usize = 3;
/// Federators with an operator each.
pub const FEDERATORS: usize = 2;

/// PostgreSQL of the leader of a datacenter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Pg {
    /// Accepts writes.
    Primary,
    /// In recovery.
    Standby {
        /// The datacenter that it follows; nobody: read-only.
        follows: Option<Id>,
    },
    /// No process.
    Down {
        /// It was a primary.
        primary: bool,
        /// It was stopped, and did not crash.
        clean: bool,
    },
}

/// What the agent has seen of another datacenter that outlives the look: `note` in link.rs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Seen {
    /// The epoch.
    pub epoch: u8,
    /// Its primary.
    pub primary: Id,
}

/// One datacenter, reduced to its leader.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Dc {
    /// The record.
    pub rec: Rec,
    /// `standby_cluster` in the configuration: whose.
    pub standby: Option<Id>,
    /// PostgreSQL.
    pub pg: Pg,
    /// Its WAL.
    pub wal: Wal,
    /// The agent runs and has asked the others at least once.
    pub asked: bool,
    /// A later epoch, or another claim on this one, that was seen once.
    pub seen: [Option<Seen>; PLACES],
    /// It was writable, or claimed, within `cold_start_after`.
    pub warm: bool,
}

/// How far a federator is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Way {
    /// The steps of the plan.
    Forward,
    /// The take failed: what was taken is given back. Whether nothing is left behind so far.
    GiveBack {
        /// See above.
        clean: bool,
    },
    /// The way back.
    Back,
    /// Copies of a closed operation are cleared.
    Clear,
    /// One change of one record by hand.
    Hand(Hand),
}

/// Changes by hand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Hand {
    /// `federator fence`
    Fence,
    /// `federator fence --lift`
    Lift,
    /// `federator confirm`
    Confirm,
}

/// A set of datacenters, one bit each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Places(pub u8);

impl Places {
    /// Whether it holds the place.
    #[must_use]
    pub fn has(self, place: Id) -> bool {
        self.0 & (1 << place) != 0
    }

    /// With the place.
    #[must_use]
    pub fn with(self, place: Id) -> Self {
        Self(self.0 | 1 << place)
    }

    /// Its places.
    pub fn iter(self) -> impl Iterator<Item = Id> {
        (0..8).filter(move |place| self.has(*place))
    }
}

/// A federator at work: what its process keeps in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Run {
    /// `plan.operation()`
    pub op: Held,
    /// The primary datacenter while it began.
    pub primary: Id,
    /// `plan.followers`
    pub followers: Places,
    /// The former primary answered when the plan was made.
    pub former_answers: bool,
    /// `context.resumed`
    pub found_open: bool,
    /// Past the commit.
    pub committed: bool,
    /// The way.
    pub way: Way,
    /// Which step of the plan.
    pub step: u8,
    /// Which access within the step.
    pub access: u8,
    /// `context.former`
    pub former: Option<Rec>,
    /// The record of the winner, as read in this step.
    pub winner: Option<Rec>,
    /// `context.left_behind`
    pub behind: Places,
    /// Whose copies are cleared.
    pub copies: Places,
    /// A copy that goes away with a rejoin.
    pub orphan: Option<u8>,
    /// The datacenters that it is cut off from, from its beginning to its end.
    pub dark: Places,
}

/// A write that its federator gave up and that may still arrive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Late {
    /// Where.
    pub at: Id,
    /// What.
    pub rec: Rec,
    /// The record is still at the revision that it compares with.
    pub holds: bool,
}

/// The world.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct World {
    /// How many datacenters there are.
    pub count: u8,
    /// The datacenters.
    pub dcs: [Dc; PLACES],
    /// The federators.
    pub runs: [Option<Run>; FEDERATORS],
    /// A write on its way.
    pub late: Option<Late>,
    /// During an access: whom its federator is cut off from.
    pub dark: Places,
    /// Commands that may still be given.
    pub commands: u8,
    /// Faults that may still happen.
    pub faults: u8,
    /// Rows written.
    pub rows: u8,
    /// Operations begun.
    pub operations: u8,
    /// Somebody has promoted on an operator's word.
    pub attested: bool,
    /// The rows that a committed switchover owes its target, one bit each.
    pub owed: (Id, u8),
    /// Rules that were broken at a step, one bit each: see `PROPERTIES`.
    pub broken: u8,
}

impl World {
    /// dc1 is primary, the others follow it and have everything.
    #[must_use]
    pub fn begin(count: u8, commands: u8, faults: u8) -> Self {
        let mut wal = Wal::default();
        wal.push(Record::Row(1));
        let standby = Dc {
            rec: Rec::first(0),
            standby: Some(0),
            pg: Pg::Standby { follows: Some(0) },
            wal,
            asked: true,
            seen: [None; PLACES],
            warm: false,
        };
        let primary = Dc { standby: None, pg: Pg::Primary, warm: true, ..standby };
        Self {
            count,
            dcs: [primary, standby, standby],
            runs: [None; FEDERATORS],
            late: None,
            dark: Places::default(),
            commands,
            faults,
            rows: 1,
            operations: 0,
            attested: false,
            owed: (0, 0),
            broken: 0,
        }
    }

    /// Every datacenter.
    pub fn places(&self) -> impl Iterator<Item = Id> + use<> {
        0..self.count
    }

    /// One of them.
    #[must_use]
    pub fn dc(&self, place: Id) -> &Dc {
        &self.dcs[usize::from(place)]
    }

    /// One of them, to change.
    pub fn dc_mut(&mut self, place: Id) -> &mut Dc {
        &mut self.dcs[usize::from(place)]
    }

    /// Writes a record: whatever else compares with its old revision fails.
    pub fn put(&mut self, place: Id, rec: Rec) {
        self.touch(place);
        let begins = rec.epoch > self.dc(place).rec.epoch && rec.primary == place;
        let committed = rec.operation.filter(|op| op.phase == SmallPhase::Committed);
        if let Some(op) = committed.filter(|_| begins) {
            self.attested |= op.proof == Some(Proof::Attested);
            if let (Kind::Switchover, Some(from)) = (op.kind, op.from) {
                let wal = self.dc(from).wal;
                let rows = (0..8).filter(|row| wal.has(*row)).fold(0, |all, row| all | 1 << row);
                self.owed = (place, rows);
            }
            self.dc_mut(place).warm = true;
        }
        self.dc_mut(place).rec = rec;
    }

    /// The key was written, with whatever.
    pub fn touch(&mut self, place: Id) {
        if let Some(late) = self.late.as_mut().filter(|late| late.at == place) {
            late.holds = false;
        }
    }

    /// Whether the leader of `place` has a WAL receiver that works.
    #[must_use]
    pub fn streams(&self, place: Id) -> bool {
        let dc = self.dc(place);
        let Pg::Standby { follows: Some(source) } = dc.pg else { return false };
        let source = self.dc(source);
        let runs = match source.pg {
            Pg::Primary | Pg::Standby { .. } => true,
            Pg::Down { .. } => false,
        };
        runs && dc.wal.timeline() <= source.wal.timeline()
    }

    /// The datacenters that accept writes.
    #[must_use]
    pub fn writers(&self) -> Places {
        let writes = |place: &Id| self.dc(*place).pg == Pg::Primary;
        self.places().filter(writes).fold(Places::default(), Places::with)
    }

    /// The newest record, as `Inventory::newest` picks it.
    #[must_use]
    pub fn newest(&self) -> (Id, Rec) {
        let all = self.places().map(|place| (place, self.dc(place).rec));
        let order = |(place, rec): &(Id, Rec)| (rec.epoch, rec.primary == *place);
        all.max_by_key(order).unwrap_or((0, self.dc(0).rec))
    }

    /// Two records claim one epoch for two datacenters.
    #[must_use]
    pub fn claimed_twice(&self) -> bool {
        let recs = || self.places().map(|place| self.dc(place).rec);
        recs().any(|a| recs().any(|b| a.epoch == b.epoch && a.primary != b.primary))
    }

    /// Both federators are alike.
    pub fn forget_who_is_who(&mut self) {
        self.runs.sort();
    }
}
