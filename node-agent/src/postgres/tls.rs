//! TLS of the agent's own SQL sessions, by libpq's parameters of the user (PostgreSQL manual,
//! section 34.19): the same file entries give the same protection here as to libpq's programs.
//!
//! Differences: `sslmode=allow` works as `prefer`; a key with a passphrase (`sslpassword`) and
//! `sslrootcert=system` can't be used; certificate and key have no default place.

use super::Error;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{
    CertificateDer, CertificateRevocationListDer, PrivateKeyDer, ServerName, UnixTime,
};
use rustls::server::ParsedCertificate;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio_postgres::config::{ChannelBinding, SslMode, SslNegotiation};
use tokio_postgres_rustls::MakeRustlsConnect;

/// How much is checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Check {
    Nothing,
    Chain,
    ChainAndName,
}

/// `sslmode` and what goes with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Wanted {
    mode: SslMode,
    check: Check,
}

fn bad(key: &str, problem: impl Into<String>) -> Error {
    Error::Config {
        key: format!("postgresql.authentication.<user>.{key}"),
        problem: problem.into(),
    }
}

fn wanted(connection: &BTreeMap<String, String>) -> Result<Wanted, Error> {
    let mode = connection.get("sslmode").map_or("prefer", String::as_str);
    let (mode, check) = match mode {
        "disable" => (SslMode::Disable, Check::Nothing),
        "allow" | "prefer" => (SslMode::Prefer, Check::Nothing),
        // As libpq: with an authority given it is checked.
        "require" if connection.contains_key("sslrootcert") => (SslMode::Require, Check::Chain),
        "require" => (SslMode::Require, Check::Nothing),
        "verify-ca" => (SslMode::Require, Check::Chain),
        "verify-full" => (SslMode::Require, Check::ChainAndName),
        other => return Err(bad("sslmode", format!("\"{other}\" is not one of libpq's modes"))),
    };
    Ok(Wanted { mode, check })
}

fn certificates(key: &str, path: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
    let unreadable =
        |e: rustls::pki_types::pem::Error| bad(key, format!("{}: {e}", path.display()));
    let read = CertificateDer::pem_file_iter(path).map_err(unreadable)?;
    let all: Vec<_> = read.collect::<Result<_, _>>().map_err(unreadable)?;
    if all.is_empty() {
        return Err(bad(key, format!("{} holds no certificate", path.display())));
    }
    Ok(all)
}

fn revoked(
    connection: &BTreeMap<String, String>,
) -> Result<Vec<CertificateRevocationListDer<'static>>, Error> {
    let mut files: Vec<(&str, PathBuf)> = Vec::new();
    if let Some(file) = connection.get("sslcrl") {
        files.push(("sslcrl", PathBuf::from(file)));
    }
    if let Some(dir) = connection.get("sslcrldir") {
        let entries =
            std::fs::read_dir(dir).map_err(|e| bad("sslcrldir", format!("{dir}: {e}")))?;
        files.extend(entries.flatten().map(|entry| ("sslcrldir", entry.path())));
    }
    let mut lists = Vec::new();
    for (key, path) in files {
        let unreadable =
            |e: rustls::pki_types::pem::Error| bad(key, format!("{}: {e}", path.display()));
        let read = CertificateRevocationListDer::pem_file_iter(&path).map_err(unreadable)?;
        for list in read {
            lists.push(list.map_err(unreadable)?);
        }
    }
    Ok(lists)
}

/// libpq's default place.
fn root_file(connection: &BTreeMap<String, String>) -> Result<PathBuf, Error> {
    match connection.get("sslrootcert").map(String::as_str) {
        Some("system") => Err(bad("sslrootcert", "the system's authorities can't be used here")),
        Some(file) => Ok(PathBuf::from(file)),
        None => std::env::var_os("HOME")
            .map(|home| Path::new(&home).join(".postgresql/root.crt"))
            .ok_or_else(|| bad("sslrootcert", "is missing")),
    }
}

/// Checks the server's certificate as far as the mode asks for.
#[derive(Debug)]
struct Verifier {
    chain: Option<Arc<WebPkiServerVerifier>>,
    roots: Vec<CertificateDer<'static>>,
    check: Check,
    provider: Arc<CryptoProvider>,
}

impl Verifier {
    fn new(
        connection: &BTreeMap<String, String>,
        check: Check,
        provider: Arc<CryptoProvider>,
    ) -> Result<Self, Error> {
        if check == Check::Nothing {
            return Ok(Self { chain: None, roots: Vec::new(), check, provider });
        }
        let file = root_file(connection)?;
        let roots = certificates("sslrootcert", &file)?;
        let mut store = RootCertStore::empty();
        let (_, unusable) = store.add_parsable_certificates(roots.iter().cloned());
        if unusable > 0 {
            let problem = format!("{}: {unusable} certificates can't be used", file.display());
            return Err(bad("sslrootcert", problem));
        }
        let builder =
            WebPkiServerVerifier::builder_with_provider(Arc::new(store), provider.clone())
                .with_crls(revoked(connection)?);
        let chain = builder.build().map_err(|e| bad("sslrootcert", e.to_string()))?;
        Ok(Self { chain: Some(chain), roots, check, provider })
    }
}

fn is_about_the_name(error: &rustls::Error) -> bool {
    matches!(
        error,
        rustls::Error::InvalidCertificate(
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. }
        )
    )
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let Some(chain) = &self.chain else { return Ok(ServerCertVerified::assertion()) };
        // A server's own certificate given as the authority: OpenSSL accepts that, webpki doesn't.
        if self.roots.iter().any(|root| root.as_ref() == end_entity.as_ref()) {
            if self.check == Check::ChainAndName {
                let parsed = ParsedCertificate::try_from(end_entity)?;
                rustls::client::verify_server_name(&parsed, server_name)?;
            }
            return Ok(ServerCertVerified::assertion());
        }
        // The chain is looked at before the name.
        match chain.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now) {
            Err(error) if self.check == Check::Chain && is_about_the_name(&error) => {
                Ok(ServerCertVerified::assertion())
            }
            verdict => verdict,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, cert, dss, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// Sets the session's parameters; the connector when TLS is to be tried. Files are read each time:
/// a renewed certificate needs no restart.
///
/// # Errors
/// Names the key whose value can't be used.
pub(super) fn prepare(
    connection: &BTreeMap<String, String>,
    config: &mut tokio_postgres::Config,
) -> Result<Option<MakeRustlsConnect>, Error> {
    let Wanted { mode, check } = wanted(connection)?;
    config.ssl_mode(mode);
    match connection.get("channel_binding").map(String::as_str) {
        Some("disable") => config.channel_binding(ChannelBinding::Disable),
        Some("require") => config.channel_binding(ChannelBinding::Require),
        Some(_) | None => config.channel_binding(ChannelBinding::Prefer),
    };
    if connection.get("sslnegotiation").is_some_and(|how| how == "direct") {
        config.ssl_negotiation(SslNegotiation::Direct);
    }
    if mode == SslMode::Disable {
        return Ok(None);
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = Verifier::new(connection, check, provider.clone())?;
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| bad("sslmode", e.to_string()))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
    let tls = match (connection.get("sslcert"), connection.get("sslkey")) {
        (Some(certificate), Some(key)) => {
            let chain = certificates("sslcert", Path::new(certificate))?;
            let key = PrivateKeyDer::from_pem_file(key)
                .map_err(|e| bad("sslkey", format!("{key}: {e} (a passphrase is not possible)")))?;
            builder.with_client_auth_cert(chain, key).map_err(|e| bad("sslkey", e.to_string()))?
        }
        (Some(_), None) => return Err(bad("sslkey", "is missing beside sslcert")),
        (None, _) => builder.with_no_client_auth(),
    };
    Ok(Some(MakeRustlsConnect::new(tls)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn modes_are_libpqs() {
        for (pairs, mode, check) in [
            (&[][..], SslMode::Prefer, Check::Nothing),
            (&[("sslmode", "disable")], SslMode::Disable, Check::Nothing),
            (&[("sslmode", "allow")], SslMode::Prefer, Check::Nothing),
            (&[("sslmode", "require")], SslMode::Require, Check::Nothing),
            (&[("sslmode", "require"), ("sslrootcert", "x")], SslMode::Require, Check::Chain),
            (&[("sslmode", "verify-ca")], SslMode::Require, Check::Chain),
            (&[("sslmode", "verify-full")], SslMode::Require, Check::ChainAndName),
        ] {
            assert_eq!(wanted(&map(pairs)).expect("a mode"), Wanted { mode, check }, "{pairs:?}");
        }
        let refused = wanted(&map(&[("sslmode", "on")])).expect_err("accepted").to_string();
        assert!(refused.contains("sslmode") && refused.contains("\"on\""), "{refused}");
    }

    #[test]
    fn files_that_are_missing_are_named_by_their_key() {
        let mut config = tokio_postgres::Config::new();
        let full = ("sslmode", "verify-full");
        for (pairs, key) in [
            (vec![full, ("sslrootcert", "/no/such")], "sslrootcert: /no/such"),
            (vec![full, ("sslrootcert", "system")], "sslrootcert: the system"),
            (vec![("sslcert", "/no/such"), ("sslkey", "/no/such")], "sslcert: /no/such"),
            (vec![("sslcert", "/no/such")], "sslkey: is missing"),
        ] {
            let refused = prepare(&map(&pairs), &mut config).err().expect("accepted").to_string();
            assert!(refused.contains(key), "{refused}");
        }
        assert!(prepare(&map(&[("sslmode", "disable")]), &mut config).expect("plain").is_none());
    }

    /// A certificate of an authority, for a name, as files.
    fn authority(dir: &Path, name: &str) -> (CertificateDer<'static>, String) {
        let mut params = rcgen::CertificateParams::new(Vec::new()).expect("parameters");
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let key = rcgen::KeyPair::generate().expect("key");
        let root = params.self_signed(&key).expect("authority");
        let file = dir.join("root.crt");
        std::fs::write(&file, root.pem()).expect("write");
        let issuer = rcgen::Issuer::from_params(&params, &key);
        let params = rcgen::CertificateParams::new(vec![name.to_owned()]).expect("parameters");
        let own = rcgen::KeyPair::generate().expect("key");
        let leaf = params.signed_by(&own, &issuer).expect("leaf");
        (leaf.der().clone(), file.to_string_lossy().into_owned())
    }

    #[test]
    fn the_chain_and_the_name_are_checked_as_far_as_asked() {
        let dir = tempfile::tempdir().expect("directory");
        let other = tempfile::tempdir().expect("directory");
        let (leaf, root) = authority(dir.path(), "db.example");
        let (_, strange) = authority(other.path(), "db.example");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        for (root, name, check, accepted) in [
            (&root, "db.example", Check::ChainAndName, true),
            (&root, "other.example", Check::ChainAndName, false),
            (&root, "other.example", Check::Chain, true),
            (&strange, "db.example", Check::Chain, false),
            (&strange, "db.example", Check::ChainAndName, false),
            (&strange, "other.example", Check::Nothing, true),
        ] {
            let connection = map(&[("sslrootcert", root)]);
            let verifier = Verifier::new(&connection, check, provider.clone()).expect("verifier");
            let name = ServerName::try_from(name).expect("name");
            let verdict = verifier.verify_server_cert(&leaf, &[], &name, &[], UnixTime::now());
            assert_eq!(verdict.is_ok(), accepted, "{check:?} {name:?}: {verdict:?}");
        }
    }
}
