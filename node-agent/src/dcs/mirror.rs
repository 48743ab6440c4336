//! The cluster's keys as the watch tells them, so that a pass of a quiet cluster asks nothing.
//!
//! What is kept here may be old by as much as the watch lags. It serves while something was heard
//! lately, which the leader's beats see to; otherwise, and after every write of this node until the
//! watch has told it back, the store itself is read. A decision that can't be taken back is made
//! again from a read of its own: see `Agent::pass`.

use super::{Answer, Change, Changes, Compare, Dcs, DcsError, RawCluster, RawKey, Write};
use crate::clock;
use node_agent_core::time::Boot;
use node_agent_wire::Revision;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// The keys, and how far they can be trusted.
#[derive(Default)]
struct Kept {
    raw: RawCluster,
    /// The watch lives.
    watched: bool,
    /// When the watch or a read last said something.
    heard_at: Boot,
    /// Nothing older than this serves: this node has written it.
    least: Revision,
    /// Older than this is too old.
    age_max: Duration,
}

/// The mirror of one prefix.
#[derive(Default)]
pub struct Mirror(Mutex<Kept>);

impl Mirror {
    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How long after the last word of the watch the mirror still serves: longer than the pause
    /// between two beats of a leader, and less than two of them.
    pub fn trust_for(&self, age_max: Duration) {
        self.kept().age_max = age_max;
    }

    /// A read of the whole prefix.
    pub fn replace(&self, raw: &RawCluster, now: Boot) {
        let mut kept = self.kept();
        if raw.revision >= kept.raw.revision {
            kept.raw = raw.clone();
            kept.heard_at = now;
        }
    }

    /// The watch has begun, at what [`Mirror::replace`] was last given.
    pub fn watched(&self) {
        self.kept().watched = true;
    }

    /// The watch has ended: what changes from now on is not seen.
    pub fn unwatched(&self) {
        self.kept().watched = false;
    }

    /// What the watch says. Changes that a read has brought already are passed over.
    pub fn heard(&self, batch: &[Change], now: Boot) {
        let mut kept = self.kept();
        let known = kept.raw.revision;
        for change in batch.iter().filter(|change| change.revision > known) {
            match &change.value {
                Some(value) => {
                    let raw = RawKey {
                        value: value.clone(),
                        revision: change.revision,
                        lease: change.lease,
                    };
                    kept.raw.keys.insert(change.key.clone(), raw);
                }
                None => {
                    kept.raw.keys.remove(&change.key);
                }
            }
            kept.raw.revision = kept.raw.revision.max(change.revision);
        }
        kept.heard_at = now;
    }

    /// The keys, when they can be trusted at this moment.
    #[must_use]
    pub fn fresh(&self, now: Boot) -> Option<(RawCluster, Boot)> {
        let kept = self.kept();
        let young = now.since(kept.heard_at) < kept.age_max;
        let complete = kept.watched && kept.raw.revision >= kept.least;
        (young && complete).then(|| (kept.raw.clone(), kept.heard_at))
    }

    /// From now on only what is at least as new as this serves.
    fn demand(&self, least: Revision) {
        let mut kept = self.kept();
        kept.least = kept.least.max(least);
    }

    /// What is kept may be wrong: the store must be read, or the watch must say something.
    pub fn doubt(&self) {
        self.kept().heard_at = Boot(0);
    }
}

/// A store with a mirror of one prefix before it.
pub struct Mirrored {
    /// The store.
    pub store: Arc<dyn Dcs>,
    /// What the watch has told of it.
    pub mirror: Arc<Mirror>,
}

impl Mirrored {
    /// The keys under the mirror's prefix, and when they were current at the latest: out of the
    /// mirror while it can be trusted, unless `anew`.
    ///
    /// # Errors
    /// When the store had to be read and did not answer.
    pub async fn cluster(
        &self,
        prefix: &str,
        anew: bool,
        deadline: Duration,
    ) -> Result<(RawCluster, Boot), DcsError> {
        let begun = clock::boot();
        if !anew && let Some(fresh) = self.mirror.fresh(begun) {
            return Ok(fresh);
        }
        let raw = self.store.read(prefix, deadline).await?;
        self.mirror.replace(&raw, begun);
        Ok((raw, begun))
    }
}

impl Dcs for Mirrored {
    fn read<'a>(&'a self, prefix: &'a str, deadline: Duration) -> Answer<'a, RawCluster> {
        self.store.read(prefix, deadline)
    }

    fn write<'a>(
        &'a self,
        conditions: &'a [Compare],
        writes: &'a [Write],
        deadline: Duration,
    ) -> Answer<'a, Option<Revision>> {
        Box::pin(async move {
            let written = self.store.write(conditions, writes, deadline).await;
            match &written {
                Ok(Some(revision)) => self.mirror.demand(*revision),
                // It was made from something old, or nobody knows what became of it.
                Ok(None) | Err(_) => self.mirror.doubt(),
            }
            written
        })
    }

    fn grant(&self, ttl: Duration, deadline: Duration) -> Answer<'_, i64> {
        self.store.grant(ttl, deadline)
    }

    fn keep_alive(&self, lease: i64, deadline: Duration) -> Answer<'_, ()> {
        self.store.keep_alive(lease, deadline)
    }

    fn revoke(&self, lease: i64, deadline: Duration) -> Answer<'_, ()> {
        self.mirror.doubt();
        self.store.revoke(lease, deadline)
    }

    fn watch<'a>(
        &'a self,
        prefix: &'a str,
        after: Revision,
        deadline: Duration,
    ) -> Answer<'a, Box<dyn Changes>> {
        self.store.watch(prefix, after, deadline)
    }

    fn version(&self, deadline: Duration) -> Answer<'_, String> {
        self.store.version(deadline)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn at(seconds: u64) -> Boot {
        Boot(seconds * SECOND)
    }

    fn put(key: &str, revision: i64) -> Change {
        Change {
            key: key.into(),
            value: Some(revision.to_string().into_bytes()),
            created: false,
            revision: Revision(revision),
            lease: 7,
        }
    }

    fn gone(key: &str, revision: i64) -> Change {
        Change { value: None, ..put(key, revision) }
    }

    /// Read at revision 10 and at second 100; trusted for 4 s.
    fn mirror() -> Mirror {
        let mirror = Mirror::default();
        mirror.trust_for(Duration::from_secs(4));
        let mut raw = RawCluster { revision: Revision(10), ..RawCluster::default() };
        let key = RawKey { value: b"4".to_vec(), revision: Revision(4), lease: 0 };
        raw.keys.insert("a".into(), key);
        mirror.replace(&raw, at(100));
        mirror.watched();
        mirror
    }

    fn values(mirror: &Mirror, now: Boot) -> Option<Vec<(String, String)>> {
        let (raw, _) = mirror.fresh(now)?;
        let text = |value: &[u8]| String::from_utf8_lossy(value).into_owned();
        Some(raw.keys.iter().map(|(k, v)| (k.clone(), text(&v.value))).collect())
    }

    #[test]
    fn it_serves_while_something_was_heard_lately_and_the_watch_lives() {
        let mirror = mirror();
        assert!(mirror.fresh(at(103)).is_some());
        assert!(mirror.fresh(at(104)).is_none(), "4 s of silence");
        mirror.heard(&[put("a", 11)], at(105));
        assert!(mirror.fresh(at(106)).is_some());
        mirror.unwatched();
        assert!(mirror.fresh(at(106)).is_none(), "no watch");
    }

    #[test]
    fn changes_that_a_read_has_brought_are_passed_over() {
        let mirror = mirror();
        mirror.heard(&[put("a", 9), gone("a", 10), put("b", 12), put("c", 12)], at(101));
        mirror.heard(&[gone("c", 13)], at(101));
        let expected = [("a", "4"), ("b", "12")].map(|(k, v)| (k.to_owned(), v.to_owned()));
        assert_eq!(values(&mirror, at(102)), Some(expected.to_vec()));
        let old = RawCluster { revision: Revision(12), ..RawCluster::default() };
        mirror.replace(&old, at(103));
        assert_eq!(values(&mirror, at(103)), Some(expected.to_vec()), "an older read came late");
    }

    #[test]
    fn after_an_own_write_only_what_holds_it_serves() {
        let mirror = mirror();
        mirror.demand(Revision(12));
        assert!(mirror.fresh(at(101)).is_none());
        mirror.heard(&[put("b", 11)], at(101));
        assert!(mirror.fresh(at(101)).is_none(), "the watch lags behind the write");
        mirror.heard(&[put("b", 12)], at(101));
        assert!(mirror.fresh(at(101)).is_some());
        mirror.doubt();
        assert!(mirror.fresh(at(101)).is_none());
    }
}
