//! What happens to a lab over time: start, wait until it is ready, power cuts, return, stop.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use node_agent_wire::DcName;
use rustix::process::Signal;

use crate::cluster::Cluster;
use crate::http;
use crate::lab::{Lab, LabError, Part, find_part};
use crate::launch;
use crate::layout::{ETCD_CLIENT_PORT, Host, REST_PORT};
use crate::namespaces::Namespaces;
use crate::processes;
use crate::topology::WITNESS;
use crate::wait::{self, Interrupt, Look};
use crate::wan::shape::Shape;
use crate::wan::{self, Wan, WanError};

/// How long etcd may take to become healthy.
const ETCD_LIMIT: Duration = Duration::from_secs(30);
/// How long a datacenter may take from nothing to a leader with all replicas streaming.
const READY_LIMIT: Duration = Duration::from_secs(120);
/// How long agents may take to stop PostgreSQL and themselves.
const STOP_LIMIT: Duration = Duration::from_secs(20);
/// How long killed processes may take to vanish.
const KILL_LIMIT: Duration = Duration::from_secs(10);
/// How long the router of a WAN may take to answer.
const ROUTER_LIMIT: Duration = Duration::from_secs(10);
/// How long an etcd member or an agent may take to answer one question.
const ANSWER_LIMIT: Duration = Duration::from_secs(1);

/// Where progress lines go.
pub type Progress<'a> = &'a dyn Fn(&str);

/// A progress that says nothing.
pub fn silent(_: &str) {}

impl Lab {
    /// Starts every host, etcd first, after the router of its WAN. Only these are waited for.
    ///
    /// # Errors
    /// When a program cannot be started or etcd does not become healthy in time.
    pub fn start(&self, progress: Progress<'_>, interrupt: &Interrupt) -> Result<(), LabError> {
        if let Some(section) = &self.topology.wan {
            self.start_router((section.shape(), section.seed), interrupt)?;
            progress(&format!("WAN: {}", section.shape()));
        }
        let mut places: Vec<DcName> =
            self.topology.datacenters.iter().map(|dc| dc.name.clone()).collect();
        places.extend(self.topology.witness.iter().map(|_| DcName::new(WITNESS)));
        for place in &places {
            self.start_etcd(place)?;
        }
        for place in &places {
            self.wait_for_etcd(place, interrupt)?;
            progress(&format!("{place}: etcd is healthy"));
        }
        for dc in &self.topology.datacenters {
            self.start_agents(&dc.name)?;
            progress(&format!("{}: {} agents started", dc.name, dc.nodes.len()));
        }
        Ok(())
    }

    fn start_router(
        &self,
        shape_and_seed: (Shape, u64),
        interrupt: &Interrupt,
    ) -> Result<(), LabError> {
        let namespaces = self.namespaces.as_ref().ok_or(WanError::NoNamespaces)?;
        let settings = wan::control::write_settings(&self.layout, namespaces, shape_and_seed)?;
        launch::start_router(&self.software, &self.layout, &settings)?;
        let wan = Wan::of(&self.layout);
        let answers = wait::until("an answer of the WAN router", ROUTER_LIMIT, interrupt, || {
            match wan.state() {
                Ok(_) => Look::Done(()),
                Err(error) => Look::NotYet(error.to_string()),
            }
        });
        answers.map_err(|error| LabError::Wait {
            error,
            log: launch::log_tail(&self.layout.router_log()),
        })
    }

    /// The WAN between its datacenters.
    ///
    /// # Errors
    /// When the topology has none.
    pub fn wan(&self) -> Result<Wan, WanError> {
        if self.layout.wan { Ok(Wan::of(&self.layout)) } else { Err(WanError::None) }
    }

    /// Moves this thread, and all that it starts from now on, to where the clients of the lab are:
    /// with a WAN that is the hub of its namespaces.
    ///
    /// # Errors
    /// When the router of the WAN does not answer, or this user may not do that.
    pub fn join(mut self) -> Result<Self, LabError> {
        if !self.layout.wan || self.namespaces.is_some() {
            return Ok(self);
        }
        let state = Wan::of(&self.layout).state()?;
        let namespaces = Namespaces::reopen(&self.layout, &state.hub, &state.hosts)?;
        self.namespaces = Some(Arc::new(namespaces));
        Ok(self)
    }

    /// Waits until the first datacenter has a leader and every replica streams, and the agents of
    /// the others answer; those have no leader before `federator setup`.
    ///
    /// # Errors
    /// When this takes longer than two minutes, or an agent ends.
    pub fn wait_ready(
        &self,
        progress: Progress<'_>,
        interrupt: &Interrupt,
    ) -> Result<(), LabError> {
        for (index, dc) in self.topology.datacenters.iter().enumerate() {
            if index == 0 {
                let leader = self.wait_complete(&dc.name, READY_LIMIT, interrupt)?;
                progress(&format!("{}: {leader} leads, every replica streams", dc.name));
            } else {
                self.wait_for_agents(&dc.name, interrupt)?;
                let note = "agents wait for federator setup";
                progress(&format!("{}: {note}", dc.name));
            }
        }
        Ok(())
    }

    /// Waits until a datacenter has a leader, all its nodes are in service and, in synchronous
    /// mode, one of them may take over from a primary; returns the leader's name.
    ///
    /// # Errors
    /// When `limit` passes, or an agent ends.
    pub fn wait_complete(
        &self,
        dc: &DcName,
        limit: Duration,
        interrupt: &Interrupt,
    ) -> Result<String, LabError> {
        let nodes: Vec<&Host> = self.layout.hosts_of(dc).filter(|host| host.is_node()).collect();
        let names: Vec<&str> = nodes.iter().map(|host| host.name.as_str()).collect();
        let what = format!("a leader of {dc} with every replica streaming");
        let settings = self.topology.datacenters.iter().find(|d| d.name == *dc);
        let settings = settings.map(|d| self.topology.settings_of(d));
        let synchronous = settings.is_some_and(|s| s.synchronous_mode == Some(true));
        let result = wait::until(&what, limit, interrupt, || {
            if let Some(ended) = self.ended_agent(&nodes) {
                return Look::Never(format!("the agent of {ended} ended"));
            }
            let view = match self.cluster(dc) {
                Ok(view) => view,
                Err(seen) => return Look::NotYet(seen),
            };
            match (view.check_complete(&names, synchronous), view.leader()) {
                (Ok(()), Some(leader)) => Look::Done(leader.name.clone()),
                (Ok(()), None) => Look::NotYet("no leader yet".to_owned()),
                (Err(missing), _) => Look::NotYet(missing),
            }
        });
        result.map_err(|error| self.with_logs(error, &nodes))
    }

    /// What the first agent of a datacenter that answers says about its cluster.
    ///
    /// # Errors
    /// What the last agent said, when none gave a view.
    pub fn cluster(&self, dc: &DcName) -> Result<Cluster, String> {
        let mut last = format!("{dc} has no node");
        for host in self.layout.hosts_of(dc).filter(|host| host.is_node()) {
            match Cluster::ask(host.at(REST_PORT)) {
                Ok(view) => return Ok(view),
                Err(seen) => last = seen,
            }
        }
        Err(last)
    }

    /// Brings one host back with its old data.
    ///
    /// # Errors
    /// When there is no such host, or it runs.
    pub fn start_host(&self, name: &str, interrupt: &Interrupt) -> Result<(), LabError> {
        let host = self.layout.host(name)?;
        let left = self.processes(host);
        if !left.is_empty() {
            let pids: Vec<i32> = left.iter().map(|process| process.identity.pid).collect();
            return Err(LabError::Running {
                what: format!("{name} (processes {pids:?})"),
                hint: format!("cut its power with lab kill {name}, then start it"),
            });
        }
        self.launch(host)?;
        if host.is_node() { Ok(()) } else { self.wait_for_member(host, interrupt) }
    }

    /// Starts the agent of one host, whatever else runs there.
    ///
    /// # Errors
    /// When there is no such host, or its agent does not start.
    pub fn start_agent(&self, name: &str) -> Result<(), LabError> {
        self.launch_missing(std::iter::once(self.layout.host(name)?))
    }

    /// Brings a datacenter back with its old data, etcd first.
    ///
    /// # Errors
    /// When there is no such datacenter, it cannot be started, or etcd does not become healthy.
    pub fn start_dc(&self, name: &str, interrupt: &Interrupt) -> Result<(), LabError> {
        let dc = self.layout.datacenter(name)?;
        self.start_etcd(&dc)?;
        self.wait_for_etcd(&dc, interrupt)?;
        self.start_agents(&dc)
    }

    /// Cuts the power of one host; returns how many processes ended.
    ///
    /// # Errors
    /// When there is no such host, or something survives.
    pub fn kill_host(&self, name: &str) -> Result<usize, LabError> {
        let host = self.layout.host(name)?;
        Ok(processes::cut_power(std::slice::from_ref(&host.dir), KILL_LIMIT)?)
    }

    /// Freezes a host: everything on it stops where it is.
    ///
    /// # Errors
    /// When there is no such host, or a signal is refused.
    pub fn freeze_host(&self, name: &str) -> Result<(), LabError> {
        let host = self.layout.host(name)?;
        Ok(processes::freeze(std::slice::from_ref(&host.dir))?)
    }

    /// Lets a frozen host go on.
    ///
    /// # Errors
    /// When there is no such host, or a signal is refused.
    pub fn thaw_host(&self, name: &str) -> Result<(), LabError> {
        let host = self.layout.host(name)?;
        Ok(processes::thaw(std::slice::from_ref(&host.dir))?)
    }

    /// Cuts the power of a whole datacenter at once; returns how many processes ended.
    ///
    /// # Errors
    /// When there is no such datacenter, or something survives.
    pub fn kill_dc(&self, name: &str) -> Result<usize, LabError> {
        let dc = self.layout.datacenter(name)?;
        let dirs: Vec<PathBuf> = self.layout.hosts_of(&dc).map(|host| host.dir.clone()).collect();
        Ok(processes::cut_power(&dirs, KILL_LIMIT)?)
    }

    /// Ends everything: agents are asked first, then the power is cut. The directory is removed
    /// unless its data shall be kept. Does no harm when nothing runs.
    ///
    /// # Errors
    /// When something survives, or the directory cannot be removed.
    pub fn down(&self, keep_data: bool, progress: Progress<'_>) -> Result<(), LabError> {
        let left = self.stop_agents()?;
        if !left.is_empty() {
            let seconds = STOP_LIMIT.as_secs();
            progress(&format!("killing what did not stop in {seconds} s: {}", left.join(", ")));
        }
        self.end(keep_data)
    }

    /// Ends everything by a power cut. The directory is removed unless its data shall be kept.
    ///
    /// # Errors
    /// When something survives, or the directory cannot be removed.
    pub fn end(&self, keep_data: bool) -> Result<(), LabError> {
        processes::cut_power(&self.layout.process_dirs(), KILL_LIMIT)?;
        if keep_data { Ok(()) } else { self.remove() }
    }

    /// Asks all agents at once; returns the nodes that still run something at the deadline.
    fn stop_agents(&self) -> Result<Vec<String>, LabError> {
        for host in self.layout.nodes() {
            if let Some(agent) = self.process(host, Part::Agent) {
                processes::send(&agent, Signal::TERM)?;
                // An agent that was frozen by a test would not see the request.
                processes::send(&agent, Signal::CONT)?;
            }
        }
        let mut left = Vec::new();
        let gone = wait::until("the end of the agents", STOP_LIMIT, &Interrupt::default(), || {
            let running = |host: &&Host| self.process(host, Part::Agent).is_some();
            left = self.layout.nodes().filter(running).map(|host| host.name.clone()).collect();
            if left.is_empty() { Look::Done(()) } else { Look::NotYet(left.join(", ")) }
        });
        Ok(if gone.is_ok() { Vec::new() } else { left })
    }

    fn start_etcd(&self, dc: &DcName) -> Result<(), LabError> {
        self.launch_missing(self.layout.hosts_of(dc).filter(|host| !host.is_node()))
    }

    fn start_agents(&self, dc: &DcName) -> Result<(), LabError> {
        self.launch_missing(self.layout.hosts_of(dc).filter(|host| host.is_node()))
    }

    fn launch_missing<'a>(&self, hosts: impl Iterator<Item = &'a Host>) -> Result<(), LabError> {
        for host in hosts {
            if self.process(host, main_part(host)).is_none() {
                self.launch(host)?;
            }
        }
        Ok(())
    }

    fn launch(&self, host: &Host) -> Result<(), LabError> {
        let hosts = self.layout.hosts_of(&host.dc);
        let members: Vec<&Host> = hosts.filter(|host| !host.is_node()).collect();
        let start = || launch::start(&self.software, &self.user, host, &members);
        match &self.namespaces {
            Some(namespaces) => namespaces.at(&host.name, start)??,
            None => start()?,
        }
        // Its start is asynchronous: a later command must not take it for absent.
        let what = format!("the start of {} on {}", main_part(host).name(), host.name);
        let started = wait::until(&what, ANSWER_LIMIT * 5, &Interrupt::default(), || {
            match self.process(host, main_part(host)) {
                Some(_) => Look::Done(()),
                None => Look::NotYet("no such process; see its log".to_owned()),
            }
        });
        started.map_err(|error| self.with_logs(error, &[host]))
    }

    fn wait_for_etcd(&self, dc: &DcName, interrupt: &Interrupt) -> Result<(), LabError> {
        for host in self.layout.hosts_of(dc).filter(|host| !host.is_node()) {
            self.wait_for_member(host, interrupt)?;
        }
        Ok(())
    }

    fn wait_for_member(&self, host: &Host, interrupt: &Interrupt) -> Result<(), LabError> {
        let what = format!("health of etcd on {}", host.name);
        let healthy = wait::until(&what, ETCD_LIMIT, interrupt, || {
            if self.process(host, Part::Etcd).is_none() {
                return Look::Never("etcd ended".to_owned());
            }
            match http::get(host.at(ETCD_CLIENT_PORT), "/health", ANSWER_LIMIT) {
                Ok(answer) if answer.status == 200 => Look::Done(()),
                Ok(answer) => Look::NotYet(format!("status {}: {}", answer.status, answer.body)),
                Err(error) => Look::NotYet(error.to_string()),
            }
        });
        healthy.map_err(|error| self.with_logs(error, &[host]))
    }

    /// Waits until every agent of a datacenter answers, whatever it says.
    ///
    /// # Errors
    /// When this takes longer than two minutes, or an agent ends.
    pub fn wait_for_agents(&self, dc: &DcName, interrupt: &Interrupt) -> Result<(), LabError> {
        for host in self.layout.hosts_of(dc).filter(|host| host.is_node()) {
            let what = format!("an answer of the agent of {}", host.name);
            let answered = wait::until(&what, READY_LIMIT, interrupt, || {
                if self.process(host, Part::Agent).is_none() {
                    return Look::Never("the agent ended".to_owned());
                }
                // Any status will do: an agent without PostgreSQL says 503.
                match http::get(host.at(REST_PORT), "/patroni", ANSWER_LIMIT) {
                    Ok(_) => Look::Done(()),
                    Err(error) => Look::NotYet(error.to_string()),
                }
            });
            answered.map_err(|error| self.with_logs(error, &[host]))?;
        }
        Ok(())
    }

    fn ended_agent(&self, nodes: &[&Host]) -> Option<String> {
        let ended = nodes.iter().find(|host| self.process(host, Part::Agent).is_none());
        ended.map(|host| host.name.clone())
    }

    /// Adds the end of the hosts' logs to a failed wait.
    fn with_logs(&self, error: wait::WaitError, hosts: &[&Host]) -> LabError {
        let tails = hosts.iter().map(|host| {
            let log = host.log();
            format!("end of {}:\n{}", log.display(), launch::log_tail(&log))
        });
        LabError::Wait { error, log: tails.collect::<Vec<_>>().join("\n") }
    }

    /// What runs on a host, for `lab status`.
    #[must_use]
    pub fn running_parts(&self, host: &Host) -> Vec<(&'static str, i32)> {
        let processes = self.processes(host);
        let parts = [Part::Etcd, Part::Agent, Part::Guard, Part::Postmaster];
        let found = parts.into_iter().filter_map(|part| {
            let process = find_part(&processes, host, part)?;
            Some((part.name(), process.identity.pid))
        });
        found.collect()
    }
}

/// The process that a host consists of.
fn main_part(host: &Host) -> Part {
    if host.is_node() { Part::Agent } else { Part::Etcd }
}
