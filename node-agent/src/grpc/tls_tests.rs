//! Goal: with certificates, both sides must show one of the same authority. Method: the real
//! server on a loopback port with certificates made here, and real clients.

use super::{prepare, serve};
use crate::rest::fake_loop::Loop;
use crate::rest::fixture;
use node_agent_wire::config::GrpcConfig;
use node_agent_wire::proto::StatusRequest;
use node_agent_wire::proto::agent_client::AgentClient;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use std::path::Path;
use std::time::Duration;
use tokio::net::TcpListener;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};

const PATIENCE: Duration = Duration::from_secs(10);

struct Authority {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Self {
        let key = KeyPair::generate().expect("key");
        let mut params = CertificateParams::new(Vec::new()).expect("parameters");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let pem = params.self_signed(&key).expect("certificate").pem();
        Self { pem, issuer: Issuer::new(params, key) }
    }

    /// Certificate and key for 127.0.0.1.
    fn issue(&self) -> (String, String) {
        let key = KeyPair::generate().expect("key");
        let params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).expect("parameters");
        let certificate = params.signed_by(&key, &self.issuer).expect("certificate");
        (certificate.pem(), key.serialize_pem())
    }
}

fn configuration(dir: &Path, authority: &Authority) -> GrpcConfig {
    let (certificate, key) = authority.issue();
    for (name, text) in [("cert", &certificate), ("key", &key), ("ca", &authority.pem)] {
        std::fs::write(dir.join(name), text).expect("write");
    }
    serde_json::from_value(serde_json::json!({
        "listen": "127.0.0.1:0",
        "certfile": dir.join("cert"), "keyfile": dir.join("key"), "cafile": dir.join("ca"),
    }))
    .expect("a configuration")
}

async fn connect(endpoint: Endpoint) -> Result<AgentClient<Channel>, tonic::transport::Error> {
    let endpoint = endpoint.connect_timeout(PATIENCE).timeout(PATIENCE);
    endpoint.connect().await.map(AgentClient::new)
}

/// Whether a client with this identity gets an answer.
async fn served(address: &str, trusted: &Authority, identity: Option<(String, String)>) -> bool {
    let mut tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(&trusted.pem));
    if let Some((certificate, key)) = identity {
        tls = tls.identity(Identity::from_pem(certificate, key));
    }
    let endpoint = Endpoint::from_shared(format!("https://{address}")).expect("address");
    let endpoint = endpoint.tls_config(tls).expect("tls");
    match connect(endpoint).await {
        // With TLS 1.3 a refused client certificate shows at the first answer.
        Ok(mut client) => client.status(StatusRequest {}).await.is_ok(),
        Err(_) => false,
    }
}

#[tokio::test]
async fn both_sides_show_a_certificate_of_the_same_authority() {
    let _set_already_is_fine = rustls::crypto::ring::default_provider().install_default();
    let dir = tempfile::tempdir().expect("directory");
    let (ours, theirs) = (Authority::new(), Authority::new());
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("listen");
    let address = listener.local_addr().expect("address").to_string();
    let ready = prepare(listener, &configuration(dir.path(), &ours)).expect("certificates");
    let shared = Loop::new(fixture::primary(), |_| {});
    let handle = shared.handle.clone();
    let server = tokio::spawn(serve(ready, handle, std::future::pending()));

    assert!(served(&address, &ours, Some(ours.issue())).await, "its own authority is refused");
    assert!(!served(&address, &ours, None).await, "no certificate is accepted");
    assert!(!served(&address, &ours, Some(theirs.issue())).await, "a foreign one is accepted");
    assert!(!served(&address, &theirs, Some(ours.issue())).await, "a foreign server is trusted");
    let plain = Endpoint::from_shared(format!("http://{address}")).expect("address");
    let answered = match connect(plain).await {
        Ok(mut client) => client.status(StatusRequest {}).await.is_ok(),
        Err(_) => false,
    };
    assert!(!answered, "plain text is accepted");
    server.abort();
}
