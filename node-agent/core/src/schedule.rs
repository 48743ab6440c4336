//! What operators plan for a point in time: a switchover in the `failover` key, and a restart of
//! one node, which lives in that agent's memory (behaviour §11, §12).
//!
//! Clocks of the members may differ a little: an action runs in the pass that finds its time come,
//! and is dropped as missed when that is one and a half `loop_wait` ago.

use crate::decision::{Act, Decision, Tend};
use crate::observed::{Cluster, Observed};
use crate::postgres::{Postgres, Running};
use crate::release;
use crate::rule::Rule;
use node_agent_wire::member::Role;
use node_agent_wire::schedule::parse;
use node_agent_wire::status::Failover;
use std::time::Duration;

/// How a planned moment lies to now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// Still to come.
    Ahead(Duration),
    /// Due.
    Due,
    /// Too long ago.
    Missed(Duration),
}

/// Where `at_us` lies, both in microseconds since the Unix epoch.
#[must_use]
pub fn moment(at_us: i64, wall_us: i64, loop_wait: Duration) -> Moment {
    let distance = Duration::from_micros(at_us.abs_diff(wall_us));
    if at_us > wall_us {
        Moment::Ahead(distance)
    } else if distance > loop_wait * 3 / 2 {
        Moment::Missed(distance)
    } else {
        Moment::Due
    }
}

/// What a restart depends on (contract B.7).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RestartConditions {
    /// Only in this role.
    pub role: Option<Role>,
    /// Only a server older than this `server_version_num`.
    pub older_than: Option<u32>,
    /// Only when parameters wait for a restart.
    pub pending: bool,
}

impl RestartConditions {
    /// Whether a server that runs in `role` meets them; otherwise the first that it does not.
    ///
    /// # Errors
    /// The condition in words.
    pub fn met(&self, role: Role, version: u32, pending: bool) -> Result<(), String> {
        if let Some(wanted) = self.role.filter(|wanted| *wanted != role) {
            return Err(format!("the role is {}, not {}", role.as_str(), wanted.as_str()));
        }
        if self.older_than.is_some_and(|limit| version >= limit) {
            return Err("PostgreSQL is not older than the given version".to_owned());
        }
        if self.pending && !pending {
            return Err("no parameter waits for a restart".to_owned());
        }
        Ok(())
    }
}

/// A restart of this node that an operator planned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScheduledRestart {
    /// When, microseconds since the Unix epoch.
    pub at_us: i64,
    /// When the server that it was planned for was started: another one needs no restart any more.
    pub server_started_us: i64,
    /// Looked at when the time has come.
    pub conditions: RestartConditions,
    /// How long the restart may take.
    pub timeout: Option<Duration>,
}

/// The role that the conditions of a restart are compared with.
fn role(observed: &Observed, running: &Running) -> Role {
    if !running.in_recovery {
        Role::Primary
    } else if observed.holds_lease() && observed.config.standby_cluster.is_some() {
        Role::StandbyLeader
    } else {
        Role::Replica
    }
}

/// Lays a planned restart over what was decided otherwise: it runs when its time has come, nothing
/// else is done in the pass, and the cluster has a leader.
pub(crate) fn restart(observed: &Observed, decision: &mut Decision) {
    let (Some(planned), Postgres::Running(running)) =
        (&observed.scheduled_restart, &observed.postgres)
    else {
        return;
    };
    let drop = |decision: &mut Decision, why: String| {
        decision.tend.push(Tend::DropScheduledRestart(why));
    };
    if running.started_at_us != planned.server_started_us {
        return drop(decision, "PostgreSQL was restarted since it was planned".to_owned());
    }
    if observed.config.pause {
        return;
    }
    match moment(planned.at_us, observed.wall_us, observed.config.timing.loop_wait) {
        Moment::Ahead(left) => decision.wake.after = decision.wake.after.min(left),
        Moment::Missed(late) if !release::under_way(observed) => {
            drop(decision, format!("its time passed {} s ago", late.as_secs()));
        }
        Moment::Due | Moment::Missed(_) => {
            let led = observed.cluster.known().is_some_and(|c| c.leader.is_some());
            if decision.act.is_some() || observed.job.is_some() || !led {
                return;
            }
            let pending = running.pending_restart;
            let version = running.server_version;
            match planned.conditions.met(role(observed, running), version, pending) {
                Ok(()) => {
                    decision.rule = Rule::ScheduledRestart;
                    "the planned restart is due".clone_into(&mut decision.why);
                    decision.act = Some(Act::Restart);
                    drop(decision, "it begins".to_owned());
                }
                Err(why) => drop(decision, why),
            }
        }
    }
}

/// Whether a request in the `failover` key is to be carried out now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum When {
    /// Now.
    Now,
    /// Later.
    In(Duration),
    /// Never, with the reason.
    Never(String),
}

/// When the leader carries a switchover out.
pub(crate) fn switchover(request: &Failover, observed: &Observed) -> When {
    let Some(text) = &request.scheduled_at else { return When::Now };
    let at_us = match parse(text) {
        Ok(at_us) => at_us,
        Err(error) => return When::Never(format!("scheduled_at \"{text}\": {error}")),
    };
    match moment(at_us, observed.wall_us, observed.config.timing.loop_wait) {
        Moment::Ahead(left) => When::In(left),
        Moment::Due => When::Now,
        Moment::Missed(late) => {
            let late = late.as_secs();
            When::Never(format!("the time of the switchover, {text}, passed {late} s ago"))
        }
    }
}

/// The request that members without a leader go by: none is pending, or its time has not come. The
/// leader may have begun a moment early by this node's clock, so one `loop_wait` ahead counts.
pub(crate) fn in_force<'a>(observed: &Observed, cluster: &'a Cluster) -> Option<&'a Failover> {
    let request = &cluster.failover.value;
    if request.is_empty() {
        return None;
    }
    let Some(text) = &request.scheduled_at else { return Some(request) };
    let loop_wait = observed.config.timing.loop_wait;
    match moment(parse(text).ok()?, observed.wall_us, loop_wait) {
        Moment::Ahead(left) => (left <= loop_wait).then_some(request),
        // A switchover takes its time: what has begun is not forgotten while it lasts.
        Moment::Due => Some(request),
        Moment::Missed(late) => (late <= observed.config.timing.ttl * 2).then_some(request),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_window_is_one_and_a_half_waits() {
        let second = 1_000_000;
        for (at, now, expected) in [
            (10, 10, Moment::Due),
            (10, 25, Moment::Due),
            (10, 26, Moment::Missed(Duration::from_secs(16))),
            (11, 10, Moment::Ahead(Duration::from_secs(1))),
            (99, 10, Moment::Ahead(Duration::from_secs(89))),
        ] {
            let got = moment(at * second, now * second, Duration::from_secs(10));
            assert_eq!(got, expected, "{at} at {now}");
        }
    }

    #[test]
    fn each_condition_is_named() {
        let none = RestartConditions::default();
        assert_eq!(none.met(Role::Replica, 150_000, false), Ok(()));
        for (conditions, part) in [
            (
                RestartConditions { role: Some(Role::Primary), ..none.clone() },
                "the role is replica",
            ),
            (RestartConditions { older_than: Some(150_000), ..none.clone() }, "not older"),
            (RestartConditions { pending: true, ..none }, "no parameter"),
        ] {
            let told = conditions.met(Role::Replica, 150_000, false).expect_err("met");
            assert!(told.contains(part), "{told}");
        }
        let all = RestartConditions {
            role: Some(Role::Replica),
            older_than: Some(150_001),
            pending: true,
        };
        assert_eq!(all.met(Role::Replica, 150_000, true), Ok(()));
    }
}
