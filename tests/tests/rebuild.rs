//! Goal: data directories come from where the configuration says: a cluster begins by a command,
//! a failed beginning is cleared away and another member begins, a replica comes from a pgBackRest
//! repository, and a second cluster from the same repository at a point in time.
//! Method: real pgBackRest with a repository on disk; a `post_bootstrap` that fails the first time;
//! then one node restored to a restore point.
//! Where pgBackRest is not installed the test says so and ends.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use federator_tests::agents::{ask, state};
use federator_tests::by_hand;
use federator_tests::command::Finished;
use federator_tests::patience::until;
use federator_tests::rest::Answer;
use federator_tests::rig::{READY, ROWS, Rig};
use federator_tests::{rows, servers};
use serde_json::{Value, json};

/// A repository, and the scripts of the first cluster.
struct Place {
    dir: tempfile::TempDir,
    pgbackrest: PathBuf,
}

impl Place {
    fn new(pgbackrest: PathBuf) -> Self {
        let place = Self { dir: tempfile::tempdir().unwrap(), pgbackrest };
        // Another user works in here.
        let open = |path: &Path| fs::set_permissions(path, fs::Permissions::from_mode(0o777));
        open(place.dir.path()).unwrap();
        for name in ["repo", "log", "lock", "spool"] {
            fs::create_dir(place.path(name)).unwrap();
            open(&place.path(name)).unwrap();
        }
        let at = |name: &str| place.path(name).display().to_string();
        fs::write(
            place.path("pgbackrest.conf"),
            format!(
                "[global]\nrepo1-path={}\nlog-path={}\nlock-path={}\nspool-path={}\n\
                 start-fast=y\nlog-level-console=warn\ncompress-level=1\n[demo]\n",
                at("repo"),
                at("log"),
                at("lock"),
                at("spool")
            ),
        )
        .unwrap();
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn script(&self, name: &str, text: &str) -> String {
        let path = self.path(name);
        fs::write(&path, format!("#!/bin/sh\nset -eu\n{text}")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path.display().to_string()
    }

    /// pgBackRest on the data directory `data`.
    fn backrest(&self, data: &str) -> String {
        let config = self.path("pgbackrest.conf");
        format!(
            "{} --config={} --stanza=demo --pg1-path={data}",
            self.pgbackrest.display(),
            config.display()
        )
    }
}

fn topology(name: &str, nodes: &str, agent: &Value) -> String {
    format!(
        "name: {name}\nsettings: {{ttl: 5, loop_wait: 1, retry_timeout: 1}}\nagent: {agent}\n\
         datacenters:\n  dc1: {{etcd: 1, nodes: [{nodes}]}}\n"
    )
}

/// The first cluster: begun by a command, archived and copied by pgBackRest.
fn first_cluster(place: &Place) -> String {
    let begin = place.script(
        "begin",
        "echo \"$@\" >\"$(dirname \"$0\")/begin.arguments\"\n\
         for a in \"$@\"; do case $a in --datadir=*) dir=${a#--datadir=};; esac; done\n\
         exec \"$(dirname \"$0\")/initdb\" -D \"$dir\" -U postgres -A trust -k -E UTF8 \
         >/dev/null\n",
    );
    let after = place.script(
        "after",
        "dir=$(dirname \"$0\")\n\
         if mkdir \"$dir/failed-once\" 2>/dev/null; then echo \"no licence\" >&2; exit 3; fi\n\
         \"$dir/psql\" \"$1\" -w -qc 'CREATE TABLE after_bootstrap (i int)'\n",
    );
    let backrest = place.backrest("{dir}/data");
    let agent = json!({
        "bootstrap": {
            "method": "mine",
            "mine": {"command": begin, "flavour": "plain"},
            "post_bootstrap": after,
        },
        "postgresql": {
            "parameters": {
                "archive_mode": "on", "archive_command": format!("{backrest} archive-push %p"),
            },
            "create_replica_methods": ["pgbackrest", "basebackup"],
            "pgbackrest": {
                "command": format!("{backrest} --delta restore"),
                "keep_data": true, "no_params": true,
            },
            "basebackup": [{"max-rate": "200M"}, "verbose"],
            "recovery_conf": {"restore_command": format!("{backrest} archive-get %f \"%p\"")},
        },
    });
    topology("rebuild", "pg1, pg2", &agent)
}

async fn as_lab_user(rig: &Rig, passfile: &Path, script: &str) -> Finished {
    let passfile = passfile.display().to_string();
    by_hand::script(rig, &[("PGPASSFILE", &passfile)], script).await.expect(0)
}

fn log_of(rig: &Rig, node: &str) -> String {
    fs::read_to_string(rig.lab.layout.host(node).unwrap().log()).unwrap()
}

/// A password file that any user of this test's programs may own.
fn write_passfile(rig: &Rig, place: &Place) -> PathBuf {
    let path = place.path("pass");
    let text = format!("*:*:*:postgres:{}\n", rig.lab.credentials.superuser.reveal());
    by_hand::write_private(rig, &path, &text);
    path
}

fn link_programs(place: &Place, bin: &Path) {
    for name in ["initdb", "psql"] {
        std::os::unix::fs::symlink(bin.join(name), place.path(name)).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn data_directories_come_from_where_the_configuration_says() {
    let bin = servers::programs();
    let Some(pgbackrest) = servers::pgbackrest(&bin) else {
        println!("SKIPPED: no pgBackRest came with {}", bin.display());
        return;
    };
    let place = Place::new(pgbackrest);
    link_programs(&place, &bin);
    let rig = Rig::start_with("rebuild", &first_cluster(&place));
    let leader = rig.complete("dc1");
    begun_by_command(&rig, &place, &leader).await;
    replica_from_repository(&rig, &place, &leader).await;
    drop(rig);

    let backrest = place.backrest("{dir}/data");
    let agent = json!({"bootstrap": {
        "method": "pgbackrest",
        "pgbackrest": {
            "command": format!("{backrest} restore"), "no_params": true,
            "recovery_conf": {
                "restore_command": format!("{backrest} archive-get %f \"%p\""),
                "recovery_target_name": "before",
            },
        },
    }});
    let rig = Rig::start_with("rebuild-pitr", &topology("pitr", "pg1", &agent));
    let leader = rig.complete("dc1");
    let found = "SELECT string_agg(i::text, ',' ORDER BY i) FROM after_bootstrap";
    assert_eq!(rows::value(&rig.access, &rig.node(&leader), found).await.unwrap(), "1");
}

async fn begun_by_command(rig: &Rig, place: &Place, leader: &str) {
    let arguments = fs::read_to_string(place.path("begin.arguments")).unwrap();
    for word in ["--scope=rebuild-dc1", "--datadir=", "--flavour=plain"] {
        assert!(arguments.contains(word), "{arguments}");
    }
    // The member whose post_bootstrap failed has stepped back, and joined the other one's cluster.
    let failed: Vec<&str> = rig
        .lab
        .layout
        .nodes()
        .filter(|host| host.data_dir().with_extension("failed").join("PG_VERSION").exists())
        .map(|host| host.name.as_str())
        .collect();
    assert_eq!(failed.len(), 1, "{failed:?}");
    assert_ne!(failed[0], leader);
    let log = log_of(rig, failed[0]);
    assert!(log.contains("no licence") && log.contains("data.failed"), "{log}");
    let sql = "SELECT count(*)::text FROM after_bootstrap";
    assert_eq!(rows::value(&rig.access, &rig.node(leader), sql).await.unwrap(), "0");
}

async fn replica_from_repository(rig: &Rig, place: &Place, leader: &str) {
    let host = rig.lab.layout.host(leader).unwrap();
    let passfile = write_passfile(rig, place);
    let backrest = format!(
        "{} --pg1-socket-path={} --pg1-port=5432",
        place.backrest(&host.data_dir().display().to_string()),
        host.socket_dir().display()
    );
    let _ = as_lab_user(rig, &passfile, &format!("{backrest} stanza-create")).await;
    let _ = as_lab_user(rig, &passfile, &format!("{backrest} backup")).await;
    let client = rows::connect(&rig.access, &rig.node(leader)).await.unwrap();
    for sql in [
        "INSERT INTO after_bootstrap VALUES (1)",
        "SELECT pg_create_restore_point('before')",
        "INSERT INTO after_bootstrap VALUES (2)",
    ] {
        client.batch_execute(sql).await.unwrap();
    }
    let sql = "SELECT pg_walfile_name(pg_current_wal_lsn())";
    let segment = rows::value(&rig.access, &rig.node(leader), sql).await.unwrap();
    client.batch_execute("SELECT pg_switch_wal()").await.unwrap();
    until("the archive to have everything", ROWS, async || {
        let sql = "SELECT coalesce(last_archived_wal, '') FROM pg_stat_archiver";
        let last = rows::value(&rig.access, &rig.node(leader), sql).await?;
        if last >= segment { Ok(()) } else { Err(last) }
    })
    .await;

    let nodes = rig.nodes_of("dc1");
    let replica = nodes.iter().find(|node| *node != leader).unwrap();
    let refused = ask(rig, leader, "POST", "/reinitialize", &Value::Null).await;
    let body = "I am the leader, can not reinitialize".to_owned();
    assert_eq!(refused, Answer { status: 503, body });
    let before = log_of(rig, replica).len();
    let taken = ask(rig, replica, "POST", "/reinitialize", &json!({})).await;
    assert_eq!(taken, Answer { status: 200, body: "reinitialize started".to_owned() });
    until("the copy from the repository", READY, async || {
        let log = log_of(rig, replica)[before..].to_owned();
        let state = state(rig, replica).await?;
        let done = log.contains("filling the data directory") && state["state"] == "running";
        if done && state["replication_state"] == "streaming" {
            Ok(())
        } else {
            Err(state.to_string())
        }
    })
    .await;
    let sql = "SELECT string_agg(i::text, ',' ORDER BY i) FROM after_bootstrap";
    assert_eq!(rows::value(&rig.access, &rig.node(replica), sql).await.unwrap(), "1,2");
    let log = log_of(rig, replica);
    let last = log.rsplit("filling the data directory").next().unwrap();
    assert!(last.contains("method=\"pgbackrest\""), "not by pgBackRest: {last}");
    assert!(!last.contains("did not fill"), "{last}");
}
