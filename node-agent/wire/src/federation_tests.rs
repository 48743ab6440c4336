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
