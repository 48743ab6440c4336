//! Goal: what must hold of every decision, whatever the facts. Method: arbitrary facts, and each
//! rule stated here a second time, in other words than in `src/` and without its functions.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test ends where a fact is missing")]

mod support;
#[path = "properties/truth.rs"]
mod truth;
#[path = "properties/upkeep.rs"]
mod upkeep;

use node_agent_core::decide;
use node_agent_core::decision::{Act, Decision, Reinit, RewindTo, Tend};
use node_agent_core::divergence::{self, SourceHistory, Verdict};
use node_agent_core::observed::{Cluster, Observed, PeerAnswer, RecordView, Request};
use node_agent_core::postgres::{ControlState, Postgres, Running, Upstream};

use node_agent_core::time::Fact;
use node_agent_wire::MemberName;
use node_agent_wire::federation::{FederationRecord, Isolation, Operation, OperationKind};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use std::collections::BTreeMap;
use std::time::Duration;
use support::any::pressed;
use truth::{
    check_rewind_to, datacenter_may_write, dcs, demotes, foreign, found, leads, record, running,
    start_is_confirmed, starved, writes,
};
use upkeep::{check_release, check_slots, check_watchdog};

/// I1: nothing is made writable without the lease, the record, the peers and a fitting server.
fn check_becoming_primary(o: &Observed, decision: &Decision) {
    let fits = match &decision.act {
        Some(Act::Promote(_)) => {
            let sync = &dcs(o).unwrap().sync.value;
            let alone = sync.leader.as_ref() == Some(&o.me.name) && sync.sync_standby.is_empty();
            let on = dcs(o).unwrap().config.synchronous_mode
                != node_agent_wire::dynamic::SynchronousMode::Off;
            running(o).is_some_and(|r| r.in_recovery) && (alone || (!on && sync.leader.is_none()))
        }
        Some(Act::StartPrimary(_)) => matches!(
            &o.postgres,
            Postgres::Stopped(control) if matches!(
                control.state,
                ControlState::ShutDown
                    | ControlState::ShuttingDown
                    | ControlState::InCrashRecovery
                    | ControlState::InProduction
            )
        ),
        Some(Act::Initdb(_)) => {
            let initialize = &dcs(o).unwrap().initialize;
            o.postgres == Postgres::NoData
                && initialize.as_deref().unwrap_or_default().is_empty()
                && o.me.may_bootstrap
        }
        _ => return,
    };
    let cluster = dcs(o).expect("nobody becomes primary without the DCS");
    assert!(leads(o, cluster), "without the lease");
    assert!(datacenter_may_write(o, cluster), "without the right");
    assert!(start_is_confirmed(o, cluster), "without confirmation");
    assert!(!foreign(o, cluster) && o.job.is_none());
    assert!(fits, "PostgreSQL or /sync does not fit");
}

/// A server that may write and must not is stopped in this pass; one that may is left alone.
fn check_stopping(o: &Observed, decision: &Decision) {
    if !writes(&o.postgres) {
        assert!(!demotes(decision), "there is nothing to demote");
        return;
    }
    if o.job.is_some() {
        // Whatever runs is finished first; the lease's own deadline is the guard's.
        assert!(decision.act.is_none());
        return;
    }
    let Some(cluster) = dcs(o) else {
        let left = o.lease.held_until.map_or(Duration::ZERO, |until| o.now.until(until));
        if left.is_zero() {
            assert!(demotes(decision), "writes without the lease");
        } else if left > Duration::from_secs(6) && o.last_record.is_none() {
            assert!(!demotes(decision), "a rightful primary is stopped");
        }
        return;
    };
    let allowed = datacenter_may_write(o, cluster);
    let own_key = cluster.leader.as_ref() == Some(&o.me.name);
    if foreign(o, cluster) {
        let plain = matches!(cluster.record, RecordView::Absent);
        assert_eq!(demotes(decision), !(cluster.config.pause && plain));
    } else if !allowed {
        // A fence, another primary, a later epoch: whoever has the key, and in pause too.
        assert!(demotes(decision), "writes without the right");
    } else if found(o, cluster) && running(o).is_some() && !leads(o, cluster) {
        // As it was before the agent came, until it is taken over.
        assert!(matches!(decision.act, None | Some(Act::Acquire(_) | Act::Leave)));
    } else if !leads(o, cluster) && !own_key && !cluster.config.pause && !own_mark(o, cluster) {
        assert!(demotes(decision), "writes without the key");
    } else if leads(o, cluster) && running(o).is_some() && cluster.failover.value.is_empty() {
        if o.watchdog_failed.is_some() && !o.config.pause {
            assert!(decision.act.is_some(), "goes on without its watchdog");
        } else {
            assert!(!demotes(decision), "a rightful primary is stopped");
        }
    }
}

/// This node was left running in maintenance mode, and nobody has led since.
fn own_mark(o: &Observed, cluster: &Cluster) -> bool {
    let primary = running(o).is_some_and(|r| !r.in_recovery);
    let mark = cluster.position.as_ref().filter(|p| p.unattended && !p.released);
    primary && cluster.leader.is_none() && mark.is_some_and(|p| p.leader == o.me.name)
}

/// A primary takes the free key only in maintenance mode, or after it; and nobody does before one
/// that was left running is known to have stopped.
fn check_maintenance(o: &Observed, cluster: &Cluster) {
    if writes(&o.postgres) {
        assert!(cluster.config.pause || own_mark(o, cluster), "a primary without the key");
        assert!(datacenter_may_write(o, cluster), "without the right");
    }
    if let Some(left) = cluster.position.as_ref().filter(|p| p.unattended && !p.released)
        && left.leader != o.me.name
    {
        let answers = o.poll.as_ref().map(|poll| &poll.answers);
        let answer = answers.and_then(|a| a.get(&left.leader));
        let stopped = matches!(answer, Some(PeerAnswer::Answered(s)) if s.in_recovery);
        assert!(stopped, "{} may still write", left.leader);
    }
}

fn check_acquire(o: &Observed, decision: &Decision) {
    let Some(Act::Acquire(winner)) = &decision.act else { return };
    let cluster = dcs(o).expect("the DCS is known");
    assert!(!foreign(o, cluster) && o.job.is_none());
    check_failsafe(o, cluster);
    if cluster.leader.as_ref() == Some(&o.me.name) {
        assert_eq!(winner.over(), None);
        return;
    }
    assert_eq!(winner.over(), cluster.leader.as_ref(), "the key that is replaced");
    if let Some(leader) = &cluster.leader {
        check_lost(o, cluster, leader);
    }
    if found(o, cluster) && writes(&o.postgres) {
        assert!(o.me.may_bootstrap && datacenter_may_write(o, cluster), "taken over");
        check_silent(o, cluster);
        return;
    }
    check_maintenance(o, cluster);
    if own_mark(o, cluster) {
        return;
    }
    assert!(writes(&o.postgres) || !o.me.nofailover);
    let sync = &cluster.sync.value;
    let named = sync.leader.iter().chain(&sync.sync_standby).any(|n| *n == o.me.name);
    assert!(sync.leader.is_none() || named, "not synchronous");
    if let Some(beat) = &cluster.position
        && beat.leader != o.me.name
        && !beat.released
    {
        let seen = o.observer.beat_seen_at.unwrap_or(o.started_at);
        assert!(o.now.since(seen) >= Duration::from_millis(beat.ttl_ms), "the beat is young");
    }
    let Some(running) = running(o) else {
        assert_eq!(o.postgres, Postgres::NoData);
        assert!(cluster.initialize.as_deref().unwrap_or_default().is_empty());
        return;
    };
    check_race(o, cluster, running);
}

/// Nobody takes the place of a leader that may go on without the DCS.
fn check_failsafe(o: &Observed, cluster: &Cluster) {
    let promised = o.failsafe.promise.as_ref().is_some_and(|p| p.until > o.now);
    assert!(!promised, "a promise is broken");
    let Some(beat) = cluster.position.as_ref().filter(|b| !b.released && b.leader != o.me.name)
    else {
        return;
    };
    let Some(terms) = &beat.failsafe else { return };
    assert!(terms.members.contains(&o.me.name), "the leader would not ask this node");
    if terms.majority {
        let votes = o.failsafe.votes.as_ref();
        let votes = votes.filter(|votes| votes.beat == cluster.position_revision);
        let given = votes.map_or(0, |v| v.granted.intersection(&terms.members).count());
        let own = votes.is_some_and(|v| v.granted.contains(&o.me.name));
        assert!((given + 1 - usize::from(own)) * 2 > terms.members.len(), "no majority");
    }
}

/// Another leader's key is replaced only where that is allowed, and after its right has ended. That
/// the beat is old enough is looked at with every acquisition.
fn check_lost(o: &Observed, cluster: &Cluster, leader: &MemberName) {
    let config = &cluster.config;
    assert!(config.primary_lost_timeout.is_some() && !config.pause, "not allowed");
    assert_eq!(config.failsafe, node_agent_wire::dynamic::FailsafeMode::Off);
    let beat = cluster.position.as_ref().expect("a beat says when it ends");
    assert_eq!(beat.leader, *leader);
    let goes_on = beat.released || beat.unattended || beat.failsafe.is_some();
    assert!(!goes_on && o.now > o.started_at, "it may lead on without a beat");
    assert!(running(o).is_some_and(|r| r.in_recovery));
}

/// Nobody else is a primary.
fn check_silent(o: &Observed, cluster: &Cluster) {
    if cluster.members.keys().all(|name| *name == o.me.name) {
        return;
    }
    for answer in o.poll.iter().flat_map(|poll| poll.answers.values()) {
        assert!(!matches!(answer, PeerAnswer::Answered(standing) if !standing.in_recovery));
    }
}

/// The others have been asked: none of those that count knows better, and there are the votes.
fn check_race(o: &Observed, cluster: &Cluster, running: &Running) {
    let sync = &cluster.sync.value;
    let others = cluster.members.keys().chain(o.members_seen.keys()).any(|n| *n != o.me.name);
    let mut votes = 0;
    if others {
        let poll = o.poll.as_ref().expect("somebody was asked");
        assert!(o.now.since(poll.asked_at) <= Duration::from_secs(3));
        let by_name = cluster.failover.value.member.as_ref() == Some(&o.me.name);
        for (name, answer) in &poll.answers {
            let PeerAnswer::Answered(standing) = answer else { continue };
            assert!(standing.in_recovery, "{name} still writes");
            assert!(standing.sees_primary.as_ref().is_none_or(|p| *p == o.me.name), "it lives");
            let known = cluster.members.contains_key(name) || o.members_seen.contains_key(name);
            let may_lead = !standing.nofailover && !standing.watchdog_failed;
            let listed = sync.sync_standby.contains(name);
            let theirs = (standing.timeline.unwrap_or(running.timeline), standing.lsn);
            let own = (running.timeline, running.lsn);
            if *name != o.me.name && known && may_lead && (sync.leader.is_none() || listed) {
                assert!(by_name || theirs <= own || sync.leader.as_ref() == Some(name), "{name}");
            }
            if *name != o.me.name && listed && theirs <= own && standing.timeline.is_some() {
                votes += u32::from(standing.whole);
            }
        }
    }
    if sync.leader.as_ref().is_some_and(|l| *l != o.me.name) {
        assert!(votes >= sync.quorum, "{votes} of {} votes", sync.quorum);
    }
    let Some(ours) = record(cluster) else { return };
    let planned = ours.operation.as_ref().is_some_and(|o| o.kind == OperationKind::Switchover);
    let unanswered = ours.fence.as_ref().is_some_and(|f| f.ack.is_none());
    if planned && unanswered && ours.primary == ours.dc && sync.leader.is_none() {
        let last = cluster.position.as_ref().map(|p| &p.leader);
        assert!(last.is_none_or(|l| *l == o.me.name), "another node knows where WAL ended");
    }
}

fn check_record_writes(o: &Observed, decision: &Decision) {
    let Some(Act::AcknowledgeFence(ack)) = &decision.act else { return };
    let cluster = dcs(o).unwrap();
    let ours = record(cluster).unwrap();
    assert!(leads(o, cluster) && !writes(&o.postgres));
    assert!(ours.fence.as_ref().is_some_and(|f| f.ack.is_none()));
    assert_eq!(ack.node, o.me.name);
    let Postgres::Stopped(control) = &o.postgres else {
        let running = running(o).expect("it has stopped, or it replays");
        assert!(running.in_recovery);
        assert_eq!(ack.checkpoint.0 + 1, running.replay_lsn.unwrap().0);
        assert_eq!(running.replay_lsn.unwrap(), running.lsn, "there is more to replay");
        let published = cluster.status.optime.max(cluster.position.as_ref().and_then(|p| p.lsn));
        assert!(ours.primary != ours.dc || running.replay_lsn >= published);
        return;
    };
    assert_eq!(control.state, ControlState::ShutDown);
    assert_eq!((ack.checkpoint, ack.timeline), (control.checkpoint, control.timeline));
}

/// A record is only replaced by a rightful successor, by the leader, and never before writes end.
fn check_replacement(o: &Observed, decision: &Decision) {
    for tend in &decision.tend {
        let Tend::ReplaceRecord { record: next, over } = tend else { continue };
        let cluster = dcs(o).unwrap();
        let RecordView::Present(keyed) = &cluster.record else { panic!("there is no record") };
        assert_eq!(*over, keyed.revision);
        assert_eq!(keyed.value.check_successor(next), Ok(()));
        assert!(next.epoch >= keyed.value.epoch && **next != keyed.value);
        assert!(leads(o, cluster));
        assert!(!writes(&o.postgres) || matches!(decision.act, Some(Act::Demote { .. })));
        let fenced = next.fence.is_some() && keyed.value.fence.is_none();
        let ends = keyed.value.names_us() && next.primary != next.dc;
        assert!(fenced || !ends, "the old claim is not fenced");
        assert!(next.primary != next.dc || keyed.value.names_us(), "an agent claims the epoch");
    }
}

/// The last answer of a source.
fn source_of<'a>(o: &'a Observed, upstream: &Upstream) -> Option<&'a SourceHistory> {
    let stands_for = |asked: &Upstream| match (asked, upstream) {
        (Upstream::Archive { of: Some(peer) }, Upstream::Member { name, .. }) => peer.name == *name,
        _ => asked == upstream,
    };
    o.source.iter().chain(&o.other_source).find(|s| stands_for(&s.upstream))
}

/// Nothing follows a source, or is rewound to it, whose history was not compared.
fn check_following(o: &Observed, decision: &Decision) {
    let verdict = |upstream: &Upstream| divergence::verdict(o, source_of(o, upstream)?);
    for tend in &decision.tend {
        if let Tend::StartStandby(to) | Tend::Follow(to) = tend
            && *to != Upstream::Nobody
            && *to != (Upstream::Archive { of: None })
        {
            assert_eq!(verdict(to), Some(Verdict::InHistory), "follows unchecked");
        }
        if let Tend::StartStandby(_) = tend {
            assert!(matches!(o.postgres, Postgres::Stopped(_)));
            assert!(rested(o), "started without a pause");
        }
        if let Tend::Follow(_) = tend {
            assert!(!writes(&o.postgres), "a primary does not follow");
        }
    }
    match &decision.act {
        Some(Act::Rewind { source, to, timeline, fork }) => {
            check_rewind_to(o, source, to);
            let expected = Verdict::Diverged { timeline: *timeline, fork: *fork };
            assert_eq!(verdict(source), Some(expected));
            assert!(!writes(&o.postgres) && o.config.use_pg_rewind);
            let theirs = source_of(o, source).and_then(|s| Some(s.answer.as_ref().ok()?.timeline));
            let own = o.own_history.as_ref().map(|own| own.timeline);
            assert_ne!(theirs, own, "pg_rewind would do nothing");
        }
        Some(Act::Clone(from)) => {
            assert_eq!(o.postgres, Postgres::NoData);
            assert_ne!(*from, Upstream::Nobody);
        }
        Some(Act::CloneLeaderless) => {
            let leader = dcs(o).and_then(|cluster| cluster.leader.as_ref());
            assert!(leader.is_none() && o.directory.leaderless_copy);
            assert_eq!(o.postgres, Postgres::NoData);
        }
        Some(Act::StartPrimary(_)) => assert!(rested(o), "started without a pause"),
        Some(Act::Reinit(reinit)) => check_reinit(o, reinit, verdict(&reinit.source)),
        Some(Act::Leave) => {
            assert!(found(o, dcs(o).unwrap()) && o.job.is_none());
            assert!(o.lease.held_until.is_none_or(|until| until <= o.now));
        }
        _ => {}
    }
}

/// The pause after the last end of a server that had not come up is over.
fn rested(o: &Observed) -> bool {
    const SECONDS: [u64; 6] = [0, 1, 2, 4, 8, 16];
    o.health.early_end.as_ref().is_none_or(|end| {
        let pause = SECONDS.get(end.count as usize).unwrap_or(&30);
        o.now.since(end.at) >= Duration::from_secs(*pause)
    })
}

/// A directory is only given up for a copy of another leader, and what it alone has is named.
fn check_reinit(o: &Observed, reinit: &Reinit, verdict: Option<Verdict>) {
    let cluster = dcs(o).expect("the DCS is known");
    let leader = cluster.leader.as_ref().expect("there is a leader");
    let rejoins = record(cluster).is_some_and(|r| {
        let rejoin = |o: &Operation| o.kind == OperationKind::Rejoin && o.to == r.dc;
        r.operation.as_ref().is_some_and(rejoin)
    });
    assert!(!writes(&o.postgres));
    match &reinit.source {
        Upstream::Remote { .. } => assert!(rejoins && leads(o, cluster), "given up by nobody"),
        Upstream::Member { name, .. } => {
            assert!(*leader != o.me.name && !leads(o, cluster) && name == leader);
        }
        other @ (Upstream::Archive { .. } | Upstream::Nobody) => panic!("a copy of {other:?}"),
    }
    match verdict {
        Some(
            Verdict::Diverged { timeline, fork }
            | Verdict::BegunTwice { parent: timeline, fork, .. },
        ) => {
            assert_eq!(reinit.diverged, Some((timeline, fork)), "nothing is lost silently");
        }
        Some(Verdict::InHistory | Verdict::CanNotTell | Verdict::Unproven { .. }) | None => {
            assert_eq!(reinit.diverged, None);
        }
    }
    if reinit.asked {
        assert!(matches!(o.request, Some(Request::Reinit { .. })));
        return;
    }
    let config = &o.config;
    assert!(
        config.remove_data_directory_on_rewind_failure
            || config.remove_data_directory_on_diverged_timelines
            || rejoins
    );
    let interrupted =
        matches!(o.postgres, Postgres::Unreadable(_)) && o.directory.rewind_interrupted;
    assert!(interrupted || reinit.diverged.is_some() || (rejoins && starved(o)));
    assert!(!config.pause);
}

/// What belongs to the leader is written by the leader only.
fn check_leaders_writes(o: &Observed, decision: &Decision) {
    for tend in &decision.tend {
        if let Tend::WriteSync { .. }
        | Tend::DeleteSync(_)
        | Tend::SetSyncNames(_)
        | Tend::ClearFailover { .. }
        | Tend::PublishLeader = tend
        {
            assert!(dcs(o).is_some_and(|cluster| leads(o, cluster)), "{tend:?}");
        }
        if let Tend::WriteSync { over, sync } = tend {
            assert_eq!(*over, dcs(o).unwrap().sync.revision);
            assert_eq!(sync.leader.as_ref(), Some(&o.me.name));
        }
    }
    match &decision.act {
        Some(Act::Release) => {
            assert!(matches!(o.lease.held_until, Some(until) if until > o.now));
        }
        Some(Act::Restart) => {
            let unguarded = o.directory.unguarded && !o.config.pause;
            assert!((o.request == Some(Request::Restart) || unguarded) && running(o).is_some());
        }
        _ => {}
    }
}

fn check(o: &Observed) {
    let decision = decide(o);
    assert_eq!(decision, decide(o), "not deterministic");
    assert!(decision.wake.after <= o.config.timing.loop_wait, "sleeps too long");
    assert!(!decision.why.is_empty() && !decision.why.contains('\n'));
    check_becoming_primary(o, &decision);
    check_stopping(o, &decision);
    check_acquire(o, &decision);
    check_record_writes(o, &decision);
    check_following(o, &decision);
    check_replacement(o, &decision);
    check_slots(o, &decision);
    check_leaders_writes(o, &decision);
    check_watchdog(o, &decision);
    check_release(o, &decision);
}

proptest! {
    #![proptest_config(ProptestConfig {
        // PROPTEST_CASES asks for more.
        cases: ProptestConfig::default().cases.max(4_000),
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn every_decision_keeps_the_rules(o in pressed()) {
        check(&o);
    }
}

/// The properties would hold of a function that never acts: the facts lead to every act.
#[test]
fn the_facts_lead_to_every_act() {
    let mut runner = TestRunner::deterministic();
    let facts = pressed();
    let mut seen: BTreeMap<&str, u32> = BTreeMap::new();
    for _ in 0..10_000 {
        let o = facts.new_tree(&mut runner).expect("facts").current();
        let decision = decide(&o);
        if decision.tend.iter().any(|t| matches!(t, Tend::ReplaceRecord { .. })) {
            *seen.entry("replace record").or_default() += 1;
        }
        let name = match decision.act {
            None => "none",
            Some(Act::Acquire(_)) => "acquire",
            Some(Act::Release) => "release",
            Some(Act::Promote(_)) => "promote",
            Some(Act::StartPrimary(_)) => "start primary",
            Some(Act::Demote { .. }) => "demote",
            Some(Act::Initdb(_)) => "initdb",
            Some(Act::Clone(_)) => "clone",
            Some(Act::Rewind { .. }) => "rewind",
            Some(Act::AcknowledgeFence(_)) => "acknowledge",
            Some(Act::Restart) => "restart",
            Some(Act::Reinit(_)) => "reinit",
            Some(Act::CloneLeaderless) => "clone without a leader",
            Some(Act::Leave) => "leave",
        };
        *seen.entry(name).or_default() += 1;
    }
    assert_eq!(seen.len(), 15, "{seen:?}");
}
