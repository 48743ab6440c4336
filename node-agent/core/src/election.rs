//! There is no leader: may this node take the key?

use crate::decision::{Act, Decision, Tend};
use crate::handover;
use crate::lost;
use crate::observed::{Cluster, Observed, PeerAnswer, Poll};
use crate::pause::left_running;
use crate::postgres::{Postgres, Running};
use crate::right::RightToWrite;
use crate::rule::Rule;
use crate::schedule;
use crate::standing;
use crate::watchdog;
use node_agent_wire::federation::OperationKind;
use node_agent_wire::{Lsn, MemberName};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Proof that this node may try to take the leader key. Only this module makes it.
#[derive(Debug, PartialEq, Eq)]
pub struct Winner {
    why: &'static str,
    over: Option<MemberName>,
}

impl Winner {
    /// Why the key may be taken, for the log.
    #[must_use]
    pub fn why(&self) -> &'static str {
        self.why
    }

    /// The leader that is lost, and whose key may be replaced; nobody's when absent.
    #[must_use]
    pub fn over(&self) -> Option<&MemberName> {
        self.over.as_ref()
    }

    /// The key still names this leader, which is lost ([`crate::lost`]).
    pub(crate) fn in_place_of(self, lost: MemberName) -> Self {
        Self { over: Some(lost), ..self }
    }

    fn new(why: &'static str) -> Self {
        Self { why, over: None }
    }
}

/// Between two rounds of asking.
const POLL_PAUSE: Duration = Duration::from_millis(200);

/// Takes part in the race, or says why not. PostgreSQL runs as a standby.
#[must_use]
pub fn race(observed: &Observed, cluster: &Cluster, running: &Running) -> Decision {
    if let Some(barred) = watchdog::bars(observed) {
        return barred;
    }
    if let Some(mut wait) = observer_wait(observed, cluster) {
        let left = wait.wake.after;
        lost::ahead(observed, &mut wait, left);
        return wait;
    }
    if let Some(wait) = left_running(observed, cluster) {
        return wait;
    }
    if let Some(wait) = stand_back(observed, cluster) {
        return wait;
    }
    let poll = match ask(observed, cluster) {
        Answers::Nobody => {
            return match standing::votes_missing(observed, cluster, running, &BTreeMap::new()) {
                Some(why) => await_votes(why),
                None => acquire("no other member may have newer data"),
            };
        }
        Answers::Asking(wait) => return wait,
        Answers::Known(poll) => poll,
    };
    let asked = ask_whom(observed, cluster);
    if let Some(why) = standing::live_primary(&observed.me.name, &poll.answers) {
        let wait = Decision::wait(Rule::PrimaryAlive, why, POLL_PAUSE, "the primary to stop");
        return wait.tend(Tend::AskPeers);
    }
    let named = schedule::in_force(observed, cluster).and_then(|r| r.member.as_ref());
    let manual = named == Some(&observed.me.name);
    if !manual {
        if let Some(lag) = lag_too_large(cluster, running) {
            return not_eligible(lag);
        }
        if let Some(why) = standing::better(observed, cluster, running, &asked, &poll.answers) {
            return not_eligible(why);
        }
    }
    if let Some(why) = standing::votes_missing(observed, cluster, running, &poll.answers) {
        return await_votes(why);
    }
    acquire(if manual { "named as candidate" } else { "no reachable member is ahead" })
}

/// A new cluster: nobody has data.
#[must_use]
pub fn race_empty(observed: &Observed, cluster: &Cluster) -> Decision {
    let new = cluster.initialize.as_deref().unwrap_or("").is_empty();
    if !new && observed.directory.leaderless_copy {
        return leaderless_copy(observed);
    }
    if !new {
        return Decision::wait(
            Rule::AwaitLeader,
            "no data directory, and no leader to copy",
            observed.config.timing.loop_wait,
            "a leader",
        );
    }
    let standby = cluster.config.standby_cluster.is_some();
    if observed.me.nofailover || !(standby || observed.me.may_bootstrap) {
        return Decision::wait(
            Rule::AwaitLeader,
            "this node does not begin a cluster: waiting for a leader, or for standby_cluster in \
             the configuration (federator setup)",
            observed.config.timing.loop_wait,
            "a leader or standby_cluster",
        );
    }
    if observed.start_failures > 0 {
        return Decision::wait(
            Rule::AwaitLeader,
            "the cluster could not be begun here: see the log, and restart the agent to try again",
            observed.config.timing.loop_wait,
            "an operator, or another member that begins the cluster",
        );
    }
    if !standby && let Err(blocked) = RightToWrite::check(observed) {
        return Decision::wait(
            Rule::AwaitLeader,
            format!("no data directory, and this datacenter must not begin a cluster: {blocked}"),
            observed.config.timing.loop_wait,
            "standby_cluster in the configuration, or the right to write",
        );
    }
    let sync = &cluster.sync.value;
    if sync.active() && !sync.covers(&observed.me.name) {
        return Decision::wait(
            Rule::AwaitLeader,
            "no data directory, and /sync names members that have everything",
            observed.config.timing.loop_wait,
            "a leader",
        );
    }
    if let Some(wait) = observer_wait(observed, cluster) {
        return wait;
    }
    if let Some(wait) = left_running(observed, cluster) {
        return wait;
    }
    if let Some(other) = begun_by_patroni(observed, cluster) {
        return Decision::wait(
            Rule::AwaitLeader,
            format!("{other}, a member of Patroni, has begun the cluster"),
            observed.config.timing.loop_wait,
            "a leader",
        );
    }
    Decision::wait(Rule::AcquireEmpty, "a new cluster", Duration::ZERO, "the leader key")
        .act(Act::Acquire(Winner::new("a new cluster")))
}

/// Patroni creates `initialize` before there is a leader, and an agent of ours never does. As long
/// as its member is there, it is left to finish.
fn begun_by_patroni<'a>(observed: &Observed, cluster: &'a Cluster) -> Option<&'a MemberName> {
    cluster.initialize.as_ref()?;
    let others = cluster.members.values().filter(|m| m.name != observed.me.name);
    others.filter(|m| m.data.why.is_none()).map(|m| &m.name).next()
}

/// There is a cluster and nobody leads it; a backup needs no leader.
fn leaderless_copy(observed: &Observed) -> Decision {
    if let Some(until) = observed.stand_back_until.filter(|until| observed.now < *until) {
        let left = observed.now.until(until);
        return Decision::wait(Rule::AwaitLeader, "the copy failed lately", left, "a retry");
    }
    let why = "no leader to copy: a configured method needs none";
    Decision::wait(Rule::CopyWithoutLeader, why, Duration::ZERO, "the copy")
        .act(Act::CloneLeaderless)
}

/// The key's absence is no proof that its holder has stopped (etcd#15247): wait until this node
/// has seen no beat for the holder's TTL. A clean release, and an agent that does not beat
/// (Patroni), need no wait. Who led before or after by what this node happened to see makes no
/// difference: it may have been cut off while the beat's writer took over.
pub(crate) fn observer_wait(observed: &Observed, cluster: &Cluster) -> Option<Decision> {
    let position = cluster.position.as_ref()?;
    if position.released || position.leader == observed.me.name {
        return None;
    }
    let seen = observed.observer.beat_seen_at.unwrap_or(observed.started_at);
    let over = seen + Duration::from_millis(position.ttl_ms);
    let left = observed.now.until(over);
    (!left.is_zero()).then(|| {
        Decision::wait(
            Rule::ObserverWait,
            format!("{} may still lead: its last beat is younger than its TTL", position.leader),
            left,
            "the last leader's TTL",
        )
    })
}

fn stand_back(observed: &Observed, cluster: &Cluster) -> Option<Decision> {
    let me = &observed.me.name;
    if let Some(until) = observed.stand_back_until.filter(|until| observed.now < *until) {
        let left = observed.now.until(until);
        return Some(Decision::wait(
            Rule::NotEligible,
            "a promotion failed here lately",
            left,
            "the end of the pause",
        ));
    }
    if observed.me.nofailover {
        return Some(not_eligible("tagged nofailover".into()));
    }
    if let Some(wait) = give_way(observed, cluster) {
        return Some(wait);
    }
    if let Some(last) = only_witness(observed, cluster) {
        return Some(not_eligible(format!(
            "fenced for a switchover, and only {last} knows where its WAL ended: start it, or: \
             federator abort"
        )));
    }
    if let Some(why) = handover::lacks(observed, cluster) {
        return Some(not_eligible(why));
    }
    let sync = &cluster.sync.value;
    if sync.active() && !sync.covers(me) {
        return Some(not_eligible(format!(
            "not synchronous: /sync names {} with standby [{}]",
            sync.leader.as_ref().map_or("nobody", |l| l.as_str()),
            join(&sync.sync_standby),
        )));
    }
    if cluster.config.check_timeline
        && let (Some(history), Postgres::Running(running)) = (&cluster.history, &observed.postgres)
        && running.timeline < history.timeline
    {
        return Some(not_eligible(format!(
            "on timeline {}, the cluster is on {}",
            running.timeline, history.timeline
        )));
    }
    None
}

/// A switchover is under way, and this node lets the candidate go first; without a named one, the
/// leader that gave up lets everybody else.
fn give_way(observed: &Observed, cluster: &Cluster) -> Option<Decision> {
    let failover = schedule::in_force(observed, cluster)?;
    let me = &observed.me.name;
    let why = match &failover.member {
        Some(candidate) if candidate != me && may_still_come(observed, cluster, candidate) => {
            format!("{candidate} is the candidate of a switchover")
        }
        None if failover.leader.as_ref() == Some(me)
            && cluster.members.keys().any(|m| m != me && may_still_come(observed, cluster, m)) =>
        {
            "this node gave the leadership up for a switchover".to_owned()
        }
        Some(_) | None => return None,
    };
    let wait = Decision::wait(Rule::AwaitCandidate, why, POLL_PAUSE, "the candidate");
    Some(wait.tend(Tend::AskPeers))
}

/// A candidate has the way as long as its member key is there, it answers when asked, it may lead,
/// and its time is not over.
fn may_still_come(observed: &Observed, cluster: &Cluster, candidate: &MemberName) -> bool {
    let alive = cluster.members.get(candidate).is_some_and(|m| {
        m.data.state == node_agent_wire::member::state::RUNNING && !m.nofailover()
    });
    let out = match fresh_poll(observed).and_then(|poll| poll.answers.get(candidate)) {
        Some(PeerAnswer::Answered(standing)) => standing.nofailover || standing.watchdog_failed,
        Some(PeerAnswer::Silent) => true,
        None => false,
    };
    let since = observed.observer.beat_seen_at.unwrap_or(observed.started_at);
    alive && !out && observed.now.since(since) < observed.config.timing.ttl * 2
}

pub(crate) fn fresh_poll(observed: &Observed) -> Option<&Poll> {
    observed.poll.as_ref().filter(|poll| poll.is_fresh(observed.now))
}

/// While this datacenter is fenced for a planned switchover that is not committed, only the last
/// leader can say where the WAL ended that was acknowledged (I3); in synchronous mode its
/// synchronous standbys can, too. Nothing is lost by waiting: a fenced datacenter accepts no write
/// anyway. A promotion promises no such thing, and takes whoever can answer.
fn only_witness<'a>(observed: &Observed, cluster: &'a Cluster) -> Option<&'a MemberName> {
    let record = cluster.record.get()?;
    let planned = record.operation.as_ref().is_some_and(|o| o.kind == OperationKind::Switchover);
    let awaited = planned && record.fence.as_ref().is_some_and(|fence| fence.ack.is_none());
    let last = &cluster.position.as_ref()?.leader;
    let sync = &cluster.sync.value;
    let knows = *last == observed.me.name || (sync.active() && sync.covers(&observed.me.name));
    (awaited && record.names_us() && !knows).then_some(last)
}

/// Every other member: those of the DCS, and those that were there lately. Whoever of them may not
/// be elected may still know of a primary that lives.
pub(crate) fn ask_whom(observed: &Observed, cluster: &Cluster) -> BTreeSet<MemberName> {
    cluster
        .members
        .keys()
        .chain(observed.members_seen.keys())
        .filter(|name| **name != observed.me.name)
        .cloned()
        .collect()
}

/// What the other members say.
pub(crate) enum Answers<'a> {
    /// There is nobody to ask.
    Nobody,
    /// They must be asked first.
    Asking(Decision),
    /// Their answers are young enough.
    Known(&'a Poll),
}

/// The answers of the members that may be elected.
pub(crate) fn ask<'a>(observed: &'a Observed, cluster: &Cluster) -> Answers<'a> {
    let asked = ask_whom(observed, cluster);
    if asked.is_empty() {
        return Answers::Nobody;
    }
    match fresh_poll(observed) {
        Some(poll) => Answers::Known(poll),
        None => {
            let why = format!("no leader: asking {}", join(&asked));
            let wait = Decision::wait(Rule::AskPeers, why, POLL_PAUSE, "the members' answers");
            Answers::Asking(wait.tend(Tend::AskPeers))
        }
    }
}

fn lag_too_large(cluster: &Cluster, running: &Running) -> Option<String> {
    let last =
        cluster.status.optime.max(cluster.position.as_ref().and_then(|p| p.lsn)).unwrap_or(Lsn(0));
    let lag = last.bytes_since(running.lsn);
    let max = cluster.config.maximum_lag_on_failover;
    (lag > max).then(|| format!("{lag} bytes behind the last leader, more than {max}"))
}

fn acquire(why: &'static str) -> Decision {
    Decision::wait(Rule::Acquire, why, Duration::ZERO, "the leader key")
        .act(Act::Acquire(Winner::new(why)))
}

fn not_eligible(why: String) -> Decision {
    Decision::wait(Rule::NotEligible, why, POLL_PAUSE, "a better member").tend(Tend::AskPeers)
}

fn await_votes(why: String) -> Decision {
    Decision::wait(Rule::AwaitVotes, why, POLL_PAUSE, "votes").tend(Tend::AskPeers)
}

/// Names with commas between.
pub(crate) fn join(names: &BTreeSet<MemberName>) -> String {
    names.iter().map(MemberName::as_str).collect::<Vec<_>>().join(", ")
}

/// There is no cluster yet, and this node's PostgreSQL is the primary that one begins around.
pub(crate) fn taken_over() -> Winner {
    Winner::new("the running primary begins the cluster")
}

/// The leader key names this node already: nobody else can have had it since.
pub(crate) fn own_key() -> Winner {
    Winner::new("the leader key is this node's own")
}
