//! One run: a lab of one system from its start to its end, through every scenario.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::ValueEnum;
use lab::access::Access;
use lab::ledger::{Writer, WriterOptions};
use lab::lifecycle::silent;
use lab::namespaces::Namespaces;
use lab::prober::Prober;
use lab::wait::Interrupt;
use lab::{Lab, LabError, LabOptions, TemporaryLab};
use node_agent_wire::DcName;
use serde::Serialize;

use crate::cost;
use crate::interrupt;
use crate::scenario::Scenario;

/// The same for all: what Patroni's bounds allow, and as short as they allow it.
pub const SETTINGS: &str = "ttl: 20, loop_wait: 1, retry_timeout: 3, synchronous_mode: true";
/// What our fastest settings have beside that: a time that is ours only, at its lower bound.
pub const FASTEST: &str = "primary_lost_timeout: 3";
/// How long anything may take to get back into service.
pub const LIMIT: Duration = Duration::from_secs(180);
/// Settling time before the idle cluster is watched: first checkpoints, statistics.
const SETTLE: Duration = Duration::from_secs(10);

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize)]
pub enum System {
    /// node-agent with the same settings as Patroni.
    Agent,
    /// node-agent with its fastest settings.
    Fastest,
    /// Patroni.
    Patroni,
}

impl System {
    /// All, in the order of the table.
    pub const ALL: [Self; 3] = [Self::Agent, Self::Fastest, Self::Patroni];

    /// Its name for people.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Agent => "node-agent, same settings",
            Self::Fastest => "node-agent, fastest settings",
            Self::Patroni => "Patroni",
        }
    }

    fn topology(self) -> String {
        let more = match self {
            Self::Agent | Self::Patroni => String::new(),
            Self::Fastest => format!(", {FASTEST}"),
        };
        let nodes = "dc1: {etcd: 1, nodes: [pg1, pg2, pg3]}";
        format!("name: bench\nsettings: {{{SETTINGS}{more}}}\ndatacenters:\n  {nodes}\n")
    }
}

/// What every run has in common.
pub struct Setup {
    /// In this order.
    pub scenarios: Vec<Scenario>,
    /// How long the idle cluster is watched.
    pub idle_s: u64,
    /// Our programs.
    pub bin_dir: Option<PathBuf>,
    /// Patroni's program.
    pub patroni: Option<PathBuf>,
}

/// The values of one run by metric.
pub type Sample = BTreeMap<String, f64>;

/// A running cluster under load and watch.
pub struct Bench {
    /// The lab.
    pub lab: TemporaryLab,
    /// Access to its nodes.
    pub access: Access,
    /// The load.
    pub writer: Writer,
    /// Probes of every node.
    pub prober: Prober,
}

impl Bench {
    /// Something that blocks, done to the lab.
    ///
    /// # Errors
    /// What the lab says.
    pub fn act<T>(&self, deed: impl FnOnce(&Lab) -> Result<T, LabError>) -> Result<T, String> {
        blocking(|| deed(&self.lab))
    }

    /// Starts what is missing, and waits until every node is in service; gives the leader.
    ///
    /// # Errors
    /// When it takes too long.
    pub fn complete(&self) -> Result<String, String> {
        self.act(|lab| {
            lab.start_dc("dc1", &Interrupt::default())?;
            lab.wait_complete(&DcName::new("dc1"), LIMIT, &Interrupt::default())
        })
    }

    /// A host is lost: its cable is pulled first, so that nobody hears of its end.
    ///
    /// # Errors
    /// What the lab says.
    pub fn lose(&self, host: &str) -> Result<(), String> {
        self.act(|lab| {
            lab.namespaces.as_ref().map_or(Ok(()), |all| all.unplug(host))?;
            lab.kill_host(host).map(drop)
        })
    }

    /// A lost host comes back.
    ///
    /// # Errors
    /// What the lab says.
    pub fn bring_back(&self, host: &str) -> Result<(), String> {
        self.act(|lab| {
            lab.namespaces.as_ref().map_or(Ok(()), |all| all.plug(host))?;
            lab.start_host(host, &Interrupt::default())
        })
    }

    /// Waits for further acknowledged rows.
    ///
    /// # Errors
    /// When they do not come.
    pub async fn rows(&self, more: u64) -> Result<(), String> {
        self.writer.wait_for_rows(more, LIMIT).await.map_err(|error| error.to_string())
    }

    /// Waits until another node accepts writes.
    ///
    /// # Errors
    /// When none does in time.
    pub async fn successor_of(&self, former: &str) -> Result<String, String> {
        let begun = Instant::now();
        loop {
            let wrote = self.prober.snapshot().summary();
            let other = |node: &&lab::prober::NodeSummary| node.node != former && node.last > begun;
            if let Some(node) = wrote.iter().find(other) {
                return Ok(node.node.clone());
            }
            if begun.elapsed() > LIMIT {
                return Err(format!("no node but {former} accepts writes"));
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

fn blocking<T>(deed: impl FnOnce() -> Result<T, LabError>) -> Result<T, String> {
    tokio::task::block_in_place(deed).map_err(|error| error.to_string())
}

/// One run of a system through all scenarios, in network namespaces of its own.
///
/// # Errors
/// When there are none, the lab cannot be started, or a scenario does not come to its end.
pub fn measure(system: System, setup: &Setup) -> Result<Sample, String> {
    let run = || {
        let namespaces = Namespaces::enter().map_err(|error| error.to_string())?;
        // Made in the new namespace, where its workers begin.
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        let runtime = builder.worker_threads(2).enable_all().build();
        let runtime = runtime.map_err(|error| format!("no runtime: {error}"))?;
        runtime.block_on(measure_in(system, setup, Arc::new(namespaces)))
    };
    let done = std::thread::scope(|scope| scope.spawn(run).join());
    done.unwrap_or_else(|_| Err("the run panicked".to_owned()))
}

async fn measure_in(
    system: System,
    setup: &Setup,
    namespaces: Arc<Namespaces>,
) -> Result<Sample, String> {
    let lab = start(system, setup, namespaces)?;
    let access = Access::to_lab(&lab);
    let mut sample = Sample::new();
    if setup.scenarios.contains(&Scenario::Idle) {
        tokio::time::sleep(SETTLE).await;
        sample.extend(cost::watch(&lab, Duration::from_secs(setup.idle_s)).await?);
    }
    let options = WriterOptions { workers: 4, start_limit: LIMIT, ..WriterOptions::default() };
    let writer = Writer::start(access.clone(), options).await.map_err(|e| e.to_string())?;
    let prober = Prober::start(access.clone(), LIMIT).await.map_err(|e| e.to_string())?;
    let bench = Bench { lab, access, writer, prober };
    bench.rows(500).await?;
    for scenario in &setup.scenarios {
        let begun = Instant::now();
        let told = scenario.run(&bench).await;
        let told = told.map_err(|error| format!("{}: {error}", scenario.name()))?;
        let took = begun.elapsed().as_secs();
        for (metric, value) in told {
            println!("   {metric}: {value:.2} (the scenario took {took} s)");
            sample.insert(metric, value);
        }
    }
    let Bench { lab, access, writer, .. } = bench;
    let ledger = writer.stop().await;
    let audit = ledger.check_on_primary(&access).await.map_err(|error| error.to_string())?;
    sample.insert("acknowledged rows lost".into(), count(audit.lost().len()));
    interrupt::runs(None);
    drop(lab);
    Ok(sample)
}

/// Small counts only.
pub fn count(n: usize) -> f64 {
    f64::from(u32::try_from(n).unwrap_or(u32::MAX))
}

fn start(
    system: System,
    setup: &Setup,
    namespaces: Arc<Namespaces>,
) -> Result<TemporaryLab, String> {
    let options = LabOptions::for_test("bench").map_err(|error| error.to_string())?;
    let agent = match system {
        System::Agent | System::Fastest => None,
        System::Patroni => setup.patroni.clone(),
    };
    let namespaces = Some(namespaces);
    let options = LabOptions { bin_dir: setup.bin_dir.clone(), agent, namespaces, ..options };
    let file = std::env::temp_dir().join(format!("bench-{}.yaml", std::process::id()));
    std::fs::write(&file, system.topology())
        .map_err(|error| format!("{}: {error}", file.display()))?;
    let lab = blocking(|| start_file(&file, &options));
    // The lab keeps a copy.
    let _ = std::fs::remove_file(&file);
    lab
}

fn start_file(file: &Path, options: &LabOptions) -> Result<TemporaryLab, LabError> {
    let lab = TemporaryLab::new(Lab::create(file, options)?);
    interrupt::runs(Some(&lab));
    lab.start(&silent, &Interrupt::default())?;
    lab.wait_ready(&silent, &Interrupt::default())?;
    Ok(lab)
}
