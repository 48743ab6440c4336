//! The command line: `federator [-f federator.yml] COMMAND`.
//!
//! Exit codes, stable:
//!
//! | code | meaning |
//! |---|---|
//! | 0 | done, or nothing to do |
//! | 1 | failed before anything was changed: something does not answer, or is in a bad state |
//! | 2 | usage: arguments or settings |
//! | 3 | refused by a check; nothing was changed |
//! | 4 | aborted: turned back before the commit; the old primary is primary again |
//! | 5 | partly done: `federator resume`, `abort` or `rejoin` is needed, as the last line says |

mod approve;
mod consent;
mod fence;
mod history;
mod membership;
mod operation;
mod promote;
mod rejoin;
mod resolve;
mod resume;
mod rotate;
mod setup;
mod status;
mod switchover;
mod validate;

use crate::federation::Federation;
use crate::settings::{self, Settings};
use clap::{Args, Parser, Subcommand};
use node_agent_wire::{DcName, MemberName};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;
use switchover::Wish;

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Done, or nothing to do.
    Done = 0,
    /// Failed before anything was changed.
    Failed = 1,
    /// Arguments or settings.
    Usage = 2,
    /// A check refused it; nothing was changed.
    Refused = 3,
    /// Turned back before the commit.
    Aborted = 4,
    /// Begun, not ended.
    Partly = 5,
}

#[derive(Debug, Parser)]
#[command(
    name = "federator",
    version,
    about = "Federation of PostgreSQL datacenters: standby clusters, switchover, guarded promotion",
    after_help = "Exit codes: 0 done, 1 failed and nothing changed, 2 usage, 3 refused, \
                  4 aborted before the commit, 5 partly done."
)]
struct Cli {
    /// The settings file
    #[arg(short, long, default_value = "federator.yml", global = true)]
    file: PathBuf,
    #[command(flatten)]
    common: Common,
    #[command(subcommand)]
    command: Command,
}

/// Options of every command that changes something.
#[derive(Clone, Debug, Args)]
pub struct Common {
    /// Do not ask
    #[arg(short, long, global = true)]
    yes: bool,
    /// Show the plan and change nothing
    #[arg(long, global = true)]
    dry_run: bool,
    /// Who does this, for the records [default: $USER]
    #[arg(long, value_name = "NAME", global = true)]
    by: Option<String>,
    /// The longest wait of one step; a new standby gets 10 minutes unless this says otherwise
    #[arg(long, value_name = "DURATION", global = true, value_parser = duration)]
    timeout: Option<Duration>,
    /// The rate of a base backup from another datacenter, a second: 20MB
    #[arg(long, value_name = "BYTES", global = true, value_parser = rate)]
    max_rate: Option<u64>,
    /// The federation's name, in place of typing it when a promotion can lose data
    #[arg(long, value_name = "FEDERATION", global = true)]
    confirm: Option<String>,
    /// Insist where a check allows that
    #[arg(long, global = true)]
    force: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make the other datacenters standby clusters of the primary one
    Setup {
        /// The primary datacenter, when it can't be told
        #[arg(long, value_name = "DC")]
        primary: Option<String>,
    },
    /// One table: who is primary, how far the others are, what is wrong
    Status {
        /// A stable JSON document
        #[arg(long)]
        json: bool,
        /// Again every second
        #[arg(long)]
        watch: bool,
    },
    /// Could the primary role move there now, and what would it cost? Changes nothing
    Validate {
        /// The datacenter that would take over
        dc: String,
        /// Warnings count as failures
        #[arg(long)]
        strict: bool,
        /// A stable JSON document
        #[arg(long)]
        json: bool,
    },
    /// Move the primary role to another datacenter; nothing is lost
    Switchover {
        /// The new primary datacenter
        #[arg(long, value_name = "DC")]
        to: String,
        /// Begin at this time, with its zone: 2030-01-31T23:00:00+01:00
        #[arg(long, value_name = "TIME", conflicts_with = "window")]
        at: Option<String>,
        /// Begin between two times: 2030-01-31T02:00:00+01:00/2030-01-31T04:00:00+01:00
        #[arg(long, value_name = "BEGIN/END")]
        window: Option<String>,
        /// Turn it back when it is not committed so long after writes were stopped
        #[arg(long, value_name = "DURATION", value_parser = pause)]
        max_pause: Option<Duration>,
        /// Do not wait until the new primary is close behind before writes are stopped
        #[arg(long)]
        no_pre_sync: bool,
    },
    /// The primary datacenter is lost: make another one primary, on evidence
    Promote {
        /// The new primary datacenter
        dc: String,
        /// You know that the old primary has stopped, and how
        #[arg(long, value_name = "REASON")]
        attest: Option<String>,
        /// Refuse when more than this may be lost: 64MB, 8192, 30s, or both: 64MB,30s
        #[arg(long, value_name = "BYTES,DURATION")]
        max_loss: Option<String>,
        /// Only ask for the approvals that the policy wants, and print the hash to be approved
        #[arg(long)]
        request: bool,
    },
    /// Agree to a promotion that somebody else has asked for
    Approve {
        /// What `federator promote DC --request` has printed, or its first 8 digits or more
        hash: String,
    },
    /// Make a former primary datacenter a standby cluster of the present one
    Rejoin {
        /// The former primary
        dc: String,
        /// Discard what only these members have without keeping it in a vault
        #[arg(long, value_name = "MEMBER", num_args = 1..)]
        waive_vault: Vec<String>,
    },
    /// One epoch is claimed by two datacenters: keep one, the other returns by a rejoin
    Resolve {
        /// The datacenter that stays primary
        #[arg(long, value_name = "DC")]
        keep: String,
    },
    /// One more datacenter joins, or one that was removed comes back
    AddDc {
        /// The new datacenter, as the settings name it
        dc: String,
    },
    /// A standby datacenter leaves the federation and stays read-only
    RemoveDc {
        /// The datacenter
        dc: String,
        /// Make it a cluster of its own afterwards, that accepts writes
        #[arg(long)]
        standalone: bool,
    },
    /// Move replication to another role, with a new password, without dropping a link
    RotateCredentials,
    /// Stop writes in the primary datacenter
    Fence {
        /// The primary datacenter
        dc: String,
        /// Let it write again
        #[arg(long)]
        lift: bool,
    },
    /// Go on with the operation in progress
    Resume,
    /// Turn the operation in progress back, before its commit
    Abort,
    /// The closed operations
    History {
        /// Check the signed evidence of promotions, in every datacenter's copy
        #[arg(long)]
        verify: bool,
    },
    /// After a cold start: this datacenter's epoch is still the present one
    Confirm {
        /// The datacenter
        dc: String,
    },
}

fn rate(text: &str) -> Result<u64, String> {
    crate::seed::rate(text)
}

fn duration(text: &str) -> Result<Duration, String> {
    settings::duration(text)
}

/// A limit of the write pause.
fn pause(text: &str) -> Result<Duration, String> {
    match settings::duration(text)? {
        Duration::ZERO => Err("a write pause takes its time: give a limit as in 5s".to_owned()),
        limit => Ok(limit),
    }
}

/// Everything that a command gets.
pub(crate) struct Session {
    pub(crate) federation: Federation,
    pub(crate) common: Common,
}

impl Session {
    /// Who does this, where that can be told.
    pub(crate) fn named(&self) -> Option<String> {
        let named = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let given = self.common.by.clone().filter(|by| !by.trim().is_empty());
        given.or_else(|| named("USER")).or_else(|| named("LOGNAME"))
    }

    /// Who does this, for the records.
    pub(crate) fn by(&self) -> String {
        self.named().unwrap_or_else(|| "unknown".to_owned())
    }

    pub(crate) fn limit(&self) -> Duration {
        self.common.timeout.unwrap_or(Duration::from_secs(30))
    }

    pub(crate) fn clone_limit(&self) -> Duration {
        self.common.timeout.unwrap_or(Duration::from_secs(600))
    }
}

/// The program.
#[must_use]
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are not errors; the rest is usage. A closed pipe changes neither.
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { Exit::Usage } else { Exit::Done } as u8);
        }
    };
    tracing_subscriber::fmt()
        .with_env_filter(
            tracing_subscriber::EnvFilter::try_from_env("FEDERATOR_LOG")
                .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("error")),
        )
        .with_writer(std::io::stderr)
        .init();
    // Only the first caller in a process installs it; there is no other one here.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: could not start: {error}");
            return ExitCode::from(Exit::Failed as u8);
        }
    };
    ExitCode::from(runtime.block_on(Box::pin(run(cli))) as u8)
}

async fn run(cli: Cli) -> Exit {
    let settings = match Settings::read(&cli.file) {
        Ok(settings) => settings,
        Err(error) => {
            eprintln!("error: {error}");
            eprintln!("hint: give the settings file with -f FILE");
            return Exit::Usage;
        }
    };
    let federation = match Federation::new(settings) {
        Ok(federation) => federation,
        Err(error) => {
            eprintln!("error: {error}");
            return Exit::Usage;
        }
    };
    let session = Session { federation, common: cli.common };
    match cli.command {
        Command::Setup { primary } => setup::run(&session, primary.map(DcName::new)).await,
        Command::Status { json, watch } => status::run(&session, json, watch).await,
        Command::Validate { dc, strict, json } => {
            validate::run(&session, &DcName::new(dc), strict, json).await
        }
        Command::Switchover { to, at, window, max_pause, no_pre_sync } => {
            let (to, pause_max) = (DcName::new(to), max_pause);
            switchover::run(&session, &Wish { to, at, window, pause_max, no_pre_sync }).await
        }
        Command::Promote { dc, attest, max_loss, request } => {
            promote::run(&session, &DcName::new(dc), (attest, max_loss), request).await
        }
        Command::Approve { hash } => approve::run(&session, &hash).await,
        Command::Rejoin { dc, waive_vault } => {
            let waived = waive_vault.into_iter().map(MemberName::new).collect();
            rejoin::run(&session, &DcName::new(dc), waived).await
        }
        Command::Resolve { keep } => resolve::run(&session, &DcName::new(keep)).await,
        Command::AddDc { dc } => membership::add(&session, &DcName::new(dc)).await,
        Command::RemoveDc { dc, standalone } => {
            membership::remove(&session, &DcName::new(dc), standalone).await
        }
        Command::RotateCredentials => rotate::run(&session).await,
        Command::Fence { dc, lift } => fence::run(&session, &DcName::new(dc), lift).await,
        Command::Resume => resume::resume(&session).await,
        Command::Abort => resume::abort(&session).await,
        Command::History { verify } => history::run(&session, verify).await,
        Command::Confirm { dc } => fence::confirm(&session, &DcName::new(dc)).await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn options_stand_on_either_side_of_the_command() {
        for line in [
            "federator -f a.yml --yes switchover --to dc2 --timeout 5s",
            "federator switchover --to dc2 --yes --timeout 5s -f a.yml",
        ] {
            let cli = Cli::try_parse_from(line.split(' ')).unwrap();
            assert!(cli.common.yes && cli.file.ends_with("a.yml"));
            assert_eq!(cli.common.timeout, Some(Duration::from_secs(5)));
        }
        for bad in [
            "federator",
            "federator switchover",
            "federator switchover --to dc2 --max-pause 0s",
            "federator switchover --to dc2 --max-pause soon",
            "federator switchover --to dc2 --at 2030-01-01T00:00Z --window a/b",
            "federator fence dc1 --timeout x",
        ] {
            assert!(Cli::try_parse_from(bad.split(' ')).is_err(), "{bad}");
        }
    }
}
