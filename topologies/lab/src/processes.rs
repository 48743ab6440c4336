//! The processes of a host: found without a list of our own, and ended without hitting a stranger.
//!
//! A host's processes are those whose environment carries `FEDERATOR_LAB_HOST=<host directory>`,
//! every `postgres` whose working directory is the host's data directory (a backend overwrites its
//! environment, and outlives a killed postmaster as an orphan), and all descendants of these. A
//! process is known by its id *and* its start time, and signalled through a pidfd that was compared
//! with both, so an id that the system gave to somebody else is never hit.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};

/// The variable that marks a host's processes.
pub const MARK: &str = "FEDERATOR_LAB_HOST";

/// A process that cannot be mistaken for a later one with the same id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Identity {
    /// Process id.
    pub pid: i32,
    /// Start time, in clock ticks since boot.
    pub start_ticks: u64,
}

impl Identity {
    /// This process.
    ///
    /// # Errors
    /// When /proc is not mounted.
    pub fn of_this_process() -> io::Result<Self> {
        let stat = fs::read_to_string("/proc/self/stat")?;
        let process = parse_stat(&stat).ok_or(io::ErrorKind::InvalidData)?;
        Ok(process.identity)
    }

    /// Whether the process still runs; a zombie does not.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        read_process(self.pid).is_some_and(|now| now.identity == *self && !now.is_dead())
    }

    /// Sends a signal to exactly this process. Gone is no error: `false` is returned.
    ///
    /// # Errors
    /// When the system forbids the signal.
    pub fn signal(&self, signal: Signal) -> io::Result<bool> {
        let Some(pid) = Pid::from_raw(self.pid) else { return Ok(false) };
        let handle = match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(handle) => handle,
            Err(rustix::io::Errno::SRCH) => return Ok(false),
            Err(error) => return Err(error.into()),
        };
        // Compared after opening: the handle stays with this process whatever happens to its id.
        if !self.is_alive() {
            return Ok(false);
        }
        match pidfd_send_signal(&handle, signal) {
            Ok(()) => Ok(true),
            Err(rustix::io::Errno::SRCH) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    #[cfg(test)]
    pub(crate) fn with_other_start(self) -> Self {
        Self { start_ticks: self.start_ticks + 1, ..self }
    }
}

/// A process as /proc shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    /// Which one.
    pub identity: Identity,
    /// Its parent's id.
    pub parent: i32,
    /// Name of its program, cut by the system to 15 bytes.
    pub program: String,
    state: char,
}

impl Process {
    fn is_dead(&self) -> bool {
        matches!(self.state, 'Z' | 'X' | 'x')
    }

    /// Whether its program is called `name`.
    #[must_use]
    pub fn runs(&self, name: &str) -> bool {
        self.program.as_bytes() == &name.as_bytes()[..name.len().min(15)]
    }
}

/// Processes that outlived the attempt to end them.
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    /// A signal was refused.
    #[error(
        "cannot signal process {pid} ({program}): {source}\n\
         HINT: run as the user who started the lab"
    )]
    Refused {
        /// Process id.
        pid: i32,
        /// Its program.
        program: String,
        /// What the system said.
        source: io::Error,
    },
    /// They are still there after the deadline.
    #[error("processes {pids:?} still run {} s after being killed", limit.as_secs())]
    Survivors {
        /// Their ids.
        pids: Vec<i32>,
        /// The deadline.
        limit: Duration,
    },
}

/// Live processes of the hosts in these directories, by id.
#[must_use]
pub fn of_hosts(host_dirs: &[PathBuf]) -> Vec<Process> {
    let all = everything();
    let own = i32::try_from(std::process::id()).unwrap_or_default();
    let marked = |process: &&Process| {
        let pid = process.identity.pid;
        host_dirs.iter().any(|dir| carries_mark(pid, dir) || serves_data_of(process, dir))
    };
    let mut family: BTreeSet<i32> =
        all.values().filter(marked).map(|process| process.identity.pid).collect();
    loop {
        let born = all.values().filter(|process| family.contains(&process.parent));
        let grown: BTreeSet<i32> = born.map(|process| process.identity.pid).collect();
        let before = family.len();
        family.extend(grown);
        if family.len() == before {
            break;
        }
    }
    family.remove(&own);
    let live = all.into_values().filter(|p| family.contains(&p.identity.pid) && !p.is_dead());
    live.collect()
}

/// Cuts the power of these hosts: everything is frozen first so that nothing can fork or finish,
/// then killed, and the sweep repeated until nothing is left. Returns how many processes were
/// ended.
///
/// # Errors
/// When a signal is refused, or something survives `limit`.
pub fn cut_power(host_dirs: &[PathBuf], limit: Duration) -> Result<usize, ProcessError> {
    let start = Instant::now();
    let mut ended = BTreeSet::new();
    freeze(host_dirs)?;
    loop {
        let left = of_hosts(host_dirs);
        if left.is_empty() {
            return Ok(ended.len());
        }
        for process in &left {
            ended.insert(process.identity);
            send(process, Signal::KILL)?;
        }
        if start.elapsed() > limit {
            let pids = left.iter().map(|process| process.identity.pid).collect();
            return Err(ProcessError::Survivors { pids, limit });
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Stops every process, again and again until a sweep finds none that was not stopped before.
///
/// # Errors
/// When a signal is refused.
pub fn freeze(host_dirs: &[PathBuf]) -> Result<(), ProcessError> {
    let mut frozen = BTreeSet::new();
    loop {
        let fresh: Vec<Process> = of_hosts(host_dirs)
            .into_iter()
            .filter(|process| !frozen.contains(&process.identity))
            .collect();
        if fresh.is_empty() {
            return Ok(());
        }
        for process in fresh {
            send(&process, Signal::STOP)?;
            frozen.insert(process.identity);
        }
    }
}

/// Lets every process go on, the servers first and what watches over them last: the worst order.
///
/// # Errors
/// When a signal is refused.
pub fn thaw(host_dirs: &[PathBuf]) -> Result<(), ProcessError> {
    let mut frozen = of_hosts(host_dirs);
    frozen.sort_by_key(|process| !process.runs("postgres"));
    for process in frozen {
        send(&process, Signal::CONT)?;
    }
    Ok(())
}

/// Sends a signal; a process that is gone by now is no error.
///
/// # Errors
/// When the system forbids it.
pub fn send(process: &Process, signal: Signal) -> Result<bool, ProcessError> {
    process.identity.signal(signal).map_err(|source| ProcessError::Refused {
        pid: process.identity.pid,
        program: process.program.clone(),
        source,
    })
}

fn everything() -> BTreeMap<i32, Process> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.filter_map(|pid| Some((pid, read_process(pid)?))).collect()
}

fn read_process(pid: i32) -> Option<Process> {
    parse_stat(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// `pid (program) state ppid …`, see proc(5). The program's name may itself hold parentheses.
fn parse_stat(stat: &str) -> Option<Process> {
    let (pid, rest) = stat.split_once(" (")?;
    let (program, rest) = rest.rsplit_once(") ")?;
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    // Field 3 of the manual is the first one here.
    let start_ticks = fields.get(22 - 3)?.parse().ok()?;
    Some(Process {
        identity: Identity { pid: pid.trim().parse().ok()?, start_ticks },
        parent: fields.get(1)?.parse().ok()?,
        program: program.to_owned(),
        state: fields.first()?.chars().next()?,
    })
}

fn carries_mark(pid: i32, host_dir: &Path) -> bool {
    let Ok(environment) = fs::read(format!("/proc/{pid}/environ")) else { return false };
    let wanted = format!("{MARK}={}", host_dir.display());
    environment.split(|&byte| byte == 0).any(|entry| entry == wanted.as_bytes())
}

fn serves_data_of(process: &Process, host_dir: &Path) -> bool {
    process.runs("postgres")
        && fs::read_link(format!("/proc/{}/cwd", process.identity.pid))
            .is_ok_and(|cwd| cwd == host_dir.join("data"))
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command, Stdio};

    use super::*;

    /// A shell with a child of its own, marked as a process of `host_dir`.
    fn marked(host_dir: &Path) -> Child {
        let mut command = Command::new("sh");
        command.args(["-c", "env -u FEDERATOR_LAB_HOST sleep 600 & echo; wait"]);
        let mut child = command.env(MARK, host_dir).stdout(Stdio::piped()).spawn().unwrap();
        // The line says that the grandchild was forked.
        let mut line = [0u8; 1];
        io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut line).unwrap();
        child
    }

    #[test]
    fn stat_lines_are_read_whatever_the_name() {
        let tail = "S 7 1 1 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 4711 0 0";
        for name in ["postgres", "a b) (c", "node-agent-guar"] {
            let process = parse_stat(&format!("42 ({name}) {tail}")).unwrap();
            assert_eq!(process.identity, Identity { pid: 42, start_ticks: 4711 });
            assert_eq!((process.parent, process.program.as_str()), (7, name));
            assert!(!process.is_dead());
        }
        assert_eq!(parse_stat("42 (short) S 7"), None);
        let process = parse_stat(&format!("42 (node-agent-guar) {tail}")).unwrap();
        assert!(process.runs("node-agent-guard") && !process.runs("node-agent"));
    }

    #[test]
    fn a_power_cut_ends_descendants_and_spares_other_hosts() {
        let dir = tempfile::tempdir().unwrap();
        let (here, there) = (dir.path().join("a"), dir.path().join("ab"));
        let (mut victim, mut stranger) = (marked(&here), marked(&there));
        assert!(of_hosts(std::slice::from_ref(&here)).len() >= 2, "the shell and its child");
        let ended = cut_power(std::slice::from_ref(&here), Duration::from_secs(10)).unwrap();
        assert!(ended >= 2, "{ended}");
        assert!(of_hosts(std::slice::from_ref(&here)).is_empty());
        assert!(victim.wait().unwrap().code().is_none(), "ended by a signal");
        assert!(of_hosts(std::slice::from_ref(&there)).len() >= 2, "another host's live on");
        cut_power(std::slice::from_ref(&there), Duration::from_secs(10)).unwrap();
        stranger.wait().unwrap();
        assert_eq!(cut_power(&[here, there], Duration::from_secs(10)).unwrap(), 0);
    }

    #[test]
    fn a_reused_id_is_not_hit() {
        let mut child = Command::new("sleep").arg("600").spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        let identity = read_process(pid).unwrap().identity;
        assert!(identity.is_alive());
        assert!(!identity.with_other_start().signal(Signal::KILL).unwrap());
        assert!(child.try_wait().unwrap().is_none(), "still running");
        assert!(identity.signal(Signal::KILL).unwrap());
        child.wait().unwrap();
        assert!(!identity.is_alive());
    }
}
