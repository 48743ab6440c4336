//! The members section of the records, kept up to date.

use super::{Change, checked};
use node_agent_wire::DcName;
use node_agent_wire::federation::{DcEntry, FederationRecord};
use std::collections::BTreeMap;

/// Writes down the nodes of the members as they are now: at the end of every operation, so that
/// nodes that were added since are known to the other datacenters. What else a record says of a
/// member changes by its own operations only. A member that was not seen keeps its nodes.
///
/// # Errors
/// None.
pub fn refresh(record: &FederationRecord, seen: &BTreeMap<DcName, DcEntry>) -> Change {
    let mut next = record.clone();
    for (dc, entry) in &mut next.members {
        let nodes = seen.get(dc).map(|seen| &seen.nodes).filter(|nodes| !nodes.is_empty());
        if let Some(nodes) = nodes {
            entry.nodes.clone_from(nodes);
        }
    }
    checked(record, next)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{inventory, record};

    #[test]
    fn new_nodes_are_written_down_and_nothing_else() {
        let before = record("dc1", 1, "dc1");
        let mut seen = inventory().entries(Some(&before));
        let dc2 = DcName::from("dc2");
        seen.get_mut(&dc2).unwrap().scope = "other".into();
        seen.insert("dc9".into(), seen[&dc2].clone());
        let next = refresh(&before, &seen).unwrap().unwrap();
        assert_eq!(next.members[&dc2].nodes, seen[&dc2].nodes);
        assert_eq!(next.members[&dc2].scope, before.members[&dc2].scope);
        assert_eq!(next.members.len(), 2);
        assert_eq!(refresh(&next, &seen), Ok(None));
        seen.get_mut(&dc2).unwrap().nodes.clear();
        assert_eq!(refresh(&next, &seen), Ok(None), "a silent one keeps its nodes");
    }
}
