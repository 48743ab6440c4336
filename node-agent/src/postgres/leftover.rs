//! Programs that an earlier agent left at work on the data directory: when an agent is killed, its
//! pg_rewind or pg_basebackup goes on. Two of them on one directory would mix two servers' files.

use super::family::ProcessStat;
use super::{Error, POLL, Server};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use std::path::Path;
use std::time::Duration;
use tokio::time::Instant;

/// In the environment of each program that fills or changes a data directory, and of whatever
/// that one starts: the directory.
pub(super) const WORKS_ON: &str = "NODE_AGENT_WORKS_ON";
/// From SIGKILL to the end, when no disk hangs.
const END_MAX: Duration = Duration::from_secs(10);

/// The live processes that work on this directory.
fn at_work(data_dir: &Path) -> Vec<i32> {
    let mark = format!("{WORKS_ON}={}", data_dir.display());
    let numbers = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let numbers = numbers.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    numbers.filter(|pid| carries(*pid, &mark)).collect()
}

fn carries(pid: i32, mark: &str) -> bool {
    let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
    let marked = environment.split(|byte| *byte == 0).any(|entry| entry == mark.as_bytes());
    marked && ProcessStat::of(pid).is_some_and(|stat| !stat.is_zombie())
}

impl Server {
    /// Ends what an earlier agent left at work on the data directory; returns how many processes
    /// there were.
    ///
    /// # Errors
    /// When one outlives SIGKILL: nothing may touch the directory before it has ended.
    pub async fn end_leftovers(&self) -> Result<usize, Error> {
        let data_dir = &self.places.data_dir;
        let mark = format!("{WORKS_ON}={}", data_dir.display());
        let (end, mut ended) = (Instant::now() + END_MAX, 0);
        loop {
            let left = at_work(data_dir);
            if left.is_empty() {
                return Ok(ended);
            }
            ended = ended.max(left.len());
            if Instant::now() >= end {
                let what = format!("processes {left:?}, left at work on {}", data_dir.display());
                return Err(Error::Deadline { what, waited: END_MAX });
            }
            for pid in left.into_iter().filter_map(Pid::from_raw) {
                let Ok(process) = pidfd_open(pid, PidfdFlags::empty()) else { continue };
                // Looked at again: from the descriptor on the number is this process.
                if carries(pid.as_raw_nonzero().get(), &mark) {
                    let _gone_is_fine = pidfd_send_signal(&process, Signal::KILL);
                }
            }
            tokio::time::sleep(POLL).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::places::tests::config;
    use super::*;
    use std::process::Command;

    #[tokio::test]
    async fn what_works_on_this_directory_is_ended_and_nothing_else() {
        let dir = tempfile::tempdir().expect("directory");
        let server = Server::new(&config(dir.path())).expect("server");
        let start = |place: &Path| {
            Command::new("sleep").arg("1000").env(WORKS_ON, place).spawn().expect("sleep")
        };
        let (mut ours, mut other) = (start(server.data_dir()), start(&dir.path().join("other")));
        // Stopped in the middle of its work.
        let pid = i32::try_from(ours.id()).ok().and_then(Pid::from_raw).expect("pid");
        rustix::process::kill_process(pid, Signal::STOP).expect("stop");
        // Between fork and exec a child still shows its parent's environment.
        while at_work(server.data_dir()).is_empty() || at_work(&dir.path().join("other")).is_empty()
        {
            tokio::time::sleep(POLL).await;
        }
        assert_eq!(server.end_leftovers().await.expect("ended"), 1);
        assert!(!ours.wait().expect("reap").success());
        assert!(other.try_wait().expect("look").is_none(), "another directory's");
        assert_eq!(server.end_leftovers().await.expect("nothing left"), 0);
        other.kill().expect("kill");
        other.wait().expect("reap");
    }
}
