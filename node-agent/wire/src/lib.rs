//! Every byte that others see: DCS keys and values, REST bodies, Patroni YAML, the federation
//! record and the gRPC contract. No I/O.
//!
//! Readers are lenient (unknown members of a JSON value are ignored, garbage is a typed "absent"),
//! writers are exact: what a Patroni 4.1 tool reads is what it would have found from Patroni.

pub mod approval;
pub mod chain;
pub mod config;
pub mod dynamic;
pub mod failsafe;
pub mod federation;
pub mod grant;
pub mod history;
pub mod ids;
pub mod isolation;
pub mod keys;
pub mod lsn;
pub mod member;
pub mod patch;
pub mod position;
pub mod retention;
pub mod schedule;
pub mod status;
pub mod yaml;

/// The generated gRPC contract (`proto/agent.proto`).
#[cfg(feature = "grpc")]
#[allow(missing_docs, clippy::all, clippy::pedantic, clippy::restriction)]
pub mod proto {
    tonic::include_proto!("federator.agent.v1");
}

pub use ids::{DcName, Epoch, MemberName, OperationId, Revision, SlotName, SystemId};
pub use lsn::{Lsn, TimelineId};
