//! The results: a table for people between two markers of a page, every value as JSON.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::fs;
use std::path::Path;

use serde::Serialize;

use crate::aim::Aim;
use crate::machine::Machine;
use crate::run::{Sample, System};
use crate::statistics::Summary;

const BEGIN: &str = "<!-- begin: written by tests/bench/run.sh --write -->";
const END: &str = "<!-- end -->";

/// Everything that was measured.
#[derive(Debug, Serialize)]
pub struct Report {
    machine: Machine,
    settings: &'static str,
    fastest_settings: &'static str,
    /// By number of the run and system.
    failed: Vec<(u32, System)>,
    runs_wanted: u32,
    /// Values by metric and system, in the order of the runs.
    values: BTreeMap<String, BTreeMap<System, Vec<f64>>>,
}

impl Report {
    /// Of nothing yet.
    #[must_use]
    pub fn new(machine: Machine, runs_wanted: u32) -> Self {
        let (settings, fastest_settings) = (crate::run::SETTINGS, crate::run::FASTEST);
        let (failed, values) = (Vec::new(), BTreeMap::new());
        Self { machine, settings, fastest_settings, failed, runs_wanted, values }
    }

    /// A run did not come to its end. What was wrong is for whoever runs this, not for the page.
    pub fn fail(&mut self, system: System, number: u32, error: &str) {
        eprintln!("bench: run {number} of {}: {error}", system.name());
        self.failed.push((number, system));
    }

    /// How many of them.
    #[must_use]
    pub fn failures(&self) -> usize {
        self.failed.len()
    }

    /// Takes the values of one more run.
    pub fn add(&mut self, system: System, sample: Sample) {
        for (metric, value) in sample {
            self.values.entry(metric).or_default().entry(system).or_default().push(value);
        }
    }

    /// The table: for each system median (minimum to maximum), the ratios of the medians to
    /// Patroni's, and what is aimed at.
    #[must_use]
    pub fn table(&self) -> String {
        let names: Vec<&str> = System::ALL.iter().map(|system| system.name()).collect();
        let mut table = format!(
            "| | {} | ratio, same settings | ratio, fastest | aim | met, same settings | met, \
             fastest |\n|---|---|---|---|---|---|---|---|---|\n",
            names.join(" | ")
        );
        for (metric, systems) in &self.values {
            let of = |system| systems.get(&system).and_then(|values| Summary::of(values));
            let (same, fastest) = (of(System::Agent), of(System::Fastest));
            let theirs = of(System::Patroni);
            let aim = Aim::of(metric);
            let cells = [
                metric.clone(),
                cell(same),
                cell(fastest),
                cell(theirs),
                ratio(same, theirs),
                ratio(fastest, theirs),
                aim.map_or_else(|| NONE.to_owned(), Aim::text),
                met(aim, same, theirs),
                met(aim, fastest, theirs),
            ];
            // Writing to a string cannot fail.
            let _ = writeln!(table, "| {} |", cells.join(" | "));
        }
        table
    }

    fn section(&self) -> String {
        let counts: BTreeSet<usize> =
            self.values.values().flat_map(BTreeMap::values).map(Vec::len).collect();
        let runs: Vec<String> = counts.iter().map(ToString::to_string).collect();
        let mut text = format!(
            "Median (minimum to maximum) of {} runs of each system.\n\n{}\n",
            runs.join(" or "),
            self.table()
        );
        for (number, system) in &self.failed {
            let name = system.name();
            let _ = writeln!(text, "Run {number} of {name} did not come to its end.\n");
        }
        for (label, value) in &self.machine {
            let _ = writeln!(text, "- {label}: {value}");
        }
        text
    }

    /// Writes page and values into a directory.
    ///
    /// # Errors
    /// When a file cannot be read or written, or the page has no markers.
    pub fn write(&self, docs: &Path) -> Result<(), String> {
        let page = docs.join("benchmarks.md");
        let fail = |path: &Path, e: &dyn std::fmt::Display| format!("{}: {e}", path.display());
        let before = fs::read_to_string(&page).map_err(|error| fail(&page, &error))?;
        let after = between_markers(&before, &self.section());
        let after = after.ok_or_else(|| fail(&page, &"the markers are missing"))?;
        fs::write(&page, after).map_err(|error| fail(&page, &error))?;
        let values = docs.join("benchmarks.json");
        let json = serde_json::to_string_pretty(self).map_err(|error| fail(&values, &error))?;
        fs::write(&values, json + "\n").map_err(|error| fail(&values, &error))
    }
}

const NONE: &str = "–";

fn cell(summary: Option<Summary>) -> String {
    summary.map_or_else(
        || NONE.to_owned(),
        |s| format!("{:.2} ({:.2} to {:.2})", s.median, s.min, s.max),
    )
}

fn ratio(ours: Option<Summary>, theirs: Option<Summary>) -> String {
    let both = ours.zip(theirs).filter(|(_, theirs)| theirs.median > 0.0);
    let ratio = both.map(|(ours, theirs)| format!("{:.2}", ours.median / theirs.median));
    ratio.unwrap_or_else(|| NONE.to_owned())
}

fn met(aim: Option<Aim>, ours: Option<Summary>, theirs: Option<Summary>) -> String {
    let met = aim.zip(ours).and_then(|(aim, ours)| aim.met(ours, theirs));
    met.map_or(NONE, |met| if met { "yes" } else { "no" }).to_owned()
}

fn between_markers(page: &str, section: &str) -> Option<String> {
    let (head, rest) = page.split_once(BEGIN)?;
    let (_, tail) = rest.split_once(END)?;
    Some(format!("{head}{BEGIN}\n\n{section}\n{END}{tail}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAUSE: &str = "switchover: write pause, s";

    fn report() -> Report {
        let mut report = Report::new(Machine::from([("etcd", "3".to_owned())]), 2);
        for (system, values) in [
            (System::Agent, [1.0, 3.0]),
            (System::Fastest, [0.5, 0.7]),
            (System::Patroni, [4.0, 4.0]),
        ] {
            for value in values {
                report.add(system, Sample::from([(PAUSE.to_owned(), value)]));
            }
        }
        report.add(System::Agent, Sample::from([("acknowledged rows lost".to_owned(), 0.0)]));
        report.fail(System::Patroni, 2, "no leader");
        report
    }

    #[test]
    fn the_table_compares_medians_and_judges_them() {
        let table = report().table();
        let row = format!(
            "| {PAUSE} | 2.00 (1.00 to 3.00) | 0.60 (0.50 to 0.70) | 4.00 (4.00 to 4.00) | 0.50 \
             | 0.15 | ratio ≤ 0.20 | no | yes |"
        );
        assert!(table.contains(&row), "{table}");
        let lost = "| acknowledged rows lost | 0.00 (0.00 to 0.00) | – | – | – | – | 0 | yes | – |";
        assert!(table.contains(lost), "{table}");
    }

    #[test]
    fn only_what_is_between_the_markers_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let page = dir.path().join("benchmarks.md");
        fs::write(&page, format!("# Head\n{BEGIN}\nold\n{END}\ntail\n")).unwrap();
        report().write(dir.path()).unwrap();
        let text = fs::read_to_string(&page).unwrap();
        assert!(
            text.starts_with("# Head\n") && text.ends_with(&format!("{END}\ntail\n")),
            "{text}"
        );
        assert!(text.contains("- etcd: 3\n") && !text.contains("old"), "{text}");
        let failed = "Run 2 of Patroni did not come to its end.\n";
        assert!(text.contains(failed) && report().failures() == 1, "{text}");
        report().write(dir.path()).unwrap();
        assert_eq!(fs::read_to_string(&page).unwrap(), text, "again, the same");
        let json = fs::read_to_string(dir.path().join("benchmarks.json")).unwrap();
        assert!(json.contains("\"Patroni\": [\n"), "{json}");
        fs::write(&page, "no markers").unwrap();
        assert!(report().write(dir.path()).unwrap_err().contains("markers"));
    }
}
