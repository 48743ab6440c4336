//! What the agents' logs say: which rules fired since a moment, and the faults that they report.

use std::collections::BTreeMap;
use std::fs;

use lab::Lab;
use node_agent_core::rule::Rule;

/// A place in every agent's log.
#[derive(Debug, Clone)]
pub struct Mark(BTreeMap<String, usize>);

impl Mark {
    /// The present ends of the logs.
    #[must_use]
    pub fn now(lab: &Lab) -> Self {
        Self(logs(lab).into_iter().map(|(host, text)| (host, text.len())).collect())
    }

    /// What was logged since, by host.
    #[must_use]
    pub fn since(&self, lab: &Lab) -> BTreeMap<String, String> {
        let new = logs(lab).into_iter().map(|(host, text)| {
            let from = self.0.get(&host).copied().unwrap_or_default();
            let tail = text.get(from..).unwrap_or_default().to_owned();
            (host, tail)
        });
        new.collect()
    }

    /// The lines since in which a rule decided, each with its host.
    #[must_use]
    pub fn decided(&self, lab: &Lab, rule: Rule) -> Vec<String> {
        let mut found = Vec::new();
        for (host, text) in self.since(lab) {
            let lines = text.lines().filter(|line| rule_of(line) == Some(rule.number()));
            found.extend(lines.map(|line| format!("{host}: {line}")));
        }
        found
    }
}

fn logs(lab: &Lab) -> BTreeMap<String, String> {
    let read = |host: &lab::layout::Host| {
        let bytes = fs::read(host.log()).unwrap_or_default();
        (host.name.clone(), String::from_utf8_lossy(&bytes).into_owned())
    };
    lab.layout.nodes().map(read).collect()
}

/// The number in `… rule=202 name="rewind"`.
fn rule_of(line: &str) -> Option<u32> {
    let (_, rest) = line.split_once(" rule=")?;
    let digits = rest.split(|c: char| !c.is_ascii_digit()).next()?;
    digits.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rule_of_a_line() {
        let line = r#"2026-01-01T00:00:00Z  INFO primary on timeline 1 rule=125 name="hold""#;
        assert_eq!(rule_of(line), Some(Rule::Hold.number()));
        assert_eq!(rule_of("INFO ruled out"), None);
        assert_eq!(rule_of("INFO x rule=a"), None);
    }
}
