//! Plain synchronous mode: which standbys PostgreSQL waits for, and which may be elected.
//!
//! The invariant (behaviour 13.1): whoever `/sync` names is waited for by PostgreSQL. So `/sync`
//! shrinks before the names do, and grows after them, and only with standbys that have everything
//! up to the moment the names took effect. One step a pass; whatever is killed between two steps,
//! the invariant holds.

use crate::postgres::Running;
use node_agent_wire::status::SyncState;
use node_agent_wire::{Lsn, MemberName};
use std::collections::BTreeSet;

/// The next step towards the wanted state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SyncStep {
    /// Write `/sync` (compare-and-set).
    Write(SyncState),
    /// Change `synchronous_standby_names`.
    Names(String),
    /// As wanted.
    Settled,
}

/// What the step is chosen from.
#[derive(Clone, Debug)]
pub struct SyncInput<'a> {
    /// The primary.
    pub me: &'a MemberName,
    /// Standbys that may be synchronous: streaming, known, no `nosync`; best first.
    pub candidates: &'a [MemberName],
    /// How many are wanted.
    pub count: usize,
    /// Writes wait when there is none.
    pub strict: bool,
    /// `/sync` as read.
    pub sync: &'a SyncState,
    /// PostgreSQL as observed.
    pub running: &'a Running,
    /// The end of WAL from which on commits are sure to have waited for the names; `None` until
    /// that is known.
    pub names_set_at: Option<Lsn>,
}

/// The value of `synchronous_standby_names` for a set: every one of them is waited for.
#[must_use]
pub fn render_names(names: &BTreeSet<MemberName>, strict: bool) -> String {
    let quoted: Vec<String> = names.iter().map(quoted).collect();
    match quoted.as_slice() {
        [] if strict => "*".to_owned(),
        [] => String::new(),
        [one] => one.clone(),
        several => format!("{} ({})", several.len(), several.join(",")),
    }
}

fn quoted(name: &MemberName) -> String {
    format!("\"{}\"", name.as_str().replace('"', "\"\""))
}

/// One step. `/sync` with another leader is taken over by [`takeover`] before a promotion.
#[must_use]
pub fn step(input: &SyncInput<'_>) -> SyncStep {
    let current: BTreeSet<MemberName> = input.sync.sync_standby.clone();
    let wanted = choose(input, &current);
    let names = render_names(&wanted, input.strict);
    let write = |standbys: BTreeSet<MemberName>| {
        SyncStep::Write(SyncState {
            leader: Some(input.me.clone()),
            sync_standby: standbys,
            quorum: 0,
        })
    };
    if input.sync.leader.as_ref() != Some(input.me) {
        return write(BTreeSet::new());
    }
    if !current.is_subset(&wanted) {
        return write(current.intersection(&wanted).cloned().collect());
    }
    if input.running.sync_names != names {
        return SyncStep::Names(names);
    }
    let confirmed: BTreeSet<MemberName> =
        wanted.iter().filter(|n| current.contains(*n) || confirmed(input, n)).cloned().collect();
    if confirmed == current { SyncStep::Settled } else { write(confirmed) }
}

/// The wanted set: those in `/sync` that still stream stay, then those that PostgreSQL waits for
/// already, and the rest is filled from the best. Without the second group two standbys that take
/// turns in being ahead would replace each other before either of them is confirmed.
fn choose(input: &SyncInput<'_>, current: &BTreeSet<MemberName>) -> BTreeSet<MemberName> {
    let rank = |name: &MemberName| {
        let waited_for = input.running.sync_names.contains(&quoted(name));
        if current.contains(name) { 0 } else { 2 - u8::from(waited_for) }
    };
    let mut wanted: Vec<&MemberName> = input.candidates.iter().collect();
    wanted.sort_by_key(|name| rank(name));
    wanted.into_iter().take(input.count).cloned().collect()
}

/// PostgreSQL waits for it, and it has everything up to when that began.
fn confirmed(input: &SyncInput<'_>, name: &MemberName) -> bool {
    let Some(set_at) = input.names_set_at else { return false };
    input.running.senders.iter().any(|s| {
        s.application_name.eq_ignore_ascii_case(name.as_str())
            && s.sync_state == "sync"
            && s.flush_lsn.is_some_and(|flushed| flushed >= set_at)
    })
}

/// `/sync` as it must read before this node may be promoted; `None` when it does already.
#[must_use]
pub fn takeover(me: &MemberName, sync: &SyncState) -> Option<SyncState> {
    let ready = sync.leader.as_ref() == Some(me) && sync.sync_standby.is_empty();
    (!ready).then(|| SyncState {
        leader: Some(me.clone()),
        sync_standby: BTreeSet::new(),
        quorum: 0,
    })
}
