//! Starts a host's program so that it outlives us: own session, no terminal, output to a file.

use std::ffi::OsString;
use std::fs;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use crate::layout::{ETCD_CLIENT_PORT, ETCD_PEER_PORT, Host, HostKind, Layout};
use crate::processes::MARK;
use crate::software::{AGENT, LAB, RunUser, Software, open_for};
use crate::wait::{self, Interrupt, Look};

/// Variables that reach the started programs; everything else of our environment does not.
const KEPT: [&str; 4] = ["PATH", "RUST_LOG", "RUST_BACKTRACE", "TZ"];
/// Variables with these prefixes reach them too: switches of our own programs.
const KEPT_PREFIXES: [&str; 2] = ["NODE_AGENT_", "FEDERATOR_"];
/// How long a helper (setsid, ipcrm) may take.
const HELPER_LIMIT: Duration = Duration::from_secs(5);
/// How much of a log's end an error shows.
const TAIL_LINES: usize = 8;
const TAIL_BYTES: u64 = 8 * 1024;

/// A program that could not be started.
#[derive(Debug, thiserror::Error)]
#[error("cannot start {program} on {host}: {source}")]
pub struct LaunchError {
    program: PathBuf,
    host: String,
    source: io::Error,
}

/// Program and arguments of a host; `etcd_members` are the etcd hosts of its datacenter.
fn command_line(software: &Software, host: &Host, etcd_members: &[&Host]) -> Vec<OsString> {
    match host.kind {
        HostKind::Node { .. } => {
            let chosen = software.agents.get(&host.name).or(software.agent.as_ref());
            let agent = chosen.cloned().unwrap_or_else(|| software.program(AGENT));
            vec![agent.into(), host.agent_config().into()]
        }
        HostKind::Etcd => {
            let url = |host: &Host, port| format!("http://{}", host.at(port));
            let (client, peer) = (url(host, ETCD_CLIENT_PORT), url(host, ETCD_PEER_PORT));
            let members = etcd_members.iter();
            let cluster: Vec<String> = members
                .map(|member| format!("{}={}", member.name, url(member, ETCD_PEER_PORT)))
                .collect();
            let options = [
                format!("--name={}", host.name),
                format!("--listen-client-urls={client}"),
                format!("--advertise-client-urls={client}"),
                format!("--listen-peer-urls={peer}"),
                format!("--initial-advertise-peer-urls={peer}"),
                format!("--initial-cluster={}", cluster.join(",")),
                format!("--initial-cluster-token=lab-{}", host.dc),
                "--initial-cluster-state=new".to_owned(),
                "--logger=zap".to_owned(),
            ];
            let mut line: Vec<OsString> = vec![software.etcd.clone().into(), "--data-dir".into()];
            line.push(host.data_dir().into());
            line.extend(options.map(OsString::from));
            line
        }
    }
}

/// Starts the program of a host, detached. That it works is for the caller to find out.
///
/// # Errors
/// When the log cannot be opened or the system refuses a process.
pub fn start(
    software: &Software,
    user: &RunUser,
    host: &Host,
    etcd_members: &[&Host],
) -> Result<(), LaunchError> {
    let line = command_line(software, host, etcd_members);
    let fail = |source| LaunchError {
        program: line.first().map(PathBuf::from).unwrap_or_default(),
        host: host.name.clone(),
        source,
    };
    let log = open_log(&host.log(), user).map_err(fail)?;
    let mut command = detached(software, &line, &host.dir, log).map_err(fail)?;
    if rustix::process::geteuid().is_root() {
        // The standard library also drops the supplementary groups when root does this.
        command.uid(user.uid).gid(user.gid);
    }
    run(command).map_err(fail)
}

/// Starts the router of a WAN in the namespace of this thread, as this user: it needs TUN devices.
///
/// # Errors
/// When the log cannot be opened or the system refuses a process.
pub(crate) fn start_router(
    software: &Software,
    layout: &Layout,
    settings: &Path,
) -> Result<(), LaunchError> {
    let program = software.program(LAB);
    let fail =
        |source| LaunchError { program: program.clone(), host: "the WAN".to_owned(), source };
    let log = open_log(&layout.router_log(), &RunUser::current()).map_err(fail)?;
    let line: [OsString; 3] = [program.clone().into(), "wan-router".into(), settings.into()];
    run(detached(software, &line, &layout.router_dir(), log).map_err(fail)?).map_err(fail)
}

/// A program in a directory that it carries in its environment, with all that it says in a log.
fn detached(
    software: &Software,
    line: &[OsString],
    dir: &Path,
    log: fs::File,
) -> io::Result<Command> {
    let mut command = Command::new(&software.setsid);
    // setsid forks and returns at once, so the program is nobody's child and leaves no zombie with
    // us.
    command.arg("--fork").args(line).current_dir(dir);
    command.env_clear().envs(environment(dir));
    command.stdin(Stdio::null());
    command.stdout(log.try_clone()?).stderr(log);
    Ok(command)
}

fn run(mut setsid: Command) -> io::Result<()> {
    let status = wait_for(&mut setsid.spawn()?)?;
    if status.success() { Ok(()) } else { Err(io::Error::other(format!("setsid: {status}"))) }
}

/// Waits for a helper that has next to nothing to do, and kills it when it does not end.
pub(crate) fn wait_for(helper: &mut Child) -> io::Result<ExitStatus> {
    let ended = wait::until("the end of a helper", HELPER_LIMIT, &Interrupt::default(), || {
        match helper.try_wait() {
            Ok(Some(status)) => Look::Done(Ok(status)),
            Ok(None) => Look::NotYet("it runs".to_owned()),
            Err(error) => Look::Done(Err(error)),
        }
    });
    ended.unwrap_or_else(|late| {
        helper.kill()?;
        helper.wait()?;
        Err(io::Error::other(late))
    })
}

fn environment(dir: &Path) -> Vec<(OsString, OsString)> {
    let kept = std::env::vars_os().filter(|(name, _)| {
        let Some(name) = name.to_str() else { return false };
        KEPT.contains(&name) || KEPT_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
    });
    let own = [
        (MARK, dir.as_os_str().to_owned()),
        ("HOME", dir.as_os_str().to_owned()),
        // The locale of initdb, and English messages in the logs.
        ("LC_ALL", "C.UTF-8".into()),
        // A lab runs for days at times; without this etcd keeps every revision.
        ("ETCD_AUTO_COMPACTION_RETENTION", "1".into()),
    ];
    kept.chain(own.map(|(name, value)| (name.into(), value))).collect()
}

fn open_log(path: &Path, user: &RunUser) -> io::Result<fs::File> {
    open_for(user, path, fs::OpenOptions::new().append(true).create(true))
}

/// The last lines of a log, for an error message; empty when there is none.
#[must_use]
pub fn log_tail(path: &Path) -> String {
    let read = || -> io::Result<Vec<u8>> {
        let mut file = fs::File::open(path)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES)))?;
        let mut bytes = Vec::new();
        file.take(TAIL_BYTES).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let bytes = read().unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::topology::Topology;

    fn software() -> Software {
        Software {
            postgres_bin_dir: "/pg".into(),
            etcd: "/usr/bin/etcd".into(),
            setsid: "/usr/bin/setsid".into(),
            bin_dir: "/bin-dir".into(),
            agent: None,
            agents: BTreeMap::new(),
        }
    }

    #[test]
    fn command_lines_name_the_members_and_no_secret() {
        let text = "name: a\ndatacenters: {dc1: {etcd: 3, nodes: [pg1]}}";
        let topology = Topology::parse(text).unwrap();
        let layout = Layout::plan(&topology, topology.network, Path::new("/tmp/a")).unwrap();
        let members: Vec<&Host> = layout.hosts.iter().filter(|host| !host.is_node()).collect();
        let line = command_line(&software(), members[1], &members);
        let line: Vec<&str> = line.iter().map(|word| word.to_str().unwrap()).collect();
        assert_eq!(&line[..3], ["/usr/bin/etcd", "--data-dir", "/tmp/a/dc1-etcd2/etcd"]);
        assert!(line.contains(
            &"--initial-cluster=dc1-etcd1=http://127.20.1.1:2380,dc1-etcd2=http://127.20.1.2:2380,\
              dc1-etcd3=http://127.20.1.3:2380"
        ));
        assert!(line.contains(&"--listen-client-urls=http://127.20.1.2:2379"));
        let node = layout.host("dc1-pg1").unwrap();
        let line = command_line(&software(), node, &members);
        assert_eq!(line, ["/bin-dir/node-agent", "/tmp/a/dc1-pg1/agent.yml"]);
        let other = [("dc1-pg1".to_owned(), PathBuf::from("/venv/bin/patroni"))].into();
        let line = command_line(&Software { agents: other, ..software() }, node, &members);
        assert_eq!(line[0], "/venv/bin/patroni");
    }

    #[test]
    fn a_log_shows_its_last_lines() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        assert_eq!(log_tail(&log), "");
        let text: Vec<String> = (1..=20).map(|n| format!("line {n}")).collect();
        fs::write(&log, text.join("\n")).unwrap();
        assert!(log_tail(&log).starts_with("line 13\n") && log_tail(&log).ends_with("line 20"));
    }
}
