//! Connections of libpq's programs and of the WAL receiver: the parameters of a user as the
//! configuration gives them (contract C.3), for the version of the programs.
//!
//! Passwords are in the password file. `sslpassword` has no such file and no environment variable:
//! programs read it from a service file, so that it never stands in a command line.

use super::conf::conninfo_value;
use super::places::Places;
use super::{Error, Server, files};
use node_agent_wire::config::Credentials;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::PoisonError;

/// libpq's parameters that a user may have, and the first major version that knows them.
const KNOWN: [(&str, u32); 10] = [
    ("sslmode", 0),
    ("sslcert", 0),
    ("sslkey", 0),
    ("sslpassword", 13),
    ("sslrootcert", 0),
    ("sslcrl", 0),
    ("sslcrldir", 14),
    ("gssencmode", 12),
    ("channel_binding", 13),
    ("sslnegotiation", 17),
];
const SECRET: &str = "sslpassword";
/// The section of the service file.
const SERVICE: &str = "node-agent";

/// Whether `primary_conninfo` must name a database: without one a standby of PostgreSQL 17 or later
/// does not take logical slots over from its primary (PostgreSQL manual, 47.2.3).
pub(super) fn names_database(major: u32) -> bool {
    major >= 17
}

/// Parameters of a user's connections in order; `sslmode=prefer` unless given.
pub(super) fn pairs(
    user: &Credentials,
    krbsrvname: Option<&str>,
    major: u32,
) -> Vec<(String, String)> {
    let mut pairs = Vec::new();
    if !user.connection.contains_key("sslmode") {
        pairs.push(("sslmode".to_owned(), "prefer".to_owned()));
    }
    for (key, since) in KNOWN {
        if let Some(value) = user.connection.get(key).filter(|_| major >= since) {
            pairs.push((key.to_owned(), value.clone()));
        }
    }
    if let Some(name) = krbsrvname {
        pairs.push(("krbsrvname".to_owned(), name.to_owned()));
    }
    pairs
}

impl Server {
    /// Where PostgreSQL of other datacenters listens: certificates are checked in full there unless
    /// the configuration says otherwise ([`Credentials::across`]).
    pub fn set_abroad(&self, addresses: BTreeSet<(String, u16)>) {
        *self.abroad.lock().unwrap_or_else(PoisonError::into_inner) = addresses;
    }

    /// The user for a connection to these servers.
    pub(super) fn towards(&self, user: Credentials, hosts: &[(String, u16)]) -> Credentials {
        let abroad = self.abroad.lock().unwrap_or_else(PoisonError::into_inner);
        if hosts.iter().any(|host| abroad.contains(host)) { user.across() } else { user }
    }
}

/// Parameters that no version knows.
pub(super) fn unknown(user: &Credentials) -> impl Iterator<Item = &String> {
    user.connection.keys().filter(|key| KNOWN.iter().all(|(known, _)| known != key))
}

/// What a program is given.
pub(super) struct ForProgram {
    /// Parameters without a secret, to be put into a connection string.
    pub(super) conninfo: String,
    /// The value of `PGSERVICEFILE`, where there is a secret.
    pub(super) service_file: Option<PathBuf>,
}

/// Parameters for a program's connection as `user`.
pub(super) async fn for_program(
    places: &Places,
    user: &Credentials,
    major: u32,
) -> Result<ForProgram, Error> {
    let all = pairs(user, places.krbsrvname.as_deref(), major);
    let (secret, open): (Vec<_>, Vec<_>) = all.into_iter().partition(|(key, _)| key == SECRET);
    let mut words: Vec<String> =
        open.iter().map(|(key, value)| format!("{key}={}", conninfo_value(value))).collect();
    let mut service_file = None;
    if let Some((_, value)) = secret.first() {
        let path = places.beside(&format!(".{}.service", places.name));
        files::write(&path, format!("[{SERVICE}]\n{SECRET}={value}\n")).await?;
        words.push(format!("service={SERVICE}"));
        service_file = Some(path);
    }
    Ok(ForProgram { conninfo: words.join(" "), service_file })
}

#[cfg(test)]
mod tests {
    use super::super::places::tests::config;
    use super::*;

    fn user(pairs: &[(&str, &str)]) -> Credentials {
        let connection = pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        Credentials { username: "rep".into(), connection, ..Credentials::default() }
    }

    #[test]
    fn parameters_depend_on_the_version() {
        let user =
            user(&[("sslnegotiation", "direct"), ("sslcrldir", "/c"), ("sslmode", "require")]);
        let names = |major| {
            pairs(&user, None, major).into_iter().map(|(key, _)| key).collect::<Vec<_>>().join(" ")
        };
        for (major, known, database) in [
            (13, "sslmode", false),
            (14, "sslmode sslcrldir", false),
            (15, "sslmode sslcrldir", false),
            (16, "sslmode sslcrldir", false),
            (17, "sslmode sslcrldir sslnegotiation", true),
            (18, "sslmode sslcrldir sslnegotiation", true),
        ] {
            assert_eq!(
                (names(major).as_str(), names_database(major)),
                (known, database),
                "{major}"
            );
        }
        assert_eq!(unknown(&user).count(), 0);
    }

    #[test]
    fn without_anything_tls_is_preferred_and_strangers_are_named() {
        let plain = pairs(&user(&[]), Some("pg"), 15);
        assert_eq!(plain[0], ("sslmode".to_owned(), "prefer".to_owned()));
        assert_eq!(plain[1], ("krbsrvname".to_owned(), "pg".to_owned()));
        assert_eq!(
            unknown(&user(&[("ssl_mode", "x")])).next().map(String::as_str),
            Some("ssl_mode")
        );
    }

    #[tokio::test]
    async fn a_passphrase_is_in_a_file_and_not_in_the_command_line() {
        let dir = tempfile::tempdir().expect("directory");
        let places = Places::new(&config(dir.path())).expect("places");
        let user = user(&[("sslpassword", "secret"), ("sslkey", "/k e y")]);
        let given = for_program(&places, &user, 15).await.expect("given");
        assert_eq!(given.conninfo, "sslmode='prefer' sslkey='/k e y' service=node-agent");
        let file = given.service_file.expect("a service file");
        let text = std::fs::read_to_string(file).expect("read");
        assert_eq!(text, "[node-agent]\nsslpassword=secret\n");
    }
}
