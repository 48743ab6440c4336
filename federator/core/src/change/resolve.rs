//! One epoch that two datacenters claim: which one is kept is decided in one record, and the others
//! give way before the kept one begins the next epoch. Each change may be repeated.

use super::{Change, ChangeError, checked};
use node_agent_wire::federation::{
    Claim, Evidence, FederationRecord, Fence, OperationKind, Resolution,
};
use node_agent_wire::{DcName, Epoch, OperationId};

/// Whether the datacenter claims this epoch for itself.
fn claims(record: &FederationRecord, epoch: Epoch) -> Result<(), ChangeError> {
    if record.epoch != epoch {
        let (dc, found) = (record.dc.clone(), record.epoch);
        return Err(ChangeError::EpochMoved { dc, planned: epoch, found });
    }
    if !record.names_us() {
        let (dc, primary) = (record.dc.clone(), record.primary.clone());
        return Err(ChangeError::NotPrimary { dc, primary });
    }
    Ok(())
}

/// Another datacenter was chosen for the record's present epoch.
fn chosen<'r>(record: &'r FederationRecord, keep: &DcName) -> Option<&'r Resolution> {
    record.resolution.as_ref().filter(|r| r.epoch == record.epoch && r.keep != *keep)
}

fn decided(record: &FederationRecord, there: &Resolution) -> ChangeError {
    ChangeError::Decided {
        dc: record.dc.clone(),
        epoch: there.epoch,
        keep: there.keep.clone(),
        by: there.by.clone(),
    }
}

/// Who gave way stays fenced.
pub(super) fn may_lift(record: &FederationRecord) -> Result<(), ChangeError> {
    chosen(record, &record.dc).map_or(Ok(()), |there| Err(decided(record, there)))
}

/// Writes down which datacenter is kept, in the record of the first claimant by name: the same
/// record for whoever settles this epoch. The first word counts.
///
/// # Errors
/// The datacenter does not claim the epoch any more, or another one is to be kept.
pub fn decide(record: &FederationRecord, resolution: &Resolution) -> Change {
    claims(record, resolution.epoch)?;
    if let Some(there) = chosen(record, &resolution.keep) {
        return Err(decided(record, there));
    }
    if record.resolution.as_ref().is_some_and(|r| r.epoch == resolution.epoch) {
        return Ok(None);
    }
    let resolution = Some(resolution.clone());
    checked(record, FederationRecord { resolution, ..record.clone() })
}

/// Fences a claimant that is not kept.
///
/// # Errors
/// It does not claim the epoch any more, or is the one that is kept.
pub fn give_way(record: &FederationRecord, resolution: &Resolution, now_us: i64) -> Change {
    claims(record, resolution.epoch)?;
    if let Some(there) = chosen(record, &resolution.keep) {
        return Err(decided(record, there));
    }
    let mut next = record.clone();
    next.resolution = Some(resolution.clone());
    next.fence.get_or_insert_with(|| Fence {
        epoch: resolution.epoch.next(),
        operation: None,
        reason: format!(
            "epoch {} was claimed twice, {} is kept",
            resolution.epoch, resolution.keep
        ),
        by: resolution.by.clone(),
        at_us: now_us,
        ack: None,
    });
    checked(record, next)
}

/// Begins the next epoch in the record of the kept datacenter, free of its fence. Only once all
/// other claimants are fenced and none of their nodes accepts writes. `operation` and `evidence`
/// are for the claim.
///
/// # Errors
/// The datacenter does not claim the epoch any more, or another one is to be kept.
pub fn keep(
    record: &FederationRecord,
    resolution: &Resolution,
    operation: &OperationId,
    evidence: Option<Evidence>,
    now_us: i64,
) -> Change {
    let begun = record.claim.as_ref().is_some_and(|claim| claim.operation == *operation);
    if record.names_us() && record.epoch == resolution.epoch.next() && begun {
        return Ok(None);
    }
    claims(record, resolution.epoch)?;
    if let Some(there) = chosen(record, &resolution.keep) {
        return Err(decided(record, there));
    }
    let next = FederationRecord {
        epoch: resolution.epoch.next(),
        fence: None,
        operation: None,
        claim: Some(Claim {
            operation: operation.clone(),
            kind: OperationKind::Promotion,
            evidence,
            further_evidence: Vec::new(),
            at_us: now_us,
        }),
        streamed: false,
        confirmed: None,
        resolution: None,
        ..record.clone()
    };
    checked(record, next)
}

/// Brings a datacenter that gave way to the epoch of the kept one, fenced; an operation of the
/// epoch that is over goes with it.
///
/// # Errors
/// `winner` is not primary by its own record.
pub fn follow_kept(
    record: &FederationRecord,
    winner: &FederationRecord,
    by: &str,
    now_us: i64,
) -> Change {
    if !winner.names_us() {
        let (dc, primary) = (winner.dc.clone(), winner.primary.clone());
        return Err(ChangeError::NotPrimary { dc, primary });
    }
    let mut next = record.superseded_by(winner, by, now_us).unwrap_or_else(|| record.clone());
    next.operation = next.operation.filter(|o| o.next_epoch >= winner.epoch);
    checked(record, next)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::record;

    fn claimant(dc: &str) -> FederationRecord {
        record(dc, 2, dc)
    }

    fn resolution(keep: &str) -> Resolution {
        Resolution { epoch: Epoch(2), keep: keep.into(), by: "ann".into(), at_us: 5 }
    }

    fn changed(change: Change) -> FederationRecord {
        change.expect("allowed").expect("something changes")
    }

    #[test]
    fn the_first_word_counts() {
        let first = changed(decide(&claimant("dc1"), &resolution("dc2")));
        assert_eq!(decide(&first, &resolution("dc2")), Ok(None));
        let other = decide(&first, &resolution("dc1"));
        assert!(matches!(other, Err(ChangeError::Decided { .. })), "{other:?}");
        // Nor can the one that gives way be kept, whoever tries.
        let kept = keep(&first, &resolution("dc1"), &"op".into(), None, 6);
        assert!(matches!(kept, Err(ChangeError::Decided { .. })), "{kept:?}");
        let lifted = super::super::operator_lift(&changed(give_way(&first, &resolution("dc2"), 6)));
        assert!(matches!(lifted, Err(ChangeError::Decided { .. })), "{lifted:?}");
    }

    #[test]
    fn the_kept_one_begins_the_next_epoch_and_the_other_follows() {
        let mut loser = changed(give_way(&claimant("dc1"), &resolution("dc2"), 6));
        assert_eq!(loser.fence.as_ref().map(|f| f.epoch), Some(Epoch(3)));
        assert_eq!(give_way(&loser, &resolution("dc2"), 7), Ok(None));
        let mut fenced = claimant("dc2");
        fenced.fence = loser.fence.clone();
        let kept = changed(keep(&fenced, &resolution("dc2"), &"op".into(), None, 8));
        assert_eq!((kept.epoch, kept.primary.as_str(), &kept.fence), (Epoch(3), "dc2", &None));
        assert_eq!(keep(&kept, &resolution("dc2"), &"op".into(), None, 9), Ok(None));
        let late = keep(&kept, &resolution("dc2"), &"another".into(), None, 9);
        assert!(matches!(late, Err(ChangeError::EpochMoved { .. })), "{late:?}");
        loser = changed(follow_kept(&loser, &kept, "ann", 9));
        assert_eq!((loser.epoch, loser.primary.as_str()), (Epoch(3), "dc2"));
        assert!(loser.fence.is_some() && loser.resolution.is_none());
        assert_eq!(follow_kept(&loser, &kept, "ann", 9), Ok(None));
        let back = decide(&loser, &resolution("dc1"));
        assert!(matches!(back, Err(ChangeError::EpochMoved { .. })), "{back:?}");
    }

    #[test]
    fn who_does_not_claim_the_epoch_is_not_touched() {
        let mut standby = claimant("dc3");
        standby.primary = "dc1".into();
        for change in
            [decide(&standby, &resolution("dc2")), give_way(&standby, &resolution("dc2"), 6)]
        {
            assert!(matches!(change, Err(ChangeError::NotPrimary { .. })), "{change:?}");
        }
    }
}
