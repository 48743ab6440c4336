//! What a returning node gives up: its divergence report, as the agent sums it up.

use node_agent_wire::{Lsn, TimelineId};
use serde::{Deserialize, Serialize};
use std::fmt;

/// WAL that only this node had, and that a rewind or a new copy has discarded or is about to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DiscardedWal {
    /// The end of what is common.
    pub fork: Lsn,
    /// The timeline of the fork.
    pub timeline: TimelineId,
    /// Bytes of WAL beyond it.
    pub bytes: u64,
    /// Committed transactions among them.
    pub transactions: u64,
    /// Commit time of the first; empty without one.
    pub first_commit: String,
    /// … and of the last.
    pub last_commit: String,
    /// The tables with the most changes, for people.
    pub relations: Vec<String>,
    /// How many more were changed.
    pub relations_not_listed: u64,
    /// The WAL was read to its end.
    pub complete: bool,
    /// The sealed vault; empty: it is not kept.
    pub kept_in: String,
    /// The report's file on the node.
    pub report: String,
}

impl fmt::Display for DiscardedWal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} bytes of WAL beyond {} on timeline {}, ",
            self.bytes, self.fork, self.timeline
        )?;
        match (self.transactions, self.first_commit == self.last_commit) {
            (0, _) => write!(f, "no transaction")?,
            (1, _) | (_, true) => {
                write!(f, "{} committed {}", transactions(self.transactions), self.first_commit)?;
            }
            (count, false) => write!(
                f,
                "{} committed from {} to {}",
                transactions(count),
                self.first_commit,
                self.last_commit
            )?,
        }
        if !self.complete {
            write!(f, " (at least: the WAL could not be read to its end)")?;
        }
        if !self.relations.is_empty() {
            write!(f, "; changed: {}", self.relations.join(", "))?;
            if self.relations_not_listed > 0 {
                write!(f, " and {} more", self.relations_not_listed)?;
            }
        }
        match self.kept_in.as_str() {
            "" => write!(f, "; NOT kept")?,
            vault => write!(f, "; kept in {vault}")?,
        }
        write!(f, "; report: {}", self.report)
    }
}

fn transactions(count: u64) -> String {
    if count == 1 { "1 transaction".to_owned() } else { format!("{count} transactions") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_for_people() {
        let some = DiscardedWal {
            fork: Lsn(0x0300_0000),
            timeline: TimelineId(1),
            bytes: 4096,
            transactions: 2,
            first_commit: "2026-11-30 01:02:03.4 UTC".into(),
            last_commit: "2026-11-30 01:02:05.6 UTC".into(),
            relations: vec!["shop: public.orders (3 records)".into()],
            relations_not_listed: 4,
            complete: true,
            kept_in: "/pg/data.divergent-1".into(),
            report: "/pg/pg1.divergence-1-0-3000000.json".into(),
        };
        assert_eq!(
            some.to_string(),
            "4096 bytes of WAL beyond 0/3000000 on timeline 1, 2 transactions committed from \
             2026-11-30 01:02:03.4 UTC to 2026-11-30 01:02:05.6 UTC; changed: shop: public.orders \
             (3 records) and 4 more; kept in /pg/data.divergent-1; report: \
             /pg/pg1.divergence-1-0-3000000.json"
        );
        let none = DiscardedWal {
            transactions: 0,
            relations: Vec::new(),
            complete: false,
            kept_in: String::new(),
            ..some
        };
        assert_eq!(
            none.to_string(),
            "4096 bytes of WAL beyond 0/3000000 on timeline 1, no transaction (at least: the WAL \
             could not be read to its end); NOT kept; report: /pg/pg1.divergence-1-0-3000000.json"
        );
    }
}
