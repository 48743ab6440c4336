//! Stops the program at a step's boundary, for the tests of resume and abort. Compiled only with
//! the feature `crash-points`: `FEDERATOR_CRASH_AT=<step>:before` or `<step>:after`.

/// The two boundaries of a step.
#[derive(Clone, Copy, Debug)]
pub enum Boundary {
    /// Journalled as begun, nothing changed yet.
    Before,
    /// Its effect is there, not journalled as done yet.
    After,
}

/// Ends the process without any clean-up when this boundary is the one that was asked for.
#[cfg(feature = "crash-points")]
pub fn point(step: &str, boundary: Boundary) {
    let side = match boundary {
        Boundary::Before => "before",
        Boundary::After => "after",
    };
    if std::env::var("FEDERATOR_CRASH_AT").is_ok_and(|at| at == format!("{step}:{side}")) {
        std::process::abort();
    }
}

/// Nothing, in a program that is not for tests.
#[cfg(not(feature = "crash-points"))]
pub fn point(_step: &str, _boundary: Boundary) {}
