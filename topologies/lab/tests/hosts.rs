//! Goal: hosts start detached, lose their power at once and come back with their data, and nothing
//! that the lab did not start is touched. Method: real etcd, an idle stand-in for the agent.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod stand_in;

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use lab::lifecycle::silent;
use lab::wait::Interrupt;
use lab::{Lab, LabError, LabOptions, Part, TemporaryLab, http};
use rustix::process::Signal;
use stand_in::{IDLE_AGENT, StandIns};

const TOPOLOGY: &str = "\
name: hosts
datacenters:
  dc1: {etcd: 1, nodes: [pg1, pg2]}
  dc2: {etcd: 1, nodes: [pg1]}
";

fn options(programs: &StandIns, name: &str) -> LabOptions {
    let bin_dir = Some(programs.bin_dir().to_owned());
    LabOptions { bin_dir, ..LabOptions::for_test(name).unwrap() }
}

/// Asks etcd's JSON gateway; keys and values are base64 there.
fn post(lab: &Lab, path: &str, body: &str) -> String {
    let address = lab.layout.etcd_endpoints(&lab.topology.datacenters[0].name)[0];
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let length = body.len();
    let head = format!("POST {path} HTTP/1.0\r\nHost: {address}\r\nContent-Length: {length}");
    stream.write_all(format!("{head}\r\n\r\n{body}").as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.contains(" 200 "), "{answer}");
    answer
}

#[test]
fn a_lab_lives_through_power_cuts_and_ends_without_a_trace() {
    let programs = StandIns::new(IDLE_AGENT, TOPOLOGY);
    let options = options(&programs, "hosts");
    let lab = TemporaryLab::new(Lab::create(&programs.topology(), &options).unwrap());
    let interrupt = Interrupt::default();
    lab.start(&silent, &interrupt).unwrap();
    for host in &lab.layout.hosts {
        assert!(!lab.processes(host).is_empty(), "{} runs", host.name);
    }
    let mut bystander = Command::new("sleep").arg("600").spawn().unwrap();

    let pg1 = lab.layout.host("dc1-pg1").unwrap();
    let pg2 = lab.layout.host("dc1-pg2").unwrap();
    assert!(lab.process(pg1, Part::Guard).is_some(), "a guard without the mark is found");
    assert!(lab.process(pg1, Part::Postmaster).is_none());
    let frozen = lab.signal("dc1-pg1", Part::Agent, Signal::STOP).unwrap();
    assert!(lab.kill_host("dc1-pg1").unwrap() >= 2, "a frozen host dies, too");
    assert!(!frozen.identity.is_alive());
    assert!(lab.processes(pg1).is_empty() && !lab.processes(pg2).is_empty());
    lab.start_host("dc1-pg1", &interrupt).unwrap();
    let again = lab.start_host("dc1-pg1", &interrupt).unwrap_err();
    assert!(matches!(again, LabError::Running { .. }), "{again}");

    post(&lab, "/v3/kv/put", r#"{"key":"a2V5","value":"dmFsdWU="}"#);
    assert!(lab.kill_dc("dc1").unwrap() >= 4);
    assert!(!lab.processes(lab.layout.host("dc2-pg1").unwrap()).is_empty());
    lab.start_dc("dc1", &interrupt).unwrap();
    let kept = post(&lab, "/v3/kv/range", r#"{"key":"a2V5"}"#);
    assert!(kept.contains("dmFsdWU="), "etcd came back with its data: {kept}");

    let second = Lab::create(&programs.topology(), &options).unwrap_err();
    assert!(matches!(second, LabError::Running { .. }), "{second}");
    lab.down(true, &silent).unwrap();
    assert!(lab.layout.hosts.iter().all(|host| lab.processes(host).is_empty()));
    let resumed = Lab::create(&programs.topology(), &options).unwrap();
    assert!(resumed.is_resumed() && resumed.credentials == lab.credentials);
    assert_eq!(resumed.layout, lab.layout);
    assert_eq!(Lab::open(&lab.layout.dir).unwrap().layout, lab.layout);
    resumed.down(false, &silent).unwrap();
    resumed.down(false, &silent).unwrap();
    assert!(!lab.layout.dir.exists());
    assert!(bystander.try_wait().unwrap().is_none(), "a stranger lives on");
    bystander.kill().unwrap();
    bystander.wait().unwrap();
}

#[test]
fn secrets_are_private_and_belong_to_the_run_user() {
    let programs = StandIns::new(IDLE_AGENT, TOPOLOGY);
    let options = options(&programs, "secrets");
    let lab = TemporaryLab::new(Lab::create(&programs.topology(), &options).unwrap());
    let mut files: Vec<_> = lab.render().unwrap().into_iter().map(|(path, _)| path).collect();
    let secrets = fs::read_dir(lab.layout.dir.join("secrets")).unwrap();
    files.extend(secrets.map(|entry| entry.unwrap().path()));
    assert_eq!(files.len(), 3 + 1 + 3);
    for file in files {
        let meta = fs::metadata(&file).unwrap();
        assert_eq!(meta.permissions().mode() & 0o777, 0o600, "{}", file.display());
        assert_eq!(meta.uid(), lab.user.uid, "{}", file.display());
    }
}

#[test]
fn two_labs_run_side_by_side() {
    let programs = StandIns::new(IDLE_AGENT, "name: a\ndatacenters: {dc1: {nodes: [pg1]}}");
    let labs: Vec<TemporaryLab> = (0..2)
        .map(|_| {
            let options = options(&programs, "pair");
            TemporaryLab::new(Lab::create(&programs.topology(), &options).unwrap())
        })
        .collect();
    assert_ne!(labs[0].layout.network, labs[1].layout.network);
    for lab in &labs {
        lab.start(&silent, &Interrupt::default()).unwrap();
    }
    labs[0].kill_dc("dc1").unwrap();
    let etcd = labs[1].layout.etcd_endpoints(&labs[1].topology.datacenters[0].name)[0];
    let answer = http::get(etcd, "/health", Duration::from_secs(5)).unwrap();
    assert_eq!(answer.status, 200);
}

#[test]
fn an_interrupted_start_leaves_nothing_running() {
    let programs = StandIns::new(IDLE_AGENT, TOPOLOGY);
    let options = options(&programs, "interrupted");
    let lab = TemporaryLab::new(Lab::create(&programs.topology(), &options).unwrap());
    let interrupt = Interrupt::default();
    interrupt.raise();
    // The stand-in answers no REST request, so only the interrupt can end this wait in time.
    let error = lab.start(&silent, &Interrupt::default()).and(lab.wait_ready(&silent, &interrupt));
    assert!(error.unwrap_err().to_string().starts_with("interrupted while waiting for"));
    lab.end(false).unwrap();
    assert!(lab.layout.hosts.iter().all(|host| lab.processes(host).is_empty()));
}

#[test]
fn a_start_that_fails_shows_the_end_of_the_log() {
    let programs = StandIns::new("#!/bin/sh\necho 'no leader key' >&2\nexit 1\n", TOPOLOGY);
    let options = options(&programs, "failing");
    let lab = TemporaryLab::new(Lab::create(&programs.topology(), &options).unwrap());
    let error = lab
        .start(&silent, &Interrupt::default())
        .and_then(|()| lab.wait_ready(&silent, &Interrupt::default()))
        .unwrap_err()
        .to_string();
    assert!(error.contains("no leader key") && error.contains("agent.log"), "{error}");
}

#[test]
fn a_directory_that_is_no_lab_is_left_alone() {
    let programs = StandIns::new(IDLE_AGENT, TOPOLOGY);
    let foreign = tempfile::tempdir_in("/tmp").unwrap();
    fs::set_permissions(foreign.path(), fs::Permissions::from_mode(0o755)).unwrap();
    fs::write(foreign.path().join("precious"), "x").unwrap();
    let options =
        LabOptions { dir: Some(foreign.path().to_owned()), ..options(&programs, "foreign") };
    let error = Lab::create(&programs.topology(), &options).unwrap_err().to_string();
    assert!(error.contains("is not empty and no lab"), "{error}");
    assert!(Lab::open(foreign.path()).is_err());
    let left: Vec<_> = fs::read_dir(foreign.path()).unwrap().collect();
    assert_eq!(left.len(), 1);
    assert!(Path::new(foreign.path()).join("precious").exists());
}
