//! What a PostgreSQL that was killed leaves behind outside its directory.
//!
//! Each postmaster holds a small System V segment by which a second one on the same data would
//! notice it. A clean stop removes the segment and so does the next start, but a lab that is
//! removed after a power cut has neither, and the system has room for a limited number (SHMMNI).
//! The segment's key and id are in the seventh line of `postmaster.pid`. (The other kind, POSIX
//! shared memory, is avoided by `dynamic_shared_memory_type = mmap`, see [`crate::render`].)

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::launch;

/// A System V segment and who made it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Segment {
    key: i64,
    id: i64,
    maker: i64,
}

/// Removes the segment that the killed postmaster of `data_dir` left, if it is certain that it is
/// its own: key, id and maker agree, and nobody is attached. Returns what it removed.
///
/// Best effort: a segment that stays costs 56 bytes.
pub(crate) fn remove_left_behind(data_dir: &Path) -> Option<i64> {
    let file = fs::read_to_string(data_dir.join("postmaster.pid")).ok()?;
    let segment = segment_of(&file)?;
    let table = fs::read_to_string("/proc/sysvipc/shm").ok()?;
    if !is_detached(&table, segment) {
        return None;
    }
    let mut command = Command::new("ipcrm");
    command.args(["-m", &segment.id.to_string()]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = command.spawn().ok()?;
    launch::wait_for(&mut child).ok().filter(|status| status.success()).map(|_| segment.id)
}

/// Reads `postmaster.pid`: the process id is in its first line, key and id are in the seventh.
fn segment_of(file: &str) -> Option<Segment> {
    let mut lines = file.lines();
    let maker = lines.next()?.trim().parse().ok()?;
    let mut numbers = lines.nth(5)?.split_ascii_whitespace();
    let key = numbers.next()?.parse().ok()?;
    let id = numbers.next()?.parse().ok()?;
    Some(Segment { key, id, maker })
}

/// Looks into `/proc/sysvipc/shm`: key, shmid, perms, size, cpid, lpid, nattch …
fn is_detached(table: &str, wanted: Segment) -> bool {
    table.lines().skip(1).any(|line| {
        let number = |index| line.split_ascii_whitespace().nth(index)?.parse::<i64>().ok();
        let Some([key, id, maker, attached]) = number(0)
            .zip(number(1))
            .zip(number(4).zip(number(6)))
            .map(|((key, id), (maker, attached))| [key, id, maker, attached])
        else {
            return false;
        };
        // postmaster.pid has the key without a sign, the table has it with one.
        let key_agrees = key & 0xffff_ffff == wanted.key & 0xffff_ffff;
        key_agrees && id == wanted.id && maker == wanted.maker && attached == 0
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "4711\n/tmp/x/data\n1700000000\n5432\n/tmp/x/run\n127.20.1.11\n\
                        \x20  262183        12\nready\n";
    const TABLE: &str = "\
       key      shmid perms                  size  cpid  lpid nattch   uid
    262183         12   600                    56  4711  4800      0   101
    262183         13   600                    56  4711  4800      0   101
    262184         14   600                    56  4712  4800      3   101
";

    #[test]
    fn only_the_own_detached_segment_is_taken() {
        let own = Segment { key: 262_183, id: 12, maker: 4711 };
        assert_eq!(segment_of(FILE), Some(own));
        assert_eq!(segment_of("4711\n/tmp/x/data\n"), None);
        assert!(is_detached(TABLE, own));
        let cases = [
            ("attached", Segment { key: 262_184, id: 14, maker: 4712 }),
            ("another key", Segment { key: 1, ..own }),
            ("another maker", Segment { maker: 1, ..own }),
            ("gone", Segment { id: 99, ..own }),
        ];
        for (case, segment) in cases {
            assert!(!is_detached(TABLE, segment), "{case}");
        }
    }
}
