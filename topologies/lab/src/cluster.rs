//! What the agents of a datacenter say about their cluster (`GET /cluster`).

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;

use crate::http;

/// How long one agent may take to answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(2);

/// The answer; what a lab does not use is left out.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Cluster {
    /// All members.
    #[serde(default)]
    pub members: Vec<Member>,
}

/// A member of a cluster.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Member {
    /// Its name.
    pub name: String,
    /// `leader`, `standby_leader`, `sync_standby`, `replica` …
    pub role: String,
    /// `running`, `streaming` …
    pub state: String,
    /// Its tags.
    #[serde(default)]
    pub tags: BTreeMap<String, Value>,
}

impl Member {
    /// Whether it leads its datacenter.
    #[must_use]
    pub fn is_leader(&self) -> bool {
        matches!(self.role.as_str(), "leader" | "standby_leader")
    }

    /// Whether it does its part: a leader runs, a replica streams, or replays the archive where
    /// it is tagged `nostream`.
    #[must_use]
    pub fn is_in_service(&self) -> bool {
        match self.role.as_str() {
            "leader" => self.state == "running",
            // A standby leader without a walreceiver yet is shown as running; one that has nothing
            // but the archive never has one.
            "standby_leader" => {
                matches!(self.state.as_str(), "running" | "streaming" | "in archive recovery")
            }
            _ if self.tags.get("nostream") == Some(&Value::Bool(true)) => {
                self.state == "in archive recovery"
            }
            _ => self.state == "streaming",
        }
    }
}

impl Cluster {
    /// Asks an agent.
    ///
    /// # Errors
    /// In words: no answer, or not one about a cluster.
    pub fn ask(address: SocketAddr) -> Result<Self, String> {
        let answer =
            http::get(address, "/cluster", ANSWER_LIMIT).map_err(|error| error.to_string())?;
        if answer.status != 200 {
            return Err(format!("GET http://{address}/cluster: status {}", answer.status));
        }
        serde_json::from_str(&answer.body)
            .map_err(|error| format!("GET http://{address}/cluster: {error}"))
    }

    /// The leader, if there is one.
    #[must_use]
    pub fn leader(&self) -> Option<&Member> {
        self.members.iter().find(|member| member.is_leader())
    }

    /// What is missing until a leader and all of `names` are in service; with `synchronous`, until
    /// a standby may take over from a primary, too.
    ///
    /// # Errors
    /// In words, what is missing.
    pub fn check_complete(&self, names: &[&str], synchronous: bool) -> Result<(), String> {
        let Some(leader) = self.leader() else { return Err("no leader yet".to_owned()) };
        if !leader.is_in_service() {
            return Err(format!("leader {} is {}", leader.name, leader.state));
        }
        for name in names {
            match self.members.iter().find(|member| member.name == *name) {
                None => return Err(format!("leader {}, {name} is not a member yet", leader.name)),
                Some(member) if !member.is_in_service() => {
                    return Err(format!("leader {}, {name} is {}", leader.name, member.state));
                }
                Some(_) => {}
            }
        }
        let awaited = synchronous && names.len() > 1 && leader.role == "leader";
        if awaited && !self.members.iter().any(|member| member.role == "sync_standby") {
            return Err(format!("leader {} has no synchronous standby yet", leader.name));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cluster_is_complete_with_a_leader_and_every_member() {
        let cases: &[(&str, Result<(), &str>)] = &[
            ("", Err("no leader yet")),
            ("a:replica:streaming b:replica:streaming", Err("no leader yet")),
            ("a:leader:starting b:replica:streaming", Err("leader a is starting")),
            ("a:leader:running", Err("leader a, b is not a member yet")),
            ("a:leader:running b:replica:creating replica", Err("leader a, b is creating replica")),
            ("a:leader:running b:sync_standby:streaming", Ok(())),
            ("a:replica:streaming b:standby_leader:streaming", Ok(())),
            ("a:standby_leader:streaming b:replica:in_archive_recovery:nostream", Ok(())),
            (
                "a:standby_leader:streaming b:replica:in_archive_recovery",
                Err("leader a, b is in archive recovery"),
            ),
            (
                "a:leader:running b:replica:streaming",
                Err("leader a has no synchronous standby yet"),
            ),
        ];
        for (members, wanted) in cases {
            let text = members.replace("creating replica", "creating_replica");
            let members = text.split_whitespace().map(|member| {
                let part: Vec<&str> = member.split(':').collect();
                let state = part[2].replace('_', " ");
                let tags = part.get(3).map(|tag| ((*tag).to_owned(), Value::Bool(true)));
                let tags = tags.into_iter().collect();
                Member { name: part[0].into(), role: part[1].into(), state, tags }
            });
            let cluster = Cluster { members: members.collect() };
            let seen = cluster.check_complete(&["a", "b"], true);
            assert_eq!(seen, wanted.map_err(str::to_owned), "{text}");
        }
    }

    #[test]
    fn an_answer_with_unknown_fields_is_read() {
        let text =
            r#"{"members":[{"name":"a","role":"leader","state":"running","lag":0}],"scope":"s"}"#;
        let cluster: Cluster = serde_json::from_str(text).unwrap();
        assert_eq!(cluster.leader().map(|member| member.name.as_str()), Some("a"));
    }
}
