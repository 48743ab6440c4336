//! Small models of one datacenter and of several, checked exhaustively: whatever is killed, frozen,
//! delayed or lost, and in whatever order, does the real `decide` keep its promises?
//!
//! A model is a world of three nodes in a few bytes and the steps that the world can take. A step
//! of an agent shows it the world as [`view::View`], which becomes an `Observed`, and runs the
//! decision function of production on it; only what production does with the decision (the keeper,
//! the guard, the order of writes) is modelled, as thin as possible, each step with the name of
//! the function that it stands for.
//!
//! No step of an agent is ever forced: an agent that hangs is one that takes no step for a while.
//! What the models cover and what they do not, with their bounds: docs/verification.md.

pub mod check;
pub mod choice;
mod facts;
pub mod failsafe;
pub mod federation;
pub mod lease;
pub mod switchover;
pub mod sync;
pub mod timing;
pub mod view;
pub mod wal;

// The facts of a healthy cluster, from the tests of the core: one place to know all fields.
#[allow(dead_code, clippy::expect_used, missing_docs, reason = "made for tests, used in part")]
#[path = "../../../node-agent/core/tests/support/healthy.rs"]
mod healthy;
