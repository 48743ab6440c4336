//! External programs: each with a deadline, its stderr in the error, and no secret in its
//! arguments (every process of the host can read those).

use super::Error;
use rustix::process::{Pid, Signal, kill_process_group};
use std::collections::VecDeque;
use std::ffi::OsStr;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::process::Command;

/// Lines of stderr that an error shows.
const STDERR_LINES_MAX: usize = 12;
/// A longer line is cut.
const LINE_BYTES_MAX: usize = 16 * 1024;

/// A program that ends with its group when it is dropped, so that what it has forked goes too.
struct Group(Option<Pid>);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(leader) = self.0 {
            let _ = kill_process_group(leader, Signal::KILL);
        }
    }
}

/// A program with its arguments and environment.
pub(super) struct Tool {
    name: String,
    command: Command,
}

impl Tool {
    /// Messages in English, and none of the agent's or libpq's own variables.
    pub(super) fn new(program: &Path) -> Self {
        let name = program.file_name().unwrap_or(program.as_os_str());
        let mut command = Command::new(program);
        for (variable, _) in std::env::vars_os() {
            let ours =
                variable.to_str().is_some_and(|v| v.starts_with("PG") || v.starts_with("PATRONI_"));
            if ours {
                command.env_remove(variable);
            }
        }
        command.env("LC_ALL", "C").stdin(Stdio::null()).kill_on_drop(true).process_group(0);
        Self { name: name.to_string_lossy().into_owned(), command }
    }

    /// A command of the configuration: with the agent's environment, but for what is Patroni's,
    /// libpq's or systemd's.
    pub(super) fn configured(command: &[String]) -> Self {
        let program = command.first().map_or("", String::as_str);
        let name = Path::new(program).file_name().unwrap_or(program.as_ref());
        let name = name.to_string_lossy().into_owned();
        let mut command_line = Command::new(program);
        command_line.args(command.iter().skip(1));
        for (variable, _) in std::env::vars_os() {
            let withheld = variable.to_str().is_some_and(|v| {
                v.starts_with("PATRONI_")
                    || v.starts_with("KUBERNETES_")
                    || v == "NOTIFY_SOCKET"
                    || v == "PGPASSWORD"
            });
            if withheld {
                command_line.env_remove(variable);
            }
        }
        command_line.stdin(Stdio::null()).kill_on_drop(true).process_group(0);
        Self { name, command: command_line }
    }

    pub(super) fn current_dir(mut self, dir: &Path) -> Self {
        self.command.current_dir(dir);
        self
    }

    pub(super) fn arg(mut self, argument: impl AsRef<OsStr>) -> Self {
        self.command.arg(argument);
        self
    }

    pub(super) fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    /// Runs to the end and gives stdout.
    pub(super) async fn output(self, deadline: Duration) -> Result<String, Error> {
        let mut text = String::new();
        let mut keep = |line: &str| {
            text.push_str(line);
            text.push('\n');
        };
        self.run(deadline, &mut keep, &mut |_| {}).await?;
        Ok(text)
    }

    /// Runs to the end; each line goes to one of the two readers.
    pub(super) async fn run(
        self,
        deadline: Duration,
        out: &mut (dyn FnMut(&str) + Send),
        err: &mut (dyn FnMut(&str) + Send),
    ) -> Result<(), Error> {
        let name = self.name.clone();
        let (status, stderr) = self.run_leniently(deadline, out, err).await?;
        if status.success() {
            return Ok(());
        }
        Err(Error::Command { program: name, status: status.to_string(), stderr })
    }

    /// As `run`, and leaves the judgement of the exit status to the caller.
    pub(super) async fn run_leniently(
        mut self,
        deadline: Duration,
        out: &mut (dyn FnMut(&str) + Send),
        err: &mut (dyn FnMut(&str) + Send),
    ) -> Result<(ExitStatus, String), Error> {
        let name = self.name;
        let spawn_failed = |source| Error::Spawn { program: name.clone(), source };
        self.command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = self.command.spawn().map_err(spawn_failed)?;
        let pid = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        let mut group = Group(pid);
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let mut last: VecDeque<String> = VecDeque::new();
        let mut note = |line: &str| {
            err(line);
            if last.len() == STDERR_LINES_MAX {
                last.pop_front();
            }
            last.push_back(line.to_owned());
        };
        let whole = async {
            tokio::join!(read_lines(stdout, out), read_lines(stderr, &mut note));
            child.wait().await
        };
        let status = match tokio::time::timeout(deadline, whole).await {
            Ok(status) => status.map_err(spawn_failed)?,
            Err(_) => {
                let said = last.back().map(|l| format!(" (it said: {l})")).unwrap_or_default();
                return Err(Error::Deadline { what: format!("{name}{said}"), waited: deadline });
            }
        };
        group.0 = None;
        Ok((status, last.into_iter().collect::<Vec<_>>().join("; ")))
    }
}

async fn read_lines(pipe: Option<impl AsyncRead + Unpin>, line: &mut (dyn FnMut(&str) + Send)) {
    let Some(pipe) = pipe else { return };
    let mut reader = BufReader::new(pipe);
    let mut bytes = Vec::new();
    loop {
        bytes.clear();
        match reader.read_until(b'\n', &mut bytes).await {
            Ok(0) | Err(_) => return,
            Ok(_) => {
                bytes.truncate(LINE_BYTES_MAX);
                line(String::from_utf8_lossy(&bytes).trim_end());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    fn bash(script: &str) -> Tool {
        Tool::new(Path::new("bash")).arg("-c").arg(script)
    }

    #[tokio::test]
    async fn stdout_is_returned_and_stderr_is_in_the_error() {
        let wait = Duration::from_secs(10);
        assert_eq!(bash("echo a; echo b").output(wait).await.expect("output"), "a\nb\n");
        let failed = bash("echo why >&2; exit 3").output(wait).await.expect_err("passed");
        assert_eq!(failed.to_string(), "bash failed (exit status: 3): why");
        let absent = Tool::new(Path::new("/no/such/initdb")).output(wait).await;
        assert!(absent.expect_err("ran").to_string().starts_with("could not run initdb"));
    }

    #[tokio::test]
    async fn a_passed_deadline_ends_the_program_and_its_children() {
        let begun = Instant::now();
        // The grandchild holds the pipe: without ending it the reader would wait.
        let mut pid = String::new();
        let failed = bash("sleep 1000 & echo $!; echo half >&2; wait")
            .run(Duration::from_millis(300), &mut |l| pid = l.to_owned(), &mut |_| {})
            .await
            .expect_err("passed");
        assert!(begun.elapsed() < Duration::from_secs(10));
        assert!(failed.to_string().contains("half"), "{failed}");
        let stat = format!("/proc/{pid}/stat");
        while std::fs::read_to_string(&stat).is_ok_and(|s| !s.contains(") Z ")) {
            assert!(begun.elapsed() < Duration::from_secs(10), "{pid} lives");
            tokio::task::yield_now().await;
        }
    }
}
