use super::*;
use node_agent_wire::member::Member;
use node_agent_wire::status::{Failover, Status, SyncState};
use node_agent_wire::{Lsn, Revision, SystemId, TimelineId};
use proptest::prelude::*;

/// Behaviour §10, row by row, and ours below.
#[test]
fn the_table_of_the_reference() {
    use DemotionMode as M;
    use Release as R;
    for (mode, archives, stop, checkpoint, release, archive) in [
        (M::Offline, false, StopMode::Fast, false, R::Never, false),
        (M::Graceful, false, StopMode::Fast, true, R::HeldOrStopped, false),
        (M::Immediate, false, StopMode::Immediate, false, R::Stopped, false),
        (M::ImmediateNolock, false, StopMode::Immediate, false, R::Never, false),
        (M::DemoteCluster, false, StopMode::Fast, false, R::Held, false),
        (M::DemoteCluster, true, StopMode::Fast, false, R::Never, true),
        (M::Fence, false, StopMode::Fast, false, R::Never, false),
        (M::Leave, false, StopMode::Fast, false, R::Stopped, false),
    ] {
        let how = mode.how(archives);
        let told = (how.stop, how.checkpoint, how.release, how.archive);
        assert_eq!(told, (stop, checkpoint, release, archive), "{mode:?}");
        // Only a stop that ships everything may wait for whoever receives it, and only that one
        // has a shutdown checkpoint that somebody can have.
        assert!(how.stop == StopMode::Fast || how.patience == Patience::Short, "{mode:?}");
        assert!(how.stop == StopMode::Fast || !how.release.before_the_end(), "{mode:?}");
        if mode != M::DemoteCluster {
            assert_eq!(mode.how(true), how, "{mode:?}: the archive makes no difference");
        }
    }
}

const CHECKPOINT: Lsn = Lsn(1000);

fn control(state: ControlState) -> ControlData {
    ControlData {
        state,
        system_id: SystemId::new("7000000000000000001"),
        timeline: TimelineId(2),
        checkpoint: CHECKPOINT,
        min_recovery_end: Lsn(0),
        min_recovery_timeline: TimelineId(0),
        rewindable: true,
    }
}

fn cluster(sync: SyncState, candidate: Option<&str>) -> Cluster {
    let member = |name: &str| (MemberName::from(name), Member::parse(name, b"{}"));
    Cluster {
        revision: Revision(1),
        initialize: None,
        config: node_agent_wire::dynamic::Dynamic::default(),
        config_present: true,
        leader: Some("pg1".into()),
        members: ["pg1", "pg2", "pg3", "pg4"].map(member).into(),
        failover: crate::observed::Keyed {
            value: Failover { member: candidate.map(Into::into), ..Failover::default() },
            revision: Revision(1),
        },
        status: Status::default(),
        sync: crate::observed::Keyed { value: sync, revision: Revision(1) },
        history: None,
        record: crate::observed::RecordView::Absent,
        position: None,
        position_revision: Revision(0),
        failsafe: BTreeMap::new(),
    }
}

fn sync(names: &[&str], quorum: u32) -> SyncState {
    let sync_standby = names.iter().map(|name| MemberName::from(*name)).collect();
    SyncState { leader: Some("pg1".into()), sync_standby, quorum }
}

fn standby(replayed: u64) -> Standing {
    Standing {
        in_recovery: true,
        lsn: Lsn(5000),
        whole: true,
        replayed: Lsn(replayed),
        timeline: Some(TimelineId(2)),
        nofailover: false,
        failover_priority: 1,
        watchdog_failed: false,
        sees_primary: None,
    }
}

fn answers(of: &[(&str, Option<Standing>)]) -> BTreeMap<MemberName, PeerAnswer> {
    let answer = |standing: &Option<Standing>| {
        standing.clone().map_or(PeerAnswer::Silent, PeerAnswer::Answered)
    };
    of.iter().map(|(name, standing)| (MemberName::from(*name), answer(standing))).collect()
}

#[test]
fn who_may_have_the_key_before_the_end() {
    let (has, lacks) = (standby(1120), standby(1000));
    let off = SyncState::default;
    let tagged = |change: fn(&mut Standing)| {
        let mut standing = has.clone();
        change(&mut standing);
        standing
    };
    for (name, sync, candidate, of, expected) in [
        ("the only one", off(), None, vec![("pg2", Some(has.clone()))], Some("pg2")),
        // It has received beyond, and that may end in the middle of the record.
        ("received only", off(), None, vec![("pg2", Some(lacks.clone()))], None),
        ("silent", off(), None, vec![("pg2", None)], None),
        ("nobody", off(), None, vec![], None),
        (
            "the named one has it",
            off(),
            Some("pg3"),
            vec![("pg2", Some(has.clone())), ("pg3", Some(has.clone()))],
            Some("pg3"),
        ),
        (
            "the named one lacks it",
            off(),
            Some("pg3"),
            vec![("pg2", Some(has.clone())), ("pg3", Some(lacks.clone()))],
            None,
        ),
        ("nofailover", off(), None, vec![("pg2", Some(tagged(|s| s.nofailover = true)))], None),
        ("watchdog", off(), None, vec![("pg2", Some(tagged(|s| s.watchdog_failed = true)))], None),
        (
            "another timeline",
            off(),
            None,
            vec![("pg2", Some(tagged(|s| s.timeline = Some(TimelineId(3)))))],
            None,
        ),
        ("a primary", off(), None, vec![("pg2", Some(tagged(|s| s.in_recovery = false)))], None),
        ("no member", off(), None, vec![("pg9", Some(has.clone()))], None),
        (
            "not synchronous",
            sync(&["pg3"], 0),
            None,
            vec![("pg2", Some(has.clone())), ("pg3", Some(lacks.clone()))],
            None,
        ),
        (
            "synchronous",
            sync(&["pg3"], 0),
            None,
            vec![("pg2", Some(has.clone())), ("pg3", Some(has.clone()))],
            Some("pg3"),
        ),
        (
            "a quorum's vote is missing",
            sync(&["pg2", "pg3", "pg4"], 1),
            None,
            vec![("pg2", Some(has.clone())), ("pg3", Some(lacks.clone())), ("pg4", None)],
            None,
        ),
        (
            "a quorum",
            sync(&["pg2", "pg3", "pg4"], 1),
            None,
            vec![("pg2", Some(has.clone())), ("pg3", Some(lacks)), ("pg4", Some(has.clone()))],
            Some("pg2"),
        ),
    ] {
        let found =
            heir(&control(ControlState::ShutDown), &cluster(sync, candidate), &answers(&of));
        assert_eq!(found.ok(), expected.map(MemberName::from), "{name}");
    }
}

fn any_state() -> impl Strategy<Value = ControlState> {
    use ControlState as S;
    prop::sample::select(vec![
        S::ShutDown,
        S::ShutDownInRecovery,
        S::ShuttingDown,
        S::InCrashRecovery,
        S::InArchiveRecovery,
        S::InProduction,
        S::StartingUp,
    ])
}

fn any_standing() -> impl Strategy<Value = Option<Standing>> {
    let facts = (any::<bool>(), 990_u64..1130, any::<bool>(), 1_u32..4);
    prop::option::weighted(0.9, facts).prop_map(|facts| {
        facts.map(|(in_recovery, replayed, nofailover, timeline)| Standing {
            in_recovery,
            nofailover,
            timeline: Some(TimelineId(timeline)),
            ..standby(replayed)
        })
    })
}

proptest! {
    /// Whoever gets the key before the old primary has ended has replayed its last record, and
    /// nothing can be acknowledged there any more.
    #[test]
    fn an_heir_has_everything(
        state in any_state(),
        of in prop::array::uniform3(any_standing()),
        named in prop::option::of(prop::sample::select(vec!["pg2", "pg3", "pg4"])),
        names in prop::sample::subsequence(vec!["pg2", "pg3", "pg4"], 0..=3),
        quorum in 0_u32..3,
        synchronous in any::<bool>(),
    ) {
        let promised = if synchronous { sync(&names, quorum) } else { SyncState::default() };
        let cluster = cluster(promised.clone(), named);
        let told = ["pg2", "pg3", "pg4"].into_iter().zip(of);
        let told: Vec<(&str, Option<Standing>)> = told.collect();
        let Ok(heir) = heir(&control(state), &cluster, &answers(&told)) else { return Ok(()) };
        prop_assert_eq!(state, ControlState::ShutDown);
        let found = told.iter().find(|(name, _)| heir.as_str() == *name);
        let standing = found.and_then(|(_, standing)| standing.clone());
        let standing = standing.ok_or_else(|| TestCaseError::fail("it did not answer"))?;
        prop_assert!(standing.replayed > CHECKPOINT && standing.in_recovery);
        prop_assert!(!standing.nofailover && standing.timeline == Some(TimelineId(2)));
        prop_assert!(named.is_none_or(|named| named == heir.as_str()));
        prop_assert!(!synchronous || promised.covers(&heir));
    }
}
