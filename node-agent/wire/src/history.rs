//! Timelines by the content of their history, never by number alone.
//!
//! Source: PostgreSQL manual, section 26.3.6; format of `NNNNNNNN.history`: one line for each
//! ancestor, `parent timeline <TAB> switch position <TAB> reason`.

use crate::lsn::{Lsn, TimelineId};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// One ancestor: this timeline ended at that position.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ancestor {
    /// The ancestor timeline.
    pub timeline: TimelineId,
    /// Where the next timeline branched off it.
    pub ended_at: Lsn,
}

/// The history of one timeline: itself and its ancestors, oldest first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TimelineHistory {
    /// The timeline that this is the history of.
    pub timeline: TimelineId,
    /// Its ancestors, oldest first. Empty for timeline 1.
    pub ancestors: Vec<Ancestor>,
}

impl TimelineHistory {
    /// Reads a `.history` file. Comment lines and blank lines are passed over, as PostgreSQL does.
    /// `None` when a line is not understood.
    #[must_use]
    pub fn parse(timeline: TimelineId, text: &str) -> Option<Self> {
        let mut ancestors = Vec::new();
        for line in text.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with('#')) {
            let mut fields = line.split_whitespace();
            let timeline = TimelineId(fields.next()?.parse().ok()?);
            let ended_at = fields.next()?.parse().ok()?;
            ancestors.push(Ancestor { timeline, ended_at });
        }
        Some(Self { timeline, ancestors })
    }

    /// Where `timeline` stops being part of this history: `None` when it is no ancestor,
    /// `Some(None)` when it is the timeline itself and has no end yet.
    #[must_use]
    pub fn end_of(&self, timeline: TimelineId) -> Option<Option<Lsn>> {
        if timeline == self.timeline {
            return Some(None);
        }
        self.ancestors.iter().find(|a| a.timeline == timeline).map(|a| Some(a.ended_at))
    }

    /// Whether both histories have the same ancestors with the same ends.
    #[must_use]
    pub fn same_past(&self, other: &Self) -> bool {
        self.timeline == other.timeline && self.ancestors == other.ancestors
    }

    /// Whether the `/history` key, read as a history, says the same as this one: its rows are this
    /// one's last, all of them or as many as are kept (`0`: all).
    #[must_use]
    pub fn is_told_by(&self, key: &Self, kept: usize) -> bool {
        let rows = self.last_rows(kept);
        self.timeline == key.timeline && key.ancestors.as_slice() == rows
    }

    fn last_rows(&self, kept: usize) -> &[Ancestor] {
        let skipped = if kept == 0 { 0 } else { self.ancestors.len().saturating_sub(kept) };
        self.ancestors.get(skipped..).unwrap_or_default()
    }

    /// The rows of the `/history` key (contract A.4): `[tli, lsn, reason, timestamp, leader]`. Rows
    /// of `before` that tell of the same switch are carried over as they are; the newest one, when
    /// it is new or lacks them, gets the timestamp and the leader.
    #[must_use]
    pub fn to_rows(&self, before: Option<&Value>, news: &News<'_>) -> Value {
        let known = |a: &Ancestor| {
            before?.as_array()?.iter().find(|row| {
                row.get(0).and_then(Value::as_u64) == Some(u64::from(a.timeline.0))
                    && row.get(1).and_then(Value::as_u64) == Some(a.ended_at.0)
            })
        };
        let last = self.ancestors.last();
        let row = |a: &Ancestor| {
            let newest = Some(a) == last;
            let full = |row: &&Value| row.as_array().is_some_and(|row| row.len() >= 5);
            if let Some(row) = known(a).filter(|row| !newest || full(row)) {
                return row.clone();
            }
            let at = self.ancestors.iter().position(|other| other == a).unwrap_or(0);
            let reason = news.reasons.get(at).map_or("no reason is recorded", String::as_str);
            let mut row =
                vec![Value::from(a.timeline.0), Value::from(a.ended_at.0), Value::from(reason)];
            if newest {
                row.push(Value::from(news.timestamp.as_str()));
                row.push(Value::from(news.leader));
            }
            Value::Array(row)
        };
        self.last_rows(news.kept).iter().map(row).collect()
    }
}

/// What a writer of the `/history` key adds to the history itself.
#[derive(Clone, Debug)]
pub struct News<'a> {
    /// Why each ancestor ended, oldest first.
    pub reasons: Vec<String>,
    /// When the newest timeline began.
    pub timestamp: String,
    /// Who began it.
    pub leader: &'a str,
    /// How many rows are kept; `0`: all.
    pub kept: usize,
}

/// The third column of a `.history` file, line by line.
#[must_use]
pub fn reasons(text: &str) -> Vec<String> {
    let lines = text.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with('#'));
    let reason = |line: &str| {
        let mut fields = line.splitn(3, '\t');
        fields.nth(2).unwrap_or_default().trim().to_owned()
    };
    lines.map(reason).collect()
}

/// The `/history` key as a history: the cluster's timeline is the last row's plus one
/// (contract A.4). `None` for anything that is not a list of rows.
#[must_use]
pub fn from_rows(rows: &Value) -> Option<TimelineHistory> {
    let rows = rows.as_array()?;
    let mut ancestors = Vec::with_capacity(rows.len());
    for row in rows {
        let row = row.as_array()?;
        let timeline = TimelineId(u32::try_from(row.first()?.as_u64()?).ok()?);
        let ended_at = Lsn(row.get(1)?.as_u64()?);
        ancestors.push(Ancestor { timeline, ended_at });
    }
    let timeline = TimelineId(ancestors.last().map_or(1, |a| a.timeline.0.saturating_add(1)));
    Some(TimelineHistory { timeline, ancestors })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn reads_a_history_file() {
        let text = "1\t0/3000000\tno recovery target specified\n\n2\t0/5000148\tno recovery\n";
        let history = TimelineHistory::parse(TimelineId(3), text).expect("history");
        assert_eq!(history.end_of(TimelineId(1)), Some(Some(Lsn(0x0300_0000))));
        assert_eq!(history.end_of(TimelineId(2)), Some(Some(Lsn(0x0500_0148))));
        assert_eq!(history.end_of(TimelineId(3)), Some(None));
        assert_eq!(history.end_of(TimelineId(4)), None);
        assert_eq!(TimelineHistory::parse(TimelineId(2), "x y"), None);
    }

    #[test]
    fn rows_round_trip_as_patroni_writes_them() {
        let rows = json!([[
            1,
            50_331_648,
            "no recovery target specified",
            "2026-01-01T00:00:00+00:00",
            "pg2"
        ]]);
        let history = from_rows(&rows).expect("rows");
        assert_eq!(history.timeline, TimelineId(2));
        let news = News {
            reasons: reasons("1\t0/3000000\tno recovery target specified\n"),
            timestamp: "2026-01-01T00:00:00+00:00".into(),
            leader: "pg2",
            kept: 0,
        };
        assert_eq!(history.to_rows(None, &news), rows);
        assert_eq!(from_rows(&json!([])).map(|h| h.timeline), Some(TimelineId(1)));
        assert_eq!(from_rows(&json!({"a": 1})), None);
        assert_eq!(from_rows(&json!([["x"]])), None);
    }

    #[test]
    fn known_rows_are_carried_over_and_old_ones_are_cut() {
        let text = "1\t0/10\ta\n2\t0/20\tb\n3\t0/30\tc d\n";
        let own = TimelineHistory::parse(TimelineId(4), text).expect("history");
        let before = json!([[1, 16, "a", "then", "pg9"], [2, 32, "b"], [3, 48, "c d"]]);
        let mut news =
            News { reasons: reasons(text), timestamp: "now".into(), leader: "pg1", kept: 0 };
        let rows = own.to_rows(Some(&before), &news);
        assert_eq!(
            rows,
            json!([[1, 16, "a", "then", "pg9"], [2, 32, "b"], [3, 48, "c d", "now", "pg1"]])
        );
        assert!(own.is_told_by(&from_rows(&rows).expect("rows"), 0));
        news.kept = 2;
        let rows = own.to_rows(Some(&rows), &news);
        assert_eq!(rows, json!([[2, 32, "b"], [3, 48, "c d", "now", "pg1"]]));
        let key = from_rows(&rows).expect("rows");
        assert!(own.is_told_by(&key, 2) && !own.is_told_by(&key, 0) && !own.is_told_by(&key, 1));
    }

    #[test]
    fn equal_numbers_with_other_pasts_are_not_the_same() {
        let a = TimelineHistory::parse(TimelineId(2), "1\t0/3000000\tx").expect("a");
        let b = TimelineHistory::parse(TimelineId(2), "1\t0/4000000\tx").expect("b");
        assert!(a.same_past(&a.clone()));
        assert!(!a.same_past(&b));
    }
}
