//! What a second person approves: a promotion as a document, bound by its hash.
//!
//! The document is the same in two runs as long as nothing material has changed. It holds what is
//! done, on which evidence and policy, by whom, and an upper bound of the loss. It leaves out what
//! changes by itself: ids, times, revisions, and the fence, which is always set when the DCS of the
//! former primary answers. The estimate of the loss grows by the second, so not the estimate stands
//! in it but the bound that it may not exceed.

use crate::loss::{self, MaxLoss};
use crate::plan::{Plan, StepKind};
use node_agent_wire::approval::{Approval, approvers};
use node_agent_wire::federation::{Evidence, LossEstimate, Policies};
use node_agent_wire::{DcName, Epoch};
use serde::{Deserialize, Serialize};

/// How long an approval counts, in microseconds: one hour.
pub const VALID_US: i64 = 3_600_000_000;
/// How far ahead of ours the clock of an approver may be, in microseconds: five minutes.
pub const CLOCK_US: i64 = 300_000_000;
/// How many requests are kept.
pub const REQUESTS_MAX: usize = 20;
/// The smallest bounds that are made from an estimate.
const BOUND_BYTES_MIN: u64 = 1 << 20;
const BOUND_SECONDS_MIN: u64 = 64;

/// What the loss may not exceed; `None`: nobody knows, and nobody bounds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LossBound {
    /// Bytes of WAL.
    pub bytes: Option<u64>,
    /// Seconds of transactions.
    pub seconds: Option<u64>,
}

impl LossBound {
    /// As the requester states it by `--max-loss`. What they leave open comes from the estimate.
    #[must_use]
    pub fn stated(max: MaxLoss, estimate: &LossEstimate) -> Self {
        let from_estimate = Self::around(estimate);
        let seconds = max.span_us.map(|us| u64::try_from(us).unwrap_or(0) / 1_000_000);
        Self {
            bytes: max.bytes.or(from_estimate.bytes),
            seconds: seconds.or(from_estimate.seconds),
        }
    }

    /// Twice the estimate, rounded up to a power of two: at least 1 MiB and 64 s. Nothing when
    /// nothing can be lost.
    #[must_use]
    pub fn around(estimate: &LossEstimate) -> Self {
        if !loss::possible(estimate) {
            return Self { bytes: Some(0), seconds: Some(0) };
        }
        let up =
            |value: u64| value.saturating_mul(2).checked_next_power_of_two().unwrap_or(u64::MAX);
        let seconds =
            estimate.span_us_max.map(|us| u64::try_from(us).unwrap_or(0).div_ceil(1_000_000));
        Self {
            bytes: estimate.bytes_max.map(|bytes| up(bytes).max(BOUND_BYTES_MIN)),
            seconds: seconds.map(|seconds| up(seconds).max(BOUND_SECONDS_MIN)),
        }
    }

    /// Whether the estimate stays within.
    #[must_use]
    pub fn allows(self, estimate: &LossEstimate) -> bool {
        let us =
            |seconds: u64| i64::try_from(seconds.saturating_mul(1_000_000)).unwrap_or(i64::MAX);
        MaxLoss { bytes: self.bytes, span_us: self.seconds.map(us) }.allows(estimate)
    }
}

/// One piece of evidence, without what changes by itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum ProposedEvidence {
    /// Where the former primary stopped.
    Acknowledged {
        /// `node checkpoint timeline system`.
        stopped: String,
    },
    /// A majority of the grants.
    LeaseExpired,
    /// The fencer, which is run before the commit.
    FencedByHook,
    /// An operator's word.
    Attested {
        /// Whose.
        by: String,
        /// Why they are sure.
        reason: String,
    },
}

impl ProposedEvidence {
    fn of(evidence: &Evidence) -> Self {
        match evidence {
            Evidence::Acknowledged { ack } => Self::Acknowledged {
                stopped: format!(
                    "{} {} {} {}",
                    ack.node, ack.checkpoint, ack.timeline, ack.system_id
                ),
            },
            Evidence::LeaseExpired { .. } => Self::LeaseExpired,
            Evidence::FencedByHook { .. } => Self::FencedByHook,
            Evidence::Attested { by, reason, .. } => {
                Self::Attested { by: by.clone(), reason: reason.clone() }
            }
        }
    }
}

/// The document. Its fields are written in this order: that is the canonical form.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proposal {
    /// Of this form.
    pub version: u32,
    /// The federation.
    pub federation: String,
    /// Who is given up.
    pub from: Option<DcName>,
    /// Who is promoted.
    pub to: DcName,
    /// The epoch that it begins.
    pub next_epoch: Epoch,
    /// Who asks, and will carry it out.
    pub by: String,
    /// Whether checks are overridden.
    pub force: bool,
    /// The evidence policy.
    pub policy: String,
    /// The evidence, best first.
    pub evidence: Vec<ProposedEvidence>,
    /// The steps in order, without the fence.
    pub steps: Vec<String>,
    /// What may be lost.
    pub loss: LossBound,
}

impl Proposal {
    /// Of a plan.
    #[must_use]
    pub fn of(
        plan: &Plan,
        federation: &str,
        policies: &Policies,
        (force, loss): (bool, LossBound),
    ) -> Self {
        let mut evidence: Vec<_> = plan.evidence.iter().map(ProposedEvidence::of).collect();
        let fencer = plan.steps.iter().any(|step| step.kind == StepKind::Fencer);
        if fencer && !evidence.contains(&ProposedEvidence::FencedByHook) {
            evidence.push(ProposedEvidence::FencedByHook);
        }
        let steps = plan.steps.iter().map(|step| step.kind).filter(|kind| *kind != StepKind::Fence);
        Self {
            version: 1,
            federation: federation.to_owned(),
            from: plan.from.clone(),
            to: plan.to.clone(),
            next_epoch: plan.next_epoch,
            by: plan.by.clone(),
            force,
            policy: policies.evidence.clone(),
            evidence,
            steps: steps.map(|kind| kind.name().to_owned()).collect(),
            loss,
        }
    }

    /// The canonical form: what is hashed.
    #[must_use]
    pub fn canonical(&self) -> String {
        // Strings, numbers and lists only: it has a JSON form. Should it have none, the empty text
        // is the hash of no proposal.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// What is different in `now`, in words; empty when it is the same promotion, whatever its
    /// loss.
    #[must_use]
    pub fn differences(&self, now: &Self) -> Vec<&'static str> {
        let pairs = [
            ("the federation", self.federation == now.federation && self.version == now.version),
            ("the datacenters", self.from == now.from && self.to == now.to),
            ("the epoch", self.next_epoch == now.next_epoch),
            ("who asks", self.by == now.by),
            ("--force", self.force == now.force),
            ("the policy", self.policy == now.policy),
            ("the evidence", self.evidence == now.evidence),
            ("the steps", self.steps == now.steps),
        ];
        pairs.into_iter().filter(|(_, same)| !same).map(|(what, _)| what).collect()
    }
}

/// A request as it is kept in the target's DCS, with the approvals that it has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Requested {
    /// SHA-256 of the canonical form, in hexadecimal digits.
    pub hash: String,
    /// The document.
    pub proposal: Proposal,
    /// When, microseconds since the Unix epoch.
    pub at_us: i64,
    /// Who has approved.
    #[serde(default)]
    pub approvals: Vec<Approval>,
}

/// Puts a request into the list, newest last. The same one again keeps its approvals.
#[must_use]
pub fn request(list: &[Requested], new: Requested) -> Vec<Requested> {
    let mut next = list.to_vec();
    match next.iter_mut().find(|there| there.hash == new.hash) {
        Some(there) => there.at_us = new.at_us,
        None => next.push(new),
    }
    let from = next.len().saturating_sub(REQUESTS_MAX);
    next.split_off(from)
}

/// An approval that is not accepted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ApprovalError {
    /// No such request.
    #[error("there is no request {0}")]
    Unknown(String),
    /// The beginning of a hash that fits several.
    #[error("more than one request begins with {0}")]
    Ambiguous(String),
    /// Who asks can't approve.
    #[error("{0} asks for it and can't approve it: it takes somebody else")]
    OwnRequest(String),
    /// No name.
    #[error("an approval needs the name of who gives it")]
    Anonymous,
}

/// The request that a hash, or its beginning, means.
///
/// # Errors
/// None, or several.
pub fn find<'l>(list: &'l [Requested], hash: &str) -> Result<&'l Requested, ApprovalError> {
    let unknown = || ApprovalError::Unknown(hash.to_owned());
    if hash.len() < 8 {
        return Err(unknown());
    }
    let mut fits = list.iter().filter(|there| there.hash.starts_with(hash));
    let first = fits.next().ok_or_else(unknown)?;
    if fits.next().is_some() {
        return Err(ApprovalError::Ambiguous(hash.to_owned()));
    }
    Ok(first)
}

/// Adds an approval; one of the same person is replaced.
///
/// # Errors
/// There is no such request, or that person can't approve it.
pub fn approve(
    list: &[Requested],
    hash: &str,
    by: &str,
    at_us: i64,
) -> Result<Vec<Requested>, ApprovalError> {
    let found = find(list, hash)?;
    if by.trim().is_empty() {
        return Err(ApprovalError::Anonymous);
    }
    if Approval::same_person(by, &found.proposal.by) {
        return Err(ApprovalError::OwnRequest(by.trim().to_owned()));
    }
    let (by, full) = (by.trim().to_owned(), found.hash.clone());
    let mut next = list.to_vec();
    for there in next.iter_mut().filter(|there| there.hash == full) {
        there.approvals.retain(|approval| !Approval::same_person(&approval.by, &by));
        there.approvals.push(Approval { by: by.clone(), at_us, hash: full.clone() });
    }
    Ok(next)
}

/// The approvals that count for a promotion at `now_us`; or, one line each, why none is enough.
/// `hash_of` is SHA-256 in hexadecimal digits: a stored document that is not what its hash says
/// counts for nothing.
///
/// # Errors
/// Why each request that there is does not count.
pub fn granted(
    list: &[Requested],
    now: &Proposal,
    (estimate, needed): (&LossEstimate, u32),
    now_us: i64,
    hash_of: impl Fn(&str) -> String,
) -> Result<Vec<Approval>, Vec<String>> {
    let mut why = Vec::new();
    for there in list.iter().rev() {
        let short = there.hash.get(..12).unwrap_or(&there.hash);
        let changed = there.proposal.differences(now);
        if hash_of(&there.proposal.canonical()) != there.hash {
            why.push(format!("{short}: the stored request is not what its hash says"));
        } else if !changed.is_empty() {
            why.push(format!("{short} is void: {} changed", changed.join(", ")));
        } else if !there.proposal.loss.allows(estimate) {
            why.push(format!("{short} is void: more may be lost now than it allows"));
        } else {
            let fresh = |approval: &&Approval| {
                let age = now_us.saturating_sub(approval.at_us);
                approval.hash == there.hash && (-CLOCK_US..=VALID_US).contains(&age)
            };
            let fresh: Vec<Approval> = there.approvals.iter().filter(fresh).cloned().collect();
            let have = approvers(&fresh, &now.by);
            if have >= usize::try_from(needed).unwrap_or(usize::MAX) {
                return Ok(fresh);
            }
            let old = there.approvals.len().saturating_sub(fresh.len());
            let old = if old > 0 { format!(", {old} older than an hour") } else { String::new() };
            why.push(format!("{short} has {have} of {needed} approvals{old}"));
        }
    }
    if why.is_empty() {
        why.push("nobody has asked for it".into());
    }
    Err(why)
}

#[cfg(test)]
#[path = "approval_tests.rs"]
mod tests;
