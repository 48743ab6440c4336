//! What a beat says.

use super::{Thread, millis};
use crate::dcs::{Compare, Write};
use node_agent_core::time::Boot;
use node_agent_wire::keys::Leaf;
use node_agent_wire::position::Position;
use std::sync::PoisonError;

impl Thread {
    pub(super) fn position(&mut self, released: bool, unattended: bool) -> Write {
        self.beat += 1;
        self.beat_ttl = self.ttl();
        let facts = self.shared.facts.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let plan = facts.failsafe.as_ref().map(|question| question.plan.clone());
        self.plans.send(plan.clone());
        let position = Position {
            leader: self.name.clone(),
            beat: self.beat,
            ttl_ms: millis(self.beat_ttl),
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
        };
        // A plain struct of numbers and text always has a JSON form.
        let value = serde_json::to_vec(&position).unwrap_or_default();
        Write::put(self.path.key(Leaf::Position), value)
    }

    /// The key does not hold our name any more. If it vanished (a lease revoked early) and nobody
    /// has beaten since, it is put back; otherwise the leadership is lost.
    pub(super) async fn put_back(&mut self, sent: Boot, leader: &str, mark: bool) {
        let Some(last) = self.last else {
            return self.lose("another node holds the leader key");
        };
        let lease = match self.new_lease().await {
            Ok(lease) => lease,
            Err(error) => {
                tracing::warn!(%error, "the leader key has vanished and no lease can be had");
                return;
            }
        };
        let conditions = [
            Compare::Absent(leader.to_owned()),
            Compare::AtRevision(self.path.key(Leaf::Position), last),
        ];
        let writes = [
            Write::Put { key: leader.to_owned(), value: self.name.as_str().into(), lease },
            self.position(false, mark),
        ];
        match self.dcs.write(&conditions, &writes, self.call()).await {
            Ok(Some(revision)) => {
                tracing::warn!("the leader key had vanished before its time; it is back");
                self.held(sent, revision, mark);
            }
            Ok(None) => self.lose("another node holds the leader key"),
            Err(error) => tracing::warn!(%error, "the leader key has vanished"),
        }
    }
}
