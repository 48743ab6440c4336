//! `POST /switchover`, `POST /failover` and `DELETE /switchover` (contract B.7): the request goes
//! into the `failover` key, the leader's loop carries it out, and the answer is what became of it.

use super::candidates::{Action, Request, check};
use super::configuration::{DCS_DEADLINE, path};
use super::freshness;
use super::reply::Reply;
use crate::clock;
use crate::dcs::{Changes, Compare, Write, cluster};
use crate::view::{Handle, View};
use axum::http::StatusCode;
use node_agent_core::observed::Cluster;
use node_agent_core::rule::Rule;
use node_agent_core::time::Boot;
use node_agent_wire::keys::Leaf;
use node_agent_wire::status::Failover;
use node_agent_wire::{MemberName, Revision};
use serde_json::{Map, Value};
use std::time::Duration;

/// The longest pause between two looks at the DCS while the outcome is waited for: the watch tells
/// of it sooner.
const LOOK_PAUSE_WATCHED: Duration = Duration::from_millis(500);
/// The same without a watch.
const LOOK_PAUSE: Duration = Duration::from_millis(50);

/// `POST /switchover` and `POST /failover`.
pub async fn request(handle: &Handle, action: Action, body: &Map<String, Value>) -> Reply {
    let request = match Request::read(action, body) {
        Ok(request) => request,
        Err(reply) => return reply,
    };
    tracing::info!(
        leader = request.leader.as_ref().map(MemberName::as_str),
        candidate = request.candidate.as_ref().map(MemberName::as_str),
        scheduled_at = request.scheduled_at,
        "{action} requested"
    );
    let view = freshness::view(handle).await;
    let cluster = match read(handle, &view).await {
        Ok(cluster) => cluster,
        Err(reply) => return reply,
    };
    let leads = cluster.leader.as_ref() == Some(&view.observed.me.name);
    let senders = view.running().filter(|_| leads).map(|r| r.senders.as_slice());
    let action = match check(&request, &cluster, senders) {
        Ok(action) => action,
        Err(reply) => return reply,
    };
    match write(handle, &request, cluster.failover.revision).await {
        Some(written) => {
            handle.look();
            if request.scheduled_at.is_some() {
                return Reply::text(StatusCode::ACCEPTED, "Switchover scheduled");
            }
            outcome(handle, action, &request, cluster.leader.as_ref(), written).await
        }
        None => {
            Reply::text(StatusCode::SERVICE_UNAVAILABLE, "failed to write failover key into DCS")
        }
    }
}

async fn read(handle: &Handle, view: &View) -> Result<Cluster, Reply> {
    let path = path(handle);
    match handle.dcs.read(path.prefix(), DCS_DEADLINE).await {
        Ok(raw) => Ok(cluster::read(&path, &raw, &view.observed.config)),
        Err(error) => Err(Reply::text(StatusCode::SERVICE_UNAVAILABLE, error.to_string())),
    }
}

async fn write(handle: &Handle, request: &Request, over: Revision) -> Option<Revision> {
    let key = path(handle).key(Leaf::Failover);
    let value = Failover {
        leader: request.leader.clone(),
        member: request.candidate.clone(),
        scheduled_at: request.scheduled_at.clone(),
    };
    let json = serde_json::to_string(&value).ok()?;
    let conditions = [Compare::AtRevision(key.clone(), over)];
    match handle.dcs.write(&conditions, &[Write::put(key, json)], DCS_DEADLINE).await {
        Ok(revision) => revision,
        Err(error) => {
            tracing::warn!(%error, "the failover key was not written");
            None
        }
    }
}

/// What became of the request, as far as the DCS tells.
fn judge(
    action: Action,
    request: &Request,
    before: Option<&MemberName>,
    cluster: &Cluster,
) -> Option<Result<String, ()>> {
    if let Some(leader) = cluster.leader.as_ref().filter(|leader| Some(*leader) != before) {
        let verb = action.verb();
        return Some(Ok(match &request.candidate {
            Some(candidate) if candidate != leader => {
                format!("{verb}ed over to \"{leader}\" instead of \"{candidate}\"")
            }
            Some(_) | None => {
                format!("Successfully {}ed over to \"{leader}\"", verb.to_lowercase())
            }
        }));
    }
    cluster.failover.value.is_empty().then_some(Err(()))
}

async fn outcome(
    handle: &Handle,
    action: Action,
    request: &Request,
    before: Option<&MemberName>,
    written: Revision,
) -> Reply {
    let path = path(handle);
    let limit = handle.latest().observed.config.timing.loop_wait.max(Duration::from_secs(10)) * 2;
    let deadline = clock::boot() + limit;
    let mut changes = handle.dcs.watch(path.prefix(), written, DCS_DEADLINE).await.ok();
    let mut view = handle.view.clone();
    let mut refusal = None;
    while clock::boot() < deadline {
        note_refusal(&view.borrow_and_update(), &mut refusal);
        let last = handle.latest();
        let cluster = read(handle, &last).await.ok();
        match cluster.and_then(|cluster| judge(action, request, before, &cluster)) {
            Some(Ok(text)) => return Reply::text(StatusCode::OK, text),
            Some(Err(())) => {
                note_refusal(&handle.latest(), &mut refusal);
                return failed(action, refusal.as_deref());
            }
            None => {}
        }
        tokio::select! {
            () = next_look(&mut changes, deadline) => {}
            changed = view.changed() => if changed.is_err() { break },
        }
    }
    let last = handle.latest();
    Reply::text(
        StatusCode::SERVICE_UNAVAILABLE,
        format!(
            "{} status unknown: no new leader after {} s; this node is at rule {} ({})",
            action.title(),
            limit.as_secs(),
            last.rule.number(),
            last.why
        ),
    )
}

fn note_refusal(view: &View, refusal: &mut Option<String>) {
    if view.rule == Rule::SwitchoverRefused {
        *refusal = Some(view.why.clone());
    }
}

fn failed(action: Action, why: Option<&str>) -> Reply {
    let text = match why {
        Some(why) => format!("{} failed: {why}", action.title()),
        None => format!("{} failed", action.title()),
    };
    Reply::text(StatusCode::SERVICE_UNAVAILABLE, text)
}

/// Until the DCS has changed, or it is time to look anyway.
async fn next_look(changes: &mut Option<Box<dyn Changes>>, deadline: Boot) {
    let left = clock::boot().until(deadline);
    let Some(watch) = changes else {
        tokio::time::sleep(LOOK_PAUSE.min(left)).await;
        return;
    };
    if let Ok(Err(_)) = tokio::time::timeout(LOOK_PAUSE_WATCHED.min(left), watch.next()).await {
        *changes = None;
    }
}

/// `DELETE /switchover`: takes a scheduled one back.
pub async fn cancel(handle: &Handle) -> Reply {
    let cluster = match read(handle, &handle.latest()).await {
        Ok(cluster) => cluster,
        Err(reply) => return reply,
    };
    let pending = &cluster.failover.value;
    if pending.is_empty() || pending.scheduled_at.is_none() {
        return Reply::text(StatusCode::NOT_FOUND, "no switchover is scheduled");
    }
    let key = path(handle).key(Leaf::Failover);
    let conditions = [Compare::AtRevision(key.clone(), cluster.failover.revision)];
    match handle.dcs.write(&conditions, &[Write::put(key, "{}")], DCS_DEADLINE).await {
        Ok(Some(_)) => {
            handle.look();
            Reply::text(StatusCode::OK, "scheduled switchover deleted")
        }
        Ok(None) => Reply::text(
            StatusCode::CONFLICT,
            "the switchover was changed by somebody else meanwhile: look at it, then try again",
        ),
        Err(error) => Reply::text(StatusCode::SERVICE_UNAVAILABLE, error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rest::fixture;

    #[test]
    fn the_leader_key_is_looked_at_before_the_request() {
        let request = |candidate: Option<&str>| Request {
            action: Action::Switchover,
            leader: Some("pg1".into()),
            candidate: candidate.map(MemberName::from),
            scheduled_at: None,
        };
        let before = MemberName::new("pg1");
        for (leader, pending, candidate, expected) in [
            ("pg1", true, None, None),
            ("", true, None, None),
            ("", false, None, Some(Err(()))),
            ("pg1", false, None, Some(Err(()))),
            ("pg2", false, None, Some(Ok("Successfully switched over to \"pg2\""))),
            ("pg2", true, Some("pg2"), Some(Ok("Successfully switched over to \"pg2\""))),
            ("pg2", true, Some("pg3"), Some(Ok("Switched over to \"pg2\" instead of \"pg3\""))),
        ] {
            let mut view = fixture::primary();
            let cluster = fixture::cluster(&mut view);
            cluster.leader = Some(leader).filter(|l| !l.is_empty()).map(MemberName::from);
            if pending {
                cluster.failover.value.leader = Some("pg1".into());
            }
            let got = judge(Action::Switchover, &request(candidate), Some(&before), cluster);
            assert_eq!(got, expected.map(|r| r.map(ToOwned::to_owned)), "{leader} {candidate:?}");
        }
        let mut view = fixture::primary();
        let cluster = fixture::cluster(&mut view);
        cluster.leader = Some("pg2".into());
        let got = judge(Action::Failover, &request(Some("pg2")), None, cluster);
        assert_eq!(got, Some(Ok("Successfully failed over to \"pg2\"".to_owned())));
    }
}
