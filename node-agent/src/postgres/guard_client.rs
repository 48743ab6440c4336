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

    /// No deadline any more; only right while PostgreSQL is a standby, or nobody else can lead.
    ///
    /// # Errors
    /// As [`Self::set_deadline`].
    pub fn disarm(&mut self) -> io::Result<()> {
        self.ask("disarm\n")
    }

    /// Whether the guard has a deadline.
    ///
    /// # Errors
    /// As [`Self::set_deadline`].
    pub fn is_armed(&mut self) -> io::Result<bool> {
        let answer = self.exchange("status\n")?;
        match answer.split_once(" armed ") {
            Some((_, armed)) => Ok(armed != "none"),
            None => Err(refused(&answer)),
        }
    }

    fn exchange(&mut self, request: &str) -> io::Result<String> {
        self.lines.get_mut().write_all(request.as_bytes())?;
        let mut answer = String::new();
        self.lines.read_line(&mut answer)?;
        Ok(answer.trim().to_owned())
    }

    fn ask(&mut self, request: &str) -> io::Result<()> {
        match self.exchange(request)?.as_str() {
            "ok" => Ok(()),
            other => Err(refused(other)),
        }
    }
}

/// Whether a guard runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Presence {
    /// None, and nothing of the server that it guarded.
    Absent,
    /// It answers, and guards.
    Guarding,
    /// It closed the connection instead of answering: it is about to end.
    Ending,
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

/// Whether a guard runs, as far as `socket` tells.
pub(super) async fn presence(socket: &Path, deadline: Duration) -> io::Result<Presence> {
    match ask(socket, "status\n", deadline).await {
        Ok(line) if line.starts_with("pid ") => Ok(Presence::Guarding),
        Ok(_) => Ok(Presence::Ending),
        Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused) => {
            Ok(Presence::Absent)
        }
        // It ended with the request unread.
        Err(e) if matches!(e.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe) => {
            Ok(Presence::Ending)
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
    use tokio::io::AsyncReadExt;

    #[tokio::test]
    async fn a_guard_that_hangs_up_is_ending() {
        let dir = tempfile::tempdir().expect("directory");
        let path = dir.path().join("s");
        let listener = tokio::net::UnixListener::bind(&path).expect("bind");
        let wait = Duration::from_secs(5);
        for (answer, presence) in [
            ("", Presence::Ending),
            ("exited 0\n", Presence::Ending),
            ("pid 1 start 2 armed none\n", Presence::Guarding),
        ] {
            let serve = async {
                let (mut stream, _) = listener.accept().await.expect("accept");
                stream.read_exact(&mut [0; "status\n".len()]).await.expect("request");
                stream.write_all(answer.as_bytes()).await.expect("write");
            };
            let (seen, ()) = tokio::join!(super::presence(&path, wait), serve);
            assert_eq!(seen.expect("presence"), presence, "{answer}");
        }
    }

    #[tokio::test]
    async fn no_guard_is_no_error() {
        let dir = tempfile::tempdir().expect("directory");
        let path = dir.path().join("s");
        let wait = Duration::from_secs(5);
        assert_eq!(presence(&path, wait).await.expect("absent"), Presence::Absent);
        drop(std::os::unix::net::UnixListener::bind(&path).expect("bind"));
        assert_eq!(presence(&path, wait).await.expect("left over"), Presence::Absent);
        assert!(GuardClient::connect(&path, wait).is_err());
    }
}
