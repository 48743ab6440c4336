//! Talking to the guard. The blocking client is for the lease keeper's own thread; the room
//! itself asks through the other.

use node_agent_core::time::Boot;
use std::io::{self, BufRead, BufReader, ErrorKind, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt};

/// One guard connection for the lease keeper's own thread: no async, each answer has a deadline.
pub struct GuardClient {
    lines: BufReader<UnixStream>,
}

/// A connection that is made again after a refusal or an end.
fn refused(answer: &str) -> io::Error {
    let answer = if answer.is_empty() { "the guard has ended" } else { answer };
    io::Error::other(answer.strip_prefix("error ").unwrap_or(answer).to_owned())
}

impl GuardClient {
    /// Connects, waiting `timeout` at most for each later answer.
    ///
    /// # Errors
    /// When nobody listens there.
    pub fn connect(socket: &Path, timeout: Duration) -> io::Result<Self> {
        let stream = UnixStream::connect(socket)?;
        stream.set_write_timeout(Some(timeout))?;
        stream.set_read_timeout(Some(timeout))?;
        Ok(Self { lines: BufReader::new(stream) })
    }

    /// Arms the guard for that moment, earlier or later than before.
    ///
    /// # Errors
    /// When the guard does not answer in time, has ended, or is stopping PostgreSQL already. The
    /// connection is of no use after that: connect again.
    pub fn set_deadline(&mut self, deadline: Boot) -> io::Result<()> {
        self.ask(&format!("deadline {}\n", deadline.0))
    }

    /// No deadline any more; only right while PostgreSQL is a standby.
    ///
    /// # Errors
    /// As [`Self::set_deadline`].
    pub fn disarm(&mut self) -> io::Result<()> {
        self.ask("disarm\n")
    }

    fn ask(&mut self, request: &str) -> io::Result<()> {
        self.lines.get_mut().write_all(request.as_bytes())?;
        let mut answer = String::new();
        self.lines.read_line(&mut answer)?;
        match answer.trim() {
            "ok" => Ok(()),
            other => Err(refused(other)),
        }
    }
}

/// What the guard says of the process that it guards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Guarded {
    pub(super) pid: i32,
    pub(super) armed: Option<Boot>,
}

fn parse_status(line: &str) -> Option<Guarded> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let ["pid", pid, "start", _, "armed", armed] = words.as_slice() else { return None };
    let armed = match *armed {
        "none" => None,
        ns => Some(Boot(ns.parse().ok()?)),
    };
    Some(Guarded { pid: pid.parse().ok()?, armed })
}

async fn ask(socket: &Path, request: &str, deadline: Duration) -> io::Result<String> {
    let work = async {
        let mut stream = tokio::net::UnixStream::connect(socket).await?;
        stream.write_all(request.as_bytes()).await?;
        let mut line = String::new();
        tokio::io::BufReader::new(&mut stream).read_line(&mut line).await?;
        Ok(line.trim().to_owned())
    };
    tokio::time::timeout(deadline, work)
        .await
        .unwrap_or_else(|_| Err(io::Error::new(ErrorKind::TimedOut, "the guard did not answer")))
}

/// Whom the guard guards; `None` when no guard runs.
pub(super) async fn status(socket: &Path, deadline: Duration) -> io::Result<Option<Guarded>> {
    match ask(socket, "status\n", deadline).await {
        Ok(line) => Ok(parse_status(&line)),
        Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused) => {
            Ok(None)
        }
        Err(e) => Err(e),
    }
}

/// Arms the guard.
pub(super) async fn arm(socket: &Path, at: Boot, deadline: Duration) -> io::Result<()> {
    match ask(socket, &format!("deadline {}\n", at.0), deadline).await?.as_str() {
        "ok" => Ok(()),
        other => Err(refused(other)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_lines() {
        let armed = parse_status("pid 12 start 34 armed 56");
        assert_eq!(armed, Some(Guarded { pid: 12, armed: Some(Boot(56)) }));
        assert_eq!(parse_status("pid 1 start 2 armed none"), Some(Guarded { pid: 1, armed: None }));
        for bad in ["", "exited 0", "pid x start 2 armed none", "pid 1 start 2 armed soon"] {
            assert_eq!(parse_status(bad), None, "{bad}");
        }
    }

    #[tokio::test]
    async fn no_guard_is_no_error() {
        let dir = tempfile::tempdir().expect("directory");
        let path = dir.path().join("s");
        let wait = Duration::from_secs(5);
        assert_eq!(status(&path, wait).await.expect("absent"), None);
        drop(std::os::unix::net::UnixListener::bind(&path).expect("bind"));
        assert_eq!(status(&path, wait).await.expect("left over"), None);
        assert!(GuardClient::connect(&path, wait).is_err());
    }
}
