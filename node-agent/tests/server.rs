//! Goal: the PostgreSQL room against real servers: initdb, start under the guard, users, slots,
//! clone, follow, promote, divergence report, rewind. Method: two servers on loopback addresses in
//! a temporary directory; every wait has a condition and a deadline. PostgreSQL refuses to run as
//! root, so as root each test runs itself again as the user `postgres`.
#![allow(clippy::expect_used, reason = "a test fails by panicking")]

use node_agent::postgres::method::{BootstrapMethod, CopyOf, copy_methods};
use node_agent::postgres::{Effective, Error, GuardClient, Server, StartAs, StopMode};
use node_agent_core::decision::RewindTo;
use node_agent_core::directory::Progress;
use node_agent_core::postgres::{ControlState, Postgres, Running, Upstream};
use node_agent_core::time::Boot;
use node_agent_wire::config::LocalConfig;
use node_agent_wire::dynamic::Dynamic;
use node_agent_wire::{MemberName, SlotName, TimelineId};
use rustix::process::{Pid, Signal, kill_process};
use rustix::time::{ClockId, clock_gettime};
use serde_json::{Value, json};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(60);
const QUERY: Duration = Duration::from_secs(10);
/// Tells the test that it runs as the right user already.
const AGAIN: &str = "FEDERATOR_TEST_AGAIN";
const GUARD: &str = "NODE_AGENT_GUARD";

fn bin_dir() -> Option<PathBuf> {
    // As the lab has it, for versions that are not installed.
    if let Some(chosen) = std::env::var_os("LAB_POSTGRES_BIN_DIR") {
        return Some(chosen.into());
    }
    let versions = std::fs::read_dir("/usr/lib/postgresql").ok()?;
    let mut found: Vec<PathBuf> = versions.flatten().map(|v| v.path().join("bin")).collect();
    found.retain(|bin| bin.join("initdb").exists());
    found.sort();
    found.pop()
}

/// True when the caller shall run the test's body; as root, it has been run already.
fn shall_run(test: &str) -> bool {
    if bin_dir().is_none() {
        println!("skipped: PostgreSQL is not installed (no /usr/lib/postgresql/*/bin/initdb)");
        return false;
    }
    if !rustix::process::geteuid().is_root() || std::env::var_os(AGAIN).is_some() {
        return true;
    }
    let id = |flag| {
        let output = Command::new("id").args([flag, "postgres"]).output().expect("id");
        String::from_utf8_lossy(&output.stdout).trim().parse::<u32>().expect("user postgres")
    };
    let open = std::fs::Permissions::from_mode(0o755);
    let dir = tempfile::tempdir().expect("directory");
    std::fs::set_permissions(dir.path(), open).expect("open");
    let own = std::env::current_exe().expect("own program");
    for (from, name) in [(own.as_path(), "test"), (Path::new(guard_binary()), "guard")] {
        std::fs::copy(from, dir.path().join(name)).expect("copy");
    }
    let status = Command::new(dir.path().join("test"))
        .args(["--exact", test, "--nocapture"])
        .env(AGAIN, "1")
        .env(GUARD, dir.path().join("guard"))
        .current_dir("/")
        .uid(id("-u"))
        .gid(id("-g"))
        .status()
        .expect("run again");
    assert!(status.success(), "{test} failed as the user postgres");
    false
}

fn guard_binary() -> &'static str {
    env!("CARGO_BIN_EXE_node-agent-guard")
}

fn now() -> Boot {
    let t = clock_gettime(ClockId::Boottime);
    let seconds = u64::try_from(t.tv_sec).expect("s");
    Boot(seconds * 1_000_000_000 + u64::try_from(t.tv_nsec).expect("ns"))
}

fn later() -> Boot {
    now() + Duration::from_secs(120)
}

fn free_port(host: &str) -> u16 {
    std::net::TcpListener::bind((host, 0)).expect("bind").local_addr().expect("address").port()
}

/// One server of the test; ends with it.
struct Node {
    config: LocalConfig,
    server: Server,
}

impl Node {
    fn new(dir: &Path, name: &str, host: &str) -> Self {
        let port = free_port(host);
        let config: LocalConfig = serde_json::from_value(json!({
            "scope": "demo", "name": name,
            "restapi": {"listen": "127.0.0.1:8008"},
            "etcd3": {"host": "127.0.0.1:2379"},
            "bootstrap": {"initdb": ["data-checksums", {"encoding": "UTF8"}, {"locale": "C"}]},
            "postgresql": {
                "listen": format!("{host}:{port}"), "data_dir": dir.join(name),
                "bin_dir": bin_dir(), "use_unix_socket": name == "b",
                "authentication": {
                    "superuser": {"username": "postgres", "password": "su:per"},
                    "replication": {"username": "rep", "password": "it's"},
                    "rewind": {"username": "rew", "password": "r\\w"},
                },
                "parameters": {"unix_socket_directories": dir, "shared_buffers": "16MB"},
                "pg_hba": [
                    "local all all trust",
                    "host all all 127.0.0.0/8 scram-sha-256",
                    "host replication rep 127.0.0.0/8 scram-sha-256",
                ],
            },
        }))
        .expect("configuration");
        let server = Server::new(&config).expect("server");
        Self { config, server }
    }

    fn settings(&self, dynamic: &Value) -> Effective {
        Effective::merge(&self.config, &Dynamic::read(dynamic.as_object().expect("object")))
    }

    fn plain(&self) -> Effective {
        self.settings(&json!({}))
    }

    fn host(&self) -> (String, u16) {
        let (host, port) = self.server.address();
        (host.to_owned(), port)
    }

    fn as_upstream(&self) -> Upstream {
        let (host, port) = self.host();
        Upstream::Member { name: MemberName::from(self.config.name.as_str()), host, port }
    }

    async fn start_primary(&self) {
        let role = StartAs::Primary { deadline: later() };
        self.server.start(role, &self.plain()).await.expect("start");
        self.server.wait_ready(PATIENCE).await.expect("ready");
    }

    async fn start_standby(&self, upstream: &Upstream) {
        self.server.start(StartAs::Standby(upstream), &self.plain()).await.expect("start");
        self.server.wait_ready(PATIENCE).await.expect("ready");
    }

    /// Observes until the running server fulfils the condition.
    async fn until(&self, what: &str, condition: impl Fn(&Running) -> bool) -> Running {
        let begun = Instant::now();
        loop {
            let seen = self.server.observe(now(), QUERY).await;
            if let Postgres::Running(running) = &seen
                && condition(running)
            {
                return (**running).clone();
            }
            assert!(begun.elapsed() < PATIENCE, "gave up waiting for {what}: {seen:#?}");
            tokio::task::yield_now().await;
        }
    }

    async fn sql(&self, sql: &str) -> Result<Vec<String>, tokio_postgres::Error> {
        let (host, port) = self.host();
        let mut config = tokio_postgres::Config::new();
        config.host(host).port(port).user("postgres").password("su:per").dbname("postgres");
        let (client, connection) = config.connect(tokio_postgres::NoTls).await?;
        let driver = tokio::spawn(connection);
        let rows = client.simple_query(sql).await;
        drop(client);
        let _ = driver.await;
        let text = |message: &tokio_postgres::SimpleQueryMessage| {
            let tokio_postgres::SimpleQueryMessage::Row(row) = message else { return None };
            row.get(0).map(ToOwned::to_owned)
        };
        Ok(rows?.iter().filter_map(text).collect())
    }

    async fn run(&self, sql: &str) {
        self.sql(sql).await.unwrap_or_else(|e| panic!("{sql}: {e:?}"));
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // A deadline that has passed: the guard ends its own server, and itself.
        let socket = self.server.guard_socket();
        if let Ok(mut guard) = GuardClient::connect(socket, QUERY) {
            let _ = guard.set_deadline(Boot(1));
        }
        let begun = Instant::now();
        while GuardClient::connect(socket, QUERY).is_ok() && begun.elapsed() < PATIENCE {
            std::thread::park_timeout(Duration::from_millis(5));
        }
    }
}

impl Node {
    async fn create(&self) -> Result<(), Error> {
        self.server.create(&BootstrapMethod::Initdb, PATIENCE).await?;
        self.server.bootstrapped()
    }

    async fn copy(
        &self,
        source: (&str, u16),
        report: &mut (dyn FnMut(Progress) + Send),
    ) -> Result<(), Error> {
        let methods = copy_methods(&self.config, &Dynamic::default(), CopyOf::Member)?;
        self.server.copy(&methods, Some(source), report, PATIENCE).await
    }
}

fn slot(name: &str) -> SlotName {
    SlotName::from_name(name)
}

/// `a` as primary with the table, `b` as its synchronous standby.
async fn pair(dir: &Path) -> (Node, Node) {
    let (a, b) = (Node::new(dir, "a", "127.0.7.1"), Node::new(dir, "b", "127.0.7.2"));
    assert_eq!(a.server.observe(now(), QUERY).await, Postgres::NoData);
    a.create().await.expect("initdb");
    a.start_primary().await;
    for _ in 0..2 {
        a.server.create_users(false).await.expect("users");
        a.server.create_slot(&slot("b")).await.expect("slot");
    }
    a.run("CREATE TABLE t (i int)").await;
    let (host, port) = a.host();
    let mut seen = Vec::new();
    b.copy((&host, port), &mut |p| seen.push(p)).await.expect("clone");
    let last = seen.last().expect("progress");
    assert!(last.done_bytes > 0 && last.total_bytes >= last.done_bytes, "{last:?}");
    b.start_standby(&a.as_upstream()).await;
    (a, b)
}

fn streams(running: &Running) -> bool {
    running.in_recovery && running.receiver.as_ref().is_some_and(|r| r.status == "streaming")
}

#[tokio::test]
async fn two_servers_change_places_and_the_loser_is_rewound() {
    if !shall_run("two_servers_change_places_and_the_loser_is_rewound") {
        return;
    }
    let dir = tempfile::tempdir().expect("directory");
    let (a, b) = pair(dir.path()).await;
    let standby = b.until("streaming", streams).await;
    assert_eq!(standby.timeline, TimelineId(1));
    assert_eq!(b.server.following(), Some(a.as_upstream()));
    assert_eq!(Server::new(&b.config).expect("restarted").following(), Some(a.as_upstream()));

    a.server.set_sync_names(Some("\"b\"")).await.expect("sync names");
    let primary = a
        .until("b to be synchronous", |r| {
            r.senders.iter().any(|s| s.application_name == "b" && s.sync_state == "sync")
        })
        .await;
    assert!(primary.slots.iter().any(|s| s.name == slot("b") && s.active), "{primary:?}");
    assert_eq!((primary.sync_names.as_str(), primary.in_recovery), ("\"b\"", false));
    a.run("INSERT INTO t VALUES (1)").await;

    // A planned change of places, then the former primary goes its own way and crashes.
    let control = a.server.stop(StopMode::Fast, PATIENCE).await.expect("stop");
    assert_eq!(control.state, ControlState::ShutDown);
    b.server.promote(later, PATIENCE).await.expect("promote");
    b.server.promote(later, PATIENCE).await.expect("again");
    let promoted = b.until("the primary", |r| !r.in_recovery).await;
    assert_eq!(promoted.timeline, TimelineId(2));
    let history = b.server.history_of(None, QUERY).await.expect("history");
    assert_eq!((history.timeline, history.ancestors.len()), (TimelineId(2), 1));
    let fork = history.ancestors[0].ended_at;
    b.run("INSERT INTO t VALUES (2)").await;

    // The crash of a primary whose names of standbys outlive it: the insert must not wait.
    a.start_primary().await;
    assert_eq!(a.until("running", |_| true).await.sync_names, "\"b\"");
    a.server.set_sync_names(None).await.expect("no sync names");
    a.until("asynchronous", |r| r.sync_names.is_empty()).await;
    for i in 10..13 {
        a.run(&format!("INSERT INTO t VALUES ({i})")).await;
    }
    let refused = a.server.divergence_report(fork, TimelineId(1), None).await;
    assert!(matches!(refused, Err(Error::Refused { .. })), "while it runs: {refused:?}");
    let control = a.server.stop(StopMode::Immediate, PATIENCE).await.expect("stop");
    assert_eq!(control.state, ControlState::InProduction);

    let keep = a.server.next_vault(1);
    let report = a.server.divergence_report(fork, TimelineId(1), Some(keep.clone())).await;
    let report = report.expect("report");
    assert_eq!(report.transactions, 3, "{report:?}");
    assert!(report.bytes > 0 && report.complete && !report.relations.is_empty(), "{report:?}");
    assert!(!report.kept_segments.is_empty());
    assert!(report.kept_segments.iter().all(|s| keep.join(s).exists()));
    assert_eq!((report.kept_in.as_ref(), report.commits.len()), (Some(&keep), 3), "{report:?}");
    let mut sums = Command::new("sha256sum");
    let sums = sums.args(["--check", "SHA256SUMS"]).current_dir(&keep).output().expect("sums");
    assert!(sums.status.success() && keep.join("pg_control").exists(), "{sums:?}");
    let again = a.server.divergence_report(fork, TimelineId(1), Some(a.server.next_vault(2))).await;
    assert_eq!(again.expect("again").kept_in.as_ref(), Some(&keep), "the same is kept once");
    let written = std::fs::read_to_string(&report.report).expect("report file");
    assert!(written.contains("\"transactions\": 3"), "{written}");

    let (dead, alive) = (("127.0.7.9".to_owned(), 1), b.host());
    let identity = b.server.remote_identity(&[dead.clone(), alive.clone()], QUERY).await;
    let identity = identity.expect("identity");
    assert_eq!((identity.host, identity.in_recovery), (alive.0.clone(), false));
    assert_eq!((identity.system_id, identity.timeline), (promoted.system_id, TimelineId(2)));

    let mut report = report;
    a.server.name_relations(&mut report, &[b.host()], QUERY).await.expect("names");
    let table = report.relations.iter().find(|r| r.table.as_deref() == Some("public.t"));
    assert!(table.is_some_and(|t| t.database_name.as_deref() == Some("postgres")), "{report:?}");

    b.server.create_slot(&slot("a")).await.expect("slot");
    let own = a.server.history_of(None, QUERY).await.expect("own history");
    let to = RewindTo { hosts: vec![dead, alive], standby: false };
    let survey = a.server.survey_rewind(&to.hosts, &own, (TimelineId(1), fork), PATIENCE).await;
    let survey = survey.expect("survey").expect("a checkpoint before the fork");
    let size = b.server.data_bytes().await.expect("size");
    // A rewind fetches all WAL files, and a base backup sends none of them.
    assert!(survey.fetched > 16 << 20 && survey.fetched < survey.at_most, "{survey:?}");
    assert!(size + (16 << 20) <= survey.at_most, "{survey:?}, {size}");
    a.server.rewind(&to, &a.plain(), PATIENCE).await.expect("rewind");
    a.start_standby(&b.as_upstream()).await;
    let back = a.until("streaming", streams).await;
    assert_eq!(back.timeline, TimelineId(2));
    assert_eq!(back.sync_names, "");
    b.run("INSERT INTO t VALUES (3)").await;
    let end = b.until("the primary", |_| true).await.lsn;
    a.until("replay", |r| r.replay_lsn >= Some(end)).await;
    let rows = a.sql("SELECT string_agg(i::text, ',' ORDER BY i) FROM t").await.expect("rows");
    assert_eq!(rows, ["1,2,3"]);
    let remote = a.server.history_of(Some((&b.host().0, b.host().1)), QUERY).await;
    assert!(remote.expect("history").same_past(&history));
}

#[tokio::test]
async fn a_lost_deadline_ends_the_primary_and_a_hang_is_noticed() {
    if !shall_run("a_lost_deadline_ends_the_primary_and_a_hang_is_noticed") {
        return;
    }
    let dir = tempfile::tempdir().expect("directory");
    let a = Node::new(dir.path(), "a", "127.0.7.3");
    a.create().await.expect("initdb");
    a.start_primary().await;
    a.until("running", |_| true).await;
    let log = std::fs::read_to_string(dir.path().join("a/postmaster.pid")).expect("pid file");
    let pid: i32 = log.lines().next().and_then(|l| l.parse().ok()).expect("pid");
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
    let mut all: Vec<i32> =
        children.expect("children").split_whitespace().map(|p| p.parse().expect("pid")).collect();
    all.push(pid);
    let signal = |signal| {
        for pid in all.iter().filter_map(|p| Pid::from_raw(*p)) {
            // A session of the test's own may have ended meanwhile.
            let _ = kill_process(pid, signal);
        }
    };
    signal(Signal::STOP);
    let seen = a.server.observe(Boot(7), Duration::from_millis(200)).await;
    assert_eq!(seen, Postgres::Unresponsive { since: Boot(7), writable: true });
    let seen = a.server.observe(Boot(8), Duration::from_millis(200)).await;
    assert_eq!(seen, Postgres::Unresponsive { since: Boot(7), writable: true });
    assert!(a.server.problem().is_some_and(|p| p.contains("gave up")));
    signal(Signal::CONT);
    a.until("running again", |_| true).await;

    // A second agent, as after a restart, keeps the lease; then its deadline passes.
    let adopted = Server::new(&a.config).expect("server");
    let mut keeper = GuardClient::connect(adopted.guard_socket(), QUERY).expect("guard");
    keeper.set_deadline(later()).expect("renew");
    assert!(matches!(adopted.observe(now(), QUERY).await, Postgres::Running(_)));
    let deadline = now() + Duration::from_millis(300);
    keeper.set_deadline(deadline).expect("renew");
    let ends = async { tokio::join!(adopted.exited(), a.server.exited()) };
    tokio::time::timeout(PATIENCE, ends).await.expect("both notice the end");
    assert!(now() >= deadline, "it ended before its deadline");
    // The guard itself may still be sweeping: stop waits for that.
    let control = adopted.stop(StopMode::Fast, PATIENCE).await.expect("nothing to stop");
    assert_eq!(control.state, ControlState::InProduction);
    assert!(matches!(adopted.observe(now(), QUERY).await, Postgres::Stopped(_)));
    let log = std::fs::read_to_string(a.server.log_file()).expect("log");
    assert!(log.contains("the deadline of the agent passed"), "{log}");
}

#[tokio::test]
async fn settings_slots_and_upstreams_change_while_it_runs() {
    if !shall_run("settings_slots_and_upstreams_change_while_it_runs") {
        return;
    }
    let dir = tempfile::tempdir().expect("directory");
    let (a, b) = pair(dir.path()).await;
    let standby = b.until("streaming", streams).await;
    let with = |parameters: Value| a.settings(&json!({"postgresql": {"parameters": parameters}}));
    assert!(!a.server.apply_settings(&a.plain()).await.expect("nothing to do"));
    let other = with(json!({"work_mem": "7MB"}));
    assert!(a.server.apply_settings(&other).await.expect("apply"));
    assert!(!a.server.apply_settings(&other).await.expect("nothing to do"));
    assert_eq!(a.sql("SHOW work_mem").await.expect("show"), ["7MB"]);
    assert!(!a.until("running", |_| true).await.pending_restart);
    let more = with(json!({"work_mem": "7MB", "max_connections": 120}));
    a.server.apply_settings(&more).await.expect("apply");
    assert!(a.until("running", |_| true).await.pending_restart);
    let wrong = a.server.apply_settings(&with(json!({"work_mem": "much"}))).await;
    assert!(wrong.as_ref().is_err_and(|e| e.to_string().contains("work_mem")), "{wrong:?}");

    // Slots, on the primary and on the standby.
    for node in [&a, &b] {
        node.server.create_slot(&slot("dc2")).await.expect("slot");
    }
    a.run("INSERT INTO t SELECT generate_series(1, 1000)").await;
    a.server.checkpoint(PATIENCE).await.expect("checkpoint");
    let end = a.until("running", |_| true).await.lsn;
    b.until("replay", |r| r.replay_lsn >= Some(end)).await;
    for node in [&a, &b] {
        node.server.advance_slot(&slot("dc2"), end).await.expect("advance");
        node.server.advance_slot(&slot("dc2"), end).await.expect("advance again");
        node.server.advance_slot(&slot("absent"), end).await.expect("absent");
        let found = node.until("running", |_| true).await;
        let dc2 = found.slots.iter().find(|s| s.name == slot("dc2")).expect("slot");
        assert_eq!((dc2.restart_lsn, dc2.physical), (Some(end), true));
        for _ in 0..2 {
            node.server.drop_slot(&slot("dc2")).await.expect("drop");
        }
    }
    let used = a.server.drop_slot(&slot("b")).await.expect_err("dropped a slot in use");
    assert!(used.to_string().contains("slot b"), "{used}");

    // Another upstream by reload: nobody, then the same server as a remote one.
    b.server.follow(&Upstream::Nobody, &b.plain()).await.expect("nobody");
    b.until("no receiver", |r| r.receiver.is_none()).await;
    let remote = Upstream::Remote { hosts: vec![a.host()], slot: Some(slot("b")), cascade: false };
    b.server.follow(&remote, &b.plain()).await.expect("remote");
    let again = b.until("streaming", streams).await;
    assert_eq!(again.started_at_us, standby.started_at_us, "it was restarted");
    assert_eq!(b.server.following(), Some(remote));
}

#[tokio::test]
async fn what_is_wrong_is_refused_and_named() {
    if !shall_run("what_is_wrong_is_refused_and_named") {
        return;
    }
    let dir = tempfile::tempdir().expect("directory");
    let a = Node::new(dir.path(), "a", "127.0.7.4");
    let clone = a.copy(("127.0.7.9", 1), &mut |_| {}).await;
    assert!(clone.expect_err("cloned").to_string().contains("pg_basebackup failed"));
    assert_eq!(a.server.observe(now(), QUERY).await, Postgres::NoData);
    a.create().await.expect("initdb");
    assert!(matches!(a.server.observe(now(), QUERY).await, Postgres::Stopped(_)));
    for refused in [a.create().await, a.copy(("x", 1), &mut |_| {}).await] {
        assert!(matches!(refused, Err(Error::Refused { .. })), "{refused:?}");
    }
    let strange = a.settings(&json!({"postgresql": {"parameters": {
        "no_such_parameter": 1, "work_mem": "much", "zero_damaged_pages": "off"}}}));
    let role = StartAs::Primary { deadline: later() };
    a.server.start(role, &strange).await.expect("spawned");
    let failed = a.server.wait_ready(PATIENCE).await.expect_err("started");
    assert!(failed.to_string().contains("work_mem"), "{failed}");
    // The unknown one is left out; one that only the list of names lacks is not.
    assert_eq!(a.server.unknown_parameters(), ["no_such_parameter"]);
    let conf = std::fs::read_to_string(dir.path().join("a/postgresql.conf")).expect("conf");
    assert!(conf.contains("zero_damaged_pages") && !conf.contains("no_such"), "{conf}");
    assert!(matches!(a.server.observe(now(), QUERY).await, Postgres::Stopped(_)));

    a.start_primary().await;
    let twice = a.server.start(role, &a.plain()).await;
    assert!(matches!(twice, Err(Error::Refused { .. })), "{twice:?}");
    assert!(matches!(a.server.give_up_data().await, Err(Error::Refused { .. })));
    // Passwords are in no log, and the server is stopped without a guard as well.
    a.server.create_users(true).await.expect("users");
    let log = std::fs::read_to_string(a.server.log_file()).expect("log");
    assert!(!log.contains("su:per") && !log.contains("it's"), "{log}");
    a.server.stop(StopMode::Fast, PATIENCE).await.expect("stop");
    a.server.stop(StopMode::Fast, PATIENCE).await.expect("stopped already");
    a.server.give_up_data().await.expect("removed");
    assert_eq!(a.server.observe(now(), QUERY).await, Postgres::NoData);
}
