//! Following a source: start, point, verify by history.

use crate::decision::{Act, Decision, Tend};
use crate::observed::{Cluster, Observed};
use crate::postgres::{Peer, Postgres, Running, Upstream};
use crate::rewind::{Judgement, judge};
use crate::rule::Rule;
use crate::slots;
use crate::starts;
use std::time::Duration;

/// Between two questions to a source that did not answer, or is not streaming.
const ASK_PAUSE: Duration = Duration::from_millis(500);

/// One step towards a standby that follows `upstream` and is known to be part of its history.
/// `steady` is the rule that a settled standby ends with.
#[must_use]
pub fn follow(
    observed: &Observed,
    cluster: &Cluster,
    upstream: &Upstream,
    steady: Rule,
) -> Decision {
    match &observed.postgres {
        Postgres::Running(running) => follow_running(observed, cluster, running, upstream, steady),
        Postgres::Stopped(_) => start(observed, cluster, upstream),
        Postgres::Starting { standby: true, .. } => starting(observed, cluster, upstream),
        Postgres::Starting { .. } | Postgres::Unresponsive { .. } => Decision::wait(
            Rule::AwaitStart,
            "PostgreSQL does not answer yet",
            ASK_PAUSE,
            "PostgreSQL to accept connections",
        ),
        Postgres::NoData | Postgres::Unreadable(_) => Decision::wait(
            Rule::AwaitLeader,
            "no data directory",
            observed.config.timing.loop_wait,
            "a source to copy",
        ),
    }
}

fn start(observed: &Observed, cluster: &Cluster, upstream: &Upstream) -> Decision {
    let at_once = |to: &Upstream, why: String| {
        if let Some(wait) = starts::wait(observed) {
            return wait;
        }
        Decision::wait(Rule::StartStandby, why, Duration::ZERO, "PostgreSQL to start")
            .tend(Tend::StartStandby(to.clone()))
    };
    if *upstream == Upstream::Nobody {
        return at_once(upstream, "read-only, following nobody".into());
    }
    match judge(observed, cluster, upstream) {
        Judgement::Follow => at_once(upstream, format!("following {}", name_of(upstream))),
        Judgement::Diverged(decision) => decision,
        Judgement::Silent(why) => {
            at_once(&Upstream::Nobody, format!("read-only, following nobody yet: {why}"))
        }
        Judgement::Ask(why) => ask(upstream, why),
    }
}

/// PostgreSQL replays and does not answer yet: it may need its source to become consistent.
fn starting(observed: &Observed, cluster: &Cluster, upstream: &Upstream) -> Decision {
    let wait = |why: String| {
        Decision::wait(Rule::AwaitStart, why, ASK_PAUSE, "PostgreSQL to accept connections")
    };
    if *upstream == Upstream::Nobody || observed.following.as_ref() == Some(upstream) {
        return wait("PostgreSQL replays WAL".into());
    }
    match judge(observed, cluster, upstream) {
        Judgement::Follow => {
            wait("PostgreSQL replays WAL".into()).tend(Tend::Follow(upstream.clone()))
        }
        Judgement::Diverged(decision) => decision,
        Judgement::Silent(_) | Judgement::Ask(_) => {
            wait("PostgreSQL replays WAL".into()).tend(Tend::AskHistory(upstream.clone()))
        }
    }
}

fn follow_running(
    observed: &Observed,
    cluster: &Cluster,
    running: &Running,
    upstream: &Upstream,
    steady: Rule,
) -> Decision {
    if running.outgrown && !observed.config.pause {
        let why = "replay is paused: the primary's settings are higher than this server's";
        return Decision::wait(Rule::Outgrown, why, Duration::ZERO, "the restart")
            .act(Act::Restart);
    }
    let points = observed.following.as_ref() == Some(upstream);
    let mut decision = Decision::wait(
        steady,
        steady_why(upstream, running),
        observed.config.timing.loop_wait,
        "a change in the DCS",
    );
    decision.tend.extend(slots::changes(observed, cluster, running).into_iter().map(Tend::Slot));
    decision.tend.push(Tend::ApplySettings);
    if *upstream == Upstream::Nobody {
        if !points {
            decision.tend.push(Tend::Follow(Upstream::Nobody));
        }
        return decision;
    }
    match judge(observed, cluster, upstream) {
        Judgement::Diverged(rewind) => return rewind,
        Judgement::Follow if !points => {
            decision.rule = Rule::Follow;
            decision.why = format!("now following {}", name_of(upstream));
            decision.tend.push(Tend::Follow(upstream.clone()));
        }
        Judgement::Follow => {}
        Judgement::Silent(why) | Judgement::Ask(why) => {
            decision.tend.push(Tend::AskHistory(upstream.clone()));
            decision.wake.after = decision.wake.after.min(ASK_PAUSE);
            if !points {
                decision.rule = Rule::AwaitSource;
                decision.why = why;
            } else if !streaming(running) {
                decision.why = format!("{}: {why}", decision.why);
            }
        }
    }
    let expected = matches!(upstream, Upstream::Member { .. } | Upstream::Remote { .. });
    let silent = expected && !streaming(running);
    let doubtful =
        silent || promoted_since(observed, cluster, upstream) || off_the_stream(observed, upstream);
    let asks = decision.tend.iter().any(|t| matches!(t, Tend::AskHistory(_)));
    if doubtful && due(observed, upstream) && !asks {
        decision.tend.push(Tend::AskHistory(upstream.clone()));
        decision.wake.after = decision.wake.after.min(ASK_PAUSE);
    }
    decision
}

/// The member that is followed says it is on a later timeline than when it was asked.
fn promoted_since(observed: &Observed, cluster: &Cluster, upstream: &Upstream) -> bool {
    let (Upstream::Member { name, .. } | Upstream::Archive { of: Some(Peer { name, .. }) }) =
        upstream
    else {
        return false;
    };
    let now = cluster.members.get(name).and_then(|m| m.data.timeline);
    let then = observed.history_of(upstream).and_then(|s| Some(s.answer.as_ref().ok()?.timeline));
    now > then && then.is_some()
}

/// Nothing but asking again tells a node that lives on the archive that its leader's past is
/// another one by now: no stream breaks.
fn off_the_stream(observed: &Observed, upstream: &Upstream) -> bool {
    let pause = observed.config.timing.loop_wait;
    match upstream {
        Upstream::Archive { of: Some(_) } => {
            observed.history_of(upstream).is_some_and(|s| observed.now.since(s.at) >= pause)
        }
        Upstream::Archive { of: None }
        | Upstream::Member { .. }
        | Upstream::Remote { .. }
        | Upstream::Nobody => false,
    }
}

fn ask(upstream: &Upstream, why: String) -> Decision {
    Decision::wait(Rule::AwaitSource, why, ASK_PAUSE, "the source's history")
        .tend(Tend::AskHistory(upstream.clone()))
}

/// The last question is long enough ago for another one.
pub(crate) fn due(observed: &Observed, upstream: &Upstream) -> bool {
    observed.history_of(upstream).is_none_or(|s| observed.now.since(s.at) >= ASK_PAUSE)
}

fn streaming(running: &Running) -> bool {
    running.receiver.as_ref().is_some_and(|r| r.status == "streaming")
}

pub(crate) fn streams_from(observed: &Observed, upstream: &Upstream) -> bool {
    match &observed.postgres {
        Postgres::Running(running) => {
            observed.following.as_ref() == Some(upstream) && streaming(running)
        }
        Postgres::NoData
        | Postgres::Unreadable(_)
        | Postgres::Stopped(_)
        | Postgres::Starting { .. }
        | Postgres::Unresponsive { .. } => false,
    }
}

fn steady_why(upstream: &Upstream, running: &Running) -> String {
    let state = if streaming(running) { "streaming from" } else { "waiting for" };
    match upstream {
        Upstream::Nobody => "read-only, following nobody".to_owned(),
        Upstream::Archive { .. } => "replaying the archive".to_owned(),
        Upstream::Member { .. } | Upstream::Remote { .. } => {
            format!("{state} {}", name_of(upstream))
        }
    }
}

/// How people call it.
#[must_use]
pub fn name_of(upstream: &Upstream) -> String {
    match upstream {
        Upstream::Member { name, .. } => name.to_string(),
        Upstream::Remote { hosts, cascade, .. } => {
            let kind = if *cascade { "standby" } else { "primary" };
            let hosts: Vec<String> = hosts.iter().map(|(h, p)| format!("{h}:{p}")).collect();
            format!("the {kind} datacenter ({})", hosts.join(", "))
        }
        Upstream::Archive { .. } => "the archive".to_owned(),
        Upstream::Nobody => "nobody".to_owned(),
    }
}
