//! Goal: a primary whose disk is full says so and goes on, or is replaced where
//! `primary_disk_full_timeout` asks for it, and rejoins when there is room again; a PostgreSQL that
//! dies in recovery is started again after pauses with the reason said, and gives the leader key to
//! another member. No acknowledged row is lost and no two nodes accept writes.
//! Method: two nodes in synchronous mode under load, every node probed, the WAL of each on a small
//! tmpfs that a file fills. A `backup_label` that PostgreSQL can't read is fatal to its recovery.
//! Where no tmpfs can be mounted the test says so and ends.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use federator_tests::agent_log::Mark;
use federator_tests::agents::{ask, eventually};
use federator_tests::by_hand::write_private;
use federator_tests::command;
use federator_tests::patience::until;
use federator_tests::rig::{READY, Rig};
use federator_tests::rows;
use federator_tests::scene::{Scene, assert_in_turn};
use lab::Part;
use lab::software::RunUser;
use node_agent_core::rule::Rule;
use rustix::fs::statvfs;
use rustix::process::Signal;
use serde_json::{Value, json};

const NODES: [&str; 2] = ["dc1-pg1", "dc1-pg2"];
const COMMAND: Duration = Duration::from_secs(30);
/// Less than the agent wants to see free, and enough for the WAL of the moment.
const LEFT: u64 = 12 << 20;

/// A small disk for the WAL of each node; unmounted at the end, whatever happens.
struct Disks {
    dir: tempfile::TempDir,
    mounted: Vec<PathBuf>,
}

impl Disks {
    /// # Errors
    /// Why nothing can be mounted.
    async fn mount() -> Result<Self, String> {
        let user = RunUser::choose(None).map_err(|error| error.to_string())?;
        let dir = tempfile::tempdir().unwrap();
        let mut disks = Self { dir, mounted: Vec::new() };
        for node in NODES {
            let place = disks.of(node);
            fs::create_dir(&place).unwrap();
            let options = format!("size=160m,mode=700,uid={},gid={}", user.uid, user.gid);
            let at = place.display().to_string();
            let line = ["-t", "tmpfs", "-o", options.as_str(), "tmpfs", at.as_str()];
            let done = command::run(Path::new("mount"), &line, &[], COMMAND).await;
            if done.code != Some(0) {
                return Err(done.to_string());
            }
            disks.mounted.push(place);
        }
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(disks.dir.path(), open).unwrap();
        Ok(disks)
    }

    fn of(&self, node: &str) -> PathBuf {
        self.dir.path().join(node)
    }

    /// Fills the disk of the primary right after it has begun a segment: that one has room yet.
    async fn fill(&self, rig: &Rig, node: &str) {
        let client = rows::connect(&rig.access, &rig.node(node)).await.unwrap();
        client
            .batch_execute("SELECT pg_switch_wal(); CREATE TABLE IF NOT EXISTS room ()")
            .await
            .unwrap();
        let room = statvfs(self.of(node)).unwrap();
        let bytes = (room.f_bavail * room.f_frsize).saturating_sub(LEFT);
        let written = fs::write(self.of(node).join("filler"), vec![0; bytes.try_into().unwrap()]);
        match written {
            Ok(()) => {}
            // PostgreSQL has taken room since it was measured: nothing is left at all.
            Err(error) if error.kind() == std::io::ErrorKind::StorageFull => {}
            Err(error) => panic!("filling the disk of {node}: {error}"),
        }
    }

    fn clear(&self, node: &str) {
        fs::remove_file(self.of(node).join("filler")).unwrap();
    }
}

impl Drop for Disks {
    fn drop(&mut self) {
        for place in &self.mounted {
            // What still runs there at a failure keeps it busy; it goes when that ends.
            let done = std::process::Command::new("umount").arg("-l").arg(place).status();
            if !done.is_ok_and(|status| status.success()) {
                eprintln!("{} is still mounted", place.display());
            }
        }
    }
}

fn topology(disks: &Disks) -> String {
    let wal = disks.of("{name}");
    let agent = json!({
        "bootstrap": {"initdb": [{"encoding": "UTF8"}, "data-checksums", {"waldir": wal}]},
        "postgresql": {"basebackup": [{"waldir": wal}]},
    });
    format!(
        "name: sick-disk\n\
         settings: {{ttl: 6, loop_wait: 1, retry_timeout: 1, synchronous_mode: true}}\n\
         postgresql: {{parameters: {{min_wal_size: 32MB, max_wal_size: 64MB, wal_keep_size: 0}}}}\n\
         agent: {agent}\n\
         datacenters:\n  dc1: {{etcd: 1, nodes: [pg1, pg2]}}\n"
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_primary_without_room_and_a_server_that_dies_in_recovery_are_replaced() {
    let disks = match Disks::mount().await {
        Ok(disks) => disks,
        Err(reason) => {
            println!("SKIPPED: no tmpfs can be mounted here: {reason}");
            return;
        }
    };
    let rig = Rig::start_with("sick-disk", &topology(&disks));
    let mut scene = Scene::set(rig).await;
    full(&mut scene, &disks).await;
    dies_in_recovery(&mut scene).await;
    leader_dies_in_recovery(&mut scene).await;
    scene.end().await;
}

async fn full(scene: &mut Scene, disks: &Disks) {
    let (rig, former) = (&scene.rig, scene.primary.clone());
    disks.fill(rig, &former).await;
    let told = eventually(rig, &former, "a full disk", |s| s["rule"] == 152).await;
    let why = told["why"].as_str().unwrap();
    for words in ["disk full: less than 16 MiB for WAL", "free some space"] {
        assert!(why.contains(words), "{why}");
    }
    assert_eq!(told["role"], "primary", "nobody asked for more");
    rig.rows(&scene.writer, 20).await;
    disks.clear(&former);
    eventually(rig, &former, "room again", |s| s["rule"] == 125).await;

    let change = json!({"primary_disk_full_timeout": 2});
    assert_eq!(ask(rig, &former, "PATCH", "/config", &change).await.status, 200);
    let (mark, filled) = (Mark::now(&rig.lab), Instant::now());
    disks.fill(rig, &former).await;
    let successor = rig.successor_of(&former).await;
    rig.say(&format!("{successor} leads"));
    assert!(!mark.decided(&rig.lab, Rule::DiskFullFailover).is_empty(), "another rule");
    rig.rows(&scene.writer, 50).await;
    assert_in_turn(&scene.prober.snapshot(), &former, &successor, filled);
    disks.clear(&former);
    scene.recover().await;
    assert_eq!(scene.primary, successor, "the former primary follows");
}

/// What PostgreSQL can't read at its next start.
fn spoil(rig: &Rig, node: &str) -> PathBuf {
    let label = rig.lab.layout.host(node).unwrap().data_dir().join("backup_label");
    write_private(rig, &label, "START WAL LOCATION: spoiled by a test\n");
    label
}

/// How many starts in a row the agent says have come to nothing.
fn ends(state: &Value) -> u32 {
    let why = state["why"].as_str().unwrap_or_default();
    let rest = why.split_once("PostgreSQL has ended ").map(|(_, rest)| rest);
    rest.and_then(|rest| rest.split_once(' ')?.0.parse().ok()).unwrap_or(0)
}

/// A replica: its agent goes on trying, less and less often, and says why.
async fn dies_in_recovery(scene: &mut Scene) {
    let rig = &scene.rig;
    let replica = NODES.into_iter().find(|node| *node != scene.primary).unwrap();
    rig.kill_host(replica);
    let label = spoil(rig, replica);
    rig.start_dc("dc1");
    for count in [2, 3, 5] {
        let what = format!("the end number {count}");
        // The first ones may be for another reason: what was killed is not gone at once.
        let told = eventually(rig, replica, &what, |s| {
            ends(s) >= count && s["why"].to_string().contains("invalid data in file")
        })
        .await;
        assert_eq!(told["rule"], 217, "{told}");
        assert_eq!(told["state"], "start failed", "{told}");
    }
    fs::remove_file(label).unwrap();
    scene.recover().await;
}

/// The leader: one try, and the synchronous standby takes over.
async fn leader_dies_in_recovery(scene: &mut Scene) {
    let (rig, former) = (&scene.rig, scene.primary.clone());
    until("a synchronous standby", READY, async || {
        let listed = ask(rig, &former, "GET", "/cluster", &json!(null)).await.body;
        if listed.contains("sync_standby") { Ok(()) } else { Err(listed) }
    })
    .await;
    let (mark, killed) = (Mark::now(&rig.lab), Instant::now());
    let label = spoil(rig, &former);
    rig.signal(&former, Part::Postmaster, Signal::KILL);
    let successor = rig.successor_of(&former).await;
    rig.say(&format!("{successor} leads"));
    let gave_up = mark.decided(&rig.lab, Rule::GiveUp);
    assert!(gave_up.iter().any(|line| line.contains("invalid data in file")), "{gave_up:?}");
    rig.rows(&scene.writer, 50).await;
    assert_in_turn(&scene.prober.snapshot(), &former, &successor, killed);
    fs::remove_file(label).unwrap();
    scene.recover().await;
    assert_eq!(scene.primary, successor, "the former primary follows");
}
