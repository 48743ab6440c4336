//! There is no leader: may this node take the key?

use crate::decision::{Act, Decision, Tend};
use crate::observed::{Cluster, Observed, PeerAnswer};
use crate::postgres::{Postgres, Running};
use crate::rule::Rule;
use node_agent_wire::{Lsn, MemberName};
use std::collections::BTreeSet;
use std::time::Duration;

/// Proof that this node may try to take the leader key. Only this module makes it.
#[derive(Debug, PartialEq, Eq)]
pub struct Winner {
    why: &'static str,
}

impl Winner {
    /// Why the key may be taken, for the log.
    #[must_use]
    pub fn why(&self) -> &'static str {
        self.why
    }
}

/// How old the members' answers may be when the key is taken.
const POLL_AGE_MAX: Duration = Duration::from_millis(1000);
/// Between two rounds of asking.
const POLL_PAUSE: Duration = Duration::from_millis(200);

/// Takes part in the race, or says why not. PostgreSQL runs as a standby.
#[must_use]
pub fn race(observed: &Observed, cluster: &Cluster, running: &Running) -> Decision {
    if let Some(wait) = observer_wait(observed, cluster) {
        return wait;
    }
    if let Some(wait) = stand_back(observed, cluster) {
        return wait;
    }
    let asked = ask_whom(observed, cluster);
    if asked.is_empty() {
        return acquire("no other member may have newer data");
    }
    let Some(poll) =
        observed.poll.as_ref().filter(|p| observed.now.since(p.asked_at) < POLL_AGE_MAX)
    else {
        return Decision::wait(
            Rule::AskPeers,
            format!("no leader: asking {}", join(&asked)),
            POLL_PAUSE,
            "the members' answers",
        )
        .tend(Tend::AskPeers);
    };
    let manual = cluster.failover.value.member.as_ref() == Some(&observed.me.name);
    if !manual && let Some(lag) = lag_too_large(cluster, running) {
        return not_eligible(lag);
    }
    for name in &asked {
        if let Some(answer) = poll.answers.get(name)
            && let Some(why) = better(name, answer, running, manual)
        {
            return not_eligible(why);
        }
    }
    acquire(if manual { "named as candidate" } else { "no reachable member is ahead" })
}

/// A new cluster: nobody has data.
#[must_use]
pub fn race_empty(observed: &Observed, cluster: &Cluster) -> Decision {
    let new = cluster.initialize.as_deref().unwrap_or("").is_empty();
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
    if let Some(wait) = observer_wait(observed, cluster) {
        return wait;
    }
    Decision::wait(Rule::AcquireEmpty, "a new cluster", Duration::ZERO, "the leader key")
        .act(Act::Acquire(Winner { why: "a new cluster" }))
}

/// The key's absence is no proof that its holder has stopped (etcd#15247): wait until this node
/// has seen no beat for the holder's TTL. A clean release, and an agent that does not beat
/// (Patroni), need no wait.
fn observer_wait(observed: &Observed, cluster: &Cluster) -> Option<Decision> {
    let position = cluster.position.as_ref()?;
    let mine = position.leader == observed.me.name;
    let other_leader =
        observed.observer.last_leader.as_ref().is_some_and(|l| *l != position.leader);
    if position.released || mine || other_leader {
        return None;
    }
    let seen = observed.observer.beat_seen_at.unwrap_or(observed.started_at);
    let over = seen + Duration::from_millis(position.ttl_ms);
    let left = observed.now.until(over);
    (!left.is_zero()).then(|| {
        Decision::wait(
            Rule::ObserverWait,
            format!("{} may lead for another {} ms", position.leader, left.as_millis()),
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
    let failover = &cluster.failover.value;
    if let Some(candidate) = failover.member.as_ref().filter(|c| *c != me) {
        if may_still_come(observed, cluster, candidate) {
            return Some(Decision::wait(
                Rule::AwaitCandidate,
                format!("{candidate} is the candidate of a switchover"),
                POLL_PAUSE,
                "the candidate",
            ));
        }
    } else if failover.leader.as_ref() == Some(me) && failover.member.is_none() {
        return Some(Decision::wait(
            Rule::AwaitCandidate,
            "this node gave the leadership up for a switchover",
            observed.config.timing.loop_wait,
            "another leader",
        ));
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

/// A named candidate has the way as long as its member key is there and it has not refused.
fn may_still_come(observed: &Observed, cluster: &Cluster, candidate: &MemberName) -> bool {
    let alive = cluster.members.get(candidate).is_some_and(|m| {
        m.data.state == node_agent_wire::member::state::RUNNING && !m.tag("nofailover")
    });
    let since = observed.observer.beat_seen_at.unwrap_or(observed.started_at);
    alive && observed.now.since(since) < observed.config.timing.ttl * 2
}

/// Every other member that may be elected: those of the DCS, and those that were there lately. In
/// synchronous mode only those of `/sync` (behaviour §6, row 9).
fn ask_whom(observed: &Observed, cluster: &Cluster) -> BTreeSet<MemberName> {
    let sync = &cluster.sync.value;
    cluster
        .members
        .keys()
        .chain(observed.members_seen.keys())
        .filter(|name| **name != observed.me.name)
        .filter(|name| !sync.active() || sync.covers(name))
        .cloned()
        .collect()
}

fn lag_too_large(cluster: &Cluster, running: &Running) -> Option<String> {
    let last =
        cluster.status.optime.max(cluster.position.as_ref().and_then(|p| p.lsn)).unwrap_or(Lsn(0));
    let lag = last.bytes_since(running.lsn);
    let max = cluster.config.maximum_lag_on_failover;
    (lag > max).then(|| format!("{lag} bytes behind the last leader, more than {max}"))
}

fn better(
    name: &MemberName,
    answer: &PeerAnswer,
    running: &Running,
    manual: bool,
) -> Option<String> {
    match answer {
        PeerAnswer::Answered { in_recovery: false, .. } => {
            Some(format!("{name} still accepts writes"))
        }
        PeerAnswer::Answered { in_recovery: true, lsn, nofailover: false, .. }
            if *lsn > running.lsn && !manual =>
        {
            Some(format!("{name} is {} bytes ahead", lsn.bytes_since(running.lsn)))
        }
        PeerAnswer::Answered { in_recovery: true, .. } | PeerAnswer::Silent => None,
    }
}

fn acquire(why: &'static str) -> Decision {
    Decision::wait(Rule::Acquire, why, Duration::ZERO, "the leader key")
        .act(Act::Acquire(Winner { why }))
}

fn not_eligible(why: String) -> Decision {
    Decision::wait(Rule::NotEligible, why, POLL_PAUSE, "a better member").tend(Tend::AskPeers)
}

/// Names with commas between.
pub(crate) fn join(names: &BTreeSet<MemberName>) -> String {
    names.iter().map(MemberName::as_str).collect::<Vec<_>>().join(", ")
}

/// The leader key names this node already: nobody else can have had it since.
pub(crate) fn own_key() -> Winner {
    Winner { why: "the leader key is this node's own" }
}
