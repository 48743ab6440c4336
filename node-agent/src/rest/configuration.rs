//! The dynamic configuration over REST: `GET`, `PATCH` and `PUT /config` (contract B.5, B.7).

use super::reply::Reply;
use crate::dcs::{Compare, Write, cluster};
use crate::view::Handle;
use axum::http::StatusCode;
use node_agent_wire::keys::{ClusterPath, Leaf};
use node_agent_wire::{Revision, patch};
use serde_json::{Map, Value};
use std::time::Duration;

/// How long the DCS may take for one call of a request.
pub const DCS_DEADLINE: Duration = Duration::from_secs(3);

/// The path of this node's cluster.
#[must_use]
pub fn path(handle: &Handle) -> ClusterPath {
    ClusterPath::new(&handle.config.namespace, &handle.config.scope)
}

/// `GET /config`: the key as it is now; the last one read when the DCS does not answer.
pub async fn get(handle: &Handle) -> Reply {
    let path = path(handle);
    let object = match handle.dcs.read(path.prefix(), DCS_DEADLINE).await {
        Ok(raw) => cluster::config_object(&path, &raw),
        Err(_) => cluster::config_object(&path, &handle.latest().raw),
    };
    match object {
        Some(object) => Reply::json(StatusCode::OK, &Value::Object(object)),
        None => Reply::page(StatusCode::BAD_GATEWAY, "the cluster has no configuration yet"),
    }
}

/// `PATCH /config`: lays the request over the key by compare-and-set. Answers the whole result.
pub async fn change(handle: &Handle, request: &Map<String, Value>) -> Reply {
    let path = path(handle);
    let raw = match handle.dcs.read(path.prefix(), DCS_DEADLINE).await {
        Ok(raw) => raw,
        Err(error) => return Reply::text(StatusCode::SERVICE_UNAVAILABLE, error.to_string()),
    };
    let Some(mut object) = cluster::config_object(&path, &raw) else {
        return Reply::page(
            StatusCode::SERVICE_UNAVAILABLE,
            "the cluster has no configuration yet: nothing to change",
        );
    };
    let key = path.key(Leaf::Config);
    let revision = raw.keys.get(&key).map_or(Revision(0), |k| k.revision);
    if patch::apply(&mut object, request) {
        let value = Value::Object(object.clone()).to_string();
        let conditions = [Compare::AtRevision(key.clone(), revision)];
        match handle.dcs.write(&conditions, &[Write::put(key, value)], DCS_DEADLINE).await {
            Ok(Some(_)) => handle.look(),
            Ok(None) => {
                return Reply::page(
                    StatusCode::CONFLICT,
                    "the configuration was changed by somebody else meanwhile: look at it, then \
                     try again",
                );
            }
            Err(error) => return Reply::text(StatusCode::SERVICE_UNAVAILABLE, error.to_string()),
        }
    }
    Reply::json(StatusCode::OK, &Value::Object(object))
}

/// `PUT /config`: replaces the key, whatever it is.
pub async fn replace(handle: &Handle, request: &Map<String, Value>) -> Reply {
    let key = path(handle).key(Leaf::Config);
    let value = Value::Object(request.clone());
    let write = Write::put(key, value.to_string());
    match handle.dcs.write(&[], &[write], DCS_DEADLINE).await {
        Ok(_) => {
            handle.look();
            Reply::json(StatusCode::OK, &value)
        }
        Err(error) => Reply::page(StatusCode::BAD_GATEWAY, &error.to_string()),
    }
}
