//! The notes of a writer, by phase, and the pauses between acknowledgements. Pure.

use std::time::{Duration, Instant};

/// What became of a row, as far as the client knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// The server said that it is committed, at this time.
    Acknowledged(Instant),
    /// The server said no before committing anything.
    Refused,
    /// No answer, or the connection broke: it may be committed or not.
    Indeterminate,
}

/// A stretch of time under one label.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Phase {
    label: String,
    began: Instant,
}

/// A row and its fate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Entry {
    id: i64,
    /// The phase in which the row was sent.
    phase: usize,
    fate: Fate,
}

/// Everything that a writer noted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ledger {
    run: String,
    phases: Vec<Phase>,
    entries: Vec<Entry>,
    ended: Instant,
}

/// The rows that were sent in one phase.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PhaseAccount {
    /// Its label.
    pub label: String,
    /// Acknowledged rows.
    pub acknowledged: Vec<i64>,
    /// Refused rows.
    pub refused: Vec<i64>,
    /// Rows without an answer.
    pub indeterminate: Vec<i64>,
    /// Longest time within the phase without an acknowledgement, its beginning and end included.
    pub longest_pause: Duration,
}

impl Ledger {
    /// An empty ledger whose first phase begins at `now`.
    #[must_use]
    pub fn new(run: &str, first_phase: &str, now: Instant) -> Self {
        let phases = vec![Phase { label: first_phase.to_owned(), began: now }];
        Self { run: run.to_owned(), phases, entries: Vec::new(), ended: now }
    }

    /// What tells the rows of this writer from those of others.
    #[must_use]
    pub fn run(&self) -> &str {
        &self.run
    }

    /// Begins a phase; the one before it ends.
    pub fn begin_phase(&mut self, label: &str, now: Instant) {
        self.phases.push(Phase { label: label.to_owned(), began: now });
    }

    /// Lets the first phase begin with the first acknowledgement: the time before it belongs to the
    /// writer's own start.
    pub(crate) fn begin_with_first_row(&mut self) {
        if let Some(first) = self.acknowledgements().min() {
            self.phases[0].began = first;
        }
    }

    /// Index and label of the current phase.
    pub(crate) fn current_phase(&self) -> (usize, &str) {
        let last = self.phases.len() - 1;
        (last, &self.phases[last].label)
    }

    /// Notes the fate of a row that was sent in a phase.
    pub(crate) fn note(&mut self, id: i64, phase: usize, fate: Fate) {
        self.entries.push(Entry { id, phase, fate });
    }

    /// Says until when the writer wrote; the last phase ends then.
    pub(crate) fn end_at(&mut self, now: Instant) {
        self.ended = now;
    }

    /// Number of acknowledged rows.
    #[must_use]
    pub fn acknowledged(&self) -> usize {
        self.acknowledgements().count()
    }

    fn acknowledgements(&self) -> impl Iterator<Item = Instant> {
        self.entries.iter().filter_map(|entry| match entry.fate {
            Fate::Acknowledged(at) => Some(at),
            Fate::Refused | Fate::Indeterminate => None,
        })
    }

    /// The ledger by phase, in their order.
    #[must_use]
    pub fn by_phase(&self) -> Vec<PhaseAccount> {
        let mut times: Vec<Instant> = self.acknowledgements().collect();
        times.sort_unstable();
        let ends = self.phases.iter().skip(1).map(|next| next.began).chain([self.ended]);
        let mut accounts: Vec<PhaseAccount> = self
            .phases
            .iter()
            .zip(ends)
            .map(|(phase, end)| PhaseAccount {
                label: phase.label.clone(),
                acknowledged: Vec::new(),
                refused: Vec::new(),
                indeterminate: Vec::new(),
                longest_pause: longest_pause(&times, phase.began, end),
            })
            .collect();
        for entry in &self.entries {
            let account = &mut accounts[entry.phase];
            match entry.fate {
                Fate::Acknowledged(_) => account.acknowledged.push(entry.id),
                Fate::Refused => account.refused.push(entry.id),
                Fate::Indeterminate => account.indeterminate.push(entry.id),
            }
        }
        accounts
    }

    /// Longest time without an acknowledgement from the first phase's beginning to the end, across
    /// the bounds of phases.
    #[must_use]
    pub fn longest_pause(&self) -> Duration {
        let mut times: Vec<Instant> = self.acknowledgements().collect();
        times.sort_unstable();
        longest_pause(&times, self.phases[0].began, self.ended)
    }
}

/// Longest stretch of `[from, to]` without any of `times`, which are sorted.
fn longest_pause(times: &[Instant], from: Instant, to: Instant) -> Duration {
    let within = times.iter().copied().filter(|time| (from..=to).contains(time));
    let mut previous = from;
    let mut longest = Duration::ZERO;
    for time in within.chain([to]) {
        longest = longest.max(time.saturating_duration_since(previous));
        previous = time;
    }
    longest
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    #[test]
    fn the_longest_pause_counts_the_ends() {
        let t = Instant::now();
        let cases: &[(&[u64], u64, u64, u64)] = &[
            (&[], 0, 50, 50),
            (&[10, 20, 30], 0, 35, 10),
            (&[10, 60, 70], 0, 80, 50),
            (&[40, 45], 0, 50, 40),
            (&[5, 10], 0, 90, 80),
            // Acknowledgements outside do not count.
            (&[5, 30, 95], 20, 60, 30),
            (&[5], 20, 20, 0),
        ];
        for (times, from, to, wanted) in cases {
            let times: Vec<Instant> = times.iter().map(|&n| t + ms(n)).collect();
            let seen = longest_pause(&times, t + ms(*from), t + ms(*to));
            assert_eq!(seen, ms(*wanted), "{times:?} {from} {to}");
        }
    }

    #[test]
    fn rows_belong_to_the_phase_in_which_they_were_sent() {
        let t = Instant::now();
        let mut ledger = Ledger::new("r", "before", t);
        ledger.note(1, 0, Fate::Acknowledged(t + ms(10)));
        ledger.begin_phase("switchover", t + ms(20));
        assert_eq!(ledger.current_phase(), (1, "switchover"));
        // Out of order, as several workers note them.
        ledger.note(4, 1, Fate::Acknowledged(t + ms(90)));
        ledger.note(2, 0, Fate::Acknowledged(t + ms(30)));
        ledger.note(3, 1, Fate::Indeterminate);
        ledger.note(5, 1, Fate::Refused);
        ledger.end_at(t + ms(95));
        let phases = ledger.by_phase();
        assert_eq!(phases[0].acknowledged, [1, 2]);
        assert_eq!(phases[0].longest_pause, ms(10));
        assert_eq!(phases[1].acknowledged, [4]);
        assert_eq!((&phases[1].refused[..], &phases[1].indeterminate[..]), (&[5][..], &[3][..]));
        assert_eq!(phases[1].longest_pause, ms(60));
        assert_eq!((ledger.acknowledged(), ledger.longest_pause()), (3, ms(60)));
    }

    #[test]
    fn the_start_of_the_writer_is_no_pause() {
        let t = Instant::now();
        let mut ledger = Ledger::new("r", "before", t);
        ledger.note(1, 0, Fate::Acknowledged(t + ms(700)));
        ledger.note(2, 0, Fate::Acknowledged(t + ms(705)));
        ledger.end_at(t + ms(706));
        assert_eq!(ledger.longest_pause(), ms(700));
        ledger.begin_with_first_row();
        assert_eq!((ledger.longest_pause(), ledger.by_phase()[0].longest_pause), (ms(5), ms(5)));
    }
}
