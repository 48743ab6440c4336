//! Goal: after its deadline the guard leaves no process of PostgreSQL alive, and before it does
//! no harm. Method: the real program with a shell script in the place of the postmaster, which
//! leaves its process numbers in a file; every wait has a condition and a deadline.
#![allow(clippy::expect_used, reason = "a test fails by panicking")]

use rustix::process::{Pid, Signal, kill_process};
use rustix::time::{ClockId, clock_gettime};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(10);

fn now_ns() -> u64 {
    let t = clock_gettime(ClockId::Boottime);
    u64::try_from(t.tv_sec).expect("s") * 1_000_000_000 + u64::try_from(t.tv_nsec).expect("ns")
}

fn wait_for<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(start.elapsed() < PATIENCE, "gave up waiting for {what}");
        std::thread::park_timeout(Duration::from_millis(2));
    }
}

fn alive(pid: i32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| !stat.rsplit(')').next().unwrap_or("").trim_start().starts_with('Z'))
}

/// A guard with its own directory; what is left of it ends with the test.
struct Rig {
    dir: tempfile::TempDir,
    guard: Child,
}

impl Rig {
    /// `script` finds its directory in `$DIR` and writes the numbers of its processes to
    /// `$DIR/pids`, the word `ready` last.
    fn start(script: &str, deadline: Option<u64>) -> Self {
        let dir = tempfile::tempdir().expect("directory");
        let mut command = Command::new(env!("CARGO_BIN_EXE_node-agent-guard"));
        command.arg("--socket").arg(dir.path().join("socket"));
        command.arg("--data-dir").arg(dir.path());
        if let Some(deadline) = deadline {
            command.arg("--deadline").arg(deadline.to_string());
        }
        command.args(["--", "bash", "-c", script]).env("DIR", dir.path());
        command.env("PATRONI_SECRET", "x").env("NOTIFY_SOCKET", "y").env("KEPT", "z");
        let log = std::fs::File::create(dir.path().join("log")).expect("log");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        Self { guard: command.spawn().expect("guard"), dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).unwrap_or_default()
    }

    fn pids(&self) -> Vec<i32> {
        wait_for("the script's process numbers", || {
            let text = self.read("pids");
            let pids = text.strip_suffix("ready\n")?;
            Some(pids.split_whitespace().map(|p| p.parse().expect("pid")).collect())
        })
    }

    fn client(&self) -> Client {
        let stream = wait_for("the socket", || UnixStream::connect(self.path("socket")).ok());
        stream.set_read_timeout(Some(PATIENCE)).expect("timeout");
        Client { lines: BufReader::new(stream.try_clone().expect("clone")), stream }
    }

    fn exit_code(&mut self) -> Option<i32> {
        wait_for("the guard's end", || self.guard.try_wait().expect("wait")).code()
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        // The guard is this test's own child; what it guards goes by the parent death signal, and
        // the numbers are those that the script itself wrote while it ran.
        if self.guard.try_wait().is_ok_and(|ended| ended.is_none()) {
            for pid in self.read("pids").split_whitespace().filter_map(|p| p.parse().ok()) {
                if let Some(pid) = Pid::from_raw(pid) {
                    let _ = kill_process(pid, Signal::KILL);
                }
            }
            let _ = self.guard.kill();
            let _ = self.guard.wait();
        }
    }
}

struct Client {
    lines: BufReader<UnixStream>,
    stream: UnixStream,
}

impl Client {
    fn line(&mut self) -> String {
        let mut line = String::new();
        self.lines.read_line(&mut line).expect("a line");
        line.trim().to_owned()
    }

    fn ask(&mut self, request: &str) -> String {
        self.stream.write_all(format!("{request}\n").as_bytes()).expect("write");
        self.line()
    }
}

/// Ignores SIGQUIT, has a child, and an orphan in a session of its own.
const STUBBORN: &str = r#"trap "" QUIT
sleep 1000 & child=$!
setsid bash -c 'sleep 1000 & echo $! > $DIR/orphan' 
echo $$ $child $(cat $DIR/orphan) ready > $DIR/pids
while :; do wait; done"#;
/// Ends at SIGQUIT and SIGINT with a mark, after ending its child.
const OBEDIENT: &str = r#"sleep 1000 & child=$!
trap 'echo quit > $DIR/mark; kill $child; exit 3' QUIT
trap 'echo int > $DIR/mark; kill $child; exit 0' INT
env > $DIR/env
echo $$ $child ready > $DIR/pids
while :; do wait; done"#;

#[test]
fn a_passed_deadline_leaves_nothing_alive() {
    let mut rig = Rig::start(STUBBORN, None);
    let pids = rig.pids();
    assert_eq!(pids.len(), 3);
    let (mut keeper, mut other) = (rig.client(), rig.client());
    assert!(other.ask("status").contains(" armed none"));
    let deadline = now_ns() + 100_000_000;
    assert_eq!(keeper.ask(&format!("deadline {deadline}")), "ok");
    assert_eq!(
        other.ask("status").rsplit(' ').next(),
        Some(deadline.to_string().as_str()),
        "one connection sees what another has set"
    );
    for client in [&mut keeper, &mut other] {
        assert_eq!(client.line(), "exited signal 9");
    }
    assert!(now_ns() > deadline, "the guard acted before its deadline");
    assert!(!pids.iter().any(|pid| alive(*pid)), "told before all were dead");
    assert_eq!(rig.exit_code(), Some(0));
    assert!(!rig.path("socket").exists());
    assert!(rig.read("log").contains("the deadline of the agent passed"), "{}", rig.read("log"));
}

#[test]
fn the_deadline_on_the_command_line_needs_no_connection() {
    let mut rig = Rig::start(OBEDIENT, Some(now_ns() + 300_000_000));
    rig.pids();
    assert_eq!(rig.exit_code(), Some(0));
    assert_eq!(rig.read("mark"), "quit\n");
    let mut late = Rig::start(OBEDIENT, Some(1));
    assert_eq!(late.exit_code(), Some(1));
    assert!(late.read("log").contains("not starting") && late.read("pids").is_empty());
}

#[test]
fn renewals_keep_it_alive_and_disarm_holds() {
    let mut rig = Rig::start(OBEDIENT, None);
    let pids = rig.pids();
    let mut keeper = rig.client();
    let first = now_ns() + 200_000_000;
    assert_eq!(keeper.ask(&format!("deadline {first}")), "ok");
    while now_ns() < first + 200_000_000 {
        assert_eq!(keeper.ask(&format!("deadline {}", now_ns() + 200_000_000)), "ok");
        std::thread::park_timeout(Duration::from_millis(10));
    }
    assert_eq!(keeper.ask("disarm"), "ok");
    let last = now_ns() + 300_000_000;
    wait_for("the moment when the last deadline would have passed", || {
        (now_ns() > last).then_some(())
    });
    assert!(keeper.ask("status").starts_with(&format!("pid {} start ", pids[0])));
    assert!(pids.iter().all(|pid| alive(*pid)));
    assert_eq!(keeper.ask("deadline 0"), "ok");
    assert_eq!(keeper.line(), "exited 3");
    assert_eq!(rig.exit_code(), Some(0));
}

#[test]
fn a_renewal_that_comes_after_the_deadline_is_too_late() {
    let mut rig = Rig::start(STUBBORN, None);
    rig.pids();
    let mut keeper = rig.client();
    let deadline = now_ns() + 100_000_000;
    assert_eq!(keeper.ask(&format!("deadline {deadline}")), "ok");
    let guard = Pid::from_child(&rig.guard);
    kill_process(guard, Signal::STOP).expect("stop");
    wait_for("the deadline", || (now_ns() > deadline).then_some(()));
    keeper.stream.write_all(format!("deadline {}\n", u64::MAX / 2).as_bytes()).expect("write");
    kill_process(guard, Signal::CONT).expect("continue");
    assert!(keeper.line().starts_with("error "));
    assert_eq!(keeper.line(), "exited signal 9");
    assert_eq!(rig.exit_code(), Some(0));
}

#[test]
fn a_stopped_guard_stops_the_server_all_the_same() {
    let mut rig = Rig::start(OBEDIENT, None);
    let pids = rig.pids();
    let deadline = now_ns() + 100_000_000;
    assert_eq!(rig.client().ask(&format!("deadline {deadline}")), "ok");
    kill_process(Pid::from_child(&rig.guard), Signal::STOP).expect("stop");
    wait_for("the server's end", || (!pids.iter().any(|pid| alive(*pid))).then_some(()));
    assert!(now_ns() > deadline, "not before the deadline");
    assert_eq!(rig.read("mark"), "quit\n");
    assert_eq!(rig.exit_code(), None, "the kernel ended it");
}

#[test]
fn the_guards_death_stops_the_server() {
    let mut rig = Rig::start(OBEDIENT, None);
    let pids = rig.pids();
    rig.guard.kill().expect("kill");
    rig.guard.wait().expect("wait");
    wait_for("the server's end", || (!pids.iter().any(|pid| alive(*pid))).then_some(()));
    assert_eq!(rig.read("mark"), "quit\n");
}

#[test]
fn orphans_of_a_crashed_postmaster_are_ended() {
    let mut rig = Rig::start(STUBBORN, None);
    let pids = rig.pids();
    let mut client = rig.client();
    kill_process(Pid::from_raw(pids[0]).expect("pid"), Signal::KILL).expect("kill");
    assert_eq!(client.line(), "exited signal 9");
    assert!(!pids.iter().any(|pid| alive(*pid)));
    assert_eq!(rig.exit_code(), Some(0));
}

#[test]
fn sigterm_becomes_a_fast_shutdown_and_sighup_nothing() {
    let mut rig = Rig::start(OBEDIENT, None);
    rig.pids();
    let mut client = rig.client();
    let guard = Pid::from_child(&rig.guard);
    kill_process(guard, Signal::HUP).expect("hup");
    assert!(client.ask("status").ends_with("armed none"));
    assert_eq!(rig.read("mark"), "");
    kill_process(guard, Signal::TERM).expect("term");
    assert_eq!(client.line(), "exited 0");
    assert_eq!(rig.read("mark"), "int\n");
    assert_eq!(rig.exit_code(), Some(0));
}

#[test]
fn the_socket_is_private_and_junk_is_refused() {
    let rig = Rig::start(OBEDIENT, None);
    rig.pids();
    let mut client = rig.client();
    let mode = std::fs::metadata(rig.path("socket")).expect("socket").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    for junk in ["", "deadline soon", "stop", "deadline 1 2", &"x".repeat(1000)] {
        assert!(client.ask(junk).starts_with("error "), "{junk}");
    }
    assert!(client.ask("status").ends_with("armed none"));
    let environment = rig.read("env");
    assert!(environment.contains("KEPT=z"));
    assert!(!environment.contains("PATRONI_") && !environment.contains("NOTIFY_SOCKET"));
}

#[test]
fn a_slow_client_does_not_delay_the_others() {
    let mut rig = Rig::start(STUBBORN, None);
    rig.pids();
    let mut slow = rig.client();
    // It asks and never reads, until the guard cuts it off or both buffers are full.
    slow.stream.set_nonblocking(true).expect("nonblocking");
    let wait = Instant::now();
    while wait.elapsed() < PATIENCE && slow.stream.write(b"status\nstatus\nstatus\n").is_ok() {}
    let mut keeper = rig.client();
    assert_eq!(keeper.ask(&format!("deadline {}", now_ns() + 50_000_000)), "ok");
    assert_eq!(keeper.line(), "exited signal 9");
    assert_eq!(rig.exit_code(), Some(0));
}

#[test]
fn one_guard_a_data_directory_and_a_long_socket_path_is_refused() {
    let mut rig = Rig::start(OBEDIENT, None);
    rig.pids();
    let data_dir = rig.dir.path().to_owned();
    let guard = |socket: PathBuf| {
        Command::new(env!("CARGO_BIN_EXE_node-agent-guard"))
            .arg("--socket")
            .arg(socket)
            .arg("--data-dir")
            .arg(&data_dir)
            .args(["--", "true"])
            .output()
            .expect("run")
    };
    let second = guard(rig.path("other"));
    assert_eq!(second.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&second.stderr).contains("another guard holds"));
    assert!(rig.client().ask("status").starts_with("pid "));
    assert!(!rig.path("other").exists());
    let own = Pid::from_child(&rig.guard);
    kill_process(own, Signal::TERM).expect("term");
    assert_eq!(rig.exit_code(), Some(0));
    let long = guard(rig.path(&"x".repeat(100)));
    assert_eq!(long.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&long.stderr).contains("99 are possible"));
}
