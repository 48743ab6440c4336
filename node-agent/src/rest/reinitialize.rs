//! `POST /reinitialize` (contract B.7): a new copy of this member.

use super::reply::Reply;
use super::restart::job_word;
use crate::rest::freshness;
use crate::view::{Ask, Handle};
use axum::http::StatusCode;
use node_agent_core::reinit::refusal;
use node_agent_wire::yaml::truth;
use serde_json::{Map, Value};
use std::time::Duration;
use tokio::sync::oneshot;

/// How long the loop may take to accept the request: it may have to end a copy under way.
const ACCEPT_DEADLINE: Duration = Duration::from_secs(10);

/// Answers when the request is taken; the copy is seen in the member's state.
pub async fn reinitialize(handle: &Handle, body: &Map<String, Value>) -> Reply {
    let flag = |key: &str| body.get(key).and_then(truth).unwrap_or(false);
    let (force, from_leader) = (flag("force"), flag("from_leader"));
    let view = freshness::view(handle).await;
    let unavailable = |text: String| Reply::text(StatusCode::SERVICE_UNAVAILABLE, text);
    if let Some(why) = refusal(&view.observed) {
        return unavailable(why.to_owned());
    }
    tracing::info!(force, from_leader, "a new copy of this member is asked for");
    let (reply, answer) = oneshot::channel();
    let asked = async {
        handle.asks.send(Ask::Reinitialize { force, from_leader, reply }).await.ok()?;
        answer.await.ok()
    };
    match tokio::time::timeout(ACCEPT_DEADLINE, asked).await {
        Ok(Some(None)) => Reply::text(StatusCode::OK, "reinitialize started"),
        Ok(Some(Some(kind))) => unavailable(format!("{} already in progress", job_word(kind))),
        Ok(None) | Err(_) => unavailable(format!(
            "the agent's loop did not take the request within {} s",
            ACCEPT_DEADLINE.as_secs()
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rest::fake_loop::Loop;
    use crate::rest::fixture;
    use crate::view::View;
    use node_agent_core::observed::JobKind;
    use serde_json::json;

    /// The answer, and what the loop was asked for while it says that `busy` is in the way.
    async fn ask(view: View, body: Value, busy: Option<JobKind>) -> (u16, String, Vec<bool>) {
        let mut shared = Loop::new(view, |_| {});
        let handle = shared.handle.clone();
        let body = body.as_object().expect("object").clone();
        let asking = tokio::spawn(async move { reinitialize(&handle, &body).await });
        let mut asked = Vec::new();
        while let Ok(Some(ask)) =
            tokio::time::timeout(Duration::from_millis(300), shared.asks.recv()).await
        {
            match ask {
                Ask::Reinitialize { force, from_leader, reply } => {
                    asked.extend([force, from_leader]);
                    reply.send(busy).expect("somebody waits");
                    break;
                }
                Ask::Look | Ask::Restart { .. } | Ask::Plan(..) | Ask::Unplan(_) | Ask::Reload => {}
            }
        }
        let reply = asking.await.expect("answer");
        let text = reply.body.map(|(_, text)| text).unwrap_or_default();
        (reply.status.as_u16(), text, asked)
    }

    #[tokio::test]
    async fn only_a_member_that_another_one_leads_is_replaced() {
        let mut leaderless = fixture::replica("pg2");
        fixture::cluster(&mut leaderless).leader = None;
        let leader = (fixture::primary(), 503, "I am the leader, can not reinitialize");
        let nobody = (leaderless, 503, "Cluster has no leader, can not reinitialize");
        for (view, code, text) in [leader, nobody] {
            assert_eq!(ask(view, json!({}), None).await, (code, text.to_owned(), vec![]));
        }
        let body = json!({"force": true, "from_leader": "true"});
        let taken = ask(fixture::replica("pg2"), body, None).await;
        assert_eq!(taken, (200, "reinitialize started".to_owned(), vec![true, true]));
        let busy = ask(fixture::replica("pg2"), json!({}), Some(JobKind::Clone)).await;
        let text = "creating replica already in progress".to_owned();
        assert_eq!(busy, (503, text, vec![false, false]));
    }
}
