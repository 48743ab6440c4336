//! The topology file: what it may say, and the checks that a reader of its errors can act on.
//!
//! ```yaml
//! name: shop
//! datacenters:
//!   dc1: {etcd: 1, nodes: [pg1, pg2, pg3], settings: {synchronous_mode: true}}
//!   dc2: {etcd: 1, nodes: [pg1, {name: pg2, tags: {nofailover: true}}]}
//! ```
//! The first datacenter in the file is the one that is primary at first. Unknown keys are refused.
//! Every error names the line and the path of keys; a fault of one value is found while reading,
//! one that concerns several values afterwards, by [`crate::line_search`].

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use node_agent_wire::DcName;
use serde::Deserialize;
use serde::de::{self, Deserializer, MapAccess, SeqAccess, Visitor};

use crate::line_search::line_of;
use crate::name::{DcKey, LabName, NodeName};
use crate::network::Network;
use crate::overlay::Overlay;
use crate::settings::{Scalar, Settings};
use crate::wan::shape::{Delay, Loss, Rate, Shape};

/// A topology file larger than this is surely not one.
const MAX_FILE_BYTES: u64 = 256 * 1024;
/// Most datacenters: one octet of the address, with room to spare.
pub const MAX_DATACENTERS: usize = 20;
/// Most nodes in a datacenter: a lab runs on one machine.
pub const MAX_NODES: usize = 20;

/// A whole topology, checked.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Topology {
    /// Name of the federation and of the lab.
    pub name: LabName,
    /// The loopback network; `127.20` when the file is silent.
    #[serde(default = "default_network")]
    pub network: Network,
    /// Dynamic configuration of every datacenter.
    #[serde(default)]
    pub settings: Settings,
    /// What concerns PostgreSQL itself.
    #[serde(default)]
    pub postgresql: Postgresql,
    /// Laid over the dynamic configuration of every datacenter: anything that Patroni knows.
    #[serde(default)]
    pub dynamic: Overlay,
    /// Laid over the configuration file of every agent.
    #[serde(default)]
    pub agent: Overlay,
    /// Laid over the federator's configuration file.
    #[serde(default)]
    pub federator: Overlay,
    /// An etcd in one more place, for site grants.
    pub witness: Option<Witness>,
    /// The network between the datacenters, where it shall be slow or lose packets.
    pub wan: Option<WanSection>,
    /// In the order of the file, never empty. The first is primary at first.
    #[serde(deserialize_with = "datacenters_in_order")]
    pub datacenters: Vec<Datacenter>,
}

/// The `postgresql` section.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Postgresql {
    /// Major version; the highest one installed when the file is silent.
    pub version: Option<u32>,
    /// Directory of the server's programs, in place of an installed version.
    pub bin_dir: Option<PathBuf>,
    /// Server parameters for every node; they go into the dynamic configuration.
    #[serde(default)]
    pub parameters: BTreeMap<String, Scalar>,
}

/// The `wan` section: how packets between datacenters fare.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WanSection {
    /// Delay there and back.
    #[serde(default)]
    pub rtt: Delay,
    /// Each packet is up to so much later.
    #[serde(default)]
    pub jitter: Delay,
    /// The share of packets that is lost.
    #[serde(default)]
    pub loss: Loss,
    /// What each direction carries.
    #[serde(default)]
    pub rate: Rate,
    /// Decides which packets are lost; the same seed, the same ones.
    #[serde(default)]
    pub seed: u64,
}

impl WanSection {
    /// How packets fare at first.
    #[must_use]
    pub fn shape(&self) -> Shape {
        let Self { rtt, jitter, loss, rate, seed: _ } = *self;
        Shape { rtt, jitter, loss, rate }
    }
}

/// Where the hosts of the witness stand; no datacenter may have this name beside one.
pub const WITNESS: &str = "witness";

/// The witness.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Witness {
    /// Number of its etcd members: 1, 3 or 5.
    #[serde(default = "one_etcd", deserialize_with = "etcd_count")]
    pub etcd: u8,
}

/// One datacenter.
#[derive(Debug, Clone, PartialEq)]
pub struct Datacenter {
    /// Its name.
    pub name: DcName,
    /// Number of etcd members: 1, 3 or 5.
    pub etcd: u8,
    /// PostgreSQL nodes, in the order of the file, never empty.
    pub nodes: Vec<Node>,
    /// Settings of this datacenter, laid over those of the file.
    pub settings: Settings,
    /// Laid over its dynamic configuration, after that of the whole file.
    pub dynamic: Overlay,
    /// Laid over the files of its agents, after that of the whole file.
    pub agent: Overlay,
}

/// One PostgreSQL node.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    /// Its name, unique in the datacenter.
    pub name: NodeName,
    /// Tags as the agent publishes them.
    pub tags: BTreeMap<String, Scalar>,
    /// Laid over its agent's file, last.
    pub agent: Overlay,
}

/// Why a topology file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TopologyError {
    /// The file cannot be read.
    #[error("cannot read topology file {path}: {source}\nHINT: give the path of a topology file")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file says something that it must not.
    #[error(
        "{path}: {message}\nHINT: example files are one-node.yaml, three-nodes.yaml and two-dc.yaml"
    )]
    Invalid {
        /// The file.
        path: PathBuf,
        /// Path of keys, fault, and line.
        message: String,
    },
}

impl Topology {
    /// Reads and checks a file.
    ///
    /// # Errors
    /// When the file cannot be read or breaks a rule; the message names line and key.
    pub fn read(path: &Path) -> Result<(Self, String), TopologyError> {
        let unreadable = |source| TopologyError::Unreadable { path: path.to_owned(), source };
        let size = std::fs::metadata(path).map_err(unreadable)?.len();
        if size > MAX_FILE_BYTES {
            let message =
                format!("the file has {size} bytes, more than the {MAX_FILE_BYTES} allowed");
            return Err(TopologyError::Invalid { path: path.to_owned(), message });
        }
        let text = std::fs::read_to_string(path).map_err(unreadable)?;
        let topology = Self::parse(&text)
            .map_err(|message| TopologyError::Invalid { path: path.to_owned(), message })?;
        Ok((topology, text))
    }

    /// Checks a text.
    ///
    /// # Errors
    /// The fault in words, with path and line.
    pub fn parse(text: &str) -> Result<Self, String> {
        let topology: Self = serde_yaml::from_str(text).map_err(|error| {
            let fault = error.to_string();
            // The reader is silent about a place at the very beginning.
            if fault.contains(" at line ") { fault } else { format!("{fault} at line 1") }
        })?;
        topology.check().map_err(|fault| match line_of(text, &fault.path) {
            Some(line) => format!("{}: {} at line {line}", fault.path.join("."), fault.message),
            None => format!("{}: {}", fault.path.join("."), fault.message),
        })?;
        Ok(topology)
    }

    /// The settings that hold in a datacenter.
    #[must_use]
    pub fn settings_of(&self, dc: &Datacenter) -> Settings {
        dc.settings.over(&self.settings).over(&Settings::defaults())
    }

    /// Whether there is more than one datacenter.
    #[must_use]
    pub fn is_federation(&self) -> bool {
        self.datacenters.len() > 1
    }

    fn check(&self) -> Result<(), Fault> {
        for parameter in self.postgresql.parameters.keys() {
            if let Some(why) = Scalar::refused_parameter(parameter) {
                let path = ["postgresql", "parameters", parameter];
                return Err(Fault::new(&path, why.to_owned()));
            }
        }
        if self.witness.is_some() && self.datacenters.iter().any(|dc| dc.name.as_str() == WITNESS) {
            let path = ["datacenters", WITNESS];
            return Err(Fault::new(&path, "that is the name of the witness".to_owned()));
        }
        if self.wan.is_some() && self.datacenters.len() < 2 && self.witness.is_none() {
            let fault = "there is one datacenter only, so nothing is between two";
            return Err(Fault::new(&["wan"], fault.to_owned()));
        }
        for dc in &self.datacenters {
            if let Err(message) = self.settings_of(dc).check() {
                let own = ["datacenters", dc.name.as_str(), "settings"];
                let path =
                    if dc.settings == Settings::default() { &["settings"][..] } else { &own };
                return Err(Fault::new(path, message));
            }
        }
        Ok(())
    }
}

/// A fault that concerns several values.
struct Fault {
    path: Vec<String>,
    message: String,
}

impl Fault {
    fn new(path: &[&str], message: String) -> Self {
        Self { path: path.iter().map(|&key| key.to_owned()).collect(), message }
    }
}

fn default_network() -> Network {
    #[allow(clippy::expect_used, reason = "the constant is a valid network; a test parses it")]
    "127.20".parse().expect("127.20 is a valid network")
}

/// A datacenter as written, before it knows its name.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DatacenterBody {
    #[serde(default = "one_etcd", deserialize_with = "etcd_count")]
    etcd: u8,
    #[serde(deserialize_with = "distinct_nodes")]
    nodes: Vec<Node>,
    #[serde(default)]
    settings: Settings,
    #[serde(default)]
    dynamic: Overlay,
    #[serde(default)]
    agent: Overlay,
}

fn one_etcd() -> u8 {
    1
}

fn etcd_count<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u8, D::Error> {
    struct Count;
    impl Visitor<'_> for Count {
        type Value = u8;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("the number of etcd members: 1, 3 or 5 (example: etcd: 1)")
        }
        fn visit_u64<E: de::Error>(self, count: u64) -> Result<u8, E> {
            match count {
                1 => Ok(1),
                3 => Ok(3),
                5 => Ok(5),
                _ => Err(E::invalid_value(de::Unexpected::Unsigned(count), &self)),
            }
        }
    }
    deserializer.deserialize_u64(Count)
}

/// Keeps the order of the file, which decides who is primary at first.
fn datacenters_in_order<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<Datacenter>, D::Error> {
    struct InOrder;
    impl<'de> Visitor<'de> for InOrder {
        type Value = Vec<Datacenter>;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a map of datacenters (example: dc1: {etcd: 1, nodes: [pg1]})")
        }
        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut found: Vec<Datacenter> = Vec::new();
            while let Some(name) = map.next_key::<DcKey>()? {
                let name = DcName::from(name);
                if found.iter().any(|dc| dc.name == name) {
                    return Err(de::Error::custom(format_args!("datacenter {name} occurs twice")));
                }
                let body: DatacenterBody = map.next_value()?;
                let DatacenterBody { etcd, nodes, settings, dynamic, agent } = body;
                found.push(Datacenter { name, etcd, nodes, settings, dynamic, agent });
            }
            match found.len() {
                0 => Err(de::Error::custom(
                    "there is no datacenter (example: dc1: {etcd: 1, nodes: [pg1]})",
                )),
                n if n > MAX_DATACENTERS => Err(de::Error::custom(format_args!(
                    "{n} datacenters are more than the {MAX_DATACENTERS} that a lab can run"
                ))),
                _ => Ok(found),
            }
        }
    }
    d.deserialize_map(InOrder)
}

fn distinct_nodes<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Node>, D::Error> {
    struct Distinct;
    impl<'de> Visitor<'de> for Distinct {
        type Value = Vec<Node>;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a list of nodes (example: [pg1, {name: pg2, tags: {nofailover: true}}])")
        }
        fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
            let mut found: Vec<Node> = Vec::new();
            while let Some(node) = seq.next_element::<Node>()? {
                if found.iter().any(|other| other.name == node.name) {
                    return Err(de::Error::custom(format_args!(
                        "node {} occurs twice in this datacenter",
                        node.name
                    )));
                }
                found.push(node);
            }
            match found.len() {
                0 => Err(de::Error::custom("the list of nodes is empty (example: [pg1])")),
                n if n > MAX_NODES => Err(de::Error::custom(format_args!(
                    "{n} nodes are more than the {MAX_NODES} that a lab can run in one datacenter"
                ))),
                _ => Ok(found),
            }
        }
    }
    deserializer.deserialize_seq(Distinct)
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Body {
            name: NodeName,
            #[serde(default)]
            tags: BTreeMap<String, Scalar>,
            #[serde(default)]
            agent: Overlay,
        }
        struct NameOrMap;
        impl<'de> Visitor<'de> for NameOrMap {
            type Value = Node;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a node (example: pg1, or {name: pg1, tags: {nofailover: true}})")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Node, E> {
                let name = NodeName::new(text).map_err(E::custom)?;
                if is_etcd_name(&name) {
                    return Err(E::custom(format_args!(
                        "a node cannot be called {name}: that is the name of an etcd host \
                         (example: pg1)"
                    )));
                }
                Ok(Node { name, tags: BTreeMap::new(), agent: Overlay::default() })
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Node, A::Error> {
                let body = Body::deserialize(de::value::MapAccessDeserializer::new(map))?;
                let plain = self.visit_str(body.name.as_str())?;
                Ok(Node { tags: body.tags, agent: body.agent, ..plain })
            }
        }
        deserializer.deserialize_any(NameOrMap)
    }
}

fn is_etcd_name(name: &NodeName) -> bool {
    let Some(rest) = name.as_str().strip_prefix("etcd") else { return false };
    rest.chars().all(|c| c.is_ascii_digit())
}

#[cfg(test)]
#[path = "topology_tests.rs"]
mod tests;
