//! Goal: the beats of a federation's primary tell its logical slots, and what was told in an epoch
//! stays known while nobody can say anything newer. Method: one view after another, each with the
//! position that the one before has led to.
use super::*;
use crate::rest::fixture;
use node_agent_wire::Epoch;
use serde_json::json;

fn slot(name: &str, physical: bool) -> SlotFact {
    SlotFact {
        name: SlotName::from_name(name),
        physical,
        active: true,
        restart_lsn: Some(Lsn(1)),
        confirmed_lsn: (!physical).then_some(Lsn(7)),
        database: (!physical).then(|| "shop".into()),
        plugin: (!physical).then(|| "pgoutput".into()),
        xmin: None,
        catalog_xmin: None,
        failover: false,
        synced: false,
        left_over: false,
        lost: false,
        invalidation: None,
        wal_status: "reserved".into(),
    }
}

fn in_epoch(mut observed: Observed, epoch: u64) -> Observed {
    observed.last_record = (epoch > 0).then(|| fixture::record(epoch, "dc1"));
    observed
}

/// What the beat says after one that said `before`.
fn told(observed: &Observed, before: &BeatFacts) -> BeatFacts {
    let position = json!({"leader": "pg1", "beat": 1, "ttl_ms": 3000, "writable": before.writable,
        "epoch": before.epoch, "at_us": 1, "consumers": before.consumers});
    let mut observed = observed.clone();
    let node_agent_core::time::Fact::Known { value: cluster, .. } = &mut observed.cluster else {
        panic!("the fixture's cluster is known");
    };
    cluster.position = Some(serde_json::from_value(position).expect("a position"));
    beat_facts(&observed, 0, None)
}

#[test]
fn beats_of_a_federations_primary_tell_its_consumers() {
    let mut view = fixture::primary();
    fixture::running(&mut view).slots = vec![slot("dc2", true), slot("cdc", false)];
    let primary = view.observed;
    let nothing = BeatFacts::default();
    assert_eq!(told(&in_epoch(primary.clone(), 0), &nothing).consumers, None, "no federation");

    let first = told(&in_epoch(primary.clone(), 4), &nothing);
    assert_eq!(first.epoch, Some(Epoch(4)));
    let consumers = first.consumers.clone().expect("told");
    let names: Vec<&str> = consumers.keys().map(SlotName::as_str).collect();
    assert_eq!(names, ["cdc"], "slots of standbys are no consumers");
    let cdc = &consumers[&SlotName::from_name("cdc")];
    assert_eq!((cdc.confirmed, cdc.plugin.as_str()), (Some(Lsn(7)), "pgoutput"));
    assert_eq!(reached(&first).and_then(|r| r.consumers), Some(consumers.clone()));

    let mut hangs = in_epoch(primary, 4);
    hangs.postgres = fixture::unresponsive();
    assert_eq!(told(&hangs, &first).consumers, first.consumers, "PostgreSQL does not answer");
    let stopped = in_epoch(fixture::standby_leader().observed, 4);
    assert_eq!(told(&stopped, &first).consumers, first.consumers, "it does not write any more");
    let later = in_epoch(fixture::standby_leader().observed, 5);
    assert_eq!(told(&later, &first).consumers, None, "another datacenter is primary");
}
