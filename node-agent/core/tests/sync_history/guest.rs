//! The standby of another datacenter that commits may have to wait for before a switchover.

use crate::support::healthy::record;
use node_agent_core::observed::{Keyed, RecordView};
use node_agent_wire::federation::{Operation, OperationKind, PreSync};
use node_agent_wire::{Epoch, Revision};

/// Its name. It is in no election.
pub const GUEST: &str = "far1";

/// The record of a federation of one that is to be two: nobody else has to be asked.
pub fn record_of(asked: bool) -> RecordView {
    let mut value = record("dc1", 1, "dc1");
    value.members.retain(|dc, _| dc.as_str() == "dc1");
    let places = (Some("dc1".into()), "dc2".into());
    let kind = OperationKind::Switchover;
    let operation = Operation::new("op1".into(), kind, places, Epoch(2), ("ann", 0));
    let standby = Some(GUEST.into());
    let pre_sync = Some(PreSync { standby, request: 1, limit_ms: 10_000 });
    value.operation = asked.then_some(Operation { pre_sync, ..operation });
    RecordView::Present(Box::new(Keyed { value, revision: Revision(1) }))
}
