//! What an operator does on a host of a lab by hand, past its agent: commands as the user that
//! PostgreSQL runs as.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::time::Duration;

use lab::credentials::{REPLICATION_USER, REWIND_USER, SUPERUSER};
use lab::layout::{Host, POSTGRES_PORT};
use lab::processes::{self, MARK};
use lab::software::AGENT;
use node_agent_wire::DcName;
use rustix::process::Signal;

use crate::command::{self, Finished};
use crate::patience::until;
use crate::rig::{ROWS, Rig};
use crate::rows;

const COMMAND: Duration = Duration::from_secs(120);

/// Runs a shell script as the lab's user, who must be able to log in.
///
/// # Panics
/// When it does not end within two minutes.
pub async fn script(rig: &Rig, variables: &[(&str, &str)], script: &str) -> Finished {
    let variables = variables.iter().map(|(name, value)| format!("export {name}='{value}'; "));
    let line = format!("{}cd /; {script}", variables.collect::<String>());
    let done = if rustix::process::geteuid().is_root() {
        let words = ["-u", rig.lab.user.name.as_str(), "--", "/bin/sh", "-c", line.as_str()];
        command::run(Path::new("/usr/sbin/runuser"), &words, &[], COMMAND).await
    } else {
        command::run(Path::new("/bin/sh"), &["-c", line.as_str()], &[], COMMAND).await
    };
    rig.say(&done.to_string());
    done
}

/// Writes a file that nobody but the lab's user may read.
///
/// # Panics
/// When it can't be written.
pub fn write_private(rig: &Rig, path: &Path, text: &str) {
    let written = fs::write(path, text)
        .and_then(|()| fs::set_permissions(path, fs::Permissions::from_mode(0o600)))
        .and_then(|()| chown(path, Some(rig.lab.user.uid), Some(rig.lab.user.gid)));
    written.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
}

/// Freezes the walsender that serves a datacenter: what it has not sent by now stays on `primary`.
///
/// # Panics
/// When there is none.
pub async fn freeze_link(rig: &Rig, primary: &str, dc: &str) {
    let recorded = rig.records().await.into_values().next();
    let recorded = recorded.unwrap_or_else(|| panic!("there is no record"));
    let slot = &recorded.members[&DcName::new(dc)].slot;
    let sql =
        format!("SELECT active_pid::text FROM pg_replication_slots WHERE slot_name = '{slot}'");
    let node = rig.node(primary);
    let what = format!("a reader of slot {slot} on {primary}");
    let pid = until(&what, ROWS, async || rows::value(&rig.access, &node, &sql).await).await;
    rig.act(&format!("freeze the walsender of {slot}, process {pid} of {primary}"), |lab| {
        let found = lab.processes(lab.layout.host(primary)?).into_iter();
        let sender =
            found.filter(|p| p.runs("postgres")).find(|p| p.identity.pid.to_string() == pid);
        let sender = sender.unwrap_or_else(|| panic!("{primary} has no process {pid}"));
        assert!(processes::send(&sender, Signal::STOP)?, "the walsender is gone");
        Ok(())
    });
}

/// One host, worked on by hand. What is started there belongs to the host and ends with it.
pub struct Hand<'a> {
    rig: &'a Rig,
    /// The host.
    pub host: &'a Host,
    bin: PathBuf,
}

impl<'a> Hand<'a> {
    /// A host of the lab, by its name.
    ///
    /// # Panics
    /// When there is none, or no PostgreSQL.
    #[must_use]
    pub fn on(rig: &'a Rig, name: &str) -> Self {
        let host = rig.lab.layout.host(name).unwrap_or_else(|error| panic!("{error}"));
        let bin = lab::software::find_postgres(None, None);
        Self { rig, host, bin: bin.unwrap_or_else(|error| panic!("{error}")) }
    }

    /// Runs a script there.
    ///
    /// # Panics
    /// When it does not end within two minutes.
    pub async fn run(&self, text: &str) -> Finished {
        let dir = self.host.dir.to_string_lossy().into_owned();
        let path = format!("{}:/usr/bin:/bin", self.bin.display());
        let own = [(MARK, dir.as_str()), ("HOME", &dir), ("LC_ALL", "C.UTF-8"), ("PATH", &path)];
        script(self.rig, &own, text).await
    }

    /// Runs the agent until it ends by itself.
    ///
    /// # Panics
    /// When it does not.
    pub async fn agent(&self) -> Finished {
        let program = self.rig.lab.software.program(AGENT);
        let config = self.host.agent_config();
        self.run(&format!("exec {} {}", program.display(), config.display())).await
    }

    /// Empties the data directory.
    ///
    /// # Panics
    /// When that fails.
    pub async fn empty(&self) {
        let data = self.host.data_dir().display().to_string();
        let _ = self.run(&format!("find {data} -mindepth 1 -delete")).await.expect(0);
    }

    /// A new database system with the lab's users, in the empty data directory; it does not run.
    ///
    /// # Panics
    /// When that fails.
    pub async fn initdb(&self) {
        let data = self.host.data_dir();
        let secrets = &self.rig.lab.credentials;
        let user = |name: &str, rights: &str, password: &str| {
            format!("CREATE ROLE {name} LOGIN {rights} PASSWORD '{password}';\n")
        };
        let roles = [
            user(REPLICATION_USER, "REPLICATION", secrets.replication.reveal()),
            // Where no agent has made it, nobody has granted it the functions that it needs.
            user(REWIND_USER, "SUPERUSER", secrets.rewind.reveal()),
            format!("ALTER ROLE {SUPERUSER} PASSWORD '{}';\n", secrets.superuser.reveal()),
        ];
        let file = self.host.dir.join("by-hand.sql");
        write_private(self.rig, &file, &roles.concat());
        let text = format!(
            "initdb -D {data} -U {SUPERUSER} -A trust -E UTF8 >/dev/null && \
             echo 'host all all 127.0.0.0/8 scram-sha-256' >{data}/pg_hba.conf && \
             echo 'host replication all 127.0.0.0/8 trust' >>{data}/pg_hba.conf && \
             postgres --single -D {data} postgres <{file} >/dev/null; rm {file}",
            data = data.display(),
            file = file.display()
        );
        let _ = self.run(&text).await.expect(0);
    }

    /// Starts PostgreSQL with pg_ctl, where the agent would have it listen.
    ///
    /// # Panics
    /// When it does not start.
    pub async fn start(&self) {
        let address = self.host.address;
        let socket = self.host.socket_dir();
        let text = format!(
            "mkdir -p {socket} && pg_ctl start -w -D {data} -l {dir}/by-hand.log \
             -o '-p {POSTGRES_PORT} -h {address} -k {socket}'",
            data = self.host.data_dir().display(),
            dir = self.host.dir.display(),
            socket = socket.display()
        );
        let _ = self.run(&text).await.expect(0);
    }

    /// The number of the server that runs there, by its pid file.
    ///
    /// # Panics
    /// When none does.
    #[must_use]
    pub fn postmaster(&self) -> i32 {
        let process = self.rig.lab.process(self.host, lab::Part::Postmaster);
        process.unwrap_or_else(|| panic!("no server on {}", self.host.name)).identity.pid
    }

    /// The system identifier in the control file.
    ///
    /// # Panics
    /// When there is none.
    pub async fn system_identifier(&self) -> String {
        let data = self.host.data_dir().display().to_string();
        let said = self.run(&format!("pg_controldata {data}")).await.expect(0).stdout;
        let line = said.lines().find_map(|l| l.strip_prefix("Database system identifier:"));
        line.unwrap_or_else(|| panic!("{said}")).trim().to_owned()
    }
}
