//! Arbitrary facts: every combination that the types allow, out of few names, positions and times
//! so that they meet often.

mod keys;

use self::keys::any_cluster;
use super::grants;
use super::healthy::{NOW, SYSTEM, WALL_US, ago, cluster, control, member, record, standby};
use super::words::begun;
use node_agent_core::beginning::Beginnings;
use node_agent_core::directory::{Directory, WalEnd};
use node_agent_core::divergence::SourceHistory;
use node_agent_core::failsafe::{Failsafe, Votes};
use node_agent_core::observed::{
    Cluster, Job, JobKind, Keyed, Lease, Me, Observed, Observer, PeerAnswer, Poll, RecordView,
    Request, Standing,
};
use node_agent_core::postgres::{ControlState, Postgres, Running, SlotFact, Upstream, Walsender};
use node_agent_core::promise::Promise;
use node_agent_core::sick::Health;
use node_agent_core::starts::EarlyEnd;
use node_agent_core::time::{Boot, Fact};
use node_agent_wire::dynamic::Dynamic;
use node_agent_wire::federation::{
    Confirmation, FederationRecord, Fence, FenceAck, Isolation, Operation, OperationKind,
};
use node_agent_wire::grant::GrantPolicy;
use node_agent_wire::history::{Ancestor, TimelineHistory};
use node_agent_wire::position::{FailsafeTerms, Position};
use node_agent_wire::status::{Failover, Status, SyncState};
use node_agent_wire::{DcName, Epoch, Lsn, MemberName, Revision, SlotName, SystemId, TimelineId};
use proptest::collection::{btree_map, btree_set, vec};
use proptest::option::{of, weighted};
use proptest::prelude::*;
use proptest::sample::select;
use std::collections::BTreeMap;
use std::time::Duration;

/// Facts that the agent might see, or should never see: both have a decision.
pub fn observed() -> impl Strategy<Value = Observed> {
    let node = (me(), postgres(), lease(), job(), history(), of(upstream()), of(source()));
    let around =
        (of(poll()), peers(), (observer(), failsafe()), seen(), 0_u32..2, weighted(0.1, age()));
    let asked = (weighted(0.1, request()), of(source()), weighted(0.2, early_end()));
    let more = (prop::bool::weighted(0.1), of(age()));
    (node, around, any_cluster(), asked, more, (weighted(0.5, lsn()), directory(), grants::any()))
        .prop_map(|(node, around, (known, view), asked, (deprived, asked_at), written)| {
            let (request, other_source, early_end) = asked;
            let (names_set_at, mut directory, grants) = written;
            let (me, postgres, lease, job, own_history, following, source) = node;
            let (poll, peers, seen, members_seen, start_failures, stand_back) = around;
            let (observer, failsafe) = seen;
            directory.beginnings = begun(&own_history);
            Observed {
                me,
                postgres,
                lease,
                job,
                own_history: Some(own_history).filter(|h| h.timeline.0 < 4),
                following,
                source,
                other_source,
                poll,
                peers,
                observer,
                failsafe,
                members_seen,
                start_failures,
                stand_back_until: stand_back.map(|d| NOW + d),
                sync_names_ours: names_set_at.is_some(),
                sync_names_set_at: names_set_at,
                sync_unsure: names_set_at.is_some_and(|lsn| lsn.0 % 2 == 1),
                request,
                health: Health { early_end, ..Health::default() },
                release_asked_at: asked_at.map(ago),
                ending: asked_at.is_some() && deprived,
                watchdog_failed: deprived.then(|| "permission denied".to_owned()),
                directory,
                grants,
                config: view.config.clone(),
                cluster: if known {
                    Fact::Known { value: view, at: NOW }
                } else {
                    Fact::Unknown { since: ago(Duration::from_secs(5)), tried: true }
                },
                ..cluster()
            }
        })
}

/// The same, more often at the places where much is decided: an election, and a leader at work.
pub fn pressed() -> impl Strategy<Value = Observed> {
    let standby = any_running().prop_map(|r| Running { in_recovery: true, ..r });
    let race = (observed().boxed(), standby).prop_map(|(mut o, running)| {
        o.postgres = Postgres::Running(Box::new(running));
        let answers = o.poll.take().map(|poll| poll.answers).unwrap_or_default();
        o.poll = Some(Poll { asked_at: ago(Duration::from_millis(100)), answers });
        at(o, None, Lease::default())
    });
    let held = Lease { held_until: Some(NOW + Duration::from_secs(20)), kept: false };
    let lead = observed().boxed().prop_map(move |o| at(o, Some("pg1".into()), held));
    let follow = observed().boxed().prop_map(|o| at(o, Some("pg2".into()), Lease::default()));
    prop_oneof![2 => observed().boxed(), 3 => race.boxed(), 3 => lead.boxed(), 2 => follow.boxed()]
}

/// Usual surroundings, so that the decision goes far.
fn at(mut o: Observed, leader: Option<MemberName>, lease: Lease) -> Observed {
    (o.lease, o.job, o.stand_back_until, o.me.nofailover) = (lease, None, None, false);
    if let Fact::Known { value, .. } = &mut o.cluster {
        value.leader = leader;
        let begun = !o.directory.found_running || value.leader.is_some();
        if o.postgres != Postgres::NoData && begun {
            value.initialize = Some(SYSTEM.to_owned());
        }
        value.members.insert("pg2".into(), member("pg2"));
        let sync = &value.sync.value;
        if sync.active() && !sync.covers(&o.me.name) {
            value.sync.value = SyncState::default();
        }
    }
    o
}

fn early_end() -> impl Strategy<Value = EarlyEnd> {
    (1_u32..9, age()).prop_map(|(count, age)| EarlyEnd {
        count,
        at: ago(age),
        said: "FATAL: x".to_owned(),
    })
}

fn request() -> impl Strategy<Value = Request> {
    let reinit = any::<bool>().prop_map(|from_leader| Request::Reinit { from_leader });
    prop_oneof![Just(Request::Restart), reinit]
}

fn directory() -> impl Strategy<Value = Directory> {
    let rarely = || prop::bool::weighted(0.1);
    let wal_end = (lsn(), 1_u32..3, lsn()).prop_map(|(checkpoint, timeline, last)| WalEnd {
        checkpoint,
        timeline: TimelineId(timeline),
        last_record: Ok(last),
    });
    (rarely(), rarely(), weighted(0.5, wal_end), rarely(), rarely(), any::<bool>()).prop_map(
        |(interrupted, failed, wal_end, found_running, unguarded, leaderless_copy)| Directory {
            rewind_interrupted: interrupted,
            rewind_failed: failed,
            wal_end,
            found_running,
            unguarded,
            leaderless_copy,
            progress: None,
            work_failed: None,
            beginnings: Beginnings::new(),
        },
    )
}

fn name() -> impl Strategy<Value = MemberName> {
    select(vec!["pg1", "pg1", "pg2", "pg3"]).prop_map(MemberName::from)
}

fn lsn() -> impl Strategy<Value = Lsn> {
    (1_u64..4, select(vec![0, 1, 0x60])).prop_map(|(a, b)| Lsn(a * 0x100_0000 + b))
}

fn age() -> impl Strategy<Value = Duration> {
    select(vec![0, 100, 600, 2_000, 8_000, 31_000, 70_000, 4_000_000])
        .prop_map(Duration::from_millis)
}

fn moment() -> impl Strategy<Value = Boot> {
    age().prop_map(ago)
}

fn me() -> impl Strategy<Value = Me> {
    let tags = (prop::bool::weighted(0.1), prop::bool::weighted(0.1), weighted(0.2, name()));
    let priority = select(vec![1, 1, 1, 2]);
    (tags, any::<bool>(), priority).prop_map(
        |((nofailover, nostream, replicatefrom), may_bootstrap, failover_priority)| Me {
            name: "pg1".into(),
            nofailover,
            failover_priority,
            may_bootstrap,
            nostream,
            replicatefrom,
        },
    )
}

fn lease() -> impl Strategy<Value = Lease> {
    prop_oneof![
        3 => Just(Some(NOW + Duration::from_secs(20))),
        2 => Just(None),
        1 => Just(Some(NOW)),
    ]
    .prop_map(|held_until| Lease { held_until, kept: false })
}

fn job() -> impl Strategy<Value = Option<Job>> {
    let kinds = vec![JobKind::Bootstrap, JobKind::Start, JobKind::Promote, JobKind::Demote];
    weighted(0.05, (select(kinds), moment()).prop_map(|(kind, since)| Job { kind, since }))
}

/// Timeline 1, or a later one that branched off it; timeline 4 stands for "not known".
fn history() -> impl Strategy<Value = TimelineHistory> {
    (1_u32..5, lsn(), lsn()).prop_map(|(timeline, first, second)| {
        let ends = [first, second.max(first), Lsn(u64::MAX)];
        let ancestors = (1..timeline)
            .zip(ends)
            .map(|(t, ended_at)| Ancestor { timeline: TimelineId(t), ended_at })
            .collect();
        TimelineHistory { timeline: TimelineId(timeline), ancestors }
    })
}

fn upstream() -> impl Strategy<Value = Upstream> {
    prop_oneof![
        Just(super::healthy::member_upstream("pg2")),
        Just(super::healthy::member_upstream("pg3")),
        Just(super::healthy::remote_upstream()),
        Just(Upstream::Nobody),
        Just(Upstream::Archive { of: None }),
    ]
}

fn source() -> impl Strategy<Value = SourceHistory> {
    let answer = prop_oneof![
        4 => history().prop_map(Ok),
        1 => Just(Err("connection refused".to_owned())),
    ];
    let known = select(vec!["same", "same", "same", "other", "unknown"]);
    (upstream(), moment(), answer, known).prop_map(|(upstream, at, answer, known)| {
        let mut beginnings = answer.as_ref().map(begun).unwrap_or_default();
        match known {
            "other" => beginnings.values_mut().for_each(|b| b.record = "01".to_owned()),
            "unknown" => beginnings.clear(),
            _ => {}
        }
        SourceHistory { upstream, at, answer, beginnings, same_wal: None }
    })
}

fn poll() -> impl Strategy<Value = Poll> {
    let answer = prop_oneof![
        1 => Just(PeerAnswer::Silent),
        4 => standing().prop_map(PeerAnswer::Answered),
    ];
    (select(vec![100, 2_900, 3_500]), btree_map(name(), answer, 0..3))
        .prop_map(|(age, answers)| Poll { asked_at: ago(Duration::from_millis(age)), answers })
}

fn standing() -> impl Strategy<Value = Standing> {
    let rare = || prop::bool::weighted(0.1);
    let place = (prop::bool::weighted(0.9), lsn(), prop::bool::weighted(0.8), of(1_u32..3));
    (place, rare(), select(vec![1, 1, 2]), rare(), weighted(0.1, name())).prop_map(
        |((in_recovery, lsn, whole, timeline), nofailover, failover_priority, failed, sees)| {
            Standing {
                in_recovery,
                lsn,
                whole,
                replayed: lsn,
                timeline: timeline.map(TimelineId),
                nofailover,
                failover_priority,
                watchdog_failed: failed,
                sees_primary: sees,
            }
        },
    )
}

fn observer() -> impl Strategy<Value = Observer> {
    (of(moment()), of(name()))
        .prop_map(|(beat_seen_at, last_leader)| Observer { beat_seen_at, last_leader })
}

fn seen() -> impl Strategy<Value = BTreeMap<MemberName, Boot>> {
    btree_map(name(), moment(), 0..3)
}

fn peers() -> impl Strategy<Value = BTreeMap<DcName, Fact<FederationRecord>>> {
    let fact = prop_oneof![
        3 => dc_record("dc2").prop_map(|value| Fact::Known { value, at: NOW }),
        1 => any::<bool>().prop_map(|tried| Fact::Unknown { since: NOW, tried }),
    ];
    weighted(0.8, fact).prop_map(|fact| fact.map(|fact| ("dc2".into(), fact)).into_iter().collect())
}

fn dc_record(dc: &'static str) -> impl Strategy<Value = FederationRecord> {
    let who = (1_u64..4, prop::bool::weighted(0.3), prop::bool::weighted(0.1));
    let fence = weighted(0.25, any::<bool>());
    (who, fence, weighted(0.3, any::<bool>()), weighted(0.3, age()), prop::bool::weighted(0.1))
        .prop_map(move |((epoch, other, stranger), fence, operation, confirmed, lease)| {
            let mut record = record(dc, epoch, if other { "dc2" } else { "dc1" });
            if stranger && dc != "dc1" {
                record.federation = "another".into();
            }
            record.fence = fence.map(|acked| any_fence(epoch, acked));
            record.operation = operation.map(|planned| any_operation(epoch, planned));
            record.confirmed = confirmed.map(|age| Confirmation {
                epoch: Epoch(epoch),
                by: "ann".into(),
                at_us: WALL_US - i64::try_from(age.as_micros()).expect("small"),
            });
            if lease {
                for entry in record.members.values_mut() {
                    entry.isolation = Isolation::Lease;
                }
                record.policies.grants = Some(GrantPolicy::default());
            }
            record
        })
}

fn any_fence(epoch: u64, acked: bool) -> Fence {
    let ack = FenceAck {
        node: "pg1".into(),
        checkpoint: Lsn(0x100_0000),
        timeline: TimelineId(1),
        system_id: SystemId::new(SYSTEM),
        at_us: WALL_US,
    };
    let (reason, by) = ("a test".into(), "ann".into());
    let ack = acked.then_some(ack);
    Fence { epoch: Epoch(epoch).next(), operation: None, reason, by, at_us: WALL_US, ack }
}

fn any_operation(epoch: u64, planned: bool) -> Operation {
    let kind = if planned { OperationKind::Switchover } else { OperationKind::Promotion };
    let places = (Some("dc1".into()), "dc2".into());
    Operation::new("op".into(), kind, places, Epoch(epoch).next(), ("ann", WALL_US))
}

fn record_view() -> impl Strategy<Value = RecordView> {
    let present = |value| RecordView::Present(Box::new(Keyed { value, revision: Revision(43) }));
    prop_oneof![
        4 => Just(RecordView::Absent),
        8 => dc_record("dc1").prop_map(present),
        1 => Just(RecordView::Unreadable("garbage".into())),
    ]
}

fn position() -> impl Strategy<Value = Position> {
    let marks = (any::<bool>(), weighted(0.3, Just(())));
    let words = (name(), select(vec![5_000, 30_000]));
    let parts = (words, marks, of(lsn()), of(age()), weighted(0.5, terms()));
    parts.prop_map(|((leader, ttl_ms), (released, left), lsn, wrote, failsafe)| Position {
        leader,
        beat: 1,
        ttl_ms,
        released,
        unattended: left.is_some(),
        epoch: None,
        writable: true,
        lsn,
        replay_lsn: None,
        timeline: None,
        commit_at_us: None,
        wrote_at_us: wrote.map(|age| WALL_US - i64::try_from(age.as_micros()).expect("small")),
        at_us: WALL_US,
        wal_rate_max: 0,
        primary_seen: None,
        link: None,
        failsafe,
    })
}

fn terms() -> impl Strategy<Value = FailsafeTerms> {
    (btree_set(name(), 1..4), any::<bool>())
        .prop_map(|(members, majority)| FailsafeTerms { members, majority })
}

/// A promise to another leader, and votes of the others.
fn failsafe() -> impl Strategy<Value = Failsafe> {
    let promise = (name(), age()).prop_map(|(leader, left)| Promise { leader, until: NOW + left });
    let votes = (btree_set(name(), 0..3), select(vec![39, 40, 40, 40]))
        .prop_map(|(granted, beat)| Votes { asked_at: NOW, beat: Revision(beat), granted });
    let told = (select(vec!["pg2", "pg3", "old"]), lsn());
    (weighted(0.2, promise), weighted(0.6, votes), weighted(0.5, told)).prop_map(
        |(promise, votes, told)| Failsafe {
            round: None,
            promise,
            votes,
            told: told.map(|(name, at)| (SlotName::from_name(name), at)).into_iter().collect(),
        },
    )
}

fn postgres() -> impl Strategy<Value = Postgres> {
    prop_oneof![
        1 => Just(Postgres::NoData),
        1 => Just(Postgres::Unreadable("permission denied".into())),
        4 => any_control().prop_map(Postgres::Stopped),
        2 => (moment(), any::<bool>(), any_control()).prop_map(|(since, standby, control)| {
            Postgres::Starting { since, standby, control }
        }),
        1 => (moment(), any::<bool>())
            .prop_map(|(since, writable)| Postgres::Unresponsive { since, writable }),
        9 => any_running().prop_map(|running| Postgres::Running(Box::new(running))),
    ]
}

fn system() -> impl Strategy<Value = SystemId> {
    prop_oneof![15 => Just(SYSTEM), 1 => Just("7999999999999999999")].prop_map(SystemId::new)
}

fn any_control() -> impl Strategy<Value = node_agent_core::postgres::ControlData> {
    let states = vec![
        ControlState::ShutDown,
        ControlState::ShutDownInRecovery,
        ControlState::ShuttingDown,
        ControlState::InCrashRecovery,
        ControlState::InArchiveRecovery,
        ControlState::InProduction,
        ControlState::StartingUp,
    ];
    (select(states), system(), 1_u32..4, lsn(), of(lsn()), any::<bool>()).prop_map(
        |(state, system_id, timeline, checkpoint, recovered, rewindable)| {
            let mut control = control(state);
            control.system_id = system_id;
            control.timeline = TimelineId(timeline);
            control.checkpoint = checkpoint;
            control.min_recovery_end = recovered.unwrap_or_default();
            control.min_recovery_timeline = TimelineId(recovered.map_or(0, |_| timeline));
            control.rewindable = rewindable;
            control
        },
    )
}

fn any_running() -> impl Strategy<Value = Running> {
    let place = (any::<bool>(), 1_u32..4, lsn(), of(lsn()));
    let names = select(vec!["", "*", "\"pg2\"", "2 (\"pg2\",\"pg3\")", "ANY 1 (\"pg2\",\"pg3\")"]);
    (place, system(), names, vec(any_sender(), 0..3), vec(any_slot(), 0..3), any::<bool>())
        .prop_map(|(place, system_id, names, senders, slots, streams)| {
            let (in_recovery, timeline, lsn, replayed) = place;
            Running {
                in_recovery,
                timeline: TimelineId(timeline),
                lsn,
                receive_lsn: Some(lsn),
                replay_lsn: replayed.map(|at| at.min(lsn)),
                receiver: streams.then(|| super::healthy::receiver("streaming")),
                senders,
                slots,
                sync_names: names.to_owned(),
                system_id,
                ..standby()
            }
        })
}

fn any_sender() -> impl Strategy<Value = Walsender> {
    (name(), any::<bool>(), any::<bool>(), of(lsn())).prop_map(
        |(name, streams, sync, flush_lsn)| Walsender {
            state: if streams { "streaming" } else { "catchup" }.into(),
            sync_state: if sync { "sync" } else { "async" }.into(),
            flush_lsn,
            ..super::healthy::sender(name.as_str())
        },
    )
}

fn any_slot() -> impl Strategy<Value = SlotFact> {
    let name = select(vec!["pg1", "pg2", "pg2", "pg3", "dc2", "old"]);
    let native = select(vec![(false, false), (false, false), (true, false), (true, true)]);
    (name, any::<bool>(), any::<bool>(), of(lsn()), prop::bool::weighted(0.2), native).prop_map(
        |(name, physical, active, restart_lsn, lost, (failover, left_over))| SlotFact {
            name: SlotName::from_name(name),
            physical,
            active,
            restart_lsn,
            lost,
            failover: failover && !physical,
            left_over: left_over && !physical,
            database: (!physical).then(|| "postgres".into()),
            plugin: (!physical).then(|| "test_decoding".into()),
            ..super::healthy::slot("pg9", false)
        },
    )
}
