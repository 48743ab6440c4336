//! Certificates of the gRPC server.

use node_agent_wire::config::GrpcConfig;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tonic::transport::{Certificate, Identity, ServerTlsConfig};

/// How long a client may take for the TLS handshake.
const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(5);

/// Certificates that can't be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// Some are given, others are not.
    #[error(
        "grpc.certfile, grpc.keyfile and grpc.cafile belong together; {missing} is missing \
         (without a client authority anybody could fence this node)"
    )]
    Incomplete {
        /// The key that is missing.
        missing: &'static str,
    },
    /// A file can't be read.
    #[error("{key} {file}: {source}")]
    File {
        /// The configuration key.
        key: &'static str,
        /// The file.
        file: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

/// mTLS when all three files are given; `None` when none is.
///
/// # Errors
/// When only some are given, or one can't be read.
pub fn server(config: &GrpcConfig) -> Result<Option<ServerTlsConfig>, TlsError> {
    let files = [
        ("grpc.certfile", &config.certfile),
        ("grpc.keyfile", &config.keyfile),
        ("grpc.cafile", &config.cafile),
    ];
    if files.iter().all(|(_, file)| file.is_none()) {
        return Ok(None);
    }
    let mut pem = Vec::with_capacity(files.len());
    for (key, file) in files {
        let Some(file) = file else { return Err(TlsError::Incomplete { missing: key }) };
        pem.push(read(key, file)?);
    }
    let [certificate, key, authority] = pem.as_slice() else {
        return Err(TlsError::Incomplete { missing: "grpc.cafile" });
    };
    Ok(Some(
        ServerTlsConfig::new()
            .timeout(HANDSHAKE_DEADLINE)
            .identity(Identity::from_pem(certificate, key))
            .client_ca_root(Certificate::from_pem(authority)),
    ))
}

fn read(key: &'static str, file: &Path) -> Result<Vec<u8>, TlsError> {
    std::fs::read(file).map_err(|source| TlsError::File { key, file: file.to_path_buf(), source })
}
