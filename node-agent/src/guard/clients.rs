//! The guard's socket: small lines in, small lines out, and nobody is waited for.

use rustix::event::PollFlags;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

/// The longest socket path that is accepted: the kernel takes 107 bytes, and a path that just fits
/// here would not fit for a longer member name.
pub(crate) const SOCKET_PATH_BYTES_MAX: usize = 99;
/// A line longer than this is no command.
const LINE_BYTES_MAX: usize = 128;
/// A client that leaves this much unread is cut off.
const UNREAD_BYTES_MAX: usize = 4096;
/// The agent needs three; the rest is room for people who look.
const CLIENTS_MAX: usize = 32;

/// A line that the guard understands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Request {
    /// Arm for this point of `CLOCK_BOOTTIME`, nanoseconds.
    Deadline(u64),
    /// No deadline any more.
    Disarm,
    /// Say how things are.
    Status,
}

impl Request {
    /// Reads a line.
    pub(crate) fn parse(line: &str) -> Result<Self, String> {
        let mut words = line.split_ascii_whitespace();
        let request = match (words.next(), words.next()) {
            (Some("deadline"), Some(ns)) => ns.parse().map(Self::Deadline).ok(),
            (Some("disarm"), None) => Some(Self::Disarm),
            (Some("status"), None) => Some(Self::Status),
            (_, _) => None,
        };
        match (request, words.next()) {
            (Some(request), None) => Ok(request),
            (_, _) => {
                Err("error not understood; expected: deadline NANOSECONDS, disarm, status"
                    .to_owned())
            }
        }
    }
}

struct Client {
    stream: UnixStream,
    incoming: Vec<u8>,
    outgoing: Vec<u8>,
    gone: bool,
}

impl Client {
    /// The complete lines that have arrived.
    fn lines(&mut self) -> Vec<String> {
        let mut chunk = [0; 512];
        loop {
            match self.stream.read(&mut chunk) {
                Ok(0) => {
                    self.gone = true;
                    break;
                }
                Ok(count) => {
                    self.incoming.extend_from_slice(&chunk[..count]);
                    if count < chunk.len() || self.incoming.len() > UNREAD_BYTES_MAX {
                        break;
                    }
                }
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) if e.kind() == ErrorKind::WouldBlock => break,
                Err(_) => {
                    self.gone = true;
                    break;
                }
            }
        }
        let mut lines = Vec::new();
        while let Some(end) = self.incoming.iter().position(|b| *b == b'\n') {
            let line: Vec<u8> = self.incoming.drain(..=end).collect();
            lines.push(String::from_utf8_lossy(&line).trim().to_owned());
        }
        if self.incoming.len() > LINE_BYTES_MAX {
            self.incoming.clear();
            lines.push("(a line without an end)".to_owned());
        }
        lines
    }

    fn answer(&mut self, line: &str) {
        self.outgoing.extend_from_slice(line.as_bytes());
        self.outgoing.push(b'\n');
        self.flush();
        if self.outgoing.len() > UNREAD_BYTES_MAX {
            self.gone = true;
        }
    }

    fn flush(&mut self) {
        while !self.outgoing.is_empty() {
            match self.stream.write(&self.outgoing) {
                Ok(count) => drop(self.outgoing.drain(..count)),
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) if e.kind() == ErrorKind::WouldBlock => return,
                Err(_) => {
                    self.gone = true;
                    return;
                }
            }
        }
    }
}

/// The listener and its connections. The socket file goes with it.
pub(crate) struct Clients {
    path: PathBuf,
    listener: UnixListener,
    clients: Vec<Client>,
}

impl Clients {
    /// Listens on `path`, for the owner only. The caller holds the data directory's lock, so a
    /// file that is there already is left over from a guard that was killed.
    pub(crate) fn listen(path: &Path) -> Result<Self, String> {
        let shown = path.display();
        let length = path.as_os_str().len();
        if length > SOCKET_PATH_BYTES_MAX {
            return Err(format!(
                "the socket path {shown} has {length} bytes, {SOCKET_PATH_BYTES_MAX} are possible"
            ));
        }
        match std::fs::remove_file(path) {
            Err(e) if e.kind() != ErrorKind::NotFound => {
                return Err(format!("could not remove the old socket {shown}: {e}"));
            }
            Ok(()) | Err(_) => {}
        }
        // The mask makes the file private from its first moment; the mode makes it certain.
        let mask = rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o177));
        let bound = UnixListener::bind(path);
        rustix::process::umask(mask);
        let listener = bound.map_err(|e| format!("could not listen on {shown}: {e}"))?;
        let private = std::fs::Permissions::from_mode(0o600);
        std::fs::set_permissions(path, private)
            .and_then(|()| listener.set_nonblocking(true))
            .map_err(|e| format!("could not prepare the socket {shown}: {e}"))?;
        Ok(Self { path: path.to_owned(), listener, clients: Vec::new() })
    }

    /// Every descriptor with what it waits for.
    pub(crate) fn descriptors(&self) -> Vec<(BorrowedFd<'_>, PollFlags)> {
        let mut all = vec![(self.listener.as_fd(), PollFlags::IN)];
        for client in &self.clients {
            let writing =
                if client.outgoing.is_empty() { PollFlags::empty() } else { PollFlags::OUT };
            all.push((client.stream.as_fd(), PollFlags::IN | writing));
        }
        all
    }

    /// Takes new connections and answers every line that has come.
    pub(crate) fn serve(&mut self, mut answer: impl FnMut(Result<Request, String>) -> String) {
        while let Ok((stream, _)) = self.listener.accept() {
            // One too many is closed at once: the descriptor table is finite.
            if self.clients.len() < CLIENTS_MAX && stream.set_nonblocking(true).is_ok() {
                let (incoming, outgoing) = (Vec::new(), Vec::new());
                self.clients.push(Client { stream, incoming, outgoing, gone: false });
            }
        }
        for client in &mut self.clients {
            client.flush();
            for line in client.lines() {
                let reply = answer(Request::parse(&line));
                client.answer(&reply);
            }
        }
        self.clients.retain(|client| !client.gone);
    }

    /// Tells every connection.
    pub(crate) fn tell(&mut self, line: &str) {
        for client in &mut self.clients {
            client.answer(line);
        }
    }
}

impl Drop for Clients {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_the_protocol() {
        assert_eq!(Request::parse("deadline 12"), Ok(Request::Deadline(12)));
        assert_eq!(Request::parse(" disarm "), Ok(Request::Disarm));
        assert_eq!(Request::parse("status"), Ok(Request::Status));
        for junk in ["", "deadline", "deadline -1", "deadline 1 2", "disarm now", "stop", "é"] {
            assert!(Request::parse(junk).is_err_and(|e| e.starts_with("error ")), "{junk}");
        }
    }
}
