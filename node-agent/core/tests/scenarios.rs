//! Goal: every rule of the agent decides as its scenario says, and each rule has one.
//!
//! Method: each file of `tests/scenarios/` holds scenarios: comment lines of why, `scenario: NAME`,
//! lines `key: value` that change a healthy cluster (see `support/healthy.rs`), then `=>` with the
//! decision in full. `REWRITE=1` writes the decisions that are made in place of those expected.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test ends where a fact is missing")]

mod support;

use node_agent_core::rule::Rule;
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use support::{apply, healthy, render};

/// One scenario: its facts as they stand in the file, and what is decided.
struct Scenario {
    name: String,
    /// Everything before the decision, comments included.
    head: Vec<String>,
    expected: Vec<String>,
    line: usize,
}

fn read(path: &Path) -> Vec<Scenario> {
    let text = std::fs::read_to_string(path).expect("a scenario file is readable");
    let mut scenarios = Vec::new();
    let (mut head, mut expected, mut name, mut start) = (Vec::new(), Vec::new(), String::new(), 1);
    for (number, line) in text.lines().enumerate().chain([(usize::MAX, "")]) {
        let decided = line.starts_with("=>") || (!expected.is_empty() && line.starts_with("   "));
        if decided {
            expected.push(line.to_owned());
            continue;
        }
        let over = line.is_empty() && !name.is_empty();
        if over || !expected.is_empty() || number == usize::MAX {
            scenarios.push(Scenario { name, head, expected, line: start });
            (head, expected, name, start) = (Vec::new(), Vec::new(), String::new(), number);
        }
        if let Some(text) = line.strip_prefix("scenario:") {
            name = text.trim().to_owned();
        }
        head.push(line.trim_end().to_owned());
    }
    scenarios.retain(|s| s.head.iter().any(|l| !l.is_empty()) || !s.expected.is_empty());
    scenarios
}

fn decide(path: &Path, scenario: &Scenario) -> (Rule, Vec<String>) {
    let place = format!("{}, \"{}\" (line {})", path.display(), scenario.name, scenario.line + 1);
    assert!(!scenario.name.is_empty(), "{place}: no \"scenario: NAME\"");
    let comments = scenario.head.iter().filter(|l| l.starts_with('#')).count();
    assert!(comments > 0, "{place}: say why in a comment");
    let mut observed = healthy::cluster();
    for line in &scenario.head {
        if line.is_empty() || line.starts_with('#') || line.starts_with("scenario:") {
            continue;
        }
        let (key, value) = line.split_once(": ").unwrap_or((line, ""));
        if let Err(why) = apply(&mut observed, key.trim(), value.trim()) {
            panic!("{place}: {line}: {why}");
        }
    }
    let decision = node_agent_core::decide(&observed);
    assert_eq!(decision, node_agent_core::decide(&observed), "{place}: not deterministic");
    (decision.rule, render::decision(&decision))
}

fn files() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scenarios");
    let entries = std::fs::read_dir(folder).expect("the folder of scenarios is there");
    let mut files: Vec<PathBuf> = entries.map(|e| e.expect("an entry").path()).collect();
    files.retain(|f| f.extension().is_some_and(|e| e == "txt"));
    files.sort();
    files
}

#[test]
fn every_scenario_decides_as_written_and_every_rule_has_one() {
    let rewrite = std::env::var_os("REWRITE").is_some();
    let (mut reached, mut wrong) = (BTreeSet::new(), String::new());
    let mut names = BTreeSet::new();
    for path in files() {
        let mut rewritten = String::new();
        for scenario in read(&path) {
            let (rule, got) = decide(&path, &scenario);
            reached.insert(rule);
            let file = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            assert!(
                names.insert((file.clone(), scenario.name.clone())),
                "twice: {}",
                scenario.name
            );
            if got != scenario.expected {
                let (want, got) = (scenario.expected.join("\n"), got.join("\n"));
                let _ =
                    writeln!(wrong, "{file}: {}\nexpected\n{want}\ngot\n{got}\n", scenario.name);
            }
            for line in scenario.head.iter().chain(&got) {
                let _ = writeln!(rewritten, "{line}");
            }
        }
        if rewrite {
            std::fs::write(&path, rewritten).expect("the scenario file is writable");
        }
    }
    assert!(rewrite || wrong.is_empty(), "{wrong}REWRITE=1 accepts what was decided");
    let missing: Vec<&str> = Rule::all().filter(|r| !reached.contains(r)).map(Rule::name).collect();
    assert!(missing.is_empty(), "rules without a scenario: {}", missing.join(", "));
}

#[test]
fn a_scenario_with_an_unknown_word_is_an_error() {
    for (key, value) in [
        ("ledaer", "pg1"),
        ("postgres", "running primary tl=1 lns=0/1"),
        ("record", "epoch 1 primary dc1 fenced"),
        ("me", "pg1 nofialover"),
        ("source", "pg2 1 asked"),
        ("config", r#"{"ttl":"soon"}"#),
    ] {
        assert!(apply(&mut healthy::cluster(), key, value).is_err(), "{key}: {value} was read");
    }
}
