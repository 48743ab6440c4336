//! What a beat says, and the transactions that carry one.

use super::{Thread, millis};
use crate::clock;
use crate::dcs::{Compare, DcsError, Write};
use node_agent_core::lease::{self, Answer, Condition, Holder, KeyWrite, Outcome, Request};
use node_agent_core::time::Boot;
use node_agent_wire::keys::Leaf;
use node_agent_wire::position::Position;
use node_agent_wire::{MemberName, Revision};
use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::Duration;

impl Thread {
    /// A beat that follows this one, with all that its answer brings but the second look.
    pub(super) async fn beat_over(
        &mut self,
        over: Revision,
        mark: bool,
        sent: Boot,
        until: Boot,
    ) -> Outcome {
        let request = Request::Beat { over };
        let deadline = if self.kept() { self.call() } else { self.call().min(sent.until(until)) };
        let answer = self.write(request, mark, deadline).await;
        if let Err(error) = &answer {
            let left_ms = millis(clock::boot().until(until));
            tracing::warn!(%error, left_ms, "a renewal of the leader key failed");
        }
        let outcome = self.outcome(request, &answer, sent);
        match outcome {
            Outcome::Held { until, beat } => self.held(until, beat, mark),
            Outcome::AskMembers => self.ask_members(sent).await,
            Outcome::Lost(why) => self.lose(why),
            Outcome::Then(_)
            | Outcome::NotTaken
            | Outcome::Released
            | Outcome::LookAgain
            | Outcome::Unknown => {}
        }
        outcome
    }

    /// A beat was refused: the answer to the one before was lost, or the key is not this node's.
    pub(super) async fn look_again(&mut self, mark: bool, until: Boot) {
        let sent = clock::boot();
        let deadline = self.call().min(sent.until(until));
        let found = match self.dcs.read(self.path.prefix(), deadline).await {
            Ok(found) => found,
            Err(error) => {
                tracing::warn!(%error, "a renewal of the leader key was refused");
                return self.ask_members(sent).await;
            }
        };
        let holder = match found.keys.get(&self.path.key(Leaf::Leader)) {
            None => Holder::Nobody,
            Some(key) if key.value == self.name.as_str().as_bytes() => Holder::Ours,
            Some(_) => Holder::Another,
        };
        let position = found.revision_of(&self.path.key(Leaf::Position));
        match lease::after_look(holder, position, self.last) {
            Outcome::Then(Request::Beat { over }) => {
                // Refused once more, it is tried again with the next turn.
                let _told = self.beat_over(over, mark, sent, until).await;
            }
            Outcome::Then(next) => self.put_back(next, sent, mark).await,
            Outcome::Lost(why) => self.lose(why),
            Outcome::Held { .. }
            | Outcome::AskMembers
            | Outcome::NotTaken
            | Outcome::Released
            | Outcome::LookAgain
            | Outcome::Unknown => {}
        }
    }

    fn position(&mut self, released: bool, unattended: bool) -> Write {
        self.beat += 1;
        self.ttls = lease::ttls(self.lease_time(), self.in_force);
        let facts = self.shared.facts.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let plan = facts.failsafe.as_ref().map(|question| question.plan.clone());
        self.plans.send(plan.clone());
        let position = Position {
            leader: self.name.clone(),
            beat: self.beat,
            ttl_ms: millis(self.ttls.carried),
            released,
            unattended,
            epoch: facts.epoch,
            writable: facts.writable,
            lsn: facts.lsn,
            replay_lsn: facts.replay_lsn,
            timeline: facts.timeline,
            commit_at_us: facts.commit_at_us,
            wrote_at_us: facts.wrote_at_us,
            at_us: facts.at_us,
            wal_rate_max: facts.wal_rate_max,
            primary_seen: facts.primary_seen,
            link: facts.link,
            failsafe: plan.map(|plan| plan.terms),
            consumers: facts.consumers,
        };
        // A plain struct of numbers and text always has a JSON form.
        let value = serde_json::to_vec(&position).unwrap_or_default();
        Write::put(self.path.key(Leaf::Position), value)
    }

    /// One transaction; `mark`: its beat lets PostgreSQL go on without the lease. What takes the
    /// key hangs it on the present lease.
    pub(super) async fn write(
        &mut self,
        request: Request,
        mark: bool,
        deadline: Duration,
    ) -> Result<Option<Revision>, DcsError> {
        let (leader, value) = (self.path.key(Leaf::Leader), Vec::from(self.name.as_str()));
        let conditions = request.conditions().into_iter().map(|condition| match condition {
            Condition::KeyIsOurs => Compare::ValueIs(leader.clone(), value.clone()),
            Condition::KeyIsTheLost => {
                let lost = self.lost_leader.as_ref().map_or("", MemberName::as_str);
                Compare::ValueIs(leader.clone(), lost.into())
            }
            Condition::KeyIsAbsent => Compare::Absent(leader.clone()),
            Condition::PositionAt(over) => Compare::AtRevision(self.path.key(Leaf::Position), over),
        });
        let conditions: Vec<Compare> = conditions.collect();
        let mut writes = match request.key() {
            KeyWrite::Stays => Vec::new(),
            KeyWrite::Put => {
                let lease = self.shared.lease.load(Ordering::SeqCst);
                vec![Write::Put { key: leader, value, lease }]
            }
            KeyWrite::Deleted => vec![Write::Delete(leader)],
        };
        writes.push(self.position(request.releases(), mark));
        self.dcs.write(&conditions, &writes, deadline).await
    }

    /// What the answer to the last transaction means.
    pub(super) fn outcome(
        &self,
        request: Request,
        answer: &Result<Option<Revision>, DcsError>,
        sent: Boot,
    ) -> Outcome {
        let answer = match answer {
            Ok(Some(revision)) => Answer::Written(*revision),
            Ok(None) => Answer::Refused,
            Err(_) => Answer::Nothing,
        };
        lease::outcome(request, answer, sent, self.ttls.counted)
    }

    /// The key does not hold our name any more: it vanished (a lease revoked early) or was taken.
    pub(super) async fn put_back(&mut self, request: Request, sent: Boot, mark: bool) {
        if let Err(error) = self.new_lease().await {
            tracing::warn!(%error, "the leader key has vanished and no lease can be had");
            return;
        }
        let answer = self.write(request, mark, self.call()).await;
        if let Err(error) = &answer {
            tracing::warn!(%error, "the leader key has vanished");
        }
        match self.outcome(request, &answer, sent) {
            Outcome::Held { until, beat } => {
                tracing::warn!("the leader key had vanished before its time; it is back");
                self.held(until, beat, mark);
            }
            Outcome::Lost(why) => self.lose(why),
            Outcome::Then(_)
            | Outcome::AskMembers
            | Outcome::NotTaken
            | Outcome::Released
            | Outcome::LookAgain
            | Outcome::Unknown => {}
        }
    }
}
