//! gRPC on its own port: what the federator asks of this node. Requests go into the loop, answers
//! come from the views that it publishes.
//!
//! Plain only on a loopback address; with certificates, both sides show one (mTLS).

mod examine;
mod grants;
mod service;
#[cfg(test)]
mod service_tests;
mod tls;
#[cfg(test)]
mod tls_tests;

use crate::view::Handle;
use node_agent_wire::proto::agent_server::AgentServer;
use service::Service;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::Server;

pub use tls::TlsError;

/// The largest message either way, in bytes.
pub const MESSAGE_BYTES_MAX: usize = 256 * 1024;
/// How long calls under way may take after the shutdown has begun.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(1);

/// The server could not begin or has failed.
#[derive(Debug, thiserror::Error)]
pub enum GrpcError {
    /// Plain text outside loopback.
    #[error(
        "grpc.listen {0} is not a loopback address and no certificates are configured; set \
         grpc.certfile, grpc.keyfile and grpc.cafile, or listen on 127.0.0.1"
    )]
    PlainOutsideLoopback(SocketAddr),
    /// Certificates that can't be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The listener's own address is unknown.
    #[error("the gRPC listener: {0}")]
    Listener(#[from] std::io::Error),
    /// The transport failed.
    #[error("the gRPC server: {0}")]
    Transport(#[from] tonic::transport::Error),
}

/// The server, checked and ready; made before anything else begins, so that a bad configuration
/// ends the agent at its start.
pub struct Ready {
    server: Server,
    listener: TcpListener,
}

/// Checks the configuration and loads the certificates.
///
/// # Errors
/// When the configuration is not safe or the certificates can't be used.
pub fn prepare(
    listener: TcpListener,
    config: &node_agent_wire::config::GrpcConfig,
) -> Result<Ready, GrpcError> {
    let address = listener.local_addr()?;
    let mut server = Server::builder()
        .http2_keepalive_interval(Some(Duration::from_secs(5)))
        .http2_keepalive_timeout(Some(Duration::from_secs(5)))
        .tcp_nodelay(true);
    match tls::server(config)? {
        Some(tls) => server = server.tls_config(tls)?,
        None if address.ip().is_loopback() => {}
        None => return Err(GrpcError::PlainOutsideLoopback(address)),
    }
    Ok(Ready { server, listener })
}

/// Serves until `shutdown` resolves, then lets calls under way finish for a moment: a client that
/// watches would keep the server for ever.
///
/// # Errors
/// When the transport fails.
pub async fn serve(
    mut ready: Ready,
    handle: Handle,
    shutdown: impl Future<Output = ()>,
) -> Result<(), GrpcError> {
    let service = AgentServer::new(Service::new(handle))
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    let incoming = TcpListenerStream::new(ready.listener);
    let (begun, begins) = tokio::sync::oneshot::channel();
    let shutdown = async {
        shutdown.await;
        let _served_already = begun.send(());
    };
    let serving =
        ready.server.add_service(service).serve_with_incoming_shutdown(incoming, shutdown);
    let cut_off = async {
        if begins.await.is_ok() {
            tokio::time::sleep(SHUTDOWN_GRACE).await;
        } else {
            std::future::pending::<()>().await;
        }
    };
    tokio::select! {
        served = serving => served?,
        () = cut_off => tracing::info!("gRPC: calls still under way are cut off"),
    }
    Ok(())
}
