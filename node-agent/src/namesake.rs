//! Is another agent of this name running? Two of one name would share a member key and a slot, so
//! the second one does not start (contract E.1). Asked before this agent listens: a key that it
//! left itself a moment ago has nobody behind it.

use crate::dcs::Dcs;
use node_agent_wire::MemberName;
use node_agent_wire::keys::{ClusterPath, Leaf};
use node_agent_wire::member::{Member, split_host_port};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// How long the other one may take to answer.
const ANSWER_MAX: Duration = Duration::from_secs(3);
/// How long the DCS may take: without it the question stays open, and the agent starts.
const DCS_MAX: Duration = Duration::from_secs(5);

/// Why this agent must not start.
///
/// # Errors
/// When somebody answers at the address that the member key of this name has.
pub async fn check(dcs: &dyn Dcs, path: &ClusterPath, name: &MemberName) -> Result<(), String> {
    let key = path.key(Leaf::Member(name));
    let raw = match dcs.read(path.prefix(), DCS_MAX).await {
        Ok(raw) => raw,
        Err(error) => {
            tracing::warn!(%error, "another agent of this name is not looked for");
            return Ok(());
        }
    };
    let Some(found) = raw.keys.get(&key) else { return Ok(()) };
    let member = Member::parse(name.as_str(), &found.value);
    let Some((host, port)) = address(&member.data.api_url) else { return Ok(()) };
    if tokio::time::timeout(ANSWER_MAX, answers(&host, port)).await.unwrap_or(false) {
        return Err(format!(
            "Can't start; there is already a node named '{name}' running (it answers at \
             {host}:{port}): give this one another name, or stop the other one"
        ));
    }
    Ok(())
}

fn address(api_url: &str) -> Option<(String, u16)> {
    let (scheme, rest) = api_url.split_once("://")?;
    let port = if scheme == "https" { 443 } else { 80 };
    split_host_port(rest.split('/').next()?, port)
}

/// Any answer counts, also one that says that the request was not understood.
async fn answers(host: &str, port: u16) -> bool {
    let ask = async {
        let mut stream = TcpStream::connect((host, port)).await?;
        stream.write_all(b"GET /liveness HTTP/1.0\r\n\r\n").await?;
        let mut first = [0; 1];
        stream.read(&mut first).await
    };
    ask.await.is_ok_and(|bytes| bytes > 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rest::fake_dcs::FakeDcs;

    #[tokio::test]
    async fn only_one_that_answers_counts() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let port = listener.local_addr().expect("address").port();
        let path = ClusterPath::new("service", "shop");
        let member = format!(r#"{{"api_url":"http://127.0.0.1:{port}/patroni"}}"#);
        let dcs = FakeDcs::new(&[("/service/shop/members/pg1", member.as_str())]);
        let (name, other) = (MemberName::new("pg1"), MemberName::new("pg2"));
        assert_eq!(check(&dcs, &path, &other).await, Ok(()), "no key of that name");
        let serve = async {
            let (mut stream, _) = listener.accept().await.expect("accept");
            stream.write_all(b"HTTP/1.0 503 no\r\n\r\n").await.expect("answer");
        };
        let (told, ()) = tokio::join!(check(&dcs, &path, &name), serve);
        let told = told.expect_err("started");
        assert!(told.starts_with("Can't start; there is already a node named 'pg1' running"));
        drop(listener);
        assert_eq!(check(&dcs, &path, &name).await, Ok(()), "nobody listens there");
    }

    #[test]
    fn addresses_of_member_keys() {
        assert_eq!(address("http://h:8008/patroni"), Some(("h".into(), 8008)));
        assert_eq!(address("https://[::1]/patroni"), Some(("::1".into(), 443)));
        assert_eq!(address("nonsense"), None);
    }
}
