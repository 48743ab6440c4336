//! The control file, as `pg_controldata` prints it (PostgreSQL manual; the labels are the same
//! from version 13 to 18).

use super::Error;
use super::command::Tool;
use super::places::Places;
use node_agent_core::postgres::{ControlData, ControlState};
use node_agent_wire::{Lsn, SystemId, TimelineId};
use std::collections::BTreeMap;
use std::time::Duration;

/// The program reads one small file.
const DEADLINE: Duration = Duration::from_secs(5);

/// What a standby must have at least (PostgreSQL manual, 27.4.3): parameter and label.
const STANDBY_MINIMA: [(&str, &str); 5] = [
    ("max_connections", "max_connections setting"),
    ("max_worker_processes", "max_worker_processes setting"),
    ("max_wal_senders", "max_wal_senders setting"),
    ("max_prepared_transactions", "max_prepared_xacts setting"),
    ("max_locks_per_transaction", "max_locks_per_xact setting"),
];

/// The control file with what only this room needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Control {
    /// What everybody needs.
    pub(super) data: ControlData,
    /// The primary's values of the parameters that a standby must not undercut.
    pub(super) minima: BTreeMap<&'static str, u64>,
    /// Bytes of one WAL segment.
    pub(super) segment_bytes: u64,
    /// Bytes of one block of a relation.
    pub(super) block_bytes: u64,
    /// Bytes of one page of WAL.
    pub(super) page_bytes: u64,
}

/// Reads the output of `pg_controldata`.
pub(super) fn parse(text: &str) -> Result<Control, Error> {
    let fields: BTreeMap<&str, &str> = text
        .lines()
        .filter_map(|line| line.split_once(':'))
        .map(|(label, value)| (label.trim(), value.trim()))
        .collect();
    let bad = |label: &str| Error::Answer {
        what: format!("\"{label}\" of pg_controldata"),
        answer: fields.get(label).map_or("(absent)".to_owned(), |v| (*v).to_owned()),
    };
    let get = |label: &str| fields.get(label).copied().ok_or_else(|| bad(label));
    let number = |label: &str| get(label)?.parse::<u64>().map_err(|_| bad(label));
    let lsn = |label: &str| get(label)?.parse::<Lsn>().map_err(|_| bad(label));
    let timeline = |label: &str| get(label)?.parse().map(TimelineId).map_err(|_| bad(label));
    let state = match get("Database cluster state")? {
        "shut down" => ControlState::ShutDown,
        "shut down in recovery" => ControlState::ShutDownInRecovery,
        "shutting down" => ControlState::ShuttingDown,
        "in crash recovery" => ControlState::InCrashRecovery,
        "in archive recovery" => ControlState::InArchiveRecovery,
        "in production" => ControlState::InProduction,
        "starting up" => ControlState::StartingUp,
        _ => return Err(bad("Database cluster state")),
    };
    let rewindable =
        get("wal_log_hints setting")? == "on" || number("Data page checksum version")? > 0;
    let mut minima = BTreeMap::new();
    for (parameter, label) in STANDBY_MINIMA {
        minima.insert(parameter, number(label)?);
    }
    Ok(Control {
        data: ControlData {
            state,
            system_id: SystemId::new(get("Database system identifier")?),
            timeline: timeline("Latest checkpoint's TimeLineID")?,
            checkpoint: lsn("Latest checkpoint location")?,
            min_recovery_end: lsn("Minimum recovery ending location")?,
            min_recovery_timeline: timeline("Min recovery ending loc's timeline")?,
            rewindable,
        },
        minima,
        block_bytes: number("Database block size")?,
        segment_bytes: number("Bytes per WAL segment")?,
        page_bytes: number("WAL block size")?,
    })
}

/// Reads the control file of the data directory.
pub(super) async fn read(places: &Places) -> Result<Control, Error> {
    let tool = Tool::new(&places.program("pg_controldata")).arg(&places.data_dir);
    parse(&tool.output(DEADLINE).await?)
}

#[cfg(test)]
#[path = "control_tests.rs"]
mod tests;
