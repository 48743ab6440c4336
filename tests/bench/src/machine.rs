//! On what it was measured, and with which versions.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use federator_tests::patroni::run;
use federator_tests::programs::repository;
use lab::software::find_postgres;

/// What is known of machine and software, by label.
pub type Machine = BTreeMap<&'static str, String>;

/// Asks the machine and the programs.
///
/// # Errors
/// When a program does not tell its version.
pub fn describe(patroni: Option<&Path>) -> Result<Machine, String> {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let (cpu, memory) = (read("/proc/cpuinfo"), read("/proc/meminfo"));
    let field = |text: &str, name: &str| {
        let line = text.lines().find(|line| line.starts_with(name))?;
        Some(line.split_once(':')?.1.trim().to_owned())
    };
    let cores = cpu.lines().filter(|line| line.starts_with("processor")).count();
    let kib: u64 = field(&memory, "MemTotal")
        .and_then(|text| text.strip_suffix(" kB")?.parse().ok())
        .unwrap_or(0);
    let mut machine = Machine::new();
    let model = field(&cpu, "model name").unwrap_or_else(|| "unknown".to_owned());
    machine.insert("processor", format!("{cores} cores, {model}"));
    machine.insert("memory", format!("{} GiB", kib / 1024 / 1024));
    machine.insert("Linux", read("/proc/sys/kernel/osrelease").trim().to_owned());
    let postgres = find_postgres(None, None).map_err(|error| error.to_string())?.join("postgres");
    machine.insert("PostgreSQL", run(Command::new(postgres).arg("--version"))?);
    let etcd = run(Command::new("etcd").arg("--version"))?;
    machine.insert("etcd", etcd.lines().next().unwrap_or_default().to_owned());
    if let Some(patroni) = patroni {
        machine.insert("Patroni", run(Command::new(patroni).arg("--version"))?);
    }
    let mut git = Command::new("git");
    let commit = run(git.current_dir(repository()).args(["rev-parse", "--short", "HEAD"]));
    machine.insert("commit", commit.unwrap_or_else(|_| "unknown".to_owned()));
    Ok(machine)
}
