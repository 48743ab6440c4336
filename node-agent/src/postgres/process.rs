//! The postmaster as a process: found by its pid file, told from others by where it runs, and
//! waited for by an event.

use super::Error;
use super::family::ProcessStat;
use super::files;
use super::places::Places;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// `postmaster.pid` (PostgreSQL source, `miscadmin.h`: one item a line).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct PidFile {
    pub(super) pid: i32,
    /// The directory of the first Unix socket.
    pub(super) socket_dir: Option<String>,
    /// `starting`, `stopping`, `ready` or `standby`.
    pub(super) status: String,
}

impl PidFile {
    pub(super) fn parse(text: &str) -> Option<Self> {
        let line = |number: usize| text.lines().nth(number).unwrap_or("").trim().to_owned();
        // A standalone backend writes its number with a minus.
        let pid: i32 = line(0).parse::<i32>().ok()?.checked_abs().filter(|pid| *pid > 0)?;
        let socket_dir = Some(line(4)).filter(|dir| !dir.is_empty());
        Some(Self { pid, socket_dir, status: line(7) })
    }

    pub(super) fn read(places: &Places) -> Result<Option<Self>, Error> {
        Ok(files::read(&places.data("postmaster.pid"))?.as_deref().and_then(Self::parse))
    }
}

/// A live postmaster, held by a descriptor: its number can't become another process's.
pub(super) struct Postmaster {
    pub(super) file: PidFile,
    fd: OwnedFd,
}

/// Whether the process is a server on this data directory: a postmaster changes into it.
fn runs_in(pid: i32, data_dir: &Path) -> bool {
    let Ok(data_dir) = std::fs::canonicalize(data_dir) else { return false };
    let alive = ProcessStat::of(pid).is_some_and(|stat| !stat.is_zombie());
    alive && std::fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd == data_dir)
}

impl Postmaster {
    /// The server that runs on the data directory, if one does.
    pub(super) fn find(places: &Places) -> Result<Option<Self>, Error> {
        let Some(file) = PidFile::read(places)? else { return Ok(None) };
        let Some(pid) = Pid::from_raw(file.pid) else { return Ok(None) };
        let Ok(fd) = pidfd_open(pid, PidfdFlags::NONBLOCK) else { return Ok(None) };
        // Looked at after the descriptor was opened: from here on the number is this process.
        Ok(runs_in(file.pid, &places.data_dir).then_some(Self { file, fd }))
    }

    /// Sends a signal; fine when it has ended already.
    pub(super) fn signal(&self, signal: Signal) -> Result<(), Error> {
        match pidfd_send_signal(&self.fd, signal) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
            Err(e) => Err(Error::Refused {
                action: format!("signal the postmaster (pid {})", self.file.pid),
                reason: e.to_string(),
            }),
        }
    }

    /// Until it has ended.
    pub(super) async fn ended(self) -> Result<(), Error> {
        let failed = |path: &str| files::failed("watch", Path::new(path));
        let path = format!("/proc/{}", self.file.pid);
        #[allow(
            deprecated,
            reason = "an OwnedFd keeps what the unsafe successor asks for; unsafe is denied here"
        )]
        let fd = AsyncFd::with_interest(self.fd, Interest::READABLE).map_err(failed(&path))?;
        fd.readable().await.map(|_| ()).map_err(failed(&path))
    }

    /// True when it ended in time.
    pub(super) async fn ended_within(self, deadline: Duration) -> Result<bool, Error> {
        match tokio::time::timeout(deadline, self.ended()).await {
            Ok(result) => result.map(|()| true),
            Err(_) => Ok(false),
        }
    }

    /// The `--name=value` arguments that it was started with.
    pub(super) fn arguments(&self) -> Vec<String> {
        let raw = std::fs::read(format!("/proc/{}/cmdline", self.file.pid)).unwrap_or_default();
        let words = raw.split(|b| *b == 0).map(|w| String::from_utf8_lossy(w).into_owned());
        words.filter(|w| w.starts_with("--") && !w.starts_with("--config-file=")).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::places::tests::config;
    use super::*;

    #[test]
    fn pid_files() {
        let text = "4711\n/v/data\n1700000000\n5432\n/run/pg\n127.0.0.1\n 123 0\nready   \n";
        let file = PidFile::parse(text).expect("file");
        assert_eq!(file.pid, 4711);
        assert_eq!(file.socket_dir.as_deref(), Some("/run/pg"));
        assert_eq!(file.status, "ready");
        let begun = PidFile::parse("-12\n/v/data\n").expect("file");
        assert_eq!(begun, PidFile { pid: 12, ..PidFile::default() });
        for bad in ["", "x", "0", "-2147483648"] {
            assert_eq!(PidFile::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_pid_file_of_another_process_is_not_believed() {
        let dir = tempfile::tempdir().expect("directory");
        let places = Places::new(&config(dir.path())).expect("places");
        std::fs::create_dir(&places.data_dir).expect("create");
        assert!(Postmaster::find(&places).expect("find").is_none());
        // This test's own process lives, and does not run in that directory.
        let pid = std::process::id().to_string();
        std::fs::write(places.data("postmaster.pid"), pid).expect("write");
        assert!(Postmaster::find(&places).expect("find").is_none());
    }

    #[tokio::test]
    async fn a_process_in_the_directory_is_found_and_its_end_noticed() {
        let dir = tempfile::tempdir().expect("directory");
        let places = Places::new(&config(dir.path())).expect("places");
        std::fs::create_dir(&places.data_dir).expect("create");
        let mut child = std::process::Command::new("sleep")
            .arg("1000")
            .current_dir(&places.data_dir)
            .spawn()
            .expect("sleep");
        std::fs::write(places.data("postmaster.pid"), child.id().to_string()).expect("write");
        let find = || Postmaster::find(&places).expect("find").expect("alive");
        assert!(!find().ended_within(Duration::from_millis(20)).await.expect("wait"));
        find().signal(Signal::KILL).expect("kill");
        // Found before the signal has worked, or gone already: both end the wait.
        if let Some(postmaster) = Postmaster::find(&places).expect("find") {
            assert!(postmaster.ended_within(Duration::from_secs(10)).await.expect("wait"));
        }
        child.wait().expect("reap");
        assert!(Postmaster::find(&places).expect("find").is_none());
    }
}
