//! What can go wrong between the agent and its PostgreSQL.

use std::path::PathBuf;
use std::time::Duration;

/// A failed attempt: what was tried, on what; [`Error::hint`] says what to do.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A value of the configuration can't be used.
    #[error("{key}: {problem}")]
    Config {
        /// The key path, as `postgresql.listen`.
        key: String,
        /// What is wrong with its value.
        problem: String,
    },
    /// A file or directory.
    #[error("could not {action} {path}: {source}", path = path.display())]
    File {
        /// The verb: `read`, `write`, `remove`, …
        action: &'static str,
        /// The path.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A program could not be started.
    #[error("could not run {program}: {source}")]
    Spawn {
        /// The program.
        program: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// A program ended with a failure.
    #[error("{program} failed ({status}): {stderr}")]
    Command {
        /// The program, without its arguments.
        program: String,
        /// `exit status: 1`, `signal: 9`.
        status: String,
        /// The end of what it wrote to stderr.
        stderr: String,
    },
    /// A deadline has passed.
    #[error("gave up after {waited:?} waiting for {what}")]
    Deadline {
        /// What was waited for.
        what: String,
        /// How long.
        waited: Duration,
    },
    /// No session with a server.
    #[error("could not connect to PostgreSQL at {server}: {message}")]
    Connect {
        /// `host:port` or the socket.
        server: String,
        /// SQLSTATE, when the server answered.
        code: Option<String>,
        /// It answered, and TLS did not come about.
        tls: bool,
        /// What the server or the system said.
        message: String,
    },
    /// A query failed.
    #[error("could not {action} on PostgreSQL at {server}: {message}")]
    Query {
        /// What the query was for.
        action: String,
        /// `host:port` or the socket.
        server: String,
        /// SQLSTATE, when the server answered.
        code: Option<String>,
        /// What the server said.
        message: String,
    },
    /// The guard can't be reached or refuses.
    #[error("the guard at {socket} {problem}", socket = socket.display())]
    Guard {
        /// Its socket.
        socket: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// The server process ended while starting.
    #[error("PostgreSQL did not start: {log}")]
    Start {
        /// The end of the server log.
        log: String,
    },
    /// The state of the server does not allow it.
    #[error("can't {action}: {reason}")]
    Refused {
        /// What was asked for.
        action: String,
        /// Why not.
        reason: String,
    },
    /// An answer that was not understood.
    #[error("could not understand {what}: {answer}")]
    Answer {
        /// Whose answer to what.
        what: String,
        /// The answer, shortened.
        answer: String,
    },
}

impl Error {
    /// What the operator can do.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Config { .. } => "correct the value in the configuration file and reload",
            Self::File { .. } => {
                "check owner, permissions and free space; the agent must run as the data \
                 directory's owner"
            }
            Self::Spawn { .. } => "check postgresql.bin_dir, or put the program on the search path",
            Self::Command { .. } => "the program's own message says what it could not do",
            Self::Deadline { .. } => "check the load of the host and the server log",
            Self::Connect { .. } => {
                "check that the server runs, pg_hba.conf, and postgresql.authentication"
            }
            Self::Query { .. } => "the server's message and its log say why",
            Self::Guard { .. } => {
                "PostgreSQL is not started or promoted without its guard; check that \
                 node-agent-guard is installed beside node-agent"
            }
            Self::Start { .. } => "correct what the server log names; the agent tries again",
            Self::Refused { .. } => "nothing was changed",
            Self::Answer { .. } => "check that the PostgreSQL version is supported (13 to 18)",
        }
    }
}
