//! What is aimed at for each metric, and whether a system meets it. Pure.

use crate::statistics::Summary;

/// What is aimed at for the medians.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Aim {
    /// Not more than this times Patroni's.
    ratio: Option<f64>,
    /// Below this.
    below: Option<f64>,
    /// Nothing at all.
    zero: bool,
}

const NOTHING: Aim = Aim { ratio: None, below: None, zero: false };
/// A fifth of Patroni's pauses.
const FIFTH: Aim = Aim { ratio: Some(0.2), ..NOTHING };

impl Aim {
    /// For a metric by its name; `None` where nothing was set.
    #[must_use]
    pub fn of(metric: &str) -> Option<Self> {
        let of_agent = metric.starts_with("primary's agent");
        match metric.split_once(": ").map_or(metric, |(_, what)| what) {
            "write pause, s" if metric.starts_with("synchronous standby") => {
                Some(Self { below: Some(2.0), ..FIFTH })
            }
            "write pause, s" if !of_agent => Some(FIFTH),
            "etcd requests a minute" => Some(Self { ratio: Some(1.0), ..NOTHING }),
            "memory of the largest agent, MiB" => Some(Self { below: Some(20.0), ..NOTHING }),
            "processor time of the busiest agent, % of a core" => {
                Some(Self { below: Some(0.3), ..NOTHING })
            }
            "two nodes accept writes, s" | "acknowledged rows lost" => {
                Some(Self { zero: true, ..NOTHING })
            }
            _ => None,
        }
    }

    /// Whether these values meet it; `None` when there is nothing to compare with.
    #[must_use]
    pub fn met(self, ours: Summary, theirs: Option<Summary>) -> Option<bool> {
        let ratio = match self.ratio {
            Some(ratio) => ours.median <= ratio * theirs?.median,
            None => true,
        };
        // Of something that must never be, the worst value counts.
        let zero = !self.zero || ours.max <= 0.0;
        Some(ratio && zero && self.below.is_none_or(|below| ours.median < below))
    }

    /// For the table.
    #[must_use]
    pub fn text(self) -> String {
        let ratio = self.ratio.map(|ratio| format!("ratio ≤ {ratio:.2}"));
        let below = self.below.map(|below| format!("< {below}"));
        let zero = self.zero.then(|| "0".to_owned());
        ratio.into_iter().chain(below).chain(zero).collect::<Vec<_>>().join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(value: f64) -> Summary {
        Summary { median: value, min: value, max: value }
    }

    #[test]
    fn aims_are_judged_by_medians_and_what_must_never_be_by_the_worst() {
        let (lost, killed) = ("synchronous standby's host lost", "postmaster killed");
        let cases = [
            (format!("{killed}: write pause, s"), 0.8, Some(4.0), Some(true)),
            (format!("{killed}: write pause, s"), 0.81, Some(4.0), Some(false)),
            (format!("{killed}: write pause, s"), 0.8, None, None),
            (format!("{lost}: write pause, s"), 1.9, Some(20.0), Some(true)),
            (format!("{lost}: write pause, s"), 2.0, Some(20.0), Some(false)),
            ("idle: etcd requests a minute".into(), 10.0, Some(10.0), Some(true)),
            ("idle: memory of the largest agent, MiB".into(), 20.0, None, Some(false)),
            ("acknowledged rows lost".into(), 0.0, None, Some(true)),
        ];
        for (metric, ours, theirs, met) in cases {
            let aim = Aim::of(&metric).expect("there is an aim");
            assert_eq!(aim.met(one(ours), theirs.map(one)), met, "{metric} {ours} {theirs:?}");
        }
        let sometimes = Summary { median: 0.0, min: 0.0, max: 0.1 };
        let two = Aim::of("primary's host lost: two nodes accept writes, s").expect("an aim");
        assert_eq!(two.met(sometimes, None), Some(false));
        assert_eq!(Aim::of("primary's agent stopped: write pause, s"), None);
    }
}
