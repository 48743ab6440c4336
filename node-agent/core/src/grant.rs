//! Site grants: in lease mode a datacenter may write only while a majority of the voters (every
//! datacenter's DCS, and the witness) grant it the present epoch.
//!
//! The holder counts a grant from the moment at which it *sent* the last renewal that succeeded, a
//! voter from the moment at which it committed it: delay only makes the holder stop earlier. Only
//! durations are compared across machines.
//!
//! A grant's key that is gone is no proof that its time has passed (etcd#15247). So whoever wants a
//! voter's grant waits, beside the key's own expiry, until its own clock has seen no renewal there
//! for the voter's TTL ([`may_take`]); a marker that a clean release leaves skips the wait.

use crate::time::Boot;
use node_agent_wire::grant::GrantPolicy;
pub use node_agent_wire::grant::majority;
use node_agent_wire::{DcName, Epoch};
use std::collections::BTreeMap;
use std::time::Duration;

/// The durations that a federation in lease mode agrees on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Terms {
    /// How long the holder may write on one renewal, by its own clock.
    pub holder_ttl: Duration,
    /// By how much the rates of two clocks may differ, in millionths.
    pub clock_error_ppm: u32,
    /// The longest time from losing the right to the last commit that is acknowledged.
    pub stop_max: Duration,
    /// On top of all.
    pub margin: Duration,
}

impl Terms {
    /// Those of a record.
    #[must_use]
    pub fn of(policy: &GrantPolicy) -> Self {
        Self {
            holder_ttl: Duration::from_millis(policy.holder_ttl_ms),
            clock_error_ppm: policy.clock_error_ppm,
            stop_max: Duration::from_millis(policy.stop_max_ms),
            margin: Duration::from_millis(policy.margin_ms),
        }
    }

    /// How long before the end of the right a primary begins to stop, so that it stops cleanly.
    #[must_use]
    pub fn stop_ahead(&self) -> Duration {
        self.holder_ttl / 5
    }

    /// Between two renewals.
    #[must_use]
    pub fn period(&self) -> Duration {
        self.holder_ttl / 3
    }

    /// What a challenger waits when the last holder told it to wait for `told`: its own record may
    /// be of another time.
    fn wait(&self, told: Duration) -> Duration {
        self.voter_ttl().max(told)
    }

    /// How long a voter keeps a grant that is not renewed, by the voter's clock, and how long a
    /// challenger must have seen no renewal, by its own: longer than the holder can still write.
    #[must_use]
    pub fn voter_ttl(&self) -> Duration {
        let drift = self.holder_ttl.as_nanos() * u128::from(self.clock_error_ppm) / 1_000_000;
        let drift = Duration::from_nanos(u64::try_from(drift).unwrap_or(u64::MAX));
        self.holder_ttl.saturating_add(drift).saturating_add(self.stop_max) + self.margin
    }
}

/// Until when a datacenter may write: the moment at which fewer than a majority of `voters` remain
/// that granted it `epoch`. `sent` has, for each voter, the epoch of the last renewal that
/// succeeded and the moment at which it was sent.
#[must_use]
pub fn held_until<V: Ord>(
    voters: usize,
    sent: &BTreeMap<V, (Epoch, Boot)>,
    epoch: Epoch,
    terms: &Terms,
) -> Option<Boot> {
    let mut ends: Vec<Boot> = sent
        .values()
        .filter(|(granted, _)| *granted == epoch)
        .map(|(_, sent)| *sent + terms.holder_ttl)
        .collect();
    ends.sort_unstable_by(|a, b| b.cmp(a));
    ends.get(majority(voters) - 1).copied()
}

/// The last word about a voter's grant: the marker beside the key, which outlives it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LastGrant {
    /// Who had it.
    pub holder: DcName,
    /// At which epoch.
    pub epoch: Epoch,
    /// Given back after the holder had stopped writing.
    pub released: bool,
    /// What the holder told others to wait.
    pub wait: Duration,
}

/// One voter, as who wants its grant sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Voter {
    /// The marker; `None`: never granted to anybody.
    pub last: Option<LastGrant>,
    /// The key is there: granted to the holder in the marker.
    pub held: bool,
    /// When this machine first saw the last renewal there. A marker that is still at its revision
    /// after a time without connection was not renewed meanwhile.
    pub quiet_since: Boot,
}

/// Why a grant can't be taken now.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotGranted {
    /// Somebody else has it.
    #[error("{holder} holds the grant for epoch {epoch}")]
    Held {
        /// Who.
        holder: DcName,
        /// At which epoch.
        epoch: Epoch,
    },
    /// The voter has granted a later epoch, or this one to somebody else: both are final.
    #[error("epoch {epoch} was granted to {holder}")]
    EpochTaken {
        /// To whom.
        holder: DcName,
        /// Which.
        epoch: Epoch,
    },
    /// The last holder may still write.
    #[error("{holder} may still write for {} ms", left.as_millis())]
    ObserverWait {
        /// Who.
        holder: DcName,
        /// For how long at most.
        left: Duration,
    },
}

/// Whether `me` may take the voter's grant for `epoch` now. Another node of the same datacenter
/// takes it over at the same epoch without a wait: inside a datacenter the leader key decides.
///
/// # Errors
/// What stands in the way.
pub fn may_take(
    voter: &Voter,
    me: &DcName,
    epoch: Epoch,
    now: Boot,
    terms: &Terms,
) -> Result<(), NotGranted> {
    let Some(last) = &voter.last else { return Ok(()) };
    let holder = || last.holder.clone();
    if last.epoch > epoch || last.epoch == epoch && last.holder != *me {
        return Err(NotGranted::EpochTaken { holder: holder(), epoch: last.epoch });
    }
    if last.holder == *me || last.released {
        return Ok(());
    }
    if voter.held {
        return Err(NotGranted::Held { holder: holder(), epoch: last.epoch });
    }
    let left = now.until(voter.quiet_since + terms.wait(last.wait));
    if left.is_zero() { Ok(()) } else { Err(NotGranted::ObserverWait { holder: holder(), left }) }
}

/// What a renewal tells others to wait. After the terms got shorter the longer time is told for as
/// long as a right may last that was counted with it. `before`: what this datacenter told last, and
/// until when that may count.
#[must_use]
pub fn told_wait(terms: &Terms, before: Option<(Duration, Boot)>, now: Boot) -> Duration {
    match before {
        Some((wait, until)) if now < until => terms.wait(wait),
        Some(_) | None => terms.voter_ttl(),
    }
}

/// When a majority of `voters` could be had for `epoch`, from `now` on: at the earliest, if nobody
/// renews meanwhile. `None`: too few answer, or they are somebody else's for good.
#[must_use]
pub fn claimable_in<'v>(
    voters: usize,
    seen: impl Iterator<Item = &'v Voter>,
    me: &DcName,
    epoch: Epoch,
    now: Boot,
    terms: &Terms,
) -> Option<Duration> {
    let mut waits: Vec<Duration> = seen
        .filter_map(|voter| match may_take(voter, me, epoch, now, terms) {
            Ok(()) => Some(Duration::ZERO),
            Err(NotGranted::ObserverWait { left, .. }) => Some(left),
            Err(NotGranted::Held { .. }) => {
                let told = voter.last.as_ref().map_or(Duration::ZERO, |last| last.wait);
                // A key that outlives the wait is about to expire.
                let left = now.until(voter.quiet_since + terms.wait(told));
                Some(left.max(Duration::from_millis(1)))
            }
            Err(NotGranted::EpochTaken { .. }) => None,
        })
        .collect();
    waits.sort_unstable();
    waits.get(majority(voters) - 1).copied()
}

/// Proof that a datacenter holds a majority of the grants for an epoch: what the evidence
/// `lease-expired` rests on. Only [`Majority::of`] makes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Majority {
    epoch: Epoch,
    until: Boot,
}

impl Majority {
    /// Counts the grants that are held at this moment.
    #[must_use]
    pub fn of<V: Ord>(
        voters: usize,
        sent: &BTreeMap<V, (Epoch, Boot)>,
        epoch: Epoch,
        terms: &Terms,
        now: Boot,
    ) -> Option<Self> {
        let until = held_until(voters, sent, epoch, terms)?;
        (now < until).then_some(Self { epoch, until })
    }

    /// The epoch.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// The right ends here.
    #[must_use]
    pub fn until(&self) -> Boot {
        self.until
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const NOW: Boot = Boot(1_000_000_000_000);

    fn terms() -> Terms {
        Terms { holder_ttl: SECOND * 10, clock_error_ppm: 1000, stop_max: SECOND, margin: SECOND }
    }

    #[test]
    fn a_voter_waits_longer_than_the_holder_can_write() {
        assert_eq!(terms().voter_ttl(), Duration::from_millis(12_010));
        assert_eq!([1, 2, 3, 4, 5].map(majority), [1, 2, 2, 3, 3]);
    }

    #[test]
    fn the_right_ends_when_the_majority_does() {
        let at = |seconds: u32| NOW + SECOND * seconds;
        let (one, two) = (Epoch(1), Epoch(2));
        for (what, sent, expected) in [
            ("all", vec![(1, one, 1), (2, one, 2), (3, one, 3)], Some(at(12))),
            ("two", vec![(1, one, 1), (3, one, 3)], Some(at(11))),
            ("one", vec![(3, one, 3)], None),
            ("one of another epoch", vec![(1, two, 1), (2, one, 2)], None),
            ("none", vec![], None),
        ] {
            let sent: BTreeMap<i32, (Epoch, Boot)> =
                sent.into_iter().map(|(voter, epoch, s)| (voter, (epoch, at(s)))).collect();
            assert_eq!(held_until(3, &sent, one, &terms()), expected, "{what}");
            let now = Majority::of(3, &sent, one, &terms(), at(11)).map(|m| (m.epoch(), m.until()));
            let held = expected.filter(|until| at(11) < *until).map(|until| (one, until));
            assert_eq!(now, held, "{what}");
        }
    }

    #[test]
    fn a_grant_is_taken_when_its_last_holder_can_write_no_more() {
        let last = |holder: &str, epoch, released| {
            let wait = Duration::ZERO;
            Some(LastGrant { holder: holder.into(), epoch: Epoch(epoch), released, wait })
        };
        let (ok, dc1) = (Ok(()), || DcName::from("dc1"));
        let held = Err(NotGranted::Held { holder: dc1(), epoch: Epoch(1) });
        let wait = |left| Err(NotGranted::ObserverWait { holder: dc1(), left });
        let taken = |holder: &str, epoch| {
            Err(NotGranted::EpochTaken { holder: holder.into(), epoch: Epoch(epoch) })
        };
        for (what, last, is_held, quiet, expected) in [
            ("never granted", None, false, 0, ok.clone()),
            ("held", last("dc1", 1, false), true, 60, held),
            ("gone early", last("dc1", 1, false), false, 12, wait(Duration::from_millis(10))),
            ("gone for long", last("dc1", 1, false), false, 13, ok.clone()),
            ("released", last("dc1", 1, true), false, 0, ok.clone()),
            ("own, of a node that died", last("dc2", 2, false), true, 0, ok.clone()),
            ("own, of an earlier epoch", last("dc2", 1, false), true, 0, ok),
            ("of a later epoch", last("dc3", 3, true), false, 60, taken("dc3", 3)),
            ("this epoch, another's", last("dc3", 2, true), false, 60, taken("dc3", 2)),
        ] {
            let voter = Voter { last, held: is_held, quiet_since: NOW - SECOND * quiet };
            let found = may_take(&voter, &"dc2".into(), Epoch(2), NOW, &terms());
            assert_eq!(found, expected, "{what}");
        }
    }

    #[test]
    fn the_longer_of_two_waits_counts() {
        let told = Duration::from_secs(20);
        let last = LastGrant { holder: "dc1".into(), epoch: Epoch(1), released: false, wait: told };
        let seen = |ago| Voter { last: Some(last.clone()), held: false, quiet_since: NOW - ago };
        let take = |ago| may_take(&seen(ago), &"dc2".into(), Epoch(2), NOW, &terms());
        let left = SECOND * 5;
        assert_eq!(take(SECOND * 15), Err(NotGranted::ObserverWait { holder: "dc1".into(), left }));
        assert_eq!(take(told), Ok(()));
        for (before, expected) in [
            (None, terms().voter_ttl()),
            (Some((told, NOW + SECOND)), told),
            (Some((told, NOW)), terms().voter_ttl()),
            (Some((SECOND, NOW + SECOND)), terms().voter_ttl()),
        ] {
            assert_eq!(told_wait(&terms(), before, NOW), expected, "{before:?}");
        }
    }

    #[test]
    fn a_majority_can_be_had_when_enough_voters_can() {
        let last = |holder: &str, epoch| {
            let wait = Duration::ZERO;
            Some(LastGrant { holder: holder.into(), epoch: Epoch(epoch), released: false, wait })
        };
        let free = Voter { last: None, held: false, quiet_since: NOW };
        let quiet =
            |s: u32, held| Voter { last: last("dc1", 1), held, quiet_since: NOW - SECOND * s };
        let taken = Voter { last: last("dc3", 2), held: true, quiet_since: NOW };
        let (wait, none) = (Duration::from_millis, None);
        for (what, seen, expected) in [
            ("one answers", vec![free.clone()], none),
            ("two are free", vec![free.clone(), free.clone()], Some(Duration::ZERO)),
            ("the second one counts", vec![quiet(10, false), free.clone()], Some(wait(2010))),
            ("held and quiet", vec![quiet(2, true), quiet(5, true)], Some(wait(10_010))),
            ("its key is about to go", vec![quiet(60, true), free.clone()], Some(wait(1))),
            ("another's for good", vec![taken, free], none),
        ] {
            let found = claimable_in(3, seen.iter(), &"dc2".into(), Epoch(2), NOW, &terms());
            assert_eq!(found, expected, "{what}");
        }
    }
}
