//! A lab on disk: made from a topology, found again, its files and its hosts' processes.
//!
//! What it does over time (start, wait, kill, stop) is in [`crate::lifecycle`].

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use rustix::process::Signal;

use crate::certificates::{self, CertificateError};
use crate::credentials::{Credentials, CredentialsError};
use crate::launch::{self, LaunchError};
use crate::layout::{Host, Layout, LayoutError};
use crate::namespaces::{NamespaceError, Namespaces};
use crate::network::{Claims, Network, NetworkError};
use crate::processes::{self, Process, ProcessError};
use crate::render::{self, AgentContext, RenderError};
use crate::shared_memory;
use crate::software::{AGENT, GUARD, PATRONI, RunUser, Software, SoftwareError};
use crate::state::{self, State, StateError, failed};
use crate::topology::{Topology, TopologyError};
use crate::wait::WaitError;
use crate::wan::WanError;

/// Everything that can go wrong with a lab.
#[derive(Debug, thiserror::Error)]
pub enum LabError {
    /// The topology file.
    #[error(transparent)]
    Topology(#[from] TopologyError),
    /// Names and paths.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// The loopback network.
    #[error(transparent)]
    Network(#[from] NetworkError),
    /// Programs and users.
    #[error(transparent)]
    Software(#[from] SoftwareError),
    /// The lab's directory.
    #[error(transparent)]
    State(#[from] StateError),
    /// Passwords.
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
    /// Certificates.
    #[error(transparent)]
    Certificates(#[from] CertificateError),
    /// The network between the datacenters.
    #[error(transparent)]
    Wan(#[from] WanError),
    /// Configuration files.
    #[error(transparent)]
    Render(#[from] RenderError),
    /// Starting a program.
    #[error(transparent)]
    Launch(#[from] LaunchError),
    /// Network namespaces.
    #[error(transparent)]
    Namespace(#[from] NamespaceError),
    /// Signals.
    #[error(transparent)]
    Process(#[from] ProcessError),
    /// A deadline passed.
    #[error("{error}{}", if log.is_empty() { String::new() } else { format!("\nDETAIL: {log}") })]
    Wait {
        /// What was waited for, and what was seen instead.
        error: WaitError,
        /// Last lines of a log that may say why; empty when none does.
        log: String,
    },
    /// The lab, or a part of it, runs already.
    #[error("{what} is running already\nHINT: {hint}")]
    Running {
        /// What runs.
        what: String,
        /// What to do.
        hint: String,
    },
    /// The directory holds a lab of another topology.
    #[error(
        "{dir} holds a lab of another topology or network\n\
         HINT: remove it with lab down --dir {dir}, or choose another directory with --dir"
    )]
    Different {
        /// The directory.
        dir: PathBuf,
    },
    /// A host has no such process now.
    #[error("no {part} runs on {host}")]
    NoProcess {
        /// The host.
        host: String,
        /// What was looked for.
        part: &'static str,
    },
}

/// Which network a new lab takes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum NetworkChoice {
    /// The one that the topology names.
    #[default]
    OfTopology,
    /// This one.
    This(Network),
    /// Any that is free: for tests, which run side by side.
    Free,
}

/// How a lab is made; the default is what `lab up` does without options.
#[derive(Debug, Clone, Default)]
pub struct LabOptions {
    /// The lab's directory; below [`state::labs_root`] when absent.
    pub dir: Option<PathBuf>,
    /// Its network.
    pub network: NetworkChoice,
    /// Directory of our programs; that of the running program when absent.
    pub bin_dir: Option<PathBuf>,
    /// Run user, for root; `postgres` when absent.
    pub user: Option<String>,
    /// Runs on every node instead of node-agent; it must understand Patroni's configuration.
    pub agent: Option<PathBuf>,
    /// Runs on the node of this name instead of that.
    pub agents: BTreeMap<String, PathBuf>,
    /// Network namespaces for its hosts; then its network is [`Network::SEPARATE`].
    pub namespaces: Option<Arc<Namespaces>>,
}

impl LabOptions {
    /// For a test: a directory that nobody else has, and a free network.
    ///
    /// # Errors
    /// When the directory of labs cannot be used.
    pub fn for_test(name: &str) -> Result<Self, StateError> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let unique = format!("{name}-{}-{count}", std::process::id());
        let dir = Some(state::labs_root()?.join(unique));
        Ok(Self { dir, network: NetworkChoice::Free, ..Self::default() })
    }
}

/// Set to anything, this variable keeps the directory of a [`TemporaryLab`] whose test failed.
pub const KEEP: &str = "FEDERATOR_LAB_KEEP";

/// A process of a node, by its task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// node-agent.
    Agent,
    /// node-agent-guard.
    Guard,
    /// PostgreSQL's postmaster.
    Postmaster,
    /// etcd.
    Etcd,
}

impl Part {
    /// Its name for people.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Agent => "agent",
            Self::Guard => "guard",
            Self::Postmaster => "postmaster",
            Self::Etcd => "etcd",
        }
    }
}

/// A lab on disk, running or not.
#[derive(Debug, Clone)]
pub struct Lab {
    /// Its topology.
    pub topology: Topology,
    /// Where everything is.
    pub layout: Layout,
    /// What it runs.
    pub software: Software,
    /// Who runs it.
    pub user: RunUser,
    /// Its passwords.
    pub credentials: Credentials,
    /// Where its hosts' networks are, if not in this process's own.
    pub namespaces: Option<Arc<Namespaces>>,
    /// Whether it took up the data of an earlier run.
    resumed: bool,
}

impl Lab {
    /// Makes the directory, the passwords and all configuration files; starts nothing. A lab that
    /// was stopped with its data kept is taken up again if the topology is the same.
    ///
    /// # Errors
    /// When the topology is faulty, something is missing on this machine, or the place is
    /// taken.
    pub fn create(topology_file: &Path, options: &LabOptions) -> Result<Self, LabError> {
        let (topology, text) = Topology::read(topology_file)?;
        if topology.wan.is_some() && options.namespaces.is_none() {
            return Err(WanError::NoNamespaces.into());
        }
        let version = topology.postgresql.version;
        let programs = topology.postgresql.bin_dir.as_deref();
        let software = Software::find(version, programs, options.bin_dir.as_deref())?;
        let software =
            Software { agent: options.agent.clone(), agents: options.agents.clone(), ..software };
        let user = RunUser::choose(options.user.as_deref())?;
        let root = state::labs_root()?;
        let dir = match &options.dir {
            Some(dir) => std::path::absolute(dir).map_err(failed("resolve", dir))?,
            None => root.join(topology.name.as_str()),
        };
        user.check_can_enter(&dir)?;
        let previous = previous_state(&dir)?;
        if let Some(previous) = &previous {
            refuse_running(&dir, previous)?;
        }
        let separate = options.namespaces.is_some().then_some(Network::SEPARATE);
        let network = match (options.network, &previous) {
            _ if separate.is_some() => separate,
            (NetworkChoice::This(network), _) => Some(network),
            (NetworkChoice::Free | NetworkChoice::OfTopology, Some(previous)) => {
                Some(previous.network)
            }
            (NetworkChoice::OfTopology, None) => Some(topology.network),
            (NetworkChoice::Free, None) => None,
        };
        let resumed = previous.is_some();
        if previous.is_some_and(|old| old.topology != text || Some(old.network) != network) {
            return Err(LabError::Different { dir });
        }
        let claims = Claims::below(&root);
        let network = match separate {
            // It exists in the lab's own namespaces only.
            Some(network) => network,
            None => take_network(&claims, &topology, network, &dir)?,
        };
        let namespaces = options.namespaces.clone();
        let made = Self::write_files(topology, text, network, &dir, software, user);
        let made = made.and_then(|lab| {
            namespaces.as_ref().map_or(Ok(()), |all| all.connect(&lab.layout))?;
            Ok(Self { resumed, namespaces, ..lab })
        });
        match made {
            Ok(lab) => Ok(lab),
            Err(error) if resumed => Err(error),
            Err(error) => {
                // Nothing was there before, so nothing stays; the first fault is the one to report.
                let _ = fs::remove_dir_all(&dir);
                let _ = claims.release(network, &dir);
                Err(error)
            }
        }
    }

    /// Whether it took up the data of an earlier run.
    #[must_use]
    pub fn is_resumed(&self) -> bool {
        self.resumed
    }

    /// Opens a lab that exists.
    ///
    /// # Errors
    /// When there is none in `dir`, or its files cannot be read.
    pub fn open(dir: &Path) -> Result<Self, LabError> {
        let state = State::read(dir)?;
        let topology = Topology::parse(&state.topology)
            .map_err(|message| TopologyError::Invalid { path: dir.join("lab.json"), message })?;
        let layout = Layout::plan(&topology, state.network, dir)?;
        let credentials = Credentials::read_or_make(dir, &state.user)?;
        let State { software, user, .. } = state;
        let namespaces = None;
        Ok(Self { topology, layout, software, user, credentials, namespaces, resumed: true })
    }

    fn write_files(
        topology: Topology,
        text: String,
        network: Network,
        dir: &Path,
        software: Software,
        user: RunUser,
    ) -> Result<Self, LabError> {
        let layout = Layout::plan(&topology, network, dir)?;
        fs::create_dir_all(dir).map_err(failed("create", dir))?;
        let root = rustix::process::geteuid().is_root();
        let bin_dir = if root { dir.join("bin") } else { software.bin_dir.clone() };
        let runs = Software { bin_dir: bin_dir.clone(), ..software.clone() };
        // The state comes first: from here on `lab down` can clean up whatever happens.
        let state = State { topology: text, network, user: user.clone(), software: runs };
        state.write(dir)?;
        let software = if root { software.copy_into(&bin_dir, layout.wan)? } else { software };
        let credentials = Credentials::read_or_make(dir, &user)?;
        if layout.wan {
            certificates::make(&layout, &user)?;
        }
        let (namespaces, resumed) = (None, false);
        let lab = Self { topology, layout, software, user, credentials, namespaces, resumed };
        for host in &lab.layout.hosts {
            lab.make_host_dir(host)?;
        }
        for (path, text) in lab.render()? {
            lab.user.write_private(&path, &text).map_err(failed("write", &path))?;
        }
        Ok(lab)
    }

    fn make_host_dir(&self, host: &Host) -> Result<(), LabError> {
        let mut dirs = vec![host.dir.clone()];
        if host.is_node() {
            dirs.push(host.socket_dir());
        }
        for dir in dirs {
            self.user.make_private_dir(&dir).map_err(failed("create", &dir))?;
        }
        Ok(())
    }

    /// Every configuration file: path and text. Agents' files hold passwords.
    ///
    /// # Errors
    /// When a value of the topology cannot be written as YAML.
    pub fn render(&self) -> Result<Vec<(PathBuf, String)>, LabError> {
        let context = AgentContext {
            topology: &self.topology,
            layout: &self.layout,
            postgres_bin_dir: &self.software.postgres_bin_dir,
            credentials: &self.credentials,
        };
        Ok(render::all_files(&context)?)
    }

    /// The live processes of a host.
    #[must_use]
    pub fn processes(&self, host: &Host) -> Vec<Process> {
        processes::of_hosts(std::slice::from_ref(&host.dir))
    }

    /// The process of a host that does a certain task, if it runs.
    #[must_use]
    pub fn process(&self, host: &Host, part: Part) -> Option<Process> {
        find_part(&self.processes(host), host, part)
    }

    /// Signals one process of a host (STOP, CONT, KILL, TERM).
    ///
    /// # Errors
    /// When there is no such host or process, or the system forbids the signal.
    pub fn signal(&self, host: &str, part: Part, signal: Signal) -> Result<Process, LabError> {
        let host = self.layout.host(host)?;
        let none = || LabError::NoProcess { host: host.name.clone(), part: part.name() };
        let process = self.process(host, part).ok_or_else(none)?;
        if processes::send(&process, signal)? { Ok(process) } else { Err(none()) }
    }

    /// Gives the network back and removes the directory.
    pub(crate) fn remove(&self) -> Result<(), LabError> {
        let dir = &self.layout.dir;
        for host in self.layout.nodes() {
            shared_memory::remove_left_behind(&host.data_dir());
        }
        match fs::remove_dir_all(dir) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(failed("remove", dir)(error).into());
            }
            Ok(()) | Err(_) => {}
        }
        Ok(Claims::below(&state::labs_root()?).release(self.layout.network, dir)?)
    }
}

/// Finds the process with a task among those of a host.
pub(crate) fn find_part(processes: &[Process], host: &Host, part: Part) -> Option<Process> {
    let named = |name: &str| processes.iter().find(|process| process.runs(name)).cloned();
    match part {
        Part::Agent => named(AGENT).or_else(|| named(PATRONI)),
        Part::Guard => named(GUARD),
        Part::Etcd => named("etcd"),
        Part::Postmaster => {
            let file = fs::read_to_string(host.data_dir().join("postmaster.pid")).ok()?;
            let pid: i32 = file.lines().next()?.trim().parse().ok()?;
            let found = processes.iter().find(|process| process.identity.pid == pid);
            found.filter(|process| process.runs("postgres")).cloned()
        }
    }
}

fn previous_state(dir: &Path) -> Result<Option<State>, LabError> {
    if state::is_lab_dir(dir) {
        return Ok(Some(State::read(dir)?));
    }
    match fs::read_dir(dir) {
        Ok(mut entries) => match entries.next() {
            Some(_) => Err(StateError::Foreign(dir.to_owned()).into()),
            None => Ok(None),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed("list", dir)(error).into()),
    }
}

fn refuse_running(dir: &Path, state: &State) -> Result<(), LabError> {
    let topology = Topology::parse(&state.topology)
        .map_err(|message| TopologyError::Invalid { path: dir.join("lab.json"), message })?;
    let layout = Layout::plan(&topology, state.network, dir)?;
    if processes::of_hosts(&layout.process_dirs()).is_empty() {
        return Ok(());
    }
    Err(LabError::Running {
        what: format!("the lab in {}", dir.display()),
        hint: format!("stop it with lab down --dir {}", dir.display()),
    })
}

fn take_network(
    claims: &Claims,
    topology: &Topology,
    wanted: Option<Network>,
    dir: &Path,
) -> Result<Network, LabError> {
    match wanted {
        Some(network) => {
            let addresses = Layout::plan(topology, network, dir)?.addresses();
            claims.take(network, dir, &addresses)?;
            Ok(network)
        }
        None => {
            // A path that is too long shows in any network, so here an empty list hides nothing.
            Layout::plan(topology, topology.network, dir)?;
            let addresses = |network| {
                Layout::plan(topology, network, dir).map(|l| l.addresses()).unwrap_or_default()
            };
            Ok(claims.take_free(dir, addresses)?)
        }
    }
}

/// A lab that ends with its owner: power cut, directory removed. For tests, which may panic; the
/// ends of the logs are printed then, and the directory stays if [`KEEP`] is set.
#[derive(Debug)]
pub struct TemporaryLab(Lab);

impl TemporaryLab {
    /// Takes charge of a lab.
    #[must_use]
    pub fn new(lab: Lab) -> Self {
        Self(lab)
    }
}

impl std::ops::Deref for TemporaryLab {
    type Target = Lab;

    fn deref(&self) -> &Lab {
        &self.0
    }
}

impl Drop for TemporaryLab {
    fn drop(&mut self) {
        let dirs = self.0.layout.process_dirs();
        if let Err(error) = processes::cut_power(&dirs, Duration::from_secs(10)) {
            eprintln!("lab: {error}");
        }
        if std::thread::panicking() {
            for host in &self.0.layout.hosts {
                eprintln!("== {}\n{}", host.log().display(), launch::log_tail(&host.log()));
            }
            if std::env::var_os(KEEP).is_some() {
                return;
            }
        }
        if let Err(error) = self.0.remove() {
            eprintln!("lab: {error}");
        }
    }
}
