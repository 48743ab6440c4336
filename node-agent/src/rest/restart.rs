//! `POST /restart`, `DELETE /restart` and `POST /reload` (contract B.7).

use super::query::milliseconds;
use super::reply::Reply;
use super::{freshness, standing, status};
use crate::clock;
use crate::plans::Planned;
use crate::view::{Ask, Handle, View};
use axum::http::StatusCode;
use node_agent_core::observed::JobKind;
use node_agent_core::postgres::Postgres;
use node_agent_core::schedule::{RestartConditions, ScheduledRestart};
use node_agent_core::time::Boot;
use node_agent_wire::member::Role;
use node_agent_wire::schedule::{self, ScheduleError};
use serde_json::{Map, Value};
use std::time::Duration;
use tokio::sync::oneshot;

/// Beside the time for the start: the shutdown checkpoint comes on top.
const STOP_ALLOWANCE: Duration = Duration::from_secs(60);
/// How long the loop may take to accept the request.
const ACCEPT_DEADLINE: Duration = Duration::from_secs(5);

/// A restart as it was asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Order {
    conditions: RestartConditions,
    timeout: Option<Duration>,
    /// The moment, as it was given.
    schedule: Option<String>,
}

impl Order {
    fn read(body: &Map<String, Value>) -> Result<Self, String> {
        let mut order = Self::default();
        for (key, value) in body {
            match key.as_str() {
                "schedule" => {
                    let text = value.as_str().ok_or("schedule must be text")?;
                    order.schedule = Some(text.to_owned());
                }
                "role" => order.conditions.role = Some(role(value)?),
                "postgres_version" => {
                    let version = value.as_str().and_then(version_number);
                    order.conditions.older_than = Some(version.ok_or_else(|| {
                        format!("PostgreSQL version {value} is not usable: expected as in \"15.4\"")
                    })?);
                }
                "timeout" => order.timeout = Some(timeout(value)?),
                // Its presence counts, not its value (contract B.7).
                "restart_pending" => order.conditions.pending = true,
                other => return Err(format!("unknown filter for the restart: {other}")),
            }
        }
        Ok(order)
    }

    fn met(&self, view: &View, now: Boot) -> Result<(), String> {
        let server = view.running().map_or(0, |r| r.server_version);
        self.conditions.met(standing::role(view, now), server, status::pending_restart(view))
    }

    /// The plan for later, and how the member key shows it.
    fn plan(&self, at_us: i64, body: &Map<String, Value>, started_at_us: i64) -> Planned {
        let mut shown = body.clone();
        let started = status::date_time(started_at_us);
        shown.insert("postmaster_start_time".into(), started.into());
        Planned {
            restart: ScheduledRestart {
                at_us,
                server_started_us: started_at_us,
                conditions: self.conditions.clone(),
                timeout: self.timeout,
            },
            shown: Value::Object(shown),
        }
    }
}

fn role(value: &Value) -> Result<Role, String> {
    match value.as_str() {
        Some("primary") => Ok(Role::Primary),
        Some("standby_leader") => Ok(Role::StandbyLeader),
        Some("replica") => Ok(Role::Replica),
        Some(_) | None => {
            Err(format!("role must be primary, standby_leader or replica, found {value}"))
        }
    }
}

fn timeout(value: &Value) -> Result<Duration, String> {
    let given = match value {
        Value::String(text) => milliseconds(text),
        Value::Number(number) => number.as_u64().and_then(|seconds| seconds.checked_mul(1000)),
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => None,
    };
    given
        .filter(|ms| *ms > 0)
        .map(Duration::from_millis)
        .ok_or_else(|| format!("timeout must be a positive number of seconds, found {value}"))
}

/// `15.4` as 150004, `9.6.2` as 90602.
fn version_number(text: &str) -> Option<u32> {
    let parts: Vec<u32> = text.split('.').map(|p| p.parse().ok()).collect::<Option<_>>()?;
    match parts.as_slice() {
        [major @ 10..=99, minor @ 0..=9999] => Some(major * 10_000 + minor),
        [major @ 1..=9, middle @ 0..=99, minor @ 0..=99] => {
            Some(major * 10_000 + middle * 100 + minor)
        }
        _ => None,
    }
}

/// Why a restart can't begin now.
fn obstacle(view: &View) -> Option<String> {
    if let Some(job) = view.observed.job {
        return Some(format!("{} already in progress", job_word(job.kind)));
    }
    match &view.observed.postgres {
        Postgres::Running(_) => None,
        Postgres::Starting { .. } => Some("postgres is still starting".into()),
        Postgres::NoData
        | Postgres::Unreadable(_)
        | Postgres::Stopped(_)
        | Postgres::Unresponsive { .. } => {
            Some(format!("restart failed: PostgreSQL is not running here ({})", view.why))
        }
    }
}

pub(super) fn job_word(kind: JobKind) -> &'static str {
    match kind {
        JobKind::Bootstrap => "bootstrap",
        JobKind::Clone => "creating replica",
        JobKind::Rewind => "rewind",
        JobKind::Demote => "demote",
        JobKind::Start => "start",
        JobKind::Promote => "promote",
        JobKind::Restart => "restart",
        JobKind::CopySlots => "copying slots",
    }
}

/// `POST /restart`: answers when PostgreSQL accepts connections again, or when the restart is noted
/// for later.
pub async fn restart(handle: &Handle, body: &Map<String, Value>) -> Reply {
    let order = match Order::read(body) {
        Ok(order) => order,
        Err(text) => return Reply::text(StatusCode::BAD_REQUEST, text),
    };
    let view = freshness::view(handle).await;
    if let Some(text) = &order.schedule {
        return plan(handle, &view, &order, text, body).await;
    }
    let unavailable = |text: String| Reply::text(StatusCode::SERVICE_UNAVAILABLE, text);
    if let Some(obstacle) = obstacle(&view) {
        return unavailable(obstacle);
    }
    if let Err(why) = order.met(&view, clock::boot()) {
        tracing::info!(why, "restart refused");
        return unavailable("restart conditions are not satisfied".into());
    }
    tracing::info!("restart requested");
    let (reply, answer) = oneshot::channel();
    if !send(handle, Ask::Restart { timeout: order.timeout, reply }).await {
        return unavailable(format!("restart failed: {NOT_TAKEN}; nothing was restarted"));
    }
    let limit =
        order.timeout.unwrap_or(view.observed.config.primary_start_timeout) + STOP_ALLOWANCE;
    match tokio::time::timeout(limit, answer).await {
        Ok(Ok(Ok(()))) => Reply::text(StatusCode::OK, "restarted successfully"),
        Ok(Ok(Err(why))) => unavailable(format!("restart failed: {why}")),
        Ok(Err(_)) => unavailable("restart failed: the agent dropped the request".into()),
        Err(_) => {
            let last = handle.latest();
            unavailable(format!(
                "restart failed: PostgreSQL did not accept connections within {} s; the agent is \
                 at rule {} ({})",
                limit.as_secs_f64(),
                last.rule.number(),
                last.why
            ))
        }
    }
}

const NOT_TAKEN: &str = "the agent's loop did not take the request in time";

async fn send(handle: &Handle, ask: Ask) -> bool {
    let sent = tokio::time::timeout(ACCEPT_DEADLINE, handle.asks.send(ask)).await;
    matches!(sent, Ok(Ok(())))
}

/// The answer to a question that the loop settles at once.
async fn settled(handle: &Handle, ask: Ask, answer: oneshot::Receiver<bool>) -> Option<bool> {
    if !send(handle, ask).await {
        return None;
    }
    tokio::time::timeout(ACCEPT_DEADLINE, answer).await.ok()?.ok()
}

async fn plan(
    handle: &Handle,
    view: &View,
    order: &Order,
    text: &str,
    body: &Map<String, Value>,
) -> Reply {
    let at_us = match moment(text, "restart") {
        Ok(at_us) => at_us,
        Err(reply) => return reply,
    };
    if view.observed.config.pause {
        let text = "Can't schedule restart in the paused state";
        return Reply::text(StatusCode::INTERNAL_SERVER_ERROR, text);
    }
    let Some(running) = view.running() else {
        let text = format!("PostgreSQL is not running here ({}): nothing is planned", view.why);
        return Reply::text(StatusCode::SERVICE_UNAVAILABLE, text);
    };
    let planned = order.plan(at_us, body, running.started_at_us);
    let (reply, answer) = oneshot::channel();
    match settled(handle, Ask::Plan(planned, reply), answer).await {
        Some(true) => Reply::text(StatusCode::ACCEPTED, "Restart scheduled"),
        Some(false) => Reply::text(StatusCode::CONFLICT, "Another restart is already scheduled"),
        None => Reply::text(StatusCode::SERVICE_UNAVAILABLE, NOT_TAKEN),
    }
}

/// A moment that lies ahead; otherwise the answer to the client (contract B.7): 400 without a time
/// zone, 422 for what is no moment or has passed.
///
/// # Errors
/// That answer.
pub fn moment(text: &str, what: &str) -> Result<i64, Reply> {
    match schedule::parse(text) {
        Ok(at_us) if at_us <= clock::wall_us() => Err(Reply::text(
            StatusCode::UNPROCESSABLE_ENTITY,
            format!("a {what} can't be scheduled for a time that has passed"),
        )),
        Ok(at_us) => Ok(at_us),
        Err(error @ ScheduleError::NoZone) => {
            Err(Reply::text(StatusCode::BAD_REQUEST, error.to_string()))
        }
        Err(error @ ScheduleError::Unreadable) => {
            Err(Reply::text(StatusCode::UNPROCESSABLE_ENTITY, error.to_string()))
        }
    }
}

/// `DELETE /restart`.
pub async fn cancel(handle: &Handle) -> Reply {
    let (reply, answer) = oneshot::channel();
    match settled(handle, Ask::Unplan(reply), answer).await {
        Some(true) => Reply::text(StatusCode::OK, "scheduled restart deleted"),
        Some(false) => Reply::text(StatusCode::NOT_FOUND, "no restarts are scheduled"),
        None => Reply::text(StatusCode::SERVICE_UNAVAILABLE, NOT_TAKEN),
    }
}

/// `POST /reload`: the configuration file is read again, as at SIGHUP.
pub async fn reload(handle: &Handle) -> Reply {
    if send(handle, Ask::Reload).await {
        return Reply::text(StatusCode::ACCEPTED, "reload scheduled");
    }
    Reply::text(StatusCode::SERVICE_UNAVAILABLE, NOT_TAKEN)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rest::fixture;
    use node_agent_core::observed::Job;
    use serde_json::json;

    fn read(body: &Value) -> Result<Order, String> {
        Order::read(body.as_object().expect("object"))
    }

    #[test]
    fn filters_that_make_no_sense() {
        for (body, word) in [
            (json!({"schedule": 5}), "schedule must be text"),
            (json!({"role": "master"}), "role must be"),
            (json!({"role": 1}), "role must be"),
            (json!({"postgres_version": "15"}), "PostgreSQL version"),
            (json!({"postgres_version": "a.b"}), "PostgreSQL version"),
            (json!({"timeout": 0}), "timeout must be"),
            (json!({"timeout": "-1"}), "timeout must be"),
            (json!({"when": "now"}), "unknown filter for the restart: when"),
        ] {
            let error = read(&body).expect_err("refused");
            assert!(error.contains(word), "{body}: {error}");
        }
        assert_eq!(version_number("9.6.2"), Some(90_602));
        assert_eq!(
            read(&json!({"timeout": "2min"})).map(|f| f.timeout),
            Ok(Some(Duration::from_secs(120)))
        );
    }

    #[test]
    fn filters_decide_by_the_view() {
        let mut view = fixture::primary();
        for (body, pending, admitted) in [
            (json!({}), false, true),
            (json!({"role": "primary"}), false, true),
            (json!({"role": "replica"}), false, false),
            (json!({"restart_pending": false}), false, false),
            (json!({"restart_pending": false}), true, true),
            (json!({"postgres_version": "15.4"}), false, false),
            (json!({"postgres_version": "15.5"}), false, true),
            (json!({"postgres_version": "15.5", "role": "replica"}), false, false),
        ] {
            fixture::running(&mut view).pending_restart = pending;
            let filter = read(&body).expect("a filter");
            assert_eq!(filter.met(&view, fixture::NOW).is_ok(), admitted, "{body}");
        }
    }

    #[test]
    fn moments_must_lie_ahead_and_have_a_zone() {
        for (text, code) in
            [("2001-01-01T00:00:00Z", 422), ("2100-01-01T00:00:00", 400), ("soon", 422)]
        {
            let reply = moment(text, "restart").expect_err("accepted");
            assert_eq!(reply.status.as_u16(), code, "{text}");
        }
        assert_eq!(moment("2100-01-01T00:00:00Z", "restart").ok(), Some(4_102_444_800_000_000));
    }

    #[test]
    fn a_plan_shows_what_was_asked_for_and_of_which_server() {
        let body = json!({"schedule": "2100-01-01T00:00:00Z", "role": "primary"});
        let order = read(&body).expect("an order");
        let planned = order.plan(7, body.as_object().expect("object"), 1_000_000);
        assert_eq!(planned.restart.at_us, 7);
        assert_eq!(planned.shown["schedule"], body["schedule"]);
        assert_eq!(planned.shown["postmaster_start_time"], "1970-01-01 00:00:01+00:00");
    }

    #[test]
    fn what_stands_in_the_way() {
        let mut view = fixture::primary();
        assert_eq!(obstacle(&view), None);
        view.observed.job = Some(Job { kind: JobKind::Restart, since: fixture::NOW });
        assert_eq!(obstacle(&view).as_deref(), Some("restart already in progress"));
        view.observed.job = None;
        view.observed.postgres = fixture::unresponsive();
        assert!(obstacle(&view).is_some_and(|text| text.starts_with("restart failed")));
    }
}
