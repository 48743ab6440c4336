//! Runs the checker and says what it found.

use stateright::{Checker, HasDiscoveries, Model};
use std::fmt::Debug;
use std::hash::Hash;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// The environment variable that asks for bigger bounds than the tests have: a number that is
/// added to the faults of each model.
pub const MORE_FAULTS: &str = "FEDERATOR_MODEL_MORE_FAULTS";

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
    let begun = Instant::now();
    let until = match awaited {
        Some(property) => HasDiscoveries::AnyOf([property].into()),
        None => HasDiscoveries::AnyFailures,
    };
    let checker = model.checker().threads(2).finish_when(until).spawn_bfs().join();
    let states = checker.unique_state_count();
    println!(
        "{name}: {states} states ({} with repetitions), depth {}, {:.1} s",
        checker.state_count(),
        checker.max_depth(),
        begun.elapsed().as_secs_f64(),
    );
    let mut broken = Vec::new();
    for (property, path) in checker.discoveries() {
        println!("{name}: not so: {property}, by {:?}", path.into_actions());
        broken.push(property);
    }
    broken.sort_unstable();
    Findings { states, broken }
}
