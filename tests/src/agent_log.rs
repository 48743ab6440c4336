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

impl Mark {
    /// The nodes that were rewound since, each with the nodes that it was rewound to.
    #[must_use]
    pub fn rewound_to(&self, lab: &Lab) -> BTreeMap<String, Vec<String>> {
        let mut found: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (host, text) in self.since(lab) {
            for address in text.lines().filter_map(rewound_to) {
                let node = lab.layout.nodes().find(|node| node.address.to_string() == address);
                let name = node.map_or(address, |node| node.name.clone());
                found.entry(host.clone()).or_default().push(name);
            }
        }
        found
    }

    /// What pg_rewind has said since that it fetches, by node, in bytes: the first time.
    #[must_use]
    pub fn fetched(&self, lab: &Lab) -> BTreeMap<String, u64> {
        let texts = self.since(lab).into_iter();
        texts.filter_map(|(host, text)| Some((host, text.lines().find_map(fetched)?))).collect()
    }
}

/// The address in `the server that this one is rewound to host="127.20.1.2" port=5432`.
fn rewound_to(line: &str) -> Option<String> {
    let (_, rest) = line.split_once("this one is rewound to")?;
    let (_, rest) = rest.split_once("host=")?;
    let word = rest.split_whitespace().next()?;
    Some(word.trim_matches('"').to_owned())
}

/// The bytes in `need to copy 52 MB (total source directory size is 80 MB)`.
fn fetched(line: &str) -> Option<u64> {
    let (_, rest) = line.split_once("need to copy ")?;
    let (megabytes, _) = rest.split_once(" MB")?;
    Some(megabytes.trim().parse::<u64>().ok()? << 20)
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
        let line = r#"INFO the server that this one is rewound to host="127.20.1.2" port=5432"#;
        assert_eq!(rewound_to(line).as_deref(), Some("127.20.1.2"));
        let line = "pg_rewind: need to copy 52 MB (total source directory size is 80 MB)";
        assert_eq!(fetched(line), Some(52 << 20));
        assert_eq!((rewound_to("x"), fetched("x")), (None, None));
        assert_eq!(rule_of("INFO x rule=a"), None);
    }
}
