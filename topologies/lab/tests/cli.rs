//! Goal: the program's exit codes and words are right, and Ctrl-C leaves nothing behind. Method:
//! the real `lab`, real etcd, an idle stand-in for the agent.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod stand_in;

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use lab::processes::of_hosts;
use lab::{Lab, LabOptions, NetworkChoice, TemporaryLab};
use rustix::process::{Pid, Signal, kill_process};
use stand_in::{IDLE_AGENT, StandIns};

const TOPOLOGY: &str = "\
name: cli
datacenters:
  dc1: {etcd: 1, nodes: [pg1]}
  dc2: {etcd: 1, nodes: [pg1]}
";

fn lab(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lab"));
    command.args(args).stdin(Stdio::null());
    command
}

fn run(args: &[&str]) -> (Option<i32>, String, String) {
    let Output { status, stdout, stderr } = lab(args).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (status.code(), text(stdout), text(stderr))
}

fn own_dir(name: &str) -> PathBuf {
    LabOptions::for_test(name).unwrap().dir.unwrap()
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn wrong_usage_is_2_and_a_failure_is_1() {
    let programs =
        StandIns::new(IDLE_AGENT, "name: x\ndatacenters:\n  dc1: {nodes: [pg1], ndoes: 1}\n");
    let topology = programs.topology();
    let cases: &[(&[&str], i32, &str)] = &[
        (&[], 2, "Usage"),
        (&["fly"], 2, "unrecognized subcommand"),
        (&["up", "x.yaml", "--network", "10.1"], 2, "example: 127.20"),
        (&["up", "/nonexistent.yaml"], 1, "/nonexistent.yaml"),
        (&["render", text(&topology)], 1, "datacenters.dc1: unknown field `ndoes`"),
        (&["render", text(&topology)], 1, "at line 3"),
        (&["status", "--dir", "/nonexistent"], 1, "there is no lab in /nonexistent"),
        (&["tour", "/nonexistent.yaml"], 1, "/nonexistent.yaml"),
    ];
    for (args, code, words) in cases {
        let (seen, out, err) = run(args);
        assert_eq!(seen, Some(*code), "{args:?}: {err}");
        assert!(err.contains(words) && out.is_empty(), "{args:?}: {err}");
    }
    let (code, out, _) = run(&["down", "--dir", "/nonexistent"]);
    assert_eq!((code, out.contains("nothing to stop")), (Some(0), true));
}

#[test]
fn rendering_prints_no_password_and_starts_nothing() {
    let programs = StandIns::new(IDLE_AGENT, TOPOLOGY);
    let (code, out, err) = run(&["render", text(&programs.topology()), "--network", "127.99"]);
    assert_eq!(code, Some(0), "{err}");
    let passwords: Vec<&str> =
        out.lines().filter_map(|line| line.trim().strip_prefix("password: ")).collect();
    assert_eq!(passwords, ["(hidden)"; 6]);
    assert!(out.contains("listen: 127.99.2.11:5432") && out.contains("federation: cli"));
}

#[test]
fn a_lab_is_driven_from_the_command_line() {
    let programs = StandIns::new(IDLE_AGENT, TOPOLOGY);
    let dir = own_dir("cli");
    let topology = programs.topology();
    let place = ["--dir", text(&dir)];
    let up = ["up", text(&topology), "--network", "free", "--bin-dir", text(programs.bin_dir())];
    let (code, out, err) = run(&[&up[..], &place].concat());
    assert_eq!(code, Some(0), "{err}");
    let lab = TemporaryLab::new(Lab::open(&dir).unwrap());
    assert!(out.contains(&format!("lab down --dir {}", dir.display())), "{out}");
    assert!(out.contains("target_session_attrs=read-write"), "{out}");
    let (_, out, _) = run(&[&["status"][..], &place].concat());
    assert_eq!(out.matches("guard ").count(), 2, "{out}");
    let (code, out, _) = run(&[&["kill-dc", "dc2"][..], &place].concat());
    assert_eq!((code, out.contains("dc2: power cut")), (Some(0), true));
    let (_, out, _) = run(&[&["status"][..], &place].concat());
    assert_eq!((out.matches(" down\n").count(), out.matches("guard ").count()), (2, 1), "{out}");
    let (code, _, err) = run(&[&["start", "dc2-pg9"][..], &place].concat());
    assert_eq!((code, err.contains("hosts are dc1-etcd1, dc1-pg1")), (Some(1), true), "{err}");
    let (code, _, err) = run(&[&["start-dc", "dc2"][..], &place].concat());
    assert_eq!(code, Some(0), "{err}");
    let (code, _, err) = run(&[&["down"][..], &place].concat());
    assert_eq!((code, dir.exists()), (Some(0), false), "{err}");
    assert!(lab.layout.hosts.iter().all(|host| lab.processes(host).is_empty()));
}

/// Starts `lab ARGS`, interrupts it once it says that agents run, and expects that all is gone.
fn interrupted(name: &str, args: &[&str]) {
    let programs = StandIns::new(IDLE_AGENT, TOPOLOGY);
    let federator = programs.bin_dir().join("federator");
    fs::copy(programs.bin_dir().join("node-agent"), federator).unwrap();
    let dir = own_dir(name);
    let topology = programs.topology();
    let common = ["--network", "free", "--bin-dir", text(programs.bin_dir()), "--dir", text(&dir)];
    let words = [&args[..1], &[text(&topology)], &common, &args[1..]].concat();
    let mut child = lab(&words).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let started = lines.by_ref().any(|line| line.unwrap().contains("dc2: 1 agents started"));
    assert!(started, "the agents were started");
    let pid = Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
    kill_process(pid, Signal::INT).unwrap();
    lines.for_each(drop);
    let mut err = String::new();
    child.stderr.take().unwrap().read_to_string(&mut err).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(1), "{err}");
    assert!(err.contains("interrupted"), "{err}");
    assert!(!dir.exists(), "the directory is removed");
    let hosts = ["dc1-etcd1", "dc1-pg1", "dc2-etcd1", "dc2-pg1"].map(|host| dir.join(host));
    assert!(of_hosts(&hosts).is_empty(), "no process is left");
}

#[test]
fn a_reader_who_leaves_does_not_stop_a_start_half_way() {
    let programs = StandIns::new(IDLE_AGENT, TOPOLOGY);
    let dir = own_dir("no-reader");
    let topology = programs.topology();
    let common = ["--network", "free", "--bin-dir", text(programs.bin_dir()), "--dir", text(&dir)];
    let words = [&["up", text(&topology)][..], &common].concat();
    let mut child = lab(&words).stdout(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    assert_eq!(child.wait().unwrap().code(), Some(0));
    let lab = TemporaryLab::new(Lab::open(&dir).unwrap());
    assert!(lab.layout.hosts.iter().all(|host| !lab.processes(host).is_empty()));
}

#[test]
fn an_interrupted_up_cleans_up() {
    interrupted("ctrl-c-up", &["up", "--wait"]);
}

#[test]
fn an_interrupted_tour_cleans_up() {
    interrupted("ctrl-c-tour", &["tour", "--fast", "--keep"]);
}

#[test]
fn the_network_of_a_free_choice_is_not_the_files() {
    let programs = StandIns::new(IDLE_AGENT, TOPOLOGY);
    let bin_dir = Some(programs.bin_dir().to_owned());
    let options = LabOptions { bin_dir, ..LabOptions::for_test("free").unwrap() };
    assert_eq!(options.network, NetworkChoice::Free);
    let lab = TemporaryLab::new(Lab::create(&programs.topology(), &options).unwrap());
    assert_ne!(lab.layout.network, lab.topology.network);
}
