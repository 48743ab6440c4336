//! The logical consumers of the primary, before its role moves to another datacenter: a verdict for
//! each. Kept; will read something again; has seen, or may have, what a promotion loses; or needs a
//! slot made anew.
//!
//! Pure functions over what was collected. A consumer is a logical slot of the primary. How far it
//! has come is told by the primary's agent; where that does not answer, by the last beat that the
//! primary's own etcd has, or by what the target saw of it: the same way that the loss estimate
//! goes.

use crate::guards::Checklist;
use crate::inventory::{DcView, Inventory, NodeView, SlotKind, SlotView};
use crate::loss;
use node_agent_wire::dynamic::PermanentSlot;
use node_agent_wire::federation::{FederationRecord, LossEstimate};
use node_agent_wire::position::{Consumer, Consumers, Position};
use node_agent_wire::{DcName, Lsn, SlotName, TimelineId};
use serde::{Deserialize, Serialize};
use std::cmp::Ordering;
use std::collections::BTreeMap;

/// From this version on PostgreSQL takes slots over from one server to another by itself.
const NATIVE_SINCE: u32 = 170_000;

/// What becomes of one consumer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "verdict", rename_all = "kebab-case")]
pub enum Verdict {
    /// The target has its slot, and it goes on where it is.
    Kept {
        /// So many bytes the target's slot is behind now: PostgreSQL keeps it in step, and the
        /// switchover waits for that.
        behind: u64,
    },
    /// The target has its slot, further back.
    ReadsAgain {
        /// From here on.
        from: Lsn,
        /// So many bytes of WAL.
        bytes: u64,
    },
    /// It has seen what the target does not have.
    SawWhatIsLost {
        /// So many bytes of WAL, at least.
        bytes: u64,
    },
    /// There is no slot for it at the target, or none of use.
    MadeAnew {
        /// Why.
        why: Flaw,
        /// Both servers can keep it in step by themselves.
        native: bool,
        /// The target's configuration names it: its agent makes it after the promotion.
        declared: bool,
    },
    /// Not known, and why.
    Unknown {
        /// In words.
        why: String,
    },
}

/// Why a slot is of no use.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Flaw {
    /// There is none.
    Absent,
    /// There is none yet, and the primary's is marked `failover`.
    NotTakenOver,
    /// It is lost there: PostgreSQL's reason.
    Lost(String),
    /// It is lost on the primary already: PostgreSQL's reason.
    LostAlready(String),
    /// A slot of that name is for something else.
    Other,
    /// It is ahead of the consumer by so many bytes, which would be passed over.
    Ahead(u64),
}

/// One consumer and what becomes of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Judged {
    /// The slot.
    pub slot: SlotName,
    /// Its database.
    pub database: String,
    /// What becomes of it.
    #[serde(flatten)]
    pub verdict: Verdict,
    /// How old the knowledge of its position is, in microseconds; `None`: told by the primary now.
    pub seen_ago_us: Option<i64>,
    /// A promotion loses something, so it may have seen more of that than is known.
    pub may_have_seen_more: bool,
}

/// What the target has to offer.
#[derive(Clone, Debug)]
pub struct Target<'t> {
    /// The slots of its leader; or why these, or positions there, do not tell anything.
    pub slots: Result<&'t BTreeMap<String, SlotView>, String>,
    /// Its end of WAL, where something beyond that is lost; `None`: nothing is.
    pub end: Option<Lsn>,
    /// PostgreSQL's own slots come into step before the commit: the primary lives.
    pub in_step: bool,
    /// Both servers can keep slots in step by themselves.
    pub native: bool,
}

/// The verdict on one consumer. `declared`: the target's configuration names its slot.
#[must_use]
pub fn verdict(
    name: &SlotName,
    consumer: &Consumer,
    target: &Target<'_>,
    declared: bool,
) -> Verdict {
    let anew = |why| Verdict::MadeAnew { why, native: target.native, declared };
    let unknown = |why: &str| Verdict::Unknown { why: why.to_owned() };
    if let Some(why) = &consumer.lost {
        return anew(Flaw::LostAlready(why.clone()));
    }
    let Some(confirmed) = consumer.confirmed else {
        return unknown("its slot is being made");
    };
    let slots = match &target.slots {
        Ok(slots) => slots,
        Err(why) => return unknown(why),
    };
    if let Some(end) = target.end.filter(|end| confirmed > *end) {
        return Verdict::SawWhatIsLost { bytes: confirmed.bytes_since(end) };
    }
    let there = match slots.get(name.as_str()).map(|slot| &slot.kind) {
        None if consumer.failover => return anew(Flaw::NotTakenOver),
        None => return anew(Flaw::Absent),
        Some(SlotKind::Untold) => return unknown("the target's agent does not tell"),
        Some(SlotKind::Physical) => return anew(Flaw::Other),
        Some(SlotKind::Logical(there)) => there,
    };
    if let Some(why) = &there.consumer.lost {
        return anew(Flaw::Lost(why.clone()));
    }
    let same = |of: fn(&Consumer) -> &String| of(consumer) == of(&there.consumer);
    if !same(|c| &c.database) || !same(|c| &c.plugin) {
        return anew(Flaw::Other);
    }
    let Some(at) = there.consumer.confirmed else {
        return unknown("the target's slot is being made");
    };
    let behind = confirmed.bytes_since(at);
    match at.cmp(&confirmed) {
        Ordering::Less if there.synced && target.in_step => Verdict::Kept { behind },
        Ordering::Less => Verdict::ReadsAgain { from: at, bytes: behind },
        Ordering::Greater if !there.synced => anew(Flaw::Ahead(at.bytes_since(confirmed))),
        // What was taken over from the primary is never ahead: the knowledge of the consumer is
        // older.
        Ordering::Equal | Ordering::Greater => Verdict::Kept { behind: 0 },
    }
}

/// Where the consumers of the primary were.
struct Known {
    consumers: Consumers,
    /// The timeline of these positions.
    timeline: Option<TimelineId>,
    /// How old that is; `None`: it is the primary's own word, now.
    age_us: Option<i64>,
}

/// The consumers that a primary's agent tells.
fn told(node: &NodeView) -> Option<Consumers> {
    let mut consumers = Consumers::new();
    for (name, slot) in &node.slots {
        match &slot.kind {
            SlotKind::Untold => return None,
            SlotKind::Physical => {}
            SlotKind::Logical(slot) => {
                consumers.insert(SlotName::parse(name)?, slot.consumer.clone());
            }
        }
    }
    Some(consumers)
}

/// The primary's own word: its leader's agent, or its last beat in its own etcd.
fn of_primary(inventory: &Inventory, from: &DcName, record: &FederationRecord) -> Option<Known> {
    let view = inventory.view(from)?;
    let node = view.leader_node().filter(|node| node.writable);
    if let Some((node, consumers)) = node.and_then(|node| Some((node, told(node)?))) {
        return Some(Known { consumers, timeline: Some(node.timeline), age_us: None });
    }
    let beat = view.position.as_ref().filter(|beat| beat.epoch == Some(record.epoch))?;
    let age_us = Some(inventory.at_us.saturating_sub(beat.at_us).max(0));
    Some(Known { consumers: beat.consumers.clone()?, timeline: beat.timeline, age_us })
}

/// What the target saw of the primary last.
fn seen(inventory: &Inventory, target: &Position, record: &FederationRecord) -> Option<Known> {
    let seen = target.primary_seen.as_ref()?;
    let present = seen.epoch == record.epoch && seen.dc == record.primary;
    let age_us = Some(inventory.at_us.saturating_sub(seen.seen_at_us).max(0));
    let consumers = seen.consumers.clone().filter(|_| present)?;
    Some(Known { consumers, timeline: Some(seen.timeline), age_us })
}

/// The consumers of the primary datacenter when `to` takes over. `estimate`: what a promotion may
/// lose; `None` for a switchover.
///
/// # Errors
/// In words: why nothing is known of them.
pub fn judge(
    inventory: &Inventory,
    to: &DcName,
    record: &FederationRecord,
    estimate: Option<&LossEstimate>,
) -> Result<Vec<Judged>, String> {
    let from = &record.primary;
    let view = inventory.view(to).ok_or_else(|| format!("{to} does not answer"))?;
    let known = of_primary(inventory, from, record)
        .or_else(|| seen(inventory, view.position.as_ref()?, record))
        .ok_or_else(|| {
            format!("neither the agents of {from} nor what {to} saw of it tell its logical slots")
        })?;
    let lossy = estimate.is_some_and(loss::possible);
    let node = view.leader_node();
    let target = Target {
        slots: comparable(to, view, known.timeline),
        end: end(view).filter(|_| lossy),
        in_step: estimate.is_none(),
        native: native(inventory, from, node),
    };
    let declared = view.dynamic().slots;
    let judge = |(slot, consumer): (SlotName, Consumer)| {
        let declared = matches!(declared.get(&slot), Some(PermanentSlot::Logical { .. }));
        Judged {
            verdict: verdict(&slot, &consumer, &target, declared),
            slot,
            database: consumer.database,
            seen_ago_us: known.age_us,
            may_have_seen_more: lossy && known.age_us.is_some(),
        }
    };
    Ok(known.consumers.into_iter().map(judge).collect())
}

/// The slots of the target, where its positions compare with those of the primary.
fn comparable<'v>(
    to: &DcName,
    view: &'v DcView,
    timeline: Option<TimelineId>,
) -> Result<&'v BTreeMap<String, SlotView>, String> {
    let here = view.timeline();
    match (timeline, here) {
        (Some(there), Some(here)) if there != here => {
            return Err(format!("the primary was on timeline {there}, {to} is on {here}"));
        }
        (_, Some(_)) => {}
        (_, None) => return Err(format!("{to} tells no position")),
    }
    let node = view.leader_node().map(|node| &node.slots);
    node.ok_or_else(|| format!("the leader's agent of {to} does not answer"))
}

/// The end of the target's WAL.
fn end(view: &DcView) -> Option<Lsn> {
    let live = view.leader_node().map(|node| node.lsn).filter(|lsn| lsn.0 > 0);
    live.max(view.position.as_ref().and_then(|position| position.lsn))
}

/// Whether both servers can keep slots in step by themselves. The former primary has the target's
/// major version; where it answers its own word counts.
fn native(inventory: &Inventory, from: &DcName, target: Option<&NodeView>) -> bool {
    let source = inventory.view(from).and_then(DcView::leader_node);
    let source = source.map(|node| node.server_version).filter(|version| *version > 0);
    target.is_some_and(|node| node.server_version >= NATIVE_SINCE)
        && source.is_none_or(|version| version >= NATIVE_SINCE)
}

/// One line of the checklist for each consumer; `to` takes over. `rehearsal`: nobody has asked for
/// it yet, and positions that come and go are no reason to warn.
pub fn show(
    list: &mut Checklist,
    to: &DcName,
    found: &Result<Vec<Judged>, String>,
    rehearsal: bool,
) {
    let judged = match found {
        Ok(judged) => judged,
        Err(why) => return list.warn("consumers", format!("not known: {why}")),
    };
    if judged.is_empty() {
        list.ok("consumers", "the primary has no logical slot");
    }
    for one in judged {
        let check = format!("consumer {}", one.slot);
        let fine = match &one.verdict {
            Verdict::Kept { .. } => true,
            Verdict::ReadsAgain { .. } | Verdict::SawWhatIsLost { .. } => rehearsal,
            Verdict::MadeAnew { .. } | Verdict::Unknown { .. } => false,
        };
        if fine {
            list.ok(check, one.words(to));
        } else {
            list.warn(check, one.words(to));
        }
    }
}

impl Judged {
    /// In one line, with what to do.
    #[must_use]
    pub fn words(&self, to: &DcName) -> String {
        let said = match &self.verdict {
            Verdict::Kept { behind: 0 } => "kept".to_owned(),
            Verdict::Kept { behind } => {
                format!("kept: {to} is {behind} bytes behind and catches up before the fence")
            }
            Verdict::ReadsAgain { from, bytes } => {
                format!("will read again from {from}, {bytes} bytes")
            }
            Verdict::SawWhatIsLost { bytes } => format!(
                "will have seen what is lost, {bytes} bytes at least; afterwards compare its data \
                 with {to}, or rebuild it"
            ),
            Verdict::MadeAnew { why, native, declared } => {
                let (flaw, next) = (why.words(to), advice(why, to, (*native, *declared)));
                format!("must be made anew: {flaw}; {next}")
            }
            Verdict::Unknown { why } => format!("not known: {why}"),
        };
        let seconds = |us: i64| format!("{}.{} s", us / 1_000_000, us % 1_000_000 / 100_000);
        match (self.seen_ago_us, self.may_have_seen_more) {
            (None, _) => said,
            (Some(us), false) => format!("{said} (as of {} ago)", seconds(us)),
            (Some(us), true) => format!(
                "{said} (as of {} ago: it may have seen more that is lost since)",
                seconds(us)
            ),
        }
    }
}

impl Flaw {
    fn words(&self, to: &DcName) -> String {
        match self {
            Self::Absent => format!("{to} has no such slot"),
            Self::NotTakenOver => format!("{to} has not taken the slot over yet"),
            Self::Lost(why) => format!("the slot of {to} is lost ({why})"),
            Self::LostAlready(why) => format!("its slot is lost on the primary already ({why})"),
            Self::Other => format!("the slot of this name in {to} is for something else"),
            Self::Ahead(bytes) => {
                format!("the slot of {to} is ahead, and would pass {bytes} bytes over")
            }
        }
    }
}

/// What to do about a slot that has to be made anew.
fn advice(why: &Flaw, to: &DcName, (native, declared): (bool, bool)) -> String {
    let afterwards = if declared {
        format!("afterwards the agents of {to} make it: what is not read by then is missed")
    } else {
        "afterwards make the slot, and copy the consumer's data anew".to_owned()
    };
    match why {
        Flaw::NotTakenOver => format!(
            "before: sync_replication_slots = on in {to}, and let the consumer read once more"
        ),
        Flaw::Absent if native => format!(
            "before: failover = true for the slot and sync_replication_slots = on in {to}; or \
             {afterwards}"
        ),
        Flaw::Lost(_) | Flaw::Other | Flaw::Ahead(_) => {
            format!("before: drop or rename that one; or {afterwards}")
        }
        Flaw::Absent | Flaw::LostAlready(_) => afterwards,
    }
}

/// The positions that the slots of `target` should come to before the role moves: those of the
/// consumers of `source` whose slots PostgreSQL keeps in step there.
#[must_use]
pub fn to_reach(source: &NodeView, target: &NodeView) -> BTreeMap<String, Lsn> {
    let logical = |slot: &SlotView| match &slot.kind {
        SlotKind::Logical(slot) => Some(slot.clone()),
        SlotKind::Untold | SlotKind::Physical => None,
    };
    let reach = |(name, slot): (&String, &SlotView)| {
        let there = target.slots.get(name).and_then(logical)?;
        let usable = there.synced && there.consumer.lost.is_none();
        Some((name.clone(), logical(slot)?.consumer.confirmed.filter(|_| usable)?))
    };
    source.slots.iter().filter_map(reach).collect()
}

/// By how many bytes each slot of `target` is short of the position that it should come to. One
/// that is gone there is not waited for.
#[must_use]
pub fn short_of(reach: &BTreeMap<String, Lsn>, target: &NodeView) -> BTreeMap<String, u64> {
    let short = |(name, wanted): (&String, &Lsn)| {
        let SlotKind::Logical(there) = &target.slots.get(name)?.kind else { return None };
        let at = there.consumer.confirmed.filter(|at| at < wanted)?;
        Some((name.clone(), wanted.bytes_since(at)))
    };
    reach.iter().filter_map(short).collect()
}

#[cfg(test)]
#[path = "consumers_tests.rs"]
mod tests;
