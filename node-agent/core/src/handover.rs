//! What a datacenter was handed by a planned switchover: everything up to where the former primary
//! stopped. Its leader had all of that when the switchover was committed. Another node of it that
//! lags behind may not be promoted in its place (I3), unless an operator names it.

use crate::observed::{Cluster, Observed};
use crate::postgres::Postgres;
use node_agent_wire::federation::{Evidence, FederationRecord, FenceAck, OperationKind, Phase};

/// Where the former primary stopped, while the switchover that says so is not closed: until then it
/// is not sure that anybody has been promoted in its epoch.
fn handed(record: &FederationRecord) -> Option<&FenceAck> {
    let (operation, claim) = (record.operation.as_ref()?, record.claim.as_ref()?);
    let committed = operation.kind == OperationKind::Switchover
        && operation.phase == Phase::Committed
        && operation.id == claim.operation;
    match &claim.evidence {
        Some(Evidence::Acknowledged { ack }) if committed && record.names_us() => Some(ack),
        Some(
            Evidence::Acknowledged { .. }
            | Evidence::LeaseExpired { .. }
            | Evidence::FencedByHook { .. }
            | Evidence::Attested { .. },
        )
        | None => None,
    }
}

/// Why this node must not be promoted, if it has less than its datacenter was handed. Whoever is on
/// a later timeline follows a node that was promoted with all of it.
pub(crate) fn lacks(observed: &Observed, cluster: &Cluster) -> Option<String> {
    let ack = handed(cluster.record.get()?)?;
    let Postgres::Running(running) = &observed.postgres else { return None };
    if cluster.failover.value.member.as_ref() == Some(&observed.me.name) {
        return None;
    }
    // The checkpoint is the last record: whoever has begun to receive it has all before it.
    let end = (running.timeline, running.lsn);
    (running.in_recovery && end <= (ack.timeline, ack.checkpoint)).then(|| {
        format!(
            "the switchover handed over everything up to {} on timeline {}, and this node is at \
             {} on {}: start the node that has it, or name this one for a failover",
            ack.checkpoint, ack.timeline, running.lsn, running.timeline
        )
    })
}
