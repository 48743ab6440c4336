//! The evidence of a promotion as one document, which is signed at the commit and kept in the
//! history; and whether an entry of the history still agrees with it.

use crate::history::{ClosedOperation, Outcome};
use node_agent_wire::approval::Approval;
use node_agent_wire::federation::{Evidence, LossEstimate, Operation, OperationKind, Policies};
use node_agent_wire::{DcName, Epoch, OperationId};
use serde::{Deserialize, Serialize};

/// The document. Its fields are written in this order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Document {
    /// Of this form.
    pub version: u32,
    /// The federation.
    pub federation: String,
    /// The operation.
    pub operation: OperationId,
    /// Its kind.
    pub kind: OperationKind,
    /// Who gave the role up.
    pub from: Option<DcName>,
    /// Who got it.
    pub to: DcName,
    /// The epoch that it began.
    pub epoch: Epoch,
    /// Who did it.
    pub by: String,
    /// When it was begun, microseconds since the Unix epoch.
    pub started_at_us: i64,
    /// When it was committed, microseconds since the Unix epoch.
    pub committed_at_us: i64,
    /// The evidence policy.
    pub policy: String,
    /// All the evidence, best first.
    pub evidence: Vec<Evidence>,
    /// The loss that was shown.
    pub expected_loss: Option<LossEstimate>,
    /// Who had approved it.
    pub approvals: Vec<Approval>,
}

impl Document {
    /// Of an operation that is about to be committed.
    #[must_use]
    pub fn of(operation: &Operation, federation: &str, policies: &Policies, now_us: i64) -> Self {
        Self {
            version: 1,
            federation: federation.to_owned(),
            operation: operation.id.clone(),
            kind: operation.kind,
            from: operation.from.clone(),
            to: operation.to.clone(),
            epoch: operation.next_epoch,
            by: operation.by.clone(),
            started_at_us: operation.started_at_us,
            committed_at_us: now_us,
            policy: policies.evidence.clone(),
            evidence: operation.all_evidence().cloned().collect(),
            expected_loss: operation.expected_loss.clone(),
            approvals: operation.approvals.clone(),
        }
    }

    /// What is signed: JSON, for people to read as well.
    #[must_use]
    pub fn text(&self) -> String {
        // Strings, numbers and lists only: it has a JSON form.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// Where an entry of the history says something else; empty when it agrees.
    #[must_use]
    pub fn disagreements(&self, entry: &ClosedOperation) -> Vec<&'static str> {
        let evidence = entry.evidence.iter().chain(&entry.further_evidence);
        let pairs = [
            ("operation", self.operation == entry.id && self.kind == entry.kind),
            ("datacenters", self.from == entry.from && self.to == entry.to),
            ("epoch", self.epoch == entry.epoch),
            ("by", self.by == entry.by && self.started_at_us == entry.started_at_us),
            ("evidence", self.evidence.iter().eq(evidence)),
            ("expected loss", self.expected_loss == entry.expected_loss),
            ("approvals", self.approvals == entry.approvals),
        ];
        pairs.into_iter().filter(|(_, same)| !same).map(|(what, _)| what).collect()
    }
}

/// What is known of the signature of a document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signature {
    /// Right, by a key that is trusted.
    Trusted,
    /// Right, by a key that is not among the trusted ones.
    Stranger,
    /// Right; there is no key to compare with.
    Unjudged,
    /// Wrong.
    Wrong,
}

/// What is found of one entry of the history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finding {
    /// Signed by a trusted key, and the entry agrees.
    Good,
    /// Nothing is wrong, but it proves little, because of this.
    Weak(&'static str),
    /// Something is wrong.
    Bad(String),
}

/// Judges an entry; `signature` is that of its document, `federation` the one that it should be of.
/// `None` for what is never signed: other operations, and what was turned back.
#[must_use]
pub fn judge(
    entry: &ClosedOperation,
    signature: Option<Signature>,
    federation: &str,
) -> Option<Finding> {
    if entry.kind != OperationKind::Promotion || entry.outcome != Outcome::Done {
        return None;
    }
    let (Some(document), Some(signature)) = (&entry.document, signature) else {
        return Some(Finding::Weak("not signed"));
    };
    if signature == Signature::Wrong {
        return Some(Finding::Bad("the signature is WRONG".into()));
    }
    let read: Document = match serde_json::from_str(&document.text) {
        Ok(read) => read,
        Err(error) => return Some(Finding::Bad(format!("the document can't be read: {error}"))),
    };
    if read.federation != federation {
        return Some(Finding::Bad(format!("it belongs to the federation {}", read.federation)));
    }
    let differs = read.disagreements(entry);
    if !differs.is_empty() {
        let what = format!("the entry does not agree with the document: {}", differs.join(", "));
        return Some(Finding::Bad(what));
    }
    Some(match signature {
        Signature::Trusted => Finding::Good,
        Signature::Unjudged => Finding::Weak("signed, and there is no key to compare with"),
        Signature::Stranger => Finding::Bad("signed by a key that is not trusted".into()),
        Signature::Wrong => Finding::Bad("the signature is WRONG".into()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{NOW, ack, operation};
    use node_agent_wire::approval::SignedDocument;

    fn promotion() -> Operation {
        let mut operation = operation(OperationKind::Promotion, "dc1", "dc2");
        operation.evidence = Some(Evidence::Acknowledged { ack: ack() });
        let (by, reason) = ("ann".into(), "no power".into());
        operation.further_evidence = vec![Evidence::Attested { by, reason, at_us: NOW }];
        operation.approvals = vec![Approval { by: "bob".into(), at_us: NOW, hash: "ab".into() }];
        operation
    }

    fn entry() -> ClosedOperation {
        let mut operation = promotion();
        let document = Document::of(&operation, "shop", &Policies::default(), NOW);
        operation.document = Some(SignedDocument {
            text: document.text(),
            algorithm: "ed25519".into(),
            public_key: "00".into(),
            signature: "00".into(),
        });
        ClosedOperation::new(&operation, Outcome::Done, NOW + 5, None)
    }

    #[test]
    fn an_entry_and_its_document_agree_until_one_is_changed() {
        let good = || judge(&entry(), Some(Signature::Trusted), "shop");
        assert_eq!(good(), Some(Finding::Good));
        type Change = fn(&mut ClosedOperation);
        let changes: [(&str, Change); 7] = [
            ("evidence", |e| e.further_evidence.clear()),
            ("evidence", |e| e.evidence = e.further_evidence.pop()),
            ("approvals", |e| e.approvals.clear()),
            ("by", |e| e.by = "eve".into()),
            ("epoch", |e| e.epoch = Epoch(9)),
            ("datacenters", |e| e.to = "dc9".into()),
            ("operation", |e| e.id = "op-x".into()),
        ];
        for (what, change) in changes {
            let mut changed = entry();
            change(&mut changed);
            let found = judge(&changed, Some(Signature::Trusted), "shop");
            assert!(
                matches!(&found, Some(Finding::Bad(why)) if why.contains(what)),
                "{what}: {found:?}"
            );
        }
    }

    #[test]
    fn signatures_and_their_absence() {
        let mut unsigned = entry();
        unsigned.document = None;
        assert!(matches!(judge(&unsigned, None, "shop"), Some(Finding::Weak(_))));
        let other = ClosedOperation { kind: OperationKind::Switchover, ..entry() };
        assert_eq!(judge(&other, None, "shop"), None);
        let aborted = ClosedOperation { outcome: Outcome::Aborted, ..unsigned };
        assert_eq!(judge(&aborted, None, "shop"), None);
        let bad = |found| matches!(found, Some(Finding::Bad(_)));
        assert!(bad(judge(&entry(), Some(Signature::Wrong), "shop")));
        assert!(bad(judge(&entry(), Some(Signature::Stranger), "shop")));
        assert!(bad(judge(&entry(), Some(Signature::Trusted), "another")));
        let mut garbled = entry();
        garbled.document.as_mut().unwrap().text = "{".into();
        assert!(bad(judge(&garbled, Some(Signature::Trusted), "shop")));
        let unjudged = judge(&entry(), Some(Signature::Unjudged), "shop");
        assert!(matches!(unjudged, Some(Finding::Weak(_))));
    }
}
