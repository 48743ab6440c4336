//! Permanent logical slots. The primary creates them; a standby copies their files from it, moves
//! them along, and keeps the leader from removing catalogue rows that they need
//! (`hot_standby_feedback`), so that a consumer goes on after a failover where it was.
//!
//! A copy is safe to use once the leader keeps what it needs. Between the copy and the first
//! feedback the leader may have removed catalogue rows that its own slot no longer needed: so the
//! copy must have passed the point where the leader's slot was when the feedback was first seen to
//! be in force.

use super::wanted::{Want, behind_archive, here};
use super::{SlotChange, SlotMemory, find};
use crate::decision::{Decision, SOON, Tend, Wake};
use crate::observed::{Cluster, JobKind, Observed};
use crate::postgres::{Postgres, Running, SlotFact, Upstream};
use crate::rule::Rule;
use crate::source;
use crate::time::Boot;
use node_agent_wire::dynamic::PermanentSlot;
use node_agent_wire::{MemberName, SlotName};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// The leader's slots as this standby saw them last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaderSlots {
    /// The leader.
    pub of: MemberName,
    /// When it was asked.
    pub at: Boot,
    /// `catalog_xmin` of its slots; `None` where it has none. Or why they are not known.
    pub answer: Result<BTreeMap<SlotName, Option<u32>>, String>,
}

/// Whether transaction `a` is older than `b` or the same; the numbers go round.
fn not_after(a: u32, b: u32) -> bool {
    b.wrapping_sub(a) < 1 << 31
}

/// How far a standby may move its copy: as far as the consumer has come on the leader, never beyond
/// what is replayed here.
pub(super) fn advance(cluster: &Cluster, running: &Running, slot: &SlotFact) -> Option<SlotChange> {
    if !running.in_recovery {
        return None;
    }
    let to = cluster.status.slots.get(&slot.name).copied()?.min(running.replay_lsn?);
    let behind = slot.confirmed_lsn.is_none_or(|at| at < to);
    let database = slot.database.clone()?;
    behind.then(|| SlotChange::AdvanceLogical { name: slot.name.clone(), database, to })
}

/// The logical slots that this standby lacks and can copy from the leader now.
#[must_use]
pub fn to_copy(observed: &Observed, cluster: &Cluster, running: &Running) -> BTreeSet<SlotName> {
    let paused = cluster.config.pause || !cluster.config.use_slots;
    let failed = observed.slots.copy_after.is_some_and(|until| observed.now < until);
    if paused || failed || !running.in_recovery {
        return BTreeSet::new();
    }
    let wanted = here(observed, cluster);
    let missing = wanted.iter().filter(|(name, want)| {
        matches!(want, Want::Logical { .. })
            && find(running, name).is_none()
            && cluster.status.slots.contains_key(name)
    });
    missing.map(|(name, _)| name.clone()).collect()
}

/// The logical slots of this standby that must not be trusted yet.
#[must_use]
pub fn unsafe_copies(
    observed: &Observed,
    cluster: &Cluster,
    running: &Running,
) -> BTreeSet<SlotName> {
    if !running.in_recovery {
        return BTreeSet::new();
    }
    let wanted = here(observed, cluster);
    let logical = wanted.iter().filter(|(_, want)| matches!(want, Want::Logical { .. }));
    // What one leader keeps says nothing of what another one removes.
    let same = match (&observed.slots.leader, &cluster.leader) {
        (Some(asked), Some(leads)) => asked.of == *leads || *leads == observed.me.name,
        (_, None) => true,
        (None, Some(_)) => false,
    };
    let mut found = BTreeSet::new();
    for (name, _) in logical {
        let slot = find(running, name);
        let kept = observed.slots.kept_since.get(name).filter(|_| same);
        let safe = slot.is_some_and(|slot| {
            slot.failover
                || kept.zip(slot.catalog_xmin).is_some_and(|(since, own)| not_after(*since, own))
        });
        // A slot that the leader does not have either is no loss.
        if !safe && (slot.is_some() || cluster.status.slots.contains_key(name)) {
            found.insert(name.clone());
        }
    }
    found
}

/// What a settled standby that streams does for its logical slots: copies those that it lacks, or
/// finds out whether its copies are safe.
#[must_use]
pub(crate) fn settle(observed: &Observed, cluster: &Cluster, mut decision: Decision) -> Decision {
    let Postgres::Running(running) = &observed.postgres else { return decision };
    let streams = running.receiver.as_ref().is_some_and(|r| r.status == "streaming");
    if decision.rule != Rule::Replicate || !streams {
        return decision;
    }
    let missing = to_copy(observed, cluster, running);
    if let Some(leader) = source::of_leader(cluster).filter(|_| !missing.is_empty()) {
        if let Some(why) = not_my_turn(cluster, &observed.me.name) {
            (decision.rule, decision.why) = (Rule::AwaitSlotCopy, why);
            decision.wake = Wake { after: SOON, reason: "the turn to restart" };
            return decision;
        }
        let why = format!("copying logical slots from the leader: {}", join(&missing));
        return Decision::wait(Rule::CopySlots, why, Duration::ZERO, "the restart")
            .tend(Tend::CopySlots { from: leader, slots: missing });
    }
    let open = unsafe_copies(observed, cluster, running);
    if !open.is_empty() {
        decision.why = format!("{}; not to be used yet: slot {}", decision.why, join(&open));
    }
    decision.tend.extend(to_ask(observed, cluster, running).map(Tend::AskSlots));
    decision
}

/// What is said of a promotion that leaves a consumer without a slot that is known to be good.
#[must_use]
pub(crate) fn warning(observed: &Observed, cluster: &Cluster, running: &Running) -> String {
    let open = unsafe_copies(observed, cluster, running);
    if open.is_empty() {
        return String::new();
    }
    format!("; the consumers of slot {} may miss changes: compare their data", join(&open))
}

/// Standbys restart one at a time. Whoever wants to, says so in its member key, and goes on when it
/// is the only one in a view that shows its own word: of two that want to, one has written later,
/// and sees the other. When two wait for each other, the first by name stays.
fn not_my_turn(cluster: &Cluster, me: &MemberName) -> Option<String> {
    let says = |name: &MemberName| cluster.members.get(name).is_some_and(|m| m.data.copies_slots);
    match cluster.members.keys().find(|name| *name != me && says(name)) {
        Some(other) => Some(format!("copying logical slots: {other} goes first")),
        None if says(me) => None,
        None => Some("copying logical slots: saying so first".to_owned()),
    }
}

/// Whether this node says in its member key that it restarts to copy logical slots.
#[must_use]
pub fn announces_copy(observed: &Observed) -> bool {
    if observed.job.is_some_and(|job| job.kind == JobKind::CopySlots) {
        return true;
    }
    let (Some(cluster), Postgres::Running(running)) =
        (observed.cluster.known(), &observed.postgres)
    else {
        return false;
    };
    let me = &observed.me.name;
    let mut earlier = cluster.members.values().take_while(|m| m.name < *me);
    let streams = running.receiver.as_ref().is_some_and(|r| r.status == "streaming");
    streams
        && !earlier.any(|m| m.data.copies_slots)
        && !to_copy(observed, cluster, running).is_empty()
}

fn join(names: &BTreeSet<SlotName>) -> String {
    names.iter().map(SlotName::as_str).collect::<Vec<_>>().join(", ")
}

/// Whether the leader should be asked for its slots: a copy is not known to be safe yet.
#[must_use]
pub fn to_ask(observed: &Observed, cluster: &Cluster, running: &Running) -> Option<Upstream> {
    let open = unsafe_copies(observed, cluster, running);
    if !open.iter().any(|name| find(running, name).is_some()) {
        return None;
    }
    let pause = observed.config.timing.loop_wait;
    let fresh = observed.slots.leader.as_ref().filter(|leader| {
        cluster.leader.as_ref() == Some(&leader.of) && observed.now.since(leader.at) < pause
    });
    if fresh.is_some() { None } else { source::of_leader(cluster) }
}

impl SlotMemory {
    /// Takes an answer of the leader. `direct`: the slot by which this node's feedback reaches it.
    /// `own`: the slots of this standby.
    pub fn learn(&mut self, answer: LeaderSlots, direct: &SlotName, own: &[SlotFact]) {
        if self.leader.as_ref().is_none_or(|before| before.of != answer.of) {
            self.kept_since.clear();
        }
        let logical = |name: &SlotName| own.iter().any(|s| s.name == *name && !s.physical);
        self.kept_since.retain(|name, _| logical(name));
        let Ok(slots) = &self.leader.insert(answer).answer else { return };
        // Without it the leader keeps nothing for us.
        let Some(Some(fed_back)) = slots.get(direct) else { return };
        for slot in own.iter().filter(|slot| !slot.physical) {
            let (Some(Some(theirs)), Some(ours)) = (slots.get(&slot.name), slot.catalog_xmin)
            else {
                continue;
            };
            // The feedback covers this slot, and not only others.
            if not_after(*fed_back, ours) {
                self.kept_since.entry(slot.name.clone()).or_insert(*theirs);
            }
        }
    }
}

/// The slot on the leader by which this node's feedback reaches it: its own, or that of the member
/// in the middle.
#[must_use]
pub fn feedback_slot(cluster: &Cluster, me: &MemberName) -> SlotName {
    let mut at = me.clone();
    for _ in 0..cluster.members.len() {
        let member = cluster.members.get(&at);
        let next = member.and_then(node_agent_wire::member::Member::replicatefrom);
        match next.filter(|n| cluster.members.contains_key(n)) {
            Some(next) if cluster.leader.as_ref() != Some(&next) && next != *me => at = next,
            Some(_) | None => break,
        }
    }
    SlotName::from_name(at.as_str())
}

/// Whether this node must send feedback (`hot_standby_feedback`): it keeps logical slots itself, or
/// passes on the feedback of a member that follows it.
#[must_use]
pub fn needs_feedback(observed: &Observed, cluster: &Cluster) -> bool {
    let config = &cluster.config;
    let any = config.slots.values().any(|slot| matches!(slot, PermanentSlot::Logical { .. }));
    if !any || !config.use_slots || config.standby_cluster.is_some() || observed.me.nostream {
        return false;
    }
    let keeps = |nofailover: bool, nostream: bool| !nofailover && !nostream;
    if keeps(observed.me.nofailover, observed.me.nostream) {
        return true;
    }
    let through_me = |name: &MemberName| passes(cluster, name, &observed.me.name);
    cluster.members.values().any(|m| {
        m.name != observed.me.name
            && !m.nofailover()
            && !behind_archive(cluster, &m.name, m.nostream())
            && through_me(&m.name)
    })
}

/// Whether WAL reaches `member` through `node`.
fn passes(cluster: &Cluster, member: &MemberName, node: &MemberName) -> bool {
    let mut at = cluster.members.get(member).and_then(|m| m.replicatefrom());
    for _ in 0..cluster.members.len() {
        match at {
            Some(name) if name == *node => return true,
            Some(name) => at = cluster.members.get(&name).and_then(|m| m.replicatefrom()),
            None => return false,
        }
    }
    false
}
