//! A healthy cluster of three nodes as [`Observed`], the words of a scenario that change it, and
//! a decision as text.

#![allow(dead_code, reason = "each test binary uses its part")]

pub mod any;
pub mod cluster_words;
pub mod failsafe_words;
pub mod grants;
pub mod healthy;
pub mod node_words;
pub mod render;
pub mod words;

use node_agent_core::observed::Observed;

/// Changes `observed` as one line of a scenario says.
///
/// # Errors
/// The key is unknown, or its value is not understood.
pub fn apply(observed: &mut Observed, key: &str, value: &str) -> Result<(), String> {
    if cluster_words::apply(observed, key, value)?
        || node_words::apply(observed, key, value)?
        || failsafe_words::apply(observed, key, value)?
        || grants::apply(observed, key, value)?
    {
        return Ok(());
    }
    Err(format!("unknown key \"{key}\""))
}
