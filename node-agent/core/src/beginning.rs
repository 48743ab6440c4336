//! Is a timeline of this number, begun at this position, the same timeline on two servers? Two that
//! were promoted from the same position both begin timeline N + 1 there, and their history files
//! are equal. The first record of a timeline tells them apart: it holds the moment of the promotion
//! in microseconds (PostgreSQL source, `xl_end_of_recovery`), and whoever follows that server gets
//! exactly this record. What is not known is never taken for the same.

use node_agent_wire::history::TimelineHistory;
use node_agent_wire::{Lsn, TimelineId};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// How a timeline begins in the WAL of one server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Beginning {
    /// Where it branched off its parent.
    pub at: Lsn,
    /// Its first record, whole, in hexadecimal.
    pub record: String,
}

/// The beginnings that a server knows, by timeline. The first timeline has none: the system
/// identifier tells it from others.
pub type Beginnings = BTreeMap<TimelineId, Beginning>;

/// The WAL of two servers just before one position, byte by byte: the way to tell when the
/// beginning of a timeline is not in their WAL any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SameWal {
    /// The timeline.
    pub timeline: TimelineId,
    /// The end of what was compared.
    pub until: Lsn,
    /// All bytes are equal, and there is a record among them that holds the moment it was written.
    pub same: bool,
}

/// What one server says of its past.
#[derive(Clone, Copy, Debug)]
pub struct Past<'a> {
    /// The numbers and positions.
    pub history: &'a TimelineHistory,
    /// What tells equal ones apart.
    pub beginnings: &'a Beginnings,
}

/// A timeline that both have, by number and position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shared {
    /// Its number.
    pub timeline: TimelineId,
    /// The timeline that it branched off.
    pub parent: TimelineId,
    /// Where.
    pub at: Lsn,
}

/// What the beginnings prove.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Proof {
    /// What the histories have in common is the same WAL.
    Same,
    /// Two servers began this timeline.
    Twice(Shared),
    /// It can't be told of this timeline.
    Open(TimelineId),
}

fn steps(history: &TimelineHistory) -> impl Iterator<Item = Shared> + '_ {
    let later = history.ancestors.iter().skip(1).map(|ancestor| ancestor.timeline);
    let begun = later.chain([history.timeline]);
    history.ancestors.iter().zip(begun).map(|(parent, timeline)| Shared {
        timeline,
        parent: parent.timeline,
        at: parent.ended_at,
    })
}

/// The timelines that both histories have under one number and from one position on, newest first.
#[must_use]
pub fn shared(mine: &TimelineHistory, theirs: &TimelineHistory) -> Vec<Shared> {
    let both = steps(mine).zip(steps(theirs)).take_while(|(a, b)| a == b).map(|(a, _)| a);
    let mut both: Vec<Shared> = both.collect();
    both.reverse();
    both
}

/// Goes through `shared`, newest first: once one beginning is the same, all that came before is.
pub(crate) fn prove(
    shared: &[Shared],
    mine: &Beginnings,
    theirs: &Beginnings,
    same_wal: Option<&SameWal>,
) -> Proof {
    let (mut twice, mut open) = (None, None);
    for step in shared {
        let of = |all: &'_ Beginnings| {
            all.get(&step.timeline).filter(|b| b.at == step.at).map(|b| b.record.clone())
        };
        match (of(mine), of(theirs)) {
            (Some(a), Some(b)) if a == b => break,
            (Some(_), Some(_)) => twice = Some(*step),
            (None, _) | (_, None) => {
                let newest = twice.is_none() && open.is_none();
                if newest && same_wal.is_some_and(|wal| wal.same && wal.timeline == step.timeline) {
                    break;
                }
                open = open.or(Some(step.timeline).filter(|_| newest));
            }
        }
    }
    match (twice, open) {
        (Some(step), _) => Proof::Twice(step),
        (None, Some(timeline)) => Proof::Open(timeline),
        (None, None) => Proof::Same,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use node_agent_wire::history::Ancestor;

    fn history(timeline: u32, ends: &[(u32, u64)]) -> TimelineHistory {
        let ancestor =
            |(t, l): &(u32, u64)| Ancestor { timeline: TimelineId(*t), ended_at: Lsn(*l) };
        let ancestors = ends.iter().map(ancestor).collect();
        TimelineHistory { timeline: TimelineId(timeline), ancestors }
    }

    fn begun(all: &[(u32, u64, &str)]) -> Beginnings {
        let one = |(t, at, record): &(u32, u64, &str)| {
            (TimelineId(*t), Beginning { at: Lsn(*at), record: (*record).to_owned() })
        };
        all.iter().map(one).collect()
    }

    #[test]
    fn what_both_have_by_number_and_position() {
        let numbers = |a: &TimelineHistory, b: &TimelineHistory| {
            shared(a, b).iter().map(|s| (s.timeline.0, s.parent.0, s.at.0)).collect::<Vec<_>>()
        };
        let (one, two) = (history(1, &[]), history(2, &[(1, 100)]));
        let three = history(3, &[(1, 100), (2, 200)]);
        assert_eq!(numbers(&one, &three), []);
        assert_eq!(numbers(&two, &three), [(2, 1, 100)]);
        assert_eq!(numbers(&three, &three), [(3, 2, 200), (2, 1, 100)]);
        assert_eq!(numbers(&two, &history(2, &[(1, 90)])), []);
    }

    #[test]
    fn the_first_records_decide() {
        let three = history(3, &[(1, 100), (2, 200)]);
        let shared = shared(&three, &three);
        let (third, second) = (shared[0], shared[1]);
        let same = SameWal { timeline: TimelineId(3), until: Lsn(300), same: true };
        let other = SameWal { same: false, ..same };
        let older = SameWal { timeline: TimelineId(2), ..same };
        let all = [(2, 100, "x"), (3, 200, "y")];
        let open = Proof::Open(TimelineId(3));
        for (name, mine, theirs, wal, expected) in [
            ("equal", &all[..], &all[..], None, Proof::Same),
            ("the newest is enough", &all[1..], &all[1..], None, Proof::Same),
            ("only theirs is known", &all[..1], &all[..], None, open),
            ("nothing is known", &[], &[], None, open),
            ("the bytes are equal", &[], &[], Some(same), Proof::Same),
            ("the bytes differ", &[], &[], Some(other), open),
            ("bytes of another timeline", &[], &[], Some(older), open),
            (
                "the newest was begun twice",
                &all,
                &[all[0], (3, 200, "z")],
                None,
                Proof::Twice(third),
            ),
            (
                "equal bytes outweigh no record",
                &all,
                &[(3, 200, "z")],
                Some(same),
                Proof::Twice(third),
            ),
            ("both", &all, &[(2, 100, "z"), (3, 200, "z")], None, Proof::Twice(second)),
            (
                "an older one, the newest not known",
                &all,
                &[(2, 100, "z")],
                None,
                Proof::Twice(second),
            ),
            ("of another position", &all, &[all[0], (3, 201, "y")], None, open),
        ] {
            let proof = prove(&shared, &begun(mine), &begun(theirs), wal.as_ref());
            assert_eq!(proof, expected, "{name}");
        }
    }
}
