//! Failsafe mode: a leader that has lost the DCS goes on as long as the other members agree, and
//! whoever wants its place finds that out first.
//!
//! The leader's side is [`plan`] and [`judge`]; the other members' promises are in
//! [`crate::promise`]; [`gate`] is what a candidate has to pass. The argument why never two lead
//! is in docs/federation-safety.md ("Without the DCS").

use crate::decision::{Act, Decision, Tend};
use crate::observed::{Cluster, Observed};
use crate::promise::Promise;
use crate::rule::Rule;
use crate::time::Boot;
use node_agent_wire::dynamic::{FailsafeMode, SynchronousMode};
use node_agent_wire::federation::Isolation;
use node_agent_wire::position::FailsafeTerms;
use node_agent_wire::{Lsn, MemberName, Revision, SlotName};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// How old votes may be when the key is taken, counted from the question.
pub(crate) const VOTES_AGE_MAX: Duration = Duration::from_secs(3);
/// Between two rounds of asking for votes.
const VOTES_PAUSE: Duration = Duration::from_millis(500);
/// What the agent must have behind it before a shutdown that is begun in time ends in time: this
/// part of the TTL before the deadline a clean one begins.
const STOP_AHEAD: u32 = 6;

/// What a leader goes by when it has lost the DCS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// What its beats say.
    pub terms: FailsafeTerms,
    /// In synchronous mode the members that have everything: a majority must have one of them.
    pub synchronous: Option<BTreeSet<MemberName>>,
}

/// The plan of this node's next beats; `None`: it stops when it loses the DCS.
#[must_use]
pub fn plan(observed: &Observed, cluster: &Cluster) -> Option<Plan> {
    let config = &cluster.config;
    if config.failsafe == FailsafeMode::Off {
        return None;
    }
    // A datacenter under site grants stops when it is cut off: that is what others wait for.
    if let Some(record) = cluster.record.get()
        && record.members.get(&record.dc).is_some_and(|m| m.isolation == Isolation::Lease)
    {
        return None;
    }
    let others = cluster.members.values().filter(|m| !m.data.api_url.is_empty());
    // A member without `why` is Patroni's, which knows no votes.
    let all_vote = others.clone().all(|m| m.name == observed.me.name || m.data.why.is_some());
    let mut members: BTreeSet<MemberName> = others.map(|m| m.name.clone()).collect();
    members.insert(observed.me.name.clone());
    let majority = config.failsafe == FailsafeMode::Majority && all_vote && members.len() > 2;
    let synchronous = (config.effective_sync_mode() != SynchronousMode::Off)
        .then(|| cluster.sync.value.sync_standby.clone());
    Some(Plan { terms: FailsafeTerms { members, majority }, synchronous })
}

/// What a member answered to a leader without the DCS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// `Accepted`, and how far the member has come where it says so.
    Accepted(Option<Lsn>),
    /// Anything else, or nothing.
    Refused(String),
}

/// Whether the answers of one round let the leader go on.
///
/// # Errors
/// Who is missing, in words.
pub fn judge(
    me: &MemberName,
    plan: &Plan,
    replies: &BTreeMap<MemberName, Reply>,
) -> Result<(), String> {
    let agrees =
        |name: &MemberName| name == me || matches!(replies.get(name), Some(Reply::Accepted(_)));
    let terms = &plan.terms;
    let missing: Vec<String> = terms
        .members
        .iter()
        .filter(|name| !agrees(name))
        .map(|name| match replies.get(name) {
            Some(Reply::Refused(why)) => format!("{name}: {why}"),
            Some(Reply::Accepted(_)) | None => format!("{name} was not asked"),
        })
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let (have, need) = (terms.members.len() - missing.len(), terms.needed());
    if have < need {
        return Err(format!("{have} of {need} members agree; {}", missing.join("; ")));
    }
    let same = |a: &MemberName, b: &MemberName| a.as_str().eq_ignore_ascii_case(b.as_str());
    match &plan.synchronous {
        Some(standbys)
            if !terms
                .members
                .iter()
                .any(|m| m != me && agrees(m) && standbys.iter().any(|s| same(s, m))) =>
        {
            Err(format!("no synchronous standby agrees; {}", missing.join("; ")))
        }
        Some(_) | None => Ok(()),
    }
}

/// How the leader's last round of asking ended, with the DCS out of reach.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Round {
    /// When the members were asked.
    pub asked_at: Boot,
    /// Since when the DCS does not take beats.
    pub since: Boot,
    /// Why the leader may not go on.
    pub outcome: Result<(), String>,
    /// How far members have come that agreed and do not stream from this node.
    pub positions: BTreeMap<MemberName, Lsn>,
}

/// Votes that this node has asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Votes {
    /// When.
    pub asked_at: Boot,
    /// Against this beat.
    pub beat: Revision,
    /// Who has given it.
    pub granted: BTreeSet<MemberName>,
}

/// What this node knows of failsafe mode.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Failsafe {
    /// As a leader without the DCS: the last round.
    pub round: Option<Round>,
    /// As another member: whom it has accepted.
    pub promise: Option<Promise>,
    /// What that leader said of its slots.
    pub told: BTreeMap<SlotName, Lsn>,
    /// As a candidate.
    pub votes: Option<Votes>,
}

impl Failsafe {
    /// Failsafe mode carries a leader at this moment: this node, or the one it has accepted.
    #[must_use]
    pub fn active(&self, now: Boot) -> bool {
        self.round.as_ref().is_some_and(|round| round.outcome.is_ok())
            || self.promise.as_ref().is_some_and(|promise| now < promise.until)
    }
}

/// How long before its deadline a primary without the DCS begins to stop, so that it stops cleanly
/// and does not have to be rewound.
#[must_use]
pub fn stop_ahead(ttl: Duration) -> Duration {
    ttl / STOP_AHEAD
}

/// Whoever takes the leader key passes here: promises and votes of failsafe mode stand before it.
#[must_use]
pub fn gate(observed: &Observed, cluster: &Cluster, decision: Decision) -> Decision {
    if !matches!(decision.act, Some(Act::Acquire(_))) {
        return decision;
    }
    if let Some(promise) = &observed.failsafe.promise
        && observed.now < promise.until
    {
        let why = format!("{} leads without the DCS, and this node has agreed", promise.leader);
        let left = observed.now.until(promise.until);
        return Decision::wait(Rule::FailsafePromise, why, left, "the end of the promise");
    }
    let me = &observed.me.name;
    let own = cluster.leader.as_ref() == Some(me);
    let off = cluster.config.failsafe == FailsafeMode::Off;
    let beat = cluster.position.as_ref().filter(|p| !p.released && p.leader != *me);
    let terms = match (beat, &cluster.position) {
        (Some(beat), _) => beat.failsafe.clone(),
        (None, _) if own || off || cluster.failsafe.is_empty() => None,
        (None, Some(_)) if !patroni_may_lead(cluster, me) => None,
        // Patroni led: its list is all that there is, and it may ask again for a TTL.
        (None, _) => {
            if let Some(wait) = forgotten_promise(observed) {
                return wait;
            }
            let members = cluster.failsafe.keys().cloned().collect();
            Some(FailsafeTerms { members, majority: false })
        }
    };
    let Some(terms) = terms else { return decision };
    if !terms.members.contains(me) {
        let why = "the last leader may go on without the DCS and would not ask this node: only \
                   members that it knew may take its place"
            .to_owned();
        let pause = observed.config.timing.loop_wait;
        return Decision::wait(Rule::FailsafeOutsider, why, pause, "another leader");
    }
    if terms.majority { voted(observed, cluster, &terms, decision) } else { decision }
}

/// Patroni's members do not beat, so a beat that is released, or this node's own, does not tell
/// whether one of them has led since. Ours have `why` in their keys.
fn patroni_may_lead(cluster: &Cluster, me: &MemberName) -> bool {
    let ours = |name| cluster.members.get(name).is_some_and(|m| m.data.why.is_some());
    cluster.failsafe.keys().any(|name| name != me && !ours(name))
}

/// This agent may have accepted a leader before it was started anew.
fn forgotten_promise(observed: &Observed) -> Option<Decision> {
    let over = observed.started_at + observed.config.timing.ttl;
    let left = observed.now.until(over);
    (!left.is_zero()).then(|| {
        let why = "started lately: the last leader may go on on this node's word".to_owned();
        Decision::wait(Rule::FailsafePromise, why, left, "the end of the promise")
    })
}

/// Any two majorities have a member in common, and it keeps its promise to one of them only.
fn voted(
    observed: &Observed,
    cluster: &Cluster,
    terms: &FailsafeTerms,
    decision: Decision,
) -> Decision {
    let (me, beat) = (&observed.me.name, cluster.position_revision);
    let votes = observed.failsafe.votes.as_ref().filter(|votes| votes.beat == beat);
    let fresh = votes.filter(|v| observed.now.since(v.asked_at) < VOTES_AGE_MAX);
    let granted = |name: &&MemberName| {
        *name == me || fresh.is_some_and(|votes| votes.granted.contains(*name))
    };
    let (have, need) = (terms.members.iter().filter(granted).count(), terms.needed());
    if have >= need {
        return decision;
    }
    let why = format!("{have} of {need} votes: the last leader may go on with a majority");
    let wait = Decision::wait(Rule::FailsafeVotes, why, VOTES_PAUSE, "the members' votes");
    if votes.is_some_and(|v| observed.now.since(v.asked_at) < VOTES_PAUSE) {
        return wait;
    }
    let of = terms.members.iter().filter(|name| *name != me).cloned().collect();
    wait.tend(Tend::AskVotes { beat, of })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan_of(majority: bool, synchronous: Option<&[&str]>) -> Plan {
        let names = |names: &[&str]| names.iter().map(|n| MemberName::from(*n)).collect();
        let terms = FailsafeTerms { members: names(&["a", "b", "c", "d", "e"]), majority };
        Plan { terms, synchronous: synchronous.map(names) }
    }

    #[test]
    fn who_must_agree() {
        for (majority, synchronous, accepted, goes_on) in [
            (false, None, "bcde", true),
            (false, None, "bcd", false),
            (false, Some(&["b"][..]), "bcde", true),
            // Everybody has agreed: nobody can take over, synchronous or not.
            (false, Some(&[][..]), "bcde", true),
            (true, None, "bc", true),
            (true, None, "b", false),
            (true, None, "", false),
            (true, Some(&["B"][..]), "bc", true),
            (true, Some(&["d"][..]), "bc", false),
            (true, Some(&[][..]), "bc", false),
            (true, Some(&["d"][..]), "bcde", true),
        ] {
            let replies = ["b", "c", "d", "e"]
                .map(|n| {
                    let agrees = accepted.contains(n);
                    let refused = || Reply::Refused("no answer".into());
                    (n.into(), if agrees { Reply::Accepted(None) } else { refused() })
                })
                .into();
            let got = judge(&"a".into(), &plan_of(majority, synchronous), &replies);
            assert_eq!(got.is_ok(), goes_on, "{majority} {synchronous:?} {accepted}: {got:?}");
        }
    }

    #[test]
    fn a_member_that_was_not_asked_has_not_agreed() {
        let refused = judge(&"a".into(), &plan_of(false, None), &BTreeMap::new());
        let why = refused.expect_err("nobody was asked");
        assert!(why.starts_with("1 of 5 members agree; b was not asked"), "{why}");
    }

    #[test]
    fn any_two_majorities_meet() {
        for count in 1..9_usize {
            let members = (0..count).map(|n| MemberName::new(n.to_string())).collect();
            let terms = FailsafeTerms { members, majority: true };
            assert!(terms.needed() * 2 > count && terms.needed() <= count);
        }
    }
}
