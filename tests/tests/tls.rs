//! Goal: a cluster whose PostgreSQL speaks TLS only to the agents' users, and whose agents check
//! certificate and name (`verify-full`), begins, clones, replicates, fails over and rewinds; and no
//! connection of an agent or a standby is in clear text.
//! Method: two nodes without synchronous mode; an authority and one certificate for all addresses
//! that a lab may have.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;

use federator_tests::divergence::failover_with_rewind;
use federator_tests::patience::until;
use federator_tests::rig::{READY, ROWS, Rig};
use federator_tests::rows;
use lab::software::RunUser;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, SanType};

/// Sessions of the agents and of standbys, and how many of them are not encrypted.
const CLEAR: &str = "SELECT count(*) FILTER (WHERE NOT s.ssl)::text || ' of ' || count(*)
  FROM pg_stat_ssl s JOIN pg_stat_activity a USING (pid)
  WHERE a.application_name LIKE 'Patroni%' OR a.backend_type = 'walsender'";

/// `ca.crt`, `server.crt` and `server.key` for the run user.
fn certificates(dir: &Path) {
    let user = RunUser::choose(None).unwrap();
    fs::set_permissions(dir, fs::Permissions::from_mode(0o755)).unwrap();
    let mut authority = CertificateParams::new(Vec::new()).unwrap();
    // OpenSSL takes a certificate whose issuer has its own name for self-signed.
    authority.distinguished_name.push(DnType::CommonName, "authority of the lab");
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    fs::write(dir.join("ca.crt"), authority.self_signed(&key).unwrap().pem()).unwrap();
    let issuer = Issuer::from_params(&authority, &key);
    let mut server = CertificateParams::new(Vec::new()).unwrap();
    server.distinguished_name.push(DnType::CommonName, "server of the lab");
    let networks = 1..=255_u8;
    let hosts = networks.flat_map(|n| [11_u8, 12].map(|host| [127, n, 1, host]));
    server.subject_alt_names = hosts.map(|ip| SanType::IpAddress(ip.into())).collect();
    let own = KeyPair::generate().unwrap();
    fs::write(dir.join("server.crt"), server.signed_by(&own, &issuer).unwrap().pem()).unwrap();
    let file = dir.join("server.key");
    fs::write(&file, own.serialize_pem()).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    chown(&file, Some(user.uid), Some(user.gid)).unwrap();
}

fn topology(dir: &Path) -> String {
    let dir = dir.display();
    let user = format!("{{sslmode: verify-full, sslrootcert: {dir}/ca.crt}}");
    format!(
        "
name: tls
settings: {{ttl: 5, loop_wait: 1, retry_timeout: 1}}
dynamic:
  postgresql:
    parameters:
      ssl: 'on'
      ssl_cert_file: {dir}/server.crt
      ssl_key_file: {dir}/server.key
agent:
  postgresql:
    authentication: {{superuser: {user}, replication: {user}, rewind: {user}}}
    pg_hba:
      - hostnossl replication all 0.0.0.0/0 reject
      - hostnossl all replicator,rewinder 0.0.0.0/0 reject
      - hostssl replication replicator 127.0.0.0/8 scram-sha-256
      - host all all 127.0.0.0/8 scram-sha-256
datacenters:
  dc1: {{etcd: 1, nodes: [pg1, pg2]}}
"
    )
}

async fn nothing_in_clear(rig: &Rig, primary: &str) {
    until("encrypted sessions of agent and standby", ROWS, async || {
        let found = rows::value(&rig.access, &rig.node(primary), CLEAR).await?;
        let (clear, all) = found.split_once(" of ").ok_or("no answer")?;
        let all: u32 = all.parse().map_err(|_| "no number")?;
        if clear == "0" && all >= 2 { Ok(()) } else { Err(found) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn agents_and_standbys_speak_tls_only() {
    let dir = tempfile::tempdir().unwrap();
    certificates(dir.path());
    let rig = Rig::start_with("tls", &topology(dir.path()));
    let primary = rig.complete("dc1");
    let writer = rig.writer("before").await;
    rig.rows(&writer, 50).await;
    nothing_in_clear(&rig, &primary).await;
    let successor = failover_with_rewind(&rig, &writer, &primary).await;
    nothing_in_clear(&rig, &successor).await;
    let _ = writer.stop().await;
    rows::wait_identical(&rig.access, READY).await;
}
