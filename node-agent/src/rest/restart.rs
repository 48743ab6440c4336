//! `POST /restart`, `DELETE /restart` and `POST /reload` (contract B.7).

use super::query::milliseconds;
use super::reply::Reply;
use super::{freshness, standing, status};
use crate::clock;
use crate::view::{Ask, Handle, View};
use axum::http::StatusCode;
use node_agent_core::observed::JobKind;
use node_agent_core::postgres::Postgres;
use node_agent_core::time::Boot;
use node_agent_wire::member::Role;
use serde_json::{Map, Value};
use std::time::Duration;
use tokio::sync::oneshot;

/// How long a restart may take unless the request says otherwise, beside `primary_start_timeout`:
/// the shutdown checkpoint comes on top.
const STOP_ALLOWANCE: Duration = Duration::from_secs(60);
/// How long the loop may take to accept the request.
const ACCEPT_DEADLINE: Duration = Duration::from_secs(5);

/// The conditions of a restart.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Filter {
    role: Option<Role>,
    /// Only a server older than this `server_version_num`.
    older_than: Option<u32>,
    /// Only when parameters wait for a restart.
    pending: bool,
    timeout: Option<Duration>,
}

impl Filter {
    fn read(body: &Map<String, Value>) -> Result<Self, String> {
        let mut filter = Self::default();
        for (key, value) in body {
            match key.as_str() {
                "schedule" => {
                    return Err("scheduled restarts are not supported by this version of \
                                node-agent: ask without schedule when the time has come"
                        .into());
                }
                "role" => filter.role = Some(role(value)?),
                "postgres_version" => {
                    let version = value.as_str().and_then(version_number);
                    filter.older_than = Some(version.ok_or_else(|| {
                        format!("PostgreSQL version {value} is not usable: expected as in \"15.4\"")
                    })?);
                }
                "timeout" => filter.timeout = Some(timeout(value)?),
                // Its presence counts, not its value (contract B.7).
                "restart_pending" => filter.pending = true,
                other => return Err(format!("unknown filter for the restart: {other}")),
            }
        }
        Ok(filter)
    }

    fn admits(&self, view: &View, now: Boot) -> bool {
        let server = view.running().map_or(0, |r| r.server_version);
        self.role.is_none_or(|role| role == standing::role(view, now))
            && self.older_than.is_none_or(|version| server < version)
            && (!self.pending || status::pending_restart(view))
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

fn job_word(kind: JobKind) -> &'static str {
    match kind {
        JobKind::Bootstrap => "bootstrap",
        JobKind::Clone => "creating replica",
        JobKind::Rewind => "rewind",
        JobKind::Demote => "demote",
        JobKind::Start => "start",
        JobKind::Promote => "promote",
        JobKind::Restart => "restart",
    }
}

/// `POST /restart`: answers when PostgreSQL accepts connections again.
pub async fn restart(handle: &Handle, body: &Map<String, Value>) -> Reply {
    let filter = match Filter::read(body) {
        Ok(filter) => filter,
        Err(text) => return Reply::text(StatusCode::BAD_REQUEST, text),
    };
    let view = freshness::view(handle).await;
    let unavailable = |text: String| Reply::text(StatusCode::SERVICE_UNAVAILABLE, text);
    if let Some(obstacle) = obstacle(&view) {
        return unavailable(obstacle);
    }
    if !filter.admits(&view, clock::boot()) {
        return unavailable("restart conditions are not satisfied".into());
    }
    tracing::info!("restart requested");
    let (done, answer) = oneshot::channel();
    let asked = handle.asks.send(Ask::Restart(done));
    if !matches!(tokio::time::timeout(ACCEPT_DEADLINE, asked).await, Ok(Ok(()))) {
        return unavailable(format!(
            "restart failed: the agent's loop did not take the request within {} s; nothing was \
             restarted",
            ACCEPT_DEADLINE.as_secs()
        ));
    }
    let limit =
        filter.timeout.unwrap_or(view.observed.config.primary_start_timeout + STOP_ALLOWANCE);
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

/// `DELETE /restart`: none can be scheduled in this version.
#[must_use]
pub fn cancel() -> Reply {
    Reply::text(StatusCode::NOT_FOUND, "no restarts are scheduled")
}

/// `POST /reload`: a pass at once. The configuration file itself is read at the start only.
#[must_use]
pub fn reload(handle: &Handle) -> Reply {
    handle.look();
    Reply::text(
        StatusCode::ACCEPTED,
        "reload scheduled: the dynamic configuration is applied now, the configuration file at \
         the agent's next start",
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rest::fixture;
    use node_agent_core::observed::Job;
    use serde_json::json;

    fn read(body: &Value) -> Result<Filter, String> {
        Filter::read(body.as_object().expect("object"))
    }

    #[test]
    fn filters_that_make_no_sense() {
        for (body, word) in [
            (json!({"schedule": "2030-01-01T00:00:00Z"}), "scheduled restarts"),
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
            assert_eq!(filter.admits(&view, fixture::NOW), admitted, "{body}");
        }
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
