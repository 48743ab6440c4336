//! The body of `GET /cluster` (contract B.5).

use super::standing;
use node_agent_core::observed::Cluster;
use node_agent_wire::dynamic::SynchronousMode;
use node_agent_wire::member::{Member, Role};
use node_agent_wire::{Lsn, MemberName};
use serde_json::{Map, Value, json};

/// The object; members are sorted by name.
#[must_use]
pub fn cluster_json(cluster: &Cluster, scope: &str) -> Value {
    let members: Vec<Value> =
        cluster.members.values().map(|member| member_json(cluster, member)).collect();
    let mut body = Map::new();
    body.insert("members".into(), members.into());
    body.insert("scope".into(), scope.into());
    if cluster.config.pause {
        body.insert("pause".into(), true.into());
    }
    let failover = &cluster.failover.value;
    if let Some(at) = failover.scheduled_at.as_ref().filter(|_| !failover.is_empty()) {
        let mut scheduled = Map::new();
        scheduled.insert("at".into(), at.clone().into());
        let mut name = |key: &str, name: &Option<MemberName>| {
            if let Some(name) = name {
                scheduled.insert(key.into(), name.as_str().into());
            }
        };
        name("from", &failover.leader);
        name("to", &failover.member);
        body.insert("scheduled_switchover".into(), Value::Object(scheduled));
    }
    Value::Object(body)
}

/// The role in the words of this endpoint, which are not those of the member key.
fn role(cluster: &Cluster, member: &Member) -> &'static str {
    if cluster.leader.as_ref() == Some(&member.name) {
        let standby = standing::follows_another(&cluster.config, &cluster.record);
        return if standby { Role::StandbyLeader.as_str() } else { "leader" };
    }
    let name = member.name.as_str();
    let listed =
        cluster.sync.value.sync_standby.iter().any(|n| n.as_str().eq_ignore_ascii_case(name));
    match cluster.config.effective_sync_mode() {
        SynchronousMode::On if listed => "sync_standby",
        SynchronousMode::Quorum if listed => "quorum_standby",
        SynchronousMode::Off | SynchronousMode::On | SynchronousMode::Quorum => "replica",
    }
}

fn member_json(cluster: &Cluster, member: &Member) -> Value {
    let data = &member.data;
    let role = role(cluster, member);
    let replication = data.replication_state.as_deref().filter(|_| role != "leader");
    let mut body = Map::new();
    body.insert("name".into(), member.name.as_str().into());
    body.insert("role".into(), role.into());
    body.insert("state".into(), replication.unwrap_or(&data.state).into());
    body.insert("api_url".into(), data.api_url.clone().into());
    if let Some((host, port)) = member.postgres_address() {
        body.insert("host".into(), host.into());
        body.insert("port".into(), port.into());
    }
    if let Some(timeline) = data.timeline {
        body.insert("timeline".into(), timeline.0.into());
    }
    if data.pending_restart == Some(true) {
        body.insert("pending_restart".into(), true.into());
    }
    if let Some(reason) = &data.pending_restart_reason {
        body.insert("pending_restart_reason".into(), reason.clone());
    }
    if let Some(restart) = &data.scheduled_restart {
        body.insert("scheduled_restart".into(), restart.clone());
    }
    if !data.tags.is_empty() {
        body.insert("tags".into(), json!(data.tags));
    }
    if cluster.leader.as_ref() != Some(&member.name) {
        add_lag(&mut body, cluster, "receive_lsn", "receive_lag", data.receive_lsn);
        add_lag(&mut body, cluster, "replay_lsn", "replay_lag", data.replay_lsn);
        add_lag(&mut body, cluster, "lsn", "lag", data.xlog_location);
    }
    Value::Object(body)
}

fn add_lag(
    body: &mut Map<String, Value>,
    cluster: &Cluster,
    lsn_key: &str,
    lag_key: &str,
    lsn: Option<Lsn>,
) {
    let (lsn, lag) = match lsn {
        Some(lsn) => {
            let last = cluster.status.optime.unwrap_or_default();
            (Value::from(lsn.to_string()), Value::from(last.bytes_since(lsn)))
        }
        None => (Value::from("unknown"), Value::from("unknown")),
    };
    body.insert(lsn_key.into(), lsn);
    body.insert(lag_key.into(), lag);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rest::fixture;

    #[test]
    fn a_leader_and_a_synchronous_standby() {
        let mut view = fixture::primary();
        fixture::synchronous(&mut view, "on", &["pg2"]);
        let cluster = view.cluster().expect("known");
        assert_eq!(
            cluster_json(cluster, "shop"),
            json!({
                "scope": "shop",
                "members": [
                    {"name": "pg1", "role": "leader", "state": "running",
                     "api_url": "http://127.0.0.1:8008/patroni", "host": "127.0.0.1",
                     "port": 5432, "timeline": 3, "tags": {"dc": "a"}},
                    {"name": "pg2", "role": "sync_standby", "state": "streaming",
                     "api_url": "http://127.0.0.2:8008/patroni", "host": "127.0.0.2",
                     "port": 5432, "timeline": 3,
                     "receive_lsn": "0/4FF0000", "receive_lag": 0x1_0000,
                     "replay_lsn": "0/4FE0000", "replay_lag": 0x2_0000,
                     "lsn": "0/4FF0000", "lag": 0x1_0000},
                ],
            })
        );
    }

    #[test]
    fn unknown_positions_a_pause_and_a_scheduled_switchover() {
        let mut view = fixture::primary();
        let cluster = fixture::cluster(&mut view);
        cluster.config.pause = true;
        cluster.failover.value = node_agent_wire::status::Failover::parse(
            br#"{"leader":"pg1","scheduled_at":"2026-01-02T03:04:05+00:00"}"#,
        );
        let pg2 = cluster.members.get_mut(&MemberName::new("pg2")).expect("pg2");
        pg2.data = node_agent_wire::member::MemberData::default();
        let body = cluster_json(cluster, "shop");
        assert_eq!(body["pause"], true);
        assert_eq!(
            body["scheduled_switchover"],
            json!({"at": "2026-01-02T03:04:05+00:00", "from": "pg1"})
        );
        assert_eq!(
            (&body["members"][1]["lsn"], &body["members"][1]["lag"]),
            (&json!("unknown"), &json!("unknown"))
        );
        assert_eq!(body["members"][1].get("host"), None);
    }

    #[test]
    fn the_leader_of_a_standby_cluster_shows_its_replication() {
        let view = fixture::standby_leader();
        let body = cluster_json(view.cluster().expect("known"), "shop");
        assert_eq!(body["members"][0]["role"], "standby_leader");
        assert_eq!(body["members"][0]["state"], "streaming");
        assert_eq!(body["members"][0].get("lag"), None);
    }
}
