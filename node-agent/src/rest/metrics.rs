//! `GET /metrics` in Prometheus' text format: Patroni's metrics under Patroni's names (contract
//! B.6), and ours under `node_agent_`.

use super::{standing, status};
use crate::view::View;
use node_agent_core::postgres::Running;
use node_agent_core::time::Boot;
use node_agent_wire::Lsn;
use node_agent_wire::config::LocalConfig;
use node_agent_wire::dynamic::SynchronousMode;
use node_agent_wire::member::{Role, state};
use std::fmt::Write;

/// The metric type.
#[derive(Clone, Copy)]
enum Kind {
    Gauge,
    Counter,
}

struct Page {
    labels: String,
    text: String,
}

impl Page {
    fn metric(&mut self, kind: Kind, name: &str, help: &str, value: impl std::fmt::Display) {
        self.annotated(kind, name, help, "", value);
    }

    fn annotated(
        &mut self,
        kind: Kind,
        name: &str,
        help: &str,
        comment: &str,
        value: impl std::fmt::Display,
    ) {
        let kind = match kind {
            Kind::Gauge => "gauge",
            Kind::Counter => "counter",
        };
        // Writing to a String can't fail.
        let _ = write!(
            self.text,
            "# HELP {name} {help}\n{comment}# TYPE {name} {kind}\n{name}{{{}}} {value}\n",
            self.labels
        );
    }

    fn flag(&mut self, name: &str, help: &str, value: bool) {
        self.metric(Kind::Gauge, name, help, u8::from(value));
    }
}

/// The page; `wal_free` is free bytes on the disk with WAL.
#[must_use]
pub fn page(view: &View, config: &LocalConfig, now: Boot, wal_free: Option<u64>) -> String {
    let labels = format!("scope=\"{}\",name=\"{}\"", escape(&config.scope), escape(&config.name));
    let mut page = Page { labels, text: String::with_capacity(8192) };
    version_and_roles(&mut page, view, now);
    positions(&mut page, view);
    postgres(&mut page, view, now);
    cluster(&mut page, view);
    own(&mut page, view, now);
    retention(&mut page, view, wal_free);
    page.text
}

fn escape(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

/// `4.1.5` as `040105`.
fn version_number(version: &str) -> String {
    version
        .split('.')
        .map(|part| {
            let digits: String = part.chars().take_while(char::is_ascii_digit).collect();
            format!("{digits:0>2}")
        })
        .collect()
}

fn version_and_roles(page: &mut Page, view: &View, now: Boot) {
    let role = standing::role(view, now);
    page.metric(
        Kind::Gauge,
        "patroni_version",
        "Version that the agent reports, two digits a part.",
        version_number(&view.member.version),
    );
    page.flag("patroni_postgres_running", "1 if PostgreSQL runs.", standing::is_running(view));
    page.metric(
        Kind::Gauge,
        "patroni_postmaster_start_time",
        "Start of PostgreSQL, seconds since the Unix epoch.",
        seconds(view.running().map(|r| r.started_at_us)),
    );
    page.flag("patroni_primary", "1 if this node is the primary.", role == Role::Primary);
    let location = view.running().filter(|r| !r.in_recovery).map(|r| r.lsn);
    page.metric(
        Kind::Counter,
        "patroni_xlog_location",
        "End of WAL on the primary in bytes, 0 on a standby.",
        position(location),
    );
    page.flag(
        "patroni_standby_leader",
        "1 if this node leads a standby cluster.",
        role == Role::StandbyLeader,
    );
    page.flag("patroni_replica", "1 if this node is a replica.", role == Role::Replica);
    let listed = standing::listed_in_sync(view, now);
    page.flag(
        "patroni_sync_standby",
        "1 if this node is a synchronous standby.",
        listed == SynchronousMode::On,
    );
    page.flag(
        "patroni_quorum_standby",
        "1 if this node is a quorum standby.",
        listed == SynchronousMode::Quorum,
    );
}

fn positions(page: &mut Page, view: &View) {
    let standby = view.running().filter(|r| r.in_recovery);
    page.metric(
        Kind::Counter,
        "patroni_xlog_received_location",
        "WAL received by a standby in bytes, 0 on a primary.",
        position(standby.and_then(|r| r.receive_lsn.or(r.replay_lsn))),
    );
    page.metric(
        Kind::Counter,
        "patroni_xlog_replayed_location",
        "WAL replayed by a standby in bytes, 0 on a primary.",
        position(standby.and_then(|r| r.replay_lsn)),
    );
    page.metric(
        Kind::Gauge,
        "patroni_xlog_replayed_timestamp",
        "Commit time of the last transaction replayed, seconds since the Unix epoch; 0 if none.",
        seconds(standby.and_then(|r| r.replayed_commit_at_us)),
    );
    page.flag(
        "patroni_xlog_paused",
        "1 if replay is paused.",
        standby.is_some_and(|r| r.replay_paused),
    );
}

fn postgres(page: &mut Page, view: &View, now: Boot) {
    let replication = match standing::role(view, now) {
        Role::Primary => None,
        Role::StandbyLeader | Role::Replica | Role::Demoted | Role::Uninitialized => {
            view.running().and(view.member.replication_state.as_deref())
        }
    };
    if view.running().is_some_and(|r| r.server_version >= 90_600) {
        page.flag(
            "patroni_postgres_streaming",
            "1 if a standby streams.",
            replication == Some("streaming"),
        );
        page.flag(
            "patroni_postgres_in_archive_recovery",
            "1 if a standby reads from the archive.",
            replication == Some("in archive recovery"),
        );
    }
    page.metric(
        Kind::Gauge,
        "patroni_postgres_server_version",
        "server_version_num, 0 if PostgreSQL does not answer.",
        view.running().map_or(0, |r| r.server_version),
    );
}

fn cluster(page: &mut Page, view: &View) {
    page.flag(
        "patroni_cluster_unlocked",
        "1 if the cluster has no leader, or the DCS can't be read.",
        status::unlocked(view),
    );
    page.flag(
        "patroni_failsafe_mode_is_active",
        "1 if failsafe mode is active; this agent has none.",
        false,
    );
    page.metric(
        Kind::Gauge,
        "patroni_postgres_timeline",
        "Timeline of PostgreSQL, 0 if it does not answer.",
        view.running().map_or(0, |r: &Running| r.timeline.0),
    );
    page.metric(
        Kind::Gauge,
        "patroni_dcs_last_seen",
        "When the DCS last answered, seconds since the Unix epoch.",
        view.dcs_last_seen_s,
    );
    page.flag(
        "patroni_pending_restart",
        "1 if parameters wait for a restart of PostgreSQL.",
        status::pending_restart(view),
    );
    page.flag("patroni_is_paused", "1 in maintenance mode.", view.observed.config.pause);
    page.annotated(
        Kind::Gauge,
        "patroni_postgres_state",
        "State of PostgreSQL as a number, -1 if unknown.",
        &format!("# Values: {}\n", state_legend()),
        state::index(standing::state_word(view)),
    );
}

fn state_legend() -> String {
    [
        state::INITDB,
        state::INITDB_FAILED,
        state::CREATING_REPLICA,
        state::RUNNING,
        state::STARTING,
        state::START_FAILED,
        state::RESTARTING,
        state::STOPPING,
        state::STOPPED,
        state::CRASHED,
    ]
    .map(|word| format!("{}={word}", state::index(word)))
    .join(", ")
}

fn own(page: &mut Page, view: &View, now: Boot) {
    let epoch = view.cluster().and_then(|c| c.record.get()).map_or(0, |record| record.epoch.0);
    page.metric(
        Kind::Gauge,
        "node_agent_epoch",
        "Epoch of the federation record, 0 outside a federation.",
        epoch,
    );
    page.flag("node_agent_writable", "1 if PostgreSQL accepts writes.", view.writable());
    let left = view.observed.lease.held_until.map_or(0.0, |until| now.until(until).as_secs_f64());
    page.metric(
        Kind::Gauge,
        "node_agent_lease_remaining_seconds",
        "How long this node may still lead without renewing, 0 if it does not lead.",
        left,
    );
    page.metric(Kind::Counter, "node_agent_passes_total", "Passes of the loop.", view.passes);
    page.metric(
        Kind::Gauge,
        "node_agent_pass_duration_seconds",
        "Duration of the last pass.",
        view.pass_took.as_secs_f64(),
    );
    page.metric(
        Kind::Gauge,
        "node_agent_rule",
        "Number of the rule that decided last, see docs/rules.md.",
        view.rule.number(),
    );
}

/// What an alert on the retention runway needs: (limit or free bytes − held) / rate.
fn retention(page: &mut Page, view: &View, wal_free: Option<u64>) {
    if let Some(free) = wal_free {
        let help = "Free bytes on the disk with WAL.";
        page.metric(Kind::Gauge, "node_agent_wal_free_bytes", help, free);
    }
    let Some(running) = view.running() else { return };
    let limit = running.slot_wal_limit_bytes.map_or("+Inf".to_owned(), |bytes| bytes.to_string());
    let help = "max_slot_wal_keep_size in bytes.";
    page.metric(Kind::Gauge, "node_agent_slot_wal_limit_bytes", help, limit);
    let position = view.cluster().and_then(|c| c.position.as_ref()).filter(|_| view.writable());
    if let Some(position) = position {
        let help = "Highest rate at which WAL grew in the last minute.";
        let name = "node_agent_wal_bytes_per_second_max";
        page.metric(Kind::Gauge, name, help, position.wal_rate_max);
    }
    let name = "node_agent_slot_wal_bytes";
    let kept = running.slots.iter().filter_map(|slot| Some((slot, slot.restart_lsn?)));
    let mut kept = kept.peekable();
    if kept.peek().is_some() {
        let help = "WAL that a slot holds back, in bytes.";
        // Writing to a String can't fail.
        let _ = writeln!(page.text, "# HELP {name} {help}\n# TYPE {name} gauge");
    }
    for (slot, from) in kept {
        let (labels, held) = (&page.labels, running.lsn.bytes_since(from));
        let _ = writeln!(page.text, "{name}{{{labels},slot=\"{}\"}} {held}", slot.name);
    }
}

fn position(lsn: Option<Lsn>) -> u64 {
    lsn.map_or(0, |lsn| lsn.0)
}

/// Microseconds as seconds with their fraction, exact to the microsecond.
fn seconds(us: Option<i64>) -> String {
    us.map_or_else(
        || "0".to_owned(),
        |us| {
            let sign = if us < 0 { "-" } else { "" };
            let us = us.unsigned_abs();
            format!("{sign}{}.{:06}", us / 1_000_000, us % 1_000_000)
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rest::fixture;

    /// Every metric of contract B.6 and its type.
    const CONTRACT: [(&str, &str); 25] = [
        ("patroni_version", "gauge"),
        ("patroni_postgres_running", "gauge"),
        ("patroni_postmaster_start_time", "gauge"),
        ("patroni_primary", "gauge"),
        ("patroni_xlog_location", "counter"),
        ("patroni_standby_leader", "gauge"),
        ("patroni_replica", "gauge"),
        ("patroni_sync_standby", "gauge"),
        ("patroni_quorum_standby", "gauge"),
        ("patroni_xlog_received_location", "counter"),
        ("patroni_xlog_replayed_location", "counter"),
        ("patroni_xlog_replayed_timestamp", "gauge"),
        ("patroni_xlog_paused", "gauge"),
        ("patroni_postgres_streaming", "gauge"),
        ("patroni_postgres_in_archive_recovery", "gauge"),
        ("patroni_postgres_server_version", "gauge"),
        ("patroni_cluster_unlocked", "gauge"),
        ("patroni_failsafe_mode_is_active", "gauge"),
        ("patroni_postgres_timeline", "gauge"),
        ("patroni_dcs_last_seen", "gauge"),
        ("patroni_pending_restart", "gauge"),
        ("patroni_is_paused", "gauge"),
        ("patroni_postgres_state", "gauge"),
        ("node_agent_epoch", "gauge"),
        ("node_agent_passes_total", "counter"),
    ];

    fn value<'p>(page: &'p str, name: &str) -> &'p str {
        let start = format!("{name}{{scope=\"shop\",name=\"pg1\"}} ");
        page.lines()
            .find_map(|line| line.strip_prefix(start.as_str()))
            .unwrap_or_else(|| panic!("{name} is missing in\n{page}"))
    }

    #[test]
    fn every_metric_of_the_contract_is_there_once_with_its_type() {
        let view = fixture::primary();
        let page = page(&view, &fixture::config("pg1"), fixture::NOW, Some(7));
        for (name, kind) in CONTRACT {
            assert_eq!(page.matches(&format!("# HELP {name} ")).count(), 1, "{name}");
            assert_eq!(page.matches(&format!("# TYPE {name} {kind}\n")).count(), 1, "{name}");
            value(&page, name);
        }
    }

    #[test]
    fn values_of_a_primary() {
        let view = fixture::primary();
        let page = page(&view, &fixture::config("pg1"), fixture::NOW, Some(7));
        for (name, expected) in [
            ("patroni_version", "040104"),
            ("patroni_postgres_running", "1"),
            ("patroni_primary", "1"),
            ("patroni_replica", "0"),
            ("patroni_xlog_location", "83886080"),
            ("patroni_xlog_received_location", "0"),
            ("patroni_postmaster_start_time", "1767323045.678901"),
            ("patroni_postgres_state", "5"),
            ("patroni_postgres_timeline", "3"),
            ("patroni_cluster_unlocked", "0"),
            ("node_agent_writable", "1"),
            ("node_agent_lease_remaining_seconds", "20"),
            ("node_agent_rule", "125"),
            ("node_agent_epoch", "0"),
            ("node_agent_wal_free_bytes", "7"),
            ("node_agent_slot_wal_limit_bytes", "+Inf"),
        ] {
            assert_eq!(value(&page, name), expected, "{name}");
        }
    }

    #[test]
    fn values_of_a_standby_leader_and_of_a_server_that_does_not_answer() {
        let mut view = fixture::standby_leader();
        let config = fixture::config("pg1");
        let text = page(&view, &config, fixture::NOW, Some(7));
        for (name, expected) in [
            ("patroni_standby_leader", "1"),
            ("patroni_replica", "0"),
            ("patroni_postgres_streaming", "1"),
            ("patroni_xlog_replayed_location", "83755008"),
            ("node_agent_epoch", "2"),
            ("node_agent_writable", "0"),
        ] {
            assert_eq!(value(&text, name), expected, "{name}");
        }
        view.observed.postgres = fixture::unresponsive();
        let text = page(&view, &config, fixture::NOW, Some(7));
        assert!(!text.contains("patroni_postgres_streaming"));
        assert_eq!(value(&text, "patroni_postgres_state"), "-1");
        assert_eq!(value(&text, "patroni_postgres_running"), "0");
    }

    #[test]
    fn labels_and_versions() {
        assert_eq!(escape("a\"b\\c\nd"), "a\\\"b\\\\c\\nd");
        assert_eq!(version_number("4.1.5"), "040105");
        assert_eq!(version_number("0.1.0-rc1"), "000100");
        assert_eq!(seconds(Some(-1)), "-0.000001");
    }
}
