//! What gives way when a link holds back too much WAL.

use serde::{Deserialize, Serialize};

/// What gives way when a datacenter is away for so long that its slot holds back too much WAL on
/// the primary one: decided beforehand, one policy a link.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Retention {
    /// The link is kept; `max_slot_wal_keep_size` is to be unlimited, and the disk may fill.
    #[default]
    ProtectDr,
    /// The primary's disk is kept; `max_slot_wal_keep_size` is to let the slot go in time.
    ProtectPrimary,
}
