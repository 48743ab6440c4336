//! Measures the agents beside Patroni: same PostgreSQL, same etcd, same settings, alternating runs
//! on the same machine. What a client sees of a fault is measured by the lab's writer and prober,
//! which know nothing of either system; what the systems cost idle is read from etcd's own counters
//! and from `/proc`.
//!
//! ```text
//! bash tests/bench/run.sh [--runs N] [--only SCENARIO] [--system SYSTEM] [--write]
//! ```
//!
//! With `--write` the table between the markers of `docs/benchmarks.md` is made anew, and every
//! single value goes to `docs/benchmarks.json`.

mod aim;
mod cost;
mod interrupt;
mod machine;
mod page;
mod run;
mod scenario;
mod statistics;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use federator_tests::patroni;
use federator_tests::programs::repository;

use crate::page::Report;
use crate::run::{Setup, System};
use crate::scenario::Scenario;

/// Measures the agents beside Patroni.
#[derive(Debug, Parser)]
struct Options {
    /// Runs of each system.
    #[arg(long, default_value_t = 5)]
    runs: u32,
    /// Only these scenarios; may be given several times.
    #[arg(long, value_enum)]
    only: Vec<Scenario>,
    /// Only these systems; may be given several times.
    #[arg(long, value_enum)]
    system: Vec<System>,
    /// Seconds for which the idle cluster is watched.
    #[arg(long, default_value_t = 60)]
    idle_s: u64,
    /// Directory of our programs; that of this program when absent.
    #[arg(long)]
    bin_dir: Option<PathBuf>,
    /// Writes docs/benchmarks.md and docs/benchmarks.json.
    #[arg(long)]
    write: bool,
}

fn main() -> ExitCode {
    match bench(Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error}");
            ExitCode::FAILURE
        }
    }
}

fn bench(options: Options) -> Result<(), String> {
    let all =
        |only: &[Scenario]| if only.is_empty() { Scenario::ALL.to_vec() } else { only.into() };
    let systems = match options.system.as_slice() {
        [] => System::ALL.to_vec(),
        some => some.to_vec(),
    };
    let patroni = if systems.contains(&System::Patroni) { Some(patroni::install()?) } else { None };
    let setup = Setup {
        scenarios: all(&options.only),
        idle_s: options.idle_s,
        bin_dir: options.bin_dir,
        patroni: patroni.clone(),
    };
    let mut report = Report::new(machine::describe(patroni.as_deref())?, options.runs);
    interrupt::watch()?;
    for number in 1..=options.runs {
        // Alternating, so that whatever else the machine does meets all.
        for system in &systems {
            println!("== run {number} of {}: {}", options.runs, system.name());
            match run::measure(*system, &setup) {
                Ok(sample) => report.add(*system, sample),
                // A long series goes on; the page says what is missing.
                Err(error) => report.fail(*system, number, &error),
            }
        }
        println!("{}", report.table());
        if options.write {
            report.write(&repository().join("docs"))?;
        }
    }
    match report.failures() {
        0 => Ok(()),
        failed => Err(format!("{failed} runs did not come to their end")),
    }
}
