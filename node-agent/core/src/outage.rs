//! The DCS can't be read: a primary goes on while it holds the right, and stops in time.
//!
//! Another member may lead as soon as the lease is over, so PostgreSQL must not write then. The
//! guard sees to that at the deadline; a little before it a clean shutdown is begun, so that there
//! is nothing to rewind afterwards. In failsafe mode the lease keeper moves the deadline on as
//! long as the members agree.

use crate::decision::{Act, Decision, Tend};
use crate::demotion::DemotionMode;
use crate::failsafe::{Round, stop_ahead};
use crate::grants;
use crate::guest::left_behind;
use crate::observed::Observed;
use crate::read_only::stop_writing;
use crate::right::{WriteBlocked, check_peers};
use crate::rule::Rule;
use crate::time::Fact;
use std::time::Duration;

/// Decides without a view of the cluster.
pub(crate) fn decide(observed: &Observed) -> Decision {
    let decision = without_view(observed);
    match left_behind(observed).filter(|_| decision.act.is_none() && observed.job.is_none()) {
        Some(names) => decision.tend(Tend::SetSyncNames(names)),
        None => decision,
    }
}

fn without_view(observed: &Observed) -> Decision {
    let loop_wait = observed.config.timing.loop_wait;
    let writes = observed.postgres.may_write() && observed.job.is_none();
    if writes && observed.lease.kept && !observed.holds_lease() {
        let why =
            "maintenance mode and the DCS can't be read; nobody takes over, PostgreSQL goes on";
        return Decision::wait(Rule::PausedWithoutDcs, why, loop_wait, "the DCS");
    }
    if writes
        && !observed.lease.kept
        && let Some(stop) = stop(observed)
    {
        return stop;
    }
    let Some(until) = observed.lease.held_until.filter(|_| observed.holds_lease()) else {
        let why = "the DCS can't be read; nothing is changed";
        return Decision::wait(Rule::DcsLostKeep, why, loop_wait, "the DCS");
    };
    let left = observed.now.until(until);
    let carried = observed.failsafe.round.as_ref().is_some_and(|round| round.outcome.is_ok());
    if writes && carried {
        let why = "the DCS can't be read; the members have agreed that this node leads on";
        let after = left.saturating_sub(stop_ahead(observed.config.lease_time()));
        return Decision::wait(Rule::FailsafeKeep, why, after.min(loop_wait), "the DCS");
    }
    // Whole seconds: the line is logged when it changes.
    let seconds = left.as_millis().div_ceil(1000);
    let mut why = format!("the DCS can't be read; the lease lasts {seconds} s more");
    if let Some(Round { outcome: Err(refused), .. }) = &observed.failsafe.round {
        why = format!("{why}; failsafe mode: {refused}");
    }
    let ahead = if writes { stop_ahead(observed.config.lease_time()) } else { Duration::ZERO };
    let after = left.saturating_sub(ahead);
    Decision::wait(Rule::DcsLostKeep, why, after.min(loop_wait), "the DCS")
}

/// PostgreSQL writes and must not go on.
fn stop(observed: &Observed) -> Option<Decision> {
    let demote = |rule: Rule, why: String, mode: DemotionMode| {
        Decision::wait(rule, why, Duration::ZERO, "PostgreSQL to stop").act(Act::Demote(mode))
    };
    if !observed.holds_lease() {
        let why = "the DCS can't be read and the lease has run out".to_owned();
        return Some(demote(Rule::DcsLostDemote, why, DemotionMode::ImmediateNolock));
    }
    if let Some(record) = &observed.last_record {
        // The other datacenters are asked all the same (I7).
        if let Err(blocked) = check_peers(observed, record) {
            return Some(stop_writing(&blocked));
        }
        if let Err(missing) = grants::check(observed, record) {
            let epoch = record.epoch;
            return Some(stop_writing(&WriteBlocked::NoGrants { epoch, missing }));
        }
        if let Some(silent) = silent_too_long(observed) {
            let why = format!(
                "the DCS can't be read for {} s, and no other datacenter confirms epoch {}",
                silent.as_secs(),
                record.epoch
            );
            return Some(demote(Rule::FailsafeOver, why, DemotionMode::Fence));
        }
    }
    let left = observed.now.until(observed.lease.held_until?);
    let ahead = stop_ahead(observed.config.lease_time());
    if left > ahead {
        return None;
    }
    let refused = match &observed.failsafe.round {
        Some(Round { outcome: Err(why), .. }) => format!("; failsafe mode: {why}"),
        Some(Round { outcome: Ok(()), .. }) | None => String::new(),
    };
    let why =
        format!("the DCS can't be read and the lease ends in {} ms{refused}", left.as_millis());
    Some(demote(Rule::DcsLostDemote, why, DemotionMode::Offline))
}

/// The record was not read for longer than a datacenter may be silent before somebody must confirm
/// that it is still primary.
fn silent_too_long(observed: &Observed) -> Option<Duration> {
    let record = observed.last_record.as_ref()?;
    let Fact::Unknown { since, .. } = &observed.cluster else { return None };
    let silent = observed.now.since(*since);
    let confirmed = record.members.len() < 2
        || observed.peers.values().filter_map(Fact::known).any(|peer| {
            peer.federation == record.federation
                && peer.epoch == record.epoch
                && peer.primary == record.dc
        });
    (!confirmed && silent.as_secs() > record.policies.cold_start_after_s).then_some(silent)
}
