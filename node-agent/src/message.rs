//! Short questions to other members over their REST API, with a body.

use crate::rest::access::ApiPassword;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::header::{AUTHORIZATION, CONNECTION, CONTENT_TYPE};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use std::time::Duration;

/// No answer of a member is larger.
const BODY_BYTES_MAX: usize = 64 * 1024;

/// Sends requests to members.
#[derive(Clone)]
pub struct Messenger {
    client: Client<HttpConnector, Full<Bytes>>,
    password: ApiPassword,
}

/// What a member answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// The body.
    pub text: String,
    /// The header `lsn`: how far the member has come.
    pub lsn: Option<u64>,
}

impl Messenger {
    /// With the password that guards the REST API, if one does.
    #[must_use]
    pub fn new(password: ApiPassword) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_connect_timeout(Some(Duration::from_secs(2)));
        let client =
            Client::builder(TokioExecutor::new()).pool_max_idle_per_host(0).build(connector);
        Self { client, password }
    }

    /// `POST` to `leaf` beside `api_url`, which ends in `/patroni` as members publish it.
    ///
    /// # Errors
    /// In words, why there is no answer; after `deadline` at the latest.
    pub async fn post(
        &self,
        api_url: &str,
        leaf: &str,
        body: Vec<u8>,
        deadline: Duration,
    ) -> Result<Answer, String> {
        let base = api_url.rsplit_once('/').map_or(api_url, |(base, _)| base);
        let mut request = hyper::Request::post(format!("{base}/{leaf}"))
            .header(CONNECTION, "close")
            .header(CONTENT_TYPE, "application/json");
        if let Some(authorization) = self.password.authorization() {
            request = request.header(AUTHORIZATION, authorization);
        }
        let request =
            request.body(Full::new(Bytes::from(body))).map_err(|error| error.to_string())?;
        let exchange = async {
            let answer = self.client.request(request).await.map_err(|error| innermost(&error))?;
            let status = answer.status().as_u16();
            let lsn = answer.headers().get("lsn").and_then(|value| value.to_str().ok());
            let lsn = lsn.and_then(|text| text.parse().ok());
            let body = Limited::new(answer.into_body(), BODY_BYTES_MAX).collect().await;
            let bytes = body.map_err(|error| error.to_string())?.to_bytes();
            Ok(Answer { status, text: String::from_utf8_lossy(&bytes).into_owned(), lsn })
        };
        match tokio::time::timeout(deadline, exchange).await {
            Ok(answer) => answer,
            Err(_) => Err(format!("no answer within {} ms", deadline.as_millis())),
        }
    }
}

/// The outer layers only say "client error".
fn innermost(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}
