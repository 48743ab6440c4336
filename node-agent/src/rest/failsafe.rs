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

#[cfg(test)]
mod tests {
    use super::super::fake_loop::Loop;
    use super::super::fixture;
    use super::*;
    use serde_json::json;

    fn object(value: &Value) -> Map<String, Value> {
        value.as_object().expect("an object").clone()
    }

    #[tokio::test]
    async fn a_member_answers_as_patroni_expects_it() {
        let Loop { handle, .. } = Loop::new(fixture::replica("pg2"), |_| {});
        let asks = object(&json!({"name": "pg1", "conn_url": "", "api_url": "", "slots": null}));
        let off = ping(&handle, asks.clone());
        assert_eq!(off.status, StatusCode::BAD_GATEWAY);
        let mut observed = handle.latest().observed.clone();
        observed.config.failsafe = FailsafeMode::All;
        handle.failsafe.tell(&observed, false);
        let accepted = ping(&handle, asks.clone());
        assert_eq!(accepted.status, StatusCode::OK);
        assert_eq!(accepted.body.expect("a body").1, "Accepted");
        let (name, lsn) = accepted.header.expect("a header");
        assert!(name == "lsn" && lsn.parse::<u64>().is_ok_and(|lsn| lsn > 0), "{lsn}");
        let candidate = object(&json!({"candidate": "pg3", "beat": 7, "ttl_ms": 1000}));
        assert_eq!(vote(&handle, candidate).status, StatusCode::CONFLICT, "promised to pg1");
        assert_eq!(ping(&handle, Map::new()).status, StatusCode::BAD_REQUEST);

        handle.failsafe.tell(&observed, true);
        let leads = ping(&handle, asks);
        assert_eq!(leads.status, StatusCode::INTERNAL_SERVER_ERROR);
        assert_eq!(leads.body.expect("a body").1, "Running as a leader");
    }
}
