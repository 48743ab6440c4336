//! Synchronous replication: the set that PostgreSQL waits for, what `/sync` promises, and the one
//! step that may follow.
//!
//! `/sync` is a promise to every election: whoever it names, and has the votes of `quorum` others
//! that it names, has every acknowledged commit. Plain mode is the case of quorum 0. The promise
//! is kept because of two conditions, which every step is checked against:
//!
//! - [`holds`]: a commit that waited for the names in force is on somebody in every electorate.
//!   PostgreSQL's names are only ever changed to names that keep the promise as it stands.
//! - [`may_promise`]: a new promise also covers the commits of the time before. It either lets
//!   fewer be elected than the old one, or rests on standbys that are known to have flushed
//!   everything up to the moment from which all commits are sure to have waited for the names in
//!   force.
//!
//! One step a pass; whatever is killed between two steps, the promise holds.

use crate::waits::{Form, Waits};
use node_agent_wire::MemberName;
use node_agent_wire::status::SyncState;
use std::collections::BTreeSet;

/// The next step towards the wanted state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SyncStep {
    /// Write `/sync` (compare-and-set).
    Write(SyncState),
    /// Change `synchronous_standby_names`.
    Names(String),
    /// The names are as wanted, and a standby that `/sync` is to name has not caught up yet.
    Confirming,
    /// As wanted.
    Settled,
}

/// What is wanted in the end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Goal {
    /// What PostgreSQL is to wait for.
    pub waits: Waits,
    /// How it is written.
    pub form: Form,
    /// A standby beside the set that commits wait for as well, and that `/sync` never names.
    pub guest: Option<MemberName>,
}

impl Goal {
    /// Plain mode: each of them.
    #[must_use]
    pub fn plain(set: BTreeSet<MemberName>) -> Self {
        Self { waits: Waits { num: set.len(), set }, form: Form::Plain, guest: None }
    }

    /// What PostgreSQL is to wait for now. Beside a guest, every one of the set: of fewer it could
    /// not be said that the guest is among those that were waited for. Where any standby would do,
    /// in strict mode, it stays at that.
    fn names(&self, strict: bool) -> Waits {
        match &self.guest {
            Some(guest) if !(strict && self.waits.set.is_empty()) => {
                let mut set = self.waits.set.clone();
                set.insert(guest.clone());
                Waits { num: set.len(), set }
            }
            Some(_) | None => self.waits.clone(),
        }
    }

    /// The votes that this allows `/sync` to ask for: any so many and a candidate meet each commit.
    fn quorum(&self) -> usize {
        self.waits.set.len() - self.waits.num.min(self.waits.set.len())
    }
}

/// What the step is chosen from.
#[derive(Clone, Debug)]
pub struct SyncInput<'a> {
    /// The primary.
    pub me: &'a MemberName,
    /// What is wanted.
    pub goal: &'a Goal,
    /// Writes wait when there is no standby.
    pub strict: bool,
    /// `/sync` as read.
    pub sync: &'a SyncState,
    /// `synchronous_standby_names` in force.
    pub names: &'a str,
    /// Standbys that PostgreSQL waits for, and that have flushed everything up to the moment from
    /// which commits are sure to have waited for `names`. Empty while that is not known.
    pub confirmed: &'a BTreeSet<MemberName>,
}

/// One step. `/sync` with another leader is taken over by [`takeover`] before a promotion.
#[must_use]
pub fn step(input: &SyncInput<'_>) -> SyncStep {
    let in_force = Waits::read(input.names);
    let owned = input.sync.leader.as_ref() == Some(input.me);
    if !owned || !holds(input.sync, &in_force) {
        // The second: somebody else has changed the names. Nobody is promised anything any more.
        return SyncStep::Write(promise(input.me, BTreeSet::new(), 0));
    }
    let goal = input.goal;
    let wanted = promise(input.me, goal.waits.set.clone(), goal.quorum());
    if *input.sync != wanted && is_weaker(input.sync, &wanted) {
        return SyncStep::Write(wanted);
    }
    let waits = goal.names(input.strict);
    let names = waits.render(goal.form, input.strict);
    if input.names != names {
        if holds(input.sync, &waits) {
            return SyncStep::Names(names);
        }
        return SyncStep::Write(between(input, goal));
    }
    let next = match goal.form {
        // In plain mode each one counts as soon as it has caught up.
        Form::Plain => {
            let ready = |name: &&MemberName| {
                input.confirmed.contains(*name) || input.sync.sync_standby.contains(*name)
            };
            promise(input.me, goal.waits.set.iter().filter(ready).cloned().collect(), 0)
        }
        Form::Quorum => wanted.clone(),
    };
    if *input.sync == wanted {
        SyncStep::Settled
    } else if next != *input.sync && may_promise(input.sync, &next, &in_force, input.confirmed) {
        SyncStep::Write(next)
    } else {
        SyncStep::Confirming
    }
}

/// A value of `/sync`. One in which nobody could have enough votes says so by naming nobody.
fn promise(me: &MemberName, voters: BTreeSet<MemberName>, quorum: usize) -> SyncState {
    let electable = quorum < voters.len();
    SyncState {
        leader: Some(me.clone()),
        quorum: if electable { u32::try_from(quorum).unwrap_or(u32::MAX) } else { 0 },
        sync_standby: if electable { voters } else { BTreeSet::new() },
    }
}

/// The promise with as many votes, out of those that stay, that the wanted names keep it.
fn between(input: &SyncInput<'_>, goal: &Goal) -> SyncState {
    let voters = input.sync.sync_standby.intersection(&goal.waits.set).cloned().collect();
    promise(input.me, voters, votes(input.sync).max(goal.quorum()))
}

fn votes(sync: &SyncState) -> usize {
    usize::try_from(sync.quorum).unwrap_or(usize::MAX)
}

/// Whether every commit that waited so is on one of any `quorum` + 1 that `/sync` names: together
/// they are more than those that may lack it. Where it names nobody, there is nothing to keep.
#[must_use]
pub fn holds(promised: &SyncState, waits: &Waits) -> bool {
    let voters = &promised.sync_standby;
    let all = voters.union(&waits.set).count();
    voters.is_empty() || all <= votes(promised).saturating_add(waits.num)
}

/// Whether whoever the second promise lets be elected, the first one did as well: of any
/// `quorum` + 1 that the second one names, enough are named by the first.
#[must_use]
pub fn is_weaker(first: &SyncState, second: &SyncState) -> bool {
    let more = second.sync_standby.difference(&first.sync_standby).count();
    second.sync_standby.is_empty() || votes(second) >= votes(first).saturating_add(more)
}

/// Whether `/sync` may change so while PostgreSQL waits for `in_force`: a promise that is not
/// weaker needs standbys in every electorate that are known to have what was committed before the
/// names were in force.
#[must_use]
pub fn may_promise(
    from: &SyncState,
    to: &SyncState,
    in_force: &Waits,
    confirmed: &BTreeSet<MemberName>,
) -> bool {
    // The electorate that proves least has none of the confirmed.
    let unsure = SyncState {
        sync_standby: to.sync_standby.difference(confirmed).cloned().collect(),
        ..to.clone()
    };
    let before = unsure.sync_standby.len() <= votes(to) || is_weaker(from, &unsure);
    before && holds(to, in_force)
}

/// `/sync` as it must read before this node may be promoted; `None` when it does already. Nobody
/// but this node may be elected until a standby is known to have followed it: the votes of the
/// time before would count members that may yet turn to another timeline of the same number.
#[must_use]
pub fn takeover(me: &MemberName, sync: &SyncState) -> Option<SyncState> {
    let ready = sync.leader.as_ref() == Some(me) && sync.sync_standby.is_empty();
    (!ready).then(|| promise(me, BTreeSet::new(), 0))
}
