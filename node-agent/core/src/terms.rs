//! What binds a leader of failsafe mode: what others may have read in any beat that it sent.

use crate::failsafe::{Plan, Reply, judge};
use node_agent_wire::MemberName;
use node_agent_wire::position::FailsafeTerms;
use std::collections::{BTreeMap, BTreeSet};

/// The plans of the last committed beat and of those sent since: whoever wants the leader's place
/// may have read any of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plans {
    committed: Option<Plan>,
    sent: Vec<Option<Plan>>,
}

impl Plans {
    /// A beat with this plan is about to be sent.
    pub fn send(&mut self, plan: Option<Plan>) {
        if self.sent.last() != Some(&plan) {
            self.sent.push(plan);
        }
    }

    /// The last one that was sent is committed, and nothing sent before it counts any more.
    pub fn commit(&mut self) {
        if let Some(plan) = self.sent.pop() {
            self.committed = plan;
        }
        self.sent.clear();
    }

    /// Every plan that binds; `None` when one of the beats allows nothing.
    #[must_use]
    pub fn binding(&self) -> Option<Vec<Plan>> {
        std::iter::once(&self.committed).chain(&self.sent).cloned().collect()
    }
}

/// Whom to ask so that every one of the plans can be met, and on what terms.
#[must_use]
pub fn whole(plans: &[Plan]) -> FailsafeTerms {
    FailsafeTerms {
        members: plans.iter().flat_map(|plan| plan.terms.members.iter().cloned()).collect(),
        majority: plans.iter().any(|plan| plan.terms.majority),
    }
}

/// Whether the answers let the leader go on, whichever of its beats was read last. Who is
/// `synchronous` is a matter of now; who can take over, of the beats.
///
/// # Errors
/// Who is missing, in words.
pub fn judge_all(
    me: &MemberName,
    plans: &[Plan],
    synchronous: Option<&BTreeSet<MemberName>>,
    replies: &BTreeMap<MemberName, Reply>,
) -> Result<(), String> {
    plans.iter().try_for_each(|plan| {
        let plan = Plan { synchronous: synchronous.cloned(), ..plan.clone() };
        judge(me, &plan, replies)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(majority: bool) -> Option<Plan> {
        let terms = FailsafeTerms { members: ["a".into(), "b".into()].into(), majority };
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

    #[test]
    fn the_strictest_of_the_plans_decides() {
        let three = ["a", "b", "c"].map(MemberName::from);
        let of = |majority: bool| Plan {
            terms: FailsafeTerms { members: three.clone().into(), majority },
            synchronous: None,
        };
        let replies = BTreeMap::from([("b".into(), Reply::Accepted(None))]);
        assert_eq!(judge_all(&"a".into(), &[of(true)], None, &replies), Ok(()));
        assert!(judge_all(&"a".into(), &[of(true), of(false)], None, &replies).is_err());
        let synchronous = BTreeSet::from(["c".into()]);
        assert!(judge_all(&"a".into(), &[of(true)], Some(&synchronous), &replies).is_err());
        let asked = whole(&[of(false), of(true)]);
        assert!(asked.majority && asked.members.len() == 3);
    }
}
