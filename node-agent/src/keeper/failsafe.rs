//! The leader's side of failsafe mode: when the DCS takes no beat, the members are asked.

use super::{Keeper, Thread};
use crate::clock;
use crate::failsafe::ask;
use node_agent_core::failsafe::{Reply, Round};
use node_agent_core::lease::{asking_ttl, may_extend, right_until};
use node_agent_core::terms::{judge_all, whole};
use node_agent_core::time::Boot;
use node_agent_wire::{Lsn, MemberName};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::PoisonError;
use std::sync::atomic::Ordering;

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
        let (ttl, asked_at) = (asking_ttl(self.lease_time(), self.ttls.carried), clock::boot());
        let mut to_all = question.clone();
        to_all.plan.terms = whole(&plans);
        let replies = ask(&self.messenger, &self.name, &to_all, ttl, self.last).await;
        let synchronous = question.plan.synchronous.as_ref();
        let outcome = judge_all(&self.name, &plans, synchronous, &replies);
        let positions = positions(&replies, &question.cascading);
        let until = right_until(asked_at, ttl);
        match &outcome {
            Ok(()) => self.extend(until),
            Err(why) => tracing::warn!(why, "failsafe mode: the members do not agree"),
        }
        let mut round = self.shared.round.lock().unwrap_or_else(PoisonError::into_inner);
        let since = round.as_ref().map_or(failed_at, |round| round.since);
        let news = round.as_ref().is_none_or(|before| before.outcome != outcome);
        *round = Some(Round { asked_at, since, outcome, positions });
        drop(round);
        if news {
            self.shared.lost.notify_one();
        }
    }

    /// Moves the deadline on, unless the right was given up or has ended meanwhile.
    fn extend(&mut self, until: Boot) {
        let before = self.shared.held_until.load(Ordering::SeqCst);
        let held = (before != 0).then_some(Boot(before));
        if !may_extend(held, clock::boot(), until) {
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

/// How far those members have come of whom no sender of this node knows.
fn positions(
    replies: &BTreeMap<MemberName, Reply>,
    cascading: &BTreeSet<MemberName>,
) -> BTreeMap<MemberName, Lsn> {
    let position = |(name, reply): (&MemberName, &Reply)| match reply {
        Reply::Accepted(Some(at)) if cascading.contains(name) => Some((name.clone(), *at)),
        Reply::Accepted(_) | Reply::Refused(_) => None,
    };
    replies.iter().filter_map(position).collect()
}
