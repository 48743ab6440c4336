use super::*;

fn record(dc: &str, epoch: u64, primary: &str) -> FederationRecord {
    FederationRecord {
        version: RECORD_VERSION,
        federation: "shop".into(),
        dc: dc.into(),
        epoch: Epoch(epoch),
        primary: primary.into(),
        fence: None,
        operation: None,
        claim: None,
        members: BTreeMap::new(),
        policies: Policies::default(),
        streamed: false,
        confirmed: None,
        resolution: None,
    }
}

#[test]
fn successors() {
    let now = record("dc1", 2, "dc1");
    assert_eq!(now.check_successor(&record("dc1", 3, "dc2")), Ok(()));
    assert_eq!(now.check_successor(&record("dc1", 2, "dc1")), Ok(()));
    assert!(matches!(
        now.check_successor(&record("dc1", 1, "dc1")),
        Err(RecordRule::EpochLowered { .. })
    ));
    assert!(matches!(
        now.check_successor(&record("dc1", 2, "dc2")),
        Err(RecordRule::TwoPrimaries { .. })
    ));
    assert_eq!(now.check_successor(&record("dc2", 3, "dc2")), Err(RecordRule::Identity));
}

#[test]
fn a_later_epoch_fences_a_former_primary_and_not_a_standby() {
    let later = record("dc2", 2, "dc2");
    let former = record("dc1", 1, "dc1").superseded_by(&later, "agent a", 5).expect("later");
    assert_eq!((former.epoch, former.primary.as_str()), (Epoch(2), "dc2"));
    assert_eq!(former.fence.as_ref().map(|f| f.epoch), Some(Epoch(2)));
    let standby = record("dc3", 1, "dc1").superseded_by(&later, "agent c", 5).expect("later");
    assert_eq!(standby.fence, None);
    assert_eq!(record("dc1", 2, "dc2").superseded_by(&later, "x", 5), None);
}

#[test]
fn json_is_stable_and_lenient() {
    let mut value = serde_json::to_value(record("dc1", 1, "dc1")).expect("json");
    value["something_new"] = serde_json::json!({"a": 1});
    let read: FederationRecord = serde_json::from_value(value).expect("lenient");
    assert_eq!(read, record("dc1", 1, "dc1"));
    let evidence = Evidence::Attested { by: "ann".into(), reason: "power off".into(), at_us: 1 };
    assert_eq!(serde_json::to_value(evidence).expect("json")["kind"], "attested");
}

#[test]
fn records_of_the_time_before_are_read() {
    let mut value = serde_json::to_value(record("dc1", 2, "dc1")).expect("json");
    let ack = serde_json::json!({
        "node": "a", "checkpoint": 16, "timeline": 1, "system_id": "7", "at_us": 1});
    value["policies"] = serde_json::json!({
        "cold_start_after_s": 9, "switchover_lag_bytes_max": 1, "keep_divergent_wal": false});
    value["claim"] = serde_json::json!({"operation": "op-1", "kind": "promotion", "at_us": 1,
        "evidence": {"kind": "acknowledged", "ack": ack}});
    value["operation"] = serde_json::json!({"id": "op-2", "kind": "promotion", "to": "dc1",
        "next_epoch": 3, "phase": "running", "by": "ann", "started_at_us": 1,
        "evidence": {"kind": "attested", "by": "ann", "reason": "off", "at_us": 1},
        "journal": [{"step": "take", "begun_at_us": 1}]});
    let read: FederationRecord = serde_json::from_value(value).expect("the old form");
    assert_eq!(read.policies.evidence, ANY_EVIDENCE);
    assert_eq!(read.policies.cold_start_after_s, 9);
    assert_eq!((read.policies.approvals, read.policies.sequence_gap), (0, 0));
    let operation = read.operation.expect("the operation");
    assert_eq!(operation.evidence.as_ref().map(Evidence::name), Some("attested"));
    assert!(operation.further_evidence.is_empty() && operation.journal[0].parts.is_empty());
    assert!(operation.approvals.is_empty() && operation.document.is_none());
    assert!(read.claim.expect("the claim").further_evidence.is_empty());
}
