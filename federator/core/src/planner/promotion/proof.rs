//! The evidence of a promotion: what there is, what the policy asks beyond it, what to type next.

use super::Intent;
use crate::evidence::{EvidenceError, EvidenceSet, FencingEvidence, needs_fencer, policy};
use crate::formula::{EvidenceKind, Formula, Kinds, names};
use crate::grants;
use crate::guards::{Checklist, Refusal};
use crate::inventory::{DcView, Fact, Inventory};
use crate::planner::Request;
use node_agent_wire::federation::{FederationRecord, Isolation, Policies};
use node_agent_wire::{DcName, SystemId};

/// What a promotion rests on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Proof {
    /// What there is now.
    pub set: EvidenceSet,
    /// The fencer is run before the commit, and completes it.
    pub fencer: bool,
    /// The site grants are acquired before the commit.
    pub grants: bool,
}

/// What was found of one kind of evidence, for the refusal.
struct Look {
    there: EvidenceSet,
    /// One line for each kind that is not there.
    absent: Vec<String>,
}

/// The acknowledgement in the former primary's record.
pub(super) fn acknowledged(
    inventory: &Inventory,
    from: &DcName,
    to: &DcName,
) -> Result<FencingEvidence, EvidenceError> {
    let former = inventory
        .view(from)
        .and_then(DcView::record)
        .ok_or_else(|| EvidenceError::NotAcknowledged(from.to_string()))?;
    let target = inventory.view(to);
    let system: Option<&SystemId> = target.and_then(|v| v.initialize.as_ref());
    FencingEvidence::acknowledged(former, None, system)
}

/// All the evidence there is, judged by the policy in the target's record; or the refusal, with
/// everything that is missing.
pub(super) fn gather(
    list: &mut Checklist,
    inventory: &Inventory,
    (from, to): (&DcName, &DcName),
    (intent, request): (&Intent, &Request),
    record: &FederationRecord,
) -> Option<Proof> {
    let formula = match policy(&record.policies) {
        Ok(formula) => formula,
        Err(error) => {
            let (dc, why) = (to.clone(), error.to_string());
            list.refuse("policy", Refusal::BadPolicy { dc, why });
            return None;
        }
    };
    show_policy(list, &formula, record, &request.policies);
    let mut look = look(list, inventory, (from, to), (intent, request), (record, &formula));
    let have = look.there.kinds();
    let grants = have.contains(&EvidenceKind::LeaseExpired);
    if formula.satisfied(&have) {
        list.ok("evidence", format!("enough: {}", names(&have, ", ")));
        if intent.fencer {
            list.warn("fencer", format!("the fencer of {from} is not run: it is not needed"));
        }
        return Some(Proof { set: look.there, fencer: false, grants });
    }
    if intent.fencer && needs_fencer(&have, &record.policies) {
        let what = format!("fenced-by-hook: the fencer of {from} is run before the commit");
        list.ok("evidence", what);
        return Some(Proof { set: look.there, fencer: true, grants });
    }
    look.absent.push(hook_words(from, intent.fencer));
    look.absent.push(format!("the policy: {formula}"));
    let lease = record.members.get(from).is_some_and(|dc| dc.isolation == Isolation::Lease);
    let rests = formula.missing(&have);
    let mut next: Vec<String> =
        rests.iter().filter_map(|rest| advice(rest, (from, to), (intent, lease))).collect();
    if next.is_empty() {
        next.push(format!("bring {from} back: its policy allows nothing that can be had now"));
    }
    let (dc, target, missing) = (from.clone(), to.clone(), look.absent);
    let lacking = rests.iter().map(|rest| names(rest, " and ")).collect();
    list.refuse("evidence", Refusal::NoEvidence { dc, target, missing, lacking, next });
    None
}

/// The policy that counts is the one in the record, on which the federation agreed while the
/// primary answered.
fn show_policy(
    list: &mut Checklist,
    formula: &Formula,
    record: &FederationRecord,
    settings: &Policies,
) {
    list.ok("policy", format!("a promotion needs {formula}"));
    if policy(settings).is_ok_and(|other| other != *formula) {
        let dc = &record.dc;
        list.warn(
            "policy",
            format!("the settings say another one; that in the record of {dc} counts"),
        );
    }
}

fn look(
    list: &mut Checklist,
    inventory: &Inventory,
    (from, to): (&DcName, &DcName),
    (intent, request): (&Intent, &Request),
    (record, formula): (&FederationRecord, &Formula),
) -> Look {
    let mut look = Look { there: EvidenceSet::default(), absent: Vec::new() };
    match acknowledged(inventory, from, to) {
        Ok(evidence) => {
            list.ok("evidence", format!("acknowledged: {from} has confirmed that it stopped"));
            look.there.add(evidence);
        }
        Err(error) => {
            let silent = match inventory.dcs.get(from) {
                Some(Fact::Unknown { .. }) => " and does not answer",
                Some(Fact::Known(_)) | None => "",
            };
            look.absent.push(format!("acknowledged: {error}{silent}"));
        }
    }
    if !formula.satisfied(&look.there.kinds()) {
        match lease_expiring(list, inventory, (from, to), record) {
            Ok(evidence) => look.there.add(evidence),
            Err(error) => look.absent.push(format!("lease-expired: {error}")),
        }
    }
    match &intent.attest {
        Some(reason) => match FencingEvidence::attested(&request.by, reason, request.now_us) {
            Ok(evidence) => {
                list.warn(
                    "evidence",
                    format!("attested by {}, the weakest kind: {}", request.by, reason.trim()),
                );
                look.there.add(evidence);
            }
            Err(error) => look.absent.push(format!("attested: {error}")),
        },
        None => {
            look.absent.push(format!("attested: nobody has stated that {from} is off (--attest)"));
        }
    }
    look
}

/// The target's leader sees the grants of the former primary run out.
fn lease_expiring(
    list: &mut Checklist,
    inventory: &Inventory,
    (from, to): (&DcName, &DcName),
    record: &FederationRecord,
) -> Result<FencingEvidence, EvidenceError> {
    let node = inventory.view(to).and_then(DcView::leader_node);
    let seen = node.and_then(|node| node.grants.as_ref());
    let evidence = FencingEvidence::lease_expiring(record, from, seen)?;
    let when = grants::countdown(to, seen);
    list.ok("evidence", format!("lease-expired: {when}; waited for before the commit"));
    Ok(evidence)
}

fn hook_words(from: &DcName, fencer: bool) -> String {
    if fencer {
        format!("fenced-by-hook: the fencer of {from} would not be enough")
    } else {
        format!("fenced-by-hook: the settings name no fencer for {from}")
    }
}

/// What to do for one set of missing kinds; `None` when it can't be had. A fencer that is
/// configured comes by itself.
fn advice(
    rest: &Kinds,
    (from, to): (&DcName, &DcName),
    (intent, lease): (&Intent, bool),
) -> Option<String> {
    let mut words: Vec<String> = Vec::new();
    for kind in rest {
        match kind {
            EvidenceKind::Acknowledged => {
                words.push(format!("when {from} answers: federator fence {from}"));
            }
            EvidenceKind::LeaseExpired if lease => {
                words.push(format!("wait until {from} has lost its site grants"));
            }
            EvidenceKind::LeaseExpired => return None,
            EvidenceKind::FencedByHook if intent.fencer => {}
            EvidenceKind::FencedByHook => {
                words.push(format!("configure datacenters.{from}.fencer"));
            }
            EvidenceKind::Attested => words.push(format!(
                "when you know that it is off or cut off: federator promote {to} --attest 'REASON'"
            )),
        }
    }
    Some(words.join(", and "))
}
