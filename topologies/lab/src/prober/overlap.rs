//! When two nodes accepted writes at once: a criterion without false alarms. Pure.
//!
//! What is known of one accepted probe: the server accepted the write at some moment between *sent*
//! and *acked*, on the one clock of the prober. What is known of two accepted probes **in one
//! session**: the server was a primary all the time between them, because a PostgreSQL server can
//! only stop being one by a restart, which ends every session (a standby's session can become
//! writable, never the reverse). So a session proves its server writable from the *acked* of its
//! first write to the *sent* of its last: its **certain window**. A single write proves one moment
//! somewhere between its own two times.
//!
//! Two sessions on different nodes prove an overlap when
//! 1. their certain windows have a stretch in common, or
//! 2. a write of one was sent and acknowledged wholly within the certain window of the other.
//!
//! A switchover (A…A B…B) and one there and back (A…A B…B A…A, in new sessions of A) satisfy
//! neither, and neither does a late acknowledgement. What the criterion cannot see is an overlap
//! shorter than the pause between two probes; the ledger sees what such an overlap would cost.

use std::fmt;
use std::time::{Duration, Instant};

/// One accepted probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Write {
    /// Just before it was sent.
    pub sent: Instant,
    /// Just after the acknowledgement came.
    pub acked: Instant,
}

/// The accepted probes of one connection, in their order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    /// The node.
    pub node: String,
    /// Its accepted writes.
    pub writes: Vec<Write>,
}

/// Two nodes that accepted writes at the same time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Overlap {
    /// The nodes, in the order of their names.
    pub nodes: (String, String),
    /// From when it is certain.
    pub from: Instant,
    /// Until when it is certain.
    pub to: Instant,
}

impl Overlap {
    /// Its length, at least.
    #[must_use]
    pub fn length(&self) -> Duration {
        self.to.saturating_duration_since(self.from)
    }

    /// In words; times count from `start`.
    #[must_use]
    pub fn describe(&self, start: Instant) -> String {
        let at = self.from.saturating_duration_since(start).as_millis();
        format!("{self} at {at} ms after the start")
    }
}

impl fmt::Display for Overlap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (a, b) = &self.nodes;
        let length = self.length().as_millis();
        write!(f, "{a} and {b} both accepted writes for at least {length} ms")
    }
}

type Window = (Instant, Instant);

/// From the first acknowledgement to the last sending, if that is a stretch of time.
fn certain_window(session: &Session) -> Option<Window> {
    let (first, last) = (session.writes.first()?, session.writes.last()?);
    (first.acked < last.sent).then_some((first.acked, last.sent))
}

/// All overlaps that the sessions prove, by the time at which they begin.
#[must_use]
pub fn find_overlaps(sessions: &[Session]) -> Vec<Overlap> {
    let mut found = Vec::new();
    for (i, a) in sessions.iter().enumerate() {
        for b in sessions.iter().skip(i + 1).filter(|b| b.node != a.node) {
            let proof =
                common_stretch(a, b).or_else(|| write_inside(a, b)).or_else(|| write_inside(b, a));
            if let Some((from, to)) = proof {
                let mut nodes = [a.node.clone(), b.node.clone()];
                nodes.sort();
                let [first, second] = nodes;
                found.push(Overlap { nodes: (first, second), from, to });
            }
        }
    }
    found.sort_by_key(|overlap| overlap.from);
    found
}

fn common_stretch(a: &Session, b: &Session) -> Option<Window> {
    let (a, b) = (certain_window(a)?, certain_window(b)?);
    let (from, to) = (a.0.max(b.0), a.1.min(b.1));
    (from < to).then_some((from, to))
}

/// A write of `inner` that lies wholly within the window of `outer`. It proves a moment, no
/// stretch.
fn write_inside(outer: &Session, inner: &Session) -> Option<Window> {
    let (from, to) = certain_window(outer)?;
    let inside = inner.writes.iter().find(|write| from < write.sent && write.acked < to)?;
    Some((inside.sent, inside.sent))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sessions written as `node:sent-acked,sent-acked`, in milliseconds.
    fn sessions(text: &str, start: Instant) -> Vec<Session> {
        let at = |n: &str| start + Duration::from_millis(n.parse().unwrap());
        let parse = |session: &str| {
            let (node, writes) = session.split_once(':').unwrap();
            let write = |write: &str| {
                let (sent, acked) = write.split_once('-').unwrap();
                Write { sent: at(sent), acked: at(acked) }
            };
            Session { node: node.to_owned(), writes: writes.split(',').map(write).collect() }
        };
        text.split_whitespace().map(parse).collect()
    }

    /// Begin and length in milliseconds, of the overlap that a case must show.
    type Wanted = Option<(u64, u64)>;

    #[test]
    fn overlaps_are_found_and_switchovers_are_not_taken_for_them() {
        let cases: &[(&str, &str, Wanted)] = &[
            ("one primary", "a:0-1,20-21,40-41", None),
            ("switchover", "a:0-1,20-21 b:40-41,60-61", None),
            ("there and back", "a:0-1,20-21 b:40-41,60-61 a:80-81,100-101", None),
            ("late acknowledgement", "a:0-1,20-70 b:40-41,60-61", None),
            ("both late", "a:0-1,20-90 b:30-80,95-96", None),
            ("two lone writes that cross", "a:0-50 b:20-30", None),
            ("a lone write that begins too early", "a:0-5,40-41 b:3-20", None),
            ("a lone write that ends too late", "a:0-5,40-41 b:20-45", None),
            ("lone write inside", "a:0-5,40-41 b:20-25", Some((20, 0))),
            ("lone write inside, other order", "b:20-25 a:0-5,40-41", Some((20, 0))),
            ("A B A", "a:0-1,60-61 b:20-21,30-31", Some((21, 9))),
            ("A B A B", "a:0-1,40-41 b:20-21,60-61", Some((21, 19))),
            ("back too early", "a:0-1,20-21 b:30-31,60-61 a:50-51,70-71", Some((51, 9))),
            ("two sessions of one node", "a:0-1,60-61 a:20-21,80-81", None),
            ("three nodes, the last two", "a:0-1,9-10 b:20-21,60-61 c:40-41,70-71", Some((41, 19))),
        ];
        let start = Instant::now();
        for (case, text, wanted) in cases {
            let found = find_overlaps(&sessions(text, start));
            let seen = found.first().map(|overlap| {
                let from = overlap.from.duration_since(start).as_millis();
                (u64::try_from(from).unwrap(), u64::try_from(overlap.length().as_millis()).unwrap())
            });
            assert_eq!(seen, *wanted, "{case}");
            assert!(found.len() <= 1, "{case}: {found:?}");
        }
    }

    #[test]
    fn an_overlap_names_nodes_length_and_time() {
        let start = Instant::now();
        let found = find_overlaps(&sessions("b:0-1,60-61 a:20-21,50-51", start));
        let words = "a and b both accepted writes for at least 29 ms at 21 ms after the start";
        assert_eq!(found[0].describe(start), words);
    }

    #[test]
    fn the_record_tells_who_accepted_writes_since_when() {
        let start = Instant::now();
        let sessions = sessions("a:0-1,20-21 b:40-41 a:60-61", start);
        let record = super::super::Record { sessions };
        let since = start + Duration::from_millis(20);
        assert_eq!(record.accepted_since("a", since).len(), 2);
        assert_eq!(record.accepted_since("b", since).len(), 1);
        assert_eq!(record.accepted_since("b", since + Duration::from_millis(30)).len(), 0);
        let summary = record.summary();
        let seen: Vec<(&str, usize)> =
            summary.iter().map(|node| (node.node.as_str(), node.accepted)).collect();
        assert_eq!(seen, [("a", 3), ("b", 1)]);
        assert_eq!(summary[0].last, start + Duration::from_millis(61));
    }
}
