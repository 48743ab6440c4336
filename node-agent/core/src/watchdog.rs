//! `watchdog.mode: required`: nobody leads without the kernel's watchdog (contract E.7).

use crate::decision::{Act, Decision};
use crate::demotion::DemotionMode;
use crate::observed::Observed;
use crate::rule::Rule;
use std::time::Duration;

/// What a decision becomes when the watchdog is required and can't be used. In maintenance mode the
/// device is not used at all, and nothing is stopped for the lack of it.
pub(crate) fn insist(observed: &Observed, decision: Decision) -> Decision {
    let Some(failure) = &observed.watchdog_failed else { return decision };
    if observed.config.pause {
        return decision;
    }
    let why = format!("the watchdog is required and can't be used: {failure}");
    let pause = observed.config.timing.loop_wait;
    let barred = || Decision::wait(Rule::WatchdogBars, why.clone(), pause, "the watchdog");
    match &decision.act {
        Some(Act::Acquire(_)) => barred(),
        Some(Act::Promote(_) | Act::StartPrimary(_) | Act::Initdb(_)) => barred().act(Act::Release),
        None if observed.cluster.known().is_some()
            && observed.holds_lease()
            && observed.postgres.may_write()
            && observed.job.is_none() =>
        {
            let stop = Act::Demote(DemotionMode::Leave);
            Decision::wait(Rule::WatchdogLost, why, Duration::ZERO, "another leader").act(stop)
        }
        Some(
            Act::Release
            | Act::Demote(_)
            | Act::Clone(_)
            | Act::CloneLeaderless
            | Act::Reinit(_)
            | Act::Leave
            | Act::Rewind { .. }
            | Act::AcknowledgeFence(_)
            | Act::Restart,
        )
        | None => decision,
    }
}
