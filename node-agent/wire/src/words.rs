//! Small parts of a federation record: what operators have said, and the lines of a journal.

use crate::ids::{DcName, Epoch, MemberName};
use serde::{Deserialize, Serialize};

/// An operator's word after a cold start.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Confirmation {
    /// The epoch that they confirm.
    pub epoch: Epoch,
    /// The operator.
    pub by: String,
    /// When, in microseconds since the Unix epoch. Counts only while the datacenter has had no
    /// leader since.
    pub at_us: i64,
}

/// An operator's word on an epoch that more than one datacenter claims. The first one counts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resolution {
    /// The epoch.
    pub epoch: Epoch,
    /// The datacenter that stays primary.
    pub keep: DcName,
    /// The operator.
    pub by: String,
    /// When, in microseconds since the Unix epoch.
    pub at_us: i64,
}

/// One line of the journal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JournalEntry {
    /// The stable name of the step.
    pub step: String,
    /// When it was begun, in microseconds since the Unix epoch.
    pub begun_at_us: i64,
    /// When it was found done; `None` while under way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub done_at_us: Option<i64>,
    /// What was found, in words.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub note: String,
    /// The parts that are done, of a step that goes part by part.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub parts: Vec<String>,
}

/// What a switchover asks of the primary datacenter before it stops writes there.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PreSync {
    /// The target's standby, by its `application_name`, that commits are to wait for as well;
    /// `None`: none now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub standby: Option<MemberName>,
    /// Grows with each request: an agent counts the time of each from when it first sees it.
    #[serde(default)]
    pub request: u32,
    /// How long commits may wait for it, in milliseconds.
    #[serde(default)]
    pub limit_ms: u32,
}
