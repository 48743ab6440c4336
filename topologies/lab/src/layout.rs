//! Where everything of a lab is: hosts, their addresses, directories and ports.
//!
//! Pure: made from the topology, the network and the lab's directory, and the same each time.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use node_agent_wire::DcName;

use crate::network::Network;
use crate::settings::Scalar;
use crate::topology::{Datacenter, Topology, WITNESS};

/// Port of PostgreSQL on every node.
pub const POSTGRES_PORT: u16 = 5432;
/// Port of the agent's REST API.
pub const REST_PORT: u16 = 8008;
/// Port of the agent's gRPC service.
pub const GRPC_PORT: u16 = 8009;
/// Port on which etcd serves clients.
pub const ETCD_CLIENT_PORT: u16 = 2379;
/// Port on which etcd members talk to each other.
pub const ETCD_PEER_PORT: u16 = 2380;
/// Nodes are at `127.N.<dc>.11` and up, etcd members at `127.N.<dc>.1` and up.
const FIRST_NODE_HOST: u8 = 11;
/// Longest directory of a host: a Unix socket's path must stay below 108 bytes.
const MAX_HOST_DIR_BYTES: usize = 80;

/// What runs on a host.
#[derive(Debug, Clone, PartialEq)]
pub enum HostKind {
    /// An etcd member.
    Etcd,
    /// An agent with its PostgreSQL.
    Node {
        /// Tags that the agent publishes.
        tags: BTreeMap<String, Scalar>,
    },
}

/// One simulated host: a loopback address and a directory.
#[derive(Debug, Clone, PartialEq)]
pub struct Host {
    /// `<dc>-<node>` or `<dc>-etcd<i>`; of a node also the member's name.
    pub name: String,
    /// The datacenter that it stands in.
    pub dc: DcName,
    /// Its own loopback address.
    pub address: Ipv4Addr,
    /// Its own directory; the processes carry it in their environment.
    pub dir: PathBuf,
    /// What runs on it.
    pub kind: HostKind,
}

impl Host {
    /// An address of this host.
    #[must_use]
    pub fn at(&self, port: u16) -> SocketAddr {
        SocketAddr::from((self.address, port))
    }

    /// Whether PostgreSQL runs here.
    #[must_use]
    pub fn is_node(&self) -> bool {
        matches!(self.kind, HostKind::Node { .. })
    }

    /// PostgreSQL's data directory, or etcd's.
    #[must_use]
    pub fn data_dir(&self) -> PathBuf {
        match self.kind {
            HostKind::Etcd => self.dir.join("etcd"),
            HostKind::Node { .. } => self.dir.join("data"),
        }
    }

    /// Directory of the Unix socket of PostgreSQL.
    #[must_use]
    pub fn socket_dir(&self) -> PathBuf {
        self.dir.join("run")
    }

    /// Where the program that runs here writes its messages.
    #[must_use]
    pub fn log(&self) -> PathBuf {
        match self.kind {
            HostKind::Etcd => self.dir.join("etcd.log"),
            HostKind::Node { .. } => self.dir.join("agent.log"),
        }
    }

    /// The agent's configuration file.
    #[must_use]
    pub fn agent_config(&self) -> PathBuf {
        self.dir.join("agent.yml")
    }

    /// Every address on which this host listens.
    #[must_use]
    pub fn listens_on(&self) -> Vec<SocketAddr> {
        let ports: &[u16] = match self.kind {
            HostKind::Etcd => &[ETCD_CLIENT_PORT, ETCD_PEER_PORT],
            HostKind::Node { .. } => &[POSTGRES_PORT, REST_PORT, GRPC_PORT],
        };
        ports.iter().map(|&port| self.at(port)).collect()
    }
}

/// Why a lab cannot be laid out.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum LayoutError {
    /// Unix sockets would not work.
    #[error(
        "the directory {0} is too long for Unix sockets, {MAX_HOST_DIR_BYTES} bytes at most\n\
         HINT: choose a shorter one with --dir"
    )]
    PathTooLong(PathBuf),
    /// No such host.
    #[error("there is no host \"{asked}\" in this lab\nHINT: hosts are {}", known.join(", "))]
    NoHost {
        /// The name that was given.
        asked: String,
        /// The names there are.
        known: Vec<String>,
    },
    /// No such datacenter.
    #[error(
        "there is no datacenter \"{asked}\" in this lab\nHINT: datacenters are {}",
        known.join(", ")
    )]
    NoDatacenter {
        /// The name that was given.
        asked: String,
        /// The names there are.
        known: Vec<String>,
    },
}

/// All hosts of a lab and its common files.
#[derive(Debug, Clone, PartialEq)]
pub struct Layout {
    /// The lab's directory.
    pub dir: PathBuf,
    /// Its network.
    pub network: Network,
    /// All hosts: by datacenter in the file's order, etcd members first; the witness last.
    pub hosts: Vec<Host>,
    /// Whether a WAN lies between the datacenters.
    pub wan: bool,
}

impl Layout {
    /// Lays a topology out in a directory and a network.
    ///
    /// # Errors
    /// When the directory's path is too long for Unix sockets.
    pub fn plan(topology: &Topology, network: Network, dir: &Path) -> Result<Self, LayoutError> {
        let mut hosts = Vec::new();
        let mut next = 1u8;
        for dc in &topology.datacenters {
            hosts.extend(hosts_of(dc, next, network, dir));
            next += 1;
        }
        if let Some(witness) = &topology.witness {
            hosts.extend(etcd_hosts(&DcName::new(WITNESS), witness.etcd, next, network, dir));
        }
        match hosts.iter().find(|host| host.dir.as_os_str().len() > MAX_HOST_DIR_BYTES) {
            Some(host) => Err(LayoutError::PathTooLong(host.dir.clone())),
            None => {
                let (dir, wan) = (dir.to_owned(), topology.wan.is_some());
                Ok(Self { dir, network, hosts, wan })
            }
        }
    }

    /// The federator's configuration file.
    #[must_use]
    pub fn federator_config(&self) -> PathBuf {
        self.dir.join("federator.yml")
    }

    /// Directory of the router of the WAN; its process carries it in its environment.
    #[must_use]
    pub fn router_dir(&self) -> PathBuf {
        self.dir.join("wan")
    }

    /// Where the router listens for requests.
    #[must_use]
    pub fn router_socket(&self) -> PathBuf {
        self.router_dir().join("control")
    }

    /// Where the router writes its messages.
    #[must_use]
    pub fn router_log(&self) -> PathBuf {
        self.router_dir().join("router.log")
    }

    /// Directory of the certificates that agents and federator show each other, where the network
    /// between them is not this machine's loopback.
    #[must_use]
    pub fn tls_dir(&self) -> PathBuf {
        self.dir.join("tls")
    }

    /// The directories by which all processes of the lab are found.
    #[must_use]
    pub fn process_dirs(&self) -> Vec<PathBuf> {
        let hosts = self.hosts.iter().map(|host| host.dir.clone());
        hosts.chain(self.wan.then(|| self.router_dir())).collect()
    }

    /// Every address on which the lab listens.
    #[must_use]
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.hosts.iter().flat_map(Host::listens_on).collect()
    }

    /// Nodes, in the file's order.
    pub fn nodes(&self) -> impl Iterator<Item = &Host> {
        self.hosts.iter().filter(|host| host.is_node())
    }

    /// Hosts of one datacenter.
    pub fn hosts_of<'a>(&'a self, dc: &'a DcName) -> impl Iterator<Item = &'a Host> {
        self.hosts.iter().filter(move |host| host.dc == *dc)
    }

    /// Client addresses of a datacenter's etcd.
    #[must_use]
    pub fn etcd_endpoints(&self, dc: &DcName) -> Vec<SocketAddr> {
        let members = self.hosts_of(dc).filter(|host| !host.is_node());
        members.map(|host| host.at(ETCD_CLIENT_PORT)).collect()
    }

    /// A host by its name.
    ///
    /// # Errors
    /// When there is none; the message lists those there are.
    pub fn host(&self, name: &str) -> Result<&Host, LayoutError> {
        self.hosts.iter().find(|host| host.name == name).ok_or_else(|| LayoutError::NoHost {
            asked: name.to_owned(),
            known: self.hosts.iter().map(|host| host.name.clone()).collect(),
        })
    }

    /// A datacenter by its name.
    ///
    /// # Errors
    /// When there is none; the message lists those there are.
    pub fn datacenter(&self, name: &str) -> Result<DcName, LayoutError> {
        let mut known: Vec<&DcName> = self.hosts.iter().map(|host| &host.dc).collect();
        known.dedup();
        let found = known.iter().find(|dc| dc.as_str() == name).map(|&dc| dc.clone());
        found.ok_or_else(|| LayoutError::NoDatacenter {
            asked: name.to_owned(),
            known: known.iter().map(ToString::to_string).collect(),
        })
    }
}

fn hosts_of(dc: &Datacenter, octet: u8, network: Network, dir: &Path) -> Vec<Host> {
    let host = |name: String, last: u8, kind| Host {
        dir: dir.join(&name),
        name,
        dc: dc.name.clone(),
        address: network.address(octet, last),
        kind,
    };
    let nodes = dc.nodes.iter().zip(FIRST_NODE_HOST..).map(|(node, last)| {
        let kind = HostKind::Node { tags: node.tags.clone() };
        host(format!("{}-{}", dc.name, node.name), last, kind)
    });
    let etcd = etcd_hosts(&dc.name, dc.etcd, octet, network, dir);
    etcd.into_iter().chain(nodes).collect()
}

fn etcd_hosts(dc: &DcName, count: u8, octet: u8, network: Network, dir: &Path) -> Vec<Host> {
    let host = |i: u8| {
        let name = format!("{dc}-etcd{i}");
        let address = network.address(octet, i);
        Host { dir: dir.join(&name), name, dc: dc.clone(), address, kind: HostKind::Etcd }
    };
    (1..=count).map(host).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn two_dc() -> Topology {
        Topology::parse(
            "name: shop\ndatacenters: {b: {nodes: [pg1, pg2]}, a: {etcd: 3, nodes: [pg1]}}",
        )
        .unwrap()
    }

    #[test]
    fn every_host_has_its_own_name_address_and_directory() {
        let layout =
            Layout::plan(&two_dc(), "127.9".parse().unwrap(), Path::new("/tmp/x")).unwrap();
        let seen: Vec<(String, String)> =
            layout.hosts.iter().map(|h| (h.name.clone(), h.address.to_string())).collect();
        let wanted = [
            ("b-etcd1", "127.9.1.1"),
            ("b-pg1", "127.9.1.11"),
            ("b-pg2", "127.9.1.12"),
            ("a-etcd1", "127.9.2.1"),
            ("a-etcd2", "127.9.2.2"),
            ("a-etcd3", "127.9.2.3"),
            ("a-pg1", "127.9.2.11"),
        ];
        assert_eq!(seen, wanted.map(|(n, a)| (n.to_owned(), a.to_owned())));
        assert_eq!(layout.etcd_endpoints(&DcName::new("a")).len(), 3);
        assert_eq!(layout.addresses().len(), 4 * 2 + 3 * 3);
    }

    #[test]
    fn a_witness_is_a_place_of_its_own() {
        let text = "name: shop\nwitness: {}\ndatacenters: {a: {nodes: [x]}, b: {nodes: [y]}}";
        let topology = Topology::parse(text).unwrap();
        let layout = Layout::plan(&topology, "127.9".parse().unwrap(), Path::new("/x")).unwrap();
        let last = layout.hosts.last().unwrap();
        assert_eq!((last.name.as_str(), last.is_node()), ("witness-etcd1", false));
        assert_eq!(last.address.to_string(), "127.9.3.1");
        assert_eq!(layout.etcd_endpoints(&DcName::new(WITNESS)).len(), 1);
        let taken = "name: shop\nwitness: {}\ndatacenters: {witness: {nodes: [x]}}";
        assert!(Topology::parse(taken).unwrap_err().contains("the name of the witness"));
    }

    #[test]
    fn unknown_names_are_answered_with_the_known_ones() {
        let layout =
            Layout::plan(&two_dc(), "127.9".parse().unwrap(), Path::new("/tmp/x")).unwrap();
        let fault = layout.host("pg1").unwrap_err().to_string();
        assert!(fault.contains("\"pg1\"") && fault.contains("b-pg1, b-pg2"), "{fault}");
        let fault = layout.datacenter("c").unwrap_err().to_string();
        assert!(fault.contains("datacenters are b, a"), "{fault}");
    }

    #[test]
    fn a_path_too_long_for_sockets_is_refused() {
        let dir = PathBuf::from(format!("/tmp/{}", "x".repeat(80)));
        let fault = Layout::plan(&two_dc(), "127.9".parse().unwrap(), &dir).unwrap_err();
        assert!(matches!(fault, LayoutError::PathTooLong(_)));
    }
}
