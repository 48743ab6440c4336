//! Goal: quorum mode makes the steps of the reference (behaviour 13.2, test vectors), in its order,
//! and never a step that would break the promise of `/sync`.
//!
//! Method: a table of the vectors, each carried out from a state until nothing is left to do, with
//! standbys that confirm at once; and random states, from which every step is checked against all
//! electorates that `/sync` allows, one by one.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test ends where a fact is missing")]

use node_agent_core::quorum;
use node_agent_core::sync::{self, SyncInput, SyncStep};
use node_agent_core::waits::{Form, Waits};
use node_agent_wire::MemberName;
use node_agent_wire::status::SyncState;
use proptest::prelude::*;
use std::collections::BTreeSet;

const NODES: [&str; 5] = ["b", "c", "d", "e", "f"];

fn set(names: &str) -> BTreeSet<MemberName> {
    names.split(',').filter(|n| !n.is_empty()).map(MemberName::from).collect()
}

fn list(names: &str) -> Vec<MemberName> {
    set(names).into_iter().collect()
}

fn shown(names: &BTreeSet<MemberName>) -> String {
    names.iter().map(MemberName::as_str).collect::<Vec<_>>().join(",")
}

#[derive(Clone, Debug)]
struct State {
    sync: SyncState,
    waits: Waits,
}

impl State {
    /// `1[b,c] 1[b,c]`: quorum and voters of `/sync`, number and set of PostgreSQL.
    fn read(text: &str, leader: &str) -> Self {
        let (promised, waits) = text.split_once(' ').unwrap();
        let part = |text: &str| {
            let (number, names) = text.trim_end_matches(']').split_once('[').unwrap();
            (number.parse::<u32>().unwrap(), set(names))
        };
        let ((quorum, sync_standby), (num, set)) = (part(promised), part(waits));
        let leader = Some(MemberName::from(leader));
        let num = usize::try_from(num).unwrap();
        Self { sync: SyncState { leader, sync_standby, quorum }, waits: Waits { num, set } }
    }

    fn next(&self, streaming: &[MemberName], count: usize, confirmed: &str) -> SyncStep {
        let goal = quorum::goal(streaming, &[], count, &self.sync, &self.waits);
        let names = self.waits.render(Form::Quorum, false);
        let confirmed = self.waits.set.intersection(&set(confirmed)).cloned().collect();
        sync::step(&SyncInput {
            me: &"a".into(),
            goal: &goal,
            strict: false,
            sync: &self.sync,
            names: &names,
            confirmed: &confirmed,
        })
    }

    fn take(&mut self, step: &SyncStep) -> Option<String> {
        match step {
            SyncStep::Write(sync) => {
                self.sync = sync.clone();
                Some(format!("quorum {}[{}]", sync.quorum, shown(&sync.sync_standby)))
            }
            SyncStep::Names(names) => {
                self.waits = Waits::read(names);
                Some(format!("sync {}[{}]", self.waits.num, shown(&self.waits.set)))
            }
            SyncStep::Confirming => Some("restart".to_owned()),
            SyncStep::Settled => None,
        }
    }

    /// Every step to the end, or to where a standby must catch up first.
    fn steps(mut self, streaming: &str, count: usize, confirmed: &str) -> Vec<String> {
        let streaming = list(streaming);
        let mut steps = Vec::new();
        while let Some(step) = {
            let next = self.next(&streaming, count, confirmed);
            self.take(&next)
        } {
            let waits = step == "restart";
            steps.push(step);
            assert!(steps.len() < 10, "no end: {steps:?}");
            if waits {
                break;
            }
        }
        steps
    }
}

/// One vector: its name, the state, who streams, the factor, who has confirmed, the steps.
type Vector =
    (&'static str, &'static str, &'static str, usize, &'static str, &'static [&'static str]);

#[test]
fn the_vectors_of_the_reference() {
    let all = "b,c,d";
    let vectors: [Vector; 13] = [
        ("bootstrap", "0[] 0[]", "b,c", 1, "", &["sync 1[b,c]", "restart"]),
        ("one confirmed", "0[] 1[b,c]", "b,c", 1, "b", &["quorum 1[b,c]"]),
        ("factor 1 to 2", "1[b,c] 1[b,c]", "b,c", 2, all, &["sync 2[b,c]", "quorum 0[b,c]"]),
        ("factor 2 to 1", "0[b,c] 2[b,c]", "b,c", 1, all, &["quorum 1[b,c]", "sync 1[b,c]"]),
        ("d is added", "1[b,c] 1[b,c]", "b,c,d", 1, all, &["quorum 2[b,c,d]", "sync 1[b,c,d]"]),
        ("c is lost", "1[b,c] 1[b,c]", "b", 1, all, &["sync 1[b]", "quorum 0[b]"]),
        ("both are lost", "1[b,c] 1[b,c]", "", 1, all, &["quorum 0[]", "sync 0[]"]),
        ("factor 2, c is lost", "0[b,c] 2[b,c]", "b", 2, all, &["quorum 0[b]", "sync 1[b]"]),
        // Beyond the vectors, by the table of step groups.
        ("new up to the factor", "0[b] 1[b]", "b,c", 2, all, &["sync 2[b,c]", "quorum 0[b,c]"]),
        ("new beyond it", "0[b] 1[b]", "b,c", 1, all, &["quorum 1[b,c]", "sync 1[b,c]"]),
        ("slack in the names", "1[b,c] 2[b,c]", "b,c", 1, all, &["sync 1[b,c]"]),
        ("slack in the quorum", "1[b,c] 2[b,c]", "b,c", 2, all, &["quorum 0[b,c]"]),
        (
            "one goes, one comes",
            "1[b,c] 1[b,c]",
            "b,d",
            1,
            all,
            &["sync 1[b]", "quorum 0[b]", "quorum 1[b,d]", "sync 1[b,d]"],
        ),
    ];
    for (name, state, streaming, count, confirmed, expected) in vectors {
        let steps = State::read(state, "a").steps(streaming, count, confirmed);
        assert_eq!(steps, expected, "{name}");
    }
}

/// The reference keeps the voters of the time before when the leader changes (`quorum(b) 1[a,c]`).
/// Here nobody stays: a member that was promoted and left behind unseen would be a voter with
/// another timeline of the same number.
#[test]
fn a_change_of_the_leader_begins_anew() {
    for (streaming, then) in [
        ("", vec!["quorum 0[]", "sync 0[]"]),
        ("c", vec!["quorum 0[]", "sync 1[c]", "quorum 0[c]"]),
    ] {
        let steps = State::read("1[a,c] 1[a,c]", "z").steps(streaming, 1, "c");
        assert_eq!(steps, then);
    }
}

fn members() -> impl Strategy<Value = BTreeSet<MemberName>> {
    prop::sample::subsequence(NODES.to_vec(), 0..=5)
        .prop_map(|names| names.into_iter().map(MemberName::from).collect())
}

/// Any state that keeps the promise.
fn state() -> impl Strategy<Value = State> {
    (members(), 0_u32..5, members(), 0_usize..5)
        .prop_map(|(sync_standby, quorum, set, num)| State {
            sync: SyncState { leader: Some("a".into()), sync_standby, quorum },
            waits: Waits { num: num.min(set.len()), set },
        })
        .prop_filter("a promise that is kept", |s| {
            let normal = usize::try_from(s.sync.quorum).unwrap() < s.sync.sync_standby.len()
                || (s.sync.sync_standby.is_empty() && s.sync.quorum == 0);
            normal
                && s.waits == Waits::read(&s.waits.render(Form::Quorum, false))
                && keeps(&s.sync, &holders_under(&s.waits))
        })
}

/// Every set of standbys that may be the only ones to have a commit that waited so.
fn holders_under(waits: &Waits) -> Vec<BTreeSet<MemberName>> {
    subsets(&waits.set).into_iter().filter(|s| s.len() == waits.num).collect()
}

fn subsets(of: &BTreeSet<MemberName>) -> Vec<BTreeSet<MemberName>> {
    of.iter().fold(vec![BTreeSet::new()], |mut all, name| {
        for mut more in all.clone() {
            more.insert(name.clone());
            all.push(more);
        }
        all
    })
}

/// Whether each electorate that `/sync` allows has one of the holders, whichever they are.
fn keeps(sync: &SyncState, holders: &[BTreeSet<MemberName>]) -> bool {
    let size = usize::try_from(sync.quorum).unwrap() + 1;
    subsets(&sync.sync_standby)
        .iter()
        .filter(|electorate| electorate.len() == size)
        .all(|electorate| holders.iter().all(|have| !electorate.is_disjoint(have)))
}

/// What an acknowledged commit of the time before the names were in force may rest on: any holders
/// that the promise of that time takes care of, and whoever has confirmed.
fn holders_before(state: &State, confirmed: &BTreeSet<MemberName>) -> Vec<BTreeSet<MemberName>> {
    let everybody = NODES.iter().map(|n| MemberName::from(*n)).collect();
    subsets(&everybody)
        .into_iter()
        .filter(|have| keeps(&state.sync, std::slice::from_ref(have)))
        .map(|have| have.union(confirmed).cloned().collect())
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig {
        // PROPTEST_CASES asks for more.
        cases: ProptestConfig::default().cases.max(600),
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn no_step_breaks_the_promise_and_the_steps_end(
        begin in state(), present in members(), count in 1_usize..4, sure in members(),
    ) {
        let streaming: Vec<MemberName> = present.iter().cloned().collect();
        let mut state = begin;
        for round in 0.. {
            // At first only some have caught up, in the end all.
            let confirmed = if round < 4 { shown(&sure) } else { shown(&present) };
            let step = state.next(&streaming, count, &confirmed);
            let confirmed = state.waits.set.intersection(&set(&confirmed)).cloned().collect();
            let before = holders_before(&state, &confirmed);
            state.take(&step);
            match step {
                SyncStep::Write(to) => {
                    prop_assert!(keeps(&to, &before), "{to:?} forgets what was committed");
                    prop_assert!(keeps(&to, &holders_under(&state.waits)), "{to:?}");
                }
                SyncStep::Names(names) => {
                    let holders = holders_under(&state.waits);
                    prop_assert!(keeps(&state.sync, &holders), "{names} break {:?}", state.sync);
                }
                SyncStep::Confirming => {}
                SyncStep::Settled => {
                    prop_assert_eq!(&state.sync.sync_standby, &present);
                    prop_assert_eq!(&state.waits.set, &present);
                    prop_assert_eq!(state.waits.num, count.min(present.len()));
                    break;
                }
            }
            prop_assert!(round < 20, "no end: {state:?}");
        }
    }
}
