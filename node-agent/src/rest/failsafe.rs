//! `GET` and `POST /failsafe` (contract B.7), and ours: `POST /vote`.

use super::reply::Reply;
use crate::view::Handle;
use axum::http::{HeaderName, StatusCode};
use node_agent_core::promise::NotAccepted;
use node_agent_wire::dynamic::FailsafeMode;
use node_agent_wire::failsafe::{ACCEPTED, FailsafePing, VoteRequest};
use serde_json::{Map, Value};

/// The members that a leader without the DCS asks, with their addresses.
pub fn members(handle: &Handle) -> Reply {
    let view = handle.latest();
    if view.observed.config.failsafe == FailsafeMode::Off {
        return Reply::page(StatusCode::BAD_GATEWAY, "Failsafe mode is disabled");
    }
    let known = view.cluster().map(|cluster| serde_json::json!(cluster.failsafe));
    Reply::json(StatusCode::OK, &known.unwrap_or_else(|| Value::Object(Map::new())))
}

/// A leader without the DCS asks to be left in place.
pub fn ping(handle: &Handle, body: Map<String, Value>) -> Reply {
    let ping: FailsafePing = match serde_json::from_value(Value::Object(body)) {
        Ok(ping) => ping,
        Err(error) => return Reply::page(StatusCode::BAD_REQUEST, &error.to_string()),
    };
    match handle.failsafe.accept(&ping) {
        Ok(_) => {
            let lsn = handle.latest().running().map_or(0, |running| running.lsn.0);
            Reply::text(StatusCode::OK, ACCEPTED)
                .with_header(HeaderName::from_static("lsn"), lsn.to_string())
        }
        Err(why @ NotAccepted::Off) => Reply::text(StatusCode::BAD_GATEWAY, why.to_string()),
        Err(
            why @ (NotAccepted::Leads
            | NotAccepted::Voted(_)
            | NotAccepted::Superseded(_)
            | NotAccepted::Unsettled),
        ) => Reply::text(StatusCode::INTERNAL_SERVER_ERROR, why.to_string()),
    }
}

/// A candidate asks for a vote.
pub fn vote(handle: &Handle, body: Map<String, Value>) -> Reply {
    let request: VoteRequest = match serde_json::from_value(Value::Object(body)) {
        Ok(request) => request,
        Err(error) => return Reply::page(StatusCode::BAD_REQUEST, &error.to_string()),
    };
    match handle.failsafe.vote(&request) {
        Ok(()) => Reply::text(StatusCode::OK, "Granted"),
        Err(why) => Reply::text(StatusCode::CONFLICT, why.to_string()),
    }
}
