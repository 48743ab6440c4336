//! What one node decides. Observed facts in, one decision out: no I/O, no clock, no randomness.
//!
//! `observe → Observed → decide → Decision → apply`: everything outside this crate only gathers
//! facts and carries out effects. The same function runs in the tests, the model checker and
//! production.

pub mod postgres;
pub mod time;
