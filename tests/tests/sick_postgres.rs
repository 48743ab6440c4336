//! Goal: a primary whose postmaster dies is back at once; one whose postmaster hangs is replaced
//! where `primary_unresponsive_timeout` asks for it; and the kernel's watchdog is fed by the
//! primary alone and closed when it has stopped.
//! Method: three nodes under load, every node probed every 20 ms, a pipe in place of each node's
//! watchdog. The postmaster is killed, then stopped by a signal.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs::{File, OpenOptions, Permissions};
use std::io::{ErrorKind, Read};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use federator_tests::agent_log::Mark;
use federator_tests::patience::until;
use federator_tests::rig::{ROWS, Rig};
use federator_tests::scene::{Scene, assert_in_turn};
use lab::Part;
use node_agent_core::rule::Rule;
use rustix::fs::{CWD, FileType, Mode, OFlags, mknodat};
use rustix::process::Signal;

const NODES: [&str; 3] = ["dc1-pg1", "dc1-pg2", "dc1-pg3"];

/// The pipe of one node, and what was written to it.
struct Device {
    node: &'static str,
    reader: File,
    said: String,
}

impl Device {
    fn make(directory: &Path, node: &'static str) -> Self {
        let path: PathBuf = directory.join(node);
        mknodat(CWD, &path, FileType::Fifo, Mode::from_raw_mode(0o666), 0).unwrap();
        // The umask has taken something from that.
        std::fs::set_permissions(&path, Permissions::from_mode(0o666)).unwrap();
        let flags = i32::try_from(OFlags::NONBLOCK.bits()).unwrap();
        let reader = OpenOptions::new().read(true).custom_flags(flags).open(&path).unwrap();
        Self { node, reader, said: String::new() }
    }

    fn read(&mut self) -> &str {
        let mut bytes = [0; 4096];
        loop {
            match self.reader.read(&mut bytes) {
                Ok(0) => break,
                Ok(count) => self.said.push_str(&String::from_utf8_lossy(&bytes[..count])),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => panic!("the pipe of {}: {error}", self.node),
            }
        }
        &self.said
    }
}

/// The primary's device is fed, and nobody else's is open.
async fn only_fed_by(devices: &mut [Device], primary: &str) {
    for device in devices {
        if device.node == primary {
            let fed = device.read().len();
            until("the watchdog to be fed", ROWS, async || {
                // Each look reads what has come since.
                let mut bytes = [0; 64];
                match (&device.reader).read(&mut bytes) {
                    Ok(count) if count > 0 && bytes[..count].contains(&b'1') => Ok(()),
                    Ok(_) | Err(_) => Err(format!("nothing beyond {fed} bytes")),
                }
            })
            .await;
        } else {
            let said = device.read().to_owned();
            let closed = said.is_empty() || said.ends_with('V');
            assert!(closed, "{} is no primary, and its device is open: {said}", device.node);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_postmaster_that_dies_is_back_and_one_that_hangs_is_replaced() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::set_permissions(directory.path(), Permissions::from_mode(0o755)).unwrap();
    let mut devices = NODES.map(|node| Device::make(directory.path(), node));
    let topology = format!(
        "
name: sick
settings: {{ttl: 6, loop_wait: 1, retry_timeout: 1, synchronous_mode: true}}
dynamic: {{primary_unresponsive_timeout: 2}}
agent:
  watchdog: {{mode: required, driver: testing, safety_margin: -1, device: \"{}/{{name}}\"}}
datacenters:
  dc1: {{etcd: 1, nodes: [pg1, pg2, pg3]}}
",
        directory.path().display()
    );
    let mut scene = Scene::set(Rig::start_with("sick-postgres", &topology)).await;
    let former = scene.primary.clone();
    let own = devices.iter_mut().find(|device| device.node == former).unwrap();
    assert!(own.read().starts_with("Ctimeout=3\n1"), "{}", own.said);
    only_fed_by(&mut devices, &former).await;

    let killed = Instant::now();
    scene.rig.signal(&former, Part::Postmaster, Signal::KILL);
    let back = until("writes after the death of the postmaster", ROWS, async || {
        let writes = scene.prober.snapshot().accepted_since(&former, killed);
        // A probe on its way may have been served before the end.
        let after = writes.iter().find(|w| w.sent > killed + Duration::from_millis(50));
        after.map(|write| write.acked - killed).ok_or("none yet".to_owned())
    })
    .await;
    scene.rig.say(&format!("{former} accepts writes {} ms after the kill", back.as_millis()));
    scene.recover().await;
    assert_eq!(scene.primary, former, "it was started in place");

    let (mark, stopped) = (Mark::now(&scene.rig.lab), Instant::now());
    scene.rig.signal(&former, Part::Postmaster, Signal::STOP);
    let successor = scene.rig.successor_of(&former).await;
    let took = stopped.elapsed().as_millis();
    scene.rig.say(&format!("{successor} accepts writes {took} ms after the stop"));
    scene.rig.rows(&scene.writer, 50).await;
    assert_in_turn(&scene.prober.snapshot(), &former, &successor, stopped);
    assert!(!mark.decided(&scene.rig.lab, Rule::SilentFailover).is_empty(), "another rule");
    scene.recover().await;
    only_fed_by(&mut devices, &successor).await;
    let own = devices.iter_mut().find(|device| device.node == former).unwrap();
    assert!(own.read().ends_with('V'), "{former} has not closed its device: {}", own.said);
    scene.end().await;
}
