//! Goal: a formula means what it says, whatever its form, and none is true without evidence.
//! Method: tables, and arbitrary formulas over all sixteen sets of kinds.
use super::EvidenceKind::{Acknowledged, Attested, FencedByHook, LeaseExpired};
use super::*;
use node_agent_wire::federation::{ANY_EVIDENCE, Policies};
use proptest::prelude::*;

fn kinds(list: &[EvidenceKind]) -> Kinds {
    list.iter().copied().collect()
}

fn sets() -> Vec<Kinds> {
    let pick = |bits: usize| {
        let all = EvidenceKind::ALL.iter().enumerate();
        all.filter(|(i, _)| (bits >> i) & 1 == 1).map(|(_, kind)| *kind).collect()
    };
    (0..16).map(pick).collect()
}

#[test]
fn what_formulas_mean() {
    let mixed = "acknowledged or lease-expired or (fenced-by-hook and attested)";
    for (text, have, enough) in [
        ("attested", &[Attested][..], true),
        ("attested", &[Acknowledged], false),
        (mixed, &[Acknowledged], true),
        (mixed, &[Attested], false),
        (mixed, &[FencedByHook], false),
        (mixed, &[FencedByHook, Attested], true),
        // `and` binds tighter.
        ("acknowledged or fenced-by-hook and attested", &[FencedByHook], false),
        ("acknowledged or fenced-by-hook and attested", &[Acknowledged], true),
        ("(acknowledged or fenced-by-hook) and attested", &[Acknowledged], false),
        (" ( ( attested ) ) ", &[Attested], true),
        ("lease-expired\nand\tattested", &[LeaseExpired, Attested], true),
        (ANY_EVIDENCE, &[], false),
    ] {
        let formula = Formula::parse(text).unwrap();
        assert_eq!(formula.satisfied(&kinds(have)), enough, "{text} with {have:?}");
    }
}

#[test]
fn the_default_is_any_one_piece() {
    let formula = Formula::parse(&Policies::default().evidence).unwrap();
    for set in sets() {
        assert_eq!(formula.satisfied(&set), !set.is_empty(), "{set:?}");
    }
    assert_eq!(formula.to_string(), ANY_EVIDENCE);
}

#[test]
fn errors_say_where_and_what() {
    for (text, at, expected, found) in [
        ("", 1, "one of acknowledged, lease-expired", "the end"),
        ("   ", 4, "one of", "the end"),
        ("true", 1, "one of", "\"true\""),
        ("not attested", 1, "one of", "\"not\""),
        ("attested or", 12, "one of", "the end"),
        ("attested attested", 10, "\"and\", \"or\" or the end", "\"attested\""),
        ("(attested", 10, "\")\"", "the end"),
        ("attested)", 9, "the end", "\")\""),
        ("attested or ()", 14, "one of", "\")\""),
        ("or attested", 1, "one of", "\"or\""),
        ("attested & acknowledged", 10, "a word or a parenthesis", "'&'"),
        ("Attested", 1, "one of", "\"Attested\""),
        ("attestedor acknowledged", 1, "one of", "\"attestedor\""),
        ("ä", 1, "a word", "'ä'"),
    ] {
        let error = Formula::parse(text).unwrap_err();
        assert_eq!(error.at, at, "{text}: {error}");
        assert!(error.expected.contains(expected), "{text}: {error}");
        assert_eq!(error.found, found, "{text}: {error}");
    }
    let deep = format!("{}attested{}", "(".repeat(17), ")".repeat(17));
    assert_eq!(Formula::parse(&deep).unwrap_err().at, 17);
    let long = ["attested"; 200].join(" or ");
    assert!(Formula::parse(&long).unwrap_err().to_string().contains("at most 1000 bytes"));
}

#[test]
fn what_is_missing() {
    let formula = Formula::parse("acknowledged or (fenced-by-hook and attested)").unwrap();
    for (have, missing) in [
        (&[][..], vec![&[Acknowledged][..], &[FencedByHook, Attested]]),
        (&[Attested], vec![&[Acknowledged], &[FencedByHook]]),
        (&[LeaseExpired, FencedByHook], vec![&[Acknowledged], &[Attested]]),
        (&[FencedByHook, Attested], vec![]),
        (&[Acknowledged], vec![]),
    ] {
        let expected: Vec<Kinds> = missing.into_iter().map(kinds).collect();
        assert_eq!(formula.missing(&kinds(have)), expected, "{have:?}");
    }
}

fn any_formula() -> impl Strategy<Value = Formula> {
    let leaf = proptest::sample::select(EvidenceKind::ALL.to_vec()).prop_map(Formula::Kind);
    leaf.prop_recursive(3, 12, 3, |inner| {
        let parts = || proptest::collection::vec(inner.clone(), 2..4);
        prop_oneof![parts().prop_map(Formula::All), parts().prop_map(Formula::Any)]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]
    #[test]
    fn no_formula_is_true_without_evidence_and_more_never_hurts(formula in any_formula()) {
        prop_assert!(!formula.satisfied(&Kinds::new()));
        prop_assert!(formula.satisfied(&EvidenceKind::ALL.into()));
        for set in sets() {
            for kind in EvidenceKind::ALL {
                let mut more = set.clone();
                more.insert(kind);
                prop_assert!(!formula.satisfied(&set) || formula.satisfied(&more));
            }
        }
    }

    #[test]
    fn what_is_written_is_read_again(formula in any_formula()) {
        let text = formula.to_string();
        if text.len() <= LENGTH_MAX {
            let again = Formula::parse(&text).unwrap();
            for set in sets() {
                prop_assert_eq!(again.satisfied(&set), formula.satisfied(&set), "{}", &text);
            }
        }
    }

    #[test]
    fn the_missing_evidence_is_enough_and_nothing_less_is(formula in any_formula()) {
        for have in sets() {
            let missing = formula.missing(&have);
            prop_assert_eq!(missing.is_empty(), formula.satisfied(&have));
            for rest in missing {
                let all: Kinds = have.union(&rest).copied().collect();
                prop_assert!(formula.satisfied(&all));
                for kind in &rest {
                    let mut less = all.clone();
                    less.remove(kind);
                    prop_assert!(!formula.satisfied(&less));
                }
            }
        }
    }

    #[test]
    fn no_text_makes_it_panic_or_demand_nothing(text in "[a-z() -]{0,40}|.{0,20}") {
        if let Ok(formula) = Formula::parse(&text) {
            prop_assert!(!formula.satisfied(&Kinds::new()));
        }
    }
}
