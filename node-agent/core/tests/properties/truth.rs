//! What is true of facts, told without the code that the properties check.

use super::*;
use node_agent_core::grants::Want;

pub fn dcs(o: &Observed) -> Option<&Cluster> {
    match &o.cluster {
        Fact::Known { value, .. } => Some(value),
        Fact::Unknown { .. } => None,
    }
}

pub fn record(cluster: &Cluster) -> Option<&FederationRecord> {
    match &cluster.record {
        RecordView::Present(keyed) => Some(&keyed.value),
        RecordView::Absent | RecordView::Unreadable(_) => None,
    }
}

/// I1 but for the lease: nothing known forbids this datacenter to accept writes.
pub fn datacenter_may_write(o: &Observed, cluster: &Cluster) -> bool {
    if cluster.config.standby_cluster.is_some() {
        return false;
    }
    match &cluster.record {
        RecordView::Absent => true,
        RecordView::Unreadable(_) => false,
        RecordView::Present(keyed) => {
            let ours = &keyed.value;
            let rival = o.peers.values().any(|fact| match fact {
                Fact::Known { value: theirs, .. } => {
                    theirs.federation == ours.federation
                        && (theirs.epoch > ours.epoch
                            || (theirs.epoch == ours.epoch && theirs.primary != ours.primary))
                }
                Fact::Unknown { .. } => false,
            });
            ours.primary == ours.dc && ours.fence.is_none() && !rival && granted(o, ours)
        }
    }
}

/// In lease mode a majority of the voters grants the epoch for a fifth of the TTL or more. While
/// the agent does not know yet, after its start, the guard stops PostgreSQL in its place.
fn granted(o: &Observed, ours: &FederationRecord) -> bool {
    if ours.members[&ours.dc].isolation == Isolation::Manual {
        return true;
    }
    let (Some(policy), Some(grants)) = (&ours.policies.grants, &o.grants) else { return false };
    let spare = Duration::from_millis(policy.holder_ttl_ms / 5);
    let asked = match &grants.want {
        Want::Hold { epoch, ahead_of: None } => *epoch == ours.epoch,
        Want::Hold { .. } | Want::Nothing | Want::Watch { .. } | Want::Release { .. } => false,
    };
    let held = asked && grants.until.is_some_and(|until| until > o.now + spare);
    held || writes(&o.postgres) && !(asked && grants.settled)
}

/// What a datacenter that does not write must know before it begins to.
pub fn start_is_confirmed(o: &Observed, cluster: &Cluster) -> bool {
    let Some(ours) = record(cluster) else { return true };
    let asked = ours.members.keys().filter(|dc| **dc != ours.dc).all(|dc| match o.peers.get(dc) {
        Some(Fact::Known { .. } | Fact::Unknown { tried: true, .. }) => true,
        Some(Fact::Unknown { tried: false, .. }) | None => false,
    });
    let limit = i64::try_from(ours.policies.cold_start_after_s + 1).unwrap() * 1_000_000;
    let lately = |at: Option<i64>| at.is_some_and(|at| o.wall_us - at < limit);
    let confirmed = ours.confirmed.as_ref().filter(|c| c.epoch == ours.epoch).map(|c| c.at_us);
    let vouched = o.peers.values().any(|fact| match fact {
        Fact::Known { value: theirs, .. } => {
            (&theirs.federation, theirs.epoch, &theirs.primary)
                == (&ours.federation, ours.epoch, &ours.dc)
        }
        Fact::Unknown { .. } => false,
    });
    let wrote = cluster.position.as_ref().and_then(|p| p.wrote_at_us);
    asked
        && (vouched
            || lately(confirmed)
            || lately(wrote)
            || lately(ours.claim.as_ref().map(|c| c.at_us)))
}

pub fn leads(o: &Observed, cluster: &Cluster) -> bool {
    let held = matches!(o.lease.held_until, Some(until) if until > o.now);
    held && cluster.leader.as_ref().is_none_or(|l| *l == o.me.name)
}

pub fn writes(postgres: &Postgres) -> bool {
    match postgres {
        Postgres::Running(running) => !running.in_recovery,
        Postgres::Starting { standby, .. } => !standby,
        Postgres::Unresponsive { writable, .. } => *writable,
        Postgres::NoData | Postgres::Unreadable(_) | Postgres::Stopped(_) => false,
    }
}

pub fn foreign(o: &Observed, cluster: &Cluster) -> bool {
    let here = match &o.postgres {
        Postgres::Running(running) => running.system_id.as_str(),
        Postgres::Stopped(control) | Postgres::Starting { control, .. } => {
            control.system_id.as_str()
        }
        Postgres::NoData | Postgres::Unreadable(_) | Postgres::Unresponsive { .. } => return false,
    };
    cluster.initialize.as_deref().is_some_and(|id| !id.is_empty() && id != here)
}

pub fn running(o: &Observed) -> Option<&Running> {
    match &o.postgres {
        Postgres::Running(running) => Some(running),
        Postgres::NoData
        | Postgres::Unreadable(_)
        | Postgres::Stopped(_)
        | Postgres::Starting { .. }
        | Postgres::Unresponsive { .. } => None,
    }
}

/// PostgreSQL ran before the agent, and there is no cluster: nobody has given it a leader key.
pub fn found(o: &Observed, cluster: &Cluster) -> bool {
    o.directory.found_running
        && cluster.system_id().is_none()
        && cluster.leader.is_none()
        && !cluster.config.pause
        && cluster.record == RecordView::Absent
}

pub fn demotes(decision: &Decision) -> bool {
    matches!(decision.act, Some(Act::Demote { .. }))
}

/// No WAL comes to a standby, and a source has removed what comes next.
pub fn starved(o: &Observed) -> bool {
    let Postgres::Running(running) = &o.postgres else { return false };
    let streams = running.receiver.as_ref().is_some_and(|r| r.status == "streaming");
    let gone = |source: &SourceHistory| source.wal_since.is_some_and(|at| running.lsn < at);
    !streams
        && running.wal_read
        && !running.restores
        && o.source.iter().chain(&o.other_source).any(gone)
}

/// A node that does not lead never crosses to another datacenter; a read-only server will do only
/// within the own one.
pub fn check_rewind_to(o: &Observed, source: &Upstream, to: &RewindTo) {
    match source {
        Upstream::Member { host, port, .. } => {
            assert_eq!(to.hosts, [(host.clone(), *port)]);
            assert_eq!(to.standby, o.config.standby_cluster.is_some());
        }
        Upstream::Remote { .. } => assert!(!to.standby),
        other @ (Upstream::Archive { .. } | Upstream::Nobody) => panic!("a rewind to {other:?}"),
    }
}
