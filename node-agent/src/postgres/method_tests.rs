use super::super::places::tests::config;
use super::*;
use serde_json::json;
use std::path::Path;

fn local(postgresql: &Value, bootstrap: &Value) -> LocalConfig {
    let mut config = config(Path::new("/x"));
    config.postgresql.other = postgresql.as_object().expect("object").clone();
    config.bootstrap = serde_json::from_value(bootstrap.clone()).expect("bootstrap");
    config
}

fn dynamic(value: &Value) -> Dynamic {
    Dynamic::read(value.as_object().expect("object"))
}

fn methods(postgresql: &Value) -> Result<Vec<CopyMethod>, Error> {
    copy_methods(&local(postgresql, &json!({})), &Dynamic::default(), CopyOf::Member)
}

fn words(all: &[&str]) -> Vec<String> {
    all.iter().map(|w| (*w).to_owned()).collect()
}

#[test]
fn pgbackrest_as_its_users_configure_it() {
    let config = json!({
        "create_replica_methods": ["pgbackrest", "basebackup"],
        "pgbackrest": {
            "command": "/usr/bin/pgbackrest --stanza=demo --delta restore",
            "keep_data": true, "no_params": true,
        },
        "basebackup": [{"max-rate": "100M"}, "verbose", {"checkpoint": "spread"}],
    });
    let found = methods(&config).expect("methods");
    assert_eq!(
        found,
        [
            CopyMethod::Command {
                name: "pgbackrest".into(),
                command: ConfiguredCommand {
                    words: words(&["/usr/bin/pgbackrest", "--stanza=demo", "--delta", "restore"]),
                    options: Vec::new(),
                    no_params: true,
                },
                keep_data: true,
                no_leader: false,
            },
            CopyMethod::Basebackup(words(&["--max-rate=100M", "--verbose", "--checkpoint=spread"])),
        ]
    );
}

#[test]
fn user_keys_become_arguments() {
    let config = json!({
        "create_replica_methods": ["wal_e"],
        "wal_e": {"command": "wal-e", "envdir": "/etc/e", "retries": 2, "no_leader": true},
    });
    let found = methods(&config).expect("methods");
    let [CopyMethod::Command { command, no_leader: true, .. }] = &found[..] else {
        panic!("{found:?}")
    };
    assert_eq!(command.options, ["--envdir=/etc/e", "--no_leader=True", "--retries=2"]);
    assert!(found[0].leaderless());
}

#[test]
fn a_method_without_a_section_is_its_own_command() {
    let found = methods(&json!({"create_replica_methods": ["/opt/copy"]})).expect("methods");
    let [CopyMethod::Command { command, .. }] = &found[..] else { panic!("{found:?}") };
    assert_eq!(command.words, ["/opt/copy"]);
    assert_eq!(methods(&json!({})).expect("default"), [CopyMethod::Basebackup(Vec::new())]);
}

#[test]
fn a_standby_cluster_has_methods_of_its_own() {
    let config = local(&json!({"create_replica_methods": ["a"]}), &json!({}));
    let dynamic = dynamic(&json!({
        "standby_cluster": {"host": "x", "create_replica_methods": ["b"]},
        "postgresql": {"create_replica_methods": ["c"]},
    }));
    let names = |of| {
        let methods = copy_methods(&config, &dynamic, of).expect("methods");
        methods.iter().map(|m| m.name().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(names(CopyOf::Member), ["a"]);
    assert_eq!(names(CopyOf::AnotherDatacenter), ["b"]);
}

#[test]
fn what_can_not_be_used_is_named() {
    for (config, named) in [
        (json!({"basebackup": ["pgdata"]}), "pgdata"),
        (json!({"basebackup": {"host": "x"}}), "host"),
        (json!({"basebackup": [1]}), "1"),
        (json!({"create_replica_methods": ["a"], "a": {"command": "x 'y"}}), "postgresql.a"),
        (json!({"create_replica_methods": ["a"], "a": {"command": ""}}), "postgresql.a"),
        (json!({"create_replica_methods": ["a"], "a": "x"}), "postgresql.a"),
        (json!({"create_replica_methods": ["a"], "a": {"b": []}}), "postgresql.a.b"),
    ] {
        let problem = methods(&config).expect_err("accepted").to_string();
        assert!(problem.contains(named), "{problem}");
    }
}

fn plan(bootstrap: &Value) -> Result<BootstrapPlan, Error> {
    BootstrapPlan::read(&local(&json!({}), bootstrap))
}

#[test]
fn a_custom_bootstrap() {
    let found = plan(&json!({
        "method": "restore", "post_init": "/etc/after --x",
        "restore": {
            "command": "/bin/restore", "stanza": "a", "no_params": true,
            "recovery_conf": {"recovery_target_timeline": "latest", "recovery_target_name": "p",
                "recovery_target_inclusive": false},
        },
    }))
    .expect("plan");
    assert_eq!(found.afterwards, Some(words(&["/etc/after", "--x"])));
    let BootstrapMethod::Custom { name, command, keep_existing, recovery } = found.method else {
        panic!("initdb")
    };
    assert_eq!((name.as_str(), keep_existing), ("restore", false));
    assert_eq!(command.options, ["--stanza=a"]);
    assert_eq!(recovery["recovery_target_action"], "promote");
    assert_eq!(recovery["recovery_target_inclusive"], "off");
}

#[test]
fn a_bootstrap_that_can_not_be_used_is_named() {
    assert_eq!(plan(&json!({})).expect("plan").method, BootstrapMethod::Initdb);
    for (bootstrap, named) in [
        (json!({"method": "x"}), "bootstrap.x"),
        (json!({"method": "x", "x": {}}), "bootstrap.x.command"),
        (json!({"method": "x", "x": {"command": "c", "recovery_conf": 1}}), "recovery_conf"),
        (json!({"post_bootstrap": "'"}), "bootstrap.post_bootstrap"),
    ] {
        let problem = plan(&bootstrap).expect_err("accepted").to_string();
        assert!(problem.contains(named), "{problem}");
    }
}

#[test]
fn the_rate_of_the_link_is_for_copies_of_another_datacenter() {
    let config = local(&json!({"basebackup": [{"max-rate": "100M"}, "verbose"]}), &json!({}));
    let standby = json!({"standby_cluster": {"host": "a", "max_rate": "20480k"}});
    let dynamic = Dynamic::read(standby.as_object().expect("object"));
    for (of, expected) in [
        (CopyOf::Member, ["--max-rate=100M", "--verbose"]),
        (CopyOf::AnotherDatacenter, ["--verbose", "--max-rate=20480k"]),
    ] {
        let methods = copy_methods(&config, &dynamic, of).expect("methods");
        assert_eq!(methods, [CopyMethod::Basebackup(words(&expected))], "{of:?}");
    }
}
