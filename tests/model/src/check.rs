//! Runs the checker and says what it found.

use stateright::{Checker, CheckerBuilder, HasDiscoveries, Model};
use std::fmt::Debug;
use std::hash::Hash;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// The environment variable that asks for bigger bounds than the tests have: a number that is
/// added to the faults of each model.
pub const MORE_FAULTS: &str = "FEDERATOR_MODEL_MORE_FAULTS";

/// A run that generates more states than this has bounds that are too wide for a test.
const STATES_MAX: usize = 30_000_000;

/// How many faults to allow beyond the bound of the test.
#[must_use]
pub fn more_faults() -> u8 {
    std::env::var(MORE_FAULTS).ok().and_then(|text| text.parse().ok()).unwrap_or(0)
}

/// How often something that must be reachable was reached. Not part of the state, so that it
/// costs no states.
#[derive(Debug, Default)]
pub struct Reached([AtomicU64; 16]);

impl Reached {
    /// It was reached once more.
    pub fn note(&self, what: usize) {
        self.0[what].fetch_add(1, Ordering::Relaxed);
    }

    /// How often.
    #[must_use]
    pub fn times(&self, what: usize) -> u64 {
        self.0[what].load(Ordering::Relaxed)
    }
}

/// What a run found.
#[derive(Debug)]
pub struct Findings {
    /// Different states.
    pub states: usize,
    /// Steps to the furthest of them.
    pub depth: usize,
    /// The properties that do not hold.
    pub broken: Vec<&'static str>,
}

/// Visits every state that the bounds allow, breadth first, until a property is broken, or the one
/// that is `awaited`; prints how many states there were, and the shortest way to break it.
pub fn run<M>(name: &str, model: M, awaited: Option<&'static str>) -> Findings
where
    M: Model + Send + Sync + 'static,
    M::State: Clone + Debug + Hash + PartialEq + Send + Sync + 'static,
    M::Action: Clone + Debug + PartialEq + Send + Sync + 'static,
{
    let (begun, checker) = (Instant::now(), bounded(model, awaited).threads(2));
    report(name, begun, &checker.spawn_bfs().join())
}

/// The same for every state within so many `steps`. One thread: with more, a state may first be
/// found by a longer way, and what follows it would be left out.
pub fn run_within<M>(name: &str, model: M, steps: usize) -> Findings
where
    M: Model + Send + Sync + 'static,
    M::State: Clone + Debug + Hash + PartialEq + Send + Sync + 'static,
    M::Action: Clone + Debug + PartialEq + Send + Sync + 'static,
{
    // The checker counts the first state as well.
    let begun = Instant::now();
    let checker = bounded(model, None).threads(1).target_max_depth(steps + 1);
    report(name, begun, &checker.spawn_bfs().join())
}

/// How many states, with repetitions, a run may generate.
fn most() -> usize {
    if more_faults() == 0 { STATES_MAX } else { usize::MAX }
}

/// So that a model which grows beyond its bounds fails in place of filling the memory.
fn bounded<M>(model: M, awaited: Option<&'static str>) -> CheckerBuilder<M>
where
    M: Model + Send + Sync + 'static,
    M::State: Hash + Send + Sync,
{
    let until = match awaited {
        Some(property) => HasDiscoveries::AnyOf([property].into()),
        None => HasDiscoveries::AnyFailures,
    };
    model.checker().finish_when(until).target_state_count(most())
}

fn report<M>(name: &str, begun: Instant, checker: &impl Checker<M>) -> Findings
where
    M: Model,
    M::State: Clone + Debug + Hash + PartialEq,
    M::Action: Clone + Debug + PartialEq,
{
    let (states, most) = (checker.unique_state_count(), most());
    // The checker counts the first state as well.
    let depth = checker.max_depth().saturating_sub(1);
    assert!(checker.state_count() < most, "{name}: more than {most} states: not all were visited");
    println!(
        "{name}: {states} states ({} with repetitions), depth {depth}, {:.1} s",
        checker.state_count(),
        begun.elapsed().as_secs_f64(),
    );
    let mut broken = Vec::new();
    for (property, path) in checker.discoveries() {
        let steps = path.into_actions();
        println!("{name}: not so: {property}, by {} steps, {steps:?}", steps.len());
        broken.push(property);
    }
    broken.sort_unstable();
    Findings { states, depth, broken }
}
