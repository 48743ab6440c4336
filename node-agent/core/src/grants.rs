//! Site grants in a pass of the agent: what the loop wants of the grant keeper, what the keeper
//! does at one voter, and what both mean for the right to write.

use crate::decision::Decision;
use crate::grant::{LastGrant, NotGranted, Terms, Voter as Ballot, may_take};
use crate::observed::Observed;
use crate::right::check_peers;
use crate::time::Boot;
use node_agent_wire::federation::{Evidence, FederationRecord, OperationKind, Phase};
use node_agent_wire::grant::{Before, Marker, Voter};
use node_agent_wire::{DcName, Epoch, MemberName, OperationId};
use std::collections::BTreeMap;
use std::time::Duration;

/// What the grant keeper is to do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Want {
    /// Nothing: this node does not lead, or there are no grants here.
    #[default]
    Nothing,
    /// Look at the voters; this datacenter's record is at this epoch.
    Watch {
        /// The epoch.
        epoch: Epoch,
    },
    /// Hold a majority.
    Hold {
        /// For this epoch.
        epoch: Epoch,
        /// Ahead of the commit of this operation.
        ahead_of: Option<OperationId>,
    },
    /// Give back what is held at this epoch or before: everybody here has stopped writing.
    Release {
        /// The epoch.
        epoch: Epoch,
    },
}

/// One voter as the keeper saw it last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seat {
    /// The grant there, by the last look.
    pub ballot: Ballot,
    /// It is this node's.
    pub ours: bool,
    /// Why the last call failed.
    pub silent: Option<String>,
}

/// The grants as a fact of a pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grants {
    /// What was wanted.
    pub want: Want,
    /// The right ends here; `None` without a majority.
    pub until: Option<Boot>,
    /// Every voter has been asked once, or failed to answer.
    pub settled: bool,
    /// The voters that were looked at.
    pub seats: BTreeMap<Voter, Seat>,
}

impl Grants {
    /// The epoch for which the keeper holds grants, or tries to.
    #[must_use]
    pub fn epoch(&self) -> Option<Epoch> {
        match &self.want {
            Want::Hold { epoch, .. } => Some(*epoch),
            Want::Nothing | Want::Watch { .. } | Want::Release { .. } => None,
        }
    }

    /// What is missing, for people: each voter that is not this node's.
    #[must_use]
    pub fn missing(&self) -> String {
        let lacking = self.seats.iter().filter(|(_, seat)| !seat.ours);
        let words: Vec<String> = lacking
            .map(|(voter, seat)| match (&seat.silent, &seat.ballot.last) {
                (Some(why), _) => format!("{voter}: {why}"),
                (None, Some(last)) if last.released => format!("{voter}: free"),
                (None, Some(last)) => format!("{voter}: {}, epoch {}", last.holder, last.epoch),
                (None, None) => format!("{voter}: free"),
            })
            .collect();
        if words.is_empty() { "the last renewals are too old".into() } else { words.join("; ") }
    }
}

/// What the loop wants.
#[must_use]
pub fn want(observed: &Observed) -> Want {
    let Some(record) = record(observed).filter(|record| record.policies.grants.is_some()) else {
        return Want::Nothing;
    };
    if !observed.holds_lease() {
        return Want::Nothing;
    }
    let epoch = record.epoch;
    if check_peers(observed, record).is_err() {
        return Want::Watch { epoch };
    }
    match (&record.fence, record.names_us()) {
        (Some(fence), _) if fence.ack.is_some() => Want::Release { epoch },
        // A fenced primary needs its grants until it has stopped.
        (_, true) => Want::Hold { epoch, ahead_of: None },
        (None, false) => match claim(record) {
            Some(operation) => {
                Want::Hold { epoch: epoch.next(), ahead_of: Some(operation.clone()) }
            }
            None => Want::Watch { epoch },
        },
        (Some(_), false) => Want::Watch { epoch },
    }
}

fn record(observed: &Observed) -> Option<&FederationRecord> {
    match observed.cluster.known() {
        Some(cluster) => cluster.record.get(),
        None => observed.last_record.as_ref(),
    }
}

/// The promotion under way that rests on grants which this datacenter is to take first.
fn claim(record: &FederationRecord) -> Option<&OperationId> {
    let operation = record.operation.as_ref()?;
    let rests = operation.all_evidence().any(|e| matches!(e, Evidence::LeaseExpired { .. }));
    let ours = operation.kind == OperationKind::Promotion
        && operation.to == record.dc
        && operation.phase == Phase::Running
        && operation.next_epoch == record.epoch.next();
    (rests && ours).then_some(&operation.id)
}

/// Whether the record, as read now, has done with the operation that a grant was taken ahead of: it
/// can't be committed any more, so the grant may go back to whom it was taken from.
#[must_use]
pub fn claim_is_over(record: &FederationRecord, marker: &Marker) -> bool {
    let Some(claimed) = &marker.operation else { return false };
    let running = record
        .operation
        .as_ref()
        .is_some_and(|operation| operation.id == *claimed && operation.phase != Phase::Aborting);
    record.epoch < marker.epoch && !running
}

/// What the keeper writes at a voter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Deed {
    /// Nothing.
    Nothing,
    /// The grant is this datacenter's, or stays so.
    Hold(Marker),
    /// The marker of a grant that is free now; `None`: nobody ever had it.
    Free(Option<Marker>),
    /// The same, once the own record, read anew, says that the operation is over.
    TurnBack(Option<Marker>),
}

/// The keeper's view of itself when it decides about a voter.
#[derive(Clone, Copy, Debug)]
pub struct Keeper<'k> {
    /// This datacenter.
    pub dc: &'k DcName,
    /// This node.
    pub node: &'k MemberName,
    /// The durations.
    pub terms: &'k Terms,
    /// What this datacenter's renewals there tell others to wait.
    pub wait: Duration,
    /// A majority of the voters can be had: without, none is taken ahead of a commit.
    pub majority_in_sight: bool,
}

/// The grant at a voter, for [`may_take`].
#[must_use]
pub fn ballot(marker: Option<&Marker>, held: bool, quiet_since: Boot) -> Ballot {
    let last = marker.map(|marker| LastGrant {
        holder: marker.holder.clone(),
        epoch: marker.epoch,
        released: marker.released,
        wait: Duration::from_millis(marker.wait_ms),
    });
    Ballot { last, held, quiet_since }
}

/// What is to be written at a voter.
///
/// # Errors
/// Why the grant can't be had now.
pub fn deed(
    want: &Want,
    keeper: Keeper<'_>,
    marker: Option<&Marker>,
    seat: &Ballot,
    now: Boot,
) -> Result<Deed, NotGranted> {
    let own = marker.filter(|marker| marker.holder == *keeper.dc);
    match want {
        Want::Nothing => Ok(Deed::Nothing),
        Want::Watch { epoch } => {
            let claimed = own.filter(|m| m.epoch > *epoch && m.operation.is_some());
            Ok(claimed.map_or(Deed::Nothing, |m| Deed::TurnBack(turned_back(m))))
        }
        Want::Release { epoch } => {
            let held = own.filter(|marker| marker.epoch <= *epoch && !marker.released);
            Ok(held.map_or(Deed::Nothing, |marker| {
                Deed::Free(Some(Marker { released: true, ..marker.clone() }))
            }))
        }
        Want::Hold { epoch, ahead_of } => {
            may_take(seat, keeper.dc, *epoch, now, keeper.terms)?;
            let renewal = own.filter(|marker| marker.epoch == *epoch);
            if ahead_of.is_some() && renewal.is_none() && !keeper.majority_in_sight {
                return Ok(Deed::Nothing);
            }
            let taken_from = |m: &Marker| Before { holder: m.holder.clone(), epoch: m.epoch };
            let before = match renewal {
                Some(renewed) => renewed.before.clone(),
                None => marker.map(taken_from),
            };
            Ok(Deed::Hold(Marker {
                holder: keeper.dc.clone(),
                epoch: *epoch,
                node: keeper.node.clone(),
                released: false,
                wait_ms: u64::try_from(keeper.wait.as_millis()).unwrap_or(u64::MAX),
                operation: ahead_of.clone(),
                before: before.filter(|_| ahead_of.is_some()),
                position: None,
            }))
        }
    }
}

/// The marker as it was before a claim. The holder from before had lost this grant when it was
/// taken, and may take it again.
fn turned_back(marker: &Marker) -> Option<Marker> {
    let before = marker.before.as_ref()?;
    Some(Marker {
        holder: before.holder.clone(),
        epoch: before.epoch,
        released: true,
        operation: None,
        before: None,
        position: None,
        ..marker.clone()
    })
}

/// Why the datacenter may not write for want of grants, though its record says that it may.
///
/// # Errors
/// What is missing, for people.
pub(crate) fn check(observed: &Observed, record: &FederationRecord) -> Result<(), String> {
    if !record.needs_grants(&record.dc) {
        return Ok(());
    }
    if record.policies.grants.is_none() {
        return Err("the record names no terms of grants (policies.grants): federator setup".into());
    }
    let terms = terms(record);
    let Some(grants) = &observed.grants else {
        return Err("the voters have not been asked yet".into());
    };
    let holds = grants.want == Want::Hold { epoch: record.epoch, ahead_of: None };
    let lasts = grants.until.is_some_and(|until| observed.now + terms.stop_ahead() < until);
    match (holds, grants.settled) {
        (true, _) if lasts => Ok(()),
        (true, true) => Err(grants.missing()),
        // The keeper has just begun, after a restart of the agent. PostgreSQL that writes is under
        // the deadline that the guard got with the last renewal.
        (false, _) | (true, false) if observed.postgres.may_write() => Ok(()),
        (false, _) | (true, false) => Err("the voters have not been asked yet".into()),
    }
}

fn terms(record: &FederationRecord) -> Terms {
    record.policies.grants.as_ref().map(Terms::of).unwrap_or_default()
}

/// The loop looks again before a primary has to begin to stop.
pub(crate) fn watch(observed: &Observed, decision: &mut Decision) {
    let Some(record) = record(observed).filter(|record| record.needs_grants(&record.dc)) else {
        return;
    };
    let until = observed.grants.as_ref().and_then(|grants| grants.until);
    if let Some(until) = until.filter(|_| observed.postgres.may_write()) {
        let stop = until - terms(record).stop_ahead();
        let left = observed.now.until(stop) + Duration::from_millis(10);
        decision.wake.after = decision.wake.after.min(left);
    }
}
