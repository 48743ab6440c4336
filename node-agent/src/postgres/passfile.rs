//! The password file for libpq: `host:port:database:user:password` (PostgreSQL manual, 34.16).
//! A line for each host that was ever named, because a running WAL receiver reads it again with
//! each connection.

use super::Error;
use super::files;
use super::places::Places;
use node_agent_wire::config::Credentials;
use std::collections::BTreeSet;

fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace(':', "\\:")
}

/// The hosts and ports that a file has lines for, escaped as they stand there.
fn known(text: &str) -> BTreeSet<(String, String)> {
    let mut hosts = BTreeSet::new();
    for line in text.lines() {
        let mut fields = vec![String::new()];
        let mut escaped = false;
        for c in line.chars() {
            if c == ':' && !escaped {
                fields.push(String::new());
            } else if let Some(last) = fields.last_mut() {
                last.push(c);
            }
            escaped = c == '\\' && !escaped;
        }
        if let [host, port, _, _, _, ..] = fields.as_slice() {
            hosts.insert((host.clone(), port.clone()));
        }
    }
    hosts
}

/// The file's text: a line for each host and user.
fn render(hosts: &BTreeSet<(String, String)>, users: &[Credentials]) -> String {
    let mut text = String::new();
    let mut seen = BTreeSet::new();
    for user in users {
        let Some(password) = &user.password else { continue };
        if !seen.insert(&user.username) {
            continue;
        }
        for (host, port) in hosts {
            let (user, password) = (escaped(&user.username), escaped(password));
            text.push_str(&format!("{host}:{port}:*:{user}:{password}\n"));
        }
    }
    text
}

/// Adds lines for these hosts.
pub(super) async fn write(places: &Places, hosts: &[(String, u16)]) -> Result<(), Error> {
    let mut all = known(&files::read(&places.pgpass)?.unwrap_or_default());
    all.extend(hosts.iter().map(|(host, port)| (escaped(host), port.to_string())));
    let mut users = vec![places.replication()?];
    users.extend(places.rewind_user());
    users.push(places.superuser());
    files::write(&places.pgpass, render(&all, &users)).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::places::tests::config;
    use super::*;

    #[tokio::test]
    async fn hosts_add_up_and_passwords_are_escaped() {
        let dir = tempfile::tempdir().expect("directory");
        let places = Places::new(&config(dir.path())).expect("places");
        for host in ["::1", "b", "b"] {
            write(&places, &[(host.to_owned(), 5432)]).await.expect("write");
        }
        let text = files::read(&dir.path().join(".pg1.pgpass")).expect("read").expect("file");
        assert_eq!(
            text,
            "\\:\\:1:5432:*:rep:r\\:1\nb:5432:*:rep:r\\:1\n\
             \\:\\:1:5432:*:postgres:s\nb:5432:*:postgres:s\n"
        );
        let mut users = config(dir.path()).postgresql.authentication;
        users.replication.password = Some("new".into());
        places.set_users(users);
        write(&places, &[]).await.expect("write");
        let text = files::read(&dir.path().join(".pg1.pgpass")).expect("read").expect("file");
        assert!(text.starts_with("\\:\\:1:5432:*:rep:new\nb:5432:*:rep:new\n"), "{text}");
    }
}
