//! Goal: a set of evidence is what was checked, ordered and bounded, and judged by the record's
//! policy alone. Method: tables.
use super::*;
use crate::fixture::{NOW, operation};
use node_agent_wire::federation::ANY_EVIDENCE;

fn attested() -> FencingEvidence {
    FencingEvidence::attested("ann", "off", NOW).unwrap()
}

fn hook(output: &str) -> FencingEvidence {
    FencingEvidence::fenced_by_hook(Some(0), output).unwrap()
}

fn policies(formula: &str) -> Policies {
    Policies { evidence: formula.into(), ..Policies::default() }
}

#[test]
fn only_an_exit_with_0_is_a_fence() {
    for (code, words) in [(Some(1), "exited with 1"), (None, "ended by a signal")] {
        let error = FencingEvidence::fenced_by_hook(code, "off").unwrap_err();
        assert!(error.to_string().contains(words), "{error}");
    }
    assert!(matches!(hook("off").recorded(), Evidence::FencedByHook { output } if output == "off"));
}

#[test]
fn what_is_kept_of_a_fencers_output_is_bounded_and_harmless() {
    assert_eq!(tamed("  off\u{1b}[2J\nok\r\n"), "off [2J\nok");
    let long = format!("begin{}end", "ä".repeat(FENCER_OUTPUT_MAX));
    let kept = tamed(&long);
    assert!(kept.len() <= FENCER_OUTPUT_MAX && kept.ends_with("end"), "{}", kept.len());
}

#[test]
fn a_set_is_best_first_and_has_one_of_a_kind() {
    let mut set = EvidenceSet::default();
    assert_eq!(set.best(), None);
    for one in [attested(), hook("a"), hook("b")] {
        set.add(one);
    }
    assert_eq!(set.recorded(), [hook("b").recorded().clone(), attested().recorded().clone()]);
    let mut promotion = operation(OperationKind::Promotion, "dc1", "dc2");
    assert_eq!(EvidenceSet::of(&promotion), Err(EvidenceError::NoneRecorded));
    let mut recorded = set.recorded().into_iter();
    promotion.evidence = recorded.next();
    promotion.further_evidence = recorded.collect();
    assert_eq!(EvidenceSet::of(&promotion), Ok(set));
    promotion.kind = OperationKind::Switchover;
    assert!(EvidenceSet::of(&promotion).is_err(), "a switchover has only its acknowledgement");
}

#[test]
fn the_policy_judges() {
    let both = "acknowledged or (fenced-by-hook and attested)";
    let set = EvidenceSet::from(attested());
    assert_eq!(set.satisfies(&policies(ANY_EVIDENCE)), Ok(()));
    let error = set.satisfies(&policies(both)).unwrap_err().to_string();
    assert!(error.contains("(attested) is not enough: the policy is acknowledged or"), "{error}");
    let error = EvidenceSet::default().satisfies(&policies(ANY_EVIDENCE)).unwrap_err();
    assert!(error.to_string().contains("(none)"), "{error}");
    for bad in ["", "anything", "attested or true"] {
        let error = set.satisfies(&policies(bad)).unwrap_err();
        assert!(matches!(error, EvidenceError::BadPolicy { .. }), "{bad}: {error}");
    }
}

#[test]
fn the_fencer_runs_only_where_it_decides() {
    use EvidenceKind::{Acknowledged, Attested, FencedByHook};
    let both = "acknowledged or (fenced-by-hook and attested)";
    for (formula, have, needed) in [
        (ANY_EVIDENCE, &[][..], true),
        (ANY_EVIDENCE, &[Attested], false),
        (ANY_EVIDENCE, &[FencedByHook], true),
        (both, &[], false),
        (both, &[Attested], true),
        (both, &[Attested, FencedByHook], true),
        (both, &[Acknowledged, FencedByHook], false),
        ("attested", &[], false),
        ("no formula", &[], false),
    ] {
        let have: Kinds = have.iter().copied().collect();
        assert_eq!(needs_fencer(&have, &policies(formula)), needed, "{formula} {have:?}");
    }
}
