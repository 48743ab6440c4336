//! How the copy of a new datacenter comes along, in words: bytes, rate, what is left.

use std::collections::VecDeque;

/// Over how many looks the rate is taken.
const LOOKS_MAX: usize = 40;

/// One copy, as it was seen.
#[derive(Clone, Debug, Default)]
pub struct Copy {
    /// Milliseconds since some beginning, and the bytes that had arrived.
    seen: VecDeque<(u64, u64)>,
    /// When this attempt was first seen and what had arrived by then, and all that is expected.
    begun: Option<(u64, u64, u64)>,
}

/// A shorter copy says nothing of a rate.
const MEASURED_MS_MIN: u64 = 1000;

impl Copy {
    /// Notes how far it is, and says it. Times only need to grow.
    pub fn saw(&mut self, at_ms: u64, done: u64, total: u64) -> String {
        if self.seen.back().is_some_and(|(_, before)| *before > done) {
            self.seen.clear(); // Another attempt.
            self.begun = None;
        }
        self.seen.push_back((at_ms, done));
        if self.seen.len() > LOOKS_MAX {
            self.seen.pop_front();
        }
        let total = total.max(done);
        let (from, before, _) = self.begun.unwrap_or((at_ms, done, total));
        self.begun = Some((from, before, total));
        let percent = done.saturating_mul(100).checked_div(total).unwrap_or(0);
        let rate = self.rate();
        let left = match rate {
            Some(rate) if rate > 0 => {
                format!(", {}/s, {} left", size(rate), span((total - done) / rate))
            }
            Some(_) => ", nothing arrives".to_owned(),
            None => String::new(),
        };
        format!("{} of {} ({percent} %){left}", size(done), size(total))
    }

    /// Bytes and milliseconds of a copy that has ended well by now; `None` when it was too short.
    #[must_use]
    pub fn measured(&self, at_ms: u64) -> Option<(u64, u64)> {
        let (from, before, total) = self.begun?;
        let (bytes, took) = (total.saturating_sub(before), at_ms.saturating_sub(from));
        (took >= MEASURED_MS_MIN && bytes > 0).then_some((bytes, took))
    }

    /// Bytes a second; `None` before two looks at different times.
    fn rate(&self) -> Option<u64> {
        let ((from, before), (to, now)) = (self.seen.front()?, self.seen.back()?);
        let took = to.saturating_sub(*from);
        (now - before).saturating_mul(1000).checked_div(took)
    }
}

/// Bytes as PostgreSQL writes them.
#[must_use]
pub fn size(count: u64) -> String {
    match count {
        0..10_240 => format!("{count} B"),
        10_240..10_485_760 => format!("{} kB", count >> 10),
        10_485_760..10_737_418_240 => format!("{} MB", count >> 20),
        _ => format!("{} GB", count >> 30),
    }
}

fn span(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        _ => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_a_copy() {
        const MB: u64 = 1 << 20;
        let mut copy = Copy::default();
        assert_eq!(copy.saw(0, 0, 1000 * MB), "0 B of 1000 MB (0 %)");
        let second = copy.saw(2000, 40 * MB, 1000 * MB);
        assert_eq!(second, "40 MB of 1000 MB (4 %), 20 MB/s, 48 s left");
        let grown = copy.saw(4000, 80 * MB, 20_000 * MB);
        assert_eq!(grown, "80 MB of 19 GB (0 %), 20 MB/s, 16 min left");
        assert_eq!(copy.saw(5000, MB, 1000 * MB), "1024 kB of 1000 MB (0 %)", "a new attempt");
        let mut still = Copy::default();
        let _ = still.saw(0, MB, 2 * MB);
        assert_eq!(still.saw(1000, MB, 2 * MB), "1024 kB of 2048 kB (50 %), nothing arrives");
        assert_eq!(still.measured(2500), Some((MB, 2500)));
        assert_eq!(still.measured(999), None, "too short");
        assert_eq!(copy.measured(6500), Some((999 * MB, 1500)), "of the new attempt");
        assert_eq!(Copy::default().measured(5000), None);
        assert_eq!(Copy::default().saw(0, 5, 0), "5 B of 5 B (100 %)");
        assert_eq!(span(90_000), "25 h 0 min");
    }
}
