//! What a return costs, before anything is discarded: for each node whether it follows, is rewound
//! or copied anew and why, the bytes that move, and how long that takes at which rate.
//!
//! The agents look at their data directories and say ([`Examination`]); nothing is estimated that
//! nobody has looked at. One node of a datacenter crosses to the source, its leader; the others
//! take from that leader.

use crate::history::{ClosedOperation, MeasuredCopy};
use crate::inventory::{DcView, Fact, Inventory};
use crate::runway::duration;
use crate::seeding::size;
use node_agent_wire::{DcName, Lsn, MemberName, OperationId, TimelineId};
use serde::{Deserialize, Serialize};
use std::fmt;

/// Between datacenters, bytes a second, while nothing was measured: 100 Mbit/s, less overhead.
pub const ASSUMED_BETWEEN: u64 = 10 << 20;
/// Within a datacenter: 1 Gbit/s, less overhead.
pub const ASSUMED_WITHIN: u64 = 100 << 20;
/// The method that takes its bytes from a server.
const BASEBACKUP: &str = "basebackup";

/// What becomes of a node's data directory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Fate {
    /// It follows as it is.
    Follow,
    /// pg_rewind.
    Rewind,
    /// A new copy.
    Copy,
    /// Nothing before an operator has done something.
    Operator,
    /// It can't be told.
    #[default]
    Unknown,
}

impl Fate {
    /// By the name that agents give it.
    #[must_use]
    pub fn named(name: &str) -> Self {
        match name {
            "follow" => Self::Follow,
            "rewind" => Self::Rewind,
            "copy" => Self::Copy,
            "operator" => Self::Operator,
            _ => Self::Unknown,
        }
    }

    /// The same for people.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Follow => "follow",
            Self::Rewind => "rewind",
            Self::Copy => "copy",
            Self::Operator => "operator",
            Self::Unknown => "unknown",
        }
    }
}

/// What an agent found when it looked.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Examination {
    /// What would become of its data directory.
    pub fate: Fate,
    /// Why, in one line.
    pub why: String,
    /// Where what only this node has begins; `None`: nothing is lost.
    pub fork: Option<(TimelineId, Lsn)>,
    /// The end of its WAL; zero when it is not known.
    pub end: Lsn,
    /// Bytes that pg_rewind would fetch.
    pub rewind_bytes: Option<u64>,
    /// The most that they can be.
    pub rewind_bytes_max: Option<u64>,
    /// Why bytes are not known.
    pub bytes_unknown: String,
    /// Bytes of its own data directory, where that was asked.
    pub data_bytes: Option<u64>,
    /// Its pg_rewind takes no standby as a source.
    pub needs_primary: bool,
    /// What fills its empty data directory, in order.
    pub copy_methods: Vec<String>,
}

/// A number of bytes, or why it is not known.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Bytes {
    /// About so many; at most so many, where there is a bound.
    About(u64, Option<u64>),
    /// Why they are not known.
    Unknown(String),
}

/// Which way they go.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Route {
    /// From the source, another datacenter.
    Between,
    /// From the leader of the own datacenter.
    Within,
    /// From wherever this method gets them.
    Method(String),
    /// None move.
    Nowhere,
}

/// One node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeQuote {
    /// Which.
    pub node: MemberName,
    /// What becomes of it.
    pub fate: Fate,
    /// Why.
    pub why: String,
    /// What moves.
    pub bytes: Bytes,
    /// Which way.
    pub route: Route,
}

/// What a rate rests on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Basis {
    /// The copy of this node in this operation.
    Measured(OperationId, MemberName),
    /// The configured limit.
    Limit,
    /// Nothing.
    Assumed,
}

/// A rate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rate {
    /// Bytes a second.
    pub bytes_s: u64,
    /// What it rests on.
    pub basis: Basis,
}

/// All that goes one way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leg {
    /// Bytes, as far as they are known.
    pub bytes: u64,
    /// The nodes whose bytes are not known.
    pub unknown: Vec<MemberName>,
    /// The rate.
    pub rate: Rate,
}

/// The whole of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quote {
    /// The datacenter that returns.
    pub dc: DcName,
    /// The one that it follows.
    pub source: DcName,
    /// Its nodes.
    pub nodes: Vec<NodeQuote>,
    /// What comes from the source.
    pub between: Leg,
    /// What comes from the own leader.
    pub within: Leg,
    /// It has no leader now: the node with the most bytes counts as the one that crosses.
    pub leaderless: bool,
}

/// The quote of a rejoin of `dc`, by what its agents and the leader of `primary` have found.
/// `None`: nobody was asked.
#[must_use]
pub fn of(inventory: &Inventory, dc: &DcName, primary: &DcName) -> Option<Quote> {
    let view = inventory.view(dc)?;
    if view.examined.is_empty() {
        return None;
    }
    let leader = view.leader.as_ref().filter(|leader| view.examined.contains_key(*leader));
    let scene = Scene { inventory, dc, primary };
    let mut nodes: Vec<NodeQuote> =
        view.examined.iter().map(|(node, fact)| scene.node(node, fact, leader)).collect();
    if leader.is_none()
        && let Some(most) = nodes.iter_mut().max_by_key(|node| known(&node.bytes))
        && most.route == Route::Within
    {
        most.route = Route::Between;
    }
    let limit = inventory.sites.get(dc).and_then(|site| site.seed.max_rate);
    let history = inventory.history();
    let leg = |route: Route, rate: Rate| Leg::of(&nodes, &route, rate);
    Some(Quote {
        dc: dc.clone(),
        source: primary.clone(),
        between: leg(Route::Between, rate(&history, dc, true, limit)),
        within: leg(Route::Within, rate(&history, dc, false, None)),
        nodes,
        leaderless: leader.is_none(),
    })
}

fn known(bytes: &Bytes) -> u64 {
    match bytes {
        Bytes::About(bytes, _) => *bytes,
        Bytes::Unknown(_) => 0,
    }
}

struct Scene<'i> {
    inventory: &'i Inventory,
    dc: &'i DcName,
    primary: &'i DcName,
}

impl Scene<'_> {
    fn node(
        &self,
        node: &MemberName,
        fact: &Fact<Examination>,
        leader: Option<&MemberName>,
    ) -> NodeQuote {
        let leads = leader == Some(node);
        let found = match fact {
            Fact::Known(found) => found,
            Fact::Unknown { why, .. } => {
                let bytes = Bytes::Unknown(why.clone());
                let (fate, route) = (Fate::Unknown, way(leads));
                return NodeQuote { node: node.clone(), fate, why: why.clone(), bytes, route };
            }
        };
        let (bytes, route) = match found.fate {
            Fate::Follow => (self.behind(found), way(leads)),
            Fate::Rewind => {
                let bytes = match found.rewind_bytes {
                    Some(bytes) => Bytes::About(bytes, found.rewind_bytes_max),
                    None => Bytes::Unknown(found.bytes_unknown.clone()),
                };
                (bytes, way(leads || found.needs_primary))
            }
            Fate::Copy => self.copy(found, leads),
            Fate::Operator => (Bytes::About(0, None), Route::Nowhere),
            Fate::Unknown => (Bytes::Unknown(found.why.clone()), way(leads)),
        };
        let (node, why) = (node.clone(), found.why.clone());
        NodeQuote { node, fate: found.fate, why, bytes, route }
    }

    /// The WAL that it has not.
    fn behind(&self, found: &Examination) -> Bytes {
        let source = self.inventory.view(self.primary).and_then(DcView::leader_node);
        match source {
            Some(source) if found.end.0 > 0 => {
                Bytes::About(source.lsn.bytes_since(found.end), None)
            }
            Some(_) => Bytes::Unknown("the end of its WAL is not known".into()),
            None => Bytes::Unknown(format!("the leader of {} does not answer", self.primary)),
        }
    }

    fn copy(&self, found: &Examination, leads: bool) -> (Bytes, Route) {
        let seed = self.inventory.sites.get(self.dc).map(|site| &site.seed.methods);
        let seed = seed.filter(|methods| leads && !methods.is_empty());
        let first = seed.unwrap_or(&found.copy_methods).first();
        match first {
            Some(method) if method != BASEBACKUP => {
                let why = format!("{method} does not say what it moves");
                (Bytes::Unknown(why), Route::Method(method.clone()))
            }
            Some(_) | None => (data_bytes(self.inventory, self.primary), way(leads)),
        }
    }
}

fn way(between: bool) -> Route {
    if between { Route::Between } else { Route::Within }
}

/// What a copy of `dc` moves, by its leader's word.
fn data_bytes(inventory: &Inventory, dc: &DcName) -> Bytes {
    let view = inventory.view(dc);
    let fact = view.and_then(|view| view.examined.get(view.leader.as_ref()?));
    match fact {
        Some(Fact::Known(Examination { data_bytes: Some(bytes), .. })) => {
            Bytes::About(*bytes, None)
        }
        Some(Fact::Known(found)) => Bytes::Unknown(found.bytes_unknown.clone()),
        Some(Fact::Unknown { why, .. }) => Bytes::Unknown(why.clone()),
        None => Bytes::Unknown(format!("the leader of {dc} was not asked")),
    }
}

/// The rate of the last copy that was measured, of the same datacenter rather than of another;
/// otherwise an assumed one. Never above the limit.
fn rate(history: &[ClosedOperation], dc: &DcName, between: bool, limit: Option<u64>) -> Rate {
    let newest_first = || {
        let all = history.iter().rev();
        all.flat_map(|closed| closed.copies.iter().map(move |copy| (closed, copy)))
            .filter(|(_, copy)| copy.between == between)
    };
    let same = newest_first().find(|(_, copy)| copy.dc == *dc);
    let measured = same.or_else(|| newest_first().next()).map(|(closed, copy)| Rate {
        bytes_s: copy.bytes_s(),
        basis: Basis::Measured(closed.id.clone(), copy.node.clone()),
    });
    let assumed = if between { ASSUMED_BETWEEN } else { ASSUMED_WITHIN };
    match (measured, limit) {
        (Some(rate), Some(limit)) if rate.bytes_s > limit => {
            Rate { bytes_s: limit, basis: Basis::Limit }
        }
        (Some(rate), _) => rate,
        (None, Some(limit)) => Rate { bytes_s: limit, basis: Basis::Limit },
        (None, None) => Rate { bytes_s: assumed, basis: Basis::Assumed },
    }
}

impl MeasuredCopy {
    /// Bytes a second, at least one.
    #[must_use]
    pub fn bytes_s(&self) -> u64 {
        let took = u64::try_from(self.took_ms).unwrap_or(1).max(1);
        (self.bytes.saturating_mul(1000) / took).max(1)
    }
}

impl Leg {
    fn of(nodes: &[NodeQuote], route: &Route, rate: Rate) -> Self {
        let mut leg = Self { bytes: 0, unknown: Vec::new(), rate };
        for node in nodes.iter().filter(|node| node.route == *route) {
            match &node.bytes {
                Bytes::About(bytes, _) => leg.bytes = leg.bytes.saturating_add(*bytes),
                Bytes::Unknown(_) => leg.unknown.push(node.node.clone()),
            }
        }
        leg
    }

    /// How long it takes at the rate, in whole seconds, rounded up.
    #[must_use]
    pub fn seconds(&self) -> u64 {
        self.bytes.div_ceil(self.rate.bytes_s.max(1))
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rate = size(self.bytes_s);
        match &self.basis {
            Basis::Measured(operation, node) => {
                write!(f, "at {rate}/s (measured: {node} in {operation})")
            }
            Basis::Limit => write!(f, "at {rate}/s (the configured limit)"),
            Basis::Assumed => write!(f, "at {rate}/s (assumed: no copy was measured here yet)"),
        }
    }
}

impl fmt::Display for Leg {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.unknown.iter().map(MemberName::as_str).collect();
        let (names, rate) = (names.join(", "), &self.rate);
        let (bytes, time) = (size(self.bytes), duration(self.seconds()));
        match (self.bytes, names.as_str()) {
            (0, "") => write!(f, "nothing"),
            (0, names) => write!(f, "not known of {names}"),
            (_, "") => write!(f, "{bytes}, {time} {rate}"),
            (_, names) => {
                write!(f, "at least {bytes}, {time} {rate}; not known of {names}")
            }
        }
    }
}

impl Quote {
    /// One line a node, and one for each way.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        let (dc, source) = (&self.dc, &self.source);
        let mut lines =
            vec![format!("The nodes of {dc}, as their agents find them (nothing was changed):")];
        let width = self.nodes.iter().map(|node| node.node.as_str().len()).max().unwrap_or(0);
        for node in &self.nodes {
            let fate = node.fate.as_str();
            let moved = match (&node.route, &node.bytes) {
                (Route::Nowhere, _) => String::new(),
                (_, Bytes::Unknown(why)) if *why == node.why => String::new(),
                (route, bytes) => format!("{}, {}; ", self.way(route), told(bytes)),
            };
            lines.push(format!("  {:<width$}  {fate:<8} {moved}{}", node.node.as_str(), node.why));
        }
        if self.leaderless {
            lines.push(format!(
                "  {dc} has no leader now; the node that becomes it is the one that crosses"
            ));
        }
        lines.push(format!("  from {source} to {dc}: {}", self.between));
        lines.push(format!("  within {dc}, after that: {}", self.within));
        lines
    }

    fn way(&self, route: &Route) -> String {
        match route {
            Route::Between => format!("from {}", self.source),
            Route::Within => format!("within {}", self.dc),
            Route::Method(name) => format!("by {name}"),
            Route::Nowhere => "nothing moves".to_owned(),
        }
    }
}

fn told(bytes: &Bytes) -> String {
    match bytes {
        Bytes::About(bytes, None) => size(*bytes),
        Bytes::About(bytes, Some(most)) => format!("{} (at most {})", size(*bytes), size(*most)),
        Bytes::Unknown(why) => format!("bytes not known: {why}"),
    }
}

/// What a new copy of every node of `dc` moves and how long it takes, in words: its leader copies
/// `source`, the others copy that leader.
#[must_use]
pub fn reseed(inventory: &Inventory, dc: &DcName, source: &DcName) -> String {
    let seed = inventory.sites.get(dc).map(|site| site.seed.clone()).unwrap_or_default();
    if let Some(method) = seed.methods.first().filter(|method| *method != BASEBACKUP) {
        return format!("its leader is filled by {method}, which does not say what it moves");
    }
    let bytes = match data_bytes(inventory, source) {
        Bytes::About(bytes, _) => bytes,
        Bytes::Unknown(why) => return format!("how much that moves is not known: {why}"),
    };
    let history = inventory.history();
    let leg = |count: u64, rate| {
        let bytes = bytes.saturating_mul(count);
        Leg { bytes, unknown: Vec::new(), rate }
    };
    let between = leg(1, rate(&history, dc, true, seed.max_rate));
    let others = nodes(inventory, dc).saturating_sub(1);
    let first = format!("{between} from {source}");
    if others == 0 {
        return first;
    }
    let within = leg(others, rate(&history, dc, false, None));
    format!("{first}, then {within} within {dc}")
}

/// How many nodes a datacenter has, by its own word or that of the newest record.
fn nodes(inventory: &Inventory, dc: &DcName) -> u64 {
    let seen = inventory.view(dc).map_or(0, |view| view.members.len());
    let recorded = inventory.newest().and_then(|record| record.members.get(dc));
    let recorded = recorded.map_or(0, |entry| entry.nodes.len());
    u64::try_from(seen.max(recorded)).unwrap_or(u64::MAX)
}

#[cfg(test)]
#[path = "quote_tests.rs"]
mod tests;
