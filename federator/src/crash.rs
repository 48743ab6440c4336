//! Kills the program at a step's boundary, for the tests of resume and abort. Compiled only with
//! the feature `crash-points`: `FEDERATOR_CRASH_AT=<step>:before` or `<step>:after`. The way back
//! has the name [`WAY_BACK`], and lies between its two boundaries.

/// The name of the way back: `before` when only the record that counts says so, `after` when all
/// fences are lifted and the operation is still open.
pub const WAY_BACK: &str = "abort";

/// The two boundaries of a step.
#[derive(Clone, Copy, Debug)]
pub enum Boundary {
    /// Journalled as begun, nothing changed yet.
    Before,
    /// Its effect is there, not journalled as done yet.
    After,
}

/// Kills the process with SIGKILL when this boundary is the one that was asked for.
#[cfg(feature = "crash-points")]
pub fn point(step: &str, boundary: Boundary) {
    let side = match boundary {
        Boundary::Before => "before",
        Boundary::After => "after",
    };
    if std::env::var("FEDERATOR_CRASH_AT").is_ok_and(|at| at == format!("{step}:{side}")) {
        let own = rustix::process::getpid();
        let _ = rustix::process::kill_process(own, rustix::process::Signal::KILL);
        // Nobody outlives the signal; should it not have been sent, nothing may go on either.
        std::process::abort();
    }
}

/// Nothing, in a program that is not for tests.
#[cfg(not(feature = "crash-points"))]
pub fn point(_step: &str, _boundary: Boundary) {}
