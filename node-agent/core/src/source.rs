//! Whom this node follows, and whom it copies: the leader, the member that `replicatefrom` names,
//! the primary of another cluster, or the archive alone (behaviour 8, 16, 18).

use crate::abroad;
use crate::decision::RewindTo;
use crate::divergence::{SourceHistory, Verdict, verdict};
use crate::observed::{Cluster, Observed};
use crate::postgres::{Peer, Postgres, Upstream};
use node_agent_wire::MemberName;
use node_agent_wire::dynamic::StandbyCluster;
use node_agent_wire::member::{Member, state};

/// Whom a standby follows, and whom to ask besides before that may change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// Whom.
    pub upstream: Upstream,
    /// A member that may be followed once its history is known.
    pub ask: Option<Upstream>,
}

/// The member that leads. `None`: its address is not known.
#[must_use]
pub fn of_leader(cluster: &Cluster) -> Option<Upstream> {
    upstream(cluster.leader_member()?)
}

fn upstream(member: &Member) -> Option<Upstream> {
    let (host, port) = member.postgres_address()?;
    Some(Upstream::Member { name: member.name.clone(), host, port })
}

/// What the leader itself follows: the source of a standby cluster, or nobody.
#[must_use]
pub fn of_standby_leader(cluster: &Cluster) -> Upstream {
    match &cluster.config.standby_cluster {
        Some(standby) if standby.host.is_some() => {
            let (hosts, slot) = (standby.hosts(), standby.primary_slot_name.clone());
            Upstream::Remote { hosts, slot, cascade: standby.cascade }
        }
        Some(standby) if standby.restore_command.is_some() => Upstream::Archive { of: None },
        Some(_) | None => Upstream::Nobody,
    }
}

/// Whom a standby follows while the member `leader` leads.
///
/// A member that `replicatefrom` names is followed while it answers and this node's WAL is part of
/// its history; otherwise the leader is. Whether WAL has to be rewound is judged by the leader
/// alone: a member in the middle may itself be behind.
#[must_use]
pub fn choose(observed: &Observed, cluster: &Cluster, leader: Upstream) -> Choice {
    let only = |upstream: Upstream| Choice { upstream, ask: None };
    if observed.me.nostream {
        return only(Upstream::Archive { of: peer(&leader) });
    }
    let Some(middle) = middle(observed, cluster).and_then(upstream) else { return only(leader) };
    let points = observed.following.as_ref() == Some(&middle);
    if points && streams(&observed.postgres) {
        return only(middle);
    }
    let pause = observed.config.timing.loop_wait;
    match observed.history_of(&middle) {
        Some(source) if contains_us(observed, source) => only(middle),
        Some(source) => {
            let due = observed.now.since(source.at) >= pause;
            Choice { upstream: leader, ask: due.then_some(middle) }
        }
        // Nothing follows anybody yet: the question costs nothing.
        None if points || !runs(&observed.postgres) => only(middle),
        None => Choice { upstream: leader, ask: Some(middle) },
    }
}

/// The member that `replicatefrom` names, when there is one that does not follow this node itself.
fn middle<'a>(observed: &Observed, cluster: &'a Cluster) -> Option<&'a Member> {
    let me = &observed.me.name;
    let wished = observed.me.replicatefrom.as_ref()?;
    let member = cluster.members.get(wished)?;
    let direct = wished == me || cluster.leader.as_ref() == Some(wished);
    (!direct && !leads_back_to(cluster, member, me)).then_some(member)
}

/// Whether the chain of `replicatefrom` that begins at `member` comes back to `me`.
fn leads_back_to(cluster: &Cluster, member: &Member, me: &MemberName) -> bool {
    let mut at = member;
    for _ in 0..=cluster.members.len() {
        let next = at.replicatefrom().filter(|name| cluster.leader.as_ref() != Some(name));
        match next {
            Some(next) if next == *me => return true,
            Some(next) => match cluster.members.get(&next) {
                Some(member) => at = member,
                None => return false,
            },
            None => return false,
        }
    }
    // A circle of others: they follow the leader, so whoever follows one of them is safe.
    false
}

/// Whether `member` streams straight from `node` while `leader` leads, as far as tags tell: the
/// leader serves those that name nobody, or somebody who is not there.
#[must_use]
pub fn streams_from(cluster: &Cluster, member: &Member, node: &MemberName) -> bool {
    let leads = cluster.leader.as_ref() == Some(node);
    if member.nostream() || member.name == *node {
        return false;
    }
    match member.replicatefrom().and_then(|name| cluster.members.get(&name)) {
        Some(middle) if middle.name != member.name => {
            middle.name == *node || (leads && leads_back_to(cluster, middle, &member.name))
        }
        Some(_) | None => leads,
    }
}

fn peer(upstream: &Upstream) -> Option<Peer> {
    match upstream {
        Upstream::Member { name, host, port } => {
            Some(Peer { name: name.clone(), host: host.clone(), port: *port })
        }
        Upstream::Archive { of } => of.clone(),
        Upstream::Remote { .. } | Upstream::Nobody => None,
    }
}

/// The server that stands for an upstream when its data are needed: to rewind to, or to copy.
#[must_use]
pub fn data_of(upstream: &Upstream) -> Upstream {
    match upstream {
        Upstream::Archive { of: Some(Peer { name, host, port }) } => {
            Upstream::Member { name: name.clone(), host: host.clone(), port: *port }
        }
        Upstream::Archive { of: None }
        | Upstream::Member { .. }
        | Upstream::Remote { .. }
        | Upstream::Nobody => upstream.clone(),
    }
}

/// The servers that a directory which has left the history of `upstream` is rewound to.
///
/// One node of a standby datacenter crosses to another datacenter: its leader. The others are
/// rewound to that leader, whose history they have left only when it is back on the common one. In
/// a cascade the leader goes to the primary datacenter: its source is a standby itself, which may
/// be behind.
#[must_use]
pub fn to_rewind(observed: &Observed, upstream: &Upstream) -> RewindTo {
    let standby = observed.config.standby_cluster.as_ref();
    let (own, member) = match data_of(upstream) {
        Upstream::Member { host, port, .. } => (vec![(host, port)], true),
        Upstream::Remote { hosts, .. } => (hosts, false),
        Upstream::Archive { .. } | Upstream::Nobody => (Vec::new(), false),
    };
    if member && standby.is_some() && !observed.directory.rewinds_to_primary_only {
        return RewindTo { hosts: own, standby: true };
    }
    let abroad = abroad::primary_of_cascade(observed).or(standby.map(StandbyCluster::hosts));
    let hosts = abroad.filter(|hosts| !hosts.is_empty()).unwrap_or(own);
    RewindTo { hosts, standby: false }
}

fn contains_us(observed: &Observed, source: &SourceHistory) -> bool {
    verdict(observed, source) == Some(Verdict::InHistory)
}

fn runs(postgres: &Postgres) -> bool {
    match postgres {
        Postgres::Running(_) => true,
        Postgres::NoData
        | Postgres::Unreadable(_)
        | Postgres::Stopped(_)
        | Postgres::Starting { .. }
        | Postgres::Unresponsive { .. } => false,
    }
}

fn streams(postgres: &Postgres) -> bool {
    match postgres {
        Postgres::Running(running) => {
            running.receiver.as_ref().is_some_and(|r| r.status == "streaming")
        }
        Postgres::NoData
        | Postgres::Unreadable(_)
        | Postgres::Stopped(_)
        | Postgres::Starting { .. }
        | Postgres::Unresponsive { .. } => false,
    }
}

/// Whom a new replica copies: one of the running members tagged `clonefrom` that is on the leader's
/// timeline, else the leader. Which one of several depends on the moment.
#[must_use]
pub fn to_copy(observed: &Observed, cluster: &Cluster, leader: &Upstream) -> Upstream {
    let timeline = cluster.leader_member().and_then(|m| m.data.timeline);
    let fit = |member: &&Member| {
        member.tag("clonefrom")
            && member.name != observed.me.name
            && cluster.leader.as_ref() != Some(&member.name)
            && member.data.state == state::RUNNING
            && (timeline.is_none() || member.data.timeline == timeline)
    };
    let offers: Vec<Upstream> = cluster.members.values().filter(fit).filter_map(upstream).collect();
    let count = u64::try_from(offers.len()).unwrap_or(0);
    // Milliseconds: the nanoseconds of some clocks are round.
    let pick = (observed.now.0 / 1_000_000).checked_rem(count);
    let pick = pick.and_then(|index| usize::try_from(index).ok());
    pick.and_then(|index| offers.into_iter().nth(index)).unwrap_or_else(|| data_of(leader))
}

/// The replica methods that `standby_cluster` sets for a copy of its own source; `None` where the
/// methods of the `postgresql` section count.
#[must_use]
pub fn standby_methods<'a>(
    source: &Upstream,
    standby: Option<&'a StandbyCluster>,
) -> Option<&'a [String]> {
    let remote = match source {
        Upstream::Remote { .. } | Upstream::Archive { of: None } => true,
        Upstream::Member { .. } | Upstream::Archive { of: Some(_) } | Upstream::Nobody => false,
    };
    standby.map(|s| s.create_replica_methods.as_slice()).filter(|list| remote && !list.is_empty())
}
