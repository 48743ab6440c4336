//! Certificates for a lab whose network is not this machine's loopback: agents and federator then
//! show one to each other. Made once, all of them for the life of the lab.

use std::io;
use std::net::IpAddr;
use std::path::PathBuf;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, SanType};

use crate::layout::Layout;
use crate::software::RunUser;

/// Certificates that could not be made.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// A file could not be written.
    #[error("cannot write {path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The library refused.
    #[error("cannot make a certificate: {0}")]
    Made(#[from] rcgen::Error),
}

/// The files of a lab.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Files {
    /// The authority's certificate.
    pub authority: PathBuf,
    /// The certificate of every host and of the federator.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

impl Files {
    /// Where they are.
    #[must_use]
    pub fn of(layout: &Layout) -> Self {
        let dir = layout.tls_dir();
        Self {
            authority: dir.join("ca.crt"),
            certificate: dir.join("host.crt"),
            key: dir.join("host.key"),
        }
    }
}

/// Makes the files, unless they are there from an earlier run.
///
/// # Errors
/// When a file cannot be written.
pub(crate) fn make(layout: &Layout, user: &RunUser) -> Result<(), CertificateError> {
    let files = Files::of(layout);
    // Written last.
    if files.authority.exists() {
        return Ok(());
    }
    let mut authority = CertificateParams::new(Vec::new())?;
    authority.distinguished_name.push(DnType::CommonName, "authority of the lab");
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate()?;
    let root = authority.self_signed(&key)?.pem();
    let issuer = Issuer::from_params(&authority, &key);
    let mut host = CertificateParams::new(Vec::new())?;
    host.distinguished_name.push(DnType::CommonName, "host of the lab");
    let address = |host: &crate::layout::Host| SanType::IpAddress(IpAddr::V4(host.address));
    host.subject_alt_names = layout.nodes().map(address).collect();
    let own = KeyPair::generate()?;
    let signed = host.signed_by(&own, &issuer)?.pem();
    let dir = layout.tls_dir();
    user.make_private_dir(&dir).map_err(|source| CertificateError::File { path: dir, source })?;
    for (path, text) in
        [(files.key, own.serialize_pem()), (files.certificate, signed), (files.authority, root)]
    {
        let written = user.write_private(&path, &text);
        written.map_err(|source| CertificateError::File { path, source })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;
    use crate::network::Network;
    use crate::topology::Topology;

    #[test]
    fn they_are_made_once_and_private() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let text = "name: a\nwan: {}\ndatacenters: {a: {nodes: [x]}, b: {nodes: [y]}}";
        let topology = Topology::parse(text).unwrap();
        let layout = Layout::plan(&topology, Network::SEPARATE, dir.path()).unwrap();
        let read = |path: &Path| fs::read_to_string(path).unwrap();
        let Files { authority, certificate, key } = Files::of(&layout);
        make(&layout, &RunUser::current()).unwrap();
        let before = [&authority, &certificate, &key].map(|path| read(path));
        assert!(before[0].contains("BEGIN CERTIFICATE") && before[2].contains("PRIVATE KEY"));
        let mode = fs::metadata(&key).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        make(&layout, &RunUser::current()).unwrap();
        assert_eq!([&authority, &certificate, &key].map(|path| read(path)), before);
    }
}
