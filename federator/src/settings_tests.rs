use super::*;

const GOOD: &str = r#"
federation: shop
datacenters:
  dc1: {scope: shop-dc1, namespace: /service, etcd: ["127.20.1.1:2379"]}
  dc.2: {scope: shop-dc2, etcd: ["a:2379", "b:2379"],
         fencer: {command: [/bin/fence, --off], timeout: 5s}}
credentials:
  superuser: {username: postgres, password_env: SUPER}
  replication: {username: replicator, password_env: REPL}
policies:
  {cold_start_after: 2m, switchover_lag_max: 1MB, keep_divergent_wal: false, vault_retention: 7d,
   evidence: acknowledged or (fenced-by-hook and attested), approvals: 1, sequence_gap: 1000}
signing_key_file: /etc/federator/signing.pem
trusted_keys: [19bf44096984cdfe8541bac167dc3b96c85086aa30b6b6cb0c5c38ad703166e1]
"#;

fn read(text: &str) -> Result<Settings, SettingsError> {
    let environment = |name: &str| matches!(name, "SUPER" | "REPL").then(|| format!("{name}-pw"));
    Settings::parse(Path::new("f.yml"), text, environment)
}

#[test]
fn reads_a_whole_file() {
    let settings = read(GOOD).unwrap();
    let second = &settings.datacenters[&DcName::from("dc.2")];
    assert_eq!((second.namespace.as_str(), second.etcd.len()), ("/service", 2));
    assert_eq!(second.slot.as_str(), "dc_2");
    assert_eq!(settings.policies.cold_start_after_s, 120);
    assert_eq!(settings.policies.switchover_lag_bytes_max, 1 << 20);
    assert!(!settings.policies.keep_divergent_wal);
    assert_eq!(settings.policies.evidence, "acknowledged or (fenced-by-hook and attested)");
    assert_eq!((settings.policies.approvals, settings.policies.sequence_gap), (1, 1000));
    assert_eq!(settings.signing_key_file.as_deref(), Some(Path::new("/etc/federator/signing.pem")));
    assert_eq!(settings.trusted_keys.len(), 1);
    let fencer = second.fencer.as_ref().unwrap();
    assert_eq!((&fencer.command[1], fencer.timeout.as_secs()), (&"--off".to_owned(), 5));
    assert_eq!(settings.datacenters[&DcName::from("dc1")].fencer, None);
    assert_eq!(settings.policies.vault_retention_s, 7 * 24 * 3600);
    assert_eq!(settings.superuser.password.expose(), "SUPER-pw");
    assert!(!format!("{settings:?}").contains("-pw"), "a password is printed");
}

#[test]
fn reads_lease_mode() {
    let text = GOOD.replacen("scope: shop-dc1,", "scope: shop-dc1, isolation: lease,", 1).replacen(
        "policies:\n  {",
        "witness: {etcd: [\"w:2379\"]}\npolicies:\n  {grant_ttl: 20s, grant_clock_error_ppm: 50, ",
        1,
    );
    let settings = read(&text).unwrap();
    let isolation = |dc: &str| settings.datacenters[&DcName::from(dc)].isolation;
    assert_eq!((isolation("dc1"), isolation("dc.2")), (Isolation::Lease, Isolation::Manual));
    let policy = settings.policies.grants.unwrap();
    assert_eq!((policy.holder_ttl_ms, policy.clock_error_ppm), (20_000, 50));
    assert_eq!(policy.witness.unwrap().namespace, "/service");
    assert!(!settings.policies.keep_divergent_wal, "the other policies");
    assert_eq!(settings.policies.approvals, 1, "all of the other policies");
    let two = GOOD.replacen("scope: shop-dc1,", "scope: shop-dc1, isolation: lease,", 1);
    let error = read(&two).unwrap_err().to_string();
    assert!(error.contains("datacenters.dc1.isolation: lease needs 3 voters"), "{error}");
}

#[test]
fn refuses_with_the_place() {
    for (from, to, expected) in [
        ("scope: shop-dc1", "scoop: shop-dc1", "unknown key datacenters.dc1.scoop"),
        ("federation: shop", "federation: shop\nfoo: 1", "unknown key foo"),
        ("password_env: SUPER", "password: x", "unknown key credentials.superuser.password"),
        (", password_env: SUPER", "", "credentials.superuser: exactly one of"),
        ("password_env: SUPER", "password_env: NOPE", "the variable NOPE is not set"),
        ("password_env: SUPER", "password_file: /does/not/exist", "/does/not/exist"),
        ("\"b:2379\"]", "\"b:2379\"], follows: dc3", "there is no datacenter \"dc3\""),
        ("\"b:2379\"]", "\"b:2379\"], follows: dc.2", "the chain from dc.2 comes back"),
        (
            "\"b:2379\"]",
            "\"b:2379\"], seed: {max_rate: 5GB}",
            "dc.2.seed.max_rate: \"5GB\" is not a",
        ),
        ("\"b:2379\"]", "\"b:2379\"], seed: {rate: 1MB}", "unknown key datacenters.dc.2.seed.rate"),
        ("2m", "soon", "policies.cold_start_after: \"soon\" is not a duration"),
        ("1MB", "much", "policies.switchover_lag_max: \"much\" is not a number of bytes"),
        ("[\"127.20.1.1:2379\"]", "[]", "datacenters.dc1.etcd: at least one endpoint"),
        ("federation: shop", "federation: a b", "federation: \"a b\" may not contain"),
        ("attested)", "trusted)", "policies.evidence: at character 37: one of acknowledged"),
        ("evidence: acknowledged or", "evidence: or", "policies.evidence: at character 1:"),
        ("approvals: 1", "approvals: 6", "policies.approvals: at most 5"),
        ("sequence_gap: 1000", "sequence_gap: 31", "policies.sequence_gap: 0, or at least 32"),
        ("[19bf", "[19bx", "trusted_keys: \"19bx"),
        ("[/bin/fence, --off]", "[]", "datacenters.dc.2.fencer.command: a program is expected"),
        ("/bin/fence", "fence", "fencer.command: \"fence\" is not an absolute path"),
        ("timeout: 5s", "timeout: 0s", "fencer.timeout: more than 0 is expected"),
        ("timeout: 5s", "time: 5s", "unknown key datacenters.dc.2.fencer.time"),
        ("federation: shop", "federation: [", "line"),
        ("federation: shop", "", "federation"),
    ] {
        let text = GOOD.replacen(from, to, 1);
        assert_ne!(text, GOOD, "{from}");
        let error = read(&text).unwrap_err().to_string();
        assert!(error.contains(expected) && error.contains("f.yml"), "{expected}: {error}");
    }
}

#[test]
fn sizes() {
    for (text, expected) in [
        ("8192", Some(8192)),
        ("1 kB", Some(1024)),
        ("2GB", Some(2 << 30)),
        ("1m", None),
        ("", None),
        ("-1", None),
        ("99999999999TB", None),
    ] {
        assert_eq!(bytes(text).ok(), expected, "{text}");
    }
}
