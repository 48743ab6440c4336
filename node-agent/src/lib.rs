//! The agent beside each PostgreSQL: effects around the pure rules of `node-agent-core`.
//!
//! `observe → Observed → decide → Decision → apply`, woken by events. See docs/architecture.md.

pub mod apply;
pub mod checkup;
pub mod clock;
pub mod dcs;
pub mod failsafe;
pub mod grants;
pub mod grpc;
pub mod jobs;
pub mod keeper;
pub mod link;
pub mod memory;
pub mod message;
pub mod namesake;
pub mod observe;
pub mod past;
pub mod peers;
pub mod plans;
pub mod postgres;
pub mod publish;
pub mod reload;
pub mod rest;
pub mod run;
pub mod settings;
mod shutdown;
pub mod stall_watch;
pub mod telemetry;
pub mod view;
mod watch;
pub mod watchdog;
