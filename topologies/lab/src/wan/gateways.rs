//! The gateways: one network namespace for each datacenter, through which its hosts reach the
//! others.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::fd::AsFd;
use std::path::PathBuf;

use crate::layout::Layout;
use crate::namespaces::{self, NamespaceError, ip, make_namespace, refused, within};
use crate::network::Network;

/// The TUN device in each of them.
pub(super) const DEVICE: &str = "wan0";
/// Its address in the network of its datacenter, where no host has this number.
pub(crate) const HOST: u8 = 254;
/// How many packets may wait for the router: it loses packets by its own rules only.
const QUEUE_PACKETS: u32 = 10_000;

/// One of them.
#[derive(Debug)]
pub(crate) struct Gateway {
    /// The datacenter, or the place of the witness.
    pub(crate) place: String,
    /// The first three bytes of the addresses there.
    pub(crate) network: [u8; 3],
    /// Held open.
    pub(crate) namespace: File,
}

impl Gateway {
    /// A file by which another process can enter it while this one lives.
    pub(crate) fn path(&self) -> PathBuf {
        namespaces::path_of(self.namespace.as_fd())
    }
}

/// Makes a gateway for each place of a lab, on the bridge of the hub. To be called from within it.
pub(crate) fn make(layout: &Layout) -> Result<Vec<Gateway>, NamespaceError> {
    let mut places = BTreeMap::new();
    for host in &layout.hosts {
        places.insert(host.address.octets()[2], host.dc.to_string());
    }
    let gateway = |(octet, place): (u8, String)| {
        let namespace = make_namespace()?;
        let port = format!("gate{octet}");
        namespaces::join(&port, namespace.as_fd())?;
        let address = layout.network.address(octet, HOST);
        let inside = format!(
            "link set lo up\naddr add {address}/24 dev eth0\nlink set eth0 up\n\
             tuntap add dev {DEVICE} mode tun\n\
             link set {DEVICE} txqueuelen {QUEUE_PACKETS} up\n\
             route add {} dev {DEVICE}\n",
            everything(layout.network)
        );
        within(namespace.as_fd(), || {
            // Of this namespace alone: the thread that writes is in it.
            fs::write("/proc/sys/net/ipv4/ip_forward", "1")
                .map_err(refused("let a network namespace forward packets"))?;
            ip(&inside)
        })??;
        let [a, b, ..] = address.octets();
        Ok(Gateway { place, network: [a, b, octet], namespace })
    };
    places.into_iter().map(gateway).collect()
}

/// The addresses of all hosts and clients.
pub(crate) fn everything(network: Network) -> String {
    format!("{network}.0.0/16")
}
