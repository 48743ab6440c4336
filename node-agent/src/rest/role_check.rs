//! Health checks (contract B.3): load balancers ask by a path, and the status code is the answer.
//!
//! The path is matched by substring, in the contract's order: `/my-replica` counts as a replica
//! check. One difference: in maintenance mode with the DCS lost, Patroni answers by the local role;
//! here the lease decides, because this agent stops a primary whose lease has run out.

use super::query::Query;
use super::standing;
use crate::view::View;
use node_agent_core::time::Boot;
use node_agent_wire::dynamic::SynchronousMode;
use node_agent_wire::member::Role;
use serde_json::Value;

/// What the path asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Check {
    StandbyLeader,
    Leader,
    Primary,
    Replica,
    ReadOnly,
    Health,
    Sync,
    Quorum,
    Async,
    ReadOnlySync,
    ReadOnlyQuorum,
    Nothing,
}

fn classify(path: &str) -> Check {
    let has = |word: &str| path.contains(word);
    if has("standby_leader") || has("standby-leader") {
        Check::StandbyLeader
    } else if has("leader") {
        Check::Leader
    } else if has("master") || has("primary") || has("read-write") || path == "/" {
        Check::Primary
    } else if has("replica") {
        Check::Replica
    } else if has("read-only") && !has("sync") && !has("quorum") {
        Check::ReadOnly
    } else if has("health") {
        Check::Health
    } else {
        match path {
            "/sync" | "/synchronous" => Check::Sync,
            "/quorum" => Check::Quorum,
            "/async" | "/asynchronous" => Check::Async,
            "/read-only-quorum" => Check::ReadOnlyQuorum,
            "/read-only-sync" | "/read-only-synchronous" => Check::ReadOnlySync,
            _ => Check::Nothing,
        }
    }
}

/// Whether the check is passed: 200, otherwise 503.
#[must_use]
pub fn passes(path: &str, query: &Query, view: &View, now: Boot) -> bool {
    let check = classify(path);
    let leads = standing::primary(view, now) || standing::standby_leader(view, now);
    let known = view.cluster().is_some();
    let listed = standing::listed_in_sync(view, now);
    let replica = || serves_reads(view, query, now);
    let passed = match check {
        Check::StandbyLeader => return standing::standby_leader(view, now),
        Check::Leader => return view.leads(now),
        Check::Primary => return standing::primary(view, now),
        Check::Replica => replica(),
        Check::ReadOnly => leads || replica(),
        Check::Health => standing::is_running(view),
        Check::Sync => known && listed == SynchronousMode::On && replica(),
        Check::Quorum => known && listed == SynchronousMode::Quorum && replica(),
        Check::Async => known && listed == SynchronousMode::Off && replica(),
        Check::ReadOnlySync => known && (leads || listed == SynchronousMode::On && replica()),
        Check::ReadOnlyQuorum => known && (leads || listed == SynchronousMode::Quorum && replica()),
        Check::Nothing => false,
    };
    passed && tags_match(view, query)
}

/// A replica that takes read-only clients and is not further behind than the client accepts.
fn serves_reads(view: &View, query: &Query, now: Boot) -> bool {
    let Some(running) = view.running() else { return false };
    let set_aside = view
        .member
        .tags
        .get("noloadbalance")
        .and_then(node_agent_wire::yaml::truth)
        .unwrap_or(false);
    let replayed = running.replay_lsn.map_or(0, |lsn| lsn.0);
    let lagging = query
        .lag()
        .is_some_and(|lag| standing::leader_lsn(view).unwrap_or(0) > replayed.saturating_add(lag));
    standing::role(view, now) == Role::Replica
        && standing::is_running(view)
        && !set_aside
        && !lagging
}

fn tags_match(view: &View, query: &Query) -> bool {
    query.tags().all(|(name, wanted)| match view.member.tags.get(name) {
        None | Some(Value::Null) => false,
        Some(Value::String(text)) => text == wanted,
        Some(Value::Bool(flag)) => wanted == if *flag { "true" } else { "false" },
        Some(Value::Number(number)) => number.to_string() == wanted,
        Some(Value::Array(_) | Value::Object(_)) => false,
    })
}

/// `/liveness`: the loop still makes passes. A primary whose loop is stuck is given less time.
#[must_use]
pub fn is_live(view: &View, now: Boot) -> bool {
    let observed = &view.observed;
    let patience = if view.writable() { 1 } else { 2 };
    let due = observed.now + observed.config.timing.loop_wait;
    observed.config.pause || now < due + observed.config.timing.ttl * patience
}

/// `/readiness`: the leader, or a replica that streams and has caught up.
#[must_use]
pub fn is_ready(query: &Query, view: &View, now: Boot) -> bool {
    if view.leads(now) {
        return true;
    }
    let (Some(running), Some(leader)) = (view.running(), standing::leader_lsn(view)) else {
        return false;
    };
    let streams = view.member.replication_state.as_deref() == Some("streaming");
    let own = match query.get("mode") {
        Some("write") => running.receive_lsn.max(running.replay_lsn),
        Some(_) | None => running.replay_lsn,
    };
    let lag_max = query.lag().unwrap_or(view.observed.config.maximum_lag_on_failover);
    streams
        && standing::is_running(view)
        && leader.saturating_sub(own.map_or(0, |lsn| lsn.0)) <= lag_max
}
