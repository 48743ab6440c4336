//! `watchdog.mode: required`: nobody leads without the kernel's watchdog (contract E.7).

use crate::decision::{Act, Decision};
use crate::demotion::DemotionMode;
use crate::observed::Observed;
use crate::rule::Rule;
use std::time::Duration;

/// Whoever could not lead takes no part in the race either: nobody is asked for a vote, and nobody
/// waits for this node.
pub(crate) fn bars(observed: &Observed) -> Option<Decision> {
    let failure = observed.watchdog_failed.as_ref().filter(|_| !observed.config.pause)?;
    let why = format!("the watchdog is required and can't be used: {failure}");
    let pause = observed.config.timing.loop_wait;
    Some(Decision::wait(Rule::WatchdogBars, why, pause, "the watchdog"))
}

/// What a decision becomes when the watchdog is required and can't be used. In maintenance mode the
/// device is not used at all, and nothing is stopped for the lack of it.
pub(crate) fn insist(observed: &Observed, decision: Decision) -> Decision {
    let Some(barred) = bars(observed) else { return decision };
    let stop = |mode| {
        let why = barred.why.clone();
        Decision::wait(Rule::WatchdogLost, why, Duration::ZERO, "another leader")
            .act(Act::Demote(mode))
    };
    match &decision.act {
        // Its own key, from before the agent was restarted: it is left to run out.
        Some(Act::Acquire(_))
            if observed.cluster.known().is_some_and(|c| c.leader.is_some())
                && observed.postgres.may_write() =>
        {
            stop(DemotionMode::Offline)
        }
        Some(Act::Acquire(_)) => barred,
        Some(Act::Promote(_) | Act::StartPrimary(_) | Act::Initdb(_)) => barred.act(Act::Release),
        None if observed.cluster.known().is_some()
            && observed.holds_lease()
            && observed.postgres.may_write()
            && observed.job.is_none() =>
        {
            stop(DemotionMode::Leave)
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
