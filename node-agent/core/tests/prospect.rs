//! Goal: what a node says that a rejoin would do to it is what it then does.
//! Method: a standby leader in every state of its data directory is asked, and decides while a
//! rejoin is open; both are compared with the table, and so with each other.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test ends where a fact is missing")]

mod support;

use node_agent_core::decide;
use node_agent_core::decision::{Act, Tend};
use node_agent_core::observed::Observed;
use node_agent_core::prospect::{Fate, Prospect, prospect};
use node_agent_wire::{Lsn, TimelineId};
use support::{apply, healthy};

const REWIND: &str = r#"config: {"standby_cluster": {"host": "10.9.0.1"},
    "postgresql": {"use_pg_rewind": true}}"#;
const NO_REWIND: &str = r#"config: {"standby_cluster": {"host": "10.9.0.1"}}"#;
const FORK: (TimelineId, Lsn) = (TimelineId(1), Lsn(0x300_0000));

fn observed(words: &[&str]) -> Observed {
    let mut observed = healthy::cluster();
    for line in ["record: epoch 2 primary dc2 rejoin", "following: nobody"].iter().chain(words) {
        let (key, value) = line.split_once(": ").unwrap();
        apply(&mut observed, key, value).unwrap_or_else(|why| panic!("{line}: {why}"));
    }
    observed
}

fn asked(observed: &Observed) -> Prospect {
    prospect(observed, observed.source.as_ref().expect("a source"))
}

/// What the decision does with the data directory.
fn done(observed: &Observed) -> &'static str {
    let decision = decide(observed);
    let follows = |tend: &Tend| matches!(tend, Tend::Follow(_) | Tend::StartStandby(_));
    match decision.act {
        Some(Act::Rewind { .. }) => "rewind",
        Some(Act::Reinit(_) | Act::Clone(_)) => "copy",
        Some(other) => panic!("{other:?}"),
        None if decision.tend.iter().any(follows) => "follow",
        None => "operator",
    }
}

#[test]
fn what_is_said_is_what_is_done() {
    let (lost, rewind) =
        (Fate::Copy { lost: Some(FORK) }, Fate::Rewind { timeline: FORK.0, fork: FORK.1 });
    let copy = Fate::Copy { lost: None };
    let table: [(&str, &[&str], Fate, &str); 10] = [
        (
            "nothing of its own",
            &[REWIND, "postgres: running standby", "source: remote 2:1@0/3000000"],
            Fate::Follow,
            "all of it up to 0/3000000",
        ),
        (
            "rows of its own",
            &[REWIND, "postgres: running standby lsn=0/3000060", "source: remote 2:1@0/3000000"],
            rewind,
            "96 bytes beyond 0/3000000 on timeline 1 are its own",
        ),
        (
            "pg_rewind is off",
            &[NO_REWIND, "postgres: running standby lsn=0/3000060", "source: remote 2:1@0/3000000"],
            lost,
            "use_pg_rewind is off",
        ),
        (
            "no checksums",
            &[
                REWIND,
                "postgres: stopped shut_down checkpoint=0/3000060 norewind",
                "source: remote 2:1@0/3000000",
            ],
            lost,
            "data checksums or wal_log_hints",
        ),
        (
            "one number twice",
            &[
                REWIND,
                "postgres: stopped shut_down tl=2 checkpoint=0/3000060",
                "own history: 2:1@0/3000000",
                "source: remote 2:1@0/3000000 twice=2",
            ],
            lost,
            "both began timeline 2 there",
        ),
        (
            "pg_rewind failed",
            &[
                REWIND,
                "directory: failed",
                "postgres: running standby lsn=0/3000060",
                "source: remote 2:1@0/3000000",
            ],
            lost,
            "pg_rewind failed",
        ),
        (
            "the WAL is gone",
            &[REWIND, "postgres: running standby starved", "source: remote 1 since=0/4000000"],
            copy,
            "no more WAL from 0/3000000 on",
        ),
        ("empty", &[REWIND, "postgres: no data", "source: remote 1"], copy, "no data directory"),
        (
            "not a database",
            &[REWIND, "postgres: unreadable no PG_VERSION", "source: remote 1"],
            Fate::Operator,
            "patronictl reinit",
        ),
        (
            "nobody can tell",
            &[
                REWIND,
                "postgres: stopped shut_down tl=2 checkpoint=0/3000060",
                "own history: 2:1@0/3000000",
                "source: remote 2:1@0/3000000 unknown",
            ],
            Fate::Operator,
            "nobody can tell whether timeline 2",
        ),
    ];
    for (name, words, fate, why) in table {
        let mut observed = observed(words);
        let said = asked(&observed);
        assert_eq!(said.fate, fate, "{name}: {}", said.why);
        assert!(said.why.contains(why), "{name}: {}", said.why);
        if name == "not a database" {
            // The leader gives its key away first, so that another member can lead.
            observed.lease.held_until = None;
            healthy::dcs(&mut observed).leader = Some("pg2".into());
        }
        // It starts read-only meanwhile, following nobody.
        let expected = if name == "nobody can tell" { "follow" } else { fate.name() };
        assert_eq!(done(&observed), expected, "{name}");
    }
}

#[test]
fn what_can_not_be_told_is_said_so() {
    for (name, words) in [
        ("silence", &["postgres: running standby", "source: remote silent connection refused"][..]),
        ("busy", &["postgres: running standby", "source: remote 1", "job: rewind 3s"]),
        ("hung", &["postgres: unresponsive", "source: remote 1"]),
        ("crashed", &["postgres: stopped in_production", "source: remote 1"]),
        ("starting", &["postgres: starting primary 3s in_production", "source: remote 1"]),
    ] {
        let said = asked(&observed(words));
        assert_eq!(said.fate, Fate::Unknown, "{name}: {}", said.why);
        assert!(!said.why.is_empty());
    }
}

#[test]
fn without_a_checkpoint_before_the_fork_it_is_copied() {
    let words = [REWIND, "postgres: running standby lsn=0/3000060", "source: remote 2:1@0/3000000"];
    let said = asked(&observed(&words));
    let archived = said.clone().without_wal_before_the_fork(true);
    assert_eq!(archived, said, "the archive may have it");
    let gone = said.without_wal_before_the_fork(false);
    assert_eq!(gone.fate, Fate::Copy { lost: Some(FORK) });
    assert!(gone.why.contains("whose WAL is gone here"), "{}", gone.why);
}
