//! All that a pass must know of a running server, in one query of one row.

use super::Error;
use super::pending::pending;
use node_agent_core::postgres::{Running, SlotFact, Walreceiver, Walsender};
use node_agent_wire::{Lsn, SlotName, SystemId, TimelineId};
use serde::Deserialize;

/// The timeline of the last WAL, for a query over `(SELECT pg_is_in_recovery() AS standby) r`.
///
/// A standby's control file is written at restartpoints only, so its timeline is the highest of
/// what it received, what it must replay to, and its last restartpoint. While no receiver runs, or
/// may not be seen by this user, of the segment files that hold the end of WAL the one on the
/// highest timeline tells: a receiver writes a new timeline from the start of the segment of its
/// switch, and has its history file before. A segment of a timeline without one is no part of this
/// server's past: a rewound server may still have such files.
macro_rules! timeline {
    () => {
        "CASE WHEN r.standby THEN (
      SELECT greatest(c.timeline_id, m.min_recovery_end_timeline,
                      (SELECT received_tli FROM pg_stat_get_wal_receiver()),
      (SELECT CASE WHEN NOT EXISTS
         (SELECT FROM pg_stat_get_wal_receiver() WHERE received_tli IS NOT NULL)
       THEN (SELECT max(('x' || substr(name, 1, 8))::bit(32)::int)
         FROM pg_ls_dir('pg_wal', true, false) name,
         (SELECT greatest(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn())
            - '0/0'::pg_lsn - 1 AS at, setting::numeric AS bytes
          FROM pg_settings WHERE name = 'wal_segment_size') e
         WHERE name ~ '^[0-9A-F]{24}$' AND (name LIKE '00000001%' OR EXISTS (
           SELECT FROM pg_ls_dir('pg_wal', true, false) file
           WHERE file = substr(name, 1, 8) || '.history')) AND substr(name, 9) = upper(
           lpad(to_hex(div(e.at, 4294967296)::bigint), 8, '0') ||
           lpad(to_hex(div(mod(e.at, 4294967296), e.bytes)::bigint), 8, '0'))) END))
      FROM pg_control_checkpoint() c, pg_control_recovery() m)
    ELSE ('x' || substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8))::bit(32)::int END"
    };
}
pub(super) use timeline;

/// One JSON text. `CASE` keeps the functions that fail on the other role from being called.
/// `wal_read` comes before the positions that it speaks of: a standby asks for a stream, or waits
/// for one, only when it has replayed all WAL that it has.
pub(super) const QUERY: &str = concat!(
    "
SELECT json_build_object(
  'in_recovery', r.standby,
  'timeline', ",
    timeline!(),
    ",
  'flush_lsn', CASE WHEN r.standby THEN NULL ELSE pg_current_wal_flush_lsn() END,
  'wal_read', r.standby AND (pg_last_wal_receive_lsn() IS NOT NULL OR EXISTS (
    SELECT FROM pg_stat_activity WHERE backend_type = 'startup'
      AND wait_event IN ('RecoveryWalStream', 'RecoveryRetrieveRetryInterval'))),
  'receive_lsn', CASE WHEN r.standby THEN pg_last_wal_receive_lsn() END,
  'replay_lsn', CASE WHEN r.standby THEN pg_last_wal_replay_lsn() END,
  'replay_paused', r.standby AND CASE WHEN r.standby THEN pg_is_wal_replay_paused() END,
  'replayed_commit_at_us', CASE WHEN r.standby THEN
    (extract(epoch FROM pg_last_xact_replay_timestamp()) * 1000000)::bigint END,
  'receiver', (SELECT json_build_object('status', status, 'host', sender_host,
      'port', sender_port, 'latest_end_lsn', latest_end_lsn, 'timeline', received_tli)
    FROM pg_stat_get_wal_receiver() WHERE pid IS NOT NULL),
  'senders', (SELECT coalesce(json_agg(json_build_object('application_name', application_name,
      'state', coalesce(state, ''), 'sync_state', coalesce(sync_state, ''),
      'write_lsn', write_lsn, 'flush_lsn', flush_lsn, 'replay_lsn', replay_lsn,
      'usename', coalesce(usename, ''),
      'client_addr', host(client_addr), 'sync_priority', coalesce(sync_priority, 0))
      ORDER BY application_name, pid), '[]') FROM pg_stat_replication),
  'slots', (SELECT coalesce(json_agg(json_build_object('name', slot_name,
      'physical', slot_type = 'physical', 'active', active, 'restart_lsn', restart_lsn,
      'confirmed_lsn', confirmed_flush_lsn, 'database', database, 'plugin', plugin,
      'xmin', xmin::text::bigint, 'catalog_xmin', catalog_xmin::text::bigint,
      'wal_status', coalesce(wal_status, ''), 'newer', to_jsonb(s)) ORDER BY slot_name), '[]')
    FROM pg_replication_slots s WHERE NOT temporary),
  'takes_over', r.standby AND coalesce(current_setting('sync_replication_slots', true), '') = 'on',
  'sync_names', current_setting('synchronous_standby_names'),
  'system_id', (SELECT system_identifier::text FROM pg_control_system()),
  'server_version', current_setting('server_version_num')::int,
  'started_at_us', (extract(epoch FROM pg_postmaster_start_time()) * 1000000)::bigint,
  'slot_wal_limit_bytes', (SELECT nullif(setting, '-1')::bigint * 1048576 FROM pg_settings
    WHERE name = 'max_slot_wal_keep_size'),
  'restores', current_setting('restore_command') <> '',
  'pending', ",
    pending!(),
    "
)::text FROM (SELECT pg_is_in_recovery() AS standby) r"
);

#[derive(Deserialize)]
struct Answer {
    in_recovery: bool,
    timeline: u32,
    flush_lsn: Option<String>,
    wal_read: bool,
    receive_lsn: Option<String>,
    replay_lsn: Option<String>,
    replay_paused: bool,
    replayed_commit_at_us: Option<i64>,
    receiver: Option<Receiver>,
    senders: Vec<Sender>,
    slots: Vec<Slot>,
    takes_over: bool,
    sync_names: String,
    system_id: String,
    server_version: u32,
    started_at_us: i64,
    slot_wal_limit_bytes: Option<u64>,
    restores: bool,
}

#[derive(Deserialize)]
struct Receiver {
    status: Option<String>,
    host: Option<String>,
    port: Option<u16>,
    latest_end_lsn: Option<String>,
    timeline: Option<u32>,
}

#[derive(Deserialize)]
struct Sender {
    application_name: String,
    state: String,
    sync_state: String,
    write_lsn: Option<String>,
    flush_lsn: Option<String>,
    replay_lsn: Option<String>,
    usename: String,
    client_addr: Option<String>,
    sync_priority: i32,
}

#[derive(Deserialize)]
struct Slot {
    name: String,
    physical: bool,
    active: bool,
    restart_lsn: Option<String>,
    confirmed_lsn: Option<String>,
    database: Option<String>,
    plugin: Option<String>,
    xmin: Option<u32>,
    catalog_xmin: Option<u32>,
    wal_status: String,
    newer: Newer,
}

/// Columns of `pg_replication_slots` that PostgreSQL has from 16 or 17 on.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Newer {
    conflicting: Option<bool>,
    invalidation_reason: Option<String>,
    failover: bool,
    synced: bool,
}

#[allow(clippy::needless_pass_by_value, reason = "the shape that map_err passes")]
fn bad(problem: impl ToString) -> Error {
    Error::Answer { what: "the status query's answer".to_owned(), answer: problem.to_string() }
}

fn position(text: Option<&String>) -> Result<Option<Lsn>, Error> {
    text.map(|t| t.parse().map_err(bad)).transpose()
}

impl Receiver {
    fn fact(self) -> Result<Walreceiver, Error> {
        Ok(Walreceiver {
            status: self.status.unwrap_or_default(),
            host: self.host,
            port: self.port,
            latest_end_lsn: position(self.latest_end_lsn.as_ref())?,
            timeline: self.timeline.map(TimelineId),
        })
    }
}

impl Sender {
    fn fact(self) -> Result<Walsender, Error> {
        Ok(Walsender {
            write_lsn: position(self.write_lsn.as_ref())?,
            flush_lsn: position(self.flush_lsn.as_ref())?,
            replay_lsn: position(self.replay_lsn.as_ref())?,
            application_name: self.application_name,
            state: self.state,
            sync_state: self.sync_state,
            usename: self.usename,
            client_addr: self.client_addr,
            sync_priority: self.sync_priority,
        })
    }
}

impl Slot {
    /// `takes_over`: of a standby that takes slots over from its primary by itself.
    fn fact(self, takes_over: bool) -> Result<SlotFact, Error> {
        Ok(SlotFact {
            restart_lsn: position(self.restart_lsn.as_ref())?,
            name: SlotName::parse(&self.name).ok_or_else(|| bad(&self.name))?,
            confirmed_lsn: position(self.confirmed_lsn.as_ref())?,
            lost: self.wal_status == "lost"
                || self.newer.conflicting == Some(true)
                || self.newer.invalidation_reason.is_some(),
            invalidation: self.newer.invalidation_reason.clone(),
            failover: self.newer.failover || self.newer.synced,
            synced: self.newer.synced,
            left_over: takes_over && self.newer.failover && !self.newer.synced,
            physical: self.physical,
            active: self.active,
            database: self.database,
            plugin: self.plugin,
            xmin: self.xmin,
            catalog_xmin: self.catalog_xmin,
            wal_status: self.wal_status,
        })
    }
}

/// Reads the row of [`QUERY`].
pub(super) fn parse(text: &str) -> Result<Running, Error> {
    let answer: Answer = serde_json::from_str(text).map_err(bad)?;
    let receive_lsn = position(answer.receive_lsn.as_ref())?;
    let replay_lsn = position(answer.replay_lsn.as_ref())?;
    let flush_lsn = position(answer.flush_lsn.as_ref())?;
    Ok(Running {
        in_recovery: answer.in_recovery,
        timeline: TimelineId(answer.timeline),
        lsn: flush_lsn.or(receive_lsn.max(replay_lsn)).unwrap_or_default(),
        receive_lsn,
        wal_read: answer.wal_read,
        replay_lsn,
        replay_paused: answer.replay_paused,
        replayed_commit_at_us: answer.replayed_commit_at_us,
        receiver: answer.receiver.map(Receiver::fact).transpose()?,
        senders: answer.senders.into_iter().map(Sender::fact).collect::<Result<_, _>>()?,
        slots: answer
            .slots
            .into_iter()
            .map(|slot| slot.fact(answer.takes_over))
            .collect::<Result<_, _>>()?,
        sync_names: answer.sync_names,
        system_id: SystemId::new(answer.system_id),
        server_version: answer.server_version,
        started_at_us: answer.started_at_us,
        // Filled in by the caller, which knows the command line and the control file.
        pending_restart: false,
        outgrown: false,
        slot_wal_limit_bytes: answer.slot_wal_limit_bytes,
        restores: answer.restores,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn answer(changes: &Value) -> String {
        let mut all = json!({
            "in_recovery": true, "timeline": 2, "flush_lsn": null, "wal_read": true,
            "receive_lsn": "0/5000000",
            "replay_lsn": "0/5000100", "replay_paused": false, "replayed_commit_at_us": 7,
            "receiver": {"status": "streaming", "host": "a", "port": 5432,
                "latest_end_lsn": "0/5000200", "timeline": 2},
            "senders": [], "slots": [{"name": "pg2", "physical": true, "active": false,
                "restart_lsn": null, "confirmed_lsn": null, "database": null, "plugin": null,
                "xmin": 740, "catalog_xmin": null, "wal_status": "reserved",
                "newer": {"slot_name": "pg2", "invalidation_reason": "wal_removed",
                    "failover": false, "synced": true}}],
            "takes_over": false,
            "sync_names": "", "system_id": "7", "server_version": 150_004, "started_at_us": 1,
            "restores": true});
        for (key, value) in changes.as_object().expect("object") {
            all[key] = value.clone();
        }
        all.to_string()
    }

    #[test]
    fn a_standby_is_as_far_as_the_further_of_two() {
        let standby = parse(&answer(&json!({}))).expect("standby");
        assert_eq!(standby.lsn, Lsn(0x0500_0100));
        assert_eq!(standby.receiver.expect("receiver").timeline, Some(TimelineId(2)));
        let slot = &standby.slots[0];
        assert_eq!((slot.restart_lsn, slot.xmin), (None, Some(740)));
        assert!(slot.lost && slot.failover && slot.synced, "columns of newer versions are read");
        assert_eq!(slot.why_lost(), "wal_removed");
        let behind = parse(&answer(&json!({"replay_lsn": null}))).expect("standby");
        assert_eq!(behind.lsn, Lsn(0x0500_0000));
    }

    #[test]
    fn slots_of_every_version() {
        // Which columns the view has: PostgreSQL manual, `pg_replication_slots`, of each version.
        for (version, wal_status, columns, takes_over, found) in [
            (13, "reserved", json!({}), false, (false, false, false)),
            (13, "lost", json!({}), false, (true, false, false)),
            (14, "lost", json!({"two_phase": false}), false, (true, false, false)),
            (15, "extended", json!({"two_phase": true}), false, (false, false, false)),
            (16, "reserved", json!({"conflicting": false}), false, (false, false, false)),
            (16, "reserved", json!({"conflicting": true}), false, (true, false, false)),
            (16, "reserved", json!({"conflicting": null}), false, (false, false, false)),
            (17, "reserved", newest(None, false, false), true, (false, false, false)),
            (17, "reserved", newest(Some("rows_removed"), true, true), true, (true, true, false)),
            (17, "reserved", newest(None, true, true), true, (false, true, false)),
            (17, "reserved", newest(None, true, false), true, (false, true, true)),
            (17, "reserved", newest(None, true, false), false, (false, true, false)),
            (
                18,
                "unreserved",
                newest(Some("idle_timeout"), false, false),
                false,
                (true, false, false),
            ),
        ] {
            let mut slot: Value = serde_json::from_str::<Value>(&answer(&json!({}))).expect("json")
                ["slots"][0]
                .clone();
            slot["wal_status"] = wal_status.into();
            slot["newer"] = columns.clone();
            let changes = json!({"slots": [slot], "takes_over": takes_over});
            let read = parse(&answer(&changes)).expect("running");
            let slot = &read.slots[0];
            let seen = (slot.lost, slot.failover, slot.left_over);
            assert_eq!(seen, found, "{version} {wal_status} {columns}");
        }
    }

    fn newest(invalidation: Option<&str>, failover: bool, synced: bool) -> Value {
        json!({"conflicting": false, "invalidation_reason": invalidation, "failover": failover,
            "synced": synced, "inactive_since": null})
    }

    #[test]
    fn a_primary_is_as_far_as_it_has_flushed() {
        let changes = json!({"in_recovery": false, "flush_lsn": "1/0", "receive_lsn": null,
            "replay_lsn": null, "receiver": null});
        assert_eq!(parse(&answer(&changes)).expect("primary").lsn, Lsn(1 << 32));
    }

    #[test]
    fn nonsense_is_an_error() {
        for changes in [json!({"timeline": -1}), json!({"flush_lsn": "x"}), json!({"slots": 1})] {
            assert!(parse(&answer(&changes)).is_err(), "{changes}");
        }
        assert!(parse("").is_err());
    }
}
