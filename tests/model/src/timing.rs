//! The clocks of a model: ticks, as production's points in time.

use crate::healthy::NOW;
use node_agent_core::time::Boot;
use std::time::Duration;

/// A model's clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timing {
    /// One tick, in milliseconds.
    pub tick_ms: u16,
    /// The TTL of the configuration, in ticks.
    pub ttl: u8,
}

impl Timing {
    /// So many ticks.
    #[must_use]
    pub fn ticks(self, number: u8) -> Duration {
        Duration::from_millis(u64::from(self.tick_ms) * u64::from(number))
    }

    /// The moment of so many ticks ago, where every view is of the same moment.
    #[must_use]
    pub fn ago(self, number: u8) -> Boot {
        NOW - self.ticks(number)
    }

    /// The moment that lies so many ticks ahead.
    #[must_use]
    pub fn ahead(self, number: u8) -> Boot {
        NOW + self.ticks(number)
    }

    /// How many ticks begin before that moment: what ends between two ticks ends at the later one.
    #[must_use]
    pub fn left(self, until: Boot) -> u8 {
        let left = NOW.until(until).as_millis().div_ceil(u128::from(self.tick_ms));
        u8::try_from(left).unwrap_or(u8::MAX)
    }
}
