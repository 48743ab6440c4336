//! The federation controller: collects what every datacenter says, lets `federator-core` plan, and
//! executes the plan step by step with a journal in the DCS.

pub mod approvals;
pub mod cli;
pub mod clock;
pub mod collect;
pub mod concurrent;
pub mod crash;
pub mod dcs;
pub mod examine;
pub mod execute;
pub mod federation;
pub mod fencer;
mod grant_settings;
mod interrupts;
mod known_keys;
pub mod link;
pub mod records;
pub mod render;
pub mod seed;
pub mod settings;
pub mod signing;
pub mod sql;
