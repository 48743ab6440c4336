//! The state of a federation, judged from outside: who is primary by the records, by the
//! federator's status and by what clients can do, and whether everything is in order.

use std::collections::BTreeMap;
use std::time::Duration;

use lab::access::within;
use node_agent_wire::federation::FederationRecord;
use serde_json::Value;

use crate::federator::exit;
use crate::patience::until;
use crate::rig::Rig;
use crate::rows;
use crate::store::Store;

/// How long a federation may take to come to rest after a change.
const REST: Duration = Duration::from_secs(90);

/// A replication slot of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slot {
    /// Whether somebody reads from it.
    pub active: bool,
    /// `reserved`, `extended`, `unreserved` or `lost`.
    pub wal_status: String,
}

impl Rig {
    /// `federator status --json`, read.
    ///
    /// # Panics
    /// When it fails or is no JSON.
    pub async fn status(&self) -> Value {
        let done = self.federator_quiet(&["status", "--json"]).await.expect(exit::DONE);
        serde_json::from_str(&done.stdout).unwrap_or_else(|error| panic!("{error} in {done}"))
    }

    /// Waits until `dc` is the only primary datacenter by everybody's word, and nothing is wrong:
    /// every record, the status, and a node of it that accepts writes.
    ///
    /// # Panics
    /// When that takes longer than 90 s.
    pub async fn settled(&self, dc: &str) -> BTreeMap<String, FederationRecord> {
        let nodes = self.nodes_of(dc);
        until(&format!("{dc} as the one primary and no problems"), REST, async || {
            let records = self.records().await;
            check_records(&records, dc)?;
            check_status(&self.status().await, dc)?;
            let found = self.access.primary_within(REST, "settled").await;
            let (node, _) = found.map_err(|error| error.to_string())?;
            if nodes.contains(&node.name) { Ok(records) } else { Err(format!("{node:?} writes")) }
        })
        .await
    }

    /// The records of all datacenters.
    pub async fn records(&self) -> BTreeMap<String, FederationRecord> {
        let mut records = BTreeMap::new();
        for dc in &self.lab.topology.datacenters {
            let record = Store::of(&self.lab, dc.name.as_str()).await.record().await;
            records.insert(dc.name.to_string(), record);
        }
        records
    }

    /// Waits until every node has the slots of all other datacenters, none of them lost, and each
    /// standby datacenter reads from its slot on the primary `leader`.
    ///
    /// # Panics
    /// When that takes longer than 90 s.
    pub async fn slots_right(&self, primary: &str) {
        let records = self.records().await;
        let members = &records[primary].members;
        until("the slots of the other datacenters on every node", REST, async || {
            for host in self.lab.layout.nodes() {
                let slots = self.slots_of(&host.name).await?;
                for (_, entry) in members.iter().filter(|(dc, _)| **dc != host.dc) {
                    let slot = slots.get(entry.slot.as_str());
                    let slot = slot.ok_or_else(|| format!("{} lacks {}", host.name, entry.slot))?;
                    if !matches!(slot.wal_status.as_str(), "reserved" | "extended") {
                        return Err(format!("{} on {}: {slot:?}", entry.slot, host.name));
                    }
                }
            }
            let (node, _) =
                self.access.primary_within(REST, "slots").await.map_err(|e| e.to_string())?;
            let slots = self.slots_of(&node.name).await?;
            let standbys = members.iter().filter(|(dc, _)| dc.as_str() != primary);
            for (_, entry) in standbys {
                if !slots.get(entry.slot.as_str()).is_some_and(|slot| slot.active) {
                    return Err(format!("nobody reads from {} on {}", entry.slot, node.name));
                }
            }
            Ok(())
        })
        .await;
    }

    async fn slots_of(&self, node: &str) -> Result<BTreeMap<String, Slot>, String> {
        let client = rows::connect(&self.access, &self.node(node)).await?;
        let sql = "SELECT slot_name::text, active, coalesce(wal_status, '') \
                   FROM pg_replication_slots WHERE slot_type = 'physical'";
        let limit = Duration::from_secs(5);
        let found = within("reading the slots", node, limit, client.query(sql, &[])).await;
        let slot = |row: &tokio_postgres::Row| {
            let slot = Slot { active: row.try_get(1)?, wal_status: row.try_get(2)? };
            Ok((row.try_get(0)?, slot))
        };
        let slots: Result<_, tokio_postgres::Error> =
            found.map_err(|error| error.to_string())?.iter().map(slot).collect();
        slots.map_err(|error| error.to_string())
    }
}

/// # Errors
/// In words, which record says otherwise.
fn check_records(records: &BTreeMap<String, FederationRecord>, dc: &str) -> Result<(), String> {
    let epochs: Vec<_> = records.values().map(|record| record.epoch).collect();
    for (holder, record) in records {
        let wrong = record.primary.as_str() != dc
            || record.fence.is_some()
            || record.operation.is_some()
            || epochs.iter().any(|epoch| *epoch != record.epoch);
        if wrong {
            return Err(format!("the record in {holder}: {record:?}"));
        }
    }
    Ok(())
}

/// # Errors
/// In words, what the status says instead.
fn check_status(status: &Value, dc: &str) -> Result<(), String> {
    let rows = status["datacenters"].as_array().map(Vec::as_slice).unwrap_or_default();
    let writable = rows.iter().filter(|row| row["state"] == "writable");
    let writable: Vec<&Value> = writable.map(|row| &row["dc"]).collect();
    let quiet = status["problems"].as_array().is_some_and(Vec::is_empty);
    if status["primary"] == dc && writable == [dc] && quiet && status["operation"].is_null() {
        Ok(())
    } else {
        Err(format!("status: {status}"))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_an_orderly_status_passes() {
        let rows = json!([{"dc": "dc1", "state": "writable"}, {"dc": "dc2", "state": "streaming"}]);
        let good =
            json!({"primary": "dc1", "operation": null, "problems": [], "datacenters": rows});
        assert_eq!(check_status(&good, "dc1"), Ok(()));
        assert!(check_status(&good, "dc2").is_err());
        for (key, value) in [
            ("operation", json!("x")),
            ("problems", json!([{"text": "x"}])),
            ("problems", json!(null)),
            ("datacenters", json!([{"dc": "dc2", "state": "writable"}])),
        ] {
            let mut bad = good.clone();
            bad[key] = value;
            assert!(check_status(&bad, "dc1").is_err(), "{bad}");
        }
        let both = json!([{"dc": "dc1", "state": "writable"}, {"dc": "dc2", "state": "writable"}]);
        let mut bad = good;
        bad["datacenters"] = both;
        assert!(check_status(&bad, "dc1").is_err());
    }
}
