//! Finds the line of a key in a YAML text, for faults that are seen only after reading.
//!
//! The YAML reader gives positions for faults of single values only. This search follows a path of
//! keys through block style by indentation, and falls back to the deepest key that it found, so the
//! line is at or above the place at fault and never below it.

/// Line (from 1) of the deepest key of `path` that is written in `text`.
#[must_use]
pub fn line_of(text: &str, path: &[String]) -> Option<usize> {
    let lines: Vec<&str> = text.lines().collect();
    let mut found = None;
    let mut from = 0;
    let mut parent_indent = None;
    for key in path {
        let Some(at) = find_key(&lines, from, parent_indent, key) else { break };
        found = Some(at + 1);
        parent_indent = Some(indent_of(lines[at]));
        from = at + 1;
    }
    found
}

/// Looks among the lines that are indented deeper than the parent.
fn find_key(lines: &[&str], from: usize, parent: Option<usize>, key: &str) -> Option<usize> {
    for (at, line) in lines.iter().enumerate().skip(from) {
        let content = line.trim_start();
        if content.is_empty() || content.starts_with('#') {
            continue;
        }
        if parent.is_some_and(|parent| indent_of(line) <= parent) {
            return None;
        }
        if parent.is_none() && indent_of(line) > 0 {
            continue;
        }
        if is_key(content, key) {
            return Some(at);
        }
    }
    None
}

fn indent_of(line: &str) -> usize {
    line.len() - line.trim_start().len()
}

fn is_key(content: &str, key: &str) -> bool {
    let quoted = |quote: char| {
        content.strip_prefix(quote).and_then(|c| c.strip_prefix(key)?.strip_prefix(quote))
    };
    let rest = content.strip_prefix(key).or_else(|| quoted('"')).or_else(|| quoted('\''));
    rest.is_some_and(|rest| rest.trim_start().starts_with(':'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_deepest_written_key_is_found() {
        let text = "name: shop\n# comment\nsettings:\n  ttl: 5\n\ndatacenters:\n  dc1: {nodes: a}\n\
                    \x20 \"dc2\":\n    settings:\n      ttl: 3\n";
        let cases = [
            (vec!["name"], Some(1)),
            (vec!["settings", "ttl"], Some(4)),
            (vec!["datacenters", "dc1", "settings"], Some(7)),
            (vec!["datacenters", "dc2", "settings", "ttl"], Some(10)),
            (vec!["datacenters", "dc3"], Some(6)),
            (vec!["ttl"], None),
        ];
        for (path, line) in cases {
            let path: Vec<String> = path.into_iter().map(str::to_owned).collect();
            assert_eq!(line_of(text, &path), line, "{path:?}");
        }
    }
}
