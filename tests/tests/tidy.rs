//! Goal: what the house rules promise about the files stays true: size of files, purity of the
//! cores, nothing unfinished, documents that agree with the programs and with each other.
//! Method: every file of the repository is read; the dependencies are those that cargo resolves.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use federator_tests::command;
use federator_tests::programs::{self, repository};
use federator_tests::repository::texts;

const LINES_MAX: usize = 500;
const COLUMNS_MAX: usize = 100;
const CORES: [&str; 2] = ["node-agent/core", "federator/core"];
const COMMAND_LIMIT: Duration = Duration::from_secs(120);

/// What may stand at the top besides hidden files: the rooms, and what tools expect there.
const TOP: [&str; 13] = [
    "node-agent",
    "federator",
    "topologies",
    "docs",
    "tests",
    "target",
    "Cargo.toml",
    "Cargo.lock",
    "README.md",
    "clippy.toml",
    "rustfmt.toml",
    "deny.toml",
    "rust-toolchain.toml",
];
const TOP_HIDDEN: [&str; 6] = [".cargo", ".ci", ".config", ".git", ".gitattributes", ".gitignore"];

/// Crates that reach outside the process.
const IO_CRATES: [&str; 12] = [
    "axum",
    "etcd-client",
    "h2",
    "hyper",
    "mio",
    "reqwest",
    "rustix",
    "rustls",
    "socket2",
    "tokio",
    "tokio-postgres",
    "tonic",
];
/// Parts of the standard library that do.
const IO_PATHS: [&str; 9] = [
    "std::env",
    "std::fs",
    "std::io",
    "std::net",
    "std::os",
    "std::process",
    "std::thread",
    "Instant",
    "SystemTime",
];

fn sources() -> Vec<(PathBuf, String)> {
    let sources = texts(repository(), "rs");
    assert!(sources.len() > 100, "only {} source files were found", sources.len());
    sources
}

#[test]
fn files_and_lines_are_short() {
    let mut faults = Vec::new();
    for (path, text) in sources() {
        let lines = text.lines().count();
        if lines > LINES_MAX {
            faults.push(format!("{}: {lines} lines", path.display()));
        }
        let long = text.lines().zip(1..).filter(|(line, _)| line.chars().count() > COLUMNS_MAX);
        faults.extend(long.map(|(_, number)| format!("{}:{number} is too long", path.display())));
    }
    assert!(faults.is_empty(), "{faults:#?}");
}

#[test]
fn nothing_is_unfinished() {
    // Taken apart, so that this file does not contain them.
    let words = [["todo", "!("], ["unimplemented", "!("], ["dbg", "!("], ["#[igno", "re"]];
    let words = words.map(|parts| parts.concat());
    let mut faults = Vec::new();
    for (path, text) in sources() {
        let found = words.iter().filter(|word| text.contains(word.as_str()));
        faults.extend(found.map(|word| format!("{}: {word}", path.display())));
    }
    assert!(faults.is_empty(), "{faults:#?}");
}

#[test]
fn every_module_says_what_it_is() {
    let without = sources().into_iter().filter(|(_, text)| !text.starts_with("//! "));
    // Included by a module that says it for them.
    let named = |path: &Path| {
        let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        stem.ends_with("_tests") || stem == "tests" || stem == "build"
    };
    let faults: Vec<_> = without.map(|(path, _)| path).filter(|path| !named(path)).collect();
    assert!(faults.is_empty(), "no module documentation: {faults:#?}");
}

#[tokio::test]
async fn the_cores_depend_on_nothing_that_does_io() {
    for package in ["node-agent-core", "federator-core"] {
        let arguments = ["tree", "--locked", "-p", package, "-e", "normal", "--prefix", "none"];
        let manifest = repository().join("Cargo.toml");
        let mut line: Vec<String> = arguments.map(str::to_owned).to_vec();
        line.extend(["--manifest-path".to_owned(), manifest.to_string_lossy().into_owned()]);
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let tree = command::run(Path::new(&cargo), &line, &[], COMMAND_LIMIT).await.expect(0);
        let names: BTreeSet<&str> =
            tree.stdout.lines().filter_map(|line| line.split(' ').next()).collect();
        assert!(names.contains(package) && names.contains("serde"), "{tree}");
        let foul: Vec<_> = IO_CRATES.iter().filter(|name| names.contains(*name)).collect();
        assert!(foul.is_empty(), "{package} depends on {foul:?}");
    }
}

#[test]
fn the_cores_touch_nothing_outside() {
    let mut faults = Vec::new();
    for core in CORES {
        let code = texts(&repository().join(core).join("src"), "rs");
        assert!(!code.is_empty(), "{core} has no sources");
        for (path, text) in code {
            for (line, number) in text.lines().zip(1..).filter(|(line, _)| !is_comment(line)) {
                let found = IO_PATHS.iter().filter(|part| has_path(line, part));
                faults.extend(found.map(|part| format!("{}:{number}: {part}", path.display())));
            }
        }
    }
    assert!(faults.is_empty(), "{faults:#?}");
}

fn is_comment(line: &str) -> bool {
    line.trim_start().starts_with("//")
}

/// Whether `part` occurs in `line` and is not just the beginning or end of a longer name.
fn has_path(line: &str, part: &str) -> bool {
    let within = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(part).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        let after = line[at + part.len()..].chars().next();
        !before.is_some_and(within) && !after.is_some_and(within)
    })
}

#[test]
fn a_path_is_not_found_in_a_longer_name() {
    for (line, found) in [
        ("use std::time::Instant;", true),
        ("let now = Instant::now();", true),
        ("let Instantly = 1;", false),
        ("fn an_Instant()", false),
        ("SystemTime", true),
    ] {
        let seen = has_path(line, "Instant") || has_path(line, "SystemTime");
        assert_eq!(seen, found, "{line}");
    }
}

#[test]
fn the_page_of_the_rules_is_the_table_of_the_rules() {
    let page = fs::read_to_string(repository().join("docs/rules.md")).unwrap();
    assert!(page == node_agent_core::rule::document(), "docs/rules.md is out of date");
}

#[test]
fn the_top_level_holds_the_rooms_and_what_tools_expect() {
    let entries = fs::read_dir(repository()).unwrap().flatten();
    let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
    let allowed = |name: &String| {
        let name = name.as_str();
        TOP.contains(&name) || TOP_HIDDEN.contains(&name) || name.starts_with("LICENSE")
    };
    let foreign: Vec<String> = names.filter(|name| !allowed(name)).collect();
    assert!(foreign.is_empty(), "at the top level: {foreign:?}");
}

fn documents() -> Vec<(PathBuf, String)> {
    let mut documents = texts(&repository().join("docs"), "md");
    for place in ["README.md", "topologies/README.md"] {
        let path = repository().join(place);
        documents.push((path.clone(), fs::read_to_string(path).unwrap()));
    }
    documents
}

/// `](target)`, outside of code.
fn links(text: &str) -> Vec<&str> {
    let mut code = false;
    let mut found = Vec::new();
    for line in text.lines() {
        code ^= line.starts_with("```");
        let targets = line.split("](").skip(1).filter_map(|rest| rest.split(')').next());
        found.extend(targets.filter(|_| !code));
    }
    found
}

/// The anchors of a page's headings, as web front ends make them.
fn anchors(text: &str) -> BTreeSet<String> {
    let headings = text.lines().filter(|line| line.starts_with('#'));
    let slug = |heading: &str| {
        let words = heading.trim_start_matches('#').trim().to_lowercase();
        let kept = words.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
        kept.map(|c| if c == ' ' { '-' } else { c }).collect()
    };
    headings.map(slug).collect()
}

#[test]
fn every_link_of_the_documents_leads_somewhere() {
    let (mut faults, mut count) = (Vec::new(), 0);
    for (page, text) in documents() {
        for link in links(&text).into_iter().filter(|link| !link.contains("://")) {
            count += 1;
            let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
            let target = page.parent().unwrap().join(file);
            let target = if file.is_empty() { page.clone() } else { target };
            let there = match anchor {
                "" => target.exists(),
                anchor => fs::read_to_string(&target).is_ok_and(|t| anchors(&t).contains(anchor)),
            };
            if !there {
                faults.push(format!("{}: {link}", page.display()));
            }
        }
    }
    assert!(faults.is_empty() && count > 10, "{count} links, dead ones: {faults:#?}");
}

#[tokio::test]
async fn the_documents_name_every_command_and_exit_code() {
    let all: String = documents().into_iter().map(|(_, text)| text).collect();
    let program = programs::directory().join("federator");
    let help = command::run(&program, &["--help"], &[], COMMAND_LIMIT).await.expect(0);
    let commands = help.stdout.lines().skip_while(|line| *line != "Commands:").skip(1);
    let commands = commands.take_while(|line| !line.is_empty());
    let commands: Vec<&str> = commands
        .filter_map(|line| line.split_whitespace().next())
        .filter(|c| *c != "help")
        .collect();
    assert!(commands.contains(&"switchover") && commands.contains(&"confirm"), "{help}");
    let missing = commands.iter().filter(|name| !all.contains(&format!("federator {name}")));
    let missing: Vec<_> = missing.collect();
    assert!(missing.is_empty(), "no document mentions federator {missing:?}");

    let (_, codes) = help.stdout.rsplit_once("Exit codes:").unwrap();
    let codes: Vec<&str> =
        codes.split([' ', '\n', ',', '.']).filter(|word| word.parse::<u8>().is_ok()).collect();
    assert_eq!(codes, ["0", "1", "2", "3", "4", "5"], "{help}");
    for code in codes {
        assert!(all.contains(&format!("\n| {code} | ")), "no table explains exit code {code}");
    }
}
