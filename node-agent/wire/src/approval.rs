//! A second person's word for a promotion, and the signed document of a committed one.

use serde::{Deserialize, Serialize};

/// Somebody else than who asks has agreed to exactly this promotion.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Approval {
    /// Who.
    pub by: String,
    /// When, in microseconds since the Unix epoch, by the wall clock of where it was typed.
    pub at_us: i64,
    /// SHA-256 of the proposal in its canonical form, in hexadecimal digits.
    pub hash: String,
}

impl Approval {
    /// Whether two names mean the same person: case and blanks around them do not count.
    #[must_use]
    pub fn same_person(a: &str, b: &str) -> bool {
        a.trim().to_lowercase() == b.trim().to_lowercase()
    }
}

/// How many different people other than `by` have approved, all of the same proposal.
#[must_use]
pub fn approvers(approvals: &[Approval], by: &str) -> usize {
    let Some(first) = approvals.first() else { return 0 };
    let mut names: Vec<String> = approvals
        .iter()
        .filter(|approval| approval.hash == first.hash && !approval.by.trim().is_empty())
        .filter(|approval| !Approval::same_person(&approval.by, by))
        .map(|approval| approval.by.trim().to_lowercase())
        .collect();
    names.sort();
    names.dedup();
    names.len()
}

/// A document with the signature of who committed it. It is kept as text, so that what was signed
/// is what is read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedDocument {
    /// JSON.
    pub text: String,
    /// `ed25519`.
    pub algorithm: String,
    /// In hexadecimal digits.
    pub public_key: String,
    /// Of the text's bytes, in hexadecimal digits.
    pub signature: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_other_people_count_and_each_once() {
        let approval =
            |by: &str, hash: &str| Approval { by: by.into(), at_us: 1, hash: hash.into() };
        for (list, count) in [
            (vec![], 0),
            (vec![approval("ann", "a")], 0),
            (vec![approval(" ANN ", "a")], 0),
            (vec![approval("", "a")], 0),
            (vec![approval("bob", "a")], 1),
            (vec![approval("bob", "a"), approval("Bob ", "a")], 1),
            (vec![approval("bob", "a"), approval("cid", "a")], 2),
            (vec![approval("bob", "a"), approval("cid", "b")], 1),
        ] {
            assert_eq!(approvers(&list, "ann"), count, "{list:?}");
        }
    }
}
