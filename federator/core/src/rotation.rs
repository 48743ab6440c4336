//! The replication user of the links changes: two roles take turns, and the old one ends only when
//! nobody uses it any more.

use crate::guards::{Checklist, Refusal};
use crate::inventory::Inventory;
use crate::planner::{leader_runs, no_operation, reachable};
use node_agent_wire::MemberName;
use std::collections::{BTreeMap, BTreeSet};

/// What stands in the way. Every member must answer: one that is away would come back with a login
/// that has ended.
#[must_use]
pub fn checklist(inventory: &Inventory) -> Checklist {
    let mut list = Checklist::default();
    list.check("operation", no_operation(inventory));
    let Some(newest) = inventory.newest() else {
        list.refuse("records", Refusal::NoFederation);
        return list;
    };
    for dc in newest.members.keys() {
        list.check(&format!("{dc} etcd"), reachable(inventory, dc).map(|_| "answers".into()));
        list.check(&format!("{dc} leader"), leader_runs(inventory, dc));
    }
    let writes =
        inventory.view(&newest.primary).is_some_and(super::inventory::DcView::leader_writes);
    if writes {
        list.ok("primary", format!("{} accepts writes", newest.primary));
    } else {
        list.refuse("primary", Refusal::NoLeader { dc: newest.primary.clone() });
    }
    list
}

/// What one node says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// The replication user of its agent.
    pub agent: Result<String, String>,
    /// The users of the standbys that stream from it.
    pub senders: Result<BTreeSet<String>, String>,
}

/// What is missing until `old` may end, one line each; empty: every agent connects as `next`, and
/// nobody streams as `old`.
#[must_use]
pub fn missing(nodes: &BTreeMap<MemberName, Seen>, old: &str, next: &str) -> Vec<String> {
    let mut list = Vec::new();
    for (name, seen) in nodes {
        match &seen.agent {
            Ok(user) if user == next => {}
            Ok(user) if user.is_empty() => {
                list.push(format!("the agent of {name} does not say its user: it is older"));
            }
            Ok(user) => list.push(format!("the agent of {name} connects as {user}")),
            Err(why) => list.push(format!("the agent of {name}: {why}")),
        }
        match &seen.senders {
            Ok(users) if users.contains(old) => {
                list.push(format!("a standby streams from {name} as {old}"));
            }
            Ok(_) => {}
            Err(why) => list.push(format!("{name}: {why}")),
        }
    }
    if nodes.is_empty() {
        list.push("no node answers".to_owned());
    }
    list
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{inventory, lose, node_mut};

    fn seen(agent: &str, senders: &[&str]) -> Seen {
        let senders = Ok(senders.iter().map(ToString::to_string).collect());
        Seen { agent: Ok(agent.to_owned()), senders }
    }

    #[test]
    fn the_old_login_ends_when_nobody_uses_it() {
        type Case = (&'static str, Seen, usize);
        let silent = Seen { agent: Err("no answer".into()), senders: Err("refused".into()) };
        let cases: [Case; 6] = [
            ("all is new", seen("b", &["b"]), 0),
            ("nobody streams from it", seen("b", &[]), 0),
            ("the agent is not reloaded", seen("a", &["b"]), 1),
            ("its standby is not", seen("b", &["a", "b"]), 1),
            ("an older agent", seen("", &[]), 1),
            ("silence", silent, 2),
        ];
        for (what, seen, expected) in cases {
            let nodes = BTreeMap::from([("pg1".into(), seen)]);
            assert_eq!(missing(&nodes, "a", "b").len(), expected, "{what}");
        }
        assert_eq!(missing(&BTreeMap::new(), "a", "b").len(), 1, "nobody");
    }

    #[test]
    fn everybody_must_be_there() {
        assert_eq!(checklist(&inventory()).refusals(), []);
        let mut away = inventory();
        lose(&mut away, "dc2");
        assert_eq!(checklist(&away).refusals().len(), 2);
        let mut silent = inventory();
        node_mut(&mut silent, "dc1").writable = false;
        assert_eq!(checklist(&silent).refusals().len(), 1);
    }
}
