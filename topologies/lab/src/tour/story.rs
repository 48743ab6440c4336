//! The story that `lab tour` tells: chapters, the commands in them, and what is expected of each.
//! Pure.
//!
//! Every command line of the federator that a newcomer sees is written here and nowhere else.

use node_agent_wire::DcName;

use crate::name::LabName;

/// How a command of the federator must end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expect {
    /// With exit code 0.
    Done,
    /// With the exit code of a refusal.
    Refused,
}

/// One thing that happens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Act {
    /// A command of the federator, without `-f FILE`.
    Federator {
        /// Its arguments.
        args: Vec<String>,
        /// How it must end.
        expect: Expect,
    },
    /// A new phase of the ledger begins.
    Phase(String),
    /// The writer goes on until so many further rows are acknowledged.
    Rows(u64),
    /// Waits until a datacenter has a leader and all its nodes are in service. On a busy machine a
    /// datacenter can be without one for a moment, and a promotion is refused then.
    Ready(DcName),
    /// All processes of a datacenter are killed.
    KillDc(DcName),
    /// A datacenter comes back with its old data.
    StartDc(DcName),
}

/// A few acts under a heading.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chapter {
    /// The heading.
    pub title: String,
    /// What to look for.
    pub note: String,
    /// What happens.
    pub acts: Vec<Act>,
}

/// Rows between two events: enough to see that service goes on.
const ROWS: u64 = 200;

/// The phase in which rows may be lost: the operator accepts that by the attestation.
#[must_use]
pub fn phase_of_loss(home: &DcName) -> String {
    format!("loss of {home}")
}

/// What happens before the writer starts: `away` becomes the standby of `home`.
#[must_use]
pub fn opening(home: &DcName, away: &DcName) -> Chapter {
    Chapter {
        title: format!("{away} becomes the standby of {home}"),
        note:
            "The checklist comes first; then record, slots, standby cluster, and a wait until it \
               streams."
                .to_owned(),
        acts: vec![done(&["setup", "--yes"])],
    }
}

/// The chapters that are told while the writer writes.
#[must_use]
pub fn chapters(federation: &LabName, home: &DcName, away: &DcName) -> Vec<Chapter> {
    let (home, away) = (home.as_str(), away.as_str());
    let mut chapters = vec![status_chapter(home, away)];
    chapters.extend([switchover_chapter(home, away), switchover_chapter(away, home)]);
    chapters.extend(disaster_chapters(federation.as_str(), home, away));
    chapters
}

fn status_chapter(home: &str, away: &str) -> Chapter {
    Chapter {
        title: "A federation at work".to_owned(),
        note: format!("{home} accepts writes, {away} follows; a writer inserts rows all the time."),
        acts: vec![Act::Rows(ROWS), done(&["status"])],
    }
}

fn switchover_chapter(from: &str, to: &str) -> Chapter {
    Chapter {
        title: format!("Planned switchover to {to}"),
        note: format!("{from} stops cleanly, {to} has every byte of it, then {to} is promoted."),
        acts: vec![
            Act::Phase(format!("switchover to {to}")),
            Act::Rows(ROWS),
            done(&["switchover", "--to", to, "--yes"]),
            Act::Rows(ROWS),
            done(&["status"]),
        ],
    }
}

fn disaster_chapters(federation: &str, home: &str, away: &str) -> [Chapter; 4] {
    let reason = format!("{home} has no power, its building was visited");
    [
        Chapter {
            title: format!("{home} is lost"),
            note: format!(
                "All its processes are killed. Without evidence that {home} is down, {away} is \
                 not promoted."
            ),
            acts: vec![
                Act::Phase(phase_of_loss(&DcName::new(home))),
                Act::Rows(ROWS),
                Act::Ready(DcName::new(away)),
                Act::KillDc(DcName::new(home)),
                done(&["status"]),
                Act::Federator {
                    args: words(&["promote", away, "--yes"]),
                    expect: Expect::Refused,
                },
            ],
        },
        Chapter {
            title: format!("{away} is promoted on an operator's word"),
            note: "The expected loss is shown first: bytes, seconds, and how old the knowledge is."
                .to_owned(),
            acts: vec![
                Act::Ready(DcName::new(away)),
                Act::Phase(format!("promotion of {away}")),
                done(&[
                    "promote",
                    away,
                    "--attest",
                    &reason,
                    "--by",
                    "newcomer",
                    "--confirm",
                    federation,
                ]),
                Act::Rows(ROWS),
                done(&["status"]),
            ],
        },
        Chapter {
            title: format!("{home} comes back"),
            note: "It still believes to be primary, and must never accept a write again."
                .to_owned(),
            acts: vec![
                Act::Phase(format!("return of {home}")),
                Act::StartDc(DcName::new(home)),
                Act::Rows(ROWS),
                done(&["status"]),
            ],
        },
        Chapter {
            title: format!("{home} rejoins as standby"),
            note: "What it has and nobody else has is reported before it is discarded.".to_owned(),
            acts: vec![
                Act::Phase(format!("rejoin of {home}")),
                done(&["rejoin", home, "--yes"]),
                Act::Rows(ROWS),
                done(&["status"]),
            ],
        },
    ]
}

fn done(args: &[&str]) -> Act {
    Act::Federator { args: words(args), expect: Expect::Done }
}

fn words(args: &[&str]) -> Vec<String> {
    args.iter().map(|&word| word.to_owned()).collect()
}

/// A command as a person would type it.
#[must_use]
pub fn typed(program: &str, args: &[String]) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,".contains(c);
    let quote = |word: &String| {
        if !word.is_empty() && word.chars().all(plain) {
            word.clone()
        } else {
            format!("'{}'", word.replace('\'', "'\\''"))
        }
    };
    let args: Vec<String> = args.iter().map(quote).collect();
    format!("{program} {}", args.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn commands(chapters: &[Chapter]) -> Vec<(String, Expect)> {
        let acts = chapters.iter().flat_map(|chapter| &chapter.acts);
        let federator = acts.filter_map(|act| match act {
            Act::Federator { args, expect } => Some((typed("federator", args), *expect)),
            Act::Phase(_) | Act::Rows(_) | Act::Ready(_) | Act::KillDc(_) | Act::StartDc(_) => None,
        });
        federator.filter(|(line, _)| line != "federator status").collect()
    }

    #[test]
    fn the_story_goes_there_and_back_through_a_disaster() {
        let (home, away) = (DcName::new("east"), DcName::new("west"));
        let federation = LabName::new("shop").unwrap();
        let mut told = vec![opening(&home, &away)];
        told.extend(chapters(&federation, &home, &away));
        let wanted = [
            ("federator setup --yes", Expect::Done),
            ("federator switchover --to west --yes", Expect::Done),
            ("federator switchover --to east --yes", Expect::Done),
            ("federator promote west --yes", Expect::Refused),
            (
                "federator promote west --attest 'east has no power, its building was visited' \
                 --by newcomer --confirm shop",
                Expect::Done,
            ),
            ("federator rejoin east --yes", Expect::Done),
        ];
        assert_eq!(commands(&told), wanted.map(|(line, expect)| (line.to_owned(), expect)));
        let kill = told.iter().position(|c| c.acts.contains(&Act::KillDc(home.clone()))).unwrap();
        let start = told.iter().position(|c| c.acts.contains(&Act::StartDc(home.clone()))).unwrap();
        assert!(kill < start);
        assert!(told[kill].acts.contains(&Act::Phase(phase_of_loss(&home))));
    }

    #[test]
    fn commands_can_be_pasted_into_a_shell() {
        let args = words(&["a", "it's", "", "x=1"]);
        assert_eq!(typed("p", &args), "p a 'it'\\''s' '' x=1");
    }
}
