//! A PostgreSQL that ran before its agent: the beginning of a cluster around a server that is
//! there already.

use crate::decision::{Act, Decision, Tend};
use crate::election::{self, Answers};
use crate::observed::{Cluster, Observed, RecordView, Request};
use crate::pause::left_running;
use crate::postgres::{Postgres, Running};
use crate::right::RightToWrite;
use crate::rule::Rule;
use crate::standing;
use std::time::Duration;

/// There is no cluster in the DCS and PostgreSQL runs here.
pub(crate) fn take_over(observed: &Observed, cluster: &Cluster) -> Option<Decision> {
    let Postgres::Running(running) = &observed.postgres else { return None };
    let unclaimed = observed.directory.found_running
        && cluster.system_id().is_none()
        && cluster.leader.is_none()
        && cluster.record == RecordView::Absent
        && !cluster.config.pause;
    if !unclaimed {
        return None;
    }
    if running.in_recovery {
        return Some(leave(
            "PostgreSQL runs as a replica, and the cluster does not exist in the DCS: start the \
             agent of the primary first",
        ));
    }
    // Where nobody may write, the rules for that decide.
    RightToWrite::check(observed).ok()?;
    if !observed.me.may_bootstrap {
        return Some(leave(
            "PostgreSQL runs as a primary, and this agent must not begin a cluster: stop it, or \
             correct federation.standby",
        ));
    }
    Some(begin(observed, cluster, running))
}

fn leave(why: &str) -> Decision {
    Decision::wait(Rule::NotAdopted, why, Duration::ZERO, "the end of the agent").act(Act::Leave)
}

fn begin(observed: &Observed, cluster: &Cluster, running: &Running) -> Decision {
    let loop_wait = observed.config.timing.loop_wait;
    if let Some(wait) = election::observer_wait(observed, cluster) {
        return wait;
    }
    if let Some(wait) = left_running(observed, cluster) {
        return wait;
    }
    let answers = match election::ask(observed, cluster) {
        Answers::Nobody => return acquire(running),
        Answers::Asking(wait) => return wait,
        Answers::Known(poll) => poll,
    };
    if let Some(other) = standing::live_primary(&observed.me.name, &answers.answers) {
        let why = format!("PostgreSQL runs as a primary here, and {other}: stop one of them");
        let wait = Decision::wait(Rule::TakeOver, why, loop_wait, "an operator");
        return wait.tend(Tend::AskPeers);
    }
    acquire(running)
}

fn acquire(running: &Running) -> Decision {
    let why = format!("a cluster begins around the primary on timeline {}", running.timeline);
    Decision::wait(Rule::TakeOver, why, Duration::ZERO, "the leader key")
        .act(Act::Acquire(election::taken_over()))
}

/// A server that somebody else started has no guard, which could stop it in time: it is started
/// again under one.
pub(crate) fn under_guard(observed: &Observed, cluster: &Cluster) -> Option<Decision> {
    let Postgres::Running(_) = &observed.postgres else { return None };
    let due = observed.directory.unguarded && !cluster.config.pause;
    let asked = observed.request == Some(Request::Restart);
    if !due || asked {
        return None;
    }
    let why = "PostgreSQL was started by somebody else, and its guard is missing";
    Some(Decision::wait(Rule::GuardMissing, why, Duration::ZERO, "the restart").act(Act::Restart))
}
