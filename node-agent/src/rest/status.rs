//! The body of `GET /patroni` and of the role checks (contract B.4).

use super::standing;
use crate::view::View;
use node_agent_core::observed::Poll;
use node_agent_core::postgres::Running;
use node_agent_core::time::Boot;
use node_agent_wire::config::LocalConfig;
use node_agent_wire::dynamic::SynchronousMode;
use node_agent_wire::member::Role;
use serde_json::{Map, Value, json};

/// The object. Ours beside Patroni's: `rule`, `why` and, in a federation, `epoch`.
#[must_use]
pub fn patroni_json(view: &View, config: &LocalConfig, now: Boot) -> Value {
    let mut body = Map::new();
    body.insert("state".into(), standing::state_word(view).into());
    body.insert("role".into(), standing::role(view, now).as_str().into());
    if let Some(running) = view.running() {
        add_postgres(&mut body, view, running, now);
    }
    add_cluster(&mut body, view, now);
    if !view.member.tags.is_empty() {
        body.insert("tags".into(), json!(view.member.tags));
    }
    if let Some(system_id) = view.observed.postgres.system_id() {
        body.insert("database_system_identifier".into(), system_id.as_str().into());
    }
    if pending_restart(view) {
        body.insert("pending_restart".into(), true.into());
        if let Some(reason) = &view.member.pending_restart_reason {
            body.insert("pending_restart_reason".into(), reason.clone());
        }
    }
    if let Some(Value::Object(planned)) = &view.member.scheduled_restart {
        let mut shown = planned.clone();
        shown.remove("postmaster_start_time");
        body.insert("scheduled_restart".into(), Value::Object(shown));
    }
    if let Some(progress) = view.progress.read() {
        let progress = json!({
            "done_bytes": progress.done_bytes, "total_bytes": progress.total_bytes,
        });
        body.insert("copy_progress".into(), progress);
    }
    let me = json!({
        "version": view.member.version, "scope": config.scope, "name": config.name,
    });
    body.insert("patroni".into(), me);
    body.insert("rule".into(), view.rule.number().into());
    body.insert("why".into(), view.why.clone().into());
    Value::Object(body)
}

fn add_postgres(body: &mut Map<String, Value>, view: &View, running: &Running, now: Boot) {
    body.insert("postmaster_start_time".into(), date_time(running.started_at_us).into());
    body.insert("server_version".into(), running.server_version.into());
    body.insert("timeline".into(), running.timeline.0.into());
    body.insert("xlog".into(), xlog(running));
    if running.in_recovery {
        body.insert("wal_read".into(), running.wal_read.into());
    }
    let poll = view.observed.poll.as_ref().filter(|poll| poll.is_fresh(now));
    if let Some(primary) = poll.and_then(Poll::primary) {
        body.insert("sees_primary".into(), primary.as_str().into());
    }
    match standing::listed_in_sync(view, now) {
        SynchronousMode::Off => {}
        SynchronousMode::On => {
            body.insert("sync_standby".into(), true.into());
        }
        SynchronousMode::Quorum => {
            body.insert("quorum_standby".into(), true.into());
        }
    }
    if standing::role(view, now) != Role::Primary
        && let Some(replication) = &view.member.replication_state
    {
        body.insert("replication_state".into(), replication.clone().into());
    }
    if !running.senders.is_empty() {
        let senders = running.senders.iter().map(|s| {
            json!({
                "usename": s.usename, "application_name": s.application_name,
                "client_addr": s.client_addr, "state": s.state,
                "sync_state": s.sync_state, "sync_priority": s.sync_priority,
            })
        });
        body.insert("replication".into(), senders.collect());
    }
}

fn xlog(running: &Running) -> Value {
    if !running.in_recovery {
        return json!({"location": running.lsn});
    }
    json!({
        "received_location": running.receive_lsn.or(running.replay_lsn).map_or(0, |lsn| lsn.0),
        "replayed_location": running.replay_lsn.map_or(0, |lsn| lsn.0),
        "replayed_timestamp": running.replayed_commit_at_us.map(date_time),
        "paused": running.replay_paused,
    })
}

fn add_cluster(body: &mut Map<String, Value>, view: &View, now: Boot) {
    if view.observed.config.pause {
        body.insert("pause".into(), true.into());
    }
    if unlocked(view) {
        body.insert("cluster_unlocked".into(), true.into());
    }
    if view.observed.failsafe.active(now) {
        body.insert("failsafe_mode_is_active".into(), true.into());
    }
    if view.observed.watchdog_failed.is_some() {
        body.insert("watchdog_failed".into(), true.into());
    }
    body.insert("dcs_last_seen".into(), view.dcs_last_seen_s.into());
    if let Some(record) = view.cluster().and_then(|c| c.record.get()) {
        body.insert("epoch".into(), record.epoch.0.into());
    }
}

/// No leader, or the DCS can't be read.
#[must_use]
pub fn unlocked(view: &View) -> bool {
    view.cluster().is_none_or(|cluster| cluster.leader.is_none())
}

/// Parameters wait for a restart.
#[must_use]
pub fn pending_restart(view: &View) -> bool {
    view.member.pending_restart == Some(true) || view.running().is_some_and(|r| r.pending_restart)
}

/// Microseconds since the Unix epoch as Patroni's JSON has them (contract B.1):
/// `2026-01-02 03:04:05.678901+00:00`, without the fraction when it is zero.
#[must_use]
pub fn date_time(us: i64) -> String {
    let Ok(time) = jiff::Timestamp::from_microsecond(us) else { return us.to_string() };
    let format =
        if us % 1_000_000 == 0 { "%Y-%m-%d %H:%M:%S+00:00" } else { "%Y-%m-%d %H:%M:%S%.6f+00:00" };
    time.strftime(format).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rest::fixture;

    #[test]
    fn a_primary() {
        let view = fixture::primary();
        let body = patroni_json(&view, &fixture::config("pg1"), view.observed.now);
        assert_eq!(
            body,
            json!({
                "state": "running", "role": "primary",
                "postmaster_start_time": "2026-01-02 03:04:05.678901+00:00",
                "server_version": 150_004, "timeline": 3, "xlog": {"location": 0x0500_0000},
                "replication": [{
                    "usename": "replicator", "application_name": "pg2",
                    "client_addr": "127.0.0.2", "state": "streaming", "sync_state": "async",
                    "sync_priority": 0,
                }],
                "dcs_last_seen": 1_767_323_045, "tags": {"dc": "a"},
                "database_system_identifier": "7000000000000000001",
                "patroni": {"version": "4.1.4", "scope": "shop", "name": "pg1"},
                "rule": 125, "why": "primary on timeline 3",
            })
        );
    }

    #[test]
    fn a_replica_in_sync_with_a_restart_pending_in_a_paused_cluster() {
        let mut view = fixture::replica("pg2");
        fixture::synchronous(&mut view, "on", &["PG2"]);
        view.observed.config.pause = true;
        fixture::running(&mut view).pending_restart = true;
        let body = patroni_json(&view, &fixture::config("pg2"), view.observed.now);
        assert_eq!(body["role"], "replica");
        assert_eq!(
            body["xlog"],
            json!({"received_location": 0x04FF_0000, "replayed_location": 0x04FE_0000,
                "replayed_timestamp": "2026-01-02 03:04:05+00:00", "paused": false})
        );
        for key in ["sync_standby", "pause", "pending_restart"] {
            assert_eq!(body[key], true, "{key}");
        }
        assert_eq!(body["replication_state"], "streaming");
        assert_eq!(body.get("cluster_unlocked"), None);
    }

    #[test]
    fn postgresql_that_does_not_answer_leaves_state_and_role() {
        for (postgres, state) in [
            (fixture::unresponsive(), "unknown"),
            (node_agent_core::postgres::Postgres::NoData, "unknown"),
        ] {
            let mut view = fixture::primary();
            view.observed.postgres = postgres;
            let body = patroni_json(&view, &fixture::config("pg1"), view.observed.now);
            assert_eq!((&body["state"], &body["role"]), (&json!(state), &json!("primary")));
            for gone in ["xlog", "timeline", "server_version", "replication"] {
                assert_eq!(body.get(gone), None, "{gone}");
            }
        }
    }

    #[test]
    fn epoch_and_standby_leader_come_from_the_record() {
        let mut view = fixture::standby_leader();
        let body = patroni_json(&view, &fixture::config("pg1"), view.observed.now);
        assert_eq!((&body["epoch"], &body["role"]), (&json!(2), &json!("standby_leader")));
        view.observed.cluster = fixture::unknown();
        let body = patroni_json(&view, &fixture::config("pg1"), view.observed.now);
        assert_eq!(body["cluster_unlocked"], true);
    }

    #[test]
    fn date_times() {
        assert_eq!(date_time(0), "1970-01-01 00:00:00+00:00");
        assert_eq!(date_time(1), "1970-01-01 00:00:00.000001+00:00");
        assert_eq!(date_time(i64::MAX), i64::MAX.to_string());
    }
}
