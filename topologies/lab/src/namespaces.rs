//! Hosts in network namespaces of their own, so that the network between any two of them can be
//! cut, in one direction or both, while clients stay connected to each.
//!
//! A thread [enters](Namespaces::enter) a new namespace, the *hub*, where clients are. Every host
//! has another one, and a bridge in the hub joins them; the machine's own network is not touched. A
//! namespace lives as long as a process or an open file of ours is in it, so nothing stays behind
//! when a test is killed and its processes are ended.
//!
//! Where the topology has a WAN, the hosts of other datacenters are reached through it only
//! ([`crate::wan`]), and its router holds the namespaces open for later commands.
//!
//! A cut loses packets without an answer, as a broken network does: the sender keeps a wrong
//! hardware address for the receiver, which nobody on the bridge listens to.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write};
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::launch::wait_for;
use crate::layout::Layout;
use crate::network::Network;
use crate::wait::{self, Interrupt, Look};
use crate::wan::gateways::{self, Gateway};

/// An address that no host of a lab has: of the hub's end of the bridge.
const HUB_HOST: (u8, u8) = (255, 254);
/// A hardware address that nobody has.
const NOBODY: &str = "02:00:00:00:00:00";
/// How long the system may take to make a namespace.
const MAKE_LIMIT: Duration = Duration::from_secs(5);

/// A namespace or the network in it could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum NamespaceError {
    /// The system refused.
    #[error("cannot {tried}: {source}\nHINT: this needs root and the programs ip and unshare")]
    Refused {
        /// What was tried.
        tried: String,
        /// What the system said.
        source: io::Error,
    },
    /// The lab has no such host, or the namespaces are another lab's.
    #[error("no network namespace belongs to the host \"{0}\"")]
    NoHost(String),
    /// The hosts have their namespaces already.
    #[error("these network namespaces belong to another lab")]
    Taken,
}

pub(crate) fn refused(tried: impl Into<String>) -> impl FnOnce(io::Error) -> NamespaceError {
    let tried = tried.into();
    move |source| NamespaceError::Refused { tried, source }
}

/// The network of one lab.
#[derive(Debug)]
pub struct Namespaces {
    /// Kept open: the hub outlives the thread that entered it.
    hub: File,
    hosts: OnceLock<BTreeMap<String, Place>>,
    gateways: OnceLock<Vec<Gateway>>,
}

#[derive(Debug)]
struct Place {
    address: Ipv4Addr,
    /// The hub's end of its cable.
    port: String,
    namespace: File,
    /// Whether other datacenters are behind a gateway.
    routed: bool,
}

impl Namespaces {
    /// Moves this thread, and all that it starts from now on, into a new namespace, the hub.
    ///
    /// # Errors
    /// When the user may not do that, or the programs `ip` and `unshare` are missing.
    pub fn enter() -> Result<Self, NamespaceError> {
        let hub = make_namespace()?;
        move_into(hub.as_fd()).map_err(refused("enter a network namespace"))?;
        let address = Network::SEPARATE.address(HUB_HOST.0, HUB_HOST.1);
        ip(&format!(
            "link set lo up\nlink add lab type bridge\naddr add {address}/16 dev lab\n\
             link set lab up\n"
        ))?;
        Ok(Self { hub, hosts: OnceLock::new(), gateways: OnceLock::new() })
    }

    /// Moves this thread into the hub of a lab that runs, whose router holds these files open.
    ///
    /// # Errors
    /// When the user may not do that, or the router has ended.
    pub fn reopen(
        layout: &Layout,
        hub: &Path,
        hosts: &BTreeMap<String, PathBuf>,
    ) -> Result<Self, NamespaceError> {
        let open = |path: &Path| File::open(path).map_err(refused("open a network namespace"));
        let hub = open(hub)?;
        let mut places = BTreeMap::new();
        for (index, host) in layout.hosts.iter().enumerate() {
            let path = hosts.get(&host.name);
            let path = path.ok_or_else(|| NamespaceError::NoHost(host.name.clone()))?;
            let (namespace, port) = (open(path)?, port(index));
            let (address, routed) = (host.address, layout.wan);
            places.insert(host.name.clone(), Place { address, port, namespace, routed });
        }
        move_into(hub.as_fd()).map_err(refused("enter a network namespace"))?;
        Ok(Self { hub, hosts: places.into(), gateways: OnceLock::new() })
    }

    /// Gives every host of a lab its namespace, and joins them all. To be called once, from within
    /// the hub.
    ///
    /// # Errors
    /// When the system refuses, or it was called before.
    pub fn connect(&self, layout: &Layout) -> Result<(), NamespaceError> {
        if self.hosts.get().is_some() {
            return Err(NamespaceError::Taken);
        }
        let mut places = BTreeMap::new();
        for (index, host) in layout.hosts.iter().enumerate() {
            let namespace = make_namespace()?;
            let (address, port) = (host.address, port(index));
            join(&port, namespace.as_fd())?;
            let inside = inside(layout, address);
            within(namespace.as_fd(), || ip(&inside))??;
            let routed = layout.wan;
            places.insert(host.name.clone(), Place { address, port, namespace, routed });
        }
        if layout.wan {
            let made = gateways::make(layout)?;
            self.gateways.set(made).map_err(|_| NamespaceError::Taken)?;
        }
        self.hosts.set(places).map_err(|_| NamespaceError::Taken)
    }

    /// The gateways of its datacenters; none without a WAN.
    pub(crate) fn gateways(&self) -> &[Gateway] {
        self.gateways.get().map(Vec::as_slice).unwrap_or_default()
    }

    /// A file by which another process can enter the hub while this one lives.
    #[must_use]
    pub fn path_of_hub(&self) -> PathBuf {
        path_of(self.hub.as_fd())
    }

    /// The same for the namespace of a host.
    ///
    /// # Errors
    /// When there is no such host.
    pub fn path_of_host(&self, host: &str) -> Result<PathBuf, NamespaceError> {
        Ok(path_of(self.place(host)?.namespace.as_fd()))
    }

    /// Does something in the namespace of a host, for example starts its program.
    ///
    /// # Errors
    /// When there is no such host, or the system refuses.
    pub fn at<T: Send>(
        &self,
        host: &str,
        deed: impl FnOnce() -> T + Send,
    ) -> Result<T, NamespaceError> {
        within(self.place(host)?.namespace.as_fd(), deed)
    }

    /// From now on packets from one host to the other are lost.
    ///
    /// # Errors
    /// When there is no such host, or the system refuses.
    pub fn cut(&self, from: &str, to: &str) -> Result<(), NamespaceError> {
        let address = self.place(to)?.address;
        let mut wrong = format!("neigh replace {address} lladdr {NOBODY} dev eth0 nud permanent\n");
        if self.is_routed(from, to)? {
            // In place of the way through the gateway.
            wrong.push_str(&format!("route replace {address}/32 dev eth0\n"));
        }
        self.at(from, || ip(&wrong))?
    }

    /// Packets from one host to the other arrive again.
    ///
    /// # Errors
    /// When there is no such host or no cut, or the system refuses.
    pub fn heal(&self, from: &str, to: &str) -> Result<(), NamespaceError> {
        let address = self.place(to)?.address;
        let mut right = format!("neigh del {address} dev eth0\n");
        if self.is_routed(from, to)? {
            right.push_str(&format!("route del {address}/32 dev eth0\n"));
        }
        self.at(from, || ip(&right))?
    }

    /// Whether a gateway stands between two hosts.
    fn is_routed(&self, from: &str, to: &str) -> Result<bool, NamespaceError> {
        let (from, to) = (self.place(from)?, self.place(to)?);
        Ok(from.routed && from.address.octets()[2] != to.address.octets()[2])
    }

    /// Pulls a host's cable: from now on nothing reaches it or comes from it, not even the end of a
    /// connection. To be called from within the hub.
    ///
    /// # Errors
    /// When there is no such host, or the system refuses.
    pub fn unplug(&self, host: &str) -> Result<(), NamespaceError> {
        ip(&format!("link set {} down\n", self.place(host)?.port))
    }

    /// Puts a host's cable back. To be called from within the hub.
    ///
    /// # Errors
    /// When there is no such host, or the system refuses.
    pub fn plug(&self, host: &str) -> Result<(), NamespaceError> {
        ip(&format!("link set {} up\n", self.place(host)?.port))
    }

    fn place(&self, host: &str) -> Result<&Place, NamespaceError> {
        let found = self.hosts.get().and_then(|hosts| hosts.get(host));
        found.ok_or_else(|| NamespaceError::NoHost(host.to_owned()))
    }
}

/// The hub's end of the cable of a host.
fn port(index: usize) -> String {
    format!("port{index}")
}

/// Joins a namespace to the bridge of the hub; its own end of the cable is `eth0`.
pub(crate) fn join(port: &str, namespace: BorrowedFd<'_>) -> Result<(), NamespaceError> {
    ip(&format!(
        "link add {port} type veth peer name eth0 netns {}\n\
         link set {port} master lab\nlink set {port} up\n",
        path_of(namespace).display()
    ))
}

/// What `ip` is to do in the namespace of a host.
fn inside(layout: &Layout, address: Ipv4Addr) -> String {
    let network = layout.network;
    if !layout.wan {
        return format!("link set lo up\naddr add {address}/16 dev eth0\nlink set eth0 up\n");
    }
    let gateway = network.address(address.octets()[2], gateways::HOST);
    let clients = network.address(HUB_HOST.0, HUB_HOST.1);
    let everything = gateways::everything(network);
    format!(
        "link set lo up\naddr add {address}/24 dev eth0\nlink set eth0 up\n\
         route add {clients}/32 dev eth0\nroute add {everything} via {gateway}\n"
    )
}

/// A new namespace, held by an open file: a helper makes it, and ends once we have it.
pub(crate) fn make_namespace() -> Result<File, NamespaceError> {
    let tried = "make a network namespace";
    let mut helper = Command::new("unshare");
    helper.args(["--net", "cat"]).stdin(Stdio::piped()).stdout(Stdio::null());
    let mut helper = helper.stderr(Stdio::inherit()).spawn().map_err(refused(tried))?;
    let file = PathBuf::from(format!("/proc/{}/ns/net", helper.id()));
    let name = |path: &str| std::fs::read_link(path).ok();
    let ours = name("/proc/thread-self/ns/net");
    let made = wait::until("a network namespace", MAKE_LIMIT, &Interrupt::default(), || {
        if !matches!(helper.try_wait(), Ok(None)) {
            return Look::Never("unshare ended: it is allowed to root only".to_owned());
        }
        match std::fs::read_link(&file).ok() {
            Some(theirs) if Some(&theirs) != ours.as_ref() => Look::Done(File::open(&file)),
            Some(_) | None => Look::NotYet("unshare has not made it yet".to_owned()),
        }
    });
    // `cat` ends when its input does.
    drop(helper.stdin.take());
    wait_for(&mut helper).map_err(refused("end the helper unshare"))?;
    made.map_err(|error| refused(tried)(io::Error::other(error)))?.map_err(refused(tried))
}

pub(crate) fn path_of(namespace: BorrowedFd<'_>) -> PathBuf {
    PathBuf::from(format!("/proc/{}/fd/{}", std::process::id(), namespace.as_raw_fd()))
}

fn move_into(namespace: BorrowedFd<'_>) -> io::Result<()> {
    Ok(move_into_link_name_space(namespace, Some(LinkNameSpaceType::Network))?)
}

/// Runs something on a thread of its own in a namespace.
pub(crate) fn within<T: Send>(
    namespace: BorrowedFd<'_>,
    deed: impl FnOnce() -> T + Send,
) -> Result<T, NamespaceError> {
    let inside = || move_into(namespace).map(|()| deed());
    let done = std::thread::scope(|scope| scope.spawn(inside).join());
    let done = done.unwrap_or_else(|_| Err(io::Error::other("the thread panicked")));
    done.map_err(refused("work in a network namespace"))
}

/// Runs `ip` with these commands, one a line.
pub(crate) fn ip(commands: &str) -> Result<(), NamespaceError> {
    let run = || -> io::Result<()> {
        let mut ip = Command::new("ip");
        ip.args(["-batch", "-"]).stdin(Stdio::piped()).stdout(Stdio::null());
        let mut ip = ip.stderr(Stdio::piped()).spawn()?;
        if let Some(mut input) = ip.stdin.take() {
            input.write_all(commands.as_bytes())?;
        }
        let status = wait_for(&mut ip)?;
        if status.success() {
            return Ok(());
        }
        let said = ip.stderr.take().map(io::read_to_string).transpose()?.unwrap_or_default();
        Err(io::Error::other(format!("{status}: {}", said.trim())))
    };
    run().map_err(refused(format!("run ip with \"{}\"", commands.trim().replace('\n', "; "))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topology::Topology;
    use std::net::{SocketAddr, TcpListener, TcpStream};

    const LIMIT: Duration = Duration::from_millis(300);

    fn connects(namespaces: &Namespaces, from: &str, to: SocketAddr) -> bool {
        namespaces.at(from, || TcpStream::connect_timeout(&to, LIMIT).is_ok()).unwrap()
    }

    #[test]
    fn a_cut_loses_packets_between_two_hosts_and_spares_clients() {
        let namespaces = match Namespaces::enter() {
            Ok(namespaces) => namespaces,
            Err(reason) => {
                println!("skipped, no network namespaces here: {reason}");
                return;
            }
        };
        let text = "name: a\ndatacenters: {dc1: {etcd: 1, nodes: [a, b]}}";
        let topology = Topology::parse(text).unwrap();
        let layout = Layout::plan(&topology, Network::SEPARATE, Path::new("/tmp/a")).unwrap();
        namespaces.connect(&layout).unwrap();
        let at = |name: &str| layout.host(name).unwrap().at(5432);
        let listen = |name| namespaces.at(name, || TcpListener::bind(at(name)).unwrap()).unwrap();
        let _open = [listen("dc1-a"), listen("dc1-b"), listen("dc1-etcd1")];
        assert!(connects(&namespaces, "dc1-a", at("dc1-b")), "joined by the bridge");
        for (from, to) in [("dc1-a", "dc1-b"), ("dc1-b", "dc1-a")] {
            namespaces.cut(from, to).unwrap();
            // A connection needs both directions.
            assert!(!connects(&namespaces, "dc1-a", at("dc1-b")), "{from} to {to} is cut");
            assert!(connects(&namespaces, "dc1-a", at("dc1-etcd1")), "others are reached");
            assert!(TcpStream::connect_timeout(&at("dc1-a"), LIMIT).is_ok(), "so are clients");
            namespaces.heal(from, to).unwrap();
            assert!(connects(&namespaces, "dc1-a", at("dc1-b")), "{from} to {to} is healed");
        }
        namespaces.unplug("dc1-a").unwrap();
        assert!(TcpStream::connect_timeout(&at("dc1-a"), LIMIT).is_err(), "without a cable");
        namespaces.plug("dc1-a").unwrap();
        assert!(TcpStream::connect_timeout(&at("dc1-a"), LIMIT * 10).is_ok(), "with it again");
        assert!(matches!(namespaces.cut("x", "dc1-a"), Err(NamespaceError::NoHost(_))));
        assert!(matches!(namespaces.connect(&layout), Err(NamespaceError::Taken)));
    }
}
