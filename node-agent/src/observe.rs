//! Gathers the facts of one pass.

use crate::apply::SlotDesk;
use crate::checkup::Checkup;
use crate::clock;
use crate::dcs::{RawCluster, cluster};
use crate::failsafe::Desk;
use crate::grants::GrantKeeper;
use crate::keeper::Keeper;
use crate::link::Links;
use crate::past::{Begun, HistoryKey, beginnings, own_history};
use crate::plans::Planned;
use crate::postgres::{Server, method};
use crate::stall_watch::StallBoard;
use node_agent_core::beginning::Beginnings;
use node_agent_core::directory::{Directory, Progress, WalEnd};
use node_agent_core::divergence::SourceHistory;
use node_agent_core::guest;
use node_agent_core::observed::{
    Cluster, Job, Lease, Me, Observed, Observer, Poll, RecordView, Request,
};
use node_agent_core::postgres::Postgres;
use node_agent_core::sick::Health;
use node_agent_core::slots::SlotMemory;
use node_agent_core::slots::logical::feedback_slot;
use node_agent_core::starts::{Starts, last_words};
use node_agent_core::time::{Boot, Fact};
use node_agent_wire::config::LocalConfig;
use node_agent_wire::dynamic::Dynamic;
use node_agent_wire::federation::FederationRecord;
use node_agent_wire::history::TimelineHistory;
use node_agent_wire::keys::{ClusterPath, Leaf};
use node_agent_wire::member::Member;
use node_agent_wire::{DcName, Lsn, MemberName, Revision, SlotName};
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Whether a guard listens.
const GUARD_DEADLINE: Duration = Duration::from_secs(1);

/// The last beat that this node has seen, by the revision of its key, and when; written by the
/// watch and by the loop's own reads.
#[derive(Default)]
pub struct Beats(Mutex<Option<(Revision, Boot)>>);

impl Beats {
    /// A beat was seen at this moment. Only the first sight of a beat counts: seeing it later than
    /// it was made is safe. Any other revision is another beat; the number in it would not do, for
    /// an agent that restarts counts anew.
    pub fn saw(&self, beat: Revision, now: Boot) {
        let mut latest = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if latest.is_none_or(|(known, _)| known != beat) {
            *latest = Some((beat, now));
        }
    }

    fn seen_at(&self) -> Option<Boot> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).map(|(_, at)| at)
    }
}

/// What the loop remembers between two passes.
pub struct Memory {
    /// When the agent started.
    pub started_at: Boot,
    /// This node.
    pub me: Me,
    /// The last good configuration.
    pub config: Dynamic,
    /// The keys of the last read.
    pub raw: Arc<RawCluster>,
    /// The last leader whose key was seen.
    pub last_leader: Option<MemberName>,
    /// The federation record as it was last read.
    pub last_record: Option<FederationRecord>,
    /// The last round of asking.
    pub poll: Option<Poll>,
    /// When the DCS was last not readable from.
    pub unknown_since: Boot,
    /// A read was tried.
    pub tried: bool,
    /// Members as they were last seen, and when: those that lost their key are still asked in an
    /// election.
    pub members: BTreeMap<MemberName, (Member, Boot)>,
    /// `synchronous_standby_names` as this agent set them, and when.
    pub sync_names: Option<(String, Boot)>,
    /// Starts that failed in a row.
    pub start_failures: u32,
    /// Ends of PostgreSQL before it came up.
    pub starts: Starts,
    /// What the last start failed with.
    pub start_error: Option<String>,
    /// PostgreSQL was stopped by this agent, to start it in another role.
    pub stopped_by_us: bool,
    /// Stand back until then.
    pub stand_back_until: Option<Boot>,
    /// End of WAL when the synchronous names changed.
    pub sync_names_set_at: Option<Lsn>,
    /// A write of `/sync` may still arrive.
    pub sync_unsure: bool,
    /// The request to wait for a guest, and when it was first seen.
    pub guest: Option<(guest::Request, Boot)>,
    /// Standbys that sessions wait for in vain.
    pub stalls: Arc<StallBoard>,
    /// An operator's request.
    pub request: Option<Request>,
    /// How long the requested restart may take.
    pub restart_timeout: Option<Duration>,
    /// The dynamic configuration as last read; from the copy in the data directory at first.
    pub dynamic: Option<serde_json::Map<String, serde_json::Value>>,
    /// What that copy holds.
    pub dynamic_cached: Option<serde_json::Map<String, serde_json::Value>>,
    /// Since when the leader is asked to leave this node out of `/sync`.
    pub release_asked_at: Option<Boot>,
    /// The agent was told to stop.
    pub ending: bool,
    /// A restart that is planned for later.
    pub planned: Option<Planned>,
    /// What is remembered of slots.
    pub slots: SlotMemory,
    /// The local history, and for what it was read.
    pub own_history: Option<(HistoryKey, TimelineHistory)>,
    /// How the timelines of that history begin.
    pub beginnings: Option<Begun>,
    /// Why the last rewind or copy failed.
    pub work_failed: Option<String>,
    /// When vaults were last looked at.
    pub vaults_swept_at: Option<Boot>,
    /// Grows when the data directory gets another past under the same numbers.
    pub data_generation: u64,
    /// PostgreSQL ran already when the agent started, and no cluster has been seen since.
    pub found_running: bool,
    /// When the DCS last answered, seconds since the Unix epoch.
    pub dcs_last_seen_s: i64,
    /// WAL positions of the last minute.
    pub wal: WalRate,
}

/// The growth of WAL over the last minute.
#[derive(Default)]
pub struct WalRate(VecDeque<(Boot, Lsn)>);

impl WalRate {
    /// Takes a sample; samples closer than a second are passed over: the jump of a switched segment
    /// is no rate.
    pub fn sample(&mut self, now: Boot, lsn: Lsn) {
        let spaced = self.0.back().is_none_or(|(at, _)| now.since(*at).as_millis() >= 950);
        if spaced {
            self.0.push_back((now, lsn));
        }
        while self.0.front().is_some_and(|(at, _)| now.since(*at) > Duration::from_secs(60)) {
            self.0.pop_front();
        }
    }

    /// The highest rate between two neighbouring samples, bytes a second.
    #[must_use]
    pub fn max(&self) -> u64 {
        self.0
            .iter()
            .zip(self.0.iter().skip(1))
            .map(|((t0, a), (t1, b))| {
                let millis = u64::try_from(t1.since(*t0).as_millis()).unwrap_or(u64::MAX).max(1);
                written(*a, *b).saturating_mul(1000) / millis
            })
            .max()
            .unwrap_or(0)
    }
}

/// What was written between two positions. A switched segment is filled up without being written:
/// where the end has just passed the beginning of a segment, only what is beyond that counts.
fn written(from: Lsn, to: Lsn) -> u64 {
    const SEGMENT: u64 = 16 * 1024 * 1024;
    const JUST_PASSED: u64 = 1024 * 1024;
    let into_segment = to.0 % SEGMENT;
    let crossed = from.0 / SEGMENT != to.0 / SEGMENT;
    if crossed && into_segment < JUST_PASSED { into_segment } else { to.bytes_since(from) }
}

/// Where facts come from.
pub struct Sources<'a> {
    /// PostgreSQL.
    pub server: &'a Arc<Server>,
    /// How it is.
    pub checkup: &'a Checkup,
    /// The lease.
    pub keeper: &'a Keeper,
    /// The site grants.
    pub grants: &'a GrantKeeper,
    /// The beats.
    pub beats: &'a Beats,
    /// The other datacenters.
    pub links: &'a mut Links,
    /// The keys' names.
    pub path: &'a ClusterPath,
    /// The promises of failsafe mode.
    pub failsafe: &'a Desk,
    /// Histories that were asked for, the newer first.
    pub source: (Option<SourceHistory>, Option<SourceHistory>),
    /// Slots that the leader was asked for.
    pub slots: &'a SlotDesk,
    /// The job under way.
    pub job: Option<Job>,
    /// The end of the local WAL, where it was read.
    pub wal_end: Option<WalEnd>,
    /// The last pg_rewind failed while its source was well.
    pub rewind_failed: bool,
    /// How far the copy under way is.
    pub progress: Option<Progress>,
    /// The local configuration.
    pub local: &'a LocalConfig,
}

/// The facts of one pass, from the cluster's keys and when these were current.
pub async fn observe(
    memory: &mut Memory,
    sources: Sources<'_>,
    read: Result<(RawCluster, Boot), crate::dcs::DcsError>,
) -> Observed {
    let cluster = take_read(memory, &sources, read);
    let record = cluster.known().and_then(|c| c.record.get());
    if cluster.known().is_some() {
        // Without the own DCS the other datacenters are watched as before (I7).
        sources.links.align(record, memory.config.timing.loop_wait);
        memory.last_record = record.cloned();
        note_guest(&mut memory.guest, record);
    }
    let query_deadline = memory.config.timing.retry_timeout.min(Duration::from_secs(2));
    let postgres = sources.server.observe(clock::boot(), query_deadline).await;
    let own_history = own_history(memory, sources.server, &postgres).await;
    let beginnings = beginnings(memory, sources.server, &postgres).await;
    if let Postgres::Running(running) = &postgres {
        memory.wal.sample(clock::boot(), running.lsn);
        memory.start_failures = 0;
        memory.stopped_by_us = false;
    }
    note_end(memory, &sources, &postgres);
    let health = Health {
        early_end: memory.starts.early_end(),
        ..sources.checkup.look(sources.server, &postgres, &memory.config)
    };
    let directory = Directory { beginnings, ..directory(memory, &sources, &postgres).await };
    let peers: BTreeMap<DcName, _> = sources.links.records();
    learn_slots(memory, sources.slots, cluster.known(), &postgres);
    let (source, other_source) = sources.source;
    let set_at = memory.sync_names_set_at.filter(|_| match (&postgres, &memory.sync_names) {
        // Somebody else may have set other names meanwhile.
        (Postgres::Running(running), Some((names, _))) => *names == running.sync_names,
        (_, None)
        | (
            Postgres::NoData
            | Postgres::Unreadable(_)
            | Postgres::Stopped(_)
            | Postgres::Starting { .. }
            | Postgres::Unresponsive { .. },
            Some(_),
        ) => false,
    });
    Observed {
        now: clock::boot(),
        wall_us: clock::wall_us(),
        started_at: memory.started_at,
        me: memory.me.clone(),
        cluster,
        config: memory.config.clone(),
        lease: Lease { held_until: sources.keeper.held_until(), kept: sources.keeper.kept() },
        observer: Observer {
            beat_seen_at: sources.beats.seen_at(),
            last_leader: memory.last_leader.clone(),
        },
        failsafe: sources.failsafe.facts(sources.keeper.round()),
        watchdog_failed: sources.keeper.watchdog().failure(),
        health,
        last_record: memory.last_record.clone(),
        directory,
        following: sources.server.following(),
        postgres,
        own_history,
        source,
        other_source,
        poll: memory.poll.clone(),
        members_seen: memory.members.iter().map(|(n, (_, at))| (n.clone(), *at)).collect(),
        peers,
        abroad: sources.links.abroad(),
        grants: sources.grants.facts(),
        job: sources.job,
        start_failures: memory.start_failures,
        stopped_by_us: memory.stopped_by_us,
        stand_back_until: memory.stand_back_until,
        sync_names_ours: sources.server.owns_sync_names(),
        sync_names_set_at: set_at,
        sync_unsure: memory.sync_unsure,
        guest_asked_at: memory.guest.as_ref().map(|(_, at)| *at),
        sync_lost: memory.stalls.lost(),
        request: memory.request,
        scheduled_restart: memory.planned.as_ref().map(|planned| planned.restart.clone()),
        release_asked_at: memory.release_asked_at,
        ending: memory.ending,
        slots: memory.slots.clone(),
    }
}

/// Whether PostgreSQL has ended before it came up, and why.
fn note_end(memory: &mut Memory, sources: &Sources<'_>, postgres: &Postgres) {
    if !memory.starts.saw(clock::boot(), sources.job.is_some(), postgres) {
        return;
    }
    memory.start_failures = memory.start_failures.max(1);
    let log = sources.server.log_of_last_start();
    // What kept it from being started at all is not in its log.
    let failed = memory.start_error.take().filter(|_| log.is_empty());
    memory.starts.because(failed.unwrap_or_else(|| last_words(&log)));
    tracing::warn!(log, "PostgreSQL has ended before it came up");
}

/// What is known of the data directory beside what PostgreSQL says.
async fn directory(memory: &mut Memory, sources: &Sources<'_>, postgres: &Postgres) -> Directory {
    let runs = match postgres {
        Postgres::Running(_) => true,
        Postgres::Starting { .. } | Postgres::Unresponsive { .. } => false,
        // Whatever runs from here on was started by this agent.
        Postgres::NoData | Postgres::Unreadable(_) | Postgres::Stopped(_) => {
            memory.found_running = false;
            false
        }
    };
    if memory.raw.keys.get(&sources.path.key(Leaf::Initialize)).is_some_and(|k| !k.value.is_empty())
    {
        // The cluster is there: whoever runs beside it is its member.
        memory.found_running = false;
    }
    Directory {
        rewind_interrupted: sources.server.rewind_interrupted(),
        rewind_failed: sources.rewind_failed,
        wal_end: sources.wal_end.clone(),
        found_running: memory.found_running,
        unguarded: runs && sources.server.unguarded(GUARD_DEADLINE).await,
        leaderless_copy: method::leaderless_copy(sources.local, &memory.config),
        rewinds_to_primary_only: sources.server.rewinds_to_primary_only().await,
        progress: sources.progress,
        work_failed: memory.work_failed.clone(),
        beginnings: Beginnings::new(),
    }
}

fn take_read(
    memory: &mut Memory,
    sources: &Sources<'_>,
    read: Result<(RawCluster, Boot), crate::dcs::DcsError>,
) -> Fact<Cluster> {
    let (raw, read_at) = match read {
        Ok(read) => read,
        Err(error) => {
            let read_at = clock::boot();
            if memory.tried && memory.unknown_since == Boot(u64::MAX) {
                tracing::warn!(%error, "the DCS can't be read");
                memory.unknown_since = read_at;
            }
            memory.tried = true;
            return Fact::Unknown { since: memory.unknown_since.min(read_at), tried: true };
        }
    };
    memory.tried = true;
    memory.unknown_since = Boot(u64::MAX);
    memory.dcs_last_seen_s = clock::wall_us() / 1_000_000;
    let view = cluster::read(sources.path, &raw, &memory.config);
    if let Some(object) = cluster::config_object(sources.path, &raw) {
        memory.dynamic = Some(object);
    }
    memory.raw = Arc::new(raw);
    if memory.config != view.config {
        for warning in &view.config.warnings {
            tracing::warn!(warning, "dynamic configuration");
        }
        sources.keeper.configure(&view.config);
        memory.config = view.config.clone();
    }
    if let Some(beat) = memory.raw.keys.get(&sources.path.key(Leaf::Position)) {
        sources.beats.saw(beat.revision, clock::boot());
    }
    if let Some(leader) = &view.leader {
        memory.last_leader = Some(leader.clone());
    }
    for (name, member) in &view.members {
        memory.members.insert(name.clone(), (member.clone(), read_at));
    }
    note_slots(&mut memory.slots, &view, read_at);
    Fact::Known { value: view, at: read_at }
}

/// When a request was first seen: its time begins there.
fn note_guest(known: &mut Option<(guest::Request, Boot)>, record: Option<&FederationRecord>) {
    let request = record.and_then(guest::request);
    if known.as_ref().map(|(known, _)| known) != request.as_ref() {
        *known = request.map(|request| (request, clock::boot()));
    }
}

/// When which member's slot was last needed.
fn note_slots(slots: &mut SlotMemory, view: &Cluster, now: Boot) {
    for member in view.members.values().filter(|m| !m.nostream()) {
        slots.seen.insert(SlotName::from_name(member.name.as_str()), now);
    }
    for name in &view.status.retain_slots {
        slots.seen.entry(name.clone()).or_insert(now);
    }
    let ttl = view.config.member_slots_ttl;
    slots.seen.retain(|name, at| now.since(*at) <= ttl || view.status.retain_slots.contains(name));
}

/// Takes what the leader has answered since the last pass.
fn learn_slots(
    memory: &mut Memory,
    desk: &SlotDesk,
    cluster: Option<&Cluster>,
    postgres: &Postgres,
) {
    let (Some(answer), Some(cluster)) = (desk.take_answer(), cluster) else { return };
    if let Postgres::Running(running) = postgres {
        let direct = feedback_slot(cluster, &memory.me.name);
        memory.slots.learn(answer, &direct, &running.slots);
    }
}

/// The record, when it is readable.
#[must_use]
pub fn record_of(observed: &Observed) -> Option<&node_agent_wire::federation::FederationRecord> {
    observed.cluster.known().map(|c| &c.record).and_then(RecordView::get)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_highest_rate_of_the_last_minute_counts() {
        let mut wal = WalRate::default();
        let at = |s: u64| Boot(s * 1_000_000_000);
        for (second, lsn) in [(0, 0), (1, 1000), (2, 9000), (3, 9100)] {
            wal.sample(at(second), Lsn(lsn));
        }
        assert_eq!(wal.max(), 8000);
        // A switch of the segment is not written WAL.
        wal.sample(at(4), Lsn(16 * 1024 * 1024 + 40));
        assert_eq!(wal.max(), 8000);
        wal.sample(at(64), Lsn(16 * 1024 * 1024 + 140));
        assert!(wal.max() < 100, "{}", wal.max());
    }

    #[test]
    fn only_the_first_sight_of_a_beat_counts() {
        let beats = Beats::default();
        beats.saw(Revision(3), Boot(10));
        beats.saw(Revision(3), Boot(20));
        assert_eq!(beats.seen_at(), Some(Boot(10)));
        beats.saw(Revision(4), Boot(40));
        assert_eq!(beats.seen_at(), Some(Boot(40)));
    }
}
