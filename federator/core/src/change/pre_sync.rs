//! The request to the primary's agents to let commits wait for a standby of the target, before a
//! switchover stops writes. Nothing rests on it: what proves that nothing is lost is the
//! acknowledgement of the fence. So the agents grant it for a time only, and take it back whenever
//! one of its conditions has gone.

use super::{Change, ChangeError, checked, running};
use node_agent_wire::federation::{FederationRecord, PreSync};
use node_agent_wire::{MemberName, OperationId};

/// Asks that commits wait for `standby` as well, for `limit_ms` milliseconds at most; `None` takes
/// the request back.
///
/// # Errors
/// The operation is gone or turned back, it does without, or writes have been stopped already.
pub fn pre_sync(
    record: &FederationRecord,
    id: &OperationId,
    standby: Option<(&MemberName, u32)>,
) -> Change {
    let operation = running(record, id)?;
    if let Some(fence) = &record.fence {
        let reason = fence.reason.clone();
        return Err(ChangeError::Fenced { dc: record.dc.clone(), reason });
    }
    let before = operation.pre_sync.clone().unwrap_or_default();
    let next = match standby {
        None => PreSync { standby: None, ..before },
        Some((standby, limit_ms)) => PreSync {
            standby: Some(standby.clone()),
            request: before.request.saturating_add(1),
            limit_ms,
        },
    };
    let mut operation = operation.clone();
    operation.pre_sync = Some(next);
    checked(record, FederationRecord { operation: Some(operation), ..record.clone() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{operation, record};
    use node_agent_wire::federation::{Fence, OperationKind, Phase};

    #[test]
    fn each_request_is_a_new_one_and_none_is_made_of_a_fenced_datacenter() {
        let mut before = record("dc1", 1, "dc1");
        before.operation = Some(operation(OperationKind::Switchover, "dc1", "dc2"));
        let id = before.operation.as_ref().unwrap().id.clone();
        let standby = MemberName::from("dc2-pg1");
        let ask = |record: &FederationRecord| pre_sync(record, &id, Some((&standby, 500)));
        let asked = |change: Change| change.unwrap().unwrap().operation.unwrap().pre_sync.unwrap();

        let first = ask(&before).unwrap().unwrap();
        let expected = PreSync { standby: Some(standby.clone()), request: 1, limit_ms: 500 };
        assert_eq!(first.operation.as_ref().unwrap().pre_sync, Some(expected));
        assert_eq!(asked(ask(&first)).request, 2, "asked again after a crash");
        let back = asked(pre_sync(&first, &id, None));
        assert_eq!((back.standby, back.request), (None, 1));

        let mut fenced = first.clone();
        fenced.fence = Some(Fence {
            epoch: fenced.epoch.next(),
            operation: Some(id.clone()),
            reason: "switchover to dc2".into(),
            by: "ann".into(),
            at_us: 0,
            ack: None,
        });
        assert!(matches!(ask(&fenced), Err(ChangeError::Fenced { .. })));
        let mut turned = first;
        turned.operation.as_mut().unwrap().phase = Phase::Aborting;
        assert!(matches!(ask(&turned), Err(ChangeError::Aborting { .. })));
        assert!(matches!(ask(&record("dc1", 1, "dc1")), Err(ChangeError::Gone { .. })));
    }
}
