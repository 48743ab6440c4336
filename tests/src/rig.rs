//! A federation for one test: started on a free network, taken down at the end, its logs kept when
//! the test fails.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use lab::access::{Access, Node};
use lab::ledger::{Audit, Ledger, Writer, WriterOptions};
use lab::lifecycle::silent;
use lab::namespaces::Namespaces;
use lab::prober::{Prober, Record};
use lab::processes::{self, Process};
use lab::wait::Interrupt;
use lab::{Lab, LabError, LabOptions, Part, TemporaryLab};
use node_agent_wire::DcName;
use rustix::process::Signal;

use crate::patience::until;
use crate::programs;

/// How long a datacenter may take until everything in it is in service.
pub const READY: Duration = Duration::from_secs(120);
/// Pause of each worker of a writer: some hundred rows a second. More would show no more, and would
/// keep two cores from the servers.
const ROW_EVERY: Duration = Duration::from_millis(8);
/// How long a client may have to wait for writes to go on.
pub const ROWS: Duration = Duration::from_secs(60);

/// What the directories of our labs begin with; the test's name and process id follow.
const PREFIX: &str = "e2e-";

/// A running lab with what a test needs around it.
pub struct Rig {
    /// The lab.
    pub lab: TemporaryLab,
    /// Access to all of its nodes.
    pub access: Access,
    test: &'static str,
    began: Instant,
    said: Mutex<String>,
}

impl Rig {
    /// Starts a topology of `topologies/` and waits until its first datacenter is complete.
    ///
    /// # Panics
    /// When that fails.
    #[must_use]
    pub fn start(test: &'static str, topology: &str) -> Self {
        let file = programs::repository().join("topologies").join(topology);
        Self::start_file(test, &file, LabOptions::default())
    }

    /// Starts a topology that the test writes itself (see `topologies/README.md`; `dynamic` and
    /// `agent` in it lay anything over the configuration).
    ///
    /// # Panics
    /// When that fails.
    #[must_use]
    pub fn start_with(test: &'static str, topology: &str) -> Self {
        Self::start_text(test, topology, LabOptions::default())
    }

    /// As [`Self::start_with`], with another program than our agent on some nodes.
    ///
    /// # Panics
    /// When that fails.
    #[must_use]
    pub fn start_mixed(
        test: &'static str,
        topology: &str,
        agents: BTreeMap<String, PathBuf>,
    ) -> Self {
        Self::start_text(test, topology, LabOptions { agents, ..LabOptions::default() })
    }

    /// As [`Self::start_with`], every host in a network namespace of its own. To be called within
    /// [`crate::isolation::run`].
    ///
    /// # Panics
    /// When that fails.
    #[must_use]
    pub fn start_isolated(
        test: &'static str,
        topology: &str,
        namespaces: &Arc<Namespaces>,
    ) -> Self {
        let namespaces = Some(namespaces.clone());
        Self::start_text(test, topology, LabOptions { namespaces, ..LabOptions::default() })
    }

    fn start_text(test: &'static str, topology: &str, options: LabOptions) -> Self {
        let dir = tempfile::tempdir().unwrap_or_else(|e| panic!("a directory: {e}"));
        let file = dir.path().join("topology.yaml");
        fs::write(&file, topology).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
        Self::start_file(test, &file, options)
    }

    fn start_file(test: &'static str, file: &Path, options: LabOptions) -> Self {
        let topology = file.display();
        let bin_dir = Some(programs::directory().to_owned());
        let place = LabOptions::for_test(&format!("{PREFIX}{test}"));
        let place = place.unwrap_or_else(|error| panic!("no place for a lab: {error}"));
        let LabOptions { namespaces, agents, .. } = options;
        let options = LabOptions { bin_dir, namespaces, agents, ..place };
        let lab = tokio::task::block_in_place(|| {
            remove_orphans()?;
            let lab = TemporaryLab::new(Lab::create(file, &options)?);
            lab.start(&silent, &Interrupt::default())?;
            lab.wait_ready(&silent, &Interrupt::default())?;
            Ok(lab)
        });
        let lab = lab.unwrap_or_else(|error: LabError| panic!("{topology}: {error}"));
        let access = Access::to_lab(&lab);
        let said = Mutex::default();
        Self { lab, access, test, began: Instant::now(), said }
    }

    /// Says something that belongs to the test's record.
    pub fn say(&self, text: &str) {
        println!("[{:>7.2} s] {text}", self.began.elapsed().as_secs_f32());
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        said.push_str(&format!("[{:>7.2} s] {text}\n", self.began.elapsed().as_secs_f32()));
    }

    /// Does something with the lab that blocks.
    ///
    /// # Panics
    /// When it fails.
    pub fn act<T>(&self, what: &str, deed: impl FnOnce(&Lab) -> Result<T, LabError>) -> T {
        self.say(what);
        let done = tokio::task::block_in_place(|| deed(&self.lab));
        done.unwrap_or_else(|error| panic!("{what}: {error}"))
    }

    /// Cuts the power of a host.
    ///
    /// # Panics
    /// When nothing ran there.
    pub fn kill_host(&self, host: &str) {
        let ended = self.act(&format!("power cut of {host}"), |lab| lab.kill_host(host));
        assert!(ended > 0, "nothing ran on {host}");
    }

    /// Starts whatever is missing in a datacenter: hosts without power, killed agents.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn start_dc(&self, dc: &str) {
        self.act(&format!("start of what is missing in {dc}"), |lab| {
            lab.start_dc(dc, &Interrupt::default())
        });
    }

    /// Waits until a datacenter has a leader and every node is in service; returns the leader.
    ///
    /// # Panics
    /// When that takes longer than [`READY`].
    #[must_use]
    pub fn complete(&self, dc: &str) -> String {
        let dc = DcName::new(dc);
        self.act(&format!("wait until {dc} is complete"), |lab| {
            lab.wait_complete(&dc, READY, &Interrupt::default())
        })
    }

    /// Signals a process of a node.
    ///
    /// # Panics
    /// When there is none.
    pub fn signal(&self, host: &str, part: Part, signal: Signal) -> Process {
        let what = format!("signal {} to the {} of {host}", signal.as_raw(), part.name());
        self.act(&what, |lab| lab.signal(host, part, signal))
    }

    /// Signals those of a node's PostgreSQL processes that call themselves `title`, for example
    /// `walsender`.
    ///
    /// # Panics
    /// When there is none.
    pub fn signal_postgres(&self, host: &str, title: &str, signal: Signal) -> Vec<Process> {
        let what = format!("signal {} to every {title} of {host}", signal.as_raw());
        self.act(&what, |lab| {
            let host = lab.layout.host(host)?;
            let all = lab.processes(host).into_iter();
            let meant: Vec<Process> = all.filter(|process| is_titled(process, title)).collect();
            for process in &meant {
                processes::send(process, signal)?;
            }
            assert!(!meant.is_empty(), "there is no {title} on {}", host.name);
            Ok(meant)
        })
    }

    /// Starts a writer with several workers; the first row is acknowledged on return.
    ///
    /// # Panics
    /// When nobody accepts writes.
    pub async fn writer(&self, first_phase: &str) -> Writer {
        let first_phase = first_phase.to_owned();
        let pause = ROW_EVERY;
        let options = WriterOptions { workers: 4, pause, first_phase, ..WriterOptions::default() };
        let writer = Writer::start(self.access.clone(), options).await;
        writer.unwrap_or_else(|error| panic!("the writer: {error}"))
    }

    /// Waits for further acknowledged rows.
    ///
    /// # Panics
    /// When they do not come within [`ROWS`].
    pub async fn rows(&self, writer: &Writer, more: u64) {
        let waited = writer.wait_for_rows(more, ROWS).await;
        waited.unwrap_or_else(|error| panic!("{more} further rows: {error}"));
    }

    /// Begins to probe every node.
    ///
    /// # Panics
    /// When nobody accepts writes.
    pub async fn prober(&self) -> Prober {
        let prober = Prober::start(self.access.clone(), ROWS).await;
        prober.unwrap_or_else(|error| panic!("the prober: {error}"))
    }

    /// Waits until a node other than `former` accepts writes; returns its name.
    ///
    /// # Panics
    /// When that takes longer than [`ROWS`].
    pub async fn successor_of(&self, former: &str) -> String {
        until(&format!("a primary other than {former}"), ROWS, async || {
            let found = self.access.primary_within(ROWS, "successor").await;
            let (node, _) = found.map_err(|error| error.to_string())?;
            if node.name == former { Err(format!("{former} writes")) } else { Ok(node.name) }
        })
        .await
    }

    /// A node by its name.
    ///
    /// # Panics
    /// When there is none.
    #[must_use]
    pub fn node(&self, name: &str) -> Node {
        let found = self.access.nodes.iter().find(|node| node.name == name);
        found.cloned().unwrap_or_else(|| panic!("there is no node {name}"))
    }

    /// Names of a datacenter's nodes.
    #[must_use]
    pub fn nodes_of(&self, dc: &str) -> Vec<String> {
        let hosts = self.lab.layout.nodes().filter(|host| host.dc.as_str() == dc);
        hosts.map(|host| host.name.clone()).collect()
    }

    /// Compares the ledger with the primary's table and shows it.
    ///
    /// # Panics
    /// When the table cannot be read.
    pub async fn audit(&self, ledger: &Ledger) -> Audit {
        let audit = ledger.check_on_primary(&self.access).await;
        let audit = audit.unwrap_or_else(|error| panic!("the audit: {error}"));
        self.say(&format!("the ledger:\n{audit}"));
        audit
    }

    /// Shows what the prober saw, and that no two nodes accepted writes at once.
    ///
    /// # Panics
    /// When two did.
    pub fn assert_one_primary(&self, record: &Record) {
        for node in record.summary() {
            let at = |time: Instant| time.saturating_duration_since(self.began).as_secs_f32();
            let (first, last) = (at(node.first), at(node.last));
            let count = node.accepted;
            self.say(&format!("{} accepted {count} probes, {first:.2} to {last:.2} s", node.node));
        }
        let overlaps = record.overlaps();
        let told: Vec<String> = overlaps.iter().map(|o| o.describe(self.began)).collect();
        assert!(overlaps.is_empty(), "two nodes accepted writes at once: {told:#?}");
    }

    fn keep_logs(&self) {
        let place = programs::artifacts(self.test);
        // Left from an earlier run.
        let _ = fs::remove_dir_all(&place);
        for host in &self.lab.layout.hosts {
            let to = place.join(&host.name);
            let copied = fs::create_dir_all(&to).and_then(|()| {
                fs::copy(host.log(), to.join(host.log().file_name().unwrap_or_default()))
            });
            if let Err(error) = copied {
                eprintln!("the log of {} is not kept: {error}", host.name);
            }
        }
        let said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = fs::write(place.join("test.log"), said.as_bytes()) {
            eprintln!("the record of the test is not kept: {error}");
        }
        eprintln!("the logs of this test are in {}", place.display());
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.keep_logs();
        }
    }
}

/// Takes down the labs of tests that were killed before they could do it.
fn remove_orphans() -> Result<(), LabError> {
    let root = lab::state::labs_root()?;
    for entry in fs::read_dir(root).into_iter().flatten().flatten() {
        let owner = entry.file_name().to_str().and_then(owner_of);
        if owner.is_none_or(|pid| Path::new("/proc").join(pid.to_string()).exists()) {
            continue;
        }
        // Two tests may find the same one; what is gone by now needs no care.
        if let Ok(lab) = Lab::open(&entry.path()) {
            println!("removing {}, whose test was killed", entry.path().display());
            lab.end(false)?;
        }
    }
    Ok(())
}

/// The process of the test that made a lab, by the name of its directory.
fn owner_of(directory: &str) -> Option<u32> {
    directory.strip_prefix(PREFIX)?.rsplit('-').nth(1)?.parse().ok()
}

/// Shows that every acknowledged row is there and none that was refused.
///
/// # Panics
/// When a row is lost, or there against a refusal.
pub fn assert_nothing_lost(audit: &Audit) {
    assert_eq!(audit.lost(), Vec::<i64>::new(), "acknowledged rows are lost:\n{audit}");
    assert_eq!(audit.unexpected, Vec::<i64>::new(), "refused rows are there:\n{audit}");
}

/// PostgreSQL's processes write what they do over their command line.
fn is_titled(process: &Process, title: &str) -> bool {
    let path = format!("/proc/{}/cmdline", process.identity.pid);
    let line = fs::read(path).unwrap_or_default();
    process.runs("postgres") && String::from_utf8_lossy(&line).contains(title)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_directories_of_tests_have_an_owner() {
        for (name, owner) in [
            ("e2e-site-loss-4711-0", Some(4711)),
            ("e2e-4711-0", Some(4711)),
            ("e2e-site-loss", None),
            ("tour", None),
            ("other-4711-0", None),
        ] {
            assert_eq!(owner_of(name), owner, "{name}");
        }
    }
}
