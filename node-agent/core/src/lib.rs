//! What one node decides. Observed facts in, one decision out: no I/O, no clock, no randomness.
//!
//! `observe → Observed → decide → Decision → apply`: everything outside this crate only gathers
//! facts and carries out effects. The same function runs in the tests, the model checker and
//! production.
//!
//! Where to read on: [`decide::decide`] is one pass; [`right::RightToWrite`] is invariant I1 of
//! docs/federation-safety.md; [`rule`] numbers every rule.

pub mod abroad;
pub mod beginning;
pub mod decide;
pub mod decision;
pub mod demotion;
pub mod directory;
pub mod divergence;
pub mod election;
pub mod failsafe;
pub mod follower;
pub mod grant;
pub mod grants;
pub mod guest;
mod handover;
pub mod leader;
pub mod lease;
mod lost;
pub mod observed;
mod outage;
pub mod pause;
pub mod postgres;
pub mod promise;
pub mod promotion;
pub mod prospect;
pub mod quorum;
mod read_only;
pub mod reinit;
pub mod release;
pub mod rewind;
pub mod right;
pub mod rule;
pub mod schedule;
pub mod sick;
pub mod slots;
pub mod source;
pub mod stall;
mod standing;
pub mod starts;
mod switchover;
pub mod sync;
mod synchronous;
mod takeover;
pub mod terms;
pub mod time;
pub mod waits;
mod watchdog;

pub use decide::decide;
