//! `node-agent-guard`: the parent of the postmaster, which stops PostgreSQL when the deadline that
//! the agent gave has passed. It is what makes a lost lease certain when the agent itself was
//! killed, stopped or hangs, so it is small, has one thread, and waits for nobody.
//!
//! ```text
//! node-agent-guard --socket PATH --data-dir DIR [--deadline NS] -- POSTGRES ARGS…
//! ```
//!
//! Lines on the socket, each answered by one line (`ok`, or `error` and a reason):
//! `deadline NS` arms for that point of `CLOCK_BOOTTIME`, earlier or later than before; `disarm`
//! (only right while PostgreSQL is a standby, or nobody else can lead: maintenance mode; the
//! agent's duty); `status` answers
//! `pid N start TICKS armed NS|none`. When PostgreSQL and all that it started are gone, every
//! connection gets `exited CODE` or `exited signal N`, and the guard ends.
//!
//! When the deadline passes: SIGQUIT to the postmaster (immediate shutdown), [`GRACE`] later
//! SIGKILL to it and all its descendants until none is left. A passed deadline is final: a line
//! that arrives in the same moment can't renew it. The guard's own death stops PostgreSQL too
//! (parent death signal), and a guard that does not act on a passed deadline for [`GRACE`], because
//! it was stopped or frozen, is killed by a timer of the kernel. One guard a data directory: it
//! holds a lock on the directory itself.
//!
//! Signals: SIGTERM and SIGINT become a fast shutdown (SIGINT) of PostgreSQL; SIGHUP is ignored.
//! Exit codes: 0 PostgreSQL ended, 1 it could not be started or guarded, 2 wrong arguments.
//! Tested in `tests/guard.rs`.

mod clients;
mod family;
mod last_resort;
mod postmaster;
mod signals;
mod watch;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

/// From SIGQUIT to SIGKILL.
pub(crate) const GRACE: Duration = Duration::from_millis(200);

/// The command line.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Arguments {
    /// Where to listen.
    pub(crate) socket: PathBuf,
    /// PGDATA, locked while the guard lives.
    pub(crate) data_dir: PathBuf,
    /// Armed from the start, nanoseconds of `CLOCK_BOOTTIME`.
    pub(crate) deadline: Option<u64>,
    /// The server's program and arguments.
    pub(crate) server: Vec<String>,
}

impl Arguments {
    fn parse(mut words: impl Iterator<Item = String>) -> Result<Self, String> {
        let (mut socket, mut data_dir, mut deadline) = (None, None, None);
        while let Some(word) = words.next() {
            if word == "--" {
                let server: Vec<String> = words.collect();
                let socket: PathBuf = socket.ok_or("--socket is missing")?;
                let data_dir = data_dir.ok_or("--data-dir is missing")?;
                if server.is_empty() {
                    return Err("no server program after --".to_owned());
                }
                return Ok(Self { socket, data_dir, deadline, server });
            }
            let value = words.next().ok_or_else(|| format!("{word} needs a value"))?;
            match word.as_str() {
                "--socket" => socket = Some(PathBuf::from(value)),
                "--data-dir" => data_dir = Some(PathBuf::from(value)),
                "--deadline" => {
                    let ns = value.parse();
                    deadline = Some(ns.map_err(|_| format!("--deadline {value}: not a number"))?);
                }
                _ => return Err(format!("unknown argument {word}")),
            }
        }
        Err("-- and the server program are missing".to_owned())
    }
}

/// One line on stderr (the server log), with the time for people.
pub(crate) fn log(message: &str) {
    let now = std::time::SystemTime::now();
    let since = now.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    let stamp = watch::utc(since.as_secs());
    let pid = std::process::id();
    // A full disk must not stop the guard: a line that can't be written is lost.
    let _ = std::io::Write::write_all(
        &mut std::io::stderr(),
        format!("{stamp} [{pid}] guard: {message}\n").as_bytes(),
    );
}

fn main() -> ExitCode {
    let arguments = match Arguments::parse(std::env::args().skip(1)) {
        Ok(arguments) => arguments,
        Err(problem) => {
            log(&format!(
                "{problem}; usage: node-agent-guard --socket PATH --data-dir DIR \
                 [--deadline NS] -- POSTGRES ARGS…"
            ));
            return ExitCode::from(2);
        }
    };
    match watch::run(&arguments) {
        Ok(ended) => {
            log(&format!("PostgreSQL {ended}; nothing of it is left"));
            ExitCode::SUCCESS
        }
        Err(problem) => {
            log(&problem);
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &[&str]) -> Result<Arguments, String> {
        Arguments::parse(words.iter().map(|w| (*w).to_owned()))
    }

    #[test]
    fn arguments_in_full() {
        let a = parse(&["--socket", "s", "--data-dir", "d", "--deadline", "7", "--", "pg", "-D"])
            .expect("arguments");
        assert_eq!(a.socket, PathBuf::from("s"));
        assert_eq!(a.deadline, Some(7));
        assert_eq!(a.server, ["pg", "-D"]);
    }

    #[test]
    fn wrong_arguments_are_named() {
        for (words, named) in [
            (&["--socket"][..], "--socket"),
            (&["--socket", "s", "--", "pg"], "--data-dir"),
            (&["--data-dir", "s", "--", "pg"], "--socket"),
            (&["--socket", "s", "--data-dir", "d", "--"], "program"),
            (&["--socket", "s", "--data-dir", "d"], "--"),
            (&["--deadline", "soon"], "soon"),
            (&["--what", "x"], "--what"),
        ] {
            let problem = parse(words).expect_err("accepted");
            assert!(problem.contains(named), "{words:?}: {problem}");
        }
    }
}
