//! The federator's command line, run against a rig.

use std::fs;
use std::path::Path;
use std::time::Duration;

use node_agent_wire::yaml;
use rustix::process::Signal;
use serde_json::Value;

use crate::command::{self, Finished};
use crate::rig::Rig;

/// How long one command may take; its own deadlines are shorter.
const LIMIT: Duration = Duration::from_secs(240);

/// Exit codes, as documented.
pub mod exit {
    /// Done, or nothing to do.
    pub const DONE: i32 = 0;
    /// Failed before anything was changed.
    pub const FAILED: i32 = 1;
    /// Wrong arguments or settings.
    pub const USAGE: i32 = 2;
    /// Refused by a check; nothing was changed.
    pub const REFUSED: i32 = 3;
    /// Turned back before the commit.
    pub const ABORTED: i32 = 4;
    /// Begun, not ended.
    pub const PARTLY: i32 = 5;
}

impl Rig {
    /// Changes the federator's settings file.
    ///
    /// # Panics
    /// When it can't be read or written.
    pub fn settings(&self, change: impl FnOnce(&mut Value)) {
        let file = self.lab.layout.federator_config();
        let text = fs::read_to_string(&file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
        let mut value = yaml::parse(&text).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
        change(&mut value);
        // JSON is YAML.
        let written = fs::write(&file, value.to_string());
        written.unwrap_or_else(|e| panic!("{}: {e}", file.display()));
    }

    /// Runs `federator -f FILE ARGUMENTS…` to its end.
    pub async fn federator(&self, arguments: &[&str]) -> Finished {
        let done = self.run_federator(arguments, &[]).await;
        self.say(&done.to_string());
        done
    }

    /// The same without a word about it: for looks that are repeated.
    pub async fn federator_quiet(&self, arguments: &[&str]) -> Finished {
        self.run_federator(arguments, &[]).await
    }

    /// Runs a command that is killed at a step's boundary: `<step>:before` or `<step>:after`.
    ///
    /// # Panics
    /// When it ends in another way: then it never came there.
    pub async fn federator_crashing(&self, arguments: &[&str], at: &str) {
        let done = self.run_federator(arguments, &[("FEDERATOR_CRASH_AT", at)]).await;
        self.say(&format!("to be killed at {at}\n{done}"));
        let kill = Signal::KILL.as_raw();
        assert_eq!(done.signal, Some(kill), "it was not killed at {at}:\n{done}");
    }

    /// Runs a command on a host, in a lab with network namespaces: it reaches what that host does.
    ///
    /// # Panics
    /// When there is no such host, or no namespaces.
    pub async fn federator_beside(&self, host: &str, arguments: &[&str]) -> Finished {
        let done = self.run_beside(host, arguments, &[]).await;
        self.say(&format!("beside {host} {done}"));
        done
    }

    /// The same, killed at a step's boundary.
    ///
    /// # Panics
    /// When it ends in another way: then it never came there.
    pub async fn federator_crashing_beside(&self, host: &str, arguments: &[&str], at: &str) {
        let done = self.run_beside(host, arguments, &[("FEDERATOR_CRASH_AT", at)]).await;
        self.say(&format!("beside {host}, to be killed at {at}\n{done}"));
        let kill = Signal::KILL.as_raw();
        assert_eq!(done.signal, Some(kill), "it was not killed at {at}:\n{done}");
    }

    async fn run_beside(
        &self,
        host: &str,
        arguments: &[&str],
        variables: &[(&str, &str)],
    ) -> Finished {
        let namespaces = self.lab.namespaces.as_ref().unwrap_or_else(|| panic!("no namespaces"));
        let namespace = namespaces.path_of_host(host).unwrap_or_else(|error| panic!("{error}"));
        let enter = format!("--net={}", namespace.display());
        let program = self.lab.software.program("federator").to_string_lossy().into_owned();
        let words = [&[enter.as_str(), &program][..], arguments].concat();
        self.with_settings(Path::new("nsenter"), &words, 2, variables).await
    }

    async fn run_federator(&self, arguments: &[&str], variables: &[(&str, &str)]) -> Finished {
        let program = self.lab.software.program("federator");
        self.with_settings(&program, arguments, 0, variables).await
    }

    /// Runs a program whose arguments from `at` on are those of the federator.
    async fn with_settings(
        &self,
        program: &Path,
        arguments: &[&str],
        at: usize,
        variables: &[(&str, &str)],
    ) -> Finished {
        let file = self.lab.layout.federator_config().to_string_lossy().into_owned();
        let (before, after) = arguments.split_at(at);
        let words = [before, &["-f", file.as_str()], after].concat();
        let variables: Vec<_> = variables.iter().copied().chain([("USER", "tester")]).collect();
        command::run(program, &words, &variables, LIMIT).await
    }

    /// Makes dc2 the standby of dc1, and waits until both are complete.
    pub async fn federate(&self) {
        let _ = self.federator(&["setup", "--yes"]).await.expect(exit::DONE);
        for dc in &self.lab.topology.datacenters {
            let leader = self.complete(dc.name.as_str());
            self.say(&format!("{} is led by {leader}", dc.name));
        }
        self.settled("dc1").await;
    }
}
