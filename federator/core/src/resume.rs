//! What to do with an operation that was found in the records: forward, back, or it is over.
//!
//! The copy in the record of the datacenter that the operation is for counts. A copy elsewhere
//! without it is left over: a take goes to the target first, and the end and the way back clear
//! the target last.

use crate::change::moves_primary;
use crate::inventory::Inventory;
use node_agent_wire::DcName;
use node_agent_wire::federation::{FederationRecord, Operation, OperationKind, Phase};

/// Where an open operation can go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Not committed: forward by `resume`, back by `abort`.
    Either,
    /// Committed, only forward.
    Forward,
    /// Turned back, only back.
    Back,
    /// The target has closed it, or a later change of primary has overtaken it: the copies that are
    /// left only need clearing.
    Over,
    /// The record that counts can't be read now.
    Unknown,
}

/// An operation that some record holds.
#[derive(Clone, Debug, PartialEq)]
pub struct OpenOperation {
    /// The copy that counts, or a copy when that can't be read.
    pub operation: Operation,
    /// Where it can go.
    pub direction: Direction,
    /// The datacenters whose records hold a copy.
    pub held_by: Vec<DcName>,
}

/// The operation in a few words, with the datacenter that it is about.
#[must_use]
pub fn title(operation: &Operation) -> String {
    match (operation.kind, &operation.from) {
        (OperationKind::Remove, Some(dc)) => format!("removal {} of {dc}", operation.id),
        (kind, _) => format!("{kind} {} to {}", operation.id, operation.to),
    }
}

/// The direction of the copy that counts, in the target's `record`.
#[must_use]
pub fn direction(operation: &Operation, record: &FederationRecord) -> Direction {
    if overtaken(operation, record) {
        return Direction::Over;
    }
    let epoch = record.epoch;
    match operation.phase {
        Phase::Aborting => Direction::Back,
        Phase::Committed => Direction::Forward,
        Phase::Running if moves_primary(operation.kind) && epoch >= operation.next_epoch => {
            Direction::Forward
        }
        Phase::Running => Direction::Either,
    }
}

/// Whether another datacenter has become primary since, by an operator's word while the target was
/// out of sight: then neither way can be gone to its end, and neither changes anything any more.
fn overtaken(operation: &Operation, record: &FederationRecord) -> bool {
    let next = operation.next_epoch;
    let another = record.epoch == next && record.primary != operation.to;
    moves_primary(operation.kind) && (record.epoch > next || another)
}

/// Every operation that some record holds, those that count first.
#[must_use]
pub fn open_operations(inventory: &Inventory) -> Vec<OpenOperation> {
    let mut found: Vec<OpenOperation> = Vec::new();
    for (dc, record) in inventory.records() {
        let Some(operation) = &record.operation else { continue };
        if let Some(there) = found.iter_mut().find(|o| o.operation.id == operation.id) {
            there.held_by.push(dc.clone());
            continue;
        }
        let target = inventory.view(&operation.to).and_then(|v| v.record());
        let (operation, direction) = match target {
            None => (operation, Direction::Unknown),
            Some(record) => match &record.operation {
                Some(counts) if counts.id == operation.id => (counts, direction(counts, record)),
                Some(_) | None => (operation, Direction::Over),
            },
        };
        found.push(OpenOperation {
            operation: operation.clone(),
            direction,
            held_by: vec![dc.clone()],
        });
    }
    found.sort_by_key(|o| o.direction == Direction::Over);
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{inventory, operation, record};
    use node_agent_wire::Epoch;

    fn set(inventory: &mut Inventory, dc: &str, operation: Option<Operation>, epoch: u64) {
        let view = crate::fixture::view(inventory, dc);
        let record = &mut view.record.as_mut().expect("record").value;
        record.operation = operation;
        record.epoch = Epoch(epoch);
        record.primary = if epoch > 1 { "dc2" } else { "dc1" }.into();
    }

    #[test]
    fn what_another_epoch_has_overtaken_is_over() {
        use OperationKind::{Rejoin, Switchover};
        for (kind, phase, epoch, primary, expected) in [
            (Switchover, Phase::Committed, 2, "dc2", Direction::Forward),
            (Switchover, Phase::Committed, 3, "dc1", Direction::Over),
            (Switchover, Phase::Running, 2, "dc3", Direction::Over),
            (Switchover, Phase::Aborting, 2, "dc3", Direction::Over),
            (Switchover, Phase::Aborting, 1, "dc1", Direction::Back),
            (Rejoin, Phase::Running, 3, "dc1", Direction::Either),
        ] {
            let operation = Operation { phase, ..operation(kind, "dc1", "dc2") };
            let found = direction(&operation, &record("dc2", epoch, primary));
            assert_eq!(found, expected, "{kind} {phase:?} {epoch} {primary}");
        }
    }

    #[test]
    fn a_crash_at_every_boundary_has_one_direction() {
        use OperationKind::{Rejoin, Switchover};
        use Phase::{Aborting, Committed, Running};
        let op = |kind, phase| Some(Operation { phase, ..operation(kind, "dc1", "dc2") });
        let id = |kind| operation(kind, "dc1", "dc2").id;
        for (what, to, to_epoch, from, expected) in [
            ("taken in the target only", op(Switchover, Running), 1, None, Direction::Either),
            ("taken", op(Switchover, Running), 1, op(Switchover, Running), Direction::Either),
            ("turned back", op(Switchover, Aborting), 1, op(Switchover, Running), Direction::Back),
            ("turned back, source free", op(Switchover, Aborting), 1, None, Direction::Back),
            (
                "committed",
                op(Switchover, Committed),
                2,
                op(Switchover, Running),
                Direction::Forward,
            ),
            ("committed by epoch", op(Switchover, Running), 2, None, Direction::Forward),
            ("closed at the target", None, 2, op(Switchover, Committed), Direction::Over),
            ("a rejoin", op(Rejoin, Running), 2, None, Direction::Either),
        ] {
            let mut inventory = inventory();
            let kind = to.as_ref().or(from.as_ref()).expect("one").kind;
            let held = usize::from(to.is_some()) + usize::from(from.is_some());
            set(&mut inventory, "dc2", to, to_epoch);
            set(&mut inventory, "dc1", from, 1);
            let open = open_operations(&inventory);
            assert_eq!(open.len(), 1, "{what}");
            assert_eq!(open[0].direction, expected, "{what}");
            assert_eq!(open[0].operation.id, id(kind), "{what}");
            assert_eq!(open[0].held_by.len(), held, "{what}");
        }
    }

    #[test]
    fn an_unreadable_target_leaves_the_direction_open() {
        let mut inventory = inventory();
        set(&mut inventory, "dc1", Some(operation(OperationKind::Switchover, "dc1", "dc2")), 1);
        inventory.dcs.insert(
            "dc2".into(),
            crate::inventory::Fact::Unknown { since_us: 1, why: "no answer".into() },
        );
        assert_eq!(open_operations(&inventory)[0].direction, Direction::Unknown);
    }
}
