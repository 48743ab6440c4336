//! What a promotion can lose: an upper bound in bytes and in time, and how old the observation is
//! that it rests on.
//!
//! The bound holds while the lost primary wrote WAL at no more than [`RATE_FACTOR`] times the
//! highest rate that was seen. The target's own position may have grown since it was published;
//! that only makes the true loss smaller.

use node_agent_wire::federation::{FenceAck, LossEstimate};
use node_agent_wire::position::{Position, PrimarySeen};
use node_agent_wire::{Epoch, Lsn};

/// The primary may have written this many times faster than the highest rate seen.
pub const RATE_FACTOR: u64 = 2;

/// Added to the bound in bytes: one WAL page (PostgreSQL's XLOG_BLCKSZ), for the header of a page
/// that the primary had begun.
pub const WAL_PAGE_BYTES: u64 = 8192;

/// Bytes that can have been written in `elapsed_us` at [`RATE_FACTOR`] times `rate` bytes a second.
fn growth(rate: u64, elapsed_us: i64) -> u64 {
    let elapsed = u128::try_from(elapsed_us).unwrap_or(0);
    let bytes = (u128::from(rate) * u128::from(RATE_FACTOR) * elapsed).div_ceil(1_000_000);
    u64::try_from(bytes).unwrap_or(u64::MAX)
}

/// When the primary's position was taken, at the earliest, on the target's clock: its leader
/// rewrites it within one TTL or stops, so what was read was no older than that. The primary's own
/// wall clock is not used.
fn observed_at(seen: &PrimarySeen, target: &Position) -> i64 {
    let ttl_us = i64::try_from(target.ttl_ms.saturating_mul(1000)).unwrap_or(i64::MAX);
    seen.seen_at_us.saturating_sub(ttl_us)
}

/// The estimate from the target's published position, at `now_us`, for the loss of the primary of
/// `epoch`. `received` is the target's present end of received WAL, where that is known.
#[must_use]
pub fn estimate(
    target: Option<&Position>,
    received: Option<Lsn>,
    epoch: Epoch,
    now_us: i64,
) -> LossEstimate {
    let span_us_max =
        target.and_then(|t| t.commit_at_us).map(|at| now_us.saturating_sub(at).max(0));
    let nothing =
        LossEstimate { known_bytes: 0, bytes_max: None, span_us_max, observation_age_us: None };
    let Some(target) = target else { return nothing };
    let seen = target.primary_seen.as_ref().filter(|seen| seen.epoch == epoch);
    let (Some(seen), Some(own)) = (seen, received.max(target.lsn)) else { return nothing };
    let age = now_us.saturating_sub(seen.seen_at_us).max(0);
    let since = now_us.saturating_sub(observed_at(seen, target)).max(age);
    let known_bytes = seen.lsn.bytes_since(own);
    // Positions on different timelines do not compare: then there is no bound.
    let comparable = target.timeline == Some(seen.timeline);
    let rate = seen.wal_rate_max.max(target.wal_rate_max);
    let bytes_max = comparable
        .then(|| known_bytes.saturating_add(growth(rate, since)).saturating_add(WAL_PAGE_BYTES));
    LossEstimate { known_bytes, bytes_max, span_us_max, observation_age_us: Some(age) }
}

/// The estimate when the former primary said where its WAL ends: exact in bytes.
#[must_use]
pub fn exact(
    ack: &FenceAck,
    target: Option<&Position>,
    received: Option<Lsn>,
    replayed: Option<Lsn>,
    now_us: i64,
) -> LossEstimate {
    let own = received.max(target.and_then(|t| t.lsn)).unwrap_or_default();
    let complete = replayed.max(target.and_then(|t| t.replay_lsn)) > Some(ack.checkpoint);
    let known_bytes = ack.checkpoint.bytes_since(own);
    LossEstimate {
        known_bytes,
        bytes_max: Some(if complete { 0 } else { known_bytes + WAL_PAGE_BYTES }),
        span_us_max: if complete {
            Some(0)
        } else {
            let commit = target.and_then(|t| t.commit_at_us);
            commit.map(|at| ack.at_us.max(now_us).saturating_sub(at).max(0))
        },
        observation_age_us: Some(now_us.saturating_sub(ack.at_us).max(0)),
    }
}

/// Whether a promotion with this estimate can lose anything.
#[must_use]
pub fn possible(estimate: &LossEstimate) -> bool {
    estimate.bytes_max != Some(0)
}

/// What the operator accepts at most; what is not bounded is accepted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MaxLoss {
    /// Bytes of WAL.
    pub bytes: Option<u64>,
    /// Microseconds of transactions.
    pub span_us: Option<i64>,
}

impl MaxLoss {
    /// Whether the estimate stays within each bound. One that is unknown does not.
    #[must_use]
    pub fn allows(self, estimate: &LossEstimate) -> bool {
        let bytes = self.bytes.is_none_or(|limit| estimate.bytes_max.is_some_and(|m| m <= limit));
        let span =
            self.span_us.is_none_or(|limit| estimate.span_us_max.is_some_and(|m| m <= limit));
        !possible(estimate) || bytes && span
    }
}

#[cfg(test)]
#[path = "loss_tests.rs"]
mod tests;
