//! Patroni's REST API (contract B), answered from the last view, the clock and the DCS. Nothing is
//! decided here: what changes something goes into the DCS or into the loop, and the answer says
//! what became of it.
//!
//! Not in this version: `POST /sigterm` and `/citus` (501), TLS on this port,
//! `allowlist`. Differences on the wire: replies
//! to HTTP/1.1 requests are HTTP/1.1 with `Connection: close`, and a bare reply has a
//! `Content-Length: 0`.
//!
//! Paths can't be given to a router: Patroni matches the first segment, then words inside the path
//! ([`route`], [`role_check`]).

pub mod access;
pub mod candidates;
pub mod cluster;
pub mod configuration;
pub mod failsafe;
pub(crate) mod freshness;
pub mod metrics;
pub mod query;
pub mod reinitialize;
pub mod reply;
pub mod restart;
pub mod role_check;
pub mod route;
pub mod standing;
pub mod status;
pub mod switchover;

#[cfg(test)]
pub(crate) mod fake_dcs;
#[cfg(test)]
pub(crate) mod fake_loop;
#[cfg(test)]
pub(crate) mod fixture;
#[cfg(test)]
mod http_tests;
#[cfg(test)]
mod role_check_tests;

use crate::clock;
use crate::view::Handle;
use axum::body::Body;
use axum::http::header::CONTENT_LENGTH;
use axum::http::{HeaderMap, Request, Response, StatusCode};
use candidates::Action;
use http_body_util::{BodyExt, Limited};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use node_agent_wire::keys::Leaf;
use query::Query;
use reply::Reply;
use route::{BodyRule, Endpoint, route};
use serde_json::{Map, Value};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, Semaphore};
use tokio::task::JoinSet;

/// Requests that are served at one time; more wait in the listener's queue.
const CONNECTIONS_MAX: usize = 128;
/// The largest body that is read, in bytes.
const BODY_BYTES_MAX: usize = 1024 * 1024;
/// How long a client may take to send its body.
const BODY_DEADLINE: Duration = Duration::from_secs(5);
/// How long requests under way may take after the shutdown has begun.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(2);

/// What a slow client is given.
#[derive(Clone, Copy, Debug)]
struct Patience {
    /// To send its request line and headers.
    headers: Duration,
    /// To read its answer.
    answer: Duration,
}

const PATIENCE: Patience =
    Patience { headers: Duration::from_secs(5), answer: Duration::from_secs(5) };

/// Serves until `shutdown`, then lets requests under way finish for a moment.
pub async fn serve(listener: TcpListener, handle: Handle, shutdown: impl Future<Output = ()>) {
    let permits = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut connections = JoinSet::new();
    tokio::pin!(shutdown);
    loop {
        let accepted = tokio::select! {
            () = &mut shutdown => break,
            Some(_) = connections.join_next() => continue,
            accepted = accept(&listener, &permits) => accepted,
        };
        match accepted {
            Ok((stream, permit)) => {
                let handle = handle.clone();
                connections.spawn(async move {
                    converse(stream, handle, PATIENCE).await;
                    drop(permit);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "REST API: a connection was not accepted");
                // Out of file descriptors or the like: give it a moment instead of a busy loop.
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
    let drain = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(SHUTDOWN_GRACE, drain).await.is_err() {
        tracing::info!("REST API: requests still under way are cut off");
    }
}

type Permit = tokio::sync::OwnedSemaphorePermit;

async fn accept(
    listener: &TcpListener,
    permits: &Arc<Semaphore>,
) -> std::io::Result<(TcpStream, Permit)> {
    let permit = Arc::clone(permits).acquire_owned().await.map_err(std::io::Error::other)?;
    let (stream, _) = listener.accept().await?;
    Ok((stream, permit))
}

/// One request on one connection.
async fn converse(stream: TcpStream, handle: Handle, patience: Patience) {
    let answered = Arc::new(Notify::new());
    let tell = Arc::clone(&answered);
    let service = service_fn(move |request: Request<hyper::body::Incoming>| {
        let (handle, tell) = (handle.clone(), Arc::clone(&tell));
        async move {
            let response: Response<Body> =
                answer(&handle, request.map(Body::new)).await.into_response();
            tell.notify_one();
            Ok::<_, Infallible>(response)
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(patience.headers)
        .keep_alive(false)
        .half_close(true)
        .serve_connection(TokioIo::new(stream), service);
    let too_slow = async {
        answered.notified().await;
        tokio::time::sleep(patience.answer).await;
    };
    tokio::select! {
        result = connection => if let Err(error) = result {
            tracing::debug!(%error, "REST API: a connection ended early");
        },
        () = too_slow => tracing::debug!("REST API: a client did not read its answer"),
    }
}

/// Answers one request.
pub async fn answer(handle: &Handle, request: Request<Body>) -> Reply {
    let (head, body) = request.into_parts();
    let path = head.uri.path();
    let endpoint = route(&head.method, path);
    let query = Query::parse(head.uri.query().unwrap_or(""));
    if endpoint.guarded()
        && let Err(reply) = handle.password.check(&head.headers)
    {
        return reply;
    }
    let object = match endpoint.body() {
        BodyRule::Ignored => Map::new(),
        rule @ (BodyRule::Required | BodyRule::Optional) => {
            match read_object(&head.headers, body, rule).await {
                Ok(object) => object,
                Err(reply) => return reply,
            }
        }
    };
    match endpoint {
        Endpoint::Health { .. } | Endpoint::Liveness | Endpoint::Readiness => {
            check(handle, endpoint, path, &query)
        }
        Endpoint::Patroni => {
            let view = freshness::view(handle).await;
            let body = status::patroni_json(&view, &handle.config, clock::boot());
            Reply::json(StatusCode::OK, &body)
        }
        Endpoint::Cluster => cluster_reply(handle).await,
        Endpoint::History => history(handle),
        Endpoint::Config => configuration::get(handle).await,
        Endpoint::Metrics => Reply::metrics(metrics::page(
            &handle.latest(),
            &handle.config,
            clock::boot(),
            handle.server.wal_free_bytes(),
        )),
        Endpoint::Failsafe => failsafe::members(handle),
        Endpoint::FailsafePing => failsafe::ping(handle, object),
        Endpoint::Vote => failsafe::vote(handle, object),
        Endpoint::PatchConfig => configuration::change(handle, &object).await,
        Endpoint::PutConfig => configuration::replace(handle, &object).await,
        Endpoint::Reload => restart::reload(handle).await,
        Endpoint::Restart => restart::restart(handle, &object).await,
        Endpoint::CancelRestart => restart::cancel(handle).await,
        Endpoint::Reinitialize => reinitialize::reinitialize(handle, &object).await,
        Endpoint::Switchover => switchover::request(handle, Action::Switchover, &object).await,
        Endpoint::Failover => switchover::request(handle, Action::Failover, &object).await,
        Endpoint::CancelSwitchover => switchover::cancel(handle).await,
        Endpoint::Unknown => Reply::page(
            StatusCode::NOT_IMPLEMENTED,
            &format!("{} {path} is not served by this agent", head.method),
        ),
    }
}

/// The checks that load balancers make: from the last view, without waiting for anything.
fn check(handle: &Handle, endpoint: Endpoint, path: &str, query: &Query) -> Reply {
    let (view, now) = (handle.latest(), clock::boot());
    let (passed, bare) = match endpoint {
        Endpoint::Liveness => (role_check::is_live(&view, now), true),
        Endpoint::Readiness => (role_check::is_ready(query, &view, now), true),
        Endpoint::Health { bare } => (role_check::passes(path, query, &view, now), bare),
        Endpoint::Patroni
        | Endpoint::Cluster
        | Endpoint::History
        | Endpoint::Config
        | Endpoint::Metrics
        | Endpoint::Failsafe
        | Endpoint::FailsafePing
        | Endpoint::Vote
        | Endpoint::PatchConfig
        | Endpoint::PutConfig
        | Endpoint::Reload
        | Endpoint::Restart
        | Endpoint::CancelRestart
        | Endpoint::Reinitialize
        | Endpoint::Switchover
        | Endpoint::CancelSwitchover
        | Endpoint::Failover
        | Endpoint::Unknown => (false, true),
    };
    let code = if passed { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    if bare {
        return Reply::bare(code);
    }
    Reply::json(code, &status::patroni_json(&view, &handle.config, now))
}

async fn cluster_reply(handle: &Handle) -> Reply {
    let path = configuration::path(handle);
    match handle.dcs.read(path.prefix(), configuration::DCS_DEADLINE).await {
        Ok(raw) => {
            let last = &handle.latest().observed.config;
            let cluster = crate::dcs::cluster::read(&path, &raw, last);
            Reply::json(StatusCode::OK, &cluster::cluster_json(&cluster, &handle.config.scope))
        }
        Err(error) => Reply::page(StatusCode::SERVICE_UNAVAILABLE, &error.to_string()),
    }
}

/// The rows of the `history` key as they are in the last view.
fn history(handle: &Handle) -> Reply {
    let key = configuration::path(handle).key(Leaf::History);
    let view = handle.latest();
    let rows = view
        .raw
        .keys
        .get(&key)
        .and_then(|raw| serde_json::from_slice::<Value>(&raw.value).ok())
        .filter(Value::is_array);
    Reply::json(StatusCode::OK, &rows.unwrap_or_else(|| Value::Array(Vec::new())))
}

/// The JSON object of a body (contract B.1).
async fn read_object(
    headers: &HeaderMap,
    body: Body,
    rule: BodyRule,
) -> Result<Map<String, Value>, Reply> {
    let optional = rule == BodyRule::Optional;
    let Some(length) = headers.get(CONTENT_LENGTH).and_then(|v| v.to_str().ok()) else {
        return if optional {
            Ok(Map::new())
        } else {
            Err(Reply::page(StatusCode::LENGTH_REQUIRED, "a body with Content-Length is needed"))
        };
    };
    if optional && length.trim() == "0" {
        return Ok(Map::new());
    }
    if length.trim().parse::<usize>().is_ok_and(|length| length > BODY_BYTES_MAX) {
        let text = format!("the body is larger than {BODY_BYTES_MAX} bytes");
        return Err(Reply::page(StatusCode::PAYLOAD_TOO_LARGE, &text));
    }
    // The limit counts again: the header is the client's word.
    let read = Limited::new(body, BODY_BYTES_MAX).collect();
    let bytes = match tokio::time::timeout(BODY_DEADLINE, read).await {
        Ok(Ok(collected)) => collected.to_bytes(),
        Ok(Err(error)) => {
            let too_large = error.is::<http_body_util::LengthLimitError>();
            let status =
                if too_large { StatusCode::PAYLOAD_TOO_LARGE } else { StatusCode::BAD_REQUEST };
            return Err(Reply::page(status, &format!("the body was not read: {error}")));
        }
        Err(_) => {
            let text = format!("no complete body within {} s", BODY_DEADLINE.as_secs());
            return Err(Reply::page(StatusCode::REQUEST_TIMEOUT, &text));
        }
    };
    match serde_json::from_slice::<Value>(&bytes) {
        Ok(Value::Object(object)) if optional || !object.is_empty() => Ok(object),
        Ok(_) => Err(Reply::page(StatusCode::BAD_REQUEST, "the body is not a JSON object")),
        Err(error) => {
            let text = format!("the body is not JSON: {error}");
            Err(Reply::page(StatusCode::BAD_REQUEST, &text))
        }
    }
}
