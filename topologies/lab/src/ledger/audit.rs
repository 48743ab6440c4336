//! The comparison of a ledger with what the database holds.

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use tokio_postgres::Client;

use super::account::Ledger;
use crate::access::{Access, AccessError, within};

/// How long reading the whole table may take.
const READ_LIMIT: Duration = Duration::from_secs(60);
/// How long to look for the primary.
const PRIMARY_LIMIT: Duration = Duration::from_secs(30);
/// How many lost rows are named.
const NAMED: usize = 5;

/// One phase of the audit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PhaseAudit {
    /// Its label.
    pub label: String,
    /// Number of acknowledged rows.
    pub acknowledged: usize,
    /// Of these, how many are in the database.
    pub found: usize,
    /// Of these, which are not.
    pub lost: Vec<i64>,
    /// Rows without an answer that are in the database.
    pub indeterminate_found: usize,
    /// Rows without an answer that are not.
    pub indeterminate_absent: usize,
    /// Longest time without an acknowledgement.
    pub longest_pause: Duration,
}

/// The whole audit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Audit {
    /// By phase.
    pub phases: Vec<PhaseAudit>,
    /// Rows in the database that the server had refused, or that were never sent.
    pub unexpected: Vec<i64>,
    /// Longest time without an acknowledgement, across phases.
    pub longest_pause: Duration,
}

/// An audit that could not be made.
pub type AuditError = AccessError;

impl Audit {
    /// Compares the notes with the rows of the same run. Pure.
    #[must_use]
    pub fn compare(ledger: &Ledger, rows: &BTreeSet<i64>) -> Self {
        let mut explained = BTreeSet::new();
        let mut phases = Vec::new();
        for account in ledger.by_phase() {
            let lost: Vec<i64> =
                account.acknowledged.iter().copied().filter(|id| !rows.contains(id)).collect();
            let present = account.indeterminate.iter().filter(|id| rows.contains(id)).count();
            phases.push(PhaseAudit {
                found: account.acknowledged.len() - lost.len(),
                acknowledged: account.acknowledged.len(),
                lost,
                indeterminate_found: present,
                indeterminate_absent: account.indeterminate.len() - present,
                label: account.label,
                longest_pause: account.longest_pause,
            });
            explained.extend(account.acknowledged);
            explained.extend(account.indeterminate);
        }
        let unexpected = rows.difference(&explained).copied().collect();
        Self { phases, unexpected, longest_pause: ledger.longest_pause() }
    }

    /// All lost rows.
    #[must_use]
    pub fn lost(&self) -> Vec<i64> {
        self.phases.iter().flat_map(|phase| phase.lost.iter().copied()).collect()
    }
}

impl Ledger {
    /// Reads the table in a session on the current primary and compares.
    ///
    /// # Errors
    /// When the table cannot be read within a minute.
    pub async fn check(&self, client: &Client) -> Result<Audit, AuditError> {
        let sql = "SELECT id FROM ledger WHERE run = $1";
        let run = self.run();
        let reading = "reading the ledger's table";
        let rows = within(reading, "the primary", READ_LIMIT, client.query(sql, &[&run])).await?;
        let mut ids = BTreeSet::new();
        for row in rows {
            ids.insert(row.try_get(0).map_err(|source| AccessError::Failed {
                tried: reading,
                node: "the primary".to_owned(),
                source,
            })?);
        }
        Ok(Audit::compare(self, &ids))
    }

    /// As [`Self::check`], after looking for the primary.
    ///
    /// # Errors
    /// When there is no primary, or its table cannot be read.
    pub async fn check_on_primary(&self, access: &Access) -> Result<Audit, AuditError> {
        let (_, client) = access.primary_within(PRIMARY_LIMIT, "lab audit").await?;
        self.check(&client).await
    }
}

impl fmt::Display for Audit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = self.phases.iter().map(|phase| phase.label.chars().count()).max();
        let width = width.unwrap_or_default().max("phase".len());
        let rule = "-".repeat(width + 57);
        writeln!(
            f,
            "{:width$} | {:>12} | {:>8} | {:>8} | {:>19}",
            "phase", "acknowledged", "found", "lost", "longest write pause"
        )?;
        writeln!(f, "{rule}")?;
        let mut line = |label: &str, acknowledged: usize, found: usize, lost: usize, pause| {
            let pause = milliseconds(pause);
            writeln!(
                f,
                "{label:width$} | {acknowledged:>12} | {found:>8} | {lost:>8} | {pause:>19}"
            )
        };
        for phase in &self.phases {
            let lost = phase.lost.len();
            line(&phase.label, phase.acknowledged, phase.found, lost, phase.longest_pause)?;
        }
        let sum = |count: fn(&PhaseAudit) -> usize| self.phases.iter().map(count).sum::<usize>();
        let lost = self.lost();
        let (acknowledged, found) = (sum(|phase| phase.acknowledged), sum(|phase| phase.found));
        line("all", acknowledged, found, lost.len(), self.longest_pause)?;
        let (present, absent) =
            (sum(|phase| phase.indeterminate_found), sum(|phase| phase.indeterminate_absent));
        if present + absent > 0 {
            writeln!(
                f,
                "{} rows got no answer (either outcome is right): {present} found, {absent} absent",
                present + absent
            )?;
        }
        for phase in self.phases.iter().filter(|phase| !phase.lost.is_empty()) {
            writeln!(f, "lost in \"{}\": rows {}", phase.label, first_few(&phase.lost))?;
        }
        if !self.unexpected.is_empty() {
            let rows = first_few(&self.unexpected);
            writeln!(f, "in the table although refused or never sent: rows {rows}")?;
        }
        Ok(())
    }
}

fn milliseconds(pause: Duration) -> String {
    format!("{} ms", pause.as_millis())
}

fn first_few(ids: &[i64]) -> String {
    let named: Vec<String> = ids.iter().take(NAMED).map(ToString::to_string).collect();
    let more = ids.len().saturating_sub(NAMED);
    if more == 0 { named.join(", ") } else { format!("{} and {more} more", named.join(", ")) }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::super::account::Fate;
    use super::*;

    fn ledger() -> Ledger {
        let t = Instant::now();
        let at = |n| t + Duration::from_millis(n);
        let mut ledger = Ledger::new("r", "before", t);
        for id in 1..=3 {
            ledger.note(id, 0, Fate::Acknowledged(at(1)));
        }
        ledger.begin_phase("loss of dc1", at(2));
        for id in 4..=12 {
            ledger.note(id, 1, Fate::Acknowledged(at(3)));
        }
        ledger.note(13, 1, Fate::Indeterminate);
        ledger.note(14, 1, Fate::Indeterminate);
        ledger.note(15, 1, Fate::Refused);
        ledger.end_at(at(1503));
        ledger
    }

    #[test]
    fn only_acknowledged_rows_can_be_lost() {
        let all: BTreeSet<i64> = (1..=12).collect();
        // (case, [absent, extra, lost, unexpected])
        let cases: &[(&str, [&[i64]; 4])] = &[
            ("all is there", [&[], &[], &[], &[]]),
            ("rows without answer may be there", [&[], &[13, 14], &[], &[]]),
            ("an acknowledged row is missing", [&[2, 7], &[13], &[2, 7], &[]]),
            ("a refused row is there", [&[], &[15], &[], &[15]]),
            ("a row that nobody sent", [&[], &[99], &[], &[99]]),
        ];
        for (case, [absent, extra, lost, unexpected]) in cases {
            let mut rows = all.clone();
            rows.retain(|id| !absent.contains(id));
            rows.extend(extra.iter());
            let audit = Audit::compare(&ledger(), &rows);
            assert_eq!(audit.lost(), *lost, "{case}");
            assert_eq!(audit.unexpected, *unexpected, "{case}");
            let present = extra.iter().filter(|id| [13, 14].contains(*id)).count();
            assert_eq!(audit.phases[1].indeterminate_found, present, "{case}");
            assert_eq!(audit.phases[1].indeterminate_absent, 2 - present, "{case}");
        }
    }

    #[test]
    fn the_table_can_be_read_by_people() {
        let rows: BTreeSet<i64> = (1..=4).chain([13, 15]).collect();
        let text = Audit::compare(&ledger(), &rows).to_string();
        let wanted = "\
phase       | acknowledged |    found |     lost | longest write pause
--------------------------------------------------------------------
before      |            3 |        3 |        0 |                1 ms
loss of dc1 |            9 |        1 |        8 |             1500 ms
all         |           12 |        4 |        8 |             1500 ms
2 rows got no answer (either outcome is right): 1 found, 1 absent
lost in \"loss of dc1\": rows 5, 6, 7, 8, 9 and 3 more
in the table although refused or never sent: rows 15
";
        assert_eq!(text, wanted);
    }
}
