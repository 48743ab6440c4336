//! Goal: `judge` says "in history" exactly when the local WAL is a part of the source's, whatever
//! numbers the timelines have and wherever they were begun.
//!
//! Method: a random tree of timelines, each branching off another at a random position; two nodes
//! at random places on it. What a node has is written out as ranges of (timeline, from, to), and
//! being a part is judged on those.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test ends where a fact is missing")]

use node_agent_core::beginning::{Beginning, Beginnings, Past};
use node_agent_core::divergence::{OwnEnd, Verdict, judge};
use node_agent_wire::history::{Ancestor, TimelineHistory};
use node_agent_wire::{Lsn, TimelineId};
use proptest::prelude::*;

/// A branch of the tree. Its number may repeat elsewhere: two datacenters can both make "2".
#[derive(Clone, Debug)]
struct Branch {
    number: u32,
    parent: Option<usize>,
    begins: u64,
}

/// The pieces of WAL from the root to a place: (branch, to), each from where the one before ended.
fn pieces(tree: &[Branch], branch: usize, end: u64) -> Vec<(usize, u64)> {
    let mut pieces = vec![(branch, end)];
    let mut at = branch;
    while let Some(parent) = tree[at].parent {
        pieces.push((parent, tree[at].begins));
        at = parent;
    }
    pieces.reverse();
    pieces
}

fn history(tree: &[Branch], branch: usize) -> TimelineHistory {
    let mut ancestors: Vec<Ancestor> = pieces(tree, branch, 0)
        .iter()
        .map(|(b, to)| Ancestor { timeline: TimelineId(tree[*b].number), ended_at: Lsn(*to) })
        .collect();
    ancestors.pop();
    TimelineHistory { timeline: TimelineId(tree[branch].number), ancestors }
}

/// The first record of a branch is its own, whatever its number.
fn beginnings(tree: &[Branch], branch: usize) -> Beginnings {
    let later = pieces(tree, branch, 0).into_iter().skip(1);
    let begun = later.map(|(b, _)| {
        let begun = Beginning { at: Lsn(tree[b].begins), record: b.to_string() };
        (TimelineId(tree[b].number), begun)
    });
    begun.collect()
}

/// Every byte of `mine` is the same byte in `theirs`, where the last piece of theirs has no end.
fn part_of(mine: &[(usize, u64)], theirs: &[(usize, u64)]) -> bool {
    mine.iter().enumerate().all(|(i, (branch, to))| {
        let Some((their_branch, their_to)) = theirs.get(i) else { return false };
        let last_of_theirs = i + 1 == theirs.len();
        let last_of_mine = i + 1 == mine.len();
        branch == their_branch
            && (last_of_theirs || to == their_to || (last_of_mine && to <= their_to))
    })
}

/// A tree: each entry picks a parent, a position on it, and whether to reuse a sibling's number.
fn tree() -> impl Strategy<Value = Vec<Branch>> {
    prop::collection::vec((any::<prop::sample::Index>(), 1_u64..8, any::<bool>()), 0..6).prop_map(
        |picks| {
            let mut tree = vec![Branch { number: 1, parent: None, begins: 0 }];
            for (parent, step, reuse) in picks {
                let parent = parent.index(tree.len());
                let begins = tree[parent].begins + step * 10;
                // PostgreSQL takes the next number that it does not know: never one of its own
                // past, but perhaps one that another node has taken for another branch.
                let number = if reuse {
                    tree[parent].number + 1
                } else {
                    tree.iter().map(|b| b.number).max().unwrap_or(1) + 1
                };
                // Perhaps at the same position as a sibling of the same number.
                tree.push(Branch { number, parent: Some(parent), begins });
            }
            tree
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: ProptestConfig::default().cases.max(4_000),
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn in_history_means_being_a_part(
        tree in tree(),
        mine in any::<prop::sample::Index>(),
        theirs in any::<prop::sample::Index>(),
        beyond in 0_u64..60,
        exact in prop::bool::weighted(0.8),
    ) {
        let (mine, theirs) = (mine.index(tree.len()), theirs.index(tree.len()));
        let lsn = tree[mine].begins + beyond;
        let own = OwnEnd { timeline: TimelineId(tree[mine].number), lsn: Lsn(lsn), exact };
        let (my_history, my_beginnings) = (history(&tree, mine), beginnings(&tree, mine));
        let (their_history, their_beginnings) = (history(&tree, theirs), beginnings(&tree, theirs));
        let verdict = judge(
            own,
            Past { history: &my_history, beginnings: &my_beginnings },
            Past { history: &their_history, beginnings: &their_beginnings },
            None,
        );
        let part = part_of(&pieces(&tree, mine, lsn), &pieces(&tree, theirs, u64::MAX));
        match verdict {
            // Of a timeline that it has nothing of, it has the same as anybody.
            Verdict::InHistory => {
                let mut has = pieces(&tree, mine, lsn);
                has.truncate(has.len() - usize::from(beyond == 0 && has.len() > 1));
                prop_assert!(exact && part_of(&has, &pieces(&tree, theirs, u64::MAX)));
            }
            Verdict::CanNotTell => prop_assert!(!exact && mine == theirs),
            Verdict::Unproven { .. } => prop_assert!(false, "every beginning is known"),
            Verdict::Diverged { timeline, fork }
            | Verdict::BegunTwice { parent: timeline, fork, .. } => {
                prop_assert!(!part || !exact, "a part of it is called diverged");
                // What it calls common is.
                let common = pieces(&tree, mine, lsn);
                let at = common.iter().position(|(b, _)| tree[*b].number == timeline.0).unwrap();
                let mut kept = common[..=at].to_vec();
                kept[at].1 = kept[at].1.min(fork.0);
                prop_assert!(
                    part_of(&kept, &pieces(&tree, theirs, u64::MAX)),
                    "{fork} on {timeline} is not common"
                );
            }
        }
    }
}
