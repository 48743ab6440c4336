//! Passwords of a lab: random, made once, kept in files that only the run user reads.

use std::fmt;
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use crate::software::RunUser;

/// Name of the superuser.
pub const SUPERUSER: &str = "postgres";
/// Name of the replication user.
pub const REPLICATION_USER: &str = "replicator";
/// Name of the user for pg_rewind.
pub const REWIND_USER: &str = "rewinder";

/// A password. It has no way into a message: `Debug` hides it and there is no `Display`.
#[derive(Clone, PartialEq, Eq)]
pub struct Password(String);

impl Password {
    /// The text itself, for a connection or a configuration file.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// # Errors
    /// When the system gives no random bytes.
    pub(crate) fn random() -> io::Result<Self> {
        let mut bytes = [0u8; 16];
        fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
        Ok(Self(bytes.iter().map(|byte| format!("{byte:02x}")).collect()))
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(hidden)")
    }
}

/// The passwords of a lab.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credentials {
    /// Of [`SUPERUSER`].
    pub superuser: Password,
    /// Of [`REPLICATION_USER`].
    pub replication: Password,
    /// Of [`REWIND_USER`].
    pub rewind: Password,
}

impl Credentials {
    /// Stand-ins for a configuration that is printed.
    #[must_use]
    pub fn hidden() -> Self {
        let hidden = || Password("(hidden)".to_owned());
        Self { superuser: hidden(), replication: hidden(), rewind: hidden() }
    }
}

/// A password file that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("cannot use password file {path}: {source}")]
pub struct CredentialsError {
    path: PathBuf,
    source: io::Error,
}

/// File of the superuser's password.
#[must_use]
pub fn superuser_file(lab_dir: &Path) -> PathBuf {
    lab_dir.join("secrets/superuser.pass")
}

/// File of the replication user's password.
#[must_use]
pub fn replication_file(lab_dir: &Path) -> PathBuf {
    lab_dir.join("secrets/replication.pass")
}

fn rewind_file(lab_dir: &Path) -> PathBuf {
    lab_dir.join("secrets/rewind.pass")
}

impl Credentials {
    /// Reads the passwords of the lab in `lab_dir`, making those that do not exist yet.
    ///
    /// # Errors
    /// When a file can be neither read nor written.
    pub fn read_or_make(lab_dir: &Path, owner: &RunUser) -> Result<Self, CredentialsError> {
        let secrets = lab_dir.join("secrets");
        owner
            .make_private_dir(&secrets)
            .map_err(|source| CredentialsError { path: secrets, source })?;
        let password = |path: PathBuf| {
            read_or_make(&path, owner).map_err(|source| CredentialsError { path, source })
        };
        Ok(Self {
            superuser: password(superuser_file(lab_dir))?,
            replication: password(replication_file(lab_dir))?,
            rewind: password(rewind_file(lab_dir))?,
        })
    }
}

fn read_or_make(path: &Path, owner: &RunUser) -> io::Result<Password> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Password(text.trim_end().to_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let password = Password::random()?;
            owner.write_private(path, password.reveal())?;
            Ok(password)
        }
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn passwords_are_random_private_and_kept() {
        let dir = tempfile::tempdir().unwrap();
        let user = RunUser::current();
        let made = Credentials::read_or_make(dir.path(), &user).unwrap();
        assert_ne!(made.superuser, made.replication);
        assert_eq!(made.superuser.reveal().len(), 32);
        assert_eq!(Credentials::read_or_make(dir.path(), &user).unwrap(), made);
        let mode = fs::metadata(superuser_file(dir.path())).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert!(!format!("{made:?}").contains(made.superuser.reveal()));
    }
}
