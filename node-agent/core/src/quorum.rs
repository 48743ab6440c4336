//! Quorum mode: PostgreSQL waits for any `synchronous_node_count` of all standbys that stream.
//!
//! The order of the changes, as the reference has it (behaviour 13.2): members that are gone leave
//! first, then new ones come; each change is one or two steps of [`crate::sync`], which also
//! refuses every step that would break the promise.

use crate::sync::Goal;
use crate::waits::{Form, Waits};
use node_agent_wire::MemberName;
use node_agent_wire::status::SyncState;
use std::collections::BTreeSet;

/// What is wanted next. `electable`: standbys that may be elected, `others`: those that only hold
/// a copy and join where there are too few, best first.
#[must_use]
pub fn goal(
    electable: &[MemberName],
    others: &[MemberName],
    count: usize,
    promised: &SyncState,
    in_force: &Waits,
) -> Goal {
    let missing = count.saturating_sub(electable.len());
    let present: BTreeSet<MemberName> =
        electable.iter().chain(others.iter().take(missing)).cloned().collect();
    let known: BTreeSet<MemberName> = promised.sync_standby.union(&in_force.set).cloned().collect();
    let staying: BTreeSet<MemberName> = known.intersection(&present).cloned().collect();
    let someone_left = staying.len() < known.len();
    let set = if someone_left && !staying.is_empty() { staying } else { present };
    Goal { waits: Waits { num: count.min(set.len()), set }, form: Form::Quorum, guest: None }
}
