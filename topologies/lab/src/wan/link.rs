//! One direction between two datacenters: which packet is lost and when each of the others
//! arrives. Pure: time comes from the caller, chance from a seed, so that the same packets at the
//! same times meet the same fates again.

use std::collections::VecDeque;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::shape::{Loss, Shape};

/// A packet that would wait longer for the line finds the queue full, as in a real router.
const QUEUE_TIME: Duration = Duration::from_millis(200);

/// What becomes of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It arrives at this time.
    Arrives(Duration),
    /// Chance took it.
    Lost,
    /// The queue before the line is full.
    Full,
    /// The direction is cut.
    Cut,
}

/// How many packets met which fate.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Handed over at the other end.
    pub arrived: u64,
    /// Lost by chance.
    pub lost: u64,
    /// Lost because the queue was full.
    pub full: u64,
    /// Lost in a cut, under way or since.
    pub cut: u64,
}

/// One direction.
#[derive(Debug)]
pub struct Link {
    shape: Shape,
    cut: bool,
    chance: fastrand::Rng,
    /// When the line has taken up everything before.
    line_free: Duration,
    /// When the last packet arrives: none overtakes another.
    last: Duration,
    under_way: VecDeque<(Duration, Vec<u8>)>,
    counts: Counts,
}

impl Link {
    /// A direction that is whole; `chance` decides about loss and jitter.
    #[must_use]
    pub fn new(shape: Shape, chance: fastrand::Rng) -> Self {
        Self {
            shape,
            cut: false,
            chance,
            line_free: Duration::ZERO,
            last: Duration::ZERO,
            under_way: VecDeque::new(),
            counts: Counts::default(),
        }
    }

    /// Takes a packet at `now`, counted from any fixed moment.
    pub fn offer(&mut self, now: Duration, packet: Vec<u8>) -> Fate {
        // Both are drawn for each packet, so that a change of the shape moves no later draw.
        let (loss, jitter) = (self.chance.u32(0..Loss::DRAWS), self.chance.f64());
        let fate = self.fate(now, packet.len(), loss, jitter);
        match fate {
            Fate::Arrives(at) => self.under_way.push_back((at, packet)),
            Fate::Lost => self.counts.lost += 1,
            Fate::Full => self.counts.full += 1,
            Fate::Cut => self.counts.cut += 1,
        }
        fate
    }

    fn fate(&mut self, now: Duration, bytes: usize, loss: u32, jitter: f64) -> Fate {
        if self.cut {
            return Fate::Cut;
        }
        let begins = self.line_free.max(now);
        if begins - now > QUEUE_TIME {
            return Fate::Full;
        }
        let sent = begins + self.shape.rate.time_for(bytes);
        self.line_free = sent;
        if self.shape.loss.takes(loss) {
            return Fate::Lost;
        }
        let late = self.shape.jitter.0.mul_f64(jitter);
        self.last = self.last.max(sent + self.shape.rtt.0 / 2 + late);
        Fate::Arrives(self.last)
    }

    /// When the next packet arrives.
    #[must_use]
    pub fn next(&self) -> Option<Duration> {
        self.under_way.front().map(|(at, _)| *at)
    }

    /// The next packet that has arrived by `now`.
    pub fn take(&mut self, now: Duration) -> Option<Vec<u8>> {
        if self.next().is_none_or(|at| at > now) {
            return None;
        }
        let (_, packet) = self.under_way.pop_front()?;
        self.counts.arrived += 1;
        Some(packet)
    }

    /// Cuts the direction: what is under way is lost, too.
    pub fn cut(&mut self) {
        self.cut = true;
        self.counts.cut += u64::try_from(self.under_way.len()).unwrap_or(u64::MAX);
        self.under_way.clear();
    }

    /// Packets arrive again.
    pub fn heal(&mut self) {
        self.cut = false;
    }

    /// From now on packets fare otherwise; those under way arrive as they would have.
    pub fn reshape(&mut self, shape: Shape) {
        self.shape = shape;
    }

    /// How packets fare.
    #[must_use]
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// Whether it is cut.
    #[must_use]
    pub fn is_cut(&self) -> bool {
        self.cut
    }

    /// What became of the packets so far.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.counts
    }
}

#[cfg(test)]
#[path = "link_tests.rs"]
mod tests;
