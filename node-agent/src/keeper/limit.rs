//! In lease mode the right to write ends with the site grants too: the guard's deadline is the
//! earlier of the two.

use super::{Keeper, Thread};
use node_agent_core::time::Boot;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use tokio::sync::Notify;

/// Shared between the loop, the lease keeper and the grant keeper.
#[derive(Debug, Default)]
pub struct Limit {
    enforced: AtomicBool,
    /// End of the majority of grants; 0: none.
    until: AtomicU64,
    alive_at: AtomicU64,
    moved: Notify,
}

impl Limit {
    /// Whether this datacenter writes only while it holds a majority of the grants.
    pub fn enforce(&self, enforced: bool) {
        if !self.enforced.swap(enforced, Ordering::SeqCst) && enforced {
            // The guard may have a deadline of the lease alone.
            self.moved.notify_one();
        }
    }

    /// The majority is held until then.
    pub fn hold_until(&self, until: Option<Boot>) {
        let until = until.map_or(0, |until| until.0);
        if self.until.swap(until, Ordering::SeqCst) < until {
            self.moved.notify_one();
        }
    }

    /// The loop was alive at that moment.
    #[must_use]
    pub fn alive_at(&self) -> Boot {
        Boot(self.alive_at.load(Ordering::SeqCst))
    }

    pub(super) fn stamp(&self, now: Boot) {
        self.alive_at.store(now.0, Ordering::SeqCst);
    }

    /// The end of the right to write, by the end of the lease. `None`: no grants, so the guard
    /// keeps the deadline that it has.
    #[must_use]
    pub fn cap(&self, lease_end: Boot) -> Option<Boot> {
        if !self.enforced.load(Ordering::SeqCst) {
            return Some(lease_end);
        }
        match self.until.load(Ordering::SeqCst) {
            0 => None,
            until => Some(lease_end.min(Boot(until))),
        }
    }

    pub(super) async fn moved(&self) {
        self.moved.notified().await;
    }
}

impl Keeper {
    /// The right to write ends here, by the lease and the grants; in the past when there is none.
    #[must_use]
    pub fn write_until(&self) -> Boot {
        let lease = self.held_until().unwrap_or_default();
        self.shared.limit.cap(lease).unwrap_or_default()
    }
}

impl Thread {
    /// The grants last longer than before.
    pub(super) fn grants_moved(&mut self) {
        let until = Boot(self.shared.held_until.load(Ordering::SeqCst));
        let armed = self.shared.armed.load(Ordering::SeqCst);
        if until != Boot(0) && armed && !self.kept() {
            self.tell_guard(until);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_earlier_end_counts_and_without_grants_the_guard_is_left_alone() {
        let limit = Limit::default();
        assert_eq!(limit.cap(Boot(9)), Some(Boot(9)), "not enforced");
        limit.enforce(true);
        assert_eq!(limit.cap(Boot(9)), None, "no majority");
        for (until, expected) in [(5, 5), (9, 9), (20, 9)] {
            limit.hold_until(Some(Boot(until)));
            assert_eq!(limit.cap(Boot(9)), Some(Boot(expected)), "{until}");
        }
        limit.hold_until(None);
        assert_eq!(limit.cap(Boot(9)), None, "given up");
    }
}
