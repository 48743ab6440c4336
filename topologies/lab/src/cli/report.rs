//! What `lab` prints about a lab.

use std::fmt::{Display, Write as _};
use std::io::Write as _;

use crate::credentials::{SUPERUSER, superuser_file};
use crate::lab::Lab;
use crate::layout::{Host, POSTGRES_PORT};
use crate::software::FEDERATOR;
use crate::wan::Wan;

/// Prints a line. A reader who has gone (`lab up | head -1`) is no reason to stop half-way.
pub(crate) fn say(line: impl Display) {
    let _ = writeln!(std::io::stdout(), "{line}");
}

/// What runs on every host, and what the agents say about their cluster.
pub(crate) fn status(lab: &Lab) -> String {
    let mut out = String::new();
    let dir = lab.layout.dir.display();
    let _ = writeln!(out, "lab {} in {dir}, network {}", lab.topology.name, lab.layout.network);
    if lab.layout.wan {
        let network = Wan::of(&lab.layout).state().map(|state| super::wan::table(&state));
        let network = network.unwrap_or_else(|error| format!("{error}\n"));
        let _ = writeln!(out, "WAN:\n  {}", network.trim_end().replace('\n', "\n  "));
    }
    for dc in &lab.topology.datacenters {
        let view = lab.cluster(&dc.name);
        let _ = writeln!(out, "{}:", dc.name);
        for host in lab.layout.hosts_of(&dc.name) {
            let parts: Vec<String> = lab
                .running_parts(host)
                .into_iter()
                .map(|(part, pid)| format!("{part} {pid}"))
                .collect();
            let parts = if parts.is_empty() { "down".to_owned() } else { parts.join(", ") };
            let member = view.as_ref().ok().and_then(|view| {
                let member = view.members.iter().find(|member| member.name == host.name)?;
                Some(format!("{}, {}", member.role.replace('_', " "), member.state))
            });
            let member = member.unwrap_or_else(|| "-".to_owned());
            let _ = writeln!(out, "  {:14} {:14} {member:28} {parts}", host.name, host.address);
        }
        if let Err(seen) = view {
            let _ = writeln!(out, "  no agent answers: {seen}");
        }
    }
    out
}

/// How to connect and how to stop.
pub(crate) fn connection_help(lab: &Lab) -> String {
    let nodes: Vec<&Host> = lab.layout.nodes().collect();
    let addresses: Vec<String> = nodes.iter().map(|host| host.address.to_string()).collect();
    let dir = lab.layout.dir.display();
    let password = superuser_file(&lab.layout.dir);
    // The clients of a lab with a WAN are in a network namespace.
    let enter = match Wan::of(&lab.layout).state() {
        Ok(state) if lab.layout.wan => format!("nsenter --net={} ", state.hub.display()),
        Ok(_) | Err(_) => String::new(),
    };
    let mut out = String::new();
    let _ = writeln!(
        out,
        "connect:  PGPASSWORD=\"$(cat {})\" {enter}psql \"host={} port={POSTGRES_PORT} \
         user={SUPERUSER} dbname=postgres target_session_attrs=read-write\"",
        password.display(),
        addresses.join(",")
    );
    if lab.topology.is_federation() {
        let config = lab.layout.federator_config();
        let program = lab.software.program(FEDERATOR);
        let _ =
            writeln!(out, "federate: {enter}{} -f {} status", program.display(), config.display());
    }
    // The program itself is rarely on the search path.
    let lab_program = std::env::current_exe().unwrap_or_else(|_| "lab".into());
    let lab_program = lab_program.display();
    let _ = writeln!(out, "look:     {lab_program} status --dir {dir}");
    let _ = writeln!(out, "stop:     {lab_program} down --dir {dir}");
    out
}
