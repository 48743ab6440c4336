//! Goal: a cluster whose PostgreSQL speaks TLS only to the agents' users, and whose agents check
//! certificate and name (`verify-full`), begins, clones, replicates, fails over and rewinds; and no
//! connection of an agent or a standby is in clear text. Lists of revoked certificates are looked
//! at by the agents' sessions (`sslcrldir`) and by standbys (`sslcrl`). Between datacenters the
//! name is checked where nothing but the authority is configured.
//! Method: two nodes without synchronous mode; an authority and one certificate for all addresses
//! that a lab may have. A list that revokes that certificate is put in the place of an empty one,
//! and taken away again; so is a certificate of other addresses.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;

use federator_tests::agent_log::Mark;
use federator_tests::divergence::failover_with_rewind;
use federator_tests::patience::until;
use federator_tests::rig::{READY, ROWS, Rig};
use federator_tests::{rows, servers};
use lab::software::RunUser;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType, IsCa, Issuer,
    KeyIdMethod, KeyPair, RevocationReason, RevokedCertParams, SanType, SerialNumber,
    date_time_ymd,
};
use rustix::process::Signal;

/// Sessions of the agents and of standbys, and how many of them are not encrypted.
const CLEAR: &str = "SELECT count(*) FILTER (WHERE NOT s.ssl)::text || ' of ' || count(*)
  FROM pg_stat_ssl s JOIN pg_stat_activity a USING (pid)
  WHERE a.application_name LIKE 'Patroni%' OR a.backend_type = 'walsender'";

/// The serial number of the server's certificate.
const SERIAL: u64 = 4711;

/// An authority that goes on issuing lists.
struct Authority {
    params: CertificateParams,
    key: KeyPair,
}

impl Authority {
    /// Writes `server.crt` and `server.key` for the servers of a datacenter, for the run user.
    fn certify(&self, dir: &Path, dc: u8) {
        let user = RunUser::choose(None).unwrap();
        let issuer = Issuer::from_params(&self.params, &self.key);
        let mut server = CertificateParams::new(Vec::new()).unwrap();
        server.distinguished_name.push(DnType::CommonName, "server of the lab");
        let networks = 1..=255_u8;
        let hosts = networks.flat_map(|n| [11_u8, 12].map(|host| [127, n, dc, host]));
        server.serial_number = Some(SerialNumber::from(SERIAL));
        server.subject_alt_names = hosts.map(|ip| SanType::IpAddress(ip.into())).collect();
        let own = KeyPair::generate().unwrap();
        fs::write(dir.join("server.crt"), server.signed_by(&own, &issuer).unwrap().pem()).unwrap();
        let file = dir.join("server.key");
        fs::write(&file, own.serialize_pem()).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        chown(&file, Some(user.uid), Some(user.gid)).unwrap();
    }

    /// Writes the list of what is revoked now; each has a higher number.
    fn revoke(&self, number: u64, serials: &[u64], to: &[&Path]) {
        let revoked = |serial: &u64| RevokedCertParams {
            serial_number: SerialNumber::from(*serial),
            revocation_time: date_time_ymd(2020, 1, 2),
            reason_code: Some(RevocationReason::KeyCompromise),
            invalidity_date: None,
        };
        let list = CertificateRevocationListParams {
            this_update: date_time_ymd(2020, 1, 2),
            next_update: date_time_ymd(2090, 1, 1),
            crl_number: SerialNumber::from(number),
            issuing_distribution_point: None,
            revoked_certs: serials.iter().map(revoked).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let issuer = Issuer::from_params(&self.params, &self.key);
        let text = list.signed_by(&issuer).unwrap().pem().unwrap();
        for file in to {
            fs::write(file, &text).unwrap();
        }
    }
}

/// `ca.crt`, and `server.crt` and `server.key` of dc1.
fn certificates(dir: &Path) -> Authority {
    fs::set_permissions(dir, fs::Permissions::from_mode(0o755)).unwrap();
    let mut authority = CertificateParams::new(Vec::new()).unwrap();
    // OpenSSL takes a certificate whose issuer has its own name for self-signed.
    authority.distinguished_name.push(DnType::CommonName, "authority of the lab");
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    fs::write(dir.join("ca.crt"), authority.self_signed(&key).unwrap().pem()).unwrap();
    let authority = Authority { params: authority, key };
    authority.certify(dir, 1);
    authority
}

/// `lists`: parameters of the agents' sessions, and of all other connections.
fn topology(dir: &Path, lists: [&str; 2]) -> String {
    let dir = dir.display();
    let [own, user] =
        lists.map(|list| format!("{{sslmode: verify-full, sslrootcert: {dir}/ca.crt{list}}}"));
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
    authentication: {{superuser: {own}, replication: {user}, rewind: {user}}}
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

/// These servers were built without TLS, which is said.
fn clear_text_only() -> bool {
    let bin = servers::programs();
    let lacking = !servers::speaks_tls(&bin);
    if lacking {
        println!("SKIPPED: PostgreSQL in {} was built without TLS", bin.display());
    }
    lacking
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn agents_and_standbys_speak_tls_only() {
    if clear_text_only() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let _ = certificates(dir.path());
    let rig = Rig::start_with("tls", &topology(dir.path(), ["", ""]));
    let primary = rig.complete("dc1");
    let writer = rig.writer("before").await;
    rig.rows(&writer, 50).await;
    nothing_in_clear(&rig, &primary).await;
    let successor = failover_with_rewind(&rig, &writer, &primary).await;
    nothing_in_clear(&rig, &successor).await;
    let _ = writer.stop().await;
    rows::wait_identical(&rig.access, READY).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revoked_certificate_is_not_taken() {
    if clear_text_only() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let authority = certificates(dir.path());
    let lists = dir.path().join("lists");
    fs::create_dir(&lists).unwrap();
    let (file, in_dir) = (dir.path().join("list.crl"), lists.join("any-name.crl"));
    authority.revoke(1, &[SERIAL + 1], &[&file, &in_dir]);
    let ours = format!(", sslcrldir: {}", lists.display());
    let theirs = format!(", sslcrl: {}", file.display());
    let rig = Rig::start_with("tls-revoked", &topology(dir.path(), [&ours, &theirs]));
    let primary = rig.complete("dc1");
    nothing_in_clear(&rig, &primary).await;
    let standby = rig.nodes_of("dc1").into_iter().find(|node| *node != primary).unwrap();

    rig.say("the server's certificate is revoked");
    let mark = Mark::now(&rig.lab);
    authority.revoke(2, &[SERIAL], &[&file, &in_dir]);
    rig.signal_postgres(&standby, "walreceiver", Signal::TERM);
    let sessions = "SELECT count(pg_terminate_backend(pid))::text FROM pg_stat_activity
        WHERE application_name LIKE 'Patroni%'";
    let ended = rows::value(&rig.access, &rig.node(&standby), sessions).await.unwrap();
    assert_ne!(ended, "0", "the agent had no session");
    let log = rig.lab.layout.host(&standby).unwrap().dir.join(format!("{standby}.log"));
    until("a standby that refuses the primary's certificate", ROWS, async || {
        let said = fs::read_to_string(&log).map_err(|error| error.to_string())?;
        // Newer versions of OpenSSL do not tell libpq more than that it failed.
        let refused = ["certificate revoked", "certificate verify failed"];
        let refuses = refused.iter().any(|words| said.contains(words));
        if refuses { Ok(()) } else { Err("not in its log".to_owned()) }
    })
    .await;
    until("an agent that refuses its server's certificate", ROWS, async || {
        let said = mark.since(&rig.lab).remove(&standby).unwrap_or_default();
        if said.contains("Revoked") { Ok(()) } else { Err(said) }
    })
    .await;

    authority.revoke(3, &[], &[&file, &in_dir]);
    assert_eq!(rig.complete("dc1"), primary);
    nothing_in_clear(&rig, &primary).await;
}

/// Of connections between datacenters only the authority is configured.
fn link_topology(dir: &Path) -> String {
    let (dir, user) = (dir.display(), format!("{{sslrootcert: {}/ca.crt}}", dir.display()));
    format!(
        "
name: shop
settings: {{ttl: 5, loop_wait: 1, retry_timeout: 1}}
dynamic:
  postgresql:
    parameters: {{ssl: 'on', ssl_cert_file: {dir}/server.crt, ssl_key_file: {dir}/server.key}}
agent:
  postgresql:
    authentication: {{replication: {user}, rewind: {user}}}
datacenters:
  dc1: {{etcd: 1, nodes: [pg1]}}
  dc2: {{etcd: 1, nodes: [pg1]}}
"
    )
}

/// Whether dc2 streams by TLS: `t`, `f`, or nothing.
async fn link(rig: &Rig) -> Result<String, String> {
    let sql = "SELECT coalesce((SELECT s.ssl::text FROM pg_stat_replication r
        JOIN pg_stat_ssl s USING (pid) WHERE r.state = 'streaming'), 'nobody')";
    rows::value(&rig.access, &rig.node("dc1-pg1"), sql).await
}

async fn wait_link(rig: &Rig, wanted: &str) {
    until(&format!("a link with TLS {wanted}"), ROWS, async || {
        let found = link(rig).await?;
        if found == wanted { Ok(()) } else { Err(found) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_link_checks_the_name_where_an_authority_is_configured() {
    if clear_text_only() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let authority = certificates(dir.path());
    let rig = Rig::start_with("tls-link", &link_topology(dir.path()));
    rig.federate().await;
    wait_link(&rig, "true").await;

    rig.say("the servers get the certificate of other addresses");
    authority.certify(dir.path(), 2);
    let reload = "SELECT pg_reload_conf()::text";
    let _ = rows::value(&rig.access, &rig.node("dc1-pg1"), reload).await.unwrap();
    let log = rig.lab.layout.host("dc2-pg1").unwrap().dir.join("dc2-pg1.log");
    until("a standby datacenter that refuses the name", ROWS, async || {
        let standing = "SELECT count(pg_terminate_backend(pid))::text FROM pg_stat_replication";
        let ended = rows::value(&rig.access, &rig.node("dc1-pg1"), standing).await?;
        let said = fs::read_to_string(&log).map_err(|error| error.to_string())?;
        if said.contains("does not match host name") { Ok(()) } else { Err(ended) }
    })
    .await;
    assert_eq!(link(&rig).await.unwrap(), "nobody");

    authority.certify(dir.path(), 1);
    let _ = rows::value(&rig.access, &rig.node("dc1-pg1"), reload).await.unwrap();
    wait_link(&rig, "true").await;
    rig.settled("dc1").await;
}
