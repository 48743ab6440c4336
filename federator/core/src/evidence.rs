//! Why it is safe that the former primary no longer accepts writes.
//!
//! A promotion can't be planned or committed without a set of [`FencingEvidence`] that satisfies
//! the federation's policy, and each constructor does the checking. Best first: `acknowledged`,
//! `lease-expired`, `fenced-by-hook`, then an operator's word.

use crate::formula::{EvidenceKind, Formula, FormulaError, Kinds, names};
use crate::grants::{self, GrantsView, NotLeased};
use node_agent_wire::federation::{Evidence, FederationRecord, Operation, OperationKind, Policies};
use node_agent_wire::{DcName, SystemId};

/// The most that is kept of what a fencer says, in bytes.
pub const FENCER_OUTPUT_MAX: usize = 2000;

/// Checked evidence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FencingEvidence(Evidence);

/// Why something is no evidence.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EvidenceError {
    /// No acknowledged fence.
    #[error("{0} has not acknowledged a fence")]
    NotAcknowledged(String),
    /// The fence was for another database system.
    #[error("the acknowledged fence is of database system {found}, not {expected}")]
    OtherSystem {
        /// Of the target.
        expected: SystemId,
        /// In the acknowledgement.
        found: SystemId,
    },
    /// The reason or the name of who states it is empty.
    #[error("an attestation needs a reason and the name of who gives it")]
    Anonymous,
    /// The operation carries none.
    #[error("the operation carries no evidence")]
    NoneRecorded,
    /// The fencer did not succeed.
    #[error("the fencer {0}")]
    FencerFailed(String),
    /// The record's policy is no formula.
    #[error("the evidence policy \"{text}\" of the record can't be read: {why}")]
    BadPolicy {
        /// What stands there.
        text: String,
        /// Where it goes wrong.
        why: FormulaError,
    },
    /// Not enough for the policy.
    #[error("the evidence ({have}) is not enough: the policy is {policy}")]
    Insufficient {
        /// The names of what there is.
        have: String,
        /// The formula.
        policy: String,
    },
    /// The grants have not been acquired in this run.
    #[error("no majority of the site grants has been acquired")]
    NotAcquired,
    /// The site grants prove nothing.
    #[error(transparent)]
    Leased(#[from] NotLeased),
}

impl FencingEvidence {
    /// The former primary's own agents confirmed the demotion: `former` is its record as read now.
    /// With `operation`, only a fence of that operation counts (a planned switchover).
    ///
    /// # Errors
    /// No acknowledged fence that belongs here.
    pub fn acknowledged(
        former: &FederationRecord,
        operation: Option<&Operation>,
        system_id: Option<&SystemId>,
    ) -> Result<Self, EvidenceError> {
        let missing = || EvidenceError::NotAcknowledged(former.dc.to_string());
        let fence = former.fence.as_ref().ok_or_else(missing)?;
        let ack = fence.ack.as_ref().ok_or_else(missing)?;
        if !former.names_us() || fence.epoch <= former.epoch {
            return Err(missing());
        }
        if operation.is_some_and(|o| fence.operation.as_ref() != Some(&o.id)) {
            return Err(missing());
        }
        match system_id {
            Some(expected) if *expected != ack.system_id => Err(EvidenceError::OtherSystem {
                expected: expected.clone(),
                found: ack.system_id.clone(),
            }),
            Some(_) | None => Ok(Self(Evidence::Acknowledged { ack: ack.clone() })),
        }
    }

    /// The site grants of `from` are running out, or have: the target's leader is to take a
    /// majority of them before the commit, which needs [`Self::lease_expired`]. `seen`: what that
    /// leader sees, `record`: the target's.
    ///
    /// # Errors
    /// `from` does not write under grants, still renews them, or too few voters answer.
    pub fn lease_expiring(
        record: &FederationRecord,
        from: &DcName,
        seen: Option<&GrantsView>,
    ) -> Result<Self, EvidenceError> {
        grants::expiring(record, from, seen)?;
        Ok(Self(Evidence::LeaseExpired { voters: Vec::new() }))
    }

    /// The target's leader has acquired a majority of the grants at the new epoch, for this
    /// operation: acquiring is the proof, and final for the epoch before.
    ///
    /// # Errors
    /// `from` does not write under grants, or there is no majority (yet).
    pub fn lease_expired(
        record: &FederationRecord,
        operation: &Operation,
        held: Option<&GrantsView>,
    ) -> Result<Self, EvidenceError> {
        let voters = grants::acquired(record, operation, held)?;
        Ok(Self(Evidence::LeaseExpired { voters }))
    }

    /// An operator states it. The weakest kind.
    ///
    /// # Errors
    /// The reason or the name is empty.
    pub fn attested(by: &str, reason: &str, at_us: i64) -> Result<Self, EvidenceError> {
        let (by, reason) = (by.trim().to_owned(), reason.trim().to_owned());
        if by.is_empty() || reason.is_empty() {
            return Err(EvidenceError::Anonymous);
        }
        Ok(Self(Evidence::Attested { by, reason, at_us }))
    }

    /// The configured fencer ended: with `Some(0)` it has fenced. `output` is what it said; what is
    /// kept of it is bounded, and free of control characters.
    ///
    /// # Errors
    /// It exited with another code, or was ended by a signal.
    pub fn fenced_by_hook(exit_code: Option<i32>, output: &str) -> Result<Self, EvidenceError> {
        match exit_code {
            Some(0) => Ok(Self(Evidence::FencedByHook { output: tamed(output) })),
            Some(code) => Err(EvidenceError::FencerFailed(format!("exited with {code}"))),
            None => Err(EvidenceError::FencerFailed("was ended by a signal".into())),
        }
    }

    /// The form that is recorded.
    #[must_use]
    pub fn recorded(&self) -> &Evidence {
        &self.0
    }

    /// Its kind.
    #[must_use]
    pub fn kind(&self) -> EvidenceKind {
        EvidenceKind::of(&self.0)
    }
}

/// What a program said, for records and terminals: at most [`FENCER_OUTPUT_MAX`] bytes, the end of
/// it, because that is where errors stand. Control characters other than line breaks become blanks.
#[must_use]
pub fn tamed(output: &str) -> String {
    let tame = |c: char| if c.is_control() && c != '\n' { ' ' } else { c };
    let clean: String = output.trim().chars().map(tame).collect();
    let mut from = clean.len().saturating_sub(FENCER_OUTPUT_MAX);
    while !clean.is_char_boundary(from) {
        from += 1;
    }
    clean[from..].trim_start().to_owned()
}

/// All the evidence of one promotion: best first, at most one of a kind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EvidenceSet(Vec<FencingEvidence>);

impl EvidenceSet {
    /// The evidence that was checked when a promotion was taken or fenced, for its resumption.
    ///
    /// # Errors
    /// The operation is no promotion or carries none.
    pub fn of(operation: &Operation) -> Result<Self, EvidenceError> {
        let mut set = Self::default();
        if operation.kind == OperationKind::Promotion {
            operation.all_evidence().for_each(|one| set.add(FencingEvidence(one.clone())));
        }
        if set.0.is_empty() { Err(EvidenceError::NoneRecorded) } else { Ok(set) }
    }

    /// Adds one. Of a kind that is there, the new one is kept.
    pub fn add(&mut self, evidence: FencingEvidence) {
        self.0.retain(|there| there.kind() != evidence.kind());
        self.0.push(evidence);
        self.0.sort_by_key(FencingEvidence::kind);
    }

    /// The kinds that there are.
    #[must_use]
    pub fn kinds(&self) -> Kinds {
        self.0.iter().map(FencingEvidence::kind).collect()
    }

    /// The best one.
    #[must_use]
    pub fn best(&self) -> Option<&FencingEvidence> {
        self.0.first()
    }

    /// The form that is recorded, best first.
    #[must_use]
    pub fn recorded(&self) -> Vec<Evidence> {
        self.0.iter().map(|one| one.0.clone()).collect()
    }

    /// Whether nothing in it is an intent only: the grants have been acquired.
    ///
    /// # Errors
    /// They have not.
    pub fn complete(&self) -> Result<(), EvidenceError> {
        let intent = |one: &FencingEvidence| match &one.0 {
            Evidence::LeaseExpired { voters } => voters.is_empty(),
            Evidence::Acknowledged { .. }
            | Evidence::FencedByHook { .. }
            | Evidence::Attested { .. } => false,
        };
        if self.0.iter().any(intent) { Err(EvidenceError::NotAcquired) } else { Ok(()) }
    }

    /// Whether it is enough for the policy of a record.
    ///
    /// # Errors
    /// It is not, or the policy can't be read: then nothing is enough.
    pub fn satisfies(&self, policies: &Policies) -> Result<(), EvidenceError> {
        let formula = policy(policies)?;
        let have = self.kinds();
        match formula.satisfied(&have) {
            true => Ok(()),
            false => Err(EvidenceError::Insufficient {
                have: if have.is_empty() { "none".into() } else { names(&have, ", ") },
                policy: formula.to_string(),
            }),
        }
    }
}

impl From<FencingEvidence> for EvidenceSet {
    fn from(one: FencingEvidence) -> Self {
        Self(vec![one])
    }
}

/// The evidence policy of a record.
///
/// # Errors
/// It is no formula.
pub fn policy(policies: &Policies) -> Result<Formula, EvidenceError> {
    Formula::parse(&policies.evidence)
        .map_err(|why| EvidenceError::BadPolicy { text: policies.evidence.clone(), why })
}

/// Whether the fencer of the former primary has to be run: without `fenced-by-hook` the evidence of
/// the operation is not enough, with it it is. The same before and after it was run.
#[must_use]
pub fn needs_fencer(have: &Kinds, policies: &Policies) -> bool {
    let Ok(formula) = policy(policies) else { return false };
    let hook = EvidenceKind::FencedByHook;
    let without: Kinds = have.iter().copied().filter(|kind| *kind != hook).collect();
    let with: Kinds = without.iter().copied().chain([hook]).collect();
    !formula.satisfied(&without) && formula.satisfied(&with)
}

#[cfg(test)]
#[path = "evidence_tests.rs"]
mod tests;
