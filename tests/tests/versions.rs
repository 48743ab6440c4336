//! Goal: the other versions of PostgreSQL work as well, and what differs between them is right:
//! parameters of the agent, unknown ones, what needs a restart, logical slots over a switchover and
//! a failover, the slots that PostgreSQL 17 and later keep in step by themselves.
//! Method: one story of two nodes for each version, obtained by `tests/postgresql.sh`. Where a
//! version cannot be had the test prints the reason and ends.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::Path;
use std::time::Duration;

use federator_tests::divergence::failover_with_rewind;
use federator_tests::patience::until;
use federator_tests::rest;
use federator_tests::rig::{READY, ROWS, Rig};
use federator_tests::rows;
use federator_tests::servers;
use lab::layout::REST_PORT;
use serde_json::{Value, json};

const ANSWER: Duration = Duration::from_secs(60);
/// The permanent slot of the configuration.
const OURS: &str = "cdc";
/// A slot that the user made for PostgreSQL's own way over a failover.
const NATIVE: &str = "native";

struct Story {
    rig: Rig,
    version: u32,
}

fn topology(version: u32, programs: &Path) -> String {
    // The parameters of a version are unknown to others, and left out there.
    format!(
        "
name: version
settings: {{ttl: 5, loop_wait: 1, retry_timeout: 1}}
postgresql:
  bin_dir: {}
  parameters:
    wal_level: logical
    wal_keep_segments: 4
    hot_standby_feedback: 'on'
    vacuum_defer_cleanup_age: 1
    sync_replication_slots: 'on'
    idle_replication_slot_timeout: 1d
dynamic:
  slots: {{{OURS}: {{type: logical, database: postgres, plugin: pgoutput}}}}
datacenters:
  dc1: {{etcd: 1, nodes: [pg1, pg2]}}
# PostgreSQL {version}
",
        programs.display()
    )
}

impl Story {
    /// PostgreSQL's own slots are taken over by standbys.
    fn native(&self) -> bool {
        self.version >= 17
    }

    async fn ask(&self, node: &str, method: &str, path: &str, body: &Value) -> rest::Answer {
        let address = self.rig.lab.layout.host(node).unwrap().at(REST_PORT);
        let body = if body.is_null() { String::new() } else { body.to_string() };
        rest::request(address, method, path, &body, ANSWER).await.unwrap()
    }

    async fn configure(&self, node: &str, change: &Value) {
        let answer = self.ask(node, "PATCH", "/config", change).await;
        assert_eq!(answer.status, 200, "{answer:?}");
    }

    async fn value(&self, node: &str, sql: &str) -> Result<String, String> {
        rows::value(&self.rig.access, &self.rig.node(node), sql).await
    }

    async fn setting(&self, node: &str, name: &str) -> String {
        let sql = format!("SELECT coalesce(current_setting('{name}', true), 'unknown')");
        // A standby may be taking a logical slot over, for which it is stopped.
        until(&format!("{node} to say {name}"), READY, async || self.value(node, &sql).await).await
    }

    async fn eventually(&self, node: &str, what: &str, sql: &str, wanted: &str) {
        until(&format!("{node}: {what}"), READY, async || {
            let seen = self.value(node, sql).await?;
            if seen == wanted { Ok(()) } else { Err(seen) }
        })
        .await;
    }

    fn other(&self, node: &str) -> String {
        self.rig.nodes_of("dc1").into_iter().find(|n| n != node).unwrap()
    }

    /// What the agent owns, what it leaves out, how a standby follows.
    async fn settings(&self, primary: &str, standby: &str) {
        let version = self.version;
        for node in [primary, standby] {
            let number = self.setting(node, "server_version_num").await;
            assert!(number.starts_with(&version.to_string()), "{number} is not {version}");
            let known = |since: u32, until: u32, value: &'static str| {
                if (since..until).contains(&version) { value } else { "unknown" }
            };
            for (name, value) in [
                ("cluster_name", "version-dc1"),
                ("wal_level", "logical"),
                ("wal_log_hints", "on"),
                ("hot_standby", "on"),
                ("max_connections", "50"),
                ("recovery_target_timeline", "latest"),
                ("data_checksums", "on"),
                ("wal_keep_size", "64MB"),
                ("wal_keep_segments", "unknown"),
                ("vacuum_defer_cleanup_age", known(13, 16, "1")),
                ("sync_replication_slots", known(17, 99, "on")),
                ("idle_replication_slot_timeout", known(18, 99, "1d")),
                ("io_method", known(18, 99, "worker")),
            ] {
                assert_eq!(self.setting(node, name).await, value, "{name} on {node}");
            }
        }
        let conninfo = self.setting(standby, "primary_conninfo").await;
        assert_eq!(conninfo.contains("dbname="), self.native(), "{conninfo}");
        assert_eq!(self.setting(standby, "primary_slot_name").await, standby.replace('-', "_"));
    }

    /// `restore_command` needs a restart in 13 and none later. With `max_connections` raised on the
    /// primary first, a standby of 13 ends, and later ones pause: both come back by themselves.
    async fn restarts(&self, primary: &str, standby: &str) {
        let restore = json!({"restore_command": "false"});
        self.configure(primary, &json!({"postgresql": {"recovery_conf": restore}})).await;
        if self.version < 14 {
            until("restore_command to wait for a restart", ROWS, async || {
                let state = self.ask(standby, "GET", "/patroni", &Value::Null).await.body;
                let state: Value = serde_json::from_str(&state).unwrap();
                let new = &state["pending_restart_reason"]["restore_command"]["new_value"];
                if new == "false" { Ok(()) } else { Err(state.to_string()) }
            })
            .await;
        } else {
            let sql = "SELECT current_setting('restore_command')";
            self.eventually(standby, "restore_command without a restart", sql, "false").await;
        }
        let more = json!({"parameters": {"max_connections": 60}});
        let both = json!({"postgresql": {"recovery_conf": null, "parameters": more["parameters"]}});
        self.configure(primary, &both).await;
        until("max_connections to wait for a restart", ROWS, async || {
            let state = self.ask(primary, "GET", "/patroni", &Value::Null).await.body;
            if state.contains("\"max_connections\"") { Ok(()) } else { Err(state) }
        })
        .await;
        let answer = self.ask(primary, "POST", "/restart", &json!({})).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        let sql = "SELECT current_setting('max_connections')";
        self.eventually(primary, "the raised value", sql, "60").await;
        self.eventually(standby, "the raised value, by itself", sql, "60").await;
        assert_eq!(self.rig.complete("dc1"), primary, "a restart is no failover");
    }

    /// Both slots are on both nodes, and those of the standby are what they should be.
    async fn slots(&self, primary: &str, standby: &str) {
        let ours = format!(
            "SELECT count(*)::text FROM pg_replication_slots
             WHERE slot_name = '{OURS}' AND plugin = 'pgoutput' AND wal_status <> 'lost'"
        );
        for node in [primary, standby] {
            self.eventually(node, "the slot of the configuration", &ours, "1").await;
        }
        if self.native() {
            let native = format!(
                "SELECT coalesce(max(CASE WHEN failover AND invalidation_reason IS NULL THEN
                   CASE WHEN synced AND NOT temporary THEN 'taken over' ELSE 'own' END END), 'none')
                 FROM pg_replication_slots WHERE slot_name = '{NATIVE}'"
            );
            // A standby can take it over for good once its consumer has come past what the standby
            // has kept.
            until(&format!("{standby}: PostgreSQL to take its slot over"), READY, async || {
                let _ = self.consume(primary, NATIVE).await;
                let seen = self.value(standby, &native).await?;
                if seen == "taken over" { Ok(()) } else { Err(seen) }
            })
            .await;
            assert_ne!(self.value(primary, &native).await.unwrap(), "none");
        }
    }

    /// How many inserts the slot has new; they are consumed by that.
    async fn consume(&self, node: &str, slot: &str) -> u64 {
        let sql = format!(
            "SELECT count(*)::text FROM pg_logical_slot_get_binary_changes('{slot}', NULL, NULL,
               'proto_version', '1', 'publication_names', 'everything')
             WHERE get_byte(data, 0) = ascii('I')"
        );
        self.value(node, &sql).await.unwrap().parse().unwrap()
    }

    async fn publish(&self, primary: &str) {
        let client = rows::connect(&self.rig.access, &self.rig.node(primary)).await.unwrap();
        client.batch_execute("CREATE PUBLICATION everything FOR ALL TABLES").await.unwrap();
        if self.native() {
            let create = format!(
                "SELECT pg_create_logical_replication_slot(
                   '{NATIVE}', 'pgoutput', false, false, true)"
            );
            client.batch_execute(&create).await.unwrap();
        }
    }

    async fn switch(&self, primary: &str, candidate: &str) {
        let body = json!({"leader": primary, "candidate": candidate});
        let answer = self.ask(primary, "POST", "/switchover", &body).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        assert_eq!(self.rig.complete("dc1"), candidate);
    }
}

async fn story(version: u32) {
    let programs = match servers::programs_of(version).await {
        Ok(programs) => programs,
        Err(reason) => {
            println!("SKIPPED: {reason}");
            return;
        }
    };
    let rig = Rig::start_with("version", &topology(version, &programs));
    let first = rig.complete("dc1");
    let story = Story { rig, version };
    let rig = &story.rig;
    let second = story.other(&first);
    story.settings(&first, &second).await;
    // Before the first row: a change is decoded with the publications of its time.
    story.publish(&first).await;
    let writer = rig.writer("before").await;
    rig.rows(&writer, 50).await;
    story.slots(&first, &second).await;
    rig.rows(&writer, 50).await;
    assert!(story.consume(&first, OURS).await >= 50);

    writer.phase("switchover");
    story.switch(&first, &second).await;
    rig.rows(&writer, 50).await;
    story.slots(&second, &first).await;
    assert!(story.consume(&second, OURS).await >= 50);
    story.restarts(&second, &first).await;
    story.slots(&second, &first).await;

    writer.phase("failover");
    let third = failover_with_rewind(rig, &writer, &second).await;
    assert_eq!(third, first);
    story.slots(&third, &second).await;
    assert!(story.consume(&third, OURS).await >= 50);
    if story.native() {
        rig.rows(&writer, 50).await;
        assert!(story.consume(&third, NATIVE).await >= 50);
    }
    let _ = writer.stop().await;
    rows::wait_identical(&rig.access, READY).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgresql_13_works_as_well() {
    story(13).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgresql_16_works_as_well() {
    story(16).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgresql_17_works_as_well() {
    story(17).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgresql_18_works_as_well() {
    story(18).await;
}
