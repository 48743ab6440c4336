//! Signatures with ed25519 and hashes with SHA-256, both by ring, which rustls uses anyway.

use federator_core::document::Signature;
use node_agent_wire::approval::SignedDocument;
use ring::digest::{SHA256, digest};
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};
use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::pki_types::pem::PemObject as _;
use std::fmt::Write as _;
use std::path::Path;

const ALGORITHM: &str = "ed25519";

/// A private key. Printing it shows the public one.
pub struct SigningKey(Ed25519KeyPair);

impl std::fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SigningKey({})", self.public())
    }
}

/// In hexadecimal digits.
fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    if !text.len().is_multiple_of(2) || !text.is_ascii() {
        return None;
    }
    let pairs = (0..text.len()).step_by(2);
    pairs.map(|at| u8::from_str_radix(text.get(at..at + 2)?, 16).ok()).collect()
}

/// SHA-256 in hexadecimal digits.
#[must_use]
pub fn sha256(text: &str) -> String {
    hex(digest(&SHA256, text.as_bytes()).as_ref())
}

/// Whether a text is a public key: 32 bytes in hexadecimal digits.
#[must_use]
pub fn is_public_key(text: &str) -> bool {
    unhex(text).is_some_and(|bytes| bytes.len() == 32)
}

impl SigningKey {
    /// Reads a PKCS#8 file in PEM form, as `openssl genpkey -algorithm ed25519` makes it.
    ///
    /// # Errors
    /// It can't be read, or is another kind of key.
    pub fn read(file: &Path) -> Result<Self, String> {
        let at = |why: String| format!("{}: {why}", file.display());
        let der = PrivatePkcs8KeyDer::from_pem_file(file).map_err(|error| at(error.to_string()))?;
        // OpenSSL leaves the public half out; ring derives it.
        let pair = Ed25519KeyPair::from_pkcs8_maybe_unchecked(der.secret_pkcs8_der())
            .map_err(|error| at(format!("no ed25519 key in PKCS#8 form ({error})")))?;
        Ok(Self(pair))
    }

    /// The public key, in hexadecimal digits.
    #[must_use]
    pub fn public(&self) -> String {
        hex(self.0.public_key().as_ref())
    }

    /// Signs a text.
    #[must_use]
    pub fn sign(&self, text: String) -> SignedDocument {
        let signature = hex(self.0.sign(text.as_bytes()).as_ref());
        let (algorithm, public_key) = (ALGORITHM.to_owned(), self.public());
        SignedDocument { text, algorithm, public_key, signature }
    }
}

/// Checks a signature. `trusted` are public keys in hexadecimal digits.
#[must_use]
pub fn verify(document: &SignedDocument, trusted: &[String]) -> Signature {
    let (Some(key), Some(signature)) = (unhex(&document.public_key), unhex(&document.signature))
    else {
        return Signature::Wrong;
    };
    let right = UnparsedPublicKey::new(&ED25519, &key).verify(document.text.as_bytes(), &signature);
    if right.is_err() || document.algorithm != ALGORITHM {
        return Signature::Wrong;
    }
    let known = trusted.iter().any(|one| one.eq_ignore_ascii_case(&document.public_key));
    match (trusted.is_empty(), known) {
        (true, _) => Signature::Unjudged,
        (false, true) => Signature::Trusted,
        (false, false) => Signature::Stranger,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 8410, section 10.3: the example key, without its public half.
    const KEY: &str = "-----BEGIN PRIVATE KEY-----\n\
        MC4CAQAwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC\n\
        -----END PRIVATE KEY-----\n";
    /// Of the same section, the public key.
    const PUBLIC: &str = "19bf44096984cdfe8541bac167dc3b96c85086aa30b6b6cb0c5c38ad703166e1";

    fn key(text: &str) -> Result<SigningKey, String> {
        let name = format!("signing-{}-{}", std::process::id(), sha256(text));
        let file = std::env::temp_dir().join(name);
        std::fs::write(&file, text).unwrap();
        let key = SigningKey::read(&file);
        std::fs::remove_file(&file).unwrap();
        key
    }

    #[test]
    fn what_is_signed_is_verified_and_nothing_else() {
        let key = key(KEY).unwrap();
        assert_eq!(key.public(), PUBLIC);
        assert!(format!("{key:?}").contains(PUBLIC) && is_public_key(PUBLIC));
        let document = key.sign("{\"a\":1}".into());
        let ours = [PUBLIC.to_uppercase()];
        assert_eq!(verify(&document, &ours), Signature::Trusted);
        assert_eq!(verify(&document, &[]), Signature::Unjudged);
        assert_eq!(verify(&document, &["ab".repeat(32)]), Signature::Stranger);
        let other = |change: fn(&mut SignedDocument)| {
            let mut changed = document.clone();
            change(&mut changed);
            verify(&changed, &ours)
        };
        for change in [
            (|d| d.text.push(' ')) as fn(&mut SignedDocument),
            |d| d.signature.replace_range(..2, "00"),
            |d| d.signature.clear(),
            |d| d.signature = "zz".into(),
            |d| d.public_key = "ab".repeat(32),
            |d| d.public_key = "é".into(),
            |d| d.algorithm = "none".into(),
        ] {
            assert_eq!(other(change), Signature::Wrong);
        }
    }

    #[test]
    fn other_files_are_refused() {
        let pem = |body: &str| format!("-----BEGIN {body}-----\nAAAA\n-----END {body}-----\n");
        for text in [String::new(), "no key".into(), pem("PRIVATE KEY"), pem("CERTIFICATE")] {
            assert!(key(&text).is_err(), "{text}");
        }
        let absent = SigningKey::read(Path::new("/does/not/exist")).unwrap_err();
        assert!(absent.contains("/does/not/exist"), "{absent}");
    }

    #[test]
    fn sha256_of_the_standard() {
        // FIPS 180-4, the example "abc".
        let expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(sha256("abc"), expected);
    }
}
