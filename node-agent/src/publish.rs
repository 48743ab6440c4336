//! What this node writes into the DCS of itself: its member key, and as leader `status`,
//! `history`, `initialize` and `config`.

use crate::clock;
use crate::dcs::{Compare, Dcs, DcsError, RawCluster, Write};
use crate::failsafe::Question;
use crate::keeper::BeatFacts;
use node_agent_core::decision::Decision;
use node_agent_core::failsafe::plan;
use node_agent_core::observed::{Cluster, JobKind, Observed, Request};
use node_agent_core::pause;
use node_agent_core::postgres::{Postgres, Running, SlotFact};
use node_agent_core::release;
use node_agent_core::slots::{self, logical, without_dcs::told_now};
use node_agent_core::source::streams_from;
use node_agent_wire::config::LocalConfig;
use node_agent_wire::dynamic::FailsafeMode;
use node_agent_wire::failsafe::FailsafePing;
use node_agent_wire::grant::Reached;
use node_agent_wire::history::{self, TimelineHistory};
use node_agent_wire::keys::{ClusterPath, Leaf};
use node_agent_wire::member::{MemberData, Role, state};
use node_agent_wire::position::{Consumer, Consumers, Position, PrimarySeen};
use node_agent_wire::{Lsn, MemberName, SlotName};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::time::Duration;

/// The version that members publish: of this agent.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// What this member says of itself.
#[must_use]
pub fn member(
    config: &LocalConfig,
    observed: &Observed,
    decision: &Decision,
    checkpointed: bool,
) -> MemberData {
    let postgres = &config.postgresql;
    let connect = postgres.connect_address.as_ref().unwrap_or(&postgres.listen);
    let rest = config.restapi.connect_address.as_ref().unwrap_or(&config.restapi.listen);
    let mut data = MemberData {
        conn_url: format!("postgres://{connect}/{}", postgres.database),
        api_url: format!("http://{rest}/patroni"),
        state: state_of(config, observed).to_owned(),
        role: Some(role_of(observed)),
        version: VERSION.to_owned(),
        tags: published_tags(config),
        pause: observed.config.pause.then_some(true),
        grpc: config.grpc.as_ref().map(|g| g.connect_address.clone().unwrap_or(g.listen.clone())),
        copies_slots: logical::announces_copy(observed),
        why: Some(format!("{} {}: {}", decision.rule.number(), decision.rule.name(), decision.why)),
        ..MemberData::default()
    };
    if release::leaving(observed, decision) {
        data.tags.insert("nosync".to_owned(), true.into());
    }
    if let Postgres::Running(running) = &observed.postgres {
        describe_running(&mut data, running, checkpointed);
    }
    data
}

fn describe_running(data: &mut MemberData, running: &Running, checkpointed: bool) {
    data.xlog_location = Some(running.lsn);
    data.timeline = (running.timeline.0 > 0).then_some(running.timeline);
    data.pending_restart = running.pending_restart.then_some(true);
    if running.in_recovery {
        data.replay_lsn = running.replay_lsn.filter(|l| l.0 > 0);
        data.receive_lsn = running.receive_lsn.filter(|l| l.0 > 0);
        data.replication_state = replication_state(running).map(ToOwned::to_owned);
    } else {
        data.checkpoint_after_promote = (!checkpointed).then_some(false);
    }
}

/// How a standby gets its WAL, in the words of the contract.
fn replication_state(running: &Running) -> Option<&'static str> {
    if running.receiver.as_ref().is_some_and(|r| r.status == "streaming") {
        return Some("streaming");
    }
    running.restores.then_some("in archive recovery")
}

/// Tags as configured; the boolean ones that are false are left out (contract C.7).
fn published_tags(config: &LocalConfig) -> std::collections::BTreeMap<String, Value> {
    const FLAGS: [&str; 5] = ["clonefrom", "nofailover", "noloadbalance", "nosync", "nostream"];
    config
        .tags
        .iter()
        .filter(|(name, value)| {
            !FLAGS.contains(&name.as_str())
                || node_agent_wire::yaml::truth(value).unwrap_or(false)
                || (name.as_str() == "nofailover" && config.tags.contains_key("failover_priority"))
                || (name.as_str() == "nosync" && config.tags.contains_key("sync_priority"))
        })
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect()
}

fn state_of(config: &LocalConfig, observed: &Observed) -> &'static str {
    let custom = config.bootstrap.method.as_deref().is_some_and(|method| method != "initdb");
    match (observed.job.map(|j| j.kind), &observed.postgres) {
        (Some(JobKind::Bootstrap), _) if custom => state::CUSTOM_BOOTSTRAP,
        (Some(JobKind::Bootstrap), _) => state::INITDB,
        (None, Postgres::NoData) if observed.start_failures > 0 && custom => {
            state::CUSTOM_BOOTSTRAP_FAILED
        }
        (None, Postgres::NoData) if observed.start_failures > 0 => state::INITDB_FAILED,
        (None, _) if matches!(observed.request, Some(Request::Reinit { .. })) => {
            state::CREATING_REPLICA
        }
        (Some(JobKind::Clone), _) => state::CREATING_REPLICA,
        (Some(JobKind::Restart | JobKind::CopySlots), _) => state::RESTARTING,
        (Some(JobKind::Demote), Postgres::Running(_) | Postgres::Unresponsive { .. }) => {
            state::STOPPING
        }
        (_, Postgres::Running(_)) => state::RUNNING,
        (_, Postgres::Starting { .. }) => state::STARTING,
        (_, Postgres::Unresponsive { .. }) => state::RUNNING,
        (_, Postgres::Stopped(_)) if observed.start_failures > 0 => state::START_FAILED,
        (_, Postgres::Stopped(_) | Postgres::NoData | Postgres::Unreadable(_)) => state::STOPPED,
    }
}

/// The role that this member publishes.
#[must_use]
pub fn role_of(observed: &Observed) -> Role {
    let leads = observed.holds_lease();
    match &observed.postgres {
        Postgres::NoData | Postgres::Unreadable(_) => Role::Uninitialized,
        postgres if postgres.may_write() => Role::Primary,
        Postgres::Stopped(control) if control.was_primary() && leads => Role::Demoted,
        Postgres::Stopped(_)
        | Postgres::Starting { .. }
        | Postgres::Running(_)
        | Postgres::Unresponsive { .. } => {
            if leads && standby_cluster(observed) {
                Role::StandbyLeader
            } else {
                Role::Replica
            }
        }
    }
}

/// This datacenter follows another one: by its configuration or by the federation record.
fn standby_cluster(observed: &Observed) -> bool {
    observed.config.standby_cluster.is_some()
        || crate::observe::record_of(observed).is_some_and(|r| !r.names_us() || r.fence.is_some())
}

/// Puts the member key if it differs, or hangs on another lease.
///
/// # Errors
/// When the DCS did not answer; the next pass tries again.
pub async fn put_member(
    dcs: &dyn Dcs,
    path: &ClusterPath,
    name: &MemberName,
    data: &MemberData,
    lease: i64,
    raw: &RawCluster,
    deadline: Duration,
) -> Result<(), DcsError> {
    let key = path.key(Leaf::Member(name));
    let value = serde_json::to_value(data).unwrap_or(Value::Null).to_string().into_bytes();
    let same = raw.keys.get(&key).is_some_and(|k| k.value == value && k.lease == lease);
    if same || lease == 0 {
        return Ok(());
    }
    dcs.write(&[], &[Write::Put { key, value, lease }], deadline).await.map(|_| ())
}

/// What the leader keeps up to date, as one transaction on the leader key being ours; nothing when
/// nothing is stale.
#[must_use]
pub fn leader_writes(
    path: &ClusterPath,
    observed: &Observed,
    cluster: &Cluster,
    bootstrap_config: &Map<String, Value>,
) -> Vec<Write> {
    let mut writes = Vec::new();
    let Postgres::Running(running) = &observed.postgres else { return writes };
    let put = |leaf: Leaf<'_>, value: String| Write::put(path.key(leaf), value);
    if cluster.system_id().is_none() {
        writes.push(put(Leaf::Initialize, running.system_id.to_string()));
    }
    if !cluster.config_present {
        writes.push(put(Leaf::Config, Value::Object(bootstrap_config.clone()).to_string()));
    }
    if cluster.config.failsafe != FailsafeMode::Off {
        let failsafe = failsafe_members(observed, cluster);
        if failsafe != cluster.failsafe {
            writes.push(put(Leaf::Failsafe, serde_json::json!(failsafe).to_string()));
        }
    }
    let status = slots::publish(observed, cluster, running);
    if status != cluster.status {
        writes.push(put(Leaf::Status, status.to_json()));
    }
    writes
}

/// The local history, when the primary's `history` key does not tell the same: its last rows, as
/// many as are kept, with time and leader in the last one (contract A.4).
#[must_use]
pub fn stale_history<'a>(observed: &'a Observed, cluster: &Cluster) -> Option<&'a TimelineHistory> {
    let Postgres::Running(running) = &observed.postgres else { return None };
    let own = observed.own_history.as_ref().filter(|h| h.timeline == running.timeline)?;
    if running.in_recovery || (own.ancestors.is_empty() && cluster.history.is_none()) {
        return None;
    }
    let kept = usize::try_from(cluster.config.max_timelines_history).unwrap_or(0);
    let known = cluster.history.as_ref().is_some_and(|key| own.is_told_by(key, kept));
    (!known).then_some(own)
}

/// The key as it is to be written. `file`: the text of the local history file, and when it was
/// made, microseconds since the Unix epoch.
#[must_use]
pub fn history(
    path: &ClusterPath,
    observed: &Observed,
    own: &TimelineHistory,
    raw: &RawCluster,
    file: Option<&(String, i64)>,
) -> Write {
    let key = path.key(Leaf::History);
    let before = raw.keys.get(&key).and_then(|k| serde_json::from_slice(&k.value).ok());
    let (text, made_at_us) = file.map_or(("", observed.wall_us), |(text, at)| (text.as_str(), *at));
    let news = history::News {
        reasons: history::reasons(text),
        timestamp: clock::iso_offset(made_at_us),
        leader: observed.me.name.as_str(),
        kept: usize::try_from(observed.config.max_timelines_history).unwrap_or(0),
    };
    Write::put(key, own.to_rows(before.as_ref(), &news).to_string())
}

/// `failsafe`: every member with the address of its REST API (contract A.4).
fn failsafe_members(observed: &Observed, cluster: &Cluster) -> BTreeMap<MemberName, String> {
    let known = |url: &String| !url.is_empty();
    let me = cluster.failsafe.get(&observed.me.name).cloned();
    let mut members: BTreeMap<MemberName, String> =
        me.into_iter().map(|url| (observed.me.name.clone(), url)).collect();
    let urls = cluster.members.values().map(|m| (m.name.clone(), m.data.api_url.clone()));
    members.extend(urls.filter(|(_, url)| known(url)));
    members
}

/// Whom this node asks as a leader without the DCS; `None`: it stops then.
#[must_use]
pub fn failsafe_question(
    config: &LocalConfig,
    observed: &Observed,
    cluster: &Cluster,
) -> Option<Question> {
    let plan = plan(observed, cluster)?;
    let postgres = &config.postgresql;
    let connect = postgres.connect_address.as_ref().unwrap_or(&postgres.listen);
    let rest = config.restapi.connect_address.as_ref().unwrap_or(&config.restapi.listen);
    let slots = match &observed.postgres {
        Postgres::Running(running) => Some(slots::publish(observed, cluster, running).slots),
        Postgres::NoData
        | Postgres::Unreadable(_)
        | Postgres::Stopped(_)
        | Postgres::Starting { .. }
        | Postgres::Unresponsive { .. } => None,
    };
    let slots = slots.map(|s| s.into_iter().map(|(n, lsn)| (n.to_string(), lsn.0)).collect());
    let ping = FailsafePing {
        name: observed.me.name.clone(),
        conn_url: format!("postgres://{connect}/{}", postgres.database),
        api_url: format!("http://{rest}/patroni"),
        slots,
        ..FailsafePing::default()
    };
    let others = cluster.members.values().filter(|m| m.name != observed.me.name);
    let cascading = others.filter(|m| !streams_from(cluster, m, &observed.me.name));
    let cascading = cascading.map(|m| m.name.clone()).collect();
    Some(Question { plan, urls: failsafe_members(observed, cluster), cascading, ping })
}

/// Brings the positions in the question up to date while the DCS is out of reach.
pub fn refresh_question(question: &mut Question, observed: &Observed) {
    let (Postgres::Running(running), Some(told)) = (&observed.postgres, &question.ping.slots)
    else {
        return;
    };
    let read = |(name, at): (&String, &u64)| Some((SlotName::parse(name)?, Lsn(*at)));
    let earlier = told.iter().filter_map(read).collect();
    let now = told_now(&earlier, &observed.me.name, running);
    question.ping.slots = Some(now.into_iter().map(|(n, at)| (n.to_string(), at.0)).collect());
}

/// The condition of every leader write.
#[must_use]
pub fn as_leader(path: &ClusterPath, name: &MemberName) -> Compare {
    Compare::ValueIs(path.key(Leaf::Leader), name.as_str().into())
}

/// PostgreSQL accepts writes, or did when it last answered and the mark was set.
fn keeps_going(observed: &Observed) -> bool {
    match &observed.postgres {
        Postgres::Running(running) => !running.in_recovery,
        Postgres::Starting { .. } | Postgres::Unresponsive { .. } => observed.lease.kept,
        Postgres::NoData | Postgres::Unreadable(_) | Postgres::Stopped(_) => false,
    }
}

/// What the next beats carry.
#[must_use]
pub fn beat_facts(
    observed: &Observed,
    wal_rate_max: u64,
    primary_seen: Option<PrimarySeen>,
) -> BeatFacts {
    let before = observed.cluster.known().and_then(|c| c.position.as_ref());
    let own = before.filter(|p| !p.released && p.leader == observed.me.name);
    let mut facts = BeatFacts {
        epoch: observed.last_record.as_ref().map(|r| r.epoch),
        at_us: observed.wall_us,
        wal_rate_max,
        unattended: pause::may_be_unattended(observed) && keeps_going(observed),
        was_unattended: own.is_some_and(|p| p.unattended),
        was_ttl: own.map_or(Duration::ZERO, |p| Duration::from_millis(p.ttl_ms)),
        primary_seen: primary_seen.or_else(|| before.and_then(|p| p.primary_seen.clone())),
        wrote_at_us: before.and_then(|p| p.wrote_at_us),
        ..BeatFacts::default()
    };
    let Postgres::Running(running) = &observed.postgres else {
        // Nothing newer is known while PostgreSQL does not answer: the last position stays.
        if let Some(before) = before {
            facts.lsn = before.lsn;
            facts.replay_lsn = before.replay_lsn;
            facts.timeline = before.timeline;
            facts.commit_at_us = before.commit_at_us;
            facts.at_us = before.at_us;
        }
        facts.consumers = told_before(&facts, before);
        return facts;
    };
    facts.timeline = Some(running.timeline);
    facts.writable = !running.in_recovery;
    if running.in_recovery {
        // After a restart the receiver begins at the start of a segment: `lsn` is the further one.
        facts.lsn = Some(running.lsn);
        facts.replay_lsn = running.replay_lsn;
        facts.commit_at_us = running.replayed_commit_at_us;
        facts.link = running.receiver.as_ref().map(|r| r.status.clone());
        facts.consumers = told_before(&facts, before);
    } else {
        facts.lsn = Some(running.lsn);
        facts.commit_at_us = Some(observed.wall_us);
        facts.wrote_at_us = Some(observed.wall_us);
        facts.primary_seen = None;
        facts.consumers = facts.epoch.map(|_| consumers(running));
    }
    facts
}

/// The consumers that a primary of this epoch told last: one that does not write any more, or does
/// not answer, tells none, and what was known stays known.
fn told_before(facts: &BeatFacts, before: Option<&Position>) -> Option<Consumers> {
    before.filter(|p| p.epoch.is_some() && p.epoch == facts.epoch)?.consumers.clone()
}

/// The logical slots of a primary.
fn consumers(running: &Running) -> Consumers {
    let logical = running.slots.iter().filter(|slot| !slot.physical);
    let consumer = |slot: &SlotFact| Consumer {
        confirmed: slot.confirmed_lsn,
        database: slot.database.clone().unwrap_or_default(),
        plugin: slot.plugin.clone().unwrap_or_default(),
        failover: slot.failover,
        lost: slot.lost.then(|| slot.why_lost().to_owned()),
    };
    logical.map(|slot| (slot.name.clone(), consumer(slot))).collect()
}

/// How far the primary on this node is; `None` when it is none.
#[must_use]
pub fn reached(facts: &BeatFacts) -> Option<Reached> {
    let (lsn, timeline) = (facts.lsn?, facts.timeline?);
    let (at_us, wal_rate_max) = (facts.at_us, facts.wal_rate_max);
    let consumers = facts.consumers.clone();
    facts.writable.then_some(Reached { lsn, timeline, at_us, wal_rate_max, consumers })
}

#[cfg(test)]
#[path = "publish_tests.rs"]
mod tests;
