//! The whole network between the datacenters: one link for each pair and direction. Pure, as
//! [`super::link`] is.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::link::{Counts, Link};
use super::shape::{Change, Shape};

/// Shortest header of IPv4.
const HEADER_BYTES: usize = 20;

/// What somebody asks of the network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// Changes nothing.
    Status,
    /// Packets in one direction are lost.
    Cut {
        /// Where they come from.
        from: String,
        /// Where they go to.
        to: String,
    },
    /// Packets in one direction arrive again.
    Heal {
        /// Where they come from.
        from: String,
        /// Where they go to.
        to: String,
    },
    /// Every direction is whole again.
    HealAll,
    /// Packets fare otherwise, in every direction.
    Set(Change),
}

/// One direction, as it is now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Direction {
    /// Where packets come from.
    pub from: String,
    /// Where they go to.
    pub to: String,
    /// How they fare.
    pub shape: Shape,
    /// Whether it is cut.
    pub cut: bool,
    /// What became of them so far.
    pub counts: Counts,
}

/// No such datacenter, or no direction between two.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "there is no way from \"{from}\" to \"{to}\" in this WAN\n\
     HINT: name two different ones of {}", known.join(", ")
)]
pub struct NoWay {
    from: String,
    to: String,
    known: Vec<String>,
}

/// A datacenter, or the place of the witness.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Side {
    name: String,
    /// The first three bytes of its addresses.
    network: [u8; 3],
}

/// The network between all sides.
#[derive(Debug)]
pub struct Fabric {
    sides: Vec<Side>,
    links: BTreeMap<(usize, usize), Link>,
}

impl Fabric {
    /// A network in which every direction is whole; `sides` are names and the first three bytes of
    /// the addresses there. Each link draws its own chance from the seed.
    #[must_use]
    pub fn new(sides: &[(String, [u8; 3])], shape: Shape, seed: u64) -> Self {
        let mut chance = fastrand::Rng::with_seed(seed);
        let mut links = BTreeMap::new();
        for from in 0..sides.len() {
            for to in (0..sides.len()).filter(|to| *to != from) {
                links.insert((from, to), Link::new(shape, chance.fork()));
            }
        }
        let side =
            |(name, network): &(String, [u8; 3])| Side { name: name.clone(), network: *network };
        Self { sides: sides.iter().map(side).collect(), links }
    }

    /// Takes a packet that a side sends at `now`. What is no IPv4, or goes nowhere, is lost.
    pub fn offer(&mut self, now: Duration, from: usize, packet: Vec<u8>) {
        let to = destination(&packet).and_then(|address| self.side_of(address));
        if let Some(link) = to.and_then(|to| self.links.get_mut(&(from, to))) {
            link.offer(now, packet);
        }
    }

    /// When the next packet arrives anywhere.
    #[must_use]
    pub fn next(&self) -> Option<Duration> {
        self.links.values().filter_map(Link::next).min()
    }

    /// A packet that has arrived by `now`, and where.
    pub fn take(&mut self, now: Duration) -> Option<(usize, Vec<u8>)> {
        self.links.iter_mut().find_map(|((_, to), link)| Some((*to, link.take(now)?)))
    }

    /// Does what is asked, and says how the network is afterwards.
    ///
    /// # Errors
    /// When there is no such direction; then nothing has changed.
    pub fn apply(&mut self, request: &Request) -> Result<Vec<Direction>, NoWay> {
        match request {
            Request::Status => {}
            Request::Cut { from, to } => self.link(from, to)?.cut(),
            Request::Heal { from, to } => self.link(from, to)?.heal(),
            Request::HealAll => self.links.values_mut().for_each(Link::heal),
            Request::Set(change) => {
                for link in self.links.values_mut() {
                    link.reshape(link.shape().changed(change));
                }
            }
        }
        Ok(self.directions())
    }

    fn directions(&self) -> Vec<Direction> {
        let name = |side: usize| self.sides.get(side).map(|s| s.name.clone()).unwrap_or_default();
        let direction = |((from, to), link): (&(usize, usize), &Link)| Direction {
            from: name(*from),
            to: name(*to),
            shape: link.shape(),
            cut: link.is_cut(),
            counts: link.counts(),
        };
        self.links.iter().map(direction).collect()
    }

    fn link(&mut self, from: &str, to: &str) -> Result<&mut Link, NoWay> {
        let place = |name: &str| self.sides.iter().position(|side| side.name == name);
        let pair = place(from).zip(place(to));
        let known = self.sides.iter().map(|side| side.name.clone()).collect();
        let none = || NoWay { from: from.to_owned(), to: to.to_owned(), known };
        pair.and_then(|pair| self.links.get_mut(&pair)).ok_or_else(none)
    }

    fn side_of(&self, address: Ipv4Addr) -> Option<usize> {
        let [a, b, c, _] = address.octets();
        self.sides.iter().position(|side| side.network == [a, b, c])
    }
}

/// Where a packet of IPv4 goes to (RFC 791, section 3.1).
fn destination(packet: &[u8]) -> Option<Ipv4Addr> {
    if packet.len() < HEADER_BYTES || packet.first()? >> 4 != 4 {
        return None;
    }
    let address: [u8; 4] = packet.get(16..20)?.try_into().ok()?;
    Some(address.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wan::shape::Delay;

    fn fabric() -> Fabric {
        let sides = [("dc1", 1), ("dc2", 2), ("witness", 3)];
        let sides = sides.map(|(name, octet)| (name.to_owned(), [198, 18, octet]));
        let rtt = Delay(Duration::from_millis(40));
        Fabric::new(&sides, Shape { rtt, ..Shape::default() }, 1)
    }

    fn packet(to: [u8; 4]) -> Vec<u8> {
        let mut packet = vec![0; HEADER_BYTES];
        packet[0] = 0x45;
        packet[16..20].copy_from_slice(&to);
        packet
    }

    /// Where the packets are that these sides send, after a second.
    fn arrive(fabric: &mut Fabric, sent: &[(usize, Vec<u8>)]) -> Vec<(usize, Vec<u8>)> {
        for (from, packet) in sent {
            fabric.offer(Duration::ZERO, *from, packet.clone());
        }
        std::iter::from_fn(|| fabric.take(Duration::from_secs(1))).collect()
    }

    #[test]
    fn a_packet_goes_where_its_address_is() {
        let (to_dc2, to_witness) = (packet([198, 18, 2, 11]), packet([198, 18, 3, 1]));
        let mut seen = arrive(&mut fabric(), &[(0, to_dc2.clone()), (1, to_witness.clone())]);
        seen.sort();
        assert_eq!(seen, [(1, to_dc2), (2, to_witness)]);
        let nowhere = [
            packet([198, 18, 1, 11]),
            packet([198, 18, 9, 1]),
            packet([10, 0, 2, 1]),
            vec![0x45; 19],
            Vec::new(),
            vec![0x60; 40],
        ];
        let seen = arrive(&mut fabric(), &nowhere.map(|packet| (0, packet)));
        assert!(seen.is_empty(), "{seen:?}");
    }

    #[test]
    fn one_direction_is_cut_and_healed_without_the_others() {
        let mut fabric = fabric();
        let cut = Request::Cut { from: "dc1".into(), to: "dc2".into() };
        let seen = fabric.apply(&cut).unwrap();
        let broken: Vec<_> = seen.iter().filter(|direction| direction.cut).collect();
        assert_eq!((seen.len(), broken.len()), (6, 1));
        assert_eq!((broken[0].from.as_str(), broken[0].to.as_str()), ("dc1", "dc2"));
        let back = packet([198, 18, 1, 11]);
        let both = [(0, packet([198, 18, 2, 11])), (1, back.clone())];
        assert_eq!(arrive(&mut fabric, &both), [(0, back)]);
        let heal = Request::Heal { from: "dc1".into(), to: "dc2".into() };
        assert!(fabric.apply(&heal).unwrap().iter().all(|direction| !direction.cut));
        assert_eq!(arrive(&mut fabric, &both).len(), 2);
        fabric.apply(&cut).unwrap();
        assert!(fabric.apply(&Request::HealAll).unwrap().iter().all(|direction| !direction.cut));
    }

    #[test]
    fn a_direction_that_is_none_is_refused_and_changes_nothing() {
        let mut fabric = fabric();
        let before = fabric.apply(&Request::Status).unwrap();
        for (from, to) in [("dc1", "dc1"), ("dc1", "dc9"), ("", "dc1")] {
            let cut = Request::Cut { from: from.into(), to: to.into() };
            let fault = fabric.apply(&cut).unwrap_err().to_string();
            assert!(fault.contains("dc1, dc2, witness"), "{fault}");
        }
        assert_eq!(fabric.apply(&Request::Status).unwrap(), before);
    }

    #[test]
    fn a_change_keeps_what_it_does_not_name() {
        let mut fabric = fabric();
        let change = Change { loss: Some("1%".parse().unwrap()), ..Change::default() };
        for direction in fabric.apply(&Request::Set(change)).unwrap() {
            let words = direction.shape.to_string();
            assert_eq!(words, "rtt 40ms, jitter 0s, loss 1%, rate unlimited");
        }
    }
}
