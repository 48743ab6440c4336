//! What a node says of the site grants.

use crate::clock;
use crate::view::View;
use node_agent_core::grant::{Terms, claimable_in};
use node_agent_core::grants::{Seat, Want};
use node_agent_core::observed::RecordView;
use node_agent_core::time::Boot;
use node_agent_wire::grant::Voter;
use node_agent_wire::proto;
use std::time::Duration;

/// `None` without grants, or when the node does not lead.
pub(super) fn told(view: &View) -> Option<proto::Grants> {
    let record = view.cluster().map(|c| &c.record).and_then(RecordView::get)?;
    let policy = record.policies.grants.as_ref()?;
    let grants = view.observed.grants.as_ref()?;
    let (terms, now) = (Terms::of(policy), clock::boot());
    let operation = match &grants.want {
        Want::Nothing => return None,
        Want::Hold { ahead_of, .. } => ahead_of.as_ref().map(ToString::to_string),
        Want::Watch { .. } | Want::Release { .. } => None,
    };
    let answering = grants.seats.values().filter(|seat| seat.silent.is_none());
    let ballots = answering.map(|seat| &seat.ballot);
    let (voters, next) = (record.voters().len(), record.epoch.next());
    let claimable = claimable_in(voters, ballots, &record.dc, next, now, &terms);
    Some(proto::Grants {
        enforced: record.needs_grants(&record.dc),
        epoch: grants.epoch().map_or(0, |epoch| epoch.0),
        left_ms: grants.until.map_or(0, |until| millis(now.until(until))),
        operation: operation.unwrap_or_default(),
        claimable_in_ms: claimable.filter(|_| !record.names_us()).map(millis),
        voters: grants.seats.iter().map(|(voter, seat)| row(voter, seat, now)).collect(),
    })
}

fn row(voter: &Voter, seat: &Seat, now: Boot) -> proto::Seat {
    let last = seat.ballot.last.as_ref();
    proto::Seat {
        voter: voter.to_string(),
        holder: last.map(|last| last.holder.to_string()).unwrap_or_default(),
        epoch: last.map_or(0, |last| last.epoch.0),
        free: last.is_none_or(|last| last.released),
        ours: seat.ours,
        quiet_ms: millis(now.since(seat.ballot.quiet_since)),
        silent: seat.silent.clone().unwrap_or_default(),
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
