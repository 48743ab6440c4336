//! Asking the other members where they stand, by their REST API, when there is no leader.

use crate::clock;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Bytes;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use node_agent_core::observed::{PeerAnswer, Poll, Standing};
use node_agent_wire::member::{Member, barred, priority};
use node_agent_wire::yaml::truth;
use node_agent_wire::{Lsn, MemberName, TimelineId};
use serde_json::Value;
use std::collections::BTreeMap;
use std::time::Duration;

/// How long one member may take to answer.
const ANSWER_MAX: Duration = Duration::from_millis(1000);
/// No answer of a member is larger.
const BODY_BYTES_MAX: usize = 256 * 1024;

/// Asks members over HTTP.
#[derive(Clone)]
pub struct Peers {
    client: Client<HttpConnector, Empty<Bytes>>,
}

impl Default for Peers {
    fn default() -> Self {
        let mut connector = HttpConnector::new();
        connector.set_connect_timeout(Some(ANSWER_MAX));
        let client =
            Client::builder(TokioExecutor::new()).pool_max_idle_per_host(0).build(connector);
        Self { client }
    }
}

impl Peers {
    /// Asks all of them at the same time.
    pub async fn ask(&self, members: impl Iterator<Item = &Member>, me: &MemberName) -> Poll {
        let asked_at = clock::boot();
        let mut asks = tokio::task::JoinSet::new();
        for member in members.filter(|m| m.name != *me) {
            let (client, name, url) =
                (self.client.clone(), member.name.clone(), member.data.api_url.clone());
            asks.spawn(async move {
                let answer = tokio::time::timeout(ANSWER_MAX, get(&client, &url)).await;
                let answer = match answer {
                    Ok(Some(body)) => read(&body),
                    Ok(None) | Err(_) => PeerAnswer::Silent,
                };
                (name, answer)
            });
        }
        let mut answers = BTreeMap::new();
        while let Some(done) = asks.join_next().await {
            if let Ok((name, answer)) = done {
                answers.insert(name, answer);
            }
        }
        Poll { asked_at, answers }
    }
}

impl Peers {
    /// Whether anything answers at this URL before the deadline.
    pub async fn lives(&self, url: &str, deadline: Duration) -> bool {
        let Ok(uri) = url.parse() else { return false };
        let answer = tokio::time::timeout(deadline, self.client.get(uri)).await;
        matches!(answer, Ok(Ok(_)))
    }
}

async fn get(client: &Client<HttpConnector, Empty<Bytes>>, url: &str) -> Option<Value> {
    let request = hyper::Request::get(url)
        .header(hyper::header::CONNECTION, "close")
        .body(Empty::new())
        .ok()?;
    let response = client.request(request).await.ok()?;
    let body = Limited::new(response.into_body(), BODY_BYTES_MAX).collect().await.ok()?.to_bytes();
    serde_json::from_slice(&body).ok()
}

/// Reads `GET /patroni`. Without a WAL position the member counts as silent (contract B.4).
fn read(body: &Value) -> PeerAnswer {
    let Some(xlog) = body.get("xlog").or_else(|| body.get("wal")) else {
        return PeerAnswer::Silent;
    };
    let number = |key: &str| xlog.get(key).and_then(Value::as_u64);
    let position =
        number("location").or_else(|| number("received_location").max(number("replayed_location")));
    let Some(lsn) = position else { return PeerAnswer::Silent };
    let role = body.get("role").and_then(Value::as_str).unwrap_or_default();
    let tags: BTreeMap<String, Value> = body
        .get("tags")
        .and_then(Value::as_object)
        .map(|tags| tags.iter().map(|(name, value)| (name.clone(), value.clone())).collect())
        .unwrap_or_default();
    let in_recovery = !matches!(role, "primary" | "master" | "promoted");
    let told = body.get("wal_read").and_then(Value::as_bool);
    PeerAnswer::Answered(Standing {
        in_recovery,
        lsn: Lsn(lsn),
        replayed: Lsn(number("replayed_location").filter(|_| in_recovery).unwrap_or(0)),
        whole: told.unwrap_or_else(|| number("received_location").is_some_and(|at| at > 0)),
        timeline: body
            .get("timeline")
            .and_then(Value::as_u64)
            .and_then(|t| u32::try_from(t).ok())
            .map(TimelineId),
        nofailover: barred(&tags, "nofailover", "failover_priority"),
        failover_priority: priority(&tags, "failover_priority"),
        watchdog_failed: body.get("watchdog_failed").and_then(truth).unwrap_or(false),
        sees_primary: body.get("sees_primary").and_then(Value::as_str).map(MemberName::from),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn standing(body: &Value) -> Standing {
        match read(body) {
            PeerAnswer::Answered(standing) => standing,
            PeerAnswer::Silent => panic!("{body} is an answer"),
        }
    }

    #[test]
    fn answers_are_read_as_patroni_gives_them() {
        let primary = standing(&json!({"role": "primary", "xlog": {"location": 5}, "timeline": 2}));
        assert!(!primary.in_recovery && primary.lsn == Lsn(5) && !primary.nofailover);
        assert_eq!((primary.timeline, primary.failover_priority), (Some(TimelineId(2)), 1));
        let replica = standing(&json!({"role": "replica", "watchdog_failed": true,
            "tags": {"nofailover": true, "failover_priority": "3"},
            "xlog": {"received_location": 7, "replayed_location": 6, "paused": false}}));
        assert!(replica.in_recovery && replica.whole && replica.lsn == Lsn(7));
        assert_eq!((replica.replayed, primary.replayed), (Lsn(6), Lsn(0)));
        assert!(replica.nofailover && replica.watchdog_failed && replica.sees_primary.is_none());
        assert_eq!(replica.failover_priority, 3);
        assert_eq!(read(&json!({"role": "replica", "state": "stopped"})), PeerAnswer::Silent);
        assert_eq!(read(&json!([1])), PeerAnswer::Silent);
    }

    #[test]
    fn a_standby_that_has_not_read_its_wal_says_so() {
        let xlog = json!({"received_location": null, "replayed_location": 6});
        assert!(!standing(&json!({"role": "replica", "xlog": xlog})).whole);
        let body = json!({"role": "replica", "xlog": xlog, "wal_read": true,
            "sees_primary": "pg1"});
        assert!(standing(&body).whole);
        assert_eq!(standing(&body).sees_primary, Some("pg1".into()));
        let unsure = json!({"role": "replica", "xlog": {"received_location": 9},
            "wal_read": false});
        assert!(!standing(&unsure).whole);
    }
}
