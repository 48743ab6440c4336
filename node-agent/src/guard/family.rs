//! Who descends from whom, read from `/proc`. Used by the guard, and by the agent's PostgreSQL
//! room to tell a process from a later one with the same number.

use std::collections::BTreeMap;

/// What `/proc/PID/stat` says of a process (proc(5)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ProcessStat {
    /// Its parent.
    pub(crate) parent: i32,
    /// `R`, `S`, `Z`, …
    pub(crate) state: char,
    /// When it started, clock ticks since boot: with the pid, the process's identity.
    pub(crate) start: u64,
}

impl ProcessStat {
    /// Reads the line. The second field is the program's name in parentheses, which may hold
    /// anything; the fields count from its last closing one.
    pub(crate) fn parse(line: &str) -> Option<Self> {
        let mut fields = line.get(line.rfind(')')? + 1..)?.split_ascii_whitespace();
        let state = fields.next()?.chars().next()?;
        let parent = fields.next()?.parse().ok()?;
        // Field 22; state and parent were fields 3 and 4.
        let start = fields.nth(17)?.parse().ok()?;
        Some(Self { parent, state, start })
    }

    /// The process as it is now; `None` when there is none.
    pub(crate) fn of(pid: i32) -> Option<Self> {
        Self::parse(&std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
    }

    /// Ended, and only waits for its parent to take note.
    pub(crate) fn is_zombie(self) -> bool {
        matches!(self.state, 'Z' | 'X')
    }
}

/// All descendants of `ancestor` that have not ended.
pub(crate) fn descendants(ancestor: i32) -> Vec<i32> {
    let mut processes = BTreeMap::new();
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let pid = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok());
        if let Some(pid) = pid
            && let Some(stat) = ProcessStat::of(pid)
        {
            processes.insert(pid, stat);
        }
    }
    below(ancestor, &processes)
}

fn below(ancestor: i32, processes: &BTreeMap<i32, ProcessStat>) -> Vec<i32> {
    let mut found = Vec::new();
    let mut parents = vec![ancestor];
    while let Some(parent) = parents.pop() {
        for (pid, _) in processes.iter().filter(|(_, stat)| stat.parent == parent) {
            // Processes are read one after the other while they come and go: a cycle is possible.
            if *pid != ancestor && !found.contains(pid) {
                found.push(*pid);
                parents.push(*pid);
            }
        }
    }
    found.retain(|pid| processes.get(pid).is_some_and(|stat| !stat.is_zombie()));
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_stat_lines() {
        let line = "12 (a) b (c)) S 7 12 12 0 -1 4194304 1 2 3 4 5 6 7 8 20 0 1 0 998877 11 22";
        let stat = ProcessStat::parse(line).expect("stat");
        assert_eq!(stat, ProcessStat { parent: 7, state: 'S', start: 998_877 });
        assert_eq!(ProcessStat::parse("12 (x) S 7"), None);
        assert_eq!(ProcessStat::parse(""), None);
    }

    #[test]
    fn finds_descendants_of_any_depth_without_the_ended_ones() {
        let stat = |parent, state| ProcessStat { parent, state, start: 0 };
        let processes = BTreeMap::from([
            (1, stat(0, 'S')),
            (2, stat(1, 'S')),
            (3, stat(2, 'Z')),
            (4, stat(3, 'R')),
            (5, stat(1, 'S')),
        ]);
        assert_eq!(below(2, &processes), [4]);
        assert_eq!(below(1, &processes).len(), 3);
        assert!(below(9, &processes).is_empty());
    }

    #[test]
    fn this_process_is_found_by_its_own_number() {
        let pid = i32::try_from(std::process::id()).expect("pid");
        assert!(!ProcessStat::of(pid).expect("stat").is_zombie());
    }
}
