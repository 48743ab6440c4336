//! Arbitrary contents of the DCS.

use super::*;

/// Whether the DCS is known, and what it holds.
pub(super) fn any_cluster() -> impl Strategy<Value = (bool, Cluster)> {
    let keys = (of(name()), initialize(), config(), btree_set(name(), 0..4), failover(), sync());
    let more = (record_view(), of(position()), of(lsn()), of(history()), weighted(0.9, lsn()));
    (prop::bool::weighted(0.93), keys, more).prop_map(|(known, keys, more)| {
        let (leader, initialize, config, members, failover, sync) = keys;
        let (record, position, optime, history, slot) = more;
        let slots = slot.map(|at| (SlotName::from_name("pg2"), at)).into_iter().collect();
        let cluster = Cluster {
            revision: Revision(100),
            initialize,
            config,
            config_present: true,
            leader,
            members: members.into_iter().map(|n| (n.clone(), member(n.as_str()))).collect(),
            failover: Keyed { value: failover, revision: Revision(41) },
            status: Status { optime, slots, ..Status::default() },
            sync: Keyed { value: sync, revision: Revision(42) },
            history,
            record,
            position,
            position_revision: Revision(40),
            failsafe: BTreeMap::new(),
        };
        (known, cluster)
    })
}

fn initialize() -> impl Strategy<Value = Option<String>> {
    prop_oneof![
        6 => Just(Some(SYSTEM.to_owned())),
        2 => Just(None),
        1 => Just(Some(String::new())),
    ]
}

fn config() -> impl Strategy<Value = Dynamic> {
    let flag = || prop::bool::weighted(0.25);
    let off = || serde_json::Value::Bool(false);
    let sync = select(vec![off(), off(), off(), true.into(), "quorum".into()]);
    let lost = (prop::bool::weighted(0.4), prop::bool::weighted(0.1));
    let flags = (flag(), flag(), flag(), any::<bool>(), prop::bool::weighted(0.15));
    (sync, flags, removal(), lost).prop_map(
        |(sync, flags, (after_failure, diverged), (lost, failsafe))| {
            let (strict, standby, check_timeline, rewind, pause) = flags;
            let mut json = serde_json::json!({
                "synchronous_mode": sync,
                "synchronous_mode_strict": strict,
                "check_timeline": check_timeline,
                "pause": pause,
                "failsafe_mode": failsafe,
                "primary_lost_timeout": if lost { 5 } else { 0 },
                "slots": {"dc2": {"type": "physical"}},
                "postgresql": {
                    "use_pg_rewind": rewind,
                    "remove_data_directory_on_rewind_failure": after_failure,
                    "remove_data_directory_on_diverged_timelines": diverged,
                },
            });
            if standby {
                json["standby_cluster"] = serde_json::json!({"host": "10.9.0.1"});
            }
            Dynamic::read(json.as_object().expect("an object"))
        },
    )
}

/// What lets a data directory be removed.
fn removal() -> impl Strategy<Value = (bool, bool)> {
    (prop::bool::weighted(0.3), prop::bool::weighted(0.3))
}

fn failover() -> impl Strategy<Value = Failover> {
    prop_oneof![
        4 => Just(Failover::default()),
        1 => (of(name()), of(name()))
            .prop_map(|(leader, member)| Failover { leader, member, scheduled_at: None }),
    ]
}

fn sync() -> impl Strategy<Value = SyncState> {
    prop_oneof![
        3 => Just(SyncState::default()),
        3 => (name(), btree_set(name(), 0..3), select(vec![0, 0, 1, 2])).prop_map(
            |(leader, sync_standby, quorum)| SyncState {
                leader: Some(leader),
                sync_standby,
                quorum,
            }
        ),
    ]
}
