//! Goal: packets between the datacenters of a lab take the WAN's time and obey its cuts, those of
//! clients and within a datacenter do not, and nothing is left at the end. Method: real network
//! namespaces, TUN devices, etcd and router, driven as a test does it and from the command line;
//! an idle stand-in for the agent. Skipped with a printed reason where there are no namespaces.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod stand_in;

use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use lab::lifecycle::silent;
use lab::namespaces::Namespaces;
use lab::processes::of_hosts;
use lab::wait::Interrupt;
use lab::wan::shape::Change;
use lab::wan::{Wan, WanError};
use lab::{Lab, LabOptions, TemporaryLab};
use stand_in::{IDLE_AGENT, StandIns};

const TOPOLOGY: &str = "\
name: wan
wan: {rtt: 40ms}
datacenters:
  dc1: {etcd: 1, nodes: [pg1, pg2]}
  dc2: {etcd: 1, nodes: [pg1]}
witness: {}
";
const RTT: Duration = Duration::from_millis(40);
/// How long a connection may take: a lost packet is sent again after a second.
const LIMIT: Duration = Duration::from_millis(900);
/// More than any connection needs on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);

fn programs() -> StandIns {
    let programs = StandIns::new(IDLE_AGENT, TOPOLOGY);
    fs::copy(env!("CARGO_BIN_EXE_lab"), programs.bin_dir().join("lab")).unwrap();
    programs
}

fn namespaces() -> Option<Namespaces> {
    let made = Namespaces::enter();
    made.map_err(|reason| println!("SKIPPED, no network namespaces here: {reason}")).ok()
}

/// How long it takes from a host to connect to an address, if that works in time.
fn time(network: &Namespaces, from: &str, to: SocketAddr, limit: Duration) -> Option<Duration> {
    let connect = || {
        let began = Instant::now();
        TcpStream::connect_timeout(&to, limit).ok().map(|_| began.elapsed())
    };
    network.at(from, connect).unwrap()
}

#[test]
fn packets_between_datacenters_take_the_wan_and_others_do_not() {
    let Some(network) = namespaces() else { return };
    let network = Arc::new(network);
    let programs = programs();
    let options = LabOptions {
        bin_dir: Some(programs.bin_dir().to_owned()),
        namespaces: Some(network.clone()),
        ..LabOptions::for_test("wan").unwrap()
    };
    let lab = TemporaryLab::new(Lab::create(&programs.topology(), &options).unwrap());
    lab.start(&silent, &Interrupt::default()).unwrap();
    let wan = lab.wan().unwrap();
    let at = |host: &str| lab.layout.host(host).unwrap().at(2379);
    let listen = network.at("dc1-pg2", || TcpListener::bind(at("dc1-pg2")).unwrap());
    let _open = listen.unwrap();

    for to in ["dc2-etcd1", "witness-etcd1"] {
        let took = time(&network, "dc1-pg1", at(to), PATIENCE).unwrap();
        assert!(took >= RTT, "to {to} in {took:?}");
    }
    // The fastest of some: one alone may be late on a busy machine.
    let fastest = |look: &dyn Fn() -> Duration| (0..20).map(|_| look()).min().unwrap();
    let near = fastest(&|| time(&network, "dc1-pg1", at("dc1-pg2"), PATIENCE).unwrap());
    let client = fastest(&|| {
        let began = Instant::now();
        let _connected = TcpStream::connect_timeout(&at("dc2-etcd1"), PATIENCE).unwrap();
        began.elapsed()
    });
    assert!(near < RTT / 2 && client < RTT / 2, "{near:?} within dc1, {client:?} for a client");

    cuts(&network, &wan, &at);
    let before = wan.state().unwrap();
    let fault = wan.cut("dc1", "dc3").unwrap_err();
    assert!(matches!(&fault, WanError::Refused(why) if why.contains("dc2")), "{fault}");
    assert_eq!(wan.state().unwrap().hosts, before.hosts);

    let longer = Change { rtt: Some("200ms".parse().unwrap()), ..Change::default() };
    wan.set(longer).unwrap();
    let took = time(&network, "dc1-pg1", at("dc2-etcd1"), PATIENCE).unwrap();
    assert!(took >= RTT * 5, "{took:?}");
    lab.down(false, &silent).unwrap();
    assert!(of_hosts(&lab.layout.process_dirs()).is_empty() && !lab.layout.dir.exists());
}

/// Each direction of the WAN alone, and two hosts alone; a connection needs both directions.
fn cuts(network: &Namespaces, wan: &Wan, at: &dyn Fn(&str) -> SocketAddr) {
    let crosses = || time(network, "dc1-pg1", at("dc2-etcd1"), LIMIT).is_some();
    for (from, to) in [("dc1", "dc2"), ("dc2", "dc1")] {
        let state = wan.cut(from, to).unwrap();
        let broken: Vec<_> = state.directions.iter().filter(|way| way.cut).collect();
        assert_eq!((broken.len(), broken[0].from.as_str()), (1, from));
        assert!(!crosses(), "{from} to {to} is cut");
        assert!(TcpStream::connect_timeout(&at("dc2-etcd1"), PATIENCE).is_ok(), "a client");
        assert!(time(network, "dc1-pg1", at("dc1-pg2"), PATIENCE).is_some(), "within dc1");
        assert!(time(network, "dc1-pg1", at("witness-etcd1"), PATIENCE).is_some(), "elsewhere");
        let state = wan.heal(from, to).unwrap();
        let lost = state.directions.iter().any(|way| way.counts.cut > 0);
        assert!(lost, "{:?}", state.directions);
        assert!(time(network, "dc1-pg1", at("dc2-etcd1"), PATIENCE).is_some(), "healed");
    }
    network.cut("dc1-pg1", "dc2-etcd1").unwrap();
    assert!(!crosses(), "this host is cut off from that one");
    assert!(time(network, "dc1-pg2", at("dc2-etcd1"), PATIENCE).is_some(), "another one is not");
    network.heal("dc1-pg1", "dc2-etcd1").unwrap();
    assert!(time(network, "dc1-pg1", at("dc2-etcd1"), PATIENCE).is_some(), "healed");
}

fn run(args: &[&str]) -> (Option<i32>, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lab"));
    let Output { status, stdout, stderr } =
        command.args(args).stdin(Stdio::null()).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (status.code(), text(stdout), text(stderr))
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// The namespaces outlive the command that made them; later commands find them again.
#[test]
fn a_wan_is_driven_from_the_command_line() {
    if namespaces().is_none() {
        return;
    }
    let programs = programs();
    let dir = LabOptions::for_test("wan-cli").unwrap().dir.unwrap();
    let (topology, place) = (programs.topology(), ["--dir", text(&dir)]);
    let up = ["up", text(&topology), "--bin-dir", text(programs.bin_dir())];
    let (code, out, err) = run(&[&up[..], &place].concat());
    assert_eq!(code, Some(0), "{err}");
    let lab = TemporaryLab::new(Lab::open(&dir).unwrap());
    assert!(out.contains("nsenter --net=/proc/") && out.contains("WAN: rtt 40ms"), "{out}");
    let ok = |words: &[&str]| {
        let (code, out, err) = run(&[words, &place[..]].concat());
        assert_eq!(code, Some(0), "{words:?}: {err}");
        out
    };
    assert!(ok(&["status"]).contains("dc1 to dc2: rtt 40ms"));
    assert_eq!(ok(&["wan", "cut", "dc1", "dc2"]).matches("CUT, ").count(), 2);
    assert_eq!(ok(&["wan", "heal", "dc2", "dc1", "--one-way"]).matches("CUT, ").count(), 1);
    assert_eq!(ok(&["wan", "cut", "witness", "dc2", "--one-way"]).matches("CUT, ").count(), 2);
    assert!(!ok(&["wan", "heal"]).contains("CUT, "));
    assert_eq!(
        ok(&["wan", "set", "--loss", "1%"]).matches("rtt 40ms, jitter 0s, loss 1%").count(),
        6
    );
    let (code, _, err) = run(&[&["wan", "cut", "dc1", "dc9"][..], &place].concat());
    assert_eq!((code, err.contains("dc1, dc2, witness")), (Some(1), true), "{err}");
    ok(&["kill", "dc2-etcd1"]);
    // Its start waits until it answers, where the clients are.
    ok(&["start", "dc2-etcd1"]);
    ok(&["down"]);
    assert!(of_hosts(&lab.layout.process_dirs()).is_empty() && !dir.exists());
}

#[test]
fn a_lab_without_a_wan_says_so() {
    let programs = StandIns::new(IDLE_AGENT, "name: a\ndatacenters: {dc1: {nodes: [pg1]}}");
    let bin_dir = Some(programs.bin_dir().to_owned());
    let options = LabOptions { bin_dir, ..LabOptions::for_test("no-wan").unwrap() };
    let lab = TemporaryLab::new(Lab::create(&programs.topology(), &options).unwrap());
    let (code, _, err) = run(&["wan", "status", "--dir", text(&lab.layout.dir)]);
    assert_eq!((code, err.contains("this lab has no WAN")), (Some(1), true), "{err}");
    let with_wan = StandIns::new(IDLE_AGENT, TOPOLOGY);
    let fault = Lab::create(&with_wan.topology(), &options).unwrap_err().to_string();
    assert!(fault.contains("needs network namespaces"), "{fault}");
}
