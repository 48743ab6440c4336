//! The command line of `lab`. Exit codes: 0 done, 1 failed, 2 wrong usage.

pub(crate) mod report;
mod wan;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use clap::{Args, Parser, Subcommand};
use tokio::signal::unix::{SignalKind, signal};

use self::report::say;
use self::wan::WanCommand;
use crate::credentials::Credentials;
use crate::lab::{Lab, LabError, LabOptions, NetworkChoice};
use crate::layout::Layout;
use crate::namespaces::Namespaces;
use crate::network::Network;
use crate::render::{self, AgentContext};
use crate::software;
use crate::state;
use crate::topology::Topology;
use crate::tour::{self, TourError, TourOptions};
use crate::wait::{Interrupt, WaitError};
use crate::wan::router::{self, RouterError};

/// Runs a topology of datacenters on this machine: each host has a loopback address of its own.
#[derive(Debug, Parser)]
#[command(name = "lab", version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Start everything in a topology file: etcd first, then the agents.
    Up {
        #[command(flatten)]
        make: Make,
        /// Return only when the first datacenter has a leader and every replica streams.
        #[arg(long)]
        wait: bool,
    },
    /// Stop everything and remove its data. Does nothing when no lab is there.
    Down {
        #[command(flatten)]
        place: Place,
        /// Leave the data, for another `lab up` with the same topology.
        #[arg(long)]
        keep_data: bool,
    },
    /// Show what runs on every host, and who leads.
    Status(Place),
    /// Show how to connect and how to stop.
    Connect(Place),
    /// Cut the power of one host: every process of it is killed at once.
    Kill {
        /// The host, for example dc1-pg1 or dc1-etcd1.
        host: String,
        #[command(flatten)]
        place: Place,
    },
    /// Bring a host back with its old data.
    Start {
        /// The host, for example dc1-pg1 or dc1-etcd1.
        host: String,
        #[command(flatten)]
        place: Place,
    },
    /// Cut the power of a whole datacenter, its etcd included.
    KillDc {
        /// The datacenter, for example dc1.
        dc: String,
        #[command(flatten)]
        place: Place,
    },
    /// Bring a whole datacenter back with its old data.
    StartDc {
        /// The datacenter, for example dc1.
        dc: String,
        #[command(flatten)]
        place: Place,
    },
    /// Show, cut, heal or change the network between the datacenters.
    #[command(subcommand)]
    Wan(WanCommand),
    /// Carry packets between the datacenters of a lab; `lab up` starts it.
    #[command(hide = true)]
    WanRouter {
        /// The file of settings that `lab up` writes.
        settings: PathBuf,
    },
    /// Print every configuration file, passwords hidden; or, with --dir, make the lab's directory.
    /// Runs nothing.
    Render(Make),
    /// The whole story on real servers: switchover, return, loss of a datacenter, promotion,
    /// rejoin.
    Tour {
        #[command(flatten)]
        make: Make,
        /// Leave everything running at the end.
        #[arg(long)]
        keep: bool,
        /// No pauses for reading.
        #[arg(long)]
        fast: bool,
    },
}

/// How a lab is made.
#[derive(Debug, Args)]
struct Make {
    /// The topology file.
    topology: PathBuf,
    /// The lab's directory (by default /tmp/federator-lab-UID/NAME).
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Another loopback network than the file's, for example 127.33; or "free" for any free one.
    #[arg(long, value_parser = parse_network)]
    network: Option<NetworkChoice>,
    /// Directory of node-agent, node-agent-guard and federator (by default that of lab).
    #[arg(long)]
    bin_dir: Option<PathBuf>,
    /// The user to run as, when root starts the lab (by default postgres).
    #[arg(long)]
    user: Option<String>,
}

impl Make {
    fn options(&self) -> LabOptions {
        LabOptions {
            dir: self.dir.clone(),
            network: self.network.unwrap_or_default(),
            bin_dir: self.bin_dir.clone(),
            user: self.user.clone(),
            agent: None,
            agents: std::collections::BTreeMap::new(),
            namespaces: None,
        }
    }
}

/// Which lab is meant.
#[derive(Debug, Args)]
struct Place {
    /// The lab's directory (by default the only lab of this user).
    #[arg(long)]
    dir: Option<PathBuf>,
}

impl Place {
    fn open(&self) -> Result<Lab, LabError> {
        let dir = state::find_lab(self.dir.as_deref(), &state::labs_root()?)?;
        Lab::open(&dir)
    }
}

fn parse_network(text: &str) -> Result<NetworkChoice, String> {
    match text {
        "free" => Ok(NetworkChoice::Free),
        _ => text.parse::<Network>().map(NetworkChoice::This).map_err(|error| error.to_string()),
    }
}

/// A command that failed.
#[derive(Debug, thiserror::Error)]
enum CliError {
    #[error(transparent)]
    Lab(#[from] LabError),
    #[error(transparent)]
    Tour(#[from] TourError),
    #[error(transparent)]
    Router(#[from] RouterError),
    #[error("cannot {0}: {1}")]
    System(&'static str, std::io::Error),
    #[error("the command ended without a result: {0}")]
    Broken(tokio::task::JoinError),
}

/// Reads the arguments and does what they say.
#[must_use]
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let result = match runtime {
        Ok(runtime) => runtime.block_on(run(cli.command)),
        Err(error) => Err(CliError::System("start the runtime", error)),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("lab: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Runs a command; Ctrl-C, SIGTERM and SIGHUP end its waits and let it clean up.
async fn run(command: Command) -> Result<(), CliError> {
    if let Command::WanRouter { settings } = command {
        // Ended by a signal, as any process.
        return Ok(router::run(&settings).await?);
    }
    let interrupt = Interrupt::default();
    watch_signals(&interrupt)?;
    if let Command::Tour { make, keep, fast } = command {
        let options = TourOptions { lab: make.options(), keep, fast };
        return Ok(tour::run(&make.topology, options, &interrupt).await?);
    }
    let blocking = tokio::task::spawn_blocking(move || execute(command, &interrupt));
    Ok(blocking.await.map_err(CliError::Broken)??)
}

fn watch_signals(interrupt: &Interrupt) -> Result<(), CliError> {
    for kind in [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()] {
        let mut signals = signal(kind).map_err(|e| CliError::System("watch signals", e))?;
        let interrupt = interrupt.clone();
        tokio::spawn(async move {
            while signals.recv().await.is_some() {
                interrupt.raise();
            }
        });
    }
    Ok(())
}

fn execute(command: Command, interrupt: &Interrupt) -> Result<(), LabError> {
    match command {
        Command::Up { make, wait } => up(&make, wait, interrupt),
        Command::Down { place, keep_data } => down(&place, keep_data),
        Command::Status(place) => {
            say(report::status(&place.open()?.join()?).trim_end());
            Ok(())
        }
        Command::Connect(place) => {
            say(report::connection_help(&place.open()?).trim_end());
            Ok(())
        }
        Command::Kill { host, place } => {
            let count = place.open()?.kill_host(&host)?;
            say(format_args!("{host}: power cut, {count} processes ended"));
            Ok(())
        }
        Command::Start { host, place } => {
            place.open()?.join()?.start_host(&host, interrupt)?;
            say(format_args!("{host}: started"));
            Ok(())
        }
        Command::KillDc { dc, place } => {
            let count = place.open()?.kill_dc(&dc)?;
            say(format_args!("{dc}: power cut, {count} processes ended"));
            Ok(())
        }
        Command::StartDc { dc, place } => {
            place.open()?.join()?.start_dc(&dc, interrupt)?;
            say(format_args!("{dc}: started"));
            Ok(())
        }
        Command::Render(make) => render_files(&make),
        Command::Wan(command) => wan::execute(command),
        // Taken out before: they do not block.
        Command::Tour { .. } | Command::WanRouter { .. } => Ok(()),
    }
}

fn up(make: &Make, wait: bool, interrupt: &Interrupt) -> Result<(), LabError> {
    let (topology, _) = Topology::read(&make.topology)?;
    let namespaces = topology.wan.map(|_| Namespaces::enter()).transpose()?.map(Arc::new);
    let lab = Lab::create(&make.topology, &LabOptions { namespaces, ..make.options() })?;
    let progress = |line: &str| say(line);
    say(format_args!("lab {} in {}", lab.topology.name, lab.layout.dir.display()));
    let started = lab
        .start(&progress, interrupt)
        .and_then(|()| if wait { lab.wait_ready(&progress, interrupt) } else { Ok(()) });
    if let Err(error) = started {
        clean_up(&lab, &error);
        return Err(error);
    }
    say(report::connection_help(&lab).trim_end());
    Ok(())
}

/// After a start that failed: nothing runs on. The logs stay unless the user stopped it.
fn clean_up(lab: &Lab, error: &LabError) {
    let interrupted = matches!(error, LabError::Wait { error: WaitError::Interrupted(_), .. });
    let keep = !interrupted || lab.is_resumed();
    match lab.end(keep) {
        Ok(()) if keep => {
            let dir = lab.layout.dir.display();
            eprintln!(
                "lab: stopped; its data and logs are in {dir}, lab down --dir {dir} removes them"
            );
        }
        Ok(()) => eprintln!("lab: stopped and removed"),
        Err(error) => eprintln!("lab: {error}"),
    }
}

fn down(place: &Place, keep_data: bool) -> Result<(), LabError> {
    let lab = match place.open() {
        Err(LabError::State(state::StateError::NoLab(dir))) => {
            say(format_args!("no lab in {}: nothing to stop", dir.display()));
            return Ok(());
        }
        other => other?,
    };
    lab.down(keep_data, &|line| say(line))?;
    let what = if keep_data { "stopped, data kept in" } else { "stopped and removed from" };
    say(format_args!("lab {} {what} {}", lab.topology.name, lab.layout.dir.display()));
    Ok(())
}

fn render_files(make: &Make) -> Result<(), LabError> {
    if make.dir.is_some() {
        let lab = Lab::create(&make.topology, &make.options())?;
        for (path, _) in lab.render()? {
            say(format_args!("{}", path.display()));
        }
        return Ok(());
    }
    let (topology, _) = Topology::read(&make.topology)?;
    let network = match make.network {
        _ if topology.wan.is_some() => Network::SEPARATE,
        Some(NetworkChoice::This(network)) => network,
        Some(NetworkChoice::Free | NetworkChoice::OfTopology) | None => topology.network,
    };
    let dir = state::labs_root()?.join(topology.name.as_str());
    let layout = Layout::plan(&topology, network, &dir)?;
    let version = topology.postgresql.version;
    // Printing needs no PostgreSQL: where it is absent, Debian's place for it is shown.
    let guess = format!("/usr/lib/postgresql/{}/bin", version.unwrap_or(15));
    let bin_dir = software::find_postgres(version, topology.postgresql.bin_dir.as_deref())
        .unwrap_or_else(|_| PathBuf::from(guess));
    let context = AgentContext {
        topology: &topology,
        layout: &layout,
        postgres_bin_dir: &bin_dir,
        credentials: &Credentials::hidden(),
    };
    for (path, text) in render::all_files(&context)? {
        print_file(&path, &text);
    }
    Ok(())
}

fn print_file(path: &Path, text: &str) {
    say(format_args!("# {}\n{text}", path.display()));
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
        let parsed = |words: &[&str]| Cli::try_parse_from(words).map(|cli| cli.command);
        let up = parsed(&["lab", "up", "a.yaml", "--network", "127.33", "--wait"]).unwrap();
        let Command::Up { make, wait: true } = up else { panic!("{up:?}") };
        let wanted = NetworkChoice::This("127.33".parse().unwrap());
        assert_eq!(make.options().network, wanted);
        let refused = parsed(&["lab", "up", "a.yaml", "--network", "10.1"]).unwrap_err();
        assert_eq!(refused.exit_code(), 2);
        assert!(refused.to_string().contains("example: 127.20"), "{refused}");
        assert!(matches!(parsed(&["lab", "kill-dc", "dc1"]), Ok(Command::KillDc { .. })));
        let cases: &[(&[&str], bool)] = &[
            (&["cut", "dc1", "dc2", "--one-way"], true),
            (&["cut", "dc1"], false),
            (&["heal"], true),
            (&["heal", "dc1"], false),
            (&["heal", "--one-way"], false),
            (&["heal", "dc1", "dc2", "--one-way"], true),
            (&["set"], false),
            (&["set", "--loss", "2"], false),
            (&["set", "--loss", "2%", "--rtt", "40ms"], true),
        ];
        for (words, good) in cases {
            let line = [&["lab", "wan"][..], words].concat();
            assert_eq!(parsed(&line).is_ok(), *good, "{line:?}");
        }
    }
}
