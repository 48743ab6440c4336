//! Slots while the DCS is out of reach and failsafe mode carries the leader (behaviour 9): the
//! leader tells its positions with each question to the members, and learns theirs from the
//! answers. Nothing is made and nothing dropped; what is there moves on, so that it does not hold
//! back WAL for the length of the outage.

use super::SlotChange;
use crate::observed::Observed;
use crate::postgres::{Postgres, Running, SlotFact};
use node_agent_wire::{Lsn, MemberName, SlotName};
use std::collections::BTreeMap;

/// How the slots of this node move on, where nobody's key says it.
#[must_use]
pub fn changes(observed: &Observed) -> Vec<SlotChange> {
    let Postgres::Running(running) = &observed.postgres else { return Vec::new() };
    let config = &observed.config;
    if !config.use_slots || config.pause || observed.job.is_some() {
        return Vec::new();
    }
    let told = if running.in_recovery { told(observed) } else { answered(observed) };
    let end = if running.in_recovery { running.replay_lsn } else { Some(running.lsn) };
    let Some(end) = end else { return Vec::new() };
    let idle = running.slots.iter().filter(|s| !s.active && !s.lost && !s.failover);
    idle.filter(|slot| !super::ignored(config, slot))
        .filter_map(|slot| advance(slot, (*told.get(&slot.name)?).min(end), running.in_recovery))
        .collect()
}

/// What the leader that this node has accepted said last.
fn told(observed: &Observed) -> BTreeMap<SlotName, Lsn> {
    let promise = observed.failsafe.promise.as_ref().filter(|p| observed.now < p.until);
    promise.map(|_| observed.failsafe.told.clone()).unwrap_or_default()
}

/// What the members answered to this leader: nothing else moves the slots that it keeps for those
/// that stream from another member.
fn answered(observed: &Observed) -> BTreeMap<SlotName, Lsn> {
    let round = observed.failsafe.round.as_ref().filter(|_| observed.holds_lease());
    let answers = round.map(|round| &round.positions);
    let slot = |(name, at): (&MemberName, &Lsn)| (SlotName::from_name(name.as_str()), *at);
    answers.into_iter().flatten().map(slot).collect()
}

fn advance(slot: &SlotFact, to: Lsn, standby: bool) -> Option<SlotChange> {
    let name = slot.name.clone();
    if slot.physical {
        let free = slot.xmin.or(slot.catalog_xmin).is_none();
        // One that has reserved nothing yet is made anew by the rules of the DCS.
        let behind = slot.restart_lsn.is_some_and(|at| at < to);
        return (free && behind).then_some(SlotChange::Advance(name, to));
    }
    let behind = slot.confirmed_lsn.is_none_or(|at| at < to);
    let database = slot.database.clone().filter(|_| standby && behind && to > Lsn(0))?;
    Some(SlotChange::AdvanceLogical { name, database, to })
}

/// What a leader tells of slots now that it told of earlier: the DCS, which says what counts, is
/// out of reach.
#[must_use]
pub fn told_now(
    earlier: &BTreeMap<SlotName, Lsn>,
    me: &MemberName,
    running: &Running,
) -> BTreeMap<SlotName, Lsn> {
    let own = SlotName::from_name(me.as_str());
    let now = |(name, at): (&SlotName, &Lsn)| {
        let slot = running.slots.iter().find(|slot| slot.name == *name && !slot.lost);
        let moved = match slot {
            Some(slot) if slot.physical => slot.restart_lsn,
            Some(slot) => slot.confirmed_lsn,
            None if *name == own => Some(running.lsn),
            None => None,
        };
        (name.clone(), moved.unwrap_or(*at).max(*at))
    };
    earlier.iter().map(now).collect()
}
