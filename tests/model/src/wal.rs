//! WAL in eight bytes: rows, shutdown checkpoints and switches of the timeline.

use node_agent_core::beginning::{Beginning, Beginnings};
use node_agent_wire::history::{Ancestor, TimelineHistory};
use node_agent_wire::{Lsn, TimelineId};

/// As many records as one history of a model can have.
const RECORDS_MAX: usize = 8;
/// Bytes that one record takes.
const RECORD: u64 = 16;

/// One record.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Record {
    /// Past the end.
    #[default]
    None,
    /// The commit of a row, by its number.
    Row(u8),
    /// The checkpoint of a clean shutdown.
    Shutdown,
    /// A promotion: from here on this timeline, and which promotion it was, where numbers repeat.
    Timeline(u8, u8),
}

/// The records of one data directory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Wal {
    records: [Record; RECORDS_MAX],
    length: u8,
}

impl Wal {
    /// How many records.
    #[must_use]
    pub fn len(&self) -> u8 {
        self.length
    }

    /// Nothing was written yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Whether another record has room: a model's bounds must keep it so.
    #[must_use]
    pub fn has_room(&self) -> bool {
        usize::from(self.length) < RECORDS_MAX
    }

    /// Writes one record.
    pub fn push(&mut self, record: Record) {
        self.records[usize::from(self.length)] = record;
        self.length += 1;
    }

    /// The records.
    pub fn records(&self) -> impl Iterator<Item = Record> + '_ {
        self.records[..usize::from(self.length)].iter().copied()
    }

    /// Whether the row is there.
    #[must_use]
    pub fn has(&self, row: u8) -> bool {
        self.records().any(|record| record == Record::Row(row))
    }

    /// Takes the records beyond its own end from `source`, as a stream does: by position, without
    /// a look at what came before.
    pub fn receive(&mut self, source: &Self, until: u8) {
        for at in self.length..until.min(source.length) {
            self.push(source.records[usize::from(at)]);
        }
    }

    /// Takes the checkpoint of a shutdown off the end: it was not written.
    pub fn cut_shutdown(&mut self) {
        if self.records().last() == Some(Record::Shutdown) {
            self.length -= 1;
            self.records[usize::from(self.length)] = Record::None;
        }
    }

    /// Cuts off whatever is not common with `source`: pg_rewind, before it copies.
    pub fn rewind_to(&mut self, source: &Self) {
        let common = self.records().zip(source.records()).take_while(|(a, b)| a == b).count();
        *self = self.first(u8::try_from(common).unwrap_or(u8::MAX));
    }

    /// Its first records.
    #[must_use]
    pub fn first(&self, records: u8) -> Self {
        let mut kept = Self::default();
        self.records().take(usize::from(records)).for_each(|record| kept.push(record));
        kept
    }

    /// The timeline that is written or received.
    #[must_use]
    pub fn timeline(&self) -> TimelineId {
        self.history().timeline
    }

    /// Where it ends.
    #[must_use]
    pub fn end(&self) -> Lsn {
        position(self.length)
    }

    /// The history file of its timeline.
    #[must_use]
    pub fn history(&self) -> TimelineHistory {
        let mut history = TimelineHistory { timeline: TimelineId(1), ancestors: Vec::new() };
        for (at, record) in (0_u8..).zip(self.records()) {
            if let Record::Timeline(next, _) = record {
                let ended_at = position(at);
                history.ancestors.push(Ancestor { timeline: history.timeline, ended_at });
                history.timeline = TimelineId(u32::from(next));
            }
        }
        history
    }

    /// How its timelines begin.
    #[must_use]
    pub fn beginnings(&self) -> Beginnings {
        let mut all = Beginnings::new();
        for (at, record) in (0_u8..).zip(self.records()) {
            if let Record::Timeline(timeline, by) = record {
                let begun = Beginning { at: position(at), record: by.to_string() };
                all.insert(TimelineId(u32::from(timeline)), begun);
            }
        }
        all
    }
}

/// The position after so many records.
#[must_use]
pub fn position(records: u8) -> Lsn {
    Lsn((1 + u64::from(records)) * RECORD)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wal(records: &[Record]) -> Wal {
        let mut wal = Wal::default();
        records.iter().for_each(|record| wal.push(*record));
        wal
    }

    #[test]
    fn a_history_is_read_off_the_records() {
        let two = wal(&[Record::Row(1), Record::Timeline(2, 0), Record::Row(2)]);
        let history = two.history();
        assert_eq!(history.timeline, TimelineId(2));
        assert_eq!(
            history.ancestors,
            [Ancestor { timeline: TimelineId(1), ended_at: position(1) }]
        );
        assert_eq!(two.end(), position(3));
    }

    #[test]
    fn a_rewind_keeps_what_is_common_and_a_stream_looks_at_positions_only() {
        let source = wal(&[Record::Row(1), Record::Timeline(2, 0), Record::Row(3)]);
        let mut old = wal(&[Record::Row(1), Record::Row(2)]);
        let mut blind = old;
        blind.receive(&source, 9);
        assert!(blind.has(2) && blind.has(3) && blind.len() == 3);
        old.rewind_to(&source);
        old.receive(&source, 2);
        assert_eq!(old, wal(&[Record::Row(1), Record::Timeline(2, 0)]));
    }
}
