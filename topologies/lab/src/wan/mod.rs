//! A wide area network between the datacenters of a lab: packets from one to another go through a
//! process, the *router*, that delays and loses them, and that can be cut in each direction.
//!
//! Every host stands in a network namespace of its own ([`crate::namespaces`]). Beside them each
//! datacenter has a [gateway](gateways) with a TUN device; the hosts' routes to other datacenters
//! lead through it, and the [router] carries packets from one TUN device to another. Clients are in
//! the hub, on the same bridge as all hosts: no cut of the WAN reaches them. What happens to a
//! packet is decided by pure functions over data ([`link`], [`fabric`]).

pub mod control;
pub mod fabric;
pub(crate) mod gateways;
pub mod link;
pub mod router;
pub mod shape;
mod tun;

pub use control::{Wan, WanError};
