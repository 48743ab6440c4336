//! The leader's side of failsafe mode: when the DCS takes no beat, the members are asked.

use super::{Keeper, Thread, stop_margin};
use crate::clock;
use crate::failsafe::ask;
use node_agent_core::failsafe::{Plan, Round, judge};
use node_agent_core::time::Boot;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;

/// The plans of the last committed beat and of those sent since: whoever wants the leader's place
/// may have read any of them.
#[derive(Default)]
pub(super) struct Plans {
    committed: Option<Plan>,
    sent: Vec<Option<Plan>>,
}

impl Plans {
    /// A beat with this plan is about to be sent.
    pub(super) fn send(&mut self, plan: Option<Plan>) {
        if self.sent.last() != Some(&plan) {
            self.sent.push(plan);
        }
    }

    /// The last one that was sent is committed, and nothing sent before it counts any more.
    pub(super) fn commit(&mut self) {
        if let Some(plan) = self.sent.pop() {
            self.committed = plan;
        }
        self.sent.clear();
    }

    /// Every plan that binds; `None` when one of the beats allows nothing.
    fn binding(&self) -> Option<Vec<Plan>> {
        std::iter::once(&self.committed).chain(&self.sent).cloned().collect()
    }
}

impl Keeper {
    /// The last round of asking the members, while the DCS takes no beats.
    #[must_use]
    pub fn round(&self) -> Option<Round> {
        self.shared.round.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Thread {
    /// Failsafe mode: the DCS did not take the beat, and the members are asked in its place. Who
    /// agrees does not lead for a TTL from then, so the right lasts for one from the question.
    pub(super) async fn ask_members(&mut self, failed_at: Boot) {
        let question = {
            let facts = self.shared.facts.lock().unwrap_or_else(PoisonError::into_inner);
            facts.failsafe.clone().filter(|_| facts.writable)
        };
        // What others may have read in the last beat binds, whatever the configuration says now.
        let (Some(question), Some(plans)) = (question, self.plans.binding()) else { return };
        let (ttl, asked_at) = (self.ttl().min(self.beat_ttl), clock::boot());
        let mut whole = question.clone();
        let members = plans.iter().flat_map(|plan| plan.terms.members.iter().cloned());
        whole.plan.terms.members = members.collect();
        whole.plan.terms.majority = plans.iter().any(|plan| plan.terms.majority);
        let replies = ask(&self.messenger, &self.name, &whole, ttl, self.last).await;
        let outcome = plans.iter().try_for_each(|plan| {
            // Who is synchronous is a matter of now; who can take over, of the beat.
            let plan = Plan { synchronous: question.plan.synchronous.clone(), ..plan.clone() };
            judge(&self.name, &plan, &replies)
        });
        let until = asked_at + ttl.saturating_sub(stop_margin(ttl));
        match &outcome {
            Ok(()) => self.extend(until),
            Err(why) => tracing::warn!(why, "failsafe mode: the members do not agree"),
        }
        let mut round = self.shared.round.lock().unwrap_or_else(PoisonError::into_inner);
        let since = round.as_ref().map_or(failed_at, |round| round.since);
        let news = round.as_ref().is_none_or(|before| before.outcome != outcome);
        *round = Some(Round { asked_at, since, outcome });
        drop(round);
        if news {
            self.shared.lost.notify_one();
        }
    }

    /// Moves the deadline on, unless the right was given up or has ended meanwhile.
    fn extend(&mut self, until: Boot) {
        let before = self.shared.held_until.load(Ordering::SeqCst);
        if before == 0 || clock::boot() >= Boot(before) || until.0 <= before {
            return;
        }
        let moved = self.shared.held_until.compare_exchange(
            before,
            until.0,
            Ordering::SeqCst,
            Ordering::SeqCst,
        );
        if moved.is_err() {
            return;
        }
        self.shared.watchdog().feed();
        if self.shared.armed.load(Ordering::SeqCst) {
            self.tell_guard(until);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use node_agent_wire::position::FailsafeTerms;

    fn plan(majority: bool) -> Option<Plan> {
        let terms = FailsafeTerms { members: ["a".into()].into(), majority };
        Some(Plan { terms, synchronous: None })
    }

    #[test]
    fn every_beat_that_may_have_been_read_binds() {
        let mut plans = Plans::default();
        assert_eq!(plans.binding(), None, "nothing is committed");
        plans.send(plan(false));
        plans.commit();
        assert_eq!(plans.binding().map(|p| p.len()), Some(1));
        plans.send(plan(true));
        plans.send(plan(true));
        plans.send(plan(false));
        assert_eq!(plans.binding().map(|p| p.len()), Some(3), "equal ones in a row bind once");
        plans.send(None);
        assert_eq!(plans.binding(), None, "a beat without a plan was sent");
        plans.send(plan(true));
        plans.commit();
        assert_eq!(plans.binding().map(|p| p.len()), Some(1));
    }
}
