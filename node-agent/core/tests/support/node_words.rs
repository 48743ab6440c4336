//! What a scenario says of this node and its PostgreSQL.

use super::healthy::{NOW, WALL_US, ago, control, receiver, sender, slot, standby};
use super::words::{Words, begun, duration, history, items, lsn, upstream};
use node_agent_core::beginning::SameWal;
use node_agent_core::directory::{Directory, Progress, WalEnd};
use node_agent_core::divergence::SourceHistory;
use node_agent_core::observed::{Job, JobKind, Observed, Request};
use node_agent_core::postgres::{
    ControlData, ControlState, Postgres, Running, SlotFact, Walsender,
};
use node_agent_core::schedule::{RestartConditions, ScheduledRestart};
use node_agent_core::slots::logical::LeaderSlots;
use node_agent_wire::member::Role;
use node_agent_wire::{Lsn, SlotName, SystemId, TimelineId};
use std::collections::BTreeMap;
use std::time::Duration;

/// Applies the key when it is one of these; `false` when not.
pub fn apply(observed: &mut Observed, key: &str, value: &str) -> Result<bool, String> {
    match key {
        "me" => me(observed, value)?,
        "lease" => {
            let mut words = Words::of(value);
            observed.lease.kept = words.flag("kept");
            observed.lease.held_until = match words.rest().as_str() {
                "held" => Some(NOW + Duration::from_secs(25)),
                "none" => None,
                "over" => Some(ago(Duration::from_secs(1))),
                time => Some(NOW + duration(time)?),
            }
        }
        "postgres" => observed.postgres = postgres(value)?,
        "senders" => running(observed)?.senders = list(value, sender_of)?,
        "slots" => running(observed)?.slots = list(value, slot_of)?,
        "receiver" => {
            running(observed)?.receiver = (value != "none").then(|| receiver(value));
        }
        "sync names" => {
            observed.sync_names_ours = true;
            running(observed)?.sync_names = value.trim_matches('\'').to_owned();
        }
        "sync names set at" => observed.sync_names_set_at = Some(lsn(value)?),
        "guest asked" => observed.guest_asked_at = Some(ago(duration(value)?)),
        "sync unsure" => observed.sync_unsure = value == "yes",
        "sync lost" => observed.sync_lost = items(value).map(Into::into).collect(),
        "own history" => {
            observed.own_history = (value != "none").then(|| history(value)).transpose()?;
            observed.directory.beginnings =
                observed.own_history.as_ref().map(begun).unwrap_or_default();
        }
        "following" => {
            observed.following = (value != "unknown").then(|| upstream(value));
        }
        "source" => observed.source = Some(source(value)?),
        "other source" => observed.other_source = Some(source(value)?),
        "slots seen" => {
            for item in items(value) {
                let (name, age) = item.split_once(' ').ok_or("slots seen needs names and times")?;
                observed.slots.seen.insert(SlotName::from_name(name), ago(duration(age)?));
            }
        }
        "leader slots" => leader_slots(observed, value)?,
        "slots kept since" => {
            for item in items(value) {
                let (name, xmin) = item.split_once(' ').ok_or("slots kept since: NAME XMIN")?;
                let xmin = xmin.parse().map_err(|_| "not a transaction")?;
                observed.slots.kept_since.insert(SlotName::from_name(name), xmin);
            }
        }
        "copy failed" => observed.slots.copy_after = Some(NOW + duration(value)?),
        "job" => observed.job = Some(job(value)?),
        "start failures" => {
            observed.start_failures = value.parse().map_err(|_| "not a number")?;
        }
        "stand back" => observed.stand_back_until = Some(NOW + duration(value)?),
        "directory" => {
            let beginnings = std::mem::take(&mut observed.directory.beginnings);
            observed.directory = Directory { beginnings, ..directory(value)? };
        }
        "request" if value.starts_with("reinit") => {
            let from_leader = value.ends_with("from leader");
            observed.request = Some(Request::Reinit { from_leader });
        }
        "release asked" => observed.release_asked_at = Some(ago(duration(value)?)),
        "agent told to stop" => observed.ending = true,
        "request" if value == "restart" => observed.request = Some(Request::Restart),
        "scheduled restart" => observed.scheduled_restart = Some(scheduled_restart(value)?),
        "stopped by us" => observed.stopped_by_us = true,
        "agent started" => observed.started_at = ago(duration(value)?),
        _ => return Ok(false),
    }
    Ok(true)
}

/// `in 5s` or `ago 5s`, then `[stale] [role=replica] [below=160000] [pending]`.
fn scheduled_restart(text: &str) -> Result<ScheduledRestart, String> {
    let mut words = Words::of(text);
    let ahead = words.next()? == "in";
    let distance =
        i64::try_from(duration(words.next()?)?.as_micros()).map_err(|e| e.to_string())?;
    let role = match words.value::<String>("role")?.as_deref() {
        None => None,
        Some("primary") => Some(Role::Primary),
        Some("replica") => Some(Role::Replica),
        Some(other) => return Err(format!("unknown role {other}")),
    };
    let planned = ScheduledRestart {
        at_us: if ahead { WALL_US + distance } else { WALL_US - distance },
        server_started_us: i64::from(words.flag("stale")),
        conditions: RestartConditions {
            role,
            older_than: words.value("below")?,
            pending: words.flag("pending"),
        },
        timeout: None,
    };
    words.end()?;
    Ok(planned)
}

/// `[interrupted] [failed] [found] [unguarded] [leaderless] [primary-only]
/// [checkpoint=0/… tl=1 last=0/…] [done=MB total=MB]`; without `last`, the WAL could not be read.
fn directory(text: &str) -> Result<Directory, String> {
    let mut words = Words::of(text);
    let mut directory = Directory {
        rewind_interrupted: words.flag("interrupted"),
        rewind_failed: words.flag("failed"),
        found_running: words.flag("found"),
        unguarded: words.flag("unguarded"),
        leaderless_copy: words.flag("leaderless"),
        rewinds_to_primary_only: words.flag("primary-only"),
        ..Directory::default()
    };
    if let Some(checkpoint) = words.value("checkpoint")? {
        let timeline = TimelineId(words.value("tl")?.unwrap_or(1));
        let last_record = words.value("last")?.ok_or("can't be read".to_owned());
        directory.wal_end = Some(WalEnd { checkpoint, timeline, last_record });
    }
    if let Some(done) = words.value::<u64>("done")? {
        let total = words.value::<u64>("total")?.unwrap_or(0);
        directory.progress = Some(Progress { done_bytes: done << 20, total_bytes: total << 20 });
    }
    words.end()?;
    Ok(directory)
}

fn list<T>(text: &str, read: fn(&str) -> Result<T, String>) -> Result<Vec<T>, String> {
    items(text).map(read).collect()
}

fn running(observed: &mut Observed) -> Result<&mut Running, String> {
    match &mut observed.postgres {
        Postgres::Running(running) => Ok(running),
        Postgres::NoData
        | Postgres::Unreadable(_)
        | Postgres::Stopped(_)
        | Postgres::Starting { .. }
        | Postgres::Unresponsive { .. } => Err("PostgreSQL does not run in this scenario".into()),
    }
}

/// `pg2 [nofailover] [priority=2] [may_bootstrap] [nostream] [replicatefrom=pg3]`.
fn me(observed: &mut Observed, text: &str) -> Result<(), String> {
    let mut words = Words::of(text);
    observed.me.name = words.next()?.into();
    observed.me.nofailover = words.flag("nofailover");
    observed.me.failover_priority = words.value("priority")?.unwrap_or(1);
    observed.me.may_bootstrap = words.flag("may_bootstrap");
    observed.me.nostream = words.flag("nostream");
    observed.me.replicatefrom =
        words.value::<String>("replicatefrom")?.map(|name| name.as_str().into());
    words.end()
}

fn postgres(text: &str) -> Result<Postgres, String> {
    let mut words = Words::of(text);
    Ok(match words.next()? {
        "no" if words.next()? == "data" => Postgres::NoData,
        "unreadable" => Postgres::Unreadable(words.rest()),
        "stopped" => Postgres::Stopped(control_of(words)?),
        "running" => Postgres::Running(Box::new(running_of(words)?)),
        "starting" => {
            let standby = words.next()? == "standby";
            let since = ago(duration(words.next()?)?);
            Postgres::Starting { since, standby, control: control_of(words)? }
        }
        "unresponsive" => {
            let writable = words.flag("writable");
            words.end()?;
            Postgres::Unresponsive { since: ago(Duration::from_secs(3)), writable }
        }
        other => return Err(format!("unknown state {other}")),
    })
}

/// `primary tl=1 lsn=0/3000000` or `standby tl=1 lsn=… [replayed=…] [replay=paused] [sysid=…]
/// [starved [restores]]`: no receiver, all WAL read, no archive but by `restores`.
fn running_of(mut words: Words<'_>) -> Result<Running, String> {
    let mut running = standby();
    running.in_recovery = match words.next()? {
        "primary" => false,
        "standby" => true,
        other => return Err(format!("unknown role {other}")),
    };
    running.timeline = TimelineId(words.value("tl")?.unwrap_or(1));
    running.lsn = words.value("lsn")?.unwrap_or(running.lsn);
    running.replay_lsn = Some(words.value("replayed")?.unwrap_or(running.lsn));
    running.receive_lsn = Some(running.lsn);
    running.replay_paused = words.flag("paused");
    running.outgrown = words.flag("outgrown");
    running.pending_restart = words.flag("pending_restart");
    if let Some(id) = words.value::<String>("sysid")? {
        running.system_id = SystemId::new(id);
    }
    if running.in_recovery {
        running.receiver = Some(receiver("streaming"));
    }
    if words.flag("starved") {
        running.receiver = None;
        running.wal_read = true;
        running.restores = words.flag("restores");
    }
    running.slots = vec![slot("pg1", false), slot("pg2", false), slot("pg3", false)];
    words.end()?;
    Ok(running)
}

/// `in_production tl=1 checkpoint=0/3000000 [recovered=0/… on=1] [norewind] [sysid=…]`.
fn control_of(mut words: Words<'_>) -> Result<ControlData, String> {
    let mut control = control(match words.next()? {
        "shut_down" => ControlState::ShutDown,
        "shut_down_in_recovery" => ControlState::ShutDownInRecovery,
        "shutting_down" => ControlState::ShuttingDown,
        "in_crash_recovery" => ControlState::InCrashRecovery,
        "in_archive_recovery" => ControlState::InArchiveRecovery,
        "in_production" => ControlState::InProduction,
        "starting_up" => ControlState::StartingUp,
        other => return Err(format!("unknown control state {other}")),
    });
    control.timeline = TimelineId(words.value("tl")?.unwrap_or(1));
    control.checkpoint = words.value("checkpoint")?.unwrap_or(control.checkpoint);
    control.min_recovery_end = words.value("recovered")?.unwrap_or(Lsn(0));
    control.min_recovery_timeline = TimelineId(words.value("on")?.unwrap_or(0));
    control.rewindable = !words.flag("norewind");
    if let Some(id) = words.value::<String>("sysid")? {
        control.system_id = SystemId::new(id);
    }
    words.end()?;
    Ok(control)
}

/// `pg2 [sync|potential] [0/3000000] [catchup]`.
fn sender_of(item: &str) -> Result<Walsender, String> {
    let mut words = Words::of(item);
    let mut sender = sender(words.next()?);
    for state in ["sync", "potential", "quorum"] {
        if words.flag(state) {
            sender.sync_state = state.into();
        }
    }
    if words.flag("catchup") {
        sender.state = "catchup".into();
    }
    let flushed = words.rest();
    if !flushed.is_empty() {
        sender.flush_lsn = Some(lsn(&flushed)?);
    }
    Ok(sender)
}

/// `pg2 [active] [logical=DATABASE/PLUGIN] [lost] [failover] [synced] [left-over] [unreserved]
/// [xmin=5] [catalog_xmin=5] [confirmed=0/…] [0/3000000]`.
fn slot_of(item: &str) -> Result<SlotFact, String> {
    let mut words = Words::of(item);
    let mut slot = slot(words.next()?, false);
    slot.active = words.flag("active");
    if let Some(place) = words.value::<String>("logical")? {
        let (database, plugin) = place.split_once('/').ok_or("logical=DATABASE/PLUGIN")?;
        slot.physical = false;
        slot.database = Some(database.into());
        slot.plugin = Some(plugin.into());
        slot.confirmed_lsn = words.value("confirmed")?;
    }
    slot.lost = words.flag("lost");
    slot.failover = words.flag("failover");
    slot.synced = words.flag("synced");
    slot.left_over = words.flag("left-over");
    slot.xmin = words.value("xmin")?;
    slot.catalog_xmin = words.value("catalog_xmin")?;
    if words.flag("unreserved") {
        slot.restart_lsn = None;
    }
    let at = words.rest();
    if !at.is_empty() {
        slot.restart_lsn = Some(lsn(&at)?);
    }
    Ok(slot)
}

/// `pg2 2:1@0/3000000 [twice=2] [unknown] [same-wal|other-wal] [since=0/…] [asked 1s]`, or `remote
/// silent WHY`: a timeline that it began itself at that position; no beginning is known of it; its
/// WAL up to there, compared; the oldest WAL that it has.
fn source(text: &str) -> Result<SourceHistory, String> {
    let mut words = Words::of(text);
    let upstream = upstream(words.next()?);
    let asked = words.time("asked")?.unwrap_or(Duration::from_millis(100));
    let answer = match words.next()? {
        "silent" => Err(words.rest()),
        other => Ok(history(other)?),
    };
    let mut beginnings = answer.as_ref().map(begun).unwrap_or_default();
    if let Some(twice) = words.value("twice")?.map(TimelineId)
        && let Some(begun) = beginnings.get_mut(&twice)
    {
        begun.record = "01".to_owned();
    }
    if words.flag("unknown") {
        beginnings.clear();
    }
    let timeline = answer.as_ref().map_or(TimelineId(1), |history| history.timeline);
    let compared = |same| SameWal { timeline, until: Lsn(u64::MAX), same };
    let same_wal = match (words.flag("same-wal"), words.flag("other-wal")) {
        (false, false) => None,
        (same, _) => Some(compared(same)),
    };
    let wal_since = words.value("since")?;
    words.end()?;
    Ok(SourceHistory { upstream, at: ago(asked), answer, beginnings, same_wal, wal_since })
}

/// `pg1 asked 3s`: who was asked for its slots, and when.
fn leader_slots(observed: &mut Observed, text: &str) -> Result<(), String> {
    let mut words = Words::of(text);
    let of = words.next()?.into();
    let at = ago(words.time("asked")?.unwrap_or(Duration::from_millis(100)));
    observed.slots.leader = Some(LeaderSlots { of, at, answer: Ok(BTreeMap::new()) });
    words.end()
}

fn job(text: &str) -> Result<Job, String> {
    let mut words = Words::of(text);
    let kind = match words.next()? {
        "bootstrap" => JobKind::Bootstrap,
        "clone" => JobKind::Clone,
        "rewind" => JobKind::Rewind,
        "demote" => JobKind::Demote,
        "start" => JobKind::Start,
        "promote" => JobKind::Promote,
        "restart" => JobKind::Restart,
        "copy_slots" => JobKind::CopySlots,
        other => return Err(format!("unknown job {other}")),
    };
    Ok(Job { kind, since: ago(duration(words.next()?)?) })
}
