//! A program run to its end: arguments, deadline, exit code and everything that it said.

use std::ffi::OsStr;
use std::fmt;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use tokio::process::Command;

/// How a program ended.
#[derive(Debug, Clone)]
pub struct Finished {
    /// Program and arguments.
    pub line: String,
    /// Exit code; `None` when a signal ended it.
    pub code: Option<i32>,
    /// The signal that ended it, if one did.
    pub signal: Option<i32>,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
    /// How long it took.
    pub took: Duration,
}

impl Finished {
    /// Itself, when it ended with `code`.
    ///
    /// # Panics
    /// When it did not, with everything that it said.
    #[must_use]
    pub fn expect(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "{self}");
        self
    }

    /// Everything that it said, standard output first.
    #[must_use]
    pub fn said(&self) -> String {
        format!("{}{}", self.stdout, self.stderr)
    }
}

impl fmt::Display for Finished {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ended = match (self.code, self.signal) {
            (Some(code), _) => format!("exit code {code}"),
            (None, Some(signal)) => format!("ended by signal {signal}"),
            (None, None) => "ended without a code".to_owned(),
        };
        writeln!(f, "$ {}   [{ended}, {} ms]", self.line, self.took.as_millis())?;
        f.write_str(&self.stdout)?;
        for line in self.stderr.lines() {
            writeln!(f, "stderr: {line}")?;
        }
        Ok(())
    }
}

/// Runs a program with nothing to read; it is killed when the test gives up on it.
///
/// # Panics
/// When it cannot be started, or does not end within `limit`.
pub async fn run(
    program: &Path,
    arguments: &[impl AsRef<OsStr>],
    environment: &[(&str, &str)],
    limit: Duration,
) -> Finished {
    let name = program.file_name().unwrap_or(program.as_os_str()).to_string_lossy().into_owned();
    let words = arguments.iter().map(|word| word.as_ref().to_string_lossy().into_owned());
    let line = std::iter::once(name).chain(words).collect::<Vec<_>>().join(" ");
    let mut command = Command::new(program);
    command.args(arguments).envs(environment.iter().copied()).kill_on_drop(true);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let began = Instant::now();
    let child = command.spawn().unwrap_or_else(|error| panic!("cannot start {line}: {error}"));
    let output = match tokio::time::timeout(limit, child.wait_with_output()).await {
        Ok(Ok(output)) => output,
        Ok(Err(error)) => panic!("cannot read what {line} says: {error}"),
        Err(_) => panic!("{line} did not end within {} s", limit.as_secs()),
    };
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Finished {
        line,
        code: output.status.code(),
        signal: output.status.signal(),
        stdout: text(output.stdout),
        stderr: text(output.stderr),
        took: began.elapsed(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> [&str; 2] {
        ["-c", script]
    }

    #[tokio::test]
    async fn exit_code_and_words_are_kept() {
        let limit = Duration::from_secs(10);
        let script = shell("echo out; echo err $WORD >&2; exit 3");
        let done = run(Path::new("/bin/sh"), &script, &[("WORD", "x")], limit).await.expect(3);
        assert_eq!((done.stdout.as_str(), done.stderr.as_str()), ("out\n", "err x\n"));
        let killed = run(Path::new("/bin/sh"), &shell("kill -9 $$"), &[], limit).await;
        assert_eq!((killed.code, killed.signal), (None, Some(9)));
    }

    #[tokio::test]
    #[should_panic(expected = "sh -c sleep 60 did not end within 0 s")]
    async fn a_program_that_hangs_does_not_hold_the_test() {
        run(Path::new("/bin/sh"), &shell("sleep 60"), &[], Duration::from_millis(50)).await;
    }
}
