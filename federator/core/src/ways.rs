//! What can be done while the primary datacenter is half alive, its DCS answers: repair it there,
//! switch over, or fence it and promote another one. Each with the loss and the time to expect and
//! with what is missing for it, the best first.

use crate::conditions::link_streams;
use crate::guards::Refusal;
use crate::history::{ClosedOperation, Outcome};
use crate::inventory::{DcView, Inventory, NodeView};
use crate::loss;
use crate::plan::StepKind;
use crate::planner::promotion;
use node_agent_wire::federation::{LossEstimate, OperationKind};
use node_agent_wire::{DcName, MemberName};
use serde::Serialize;

/// What kind of way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum WayKind {
    /// The primary datacenter elects another leader, or its hosts are started.
    RepairThere,
    /// A planned switchover.
    Switchover,
    /// The primary datacenter is fenced, another one promoted.
    FenceAndPromote,
}

impl WayKind {
    /// In words.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::RepairThere => "repair it there",
            Self::Switchover => "planned switchover",
            Self::FenceAndPromote => "fence and promote",
        }
    }
}

/// The loss to expect.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum PredictedLoss {
    /// None.
    Nothing,
    /// By the estimate.
    AtMost(LossEstimate),
    /// Not known.
    Unknown,
}

impl PredictedLoss {
    fn rank(&self) -> (u8, u64) {
        match self {
            Self::Nothing => (0, 0),
            Self::AtMost(estimate) => (1, estimate.bytes_max.unwrap_or(u64::MAX)),
            Self::Unknown => (2, 0),
        }
    }
}

/// The time without writes to expect.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PredictedTime {
    /// In microseconds, at most; `None` when nobody can tell.
    pub us_max: Option<i64>,
    /// What that rests on.
    pub basis: String,
}

/// One way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Way {
    /// Which.
    pub kind: WayKind,
    /// The loss to expect.
    pub loss: PredictedLoss,
    /// The time to expect.
    pub time: PredictedTime,
    /// What stands in its way; empty when it can be gone now.
    pub missing: Vec<String>,
    /// What to type or do.
    pub next: String,
}

/// The longest that was measured in earlier operations of this federation, in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Measured {
    /// The write pause of a switchover.
    pub switchover_us: Option<i64>,
    /// From the take of a promotion until the target accepted writes.
    pub promotion_us: Option<i64>,
}

impl Measured {
    /// From the closed operations.
    #[must_use]
    pub fn of(history: &[ClosedOperation]) -> Self {
        let done = |kind| {
            let all = history.iter();
            all.filter(move |e| e.kind == kind && e.outcome == Outcome::Done)
        };
        let promoted = |entry: &ClosedOperation| {
            let at = |kind: StepKind| entry.steps.iter().find(|line| line.step == kind.name());
            let end = at(StepKind::Promote)?.done_at_us?;
            Some(end.saturating_sub(at(StepKind::Take)?.begun_at_us).max(0))
        };
        Self {
            switchover_us: done(OperationKind::Switchover).filter_map(|e| e.write_pause_us).max(),
            promotion_us: done(OperationKind::Promotion).filter_map(promoted).max(),
        }
    }
}

/// The ways, the best first: what can be done now, then by loss. Empty when the DCS of the primary
/// datacenter does not answer: then a promotion is the only one. `refusals` are those of the
/// promotion of `to`.
#[must_use]
pub fn ways(
    inventory: &Inventory,
    to: &DcName,
    refusals: &[Refusal],
    measured: Measured,
) -> Vec<Way> {
    let Some(record) = inventory.view(to).and_then(DcView::record) else { return Vec::new() };
    let from = &record.primary;
    let Some(view) = inventory.view(from).filter(|_| from != to) else { return Vec::new() };
    let scene = Scene { inventory, from, to, view, refusals, measured };
    let mut list = vec![scene.switchover(), scene.promotion()];
    list.extend(scene.repair());
    list.sort_by_key(|way| (!way.missing.is_empty(), way.loss.rank(), way.kind));
    list
}

struct Scene<'i> {
    inventory: &'i Inventory,
    from: &'i DcName,
    to: &'i DcName,
    view: &'i DcView,
    refusals: &'i [Refusal],
    measured: Measured,
}

impl<'i> Scene<'i> {
    fn answering(&self) -> impl Iterator<Item = (&'i MemberName, &'i NodeView)> {
        self.view.nodes.iter().filter_map(|(name, fact)| Some((name, fact.known()?)))
    }

    fn writer(&self) -> Option<&'i MemberName> {
        self.answering().find(|(_, node)| node.writable).map(|(name, _)| name)
    }

    /// Whether what the primary writes or has written still arrives at the target.
    fn streams(&self) -> bool {
        self.inventory.view(self.to).and_then(DcView::leader_node).is_some_and(link_streams)
    }

    /// Nothing to repair while a node accepts writes.
    fn repair(&self) -> Option<Way> {
        if self.writer().is_some() {
            return None;
        }
        let from = self.from;
        let candidates: Vec<&MemberName> = self
            .view
            .promotable()
            .map(|(name, _)| name)
            .filter(|name| self.answering().any(|(other, _)| other == *name))
            .collect();
        let fenced = self.view.record().and_then(|r| r.fence.as_ref()).is_some();
        let mut missing = Vec::new();
        if fenced {
            missing.push(format!("{from} is fenced: federator fence {from} --lift"));
        }
        if self.view.dynamic().pause {
            missing.push(format!("{from} is paused: nobody takes over by itself"));
        }
        let Some(first) = candidates.first() else {
            missing.push(format!("no agent of {from} answers"));
            let basis = "until somebody has started its hosts".into();
            return Some(Way {
                kind: WayKind::RepairThere,
                loss: PredictedLoss::Nothing,
                time: PredictedTime { us_max: None, basis },
                missing,
                next: format!("start the hosts of {from}; its disks hold everything"),
            });
        };
        let leader = self.view.leader.as_ref();
        let synchronous = self.view.sync_standbys.as_ref();
        let complete = candidates
            .iter()
            .any(|name| Some(*name) == leader || synchronous.is_some_and(|s| s.contains(*name)));
        let lease = self.view.dynamic().lease_time();
        let us_max = i64::try_from(lease.as_micros()).ok().map(|us| us.saturating_mul(2));
        let basis = format!("{} s until the lease has run out, then an election", lease.as_secs());
        Some(Way {
            kind: WayKind::RepairThere,
            loss: if complete { PredictedLoss::Nothing } else { PredictedLoss::Unknown },
            time: PredictedTime { us_max, basis },
            missing,
            next: format!("{first} answers and can lead: wait; federator status --watch"),
        })
    }

    fn switchover(&self) -> Way {
        let (from, to) = (self.from, self.to);
        let mut missing = Vec::new();
        if self.writer().is_none() {
            missing.push(format!("no node of {from} accepts writes"));
        }
        if !self.streams() {
            missing.push(format!("{to} does not stream from {from}"));
        }
        let us_max = self.measured.switchover_us;
        let basis = match us_max {
            Some(_) => "the longest write pause so far",
            None => "no switchover has been measured here",
        };
        Way {
            kind: WayKind::Switchover,
            loss: PredictedLoss::Nothing,
            time: PredictedTime { us_max, basis: basis.into() },
            missing,
            next: format!("federator switchover --to {to}"),
        }
    }

    fn promotion(&self) -> Way {
        let (from, to) = (self.from, self.to);
        let acknowledges = self.answering().next().is_some();
        let missing: Vec<String> = self.refusals.iter().map(in_short).collect();
        let estimate = promotion::estimate_for(self.inventory, to);
        let complete = estimate.as_ref().is_some_and(|estimate| !loss::possible(estimate));
        let shipped = self.streams() && self.writer().is_some();
        let loss = match estimate {
            _ if complete || shipped => PredictedLoss::Nothing,
            Some(estimate) => PredictedLoss::AtMost(estimate),
            None => PredictedLoss::Unknown,
        };
        let us_max = self.measured.promotion_us;
        let basis = match us_max {
            Some(_) => "the longest promotion so far, without the fencing before it",
            None => "no promotion has been measured here",
        };
        let stopped = self.view.record().and_then(|r| r.fence.as_ref()?.ack.as_ref()).is_some();
        let next = if acknowledges && !stopped {
            format!("federator fence {from}, then federator promote {to}")
        } else {
            format!("federator promote {to}")
        };
        Way {
            kind: WayKind::FenceAndPromote,
            loss,
            time: PredictedTime { us_max, basis: basis.into() },
            missing,
            next,
        }
    }
}

/// A refusal as something that is missing.
fn in_short(refusal: &Refusal) -> String {
    if let Refusal::NoEvidence { lacking, .. } = refusal {
        return format!("evidence that is missing: {}", lacking.join("; or "));
    }
    refusal.to_string()
}

#[cfg(test)]
#[path = "ways_tests.rs"]
mod tests;
