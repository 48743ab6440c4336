//! The `position` key: the leader's beat, and where the datacenter stands.
//!
//! The leader rewrites it with every renewal, and counts its lease from the moment it sent the
//! last one that was committed. Another node that has seen no new beat for a whole TTL on its own
//! clock therefore knows that the leader's own deadline has passed, whatever etcd did with the
//! lease (etcd may revoke one early: etcd#15247).

use crate::ids::{DcName, Epoch, MemberName, SlotName};
use crate::lsn::{Lsn, TimelineId};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// The value of the `position` key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    /// The leader that wrote it.
    pub leader: MemberName,
    /// Grows with each beat of one leadership.
    pub beat: u64,
    /// The TTL that the leader counts with, in milliseconds: what an observer must wait.
    pub ttl_ms: u64,
    /// Set by a clean release: the leader has given up the right already, nobody needs to wait.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub released: bool,
    /// Set in maintenance mode: the leader may go on writing when it can't renew, and PostgreSQL
    /// may be left running without its agent. Nobody else may lead before this leader has said,
    /// by a release or when asked, that it does not write any more.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unattended: bool,
    /// The epoch that the leader acts under, where there is a federation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epoch: Option<Epoch>,
    /// Whether PostgreSQL of the leader accepts writes.
    pub writable: bool,
    /// The end of WAL: flushed on a primary, received on a standby leader.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lsn: Option<Lsn>,
    /// Replayed up to here; only on a standby leader.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replay_lsn: Option<Lsn>,
    /// The timeline of `lsn`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeline: Option<TimelineId>,
    /// Commit time of the last transaction replayed, microseconds since the Unix epoch; on a
    /// primary the time at which `lsn` was read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commit_at_us: Option<i64>,
    /// The last moment at which a leader of this datacenter was seen writable, microseconds since
    /// the Unix epoch; carried on by leaders that are not. The cold-start rule reads it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wrote_at_us: Option<i64>,
    /// When this was observed, microseconds since the Unix epoch, by the leader's wall clock.
    pub at_us: i64,
    /// The highest rate at which WAL grew in the last minute, in bytes a second.
    #[serde(default)]
    pub wal_rate_max: u64,
    /// A standby leader's last look at the primary datacenter's own `position`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub primary_seen: Option<PrimarySeen>,
    /// `streaming` while the standby leader's WAL receiver is connected.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link: Option<String>,
    /// On whose word this leader may go on when it has lost the DCS; nobody's when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failsafe: Option<FailsafeTerms>,
    /// The logical slots of a primary in a federation, as it last told them in this epoch; not
    /// known when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub consumers: Option<Consumers>,
}

/// The logical slots of a primary, by name.
pub type Consumers = BTreeMap<SlotName, Consumer>;

/// A logical slot of a primary: how far its consumer has come.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Consumer {
    /// The consumer has confirmed everything before this (`confirmed_flush_lsn`); absent while the
    /// slot is being made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub confirmed: Option<Lsn>,
    /// The slot's database.
    pub database: String,
    /// Its output plugin.
    pub plugin: String,
    /// PostgreSQL 17 and later: standbys may take it over (`failover`).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub failover: bool,
    /// Nothing can be read from it any more: why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lost: Option<String>,
}

/// On whose word a leader may go on without the DCS. Carried by the beat, so that whoever wants to
/// take its place knows what it may have been allowed meanwhile.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailsafeTerms {
    /// Every member that is asked, the leader included. Nobody else may take its place.
    pub members: BTreeSet<MemberName>,
    /// A majority of them is enough; then whoever takes its place needs a majority's votes.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub majority: bool,
}

impl FailsafeTerms {
    /// How many of the members, the one that asks included, must agree.
    #[must_use]
    pub fn needed(&self) -> usize {
        if self.majority { self.members.len() / 2 + 1 } else { self.members.len() }
    }
}

/// What a standby datacenter last saw of the primary one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PrimarySeen {
    /// The primary datacenter.
    pub dc: DcName,
    /// Its epoch.
    pub epoch: Epoch,
    /// Its end of WAL.
    pub lsn: Lsn,
    /// On this timeline.
    pub timeline: TimelineId,
    /// Its own wall clock at that moment, microseconds since the Unix epoch.
    pub at_us: i64,
    /// The wall clock of this datacenter when it was read, microseconds since the Unix epoch.
    pub seen_at_us: i64,
    /// The highest rate at which its WAL grew in the last minute, in bytes a second.
    pub wal_rate_max: u64,
    /// Its logical slots at that moment; not known when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub consumers: Option<Consumers>,
}
