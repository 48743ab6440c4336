//! The datacenter's own store, as the agent looks at it.
//!
//! What the watch tells serves the loop's quiet passes (`mirror`). What can't be taken back is
//! decided from a read of the store itself.

pub mod cluster;
pub mod mirror;

pub use node_agent_dcs::*;
