//! A GET request over plain HTTP/1.1, blocking and with a deadline: all that a lab needs to ask
//! etcd and the agents how they are.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// Longest answer that is read.
const MAX_BYTES: usize = 1024 * 1024;

/// A question that was not answered.
#[derive(Debug, thiserror::Error)]
#[error("GET http://{address}{path}: {source}")]
pub struct HttpError {
    address: SocketAddr,
    path: String,
    source: io::Error,
}

/// Status code and body.
#[derive(Debug, PartialEq, Eq)]
pub struct Answer {
    /// For example 200.
    pub status: u16,
    /// The body, without a transfer encoding.
    pub body: String,
}

/// Asks, and reads the whole answer within `limit`.
///
/// # Errors
/// When there is no connection, no complete answer in time, or one that is not HTTP.
pub fn get(address: SocketAddr, path: &str, limit: Duration) -> Result<Answer, HttpError> {
    let ask = || {
        let bytes = exchange(address, path, Instant::now() + limit)?;
        parse(&bytes).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "not HTTP"))
    };
    ask().map_err(|source| HttpError { address, path: path.to_owned(), source })
}

fn exchange(address: SocketAddr, path: &str, deadline: Instant) -> io::Result<Vec<u8>> {
    let left = || {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() { Err(io::Error::from(io::ErrorKind::TimedOut)) } else { Ok(left) }
    };
    let mut stream = TcpStream::connect_timeout(&address, left()?)?;
    stream.set_write_timeout(Some(left()?))?;
    // HTTP/1.0: the server closes at the end and does not send chunks.
    // In one piece: a server may answer and close after the first one that it reads.
    let request = format!("GET {path} HTTP/1.0\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut bytes = Vec::new();
    let mut buffer = [0u8; 4096];
    loop {
        stream.set_read_timeout(Some(left()?))?;
        let count = stream.read(&mut buffer)?;
        if count == 0 {
            return Ok(bytes);
        }
        bytes.extend_from_slice(&buffer[..count]);
        if bytes.len() > MAX_BYTES {
            return Err(io::Error::other("the answer is longer than 1 MiB"));
        }
    }
}

fn parse(bytes: &[u8]) -> Option<Answer> {
    let text = String::from_utf8_lossy(bytes);
    let (head, body) = text.split_once("\r\n\r\n")?;
    let mut words = head.lines().next()?.split(' ');
    words.next().filter(|version| version.starts_with("HTTP/1."))?;
    let status = words.next()?.parse().ok()?;
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        if name.eq_ignore_ascii_case("content-length") { value.trim().parse().ok() } else { None }
    });
    match length {
        Some(length) => Some(Answer { status, body: body.get(..length)?.to_owned() }),
        None => Some(Answer { status, body: body.to_owned() }),
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::thread;

    use super::*;

    #[test]
    fn answers_are_taken_apart() {
        let cases: &[(&str, Option<(u16, &str)>)] = &[
            ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}", Some((200, "{}"))),
            ("HTTP/1.0 503 No\r\n\r\nlate", Some((503, "late"))),
            ("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\ncut", None),
            ("SSH-2.0-x\r\n\r\n", None),
            ("", None),
        ];
        for (text, wanted) in cases {
            let wanted = wanted.map(|(status, body)| Answer { status, body: body.to_owned() });
            assert_eq!(parse(text.as_bytes()), wanted, "{text}");
        }
    }

    #[test]
    fn a_silent_server_does_not_hold_us() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let fault = get(address, "/health", Duration::from_millis(50)).unwrap_err();
        assert!(fault.to_string().starts_with(&format!("GET http://{address}/health: ")));
    }

    #[test]
    fn an_answer_is_read_to_its_end() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let server = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = [0u8; 1024];
            let count = stream.read(&mut request).unwrap();
            stream.write_all(b"HTTP/1.1 200 OK\r\n\r\nhel").unwrap();
            stream.write_all(b"lo").unwrap();
            String::from_utf8_lossy(&request[..count]).into_owned()
        });
        let answer = get(address, "/x", Duration::from_secs(5)).unwrap();
        assert_eq!(answer, Answer { status: 200, body: "hello".into() });
        assert!(server.join().unwrap().starts_with("GET /x HTTP/1.0\r\n"));
    }
}
