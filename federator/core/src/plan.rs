//! The plan: an immutable document that says, step by step, what will be done and what can be
//! undone. The executor makes no choices beyond it.

use crate::change::moves_primary;
use crate::quote::Quote;
use node_agent_wire::approval::Approval;
use node_agent_wire::federation::{Evidence, LossEstimate, Operation, OperationKind, PreSync};
use node_agent_wire::{DcName, Epoch, MemberName, OperationId, Revision};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// What a step does. The names are stable: they are in journals, histories and scripts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StepKind {
    /// Creates the records, or brings their description up to date.
    Record,
    /// Brings a returned datacenter's record to the present epoch, fenced.
    Supersede,
    /// Puts the operation into the records.
    Take,
    /// Makes sure of the slots on every node of the primary datacenter.
    Slots,
    /// Makes sure of the reverse slot, and runs a checkpoint on both sides.
    Prepare,
    /// Waits until the target is close behind, and lets commits wait for it from then on.
    PreSync,
    /// Fences the primary datacenter and waits for its acknowledgement.
    Fence,
    /// Runs the fencer of the former primary.
    Fencer,
    /// Waits until the target has replayed all WAL of the former primary.
    CatchUp,
    /// Waits until the target holds a majority of the site grants at the new epoch.
    Acquire,
    /// The point of no return.
    Commit,
    /// Makes PostgreSQL of the target accept writes.
    Promote,
    /// Advances the sequences of the target.
    Sequences,
    /// Makes the other datacenters follow.
    Repoint,
    /// Fences a datacenter that is removed.
    Detach,
    /// Takes it out of the records and configurations of the others.
    Forget,
    /// Waits until its slots are gone.
    DropSlots,
    /// Waits until no node of the datacenter accepts writes.
    Demoted,
    /// Makes the datacenter a standby cluster.
    Standby,
    /// Waits until it streams.
    Stream,
    /// Streams everywhere, slots everywhere, a probe write.
    Verify,
    /// Waits for the primary's site grants, then makes isolation what the settings say.
    Isolate,
    /// Ends the operation.
    Close,
}

impl StepKind {
    /// The stable name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Record => "record",
            Self::Supersede => "supersede",
            Self::Take => "take",
            Self::Slots => "slots",
            Self::Prepare => "prepare",
            Self::PreSync => "pre-sync",
            Self::Fence => "fence",
            Self::Fencer => "fencer",
            Self::CatchUp => "catch-up",
            Self::Acquire => "acquire",
            Self::Commit => "commit",
            Self::Promote => "promote",
            Self::Sequences => "sequences",
            Self::Repoint => "repoint",
            Self::Detach => "detach",
            Self::Forget => "forget",
            Self::DropSlots => "drop-slots",
            Self::Demoted => "demoted",
            Self::Standby => "standby",
            Self::Stream => "stream",
            Self::Verify => "verify",
            Self::Isolate => "isolate",
            Self::Close => "close",
        }
    }
}

/// One step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// What it does.
    pub kind: StepKind,
    /// What must hold before.
    pub precondition: String,
    /// What it changes, in words.
    pub effect: String,
    /// How it is undone; `None` when it need not or can't be.
    pub undo: Option<String>,
    /// What is seen afterwards.
    pub after: String,
    /// Lies past the point of no return.
    pub past_commit: bool,
}

/// What the plan was made from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Parent {
    /// The revisions of the records.
    pub revisions: BTreeMap<DcName, Revision>,
    /// The epoch.
    pub epoch: Epoch,
}

/// The document.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// The id of the operation that it carries out.
    pub id: OperationId,
    /// What kind.
    pub kind: OperationKind,
    /// The datacenter that gives up the role.
    pub from: Option<DcName>,
    /// The datacenter that it is for: its record counts.
    pub to: DcName,
    /// The primary datacenter while it begins.
    pub primary: DcName,
    /// The other datacenters that follow the primary one, as far as they are to be touched.
    pub followers: BTreeSet<DcName>,
    /// The epoch that the commit begins, or the present one.
    pub next_epoch: Epoch,
    /// What it was made from.
    pub parent: Parent,
    /// Who asked for it.
    pub by: String,
    /// When it was made, microseconds since the Unix epoch.
    pub made_at_us: i64,
    /// The evidence of a promotion, best first.
    pub evidence: Vec<Evidence>,
    /// Who has approved it.
    pub approvals: Vec<Approval>,
    /// The loss that a promotion may bring.
    pub expected_loss: Option<LossEstimate>,
    /// Members whose divergent WAL is given up without a vault.
    pub waived_vaults: BTreeSet<MemberName>,
    /// What a rejoin does to each node, where the agents were asked.
    #[serde(default)]
    pub quote: Option<Quote>,
    /// The steps in order.
    pub steps: Vec<Step>,
}

/// A plan that must not be executed: a defect of a planner.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanDefect {
    /// A step occurs twice.
    #[error("the plan has the step {0} twice")]
    Twice(&'static str),
    /// The commit is missing, or there where nothing is to be committed.
    #[error("a plan of kind {0} must have {1} commit step")]
    Commit(OperationKind, &'static str),
    /// A step is on the wrong side of the commit.
    #[error("the step {0} is marked on the wrong side of the commit")]
    WrongSide(&'static str),
    /// A promotion without evidence.
    #[error("a promotion without evidence")]
    NoEvidence,
    /// It ends without closing the operation, or changes something before it is taken.
    #[error("the plan does not take the operation first and close it last")]
    NotBracketed,
    /// Two steps are in an order that is not safe.
    #[error("the step {0} must come before {1}")]
    Order(&'static str, &'static str),
}

/// Pairs that are never the other way round, where both occur.
const ORDER: [(StepKind, StepKind); 17] = [
    (StepKind::Promote, StepKind::Sequences),
    (StepKind::Detach, StepKind::Forget),
    (StepKind::Forget, StepKind::DropSlots),
    (StepKind::Take, StepKind::Fence),
    // The slots for the way back, and all else that takes its time, before writers wait longer.
    (StepKind::Take, StepKind::PreSync),
    (StepKind::Prepare, StepKind::PreSync),
    (StepKind::PreSync, StepKind::Fence),
    // The record first: whoever survives the fencer finds the fence.
    (StepKind::Fence, StepKind::Fencer),
    (StepKind::Take, StepKind::Fencer),
    (StepKind::Fencer, StepKind::Commit),
    (StepKind::Fence, StepKind::CatchUp),
    (StepKind::CatchUp, StepKind::Commit),
    (StepKind::Take, StepKind::Acquire),
    (StepKind::Acquire, StepKind::Commit),
    (StepKind::Commit, StepKind::Promote),
    (StepKind::Supersede, StepKind::Demoted),
    (StepKind::Demoted, StepKind::Standby),
];

impl Plan {
    /// The datacenters whose records hold the operation; the first one's copy counts.
    #[must_use]
    pub fn participants(&self) -> Vec<DcName> {
        let mut list = vec![self.to.clone()];
        // Who is removed is told by the step "detach", as far as it answers.
        let from = self.from.iter().filter(|_| self.kind != OperationKind::Remove);
        let others = from.chain(match self.kind {
            OperationKind::Setup | OperationKind::Rejoin => Some(&self.primary),
            OperationKind::Switchover
            | OperationKind::Promotion
            | OperationKind::Fence
            | OperationKind::Remove => None,
        });
        for dc in others.chain(match self.kind {
            OperationKind::Setup | OperationKind::Remove => {
                self.followers.iter().collect::<Vec<_>>()
            }
            OperationKind::Switchover
            | OperationKind::Promotion
            | OperationKind::Rejoin
            | OperationKind::Fence => Vec::new(),
        }) {
            if !list.contains(dc) {
                list.push(dc.clone());
            }
        }
        list
    }

    /// The datacenters that it makes standbys: new ones, or a returned one.
    #[must_use]
    pub fn new_standbys(&self) -> BTreeSet<DcName> {
        match self.kind {
            OperationKind::Setup => self.followers.clone(),
            OperationKind::Rejoin => BTreeSet::from([self.to.clone()]),
            OperationKind::Switchover
            | OperationKind::Promotion
            | OperationKind::Fence
            | OperationKind::Remove => BTreeSet::new(),
        }
    }

    /// Whether it has such a step.
    #[must_use]
    pub fn has(&self, kind: StepKind) -> bool {
        self.steps.iter().any(|step| step.kind == kind)
    }

    /// The operation as it goes into the records.
    #[must_use]
    pub fn operation(&self) -> Operation {
        let mut best_first = self.evidence.iter().cloned();
        Operation {
            evidence: best_first.next(),
            further_evidence: best_first.collect(),
            expected_loss: self.expected_loss.clone(),
            approvals: self.approvals.clone(),
            waived_vaults: self.waived_vaults.clone(),
            pre_sync: self.has(StepKind::PreSync).then(PreSync::default),
            ..Operation::new(
                self.id.clone(),
                self.kind,
                (self.from.clone(), self.to.clone()),
                self.next_epoch,
                (&self.by, self.made_at_us),
            )
        }
    }

    /// Checks the document itself.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn check(&self) -> Result<(), PlanDefect> {
        let place = |kind: StepKind| self.steps.iter().position(|s| s.kind == kind);
        let mut seen = BTreeSet::new();
        for step in &self.steps {
            if !seen.insert(step.kind) {
                return Err(PlanDefect::Twice(step.kind.name()));
            }
        }
        let commit = place(StepKind::Commit);
        match (moves_primary(self.kind), commit) {
            (true, None) => return Err(PlanDefect::Commit(self.kind, "a")),
            (false, Some(_)) => return Err(PlanDefect::Commit(self.kind, "no")),
            (true, Some(_)) | (false, None) => {}
        }
        for (index, step) in self.steps.iter().enumerate() {
            if step.past_commit != commit.is_some_and(|c| index > c) {
                return Err(PlanDefect::WrongSide(step.kind.name()));
            }
        }
        let none = self.evidence.is_empty() && place(StepKind::Fencer).is_none();
        if self.kind == OperationKind::Promotion && none {
            return Err(PlanDefect::NoEvidence);
        }
        for (first, second) in ORDER {
            if let (Some(a), Some(b)) = (place(first), place(second))
                && a > b
            {
                return Err(PlanDefect::Order(first.name(), second.name()));
            }
        }
        let before_take = place(StepKind::Take).map(|take| &self.steps[..take]);
        let quiet = before_take.is_some_and(|steps| {
            steps.iter().all(|s| matches!(s.kind, StepKind::Record | StepKind::Supersede))
        });
        let closes = self.steps.last().is_some_and(|s| s.kind == StepKind::Close);
        if quiet && closes { Ok(()) } else { Err(PlanDefect::NotBracketed) }
    }
}
