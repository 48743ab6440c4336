//! Topology files: read, checked, rendered into configuration, and run on this machine.
//!
//! A *lab* is a whole federation on one machine: each host has a loopback address and a directory
//! of its own, and can lose its power. The way of the data: [`topology`] reads a file, [`layout`]
//! places its hosts, [`render`] makes their configuration (all pure); [`lab`] writes it,
//! [`lifecycle`] runs it. [`ledger`] and [`prober`] watch from outside what a client would see:
//! which acknowledged rows survive, and whether two nodes ever accept writes at once. Between its
//! datacenters may lie a slow, lossy network: [`wan`].

pub mod access;
pub mod certificates;
pub mod cli;
pub mod cluster;
pub mod credentials;
pub mod http;
pub mod lab;
pub mod launch;
pub mod layout;
pub mod ledger;
pub mod lifecycle;
pub mod line_search;
pub mod name;
pub mod namespaces;
pub mod network;
pub mod overlay;
pub mod prober;
pub mod processes;
pub mod render;
pub mod settings;
mod shared_memory;
pub mod software;
pub mod state;
pub mod topology;
pub mod tour;
pub mod wait;
pub mod wan;

pub use lab::{Lab, LabError, LabOptions, NetworkChoice, Part, TemporaryLab};
