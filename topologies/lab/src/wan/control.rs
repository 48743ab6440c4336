//! How a lab speaks with its router: what the router is started with, and requests over a Unix
//! socket, which no cut of a network reaches.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::fabric::{Direction, Request};
use super::shape::{Change, Shape};
use crate::layout::Layout;
use crate::namespaces::{NamespaceError, Namespaces};

/// How long the router may take for an answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);
/// Longest request or answer.
pub(super) const MAX_BYTES: u64 = 1024 * 1024;

/// The router's file of settings, written by the lab that starts it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RouterConfig {
    /// Where it listens for requests.
    pub socket: PathBuf,
    /// The seed of chance.
    pub seed: u64,
    /// How packets fare at first.
    pub shape: Shape,
    /// The datacenters, and the place of the witness.
    pub gateways: Vec<GatewayConfig>,
    /// The namespace of each host, which the router holds open for later commands.
    pub hosts: BTreeMap<String, PathBuf>,
}

/// One of the places that the router joins.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GatewayConfig {
    /// Its name.
    pub place: String,
    /// The first three bytes of the addresses there.
    pub network: [u8; 3],
    /// The namespace with its TUN device.
    pub namespace: PathBuf,
}

/// What the router answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// Done; how the network is now.
    Done(State),
    /// Nothing has changed; why, and what to do.
    Refused(String),
}

/// How the network is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// Every direction.
    pub directions: Vec<Direction>,
    /// A file by which the namespace of the clients can be entered.
    pub hub: PathBuf,
    /// The same for each host.
    pub hosts: BTreeMap<String, PathBuf>,
}

/// The WAN could not be asked or changed.
#[derive(Debug, thiserror::Error)]
pub enum WanError {
    /// The topology has none.
    #[error("this lab has no WAN\nHINT: write wan: {{rtt: 40ms}} into its topology file")]
    None,
    /// A topology with a WAN, and no namespaces to put it into.
    #[error(
        "the topology has a wan, which needs network namespaces\n\
         HINT: start it as root with lab up, or take wan out of the topology file"
    )]
    NoNamespaces,
    /// The router does not answer.
    #[error(
        "cannot ask the WAN router by {socket}: {source}\n\
         HINT: router.log beside it may say why; lab down, then lab up, start it anew"
    )]
    Silent {
        /// Its socket.
        socket: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It answers something else than it should.
    #[error("the WAN router answers what is no answer: {0}")]
    Garbled(serde_json::Error),
    /// It refused.
    #[error("{0}")]
    Refused(String),
    /// Its file of settings.
    #[error("cannot write {path}: {source}")]
    Settings {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// The WAN of a lab.
#[derive(Debug, Clone)]
pub struct Wan {
    socket: PathBuf,
}

impl Wan {
    /// That of a lab with this layout.
    #[must_use]
    pub fn of(layout: &Layout) -> Self {
        Self { socket: layout.router_socket() }
    }

    /// How the network is.
    ///
    /// # Errors
    /// When the router does not answer.
    pub fn state(&self) -> Result<State, WanError> {
        self.ask(&Request::Status)
    }

    /// From now on packets from one datacenter to another are lost, those under way, too.
    ///
    /// # Errors
    /// When there is no such direction, or the router does not answer.
    pub fn cut(&self, from: &str, to: &str) -> Result<State, WanError> {
        self.ask(&Request::Cut { from: from.to_owned(), to: to.to_owned() })
    }

    /// The same in both directions.
    ///
    /// # Errors
    /// As [`Self::cut`].
    pub fn cut_both(&self, one: &str, two: &str) -> Result<State, WanError> {
        self.cut(one, two)?;
        self.cut(two, one)
    }

    /// Packets from one datacenter to another arrive again.
    ///
    /// # Errors
    /// When there is no such direction, or the router does not answer.
    pub fn heal(&self, from: &str, to: &str) -> Result<State, WanError> {
        self.ask(&Request::Heal { from: from.to_owned(), to: to.to_owned() })
    }

    /// Every direction is whole again.
    ///
    /// # Errors
    /// When the router does not answer.
    pub fn heal_all(&self) -> Result<State, WanError> {
        self.ask(&Request::HealAll)
    }

    /// From now on packets fare otherwise.
    ///
    /// # Errors
    /// When the router does not answer.
    pub fn set(&self, change: Change) -> Result<State, WanError> {
        self.ask(&Request::Set(change))
    }

    fn ask(&self, request: &Request) -> Result<State, WanError> {
        let silent = |source| WanError::Silent { socket: self.socket.clone(), source };
        let line = serde_json::to_string(request).map_err(WanError::Garbled)?;
        let answer = converse(&self.socket, &line).map_err(silent)?;
        match serde_json::from_str(&answer).map_err(WanError::Garbled)? {
            Answer::Done(state) => Ok(state),
            Answer::Refused(why) => Err(WanError::Refused(why)),
        }
    }
}

/// One line there, one line back.
fn converse(socket: &Path, line: &str) -> io::Result<String> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(ANSWER_LIMIT))?;
    stream.set_write_timeout(Some(ANSWER_LIMIT))?;
    stream.write_all(format!("{line}\n").as_bytes())?;
    let mut answer = String::new();
    BufReader::new(stream.take(MAX_BYTES)).read_line(&mut answer)?;
    Ok(answer)
}

/// Writes the router's file of settings; its path.
pub(crate) fn write_settings(
    layout: &Layout,
    namespaces: &Namespaces,
    (shape, seed): (Shape, u64),
) -> Result<PathBuf, crate::LabError> {
    let hosts = layout.hosts.iter();
    let hosts: Result<_, NamespaceError> =
        hosts.map(|host| Ok((host.name.clone(), namespaces.path_of_host(&host.name)?))).collect();
    let gateways = namespaces.gateways().iter().map(|gateway| GatewayConfig {
        place: gateway.place.clone(),
        network: gateway.network,
        namespace: gateway.path(),
    });
    let config = RouterConfig {
        socket: layout.router_socket(),
        seed,
        shape,
        gateways: gateways.collect(),
        hosts: hosts?,
    };
    let path = layout.router_dir().join("router.json");
    let failed = |source| WanError::Settings { path: path.clone(), source };
    let text = serde_json::to_string_pretty(&config).map_err(io::Error::other).map_err(failed)?;
    fs::create_dir_all(layout.router_dir()).map_err(failed)?;
    fs::write(&path, text).map_err(failed)?;
    Ok(path)
}
