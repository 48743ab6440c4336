//! One answer of the REST API, before it becomes HTTP.

use axum::body::Body;
use axum::http::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use axum::http::{Response, StatusCode};
use serde_json::Value;

/// What the body is; Patroni's tools look at the text, not at the type (contract B.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ContentType {
    /// `application/json`.
    Json,
    /// `text/html`: Patroni's plain answers carry it.
    Html,
    /// `text/plain`, for metrics.
    Text,
}

/// One answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// The status code.
    pub status: StatusCode,
    /// Type and text of the body; `None` for a bare status line.
    pub body: Option<(ContentType, String)>,
    /// A further header.
    pub header: Option<(HeaderName, String)>,
}

impl Reply {
    /// A status and nothing else.
    #[must_use]
    pub fn bare(status: StatusCode) -> Self {
        Self { status, body: None, header: None }
    }

    /// A line of text for people, as Patroni's mutating endpoints give it.
    #[must_use]
    pub fn text(status: StatusCode, text: impl Into<String>) -> Self {
        Self { status, body: Some((ContentType::Html, text.into())), header: None }
    }

    /// JSON.
    #[must_use]
    pub fn json(status: StatusCode, value: &Value) -> Self {
        Self { status, body: Some((ContentType::Json, value.to_string())), header: None }
    }

    /// Metrics.
    #[must_use]
    pub fn metrics(text: String) -> Self {
        Self { status: StatusCode::OK, body: Some((ContentType::Text, text)), header: None }
    }

    /// An error page: the code, what went wrong here, and what the code means.
    #[must_use]
    pub fn page(status: StatusCode, message: &str) -> Self {
        let explanation = match status {
            // patronictl looks for these words to fall back to an older endpoint (contract B.1).
            StatusCode::NOT_IMPLEMENTED => "Server does not support this operation",
            other => other.canonical_reason().unwrap_or("Error"),
        };
        let code = status.as_u16();
        Self::text(
            status,
            format!(
                "<!DOCTYPE html>\n<html><head><title>Error {code}</title></head>\n\
                 <body><p>Error code: {code}</p><p>Message: {}</p>\n\
                 <p>Explanation: {explanation}.</p></body></html>\n",
                escape(message)
            ),
        )
    }

    /// The same with a further header.
    #[must_use]
    pub fn with_header(mut self, name: HeaderName, value: impl Into<String>) -> Self {
        self.header = Some((name, value.into()));
        self
    }

    /// The HTTP response.
    #[must_use]
    pub fn into_response(self) -> Response<Body> {
        let (content_type, text) = match self.body {
            Some((ContentType::Json, text)) => (Some("application/json"), text),
            Some((ContentType::Html, text)) => (Some("text/html"), text),
            Some((ContentType::Text, text)) => (Some("text/plain"), text),
            None => (None, String::new()),
        };
        let mut response = Response::new(Body::from(text));
        *response.status_mut() = self.status;
        if let Some(content_type) = content_type {
            response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
        }
        if let Some((name, value)) = self.header {
            // Ours are plain text; one that is not would be left out.
            if let Ok(value) = HeaderValue::from_str(&value) {
                response.headers_mut().insert(name, value);
            }
        }
        response
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_of_an_unknown_operation_has_the_words_that_patronictl_looks_for() {
        let reply = Reply::page(StatusCode::NOT_IMPLEMENTED, "POST /<x>");
        let (_, text) = reply.body.expect("a body");
        assert!(text.contains("Server does not support this operation"), "{text}");
        assert!(text.contains("POST /&lt;x&gt;"), "{text}");
    }
}
