//! Who may change something: basic authentication (contract B.2).

use super::reply::Reply;
use axum::http::header::WWW_AUTHENTICATE;
use axum::http::{HeaderMap, StatusCode, header};
use node_agent_wire::config::Credentials;
use std::sync::{Arc, PoisonError, RwLock};

/// The password of the REST API, which members of one cluster share (contract B.2). A reload may
/// change it. Never printed.
#[derive(Clone, Default)]
pub struct ApiPassword(Arc<RwLock<Option<Credentials>>>);

impl ApiPassword {
    /// As the configuration has it.
    #[must_use]
    pub fn new(configured: Option<Credentials>) -> Self {
        Self(Arc::new(RwLock::new(configured)))
    }

    fn current(&self) -> Option<Credentials> {
        // A value is replaced as a whole.
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// From now on.
    pub fn set(&self, configured: Option<Credentials>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = configured;
    }

    /// Lets the request pass, or answers it.
    ///
    /// # Errors
    /// The 401 that the client gets.
    pub fn check(&self, headers: &HeaderMap) -> Result<(), Reply> {
        check(self.current().as_ref(), headers)
    }

    /// The header that members of one cluster send each other; `None` without a password.
    #[must_use]
    pub fn authorization(&self) -> Option<String> {
        authorization(&self.current()?)
    }
}

/// Lets the request pass, or answers it.
///
/// # Errors
/// The 401 that the client gets.
fn check(configured: Option<&Credentials>, headers: &HeaderMap) -> Result<(), Reply> {
    let Some(configured) = configured else { return Ok(()) };
    let password = configured.password.as_deref().unwrap_or("");
    if configured.username.is_empty() && password.is_empty() {
        return Ok(());
    }
    let Some(given) = headers.get(header::AUTHORIZATION) else {
        return Err(refuse("no auth header received"));
    };
    let expected = base64(format!("{}:{password}", configured.username).as_bytes());
    let scheme_and_key = given.to_str().ok().and_then(|text| text.trim().split_once(' '));
    let right = scheme_and_key.is_some_and(|(scheme, key)| {
        scheme.eq_ignore_ascii_case("basic") && same(key.trim().as_bytes(), expected.as_bytes())
    });
    if right { Ok(()) } else { Err(refuse("not authenticated")) }
}

fn authorization(credentials: &Credentials) -> Option<String> {
    let password = credentials.password.as_deref().unwrap_or("");
    let none = credentials.username.is_empty() && password.is_empty();
    let key = format!("{}:{password}", credentials.username);
    (!none).then(|| format!("Basic {}", base64(key.as_bytes())))
}

fn refuse(text: &str) -> Reply {
    Reply::text(StatusCode::UNAUTHORIZED, text)
        .with_header(WWW_AUTHENTICATE, "Basic realm=\"Patroni\"")
}

/// Compares in a time that depends on the length of the guess only, so that the time of an answer
/// does not tell how much of it was right.
fn same(given: &[u8], expected: &[u8]) -> bool {
    let mut difference = u8::from(given.len() != expected.len());
    for (i, byte) in given.iter().enumerate() {
        difference |= byte ^ expected.get(i).copied().unwrap_or(0);
    }
    std::hint::black_box(difference) == 0
}

/// RFC 4648, section 4, with padding.
fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let group = chunk.iter().fold(0_u32, |acc, byte| (acc << 8) | u32::from(*byte))
            << (8 * (3 - chunk.len()));
        for i in 0..4 {
            let index = (group >> (18 - 6 * i)) & 63;
            let letter = ALPHABET.get(index as usize).copied().unwrap_or(b'=');
            text.push(if i <= chunk.len() { char::from(letter) } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderValue;

    #[test]
    fn base64_of_the_rfc() {
        for (plain, encoded) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("fooba", "Zm9vYmE="),
            ("foobar", "Zm9vYmFy"),
        ] {
            assert_eq!(base64(plain.as_bytes()), encoded);
        }
        assert_eq!(base64(&[0xFB, 0xFF]), "+/8=");
    }

    #[test]
    fn table() {
        let credentials = Credentials {
            username: "foo".into(),
            password: Some("bar".into()),
            ..Credentials::default()
        };
        for (configured, header, expected) in [
            (None, None, None),
            (None, Some("Basic nonsense"), None),
            (Some(&credentials), None, Some("no auth header received")),
            (Some(&credentials), Some("Basic Zm9vOmJhcg=="), None),
            (Some(&credentials), Some("basic Zm9vOmJhcg=="), None),
            (Some(&credentials), Some("Basic Zm9vOmJhcg"), Some("not authenticated")),
            (Some(&credentials), Some("Basic Zm9vOmJhcg==A"), Some("not authenticated")),
            (Some(&credentials), Some("Bearer Zm9vOmJhcg=="), Some("not authenticated")),
            (Some(&credentials), Some("Basic"), Some("not authenticated")),
            (Some(&credentials), Some("Basic "), Some("not authenticated")),
        ] {
            let mut headers = HeaderMap::new();
            if let Some(header) = header {
                let value = HeaderValue::from_static(header);
                headers.insert(header::AUTHORIZATION, value);
            }
            let reply = check(configured, &headers);
            let text = reply.err().map(|r| {
                assert_eq!(r.status, StatusCode::UNAUTHORIZED);
                assert!(r.header.is_some());
                r.body.expect("a body").1
            });
            assert_eq!(text.as_deref(), expected, "{header:?}");
        }
    }

    #[test]
    fn an_empty_password_that_is_configured_must_still_be_given() {
        let credentials = Credentials { username: "foo".into(), ..Credentials::default() };
        assert!(check(Some(&credentials), &HeaderMap::new()).is_err());
    }
}
