//! Goal: a former primary with rows that nobody else has comes back, whatever is in the way: a part
//! of its WAL is in the archive only; its pg_rewind is interrupted, by the death of its agent or of
//! its host; its directory is of no use any more. What it lost is reported first each time, nothing
//! works twice on one directory, and every node has the same rows at the end. A new copy that an
//! operator asks for shows its progress, and spares the leader where a member offers itself.
//! Method: three nodes, an archive for each, a pg_rewind that stays half-way when the test wants
//! it; reinitialised with Patroni's own command line where PyPI can be reached, else by REST.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use federator_tests::agent_log::Mark;
use federator_tests::agents::{ask, eventually, state};
use federator_tests::patience::until;
use federator_tests::patronictl::{Tool, install};
use federator_tests::rest::Answer;
use federator_tests::rig::{READY, ROWS, Rig};
use federator_tests::rows;
use lab::Part;
use node_agent_core::rule::Rule;
use rustix::process::Signal;
use serde_json::{Value, json};

const OFFERED: &str = "dc1-pg3";
const ROWS_OF: &str = "SELECT coalesce(string_agg(i::text, ' ' ORDER BY i), '') FROM kept";

/// PostgreSQL's programs with a pg_rewind of our own, and the archives.
struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let place = Self { dir: tempfile::tempdir().unwrap() };
        let open = |path: &Path| fs::set_permissions(path, fs::Permissions::from_mode(0o777));
        open(place.dir.path()).unwrap();
        for name in ["bin", "archive", "archive/dc1-pg1", "archive/dc1-pg2", "archive/dc1-pg3"] {
            fs::create_dir(place.path(name)).unwrap();
            open(&place.path(name)).unwrap();
        }
        let real = lab::software::find_postgres(None, None).unwrap();
        for entry in fs::read_dir(&real).unwrap().flatten() {
            if entry.file_name() != "pg_rewind" {
                symlink(entry.path(), place.path("bin").join(entry.file_name())).unwrap();
            }
        }
        // Where the file "hold" is, it gets to the first file that changes, and stays. Stopped by a
        // signal it would not: the kernel hangs up on it when its agent dies.
        let script = format!(
            "#!/bin/sh\ncd {dir}\necho \"$@\" >>calls\n[ -e hold ] || exec {real} \"$@\"\n\
             said=said.$$\nmkfifo $said\n{real} \"$@\" 2>$said &\nwork=$!\n\
             while IFS= read -r line; do\n  echo \"$line\" >&2\n  case $line in\n  \
             *\"need to copy\"*)\n    kill -KILL $work\n    echo $$ >held\n    \
             exec tail -f /dev/null;;\n  esac\ndone <$said\nwait $work\n",
            dir = place.dir.path().display(),
            real = real.join("pg_rewind").display()
        );
        fs::write(place.path("bin/pg_rewind"), script).unwrap();
        let executable = fs::Permissions::from_mode(0o755);
        fs::set_permissions(place.path("bin/pg_rewind"), executable).unwrap();
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn said(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_default()
    }

    /// From now on pg_rewind stays half-way.
    fn hold(&self) {
        fs::write(self.path("hold"), "").unwrap();
    }

    /// The program that stays half-way.
    async fn held(&self) -> i32 {
        until("pg_rewind to be half-way", READY, async || {
            let said = self.said("held");
            said.trim().parse().map_err(|_| format!("{said:?}"))
        })
        .await
    }

    fn let_go(&self) {
        fs::remove_file(self.path("hold")).unwrap();
        fs::remove_file(self.path("held")).unwrap();
    }

    fn topology(&self) -> String {
        let archive = self.path("archive/{name}").display().to_string();
        let dir = self.dir.path().display();
        let agent = json!({"postgresql": {
            "bin_dir": self.path("bin"),
            "basebackup": [{"max-rate": "4M"}],
            "parameters": {
                "archive_mode": "on",
                "archive_command": format!("test ! -f {archive}/%f && cp %p {archive}/%f"),
            },
            "recovery_conf": {
                "restore_command":
                    format!("cp {archive}/%f %p && echo %f >>{dir}/restored.{{name}}"),
            },
        }});
        format!(
            "name: rewind\n\
             settings: {{ttl: 5, loop_wait: 1, retry_timeout: 1,\n  \
             maximum_lag_on_failover: 1073741824}}\n\
             dynamic: {{postgresql: {{use_slots: false}}}}\n\
             postgresql: {{parameters: {{min_wal_size: 32MB, wal_keep_size: 0}}}}\n\
             agent: {agent}\n\
             datacenters:\n  dc1:\n    etcd: 1\n    nodes:\n    - pg1\n    - pg2\n    \
             - {{name: pg3, tags: {{nofailover: true, clonefrom: true}}}}\n"
        )
    }
}

async fn run(rig: &Rig, node: &str, sql: &str) {
    rows::run(&rig.access, &rig.node(node), sql).await.unwrap();
}

async fn insert(rig: &Rig, node: &str, row: i32) {
    run(rig, node, &format!("INSERT INTO kept VALUES ({row})")).await;
}

/// Every node has these rows and no other.
async fn same_everywhere(rig: &Rig, wanted: &str) {
    for node in &rig.access.nodes {
        until(&format!("the rows {wanted} on {}", node.name), READY, async || {
            let found = rows::value(&rig.access, node, ROWS_OF).await?;
            if found == wanted { Ok(()) } else { Err(found) }
        })
        .await;
    }
}

/// The primary writes a row that it does not ship and more besides, and its host dies; another one
/// leads. Returns that one.
async fn diverge(rig: &Rig, leader: &str, lost: i32, besides: impl AsyncFnOnce()) -> String {
    rig.signal_postgres(leader, "walsender", Signal::STOP);
    insert(rig, leader, lost).await;
    besides().await;
    rig.kill_host(leader);
    let successor = rig.successor_of(leader).await;
    rig.say(&format!("{successor} leads"));
    successor
}

/// The reports beside a node's data directory.
fn reports(rig: &Rig, node: &str) -> Vec<Value> {
    let files = fs::read_dir(&rig.lab.layout.host(node).unwrap().dir).unwrap().flatten();
    let files = files.filter(|file| {
        let name = file.file_name().to_string_lossy().into_owned();
        name.contains(".divergence-") && name.ends_with(".json")
    });
    files.map(|file| serde_json::from_slice(&fs::read(file.path()).unwrap()).unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_former_primary_comes_back_whatever_is_in_the_way() {
    let place = Place::new();
    let rig = Rig::start_with("rewind", &place.topology());
    let first = rig.complete("dc1");
    run(&rig, &first, "CREATE TABLE kept (i int)").await;
    insert(&rig, &first, 1).await;
    same_everywhere(&rig, "1").await;

    let second = with_archived_wal(&rig, &place, &first).await;
    interrupted_by_the_agent(&rig, &place, &second).await;
    interrupted_by_the_host(&rig, &place).await;
}

/// The WAL from the last common checkpoint on is in the archive only.
async fn with_archived_wal(rig: &Rig, place: &Place, former: &str) -> String {
    let wal = rig.lab.layout.host(former).unwrap().data_dir().join("pg_wal");
    let segment = async |sql: &str| rows::value(&rig.access, &rig.node(former), sql).await.unwrap();
    run(rig, former, "CHECKPOINT").await;
    let common = "SELECT pg_walfile_name(checkpoint_lsn) FROM pg_control_checkpoint()";
    let common = segment(common).await;
    run(rig, former, "SELECT pg_switch_wal()").await;
    insert(rig, former, 2).await;
    same_everywhere(rig, "1 2").await;
    let fork = segment("SELECT pg_walfile_name(pg_current_wal_lsn())").await;
    assert!(common < fork);
    let successor = diverge(rig, former, 100, async || {
        until("the segments to be recycled", READY, async || {
            run(rig, former, "SELECT pg_switch_wal()").await;
            insert(rig, former, 101).await;
            run(rig, former, "CHECKPOINT").await;
            let left: Vec<&String> =
                [&common, &fork].into_iter().filter(|name| wal.join(name).exists()).collect();
            if left.is_empty() { Ok(()) } else { Err(format!("{left:?} are there")) }
        })
        .await;
    })
    .await;
    insert(rig, &successor, 3).await;
    let mark = Mark::now(&rig.lab);
    rig.start_dc("dc1");
    assert_eq!(rig.complete("dc1"), successor);
    assert!(!mark.decided(&rig.lab, Rule::Rewind).is_empty(), "not by a rewind");
    same_everywhere(rig, "1 2 3").await;
    assert!(place.said("calls").contains("--restore-target-wal"), "{}", place.said("calls"));
    let restored = place.said(&format!("restored.{former}"));
    for name in [&common, &fork] {
        assert!(restored.contains(name.as_str()), "{name} is not among {restored}");
    }
    let reports = reports(rig, former);
    let [report] = reports.as_slice() else { panic!("{reports:?}") };
    assert_eq!(report["complete"], true, "{report}");
    // The row that was lost and at least one for each segment, all read from the archive.
    assert!(report["transactions"].as_u64().unwrap() >= 3, "{report}");
    successor
}

/// The agent is killed while its pg_rewind works: the next agent ends that first, touches nothing
/// and says what to do; an operator does it.
async fn interrupted_by_the_agent(rig: &Rig, place: &Place, former: &str) {
    place.hold();
    let successor = diverge(rig, former, 200, async || {}).await;
    insert(rig, &successor, 4).await;
    rig.start_dc("dc1");
    let work = place.held().await;
    rig.signal(former, Part::Agent, Signal::KILL);
    let host = rig.lab.layout.host(former).unwrap();
    let alive = || rig.lab.processes(host).iter().any(|process| process.identity.pid == work);
    assert!(alive(), "the program outlives its agent");
    let mark = Mark::now(&rig.lab);
    rig.start_dc("dc1");
    let told = eventually(rig, former, "the interrupted rewind", |s| s["rule"] == 212).await;
    assert!(!alive(), "two programs would work on one directory");
    assert!(mark.since(&rig.lab)[former].contains("programs of an earlier agent"));
    assert!(told["why"].as_str().unwrap().contains("patronictl reinit"), "{told}");
    assert_eq!(reports(rig, former).len(), 1, "reported before it began");
    place.let_go();

    let refused = ask(rig, &successor, "POST", "/reinitialize", &json!({})).await;
    let body = "I am the leader, can not reinitialize".to_owned();
    assert_eq!(refused, Answer { status: 503, body });
    let mark = Mark::now(&rig.lab);
    reinitialize(rig, former).await;
    grows(rig, former).await;
    let busy = ask(rig, former, "POST", "/reinitialize", &json!({})).await;
    assert_eq!(busy.status, 503, "{busy:?}");
    assert!(busy.body.contains("already in progress"), "{busy:?}");
    let force = json!({"force": true, "from_leader": true});
    let taken = ask(rig, former, "POST", "/reinitialize", &force).await;
    assert_eq!(taken, Answer { status: 200, body: "reinitialize started".to_owned() });
    assert_eq!(rig.complete("dc1"), successor);
    same_everywhere(rig, "1 2 3 4").await;
    let copies: Vec<String> = mark.decided(&rig.lab, Rule::Reinitialize);
    let copies: Vec<&String> = copies.iter().filter(|line| line.contains("member: of ")).collect();
    assert_eq!(copies.len(), 2, "{copies:?}");
    assert!(copies[0].contains(&format!("of {OFFERED}")), "the leader is spared: {copies:?}");
    assert!(copies[1].contains(&format!("of {successor}")), "asked for: {copies:?}");
    assert!(mark.since(&rig.lab)[former].contains("cancelled"));
}

/// By Patroni's own command where it can be had.
async fn reinitialize(rig: &Rig, node: &str) {
    match install().await {
        Ok(program) => {
            let tool = Tool::of(rig, program);
            let told = tool.run(&["reinit", &tool.scope, node, "--force"]).await.stdout;
            assert!(told.contains(&format!("Success: reinitialize for member {node}")), "{told}");
        }
        Err(reason) => {
            println!("SKIPPED: reinit by patronictl: PyPI cannot be reached from here: {reason}");
            let taken = ask(rig, node, "POST", "/reinitialize", &json!({})).await;
            assert_eq!(taken.body, "reinitialize started", "{taken:?}");
        }
    }
}

/// The copy under way says how far it is.
async fn grows(rig: &Rig, node: &str) {
    let mut seen: Vec<u64> = Vec::new();
    until("the copy to come further", ROWS, async || {
        let state = state(rig, node).await?;
        let progress = &state["copy_progress"];
        let creating = state["state"] == "creating replica";
        if let Some(done) = progress["done_bytes"].as_u64().filter(|_| creating) {
            assert!(progress["total_bytes"].as_u64().unwrap() > 0, "{state}");
            seen.push(done);
        }
        let further = seen.iter().zip(seen.iter().skip(1)).filter(|(a, b)| a < b).count();
        if further >= 2 { Ok(()) } else { Err(format!("{seen:?} in {state}")) }
    })
    .await;
    assert!(seen.is_sorted(), "{seen:?}");
}

/// The host dies while pg_rewind works; the configuration lets the directory go.
async fn interrupted_by_the_host(rig: &Rig, place: &Place) {
    let former = rig.complete("dc1");
    let change = json!({"postgresql": {"remove_data_directory_on_rewind_failure": true}});
    let answer = ask(rig, &former, "PATCH", "/config", &change).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let before = reports(rig, &former).len();
    place.hold();
    let successor = diverge(rig, &former, 300, async || {}).await;
    insert(rig, &successor, 5).await;
    rig.start_dc("dc1");
    let _ = place.held().await;
    assert_eq!(reports(rig, &former).len(), before + 1, "reported before it began");
    rig.kill_host(&former);
    place.let_go();
    let mark = Mark::now(&rig.lab);
    rig.start_dc("dc1");
    assert_eq!(rig.complete("dc1"), successor);
    let copied = mark.decided(&rig.lab, Rule::CopyAgain);
    assert!(copied.iter().any(|line| line.contains("interrupted")), "{copied:?}");
    same_everywhere(rig, "1 2 3 4 5").await;
}
