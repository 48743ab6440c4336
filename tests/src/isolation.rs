//! Tests that cut networks: they run in network namespaces, which needs root.

use std::sync::Arc;

use lab::namespaces::Namespaces;

/// Runs a test in a network namespace of its own; passes with the reason in its output where the
/// machine allows none.
///
/// # Panics
/// When there is no runtime, and when the test does.
pub fn run(test: impl AsyncFnOnce(Arc<Namespaces>)) {
    let namespaces = match Namespaces::enter() {
        Ok(namespaces) => Arc::new(namespaces),
        Err(reason) => {
            println!("SKIPPED, networks cannot be cut here: {reason}");
            return;
        }
    };
    // Made after this thread has moved: its workers begin where this thread is.
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    let runtime = builder.worker_threads(2).enable_all().build();
    let runtime = runtime.unwrap_or_else(|error| panic!("no runtime: {error}"));
    runtime.block_on(test(namespaces));
}
