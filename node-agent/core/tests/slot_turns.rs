//! Goal: standbys that lack logical slots restart one at a time to copy them, and all of them get
//! there.
//!
//! Method: three standbys, each in passes of two steps that others come between: it decides from
//! what the member keys say, then begins to copy if it decided so and writes its own key. Every
//! order is tried.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test ends where a fact is missing")]

mod support;

use node_agent_core::decision::Tend;
use node_agent_core::observed::{Job, JobKind};
use node_agent_core::slots::logical::announces_copy;
use std::collections::{BTreeMap, BTreeSet};
use support::{apply, healthy};

const NODES: [&str; 3] = ["pg2", "pg3", "pg4"];

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Node {
    /// What its member key says.
    says: bool,
    copying: bool,
    has_slot: bool,
    /// Decided and not carried out: whether it begins, and what it writes.
    pass: Option<(bool, bool)>,
}

type World = [Node; NODES.len()];

/// What node `at` decides: whether it begins to copy, and what it says of itself.
fn decide(world: &World, at: usize) -> (bool, bool) {
    let mut observed = healthy::cluster();
    let said = |(name, node): (&&str, &Node)| {
        if node.says { format!(", {name} copies_slots") } else { format!(", {name}") }
    };
    let members: String = NODES.iter().zip(world).map(said).collect();
    let slot = if world[at].has_slot { "pg1, a logical=app/pgoutput" } else { "pg1" };
    for (key, value) in [
        ("me", NODES[at]),
        ("lease", "none"),
        (
            "config",
            r#"{"slots": {"a": {"type": "logical", "database": "app", "plugin": "pgoutput"}}}"#,
        ),
        ("members", &format!("pg1{members}")),
        ("postgres", "running standby"),
        ("following", "pg1"),
        ("source", "pg1 1 asked 60s"),
        ("slots", slot),
        ("status", "pg1 0/3000000, a 0/2000000"),
    ] {
        apply(&mut observed, key, value).unwrap();
    }
    if world[at].copying {
        observed.job = Some(Job { kind: JobKind::CopySlots, since: observed.now });
    }
    let decision = node_agent_core::decide(&observed);
    let begins = decision.tend.iter().any(|tend| matches!(tend, Tend::CopySlots { .. }));
    (begins, announces_copy(&observed))
}

/// Every world that one step leads to.
fn steps(world: &World, known: &mut BTreeMap<(World, usize), (bool, bool)>) -> Vec<World> {
    let mut next = Vec::new();
    for at in 0..NODES.len() {
        let mut after = *world;
        let node = &mut after[at];
        if let Some((begins, says)) = node.pass.take() {
            node.copying |= begins;
            node.says = says;
        } else {
            let mut facts = *world;
            facts.iter_mut().for_each(|node| node.pass = None);
            let decided = *known.entry((facts, at)).or_insert_with(|| decide(&facts, at));
            node.pass = Some(decided);
        }
        next.push(after);
        if world[at].copying && world[at].pass.is_none() {
            let mut done = *world;
            (done[at].copying, done[at].has_slot) = (false, true);
            next.push(done);
        }
    }
    next
}

#[test]
fn one_at_a_time_in_every_order() {
    let mut known = BTreeMap::new();
    let mut leads_to: BTreeMap<World, Vec<World>> = BTreeMap::new();
    let mut open = vec![World::default()];
    while let Some(world) = open.pop() {
        if leads_to.contains_key(&world) {
            continue;
        }
        let copying = world.iter().filter(|node| node.copying).count();
        assert!(copying <= 1, "two restart at once: {world:?}");
        let next = steps(&world, &mut known);
        open.extend(next.iter().copied());
        leads_to.insert(world, next);
    }
    // From everywhere there is a way to the end.
    let all = |world: &World| world.iter().all(|node| node.has_slot);
    let mut good: BTreeSet<World> = leads_to.keys().copied().filter(|world| all(world)).collect();
    assert!(!good.is_empty(), "nobody gets there");
    loop {
        let more: Vec<World> = leads_to
            .iter()
            .filter(|(world, next)| {
                !good.contains(*world) && next.iter().any(|world| good.contains(world))
            })
            .map(|(world, _)| *world)
            .collect();
        if more.is_empty() {
            break;
        }
        good.extend(more);
    }
    let stuck: Vec<&World> = leads_to.keys().filter(|world| !good.contains(*world)).collect();
    assert!(
        stuck.is_empty(),
        "{} of {} are stuck: {:?}",
        stuck.len(),
        leads_to.len(),
        stuck.first()
    );
    println!("{} states", leads_to.len());
}
