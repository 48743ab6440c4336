//! What the end-to-end tests stand on: a federation on real etcd and PostgreSQL, the commands that
//! are run against it, and the looks at it from outside.
//!
//! A test makes a [`rig::Rig`], which starts a topology on a free loopback network and takes it
//! down again; it acts through [`federator`], [`rest`], [`store`] and the lab's own signals; and it
//! judges by the lab's ledger and prober, by [`rows`], [`federation`] and [`agent_log`]. Nothing
//! sleeps to let something happen: [`patience`] waits for conditions, with a deadline that says
//! what was waited for. A failure here is a panic, as in any test, with everything that was seen in
//! its message.

pub mod agent_log;
pub mod agents;
pub mod boundary;
pub mod by_hand;
pub mod command;
pub mod divergence;
pub mod etcd;
pub mod federation;
pub mod federator;
pub mod isolation;
pub mod patience;
pub mod patroni;
pub mod patronictl;
pub mod programs;
pub mod repository;
pub mod rest;
pub mod rig;
pub mod rows;
pub mod scene;
pub mod servers;
pub mod store;
