//! Short questions to other members over their REST API, with a body.

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::header::{AUTHORIZATION, CONNECTION, CONTENT_TYPE};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use node_agent_wire::config::Credentials;
use std::time::Duration;

/// No answer of a member is larger.
const BODY_BYTES_MAX: usize = 64 * 1024;

/// Sends requests to members.
#[derive(Clone)]
pub struct Messenger {
    client: Client<HttpConnector, Full<Bytes>>,
    /// Members of one cluster share their password (contract B.2). Never printed.
    authorization: Option<String>,
}

impl Messenger {
    /// With the password that guards the REST API, if one does.
    #[must_use]
    pub fn new(credentials: Option<&Credentials>) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_connect_timeout(Some(Duration::from_secs(2)));
        let client =
            Client::builder(TokioExecutor::new()).pool_max_idle_per_host(0).build(connector);
        let authorization = credentials.and_then(crate::rest::access::authorization);
        Self { client, authorization }
    }

    /// `POST` to `leaf` beside `api_url`, which ends in `/patroni` as members publish it. The
    /// answer's status and text.
    ///
    /// # Errors
    /// In words, why there is no answer; after `deadline` at the latest.
    pub async fn post(
        &self,
        api_url: &str,
        leaf: &str,
        body: Vec<u8>,
        deadline: Duration,
    ) -> Result<(u16, String), String> {
        let base = api_url.rsplit_once('/').map_or(api_url, |(base, _)| base);
        let mut request = hyper::Request::post(format!("{base}/{leaf}"))
            .header(CONNECTION, "close")
            .header(CONTENT_TYPE, "application/json");
        if let Some(authorization) = &self.authorization {
            request = request.header(AUTHORIZATION, authorization);
        }
        let request =
            request.body(Full::new(Bytes::from(body))).map_err(|error| error.to_string())?;
        let exchange = async {
            let answer = self.client.request(request).await.map_err(|error| innermost(&error))?;
            let status = answer.status().as_u16();
            let body = Limited::new(answer.into_body(), BODY_BYTES_MAX).collect().await;
            let bytes = body.map_err(|error| error.to_string())?.to_bytes();
            Ok((status, String::from_utf8_lossy(&bytes).into_owned()))
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
