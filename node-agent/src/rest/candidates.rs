//! Whether a switchover or failover may be asked for: the checks before anything is written, in
//! the order and words of the contract (B.7).

use super::reply::Reply;
use axum::http::StatusCode;
use node_agent_core::observed::Cluster;
use node_agent_core::postgres::Walsender;
use node_agent_wire::MemberName;
use node_agent_wire::dynamic::SynchronousMode;
use node_agent_wire::member::{Member, state};
use serde_json::{Map, Value};
use std::fmt;

/// Which of the two was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Planned: the leader gives up.
    Switchover,
    /// To a named member, whether there is a leader or not.
    Failover,
}

impl Action {
    /// The word at the beginning of a sentence.
    #[must_use]
    pub fn title(self) -> &'static str {
        match self {
            Self::Switchover => "Switchover",
            Self::Failover => "Failover",
        }
    }

    /// `Switch` or `Fail`, for "…ed over".
    #[must_use]
    pub fn verb(self) -> &'static str {
        match self {
            Self::Switchover => "Switch",
            Self::Failover => "Fail",
        }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Switchover => "switchover",
            Self::Failover => "failover",
        })
    }
}

/// What was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// The endpoint; a failover that names a leader is a switchover.
    pub action: Action,
    /// The leader that is to give up.
    pub leader: Option<MemberName>,
    /// The member that is to lead.
    pub candidate: Option<MemberName>,
    /// When, as it was given.
    pub scheduled_at: Option<String>,
}

impl Request {
    /// Reads the body.
    ///
    /// # Errors
    /// The 400 for a value that is not text.
    pub fn read(action: Action, body: &Map<String, Value>) -> Result<Self, Reply> {
        let text = |key: &str| match body.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) if text.is_empty() => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.clone())),
            Some(other) => Err(bad(format!("{key} must be text, found {other}"))),
        };
        let candidate = match text("candidate")? {
            Some(candidate) => Some(candidate),
            None => text("member")?,
        };
        Ok(Self {
            action,
            leader: text("leader")?.map(MemberName::new),
            candidate: candidate.map(MemberName::new),
            scheduled_at: text("scheduled_at")?,
        })
    }
}

fn bad(text: impl Into<String>) -> Reply {
    Reply::text(StatusCode::BAD_REQUEST, text)
}

/// Checks the request against the cluster. `senders`: the standbys connected to this node, when it
/// leads. Gives the action that it comes to.
///
/// # Errors
/// The answer that the client gets: 400 for a request that makes no sense, 412 for one that can't
/// be carried out now.
pub fn check(
    request: &Request,
    cluster: &Cluster,
    senders: Option<&[Walsender]>,
) -> Result<Action, Reply> {
    let paused = cluster.config.pause;
    let scheduled = request.scheduled_at.is_some();
    match request.action {
        Action::Failover if request.candidate.is_none() => {
            return Err(bad("Failover could be performed only to a specific candidate"));
        }
        Action::Switchover if request.leader.is_none() => {
            return Err(bad("Switchover could be performed only from a specific leader"));
        }
        Action::Failover if scheduled => return Err(bad("Failover can't be scheduled")),
        Action::Switchover if scheduled && paused => {
            return Err(bad("Can't schedule switchover in the paused state"));
        }
        Action::Failover | Action::Switchover => {}
    }
    if paused && request.candidate.is_none() {
        return Err(bad("Switchover is possible only to a specific candidate in a paused state"));
    }
    let action = if request.leader.is_some() { Action::Switchover } else { request.action };
    if request.leader == request.candidate {
        return Err(bad("Switchover target and source are the same"));
    }
    if let Some(text) = &request.scheduled_at {
        // Whether it is possible is seen when its time comes.
        super::restart::moment(text, "switchover")?;
        return Ok(action);
    }
    match possible(action, request, cluster, senders) {
        Ok(()) => Ok(action),
        Err(why) => Err(Reply::text(StatusCode::PRECONDITION_FAILED, why)),
    }
}

fn possible(
    action: Action,
    request: &Request,
    cluster: &Cluster,
    senders: Option<&[Walsender]>,
) -> Result<(), String> {
    if request.leader.is_some() && request.leader != cluster.leader {
        return Err("leader name does not match".into());
    }
    let synchronous = cluster.config.effective_sync_mode() != SynchronousMode::Off;
    let listed = |name: &MemberName| {
        let same = |other: &MemberName| other.as_str().eq_ignore_ascii_case(name.as_str());
        cluster.sync.value.sync_standby.iter().any(same)
    };
    let members: Vec<&Member> = if let Some(candidate) = &request.candidate {
        if action == Action::Switchover && synchronous && !listed(candidate) {
            return Err("candidate name does not match with sync_standby".into());
        }
        let member = cluster.members.get(candidate).ok_or("candidate does not exists")?;
        vec![member]
    } else if synchronous {
        let members: Vec<&Member> = cluster.members.values().filter(|m| listed(&m.name)).collect();
        if members.is_empty() {
            return Err(format!("{action} is not possible: can not find sync_standby"));
        }
        members
    } else {
        let others = cluster.members.values().filter(|m| Some(&m.name) != cluster.leader.as_ref());
        let members: Vec<&Member> = others.filter(|m| !m.data.api_url.is_empty()).collect();
        if members.is_empty() {
            return Err(format!(
                "{action} is not possible: cluster does not have members except leader"
            ));
        }
        members
    };
    let mut unfit = Vec::new();
    for member in members {
        match fitness(member, cluster, senders) {
            Ok(()) => return Ok(()),
            Err(why) => unfit.push(format!("{} {why}", member.name)),
        }
    }
    // The answer's words are the contract's; the reasons go to the log.
    tracing::info!(reasons = unfit.join("; "), "{action} refused: no member is fit to lead");
    Err(format!("{action} is not possible: no good candidates have been found"))
}

/// Whether the member can take over: the leader itself refuses a candidate that does not stream.
fn fitness(
    member: &Member,
    cluster: &Cluster,
    senders: Option<&[Walsender]>,
) -> Result<(), &'static str> {
    if member.data.state != state::RUNNING {
        return Err("is not running");
    }
    if member.nofailover() {
        return Err("is tagged nofailover");
    }
    if cluster.leader.is_none() {
        return Ok(());
    }
    let streams = match senders {
        Some(senders) => senders.iter().any(|s| {
            s.state == "streaming" && s.application_name.eq_ignore_ascii_case(member.name.as_str())
        }),
        None => member.data.replication_state.as_deref() == Some("streaming"),
    };
    if streams { Ok(()) } else { Err("does not stream from the leader") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rest::fixture;
    use crate::view::View;
    use serde_json::json;

    fn answer(action: Action, body: &Value, view: &View) -> (u16, String) {
        let object = body.as_object().expect("object");
        let senders = view.running().map(|r| r.senders.as_slice());
        let cluster = view.cluster().expect("known");
        match Request::read(action, object).and_then(|r| check(&r, cluster, senders)) {
            Ok(action) => (200, action.to_string()),
            Err(reply) => (reply.status.as_u16(), reply.body.expect("a body").1),
        }
    }

    #[test]
    fn the_order_of_refusals_for_a_bad_request() {
        use Action::{Failover, Switchover};
        let at = "2030-01-01T00:00:00Z";
        for (action, paused, body, start) in [
            (Failover, false, json!({"leader": "pg1", "scheduled_at": at}), "Failover could be"),
            (Switchover, false, json!({"candidate": "x"}), "Switchover could be performed only f"),
            (Failover, true, json!({"member": "x", "scheduled_at": at}), "Failover can't be"),
            (Switchover, true, json!({"leader": "x", "scheduled_at": at}), "Can't schedule switch"),
            (Switchover, false, json!({"leader": "x", "scheduled_at": "2030-01-01"}), "the time z"),
            (Switchover, true, json!({"leader": "pg1"}), "Switchover is possible only to a spec"),
            (Switchover, true, json!({"leader": "x", "candidate": "x"}), "Switchover target and"),
            (Failover, false, json!({"leader": "x", "candidate": "x"}), "Switchover target and"),
            (Switchover, false, json!({"leader": 5}), "leader must be text, found 5"),
        ] {
            let mut view = fixture::primary();
            fixture::cluster(&mut view).config.pause = paused;
            let (code, text) = answer(action, &body, &view);
            assert!(code == 400 && text.starts_with(start), "{action} {body}: {code} {text}");
        }
    }

    #[test]
    fn what_is_not_possible_now() {
        use Action::{Failover, Switchover};
        let none = "switchover is not possible: no good candidates have been found";
        type Change = fn(&mut View);
        let plain: Change = |_| {};
        let sync: Change = |v| fixture::synchronous(v, "on", &["pg3"]);
        let quorum: Change = |v| fixture::synchronous(v, "quorum", &["pg3"]);
        let nobody: Change = |v| fixture::synchronous(v, "on", &[]);
        let alone: Change = |v| {
            fixture::cluster(v).members.remove(&"pg2".into());
        };
        let stopped: Change = |v| pg2(v).data.state = "stopped".into();
        let barred: Change = |v| {
            pg2(v).data.tags.insert("nofailover".into(), json!("true"));
        };
        let zero: Change = |v| {
            pg2(v).data.tags.insert("failover_priority".into(), json!(0));
        };
        let catching_up: Change = |v| fixture::running(v).senders[0].state = "catchup".into();
        for (change, action, body, code, text) in [
            (plain, Switchover, json!({"leader": "pg1"}), 200, "switchover"),
            (plain, Switchover, json!({"leader": "pg2"}), 412, "leader name does not match"),
            (plain, Failover, json!({"candidate": "pg2"}), 200, "failover"),
            (plain, Failover, json!({"candidate": "pg2", "leader": "pg1"}), 200, "switchover"),
            (plain, Failover, json!({"candidate": "pg9"}), 412, "candidate does not exists"),
            (
                sync,
                Switchover,
                json!({"leader": "pg1", "candidate": "pg2"}),
                412,
                "candidate name does not match with sync_standby",
            ),
            (sync, Failover, json!({"candidate": "pg2"}), 200, "failover"),
            (
                quorum,
                Switchover,
                json!({"leader": "pg1", "member": "pg2"}),
                412,
                "candidate name does not match with sync_standby",
            ),
            (
                nobody,
                Switchover,
                json!({"leader": "pg1"}),
                412,
                "switchover is not possible: can not find sync_standby",
            ),
            (
                alone,
                Switchover,
                json!({"leader": "pg1"}),
                412,
                "switchover is not possible: cluster does not have members except leader",
            ),
            (stopped, Switchover, json!({"leader": "pg1"}), 412, none),
            (barred, Switchover, json!({"leader": "pg1"}), 412, none),
            (zero, Switchover, json!({"leader": "pg1"}), 412, none),
            (catching_up, Switchover, json!({"leader": "pg1"}), 412, none),
        ] {
            let mut view = fixture::primary();
            change(&mut view);
            assert_eq!(answer(action, &body, &view), (code, text.to_owned()), "{body}");
        }
    }

    fn pg2(view: &mut View) -> &mut Member {
        fixture::cluster(view).members.get_mut(&"pg2".into()).expect("pg2")
    }

    #[test]
    fn another_members_word_counts_where_this_node_does_not_lead() {
        let mut view = fixture::primary();
        let request = Request {
            action: Action::Switchover,
            leader: Some("pg1".into()),
            candidate: None,
            scheduled_at: None,
        };
        assert!(check(&request, view.cluster().expect("known"), None).is_ok());
        pg2(&mut view).data.replication_state = None;
        assert!(check(&request, view.cluster().expect("known"), None).is_err());
    }

    #[test]
    fn a_failover_without_a_leader_needs_no_stream() {
        let mut view = fixture::replica("pg2");
        fixture::cluster(&mut view).leader = None;
        pg2(&mut view).data.replication_state = None;
        let body = json!({"candidate": "pg2"});
        assert_eq!(answer(Action::Failover, &body, &view), (200, "failover".into()));
    }
}
