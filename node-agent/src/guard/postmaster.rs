//! The guarded child: started so that it dies with the guard, and reaped with all its orphans.
#![allow(unsafe_code, reason = "pre_exec: the parent death signal must be set in the child")]

use crate::family::{ProcessStat, descendants};
use rustix::process::{Pid, Signal, WaitOptions, kill_process, set_child_subreaper, wait};
use std::fmt;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

/// How the postmaster ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// With this exit code.
    Code(i32),
    /// By this signal.
    Signal(i32),
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exited {code}"),
            Self::Signal(number) => write!(f, "exited signal {number}"),
        }
    }
}

/// The postmaster and whatever it starts.
pub(crate) struct Postmaster {
    pid: Pid,
    start: u64,
    ended: Option<Ended>,
}

/// Variables that are the agent's and no business of PostgreSQL or the scripts it runs.
fn is_private(name: &str) -> bool {
    name == "NOTIFY_SOCKET" || name.starts_with("PATRONI_") || name.starts_with("KUBERNETES_")
}

impl Postmaster {
    /// Starts `server` in a session of its own, as a child that gets SIGQUIT when the guard dies.
    pub(crate) fn start(server: &[String]) -> Result<Self, String> {
        let [program, arguments @ ..] = server else {
            return Err("no server program was given".to_owned());
        };
        let me = rustix::process::getpid();
        // Orphans of the postmaster come to the guard, which can then find and end them.
        set_child_subreaper(Some(me)).map_err(|e| format!("could not become subreaper: {e}"))?;
        let mut command = Command::new(program);
        command.args(arguments).stdin(Stdio::null());
        for (name, _) in std::env::vars_os() {
            if name.to_str().is_some_and(is_private) {
                command.env_remove(name);
            }
        }
        // SAFETY: between fork and exec only system calls are made, and nothing is allocated.
        unsafe {
            command.pre_exec(move || {
                rustix::process::set_parent_process_death_signal(Some(Signal::QUIT))?;
                // The guard may have died before the signal was set.
                if rustix::process::getppid() != Some(me) {
                    return Err(io::Error::from_raw_os_error(
                        rustix::io::Errno::SRCH.raw_os_error(),
                    ));
                }
                rustix::process::setsid()?;
                Ok(())
            });
        }
        let child = command.spawn().map_err(|e| format!("could not start {program}: {e}"))?;
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        let pid = pid.ok_or_else(|| format!("{program} got no usable process number"))?;
        let start = ProcessStat::of(pid.as_raw_nonzero().get()).map_or(0, |stat| stat.start);
        Ok(Self { pid, start, ended: None })
    }

    /// The process number.
    pub(crate) fn pid(&self) -> i32 {
        self.pid.as_raw_nonzero().get()
    }

    /// Its start time in clock ticks since boot.
    pub(crate) fn start_time(&self) -> u64 {
        self.start
    }

    /// How it ended, once it has.
    pub(crate) fn ended(&self) -> Option<Ended> {
        self.ended
    }

    /// Signals the postmaster alone. It can't be another process: its number is free only once
    /// [`Self::reap`] has taken note of its end.
    pub(crate) fn signal(&self, signal: Signal) {
        if self.ended.is_none() {
            let _ = kill_process(self.pid, signal);
        }
    }

    /// Signals everything that descends from the guard.
    pub(crate) fn signal_family(&self, signal: Signal) {
        let me = rustix::process::getpid().as_raw_nonzero().get();
        for pid in descendants(me).into_iter().filter_map(Pid::from_raw) {
            let _ = kill_process(pid, signal);
        }
    }

    /// Takes note of every child that has ended. True when none is left.
    pub(crate) fn reap(&mut self) -> bool {
        loop {
            match wait(WaitOptions::NOHANG) {
                Ok(Some((pid, status))) => {
                    if pid == self.pid {
                        let code = status.exit_status().map(Ended::Code);
                        let signal = status.terminating_signal().map(Ended::Signal);
                        self.ended = code.or(signal).or(Some(Ended::Code(-1)));
                    }
                }
                Ok(None) => return false,
                Err(rustix::io::Errno::INTR) => {}
                // ECHILD is the only other error that wait has.
                Err(_) => return true,
            }
        }
    }
}
