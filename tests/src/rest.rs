//! Requests to an agent's REST API, as `curl` would make them.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Status code and body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// For example 200.
    pub status: u16,
    /// The body.
    pub body: String,
}

/// Sends one request and reads the whole answer; `body` is JSON or empty.
///
/// # Errors
/// In words: no connection, no complete answer within `limit`, or one that is not HTTP.
pub async fn request(
    address: SocketAddr,
    method: &str,
    path: &str,
    body: &str,
    limit: Duration,
) -> Result<Answer, String> {
    let told = |why: String| format!("{method} http://{address}{path}: {why}");
    let exchange = async {
        let mut stream = TcpStream::connect(address).await?;
        let length = body.len();
        // HTTP/1.0: the server closes at the end and does not send chunks.
        let head = format!("{method} {path} HTTP/1.0\r\nHost: {address}\r\n");
        let content = format!("Content-Type: application/json\r\nContent-Length: {length}\r\n");
        stream.write_all(format!("{head}{content}\r\n{body}").as_bytes()).await?;
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).await?;
        Ok::<_, std::io::Error>(bytes)
    };
    let late = || told(format!("no answer within {} s", limit.as_secs_f32()));
    let bytes = tokio::time::timeout(limit, exchange).await.map_err(|_| late())?;
    let bytes = bytes.map_err(|error| told(error.to_string()))?;
    let text = String::from_utf8_lossy(&bytes);
    parse(&text).ok_or_else(|| told(format!("not HTTP: {text}")))
}

fn parse(text: &str) -> Option<Answer> {
    let (head, body) = text.split_once("\r\n\r\n")?;
    let mut words = head.lines().next()?.split(' ');
    words.next().filter(|version| version.starts_with("HTTP/1."))?;
    Some(Answer { status: words.next()?.parse().ok()?, body: body.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_taken_apart() {
        let answer = Answer { status: 412, body: "no\r\n\r\nway".into() };
        assert_eq!(parse("HTTP/1.1 412 x\r\nA: b\r\n\r\nno\r\n\r\nway"), Some(answer));
        assert_eq!(parse("SSH-2.0"), None);
        assert_eq!(parse("HTTP/1.1 x\r\n\r\n"), None);
    }
}
