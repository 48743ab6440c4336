//! The loopback network of a lab: which addresses its hosts get, and how two labs stay apart.
//!
//! A lab owns `127.<second octet>.0.0/16`. A *claim* (a small file that names the lab's directory
//! and the process that made it) keeps a network taken even while hosts of the lab are switched off
//! and their ports look free.

use std::fmt;
use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use rustix::fs::FlockOperation;
use serde::de::{self, Deserializer, Visitor};
use serde::{Deserialize, Serialize, Serializer};

use crate::processes::Identity;

/// Networks that [`claim_free`] tries, by second octet.
const FREE_RANGE: std::ops::RangeInclusive<u8> = 30..=250;

/// The network `127.N.0.0/16`, or that of a lab with network namespaces of its own. N is never 0:
/// 127.0.0.0/16 belongs to everybody.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Network(u8, u8);

/// First octet of all loopback networks.
const LOOPBACK: u8 = 127;

/// What is wrong with a network, or with taking one.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// The text is not of the form `127.N`.
    #[error("\"{0}\" is no lab network: write 127 and a number from 1 to 255 (example: 127.20)")]
    Malformed(String),
    /// Another lab claims the network.
    #[error(
        "network {network} belongs to the lab in {owner}\n\
         HINT: stop that lab (lab down --dir {owner}), or choose another with --network 127.N"
    )]
    Claimed {
        /// The network that was asked for.
        network: Network,
        /// Directory of the lab which has it.
        owner: PathBuf,
    },
    /// Something already listens on an address of the lab.
    #[error(
        "cannot listen on {address}: {source}\n\
         HINT: another program or lab uses it; choose another network with --network 127.N"
    )]
    AddressInUse {
        /// The address that was tried.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// No network of the range is free.
    #[error("no free loopback network in 127.30 to 127.250\nHINT: stop labs that you do not need")]
    NoneFree,
    /// The directory of claims cannot be used.
    #[error("cannot keep network claims in {path}: {source}")]
    Claims {
        /// File or directory which failed.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl Network {
    /// The network of every lab that has network namespaces of its own, set aside for tests by
    /// RFC 2544. Nothing of it exists outside of these namespaces.
    pub const SEPARATE: Self = Self(198, 18);

    /// The address `127.N.<dc>.<host>`.
    #[must_use]
    pub fn address(self, dc: u8, host: u8) -> Ipv4Addr {
        Ipv4Addr::new(self.0, self.1, dc, host)
    }

    /// Every address that a client of the lab may have, for `pg_hba`.
    #[must_use]
    pub fn clients(self) -> String {
        if self == Self::SEPARATE { format!("{self}.0.0/16") } else { "127.0.0.0/8".to_owned() }
    }

    const fn loopback(n: u8) -> Self {
        Self(LOOPBACK, n)
    }
}

impl FromStr for Network {
    type Err = NetworkError;

    fn from_str(text: &str) -> Result<Self, NetworkError> {
        if text == Self::SEPARATE.to_string() {
            return Ok(Self::SEPARATE);
        }
        let octet = text.strip_prefix("127.").and_then(|rest| rest.parse::<u8>().ok());
        match octet {
            Some(n) if n > 0 => Ok(Self::loopback(n)),
            Some(_) | None => Err(NetworkError::Malformed(text.to_owned())),
        }
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.0, self.1)
    }
}

impl Serialize for Network {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Network {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl Visitor<'_> for Text {
            type Value = Network;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a loopback network (example: 127.20)")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Network, E> {
                text.parse().map_err(E::custom)
            }
        }
        // Asking for text matters: as a number, 127.20 would be the same as 127.2.
        deserializer.deserialize_str(Text)
    }
}

/// Who took a network.
#[derive(Debug, Serialize, Deserialize)]
struct Claim {
    lab_dir: PathBuf,
    claimant: Identity,
}

impl Claim {
    /// A claim holds while its lab exists on disk, and before that while its maker lives.
    fn holds(&self) -> bool {
        crate::state::is_lab_dir(&self.lab_dir) || self.claimant.is_alive()
    }
}

/// The claims of one user's labs; `root` is the directory that also holds the labs.
#[derive(Debug, Clone)]
pub struct Claims {
    root: PathBuf,
}

impl Claims {
    /// Claims kept below `root`, which must exist.
    #[must_use]
    pub fn below(root: &Path) -> Self {
        Self { root: root.join("networks") }
    }

    /// Takes `network` for the lab in `lab_dir`, after trying to listen on all `addresses`.
    ///
    /// # Errors
    /// When another lab has it, or an address is in use.
    pub fn take(
        &self,
        network: Network,
        lab_dir: &Path,
        addresses: &[SocketAddr],
    ) -> Result<(), NetworkError> {
        let _lock = self.lock()?;
        if let Some(claim) = self.read(network)
            && claim.lab_dir != lab_dir
            && claim.holds()
        {
            return Err(NetworkError::Claimed { network, owner: claim.lab_dir });
        }
        for &address in addresses {
            if let Err(source) = TcpListener::bind(address) {
                return Err(NetworkError::AddressInUse { address, source });
            }
        }
        self.write(network, lab_dir)
    }

    /// Takes the first free network for the lab in `lab_dir`; `addresses` lists what the lab would
    /// listen on in a given network.
    ///
    /// # Errors
    /// When no network is free.
    pub fn take_free(
        &self,
        lab_dir: &Path,
        addresses: impl Fn(Network) -> Vec<SocketAddr>,
    ) -> Result<Network, NetworkError> {
        for network in FREE_RANGE.map(Network::loopback) {
            match self.take(network, lab_dir, &addresses(network)) {
                Ok(()) => return Ok(network),
                Err(NetworkError::Claimed { .. } | NetworkError::AddressInUse { .. }) => {}
                Err(
                    other @ (NetworkError::Claims { .. }
                    | NetworkError::Malformed(_)
                    | NetworkError::NoneFree),
                ) => return Err(other),
            }
        }
        Err(NetworkError::NoneFree)
    }

    /// Gives the network back, if the lab in `lab_dir` has it.
    ///
    /// # Errors
    /// When the claim file cannot be removed.
    pub fn release(&self, network: Network, lab_dir: &Path) -> Result<(), NetworkError> {
        let _lock = self.lock()?;
        match self.read(network) {
            Some(claim) if claim.lab_dir == lab_dir => {
                let path = self.path(network);
                fs::remove_file(&path).map_err(|source| NetworkError::Claims { path, source })
            }
            Some(_) | None => Ok(()),
        }
    }

    fn path(&self, network: Network) -> PathBuf {
        self.root.join(network.to_string())
    }

    /// An unreadable claim counts as none: the addresses are tried anyway.
    fn read(&self, network: Network) -> Option<Claim> {
        let text = fs::read_to_string(self.path(network)).ok()?;
        serde_json::from_str(&text).ok()
    }

    fn write(&self, network: Network, lab_dir: &Path) -> Result<(), NetworkError> {
        let path = self.path(network);
        let fail = |source| NetworkError::Claims { path: self.path(network), source };
        let claimant = Identity::of_this_process().map_err(fail)?;
        let claim = Claim { lab_dir: lab_dir.to_owned(), claimant };
        let text = serde_json::to_string(&claim).map_err(|e| fail(io::Error::other(e)))?;
        fs::write(path, text).map_err(fail)
    }

    /// Excludes other processes until the returned file is closed. Held for milliseconds only.
    fn lock(&self) -> Result<fs::File, NetworkError> {
        let fail = |source| NetworkError::Claims { path: self.root.clone(), source };
        fs::create_dir_all(&self.root).map_err(fail)?;
        let file = fs::File::create(self.root.join("lock")).map_err(fail)?;
        rustix::fs::flock(&file, FlockOperation::LockExclusive).map_err(|e| fail(e.into()))?;
        Ok(file)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_are_parsed_as_text() {
        let parsed: Network = serde_yaml::from_str("127.20").unwrap();
        assert_eq!(parsed, Network::loopback(20));
        assert_eq!(parsed.to_string(), "127.20");
        assert_eq!(parsed.address(2, 11), Ipv4Addr::new(127, 20, 2, 11));
        let separate = Network::SEPARATE.to_string();
        assert_eq!(separate.parse::<Network>().unwrap(), Network::SEPARATE);
        for bad in ["127.0", "127.256", "10.2", "127", "127.2.3", "127.x"] {
            assert!(bad.parse::<Network>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_claimed_network_is_not_given_twice() {
        let root = tempfile::tempdir().unwrap();
        let claims = Claims::below(root.path());
        let none = |_| Vec::new();
        let first = claims.take_free(&root.path().join("a"), none).unwrap();
        let second = claims.take_free(&root.path().join("b"), none).unwrap();
        assert_ne!(first, second);
        let refused = claims.take(first, &root.path().join("b"), &[]).unwrap_err();
        assert!(matches!(refused, NetworkError::Claimed { .. }), "{refused}");
        claims.release(first, &root.path().join("b")).unwrap();
        assert!(claims.take(first, &root.path().join("b"), &[]).is_err(), "not b's to release");
        claims.release(first, &root.path().join("a")).unwrap();
        claims.take(first, &root.path().join("b"), &[]).unwrap();
    }

    #[test]
    fn a_claim_ends_with_its_maker_when_no_lab_was_made() {
        let root = tempfile::tempdir().unwrap();
        let claims = Claims::below(root.path());
        let network = claims.take_free(&root.path().join("a"), |_| Vec::new()).unwrap();
        let gone = Identity::of_this_process().unwrap().with_other_start();
        let claim = Claim { lab_dir: root.path().join("a"), claimant: gone };
        fs::write(claims.path(network), serde_json::to_string(&claim).unwrap()).unwrap();
        claims.take(network, &root.path().join("b"), &[]).unwrap();
    }

    #[test]
    fn an_address_in_use_is_named() {
        let root = tempfile::tempdir().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let claims = Claims::below(root.path());
        let network = Network::loopback(200);
        let refused = claims.take(network, &root.path().join("a"), &[address]).unwrap_err();
        assert!(refused.to_string().contains(&address.to_string()), "{refused}");
    }
}
