//! Asking the other members where they stand, by their REST API, when there is no leader.

use crate::clock;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Bytes;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use node_agent_core::observed::{PeerAnswer, Poll};
use node_agent_wire::member::Member;
use node_agent_wire::{Lsn, MemberName, TimelineId};
use serde_json::Value;
use std::collections::BTreeMap;
use std::time::Duration;

/// How long one member may take to answer.
const ANSWER_MAX: Duration = Duration::from_millis(1000);
/// No answer of a member is larger.
const BODY_BYTES_MAX: usize = 256 * 1024;

/// Asks members over HTTP.
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
    let tag = |name: &str| {
        body.get("tags").and_then(|t| t.get(name)).and_then(node_agent_wire::yaml::truth)
    };
    PeerAnswer::Answered {
        in_recovery: !matches!(role, "primary" | "master" | "promoted"),
        lsn: Lsn(lsn),
        timeline: body
            .get("timeline")
            .and_then(Value::as_u64)
            .and_then(|t| u32::try_from(t).ok())
            .map(TimelineId),
        nofailover: tag("nofailover").unwrap_or(false),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn answers_are_read_as_patroni_gives_them() {
        let primary = json!({"role": "primary", "xlog": {"location": 5}, "timeline": 2});
        assert!(matches!(
            read(&primary),
            PeerAnswer::Answered { in_recovery: false, lsn: Lsn(5), .. }
        ));
        let replica = json!({"role": "replica", "tags": {"nofailover": true},
            "xlog": {"received_location": 7, "replayed_location": 6, "paused": false}});
        assert!(matches!(
            read(&replica),
            PeerAnswer::Answered { in_recovery: true, lsn: Lsn(7), nofailover: true, .. }
        ));
        assert_eq!(read(&json!({"role": "replica", "state": "stopped"})), PeerAnswer::Silent);
        assert_eq!(read(&json!([1])), PeerAnswer::Silent);
    }
}
