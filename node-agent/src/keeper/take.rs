//! Taking the leader key and giving it back.

use super::Thread;
use crate::clock;
use crate::dcs::DcsError;
use node_agent_core::lease::{self, Outcome, Request};
use node_agent_wire::keys::Leaf;
use node_agent_wire::{MemberName, Revision};
use std::sync::PoisonError;
use std::sync::atomic::Ordering;

/// On what the leader key is taken: it is absent or the lost leader's, and nobody has beaten since;
/// or it is this node's own.
#[derive(Clone, Debug, Default)]
pub struct Bid {
    /// The revision of `position` that this was decided on; 0: absent.
    pub position: Revision,
    /// The leader whose key is replaced.
    pub over: Option<MemberName>,
}

impl Thread {
    pub(super) async fn acquire(&mut self, bid: Bid) -> Result<bool, DcsError> {
        let lease = match self.shared.lease.load(Ordering::SeqCst) {
            0 => self.new_lease().await?,
            lease => lease,
        };
        // An old lease may be near its end: the key must not hang on it.
        match self.dcs.keep_alive(lease, self.call()).await {
            Ok(()) => {}
            Err(DcsError::LeaseGone(_)) => {
                self.new_lease().await?;
            }
            Err(error) => return Err(error),
        }
        let mark = {
            let facts = self.shared.facts.lock().unwrap_or_else(PoisonError::into_inner);
            self.in_force = self.in_force.max(facts.was_ttl);
            lease::mark_of_acquisition(facts.unattended, self.kept(), facts.was_unattended)
        };
        let over = bid.position;
        self.lost_leader = bid.over;
        let mut request = match self.lost_leader {
            Some(_) => Request::Replace { over },
            None => Request::Acquire { over },
        };
        loop {
            let sent = clock::boot();
            let answer = self.write(request, mark, self.call()).await;
            match self.outcome(request, &answer, sent) {
                Outcome::Held { until, beat } => {
                    self.held(until, beat, mark);
                    return Ok(true);
                }
                Outcome::Then(next) => request = next,
                Outcome::AskMembers
                | Outcome::Lost(_)
                | Outcome::NotTaken
                | Outcome::Released
                | Outcome::LookAgain
                | Outcome::Unknown => return answer.map(|_| false),
            }
        }
    }

    pub(super) async fn release(&mut self) -> Result<(), DcsError> {
        self.shared.held_until.store(0, Ordering::SeqCst);
        self.set_kept(false);
        if let Some(over) = self.last.take() {
            let request = Request::Release { over };
            let answer = self.write(request, false, self.call()).await;
            if self.outcome(request, &answer, clock::boot()) != Outcome::LookAgain {
                return answer.map(|_| ());
            }
        }
        // The answer to a beat was lost, or the key is another's by now.
        let found = self.dcs.read(self.path.prefix(), self.call()).await?;
        let at = |leaf| found.keys.get(&self.path.key(leaf));
        let mine = at(Leaf::Leader).is_some_and(|key| key.value == self.name.as_str().as_bytes());
        if let Some(position) = at(Leaf::Position).filter(|_| mine) {
            let request = Request::Release { over: position.revision };
            self.write(request, false, self.call()).await?;
        }
        Ok(())
    }
}
