//! What a node's agent says of itself, and what it is asked for, by its REST API.

use lab::layout::REST_PORT;
use serde_json::Value;
use std::time::Duration;

use crate::patience::until;
use crate::rest::{self, Answer};
use crate::rig::{READY, Rig};

const ANSWER: Duration = Duration::from_secs(60);

/// Sends a request to a node; `body` is JSON or null.
///
/// # Errors
/// In words: no answer.
///
/// # Panics
/// When there is no such node.
pub async fn request(
    rig: &Rig,
    node: &str,
    method: &str,
    path: &str,
    body: &Value,
) -> Result<Answer, String> {
    let host = rig.lab.layout.host(node).unwrap_or_else(|error| panic!("{error}"));
    let body = if body.is_null() { String::new() } else { body.to_string() };
    rest::request(host.at(REST_PORT), method, path, &body, ANSWER).await
}

/// The same, of an agent that runs.
///
/// # Panics
/// When it does not answer.
pub async fn ask(rig: &Rig, node: &str, method: &str, path: &str, body: &Value) -> Answer {
    request(rig, node, method, path, body).await.unwrap_or_else(|error| panic!("{error}"))
}

/// `PATCH /config` of an agent that runs.
///
/// # Panics
/// When it is refused.
pub async fn configure(rig: &Rig, node: &str, change: &Value) {
    rig.say(&format!("configuration: {change}"));
    let answer = ask(rig, node, "PATCH", "/config", change).await;
    assert_eq!(answer.status, 200, "{change}: {answer:?}");
}

/// `GET /patroni`.
///
/// # Errors
/// In words: no answer.
pub async fn state(rig: &Rig, node: &str) -> Result<Value, String> {
    let answer = request(rig, node, "GET", "/patroni", &Value::Null).await?;
    serde_json::from_str(&answer.body).map_err(|error| format!("{error} in {}", answer.body))
}

/// Waits until `GET /patroni` of a node is as wanted, and returns it.
///
/// # Panics
/// When that takes longer than [`READY`].
pub async fn eventually(
    rig: &Rig,
    node: &str,
    what: &str,
    wanted: impl Fn(&Value) -> bool,
) -> Value {
    until(&format!("{node}: {what}"), READY, async || {
        let state = state(rig, node).await?;
        if wanted(&state) { Ok(state) } else { Err(state.to_string()) }
    })
    .await
}
