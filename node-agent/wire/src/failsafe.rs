//! What members say to each other in failsafe mode: the body of `POST /failsafe` (contract B.7),
//! and ours of `POST /vote`.

use crate::ids::{MemberName, Revision};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// `POST /failsafe`: a leader that has lost the DCS asks to be left in place.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailsafePing {
    /// The leader.
    pub name: MemberName,
    /// Its PostgreSQL.
    #[serde(default)]
    pub conn_url: String,
    /// Its REST API.
    #[serde(default)]
    pub api_url: String,
    /// Positions of its slots, which members keep as far.
    #[serde(default)]
    pub slots: Option<BTreeMap<String, u64>>,
    /// Ours: the TTL that it counts with, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl_ms: Option<u64>,
    /// Ours: the revision of its last beat that it knows to be committed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub beat: Option<Revision>,
    /// Ours: a majority is enough for it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub majority: bool,
}

/// `POST /vote`, ours: a candidate asks for a vote against the beat that it saw last.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VoteRequest {
    /// The candidate.
    pub candidate: MemberName,
    /// The revision of that beat.
    pub beat: Revision,
    /// The TTL that the beat carries, in milliseconds.
    pub ttl_ms: u64,
}

/// The body of `POST /failsafe` of a member that agrees; Patroni compares it to the letter.
pub const ACCEPTED: &str = "Accepted";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patronis_body_is_read_and_ours_only_adds_to_it() {
        let theirs = r#"{"name":"pg1","conn_url":"c","api_url":"a","slots":{"pg2":7},"x":1}"#;
        let ping: FailsafePing = serde_json::from_str(theirs).expect("a ping");
        assert_eq!((ping.name.as_str(), ping.beat, ping.majority), ("pg1", None, false));
        assert_eq!(ping.slots.expect("slots").len(), 1);
        let none: FailsafePing = serde_json::from_str(r#"{"name":"b","slots":null}"#).expect("b");
        let text = serde_json::to_string(&none).expect("json");
        assert_eq!(text, r#"{"name":"b","conn_url":"","api_url":"","slots":null}"#);
    }
}
