//! Why it is safe that the former primary no longer accepts writes.
//!
//! A promotion can't be planned or committed without a [`FencingEvidence`], and each constructor
//! does the checking. Best first: `acknowledged`, then an operator's word.

use node_agent_wire::SystemId;
use node_agent_wire::federation::{Evidence, FederationRecord, Operation, OperationKind};

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

    /// The evidence that was checked when a promotion was taken, for its resumption.
    ///
    /// # Errors
    /// The operation is no promotion or carries none.
    pub fn of(operation: &Operation) -> Result<Self, EvidenceError> {
        match (&operation.evidence, operation.kind) {
            (Some(evidence), OperationKind::Promotion) => Ok(Self(evidence.clone())),
            (Some(_) | None, _) => Err(EvidenceError::NoneRecorded),
        }
    }

    /// The form that is recorded.
    #[must_use]
    pub fn recorded(&self) -> &Evidence {
        &self.0
    }
}
