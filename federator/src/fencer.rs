//! The fencer of a datacenter: a command of the operator's that powers its hosts off or cuts their
//! network. It runs with a deadline, in a process group and an environment of its own, so that
//! nothing of ours reaches it but what is listed here.

use node_agent_wire::{DcName, Epoch, OperationId};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::{Child, Command};

/// How long a fencer may take when the settings do not say.
const TIMEOUT: Duration = Duration::from_secs(60);
/// How long its output is waited for once it has ended: a child of it may hold it open.
const OUTPUT_LIMIT: Duration = Duration::from_secs(1);
/// The most that is read of each of its outputs; the rest is thrown away.
const OUTPUT_MAX: u64 = 64 * 1024;
/// What it gets of our environment.
const PASSED: [&str; 4] = ["PATH", "HOME", "LANG", "TZ"];

/// As the settings file has it.
#[derive(Clone, Debug, Deserialize)]
pub struct RawFencer {
    command: Vec<String>,
    timeout: Option<String>,
}

/// The command of one datacenter. Its arguments may hold secrets: they are not printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Fencer {
    /// The program and its arguments.
    pub command: Vec<String>,
    /// How long it may take.
    pub timeout: Duration,
}

impl std::fmt::Debug for Fencer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Fencer({}, {:?})", self.program(), self.timeout)
    }
}

impl Fencer {
    /// Checks what the settings file says.
    ///
    /// # Errors
    /// The key, and what is expected there.
    pub fn new(raw: RawFencer) -> Result<Self, (&'static str, String)> {
        let program = raw.command.first().map(String::as_str).unwrap_or_default();
        if program.is_empty() {
            return Err(("command", "a program is expected, as in [/usr/local/bin/fence]".into()));
        }
        if !program.starts_with('/') {
            return Err(("command", format!("\"{program}\" is not an absolute path")));
        }
        let timeout = match &raw.timeout {
            None => TIMEOUT,
            Some(text) => crate::settings::duration(text).map_err(|why| ("timeout", why))?,
        };
        if timeout.is_zero() {
            return Err(("timeout", "more than 0 is expected, as in 60s".into()));
        }
        Ok(Self { command: raw.command, timeout })
    }

    /// The program, without its arguments.
    #[must_use]
    pub fn program(&self) -> &str {
        self.command.first().map(String::as_str).unwrap_or_default()
    }
}

/// What a fencer is told.
#[derive(Clone, Debug)]
pub struct Order {
    /// The federation.
    pub federation: String,
    /// The datacenter to be fenced.
    pub dc: DcName,
    /// Its scope.
    pub scope: String,
    /// Who is to be promoted.
    pub target: DcName,
    /// The operation.
    pub operation: OperationId,
    /// The epoch that it is to begin.
    pub next_epoch: Epoch,
}

impl Order {
    fn variables(&self) -> BTreeMap<&'static str, String> {
        [
            ("FEDERATOR_FEDERATION", self.federation.clone()),
            ("FEDERATOR_DC", self.dc.to_string()),
            ("FEDERATOR_SCOPE", self.scope.clone()),
            ("FEDERATOR_TARGET", self.target.to_string()),
            ("FEDERATOR_OPERATION", self.operation.to_string()),
            ("FEDERATOR_EPOCH", self.next_epoch.to_string()),
        ]
        .into()
    }
}

/// How a fencer ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    /// Its exit code; `None` when a signal ended it.
    pub code: Option<i32>,
    /// What it wrote to its standard output and, after it, to its standard error.
    pub output: String,
    /// Its standard error alone.
    pub complaint: String,
}

/// A fencer that did not come to an end.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FencerError {
    /// It could not be started.
    #[error("the fencer {program} of {dc} could not be started: {why}")]
    NotStarted {
        /// Which.
        program: String,
        /// Whose.
        dc: DcName,
        /// Why.
        why: String,
    },
    /// Its deadline passed; it was killed.
    #[error(
        "the fencer {program} of {dc} took longer than {} s and was killed",
        limit.as_secs_f32()
    )]
    Late {
        /// Which.
        program: String,
        /// Whose.
        dc: DcName,
        /// How long it may take.
        limit: Duration,
    },
}

/// Runs the fencer to its end. It gets no input, and of our environment only `PATH`, `HOME`, `LANG`
/// and `TZ`: what else is there may be passwords.
///
/// # Errors
/// It could not be started, or its deadline passed.
pub async fn run(fencer: &Fencer, order: &Order) -> Result<Ended, FencerError> {
    let (program, dc) = (fencer.program().to_owned(), order.dc.clone());
    let mut command = Command::new(&program);
    command.args(fencer.command.iter().skip(1)).env_clear();
    command.envs(PASSED.iter().filter_map(|name| Some((name, std::env::var_os(name)?))));
    command.envs(order.variables());
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.process_group(0).kill_on_drop(true);
    let mut child = command.spawn().map_err(|error| FencerError::NotStarted {
        program: program.clone(),
        dc: dc.clone(),
        why: error.to_string(),
    })?;
    let group = Group(child.id());
    let out = tokio::spawn(read(child.stdout.take()));
    let err = tokio::spawn(read(child.stderr.take()));
    let status = ended(&mut child, fencer.timeout).await;
    drop(group);
    match status {
        Some(status) => {
            let (said, complaint) = (text(out).await, text(err).await);
            let joined = said.is_empty() || said.ends_with('\n') || complaint.is_empty();
            let between = if joined { "" } else { "\n" };
            let output = format!("{said}{between}{complaint}");
            Ok(Ended { code: status.code(), output, complaint })
        }
        None => Err(FencerError::Late { program, dc, limit: fencer.timeout }),
    }
}

async fn ended(child: &mut Child, limit: Duration) -> Option<ExitStatus> {
    tokio::time::timeout(limit, child.wait()).await.ok()?.ok()
}

/// Reads to the end, keeps the first part: a program that says much must not wait for us.
async fn read(from: Option<impl AsyncRead + Unpin>) -> String {
    let Some(mut from) = from else { return String::new() };
    let mut kept = Vec::new();
    // What was read before an error is kept.
    let _ = (&mut from).take(OUTPUT_MAX).read_to_end(&mut kept).await;
    let _ = tokio::io::copy(&mut from, &mut tokio::io::sink()).await;
    String::from_utf8_lossy(&kept).into_owned()
}

async fn text(task: tokio::task::JoinHandle<String>) -> String {
    let abort = task.abort_handle();
    let read = tokio::time::timeout(OUTPUT_LIMIT, task).await;
    abort.abort();
    read.ok().and_then(Result::ok).unwrap_or_default()
}

/// The fencer's process group, killed at the end: also when we are interrupted.
struct Group(Option<u32>);

impl Drop for Group {
    fn drop(&mut self) {
        let pid = self.0.and_then(|pid| i32::try_from(pid).ok());
        if let Some(pid) = pid.and_then(rustix::process::Pid::from_raw) {
            // It may have ended: then there is nobody to be killed.
            let _ = rustix::process::kill_process_group(pid, rustix::process::Signal::KILL);
        }
    }
}

#[cfg(test)]
#[path = "fencer_tests.rs"]
mod tests;
