//! What is done to a cluster, and what is measured of it from outside.

use std::time::{Duration, Instant};

use clap::ValueEnum;
use federator_tests::rest;
use lab::Part;
use lab::layout::REST_PORT;
use lab::wait::Interrupt;
use rustix::process::Signal;

use crate::run::{Bench, LIMIT};

/// How long an agent stays away: twice the TTL, so that its lease has long run out.
const AWAY: Duration = Duration::from_secs(40);
/// Rows that show that writes go on.
const ROWS: u64 = 300;

/// A metric and its value.
pub type Told = Vec<(String, f64)>;

/// What is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Scenario {
    /// Nothing: what the cluster costs without load. Always first.
    Idle,
    /// A switchover to the synchronous standby, by REST.
    Switchover,
    /// SIGKILL to the primary's postmaster.
    PostmasterKilled,
    /// Loss of the synchronous standby's host: nobody hears of its end.
    StandbyLost,
    /// SIGSTOP to the primary's agent, SIGCONT after 40 s.
    AgentStopped,
    /// SIGKILL to the primary's agent, started again after 40 s.
    AgentKilled,
    /// Loss of the primary's host.
    PrimaryLost,
}

impl Scenario {
    /// All, in their order.
    pub const ALL: [Self; 7] = [
        Self::Idle,
        Self::Switchover,
        Self::PostmasterKilled,
        Self::StandbyLost,
        Self::AgentStopped,
        Self::AgentKilled,
        Self::PrimaryLost,
    ];

    /// In words.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Switchover => "switchover",
            Self::PostmasterKilled => "postmaster killed",
            Self::StandbyLost => "synchronous standby's host lost",
            Self::AgentStopped => "primary's agent stopped",
            Self::AgentKilled => "primary's agent killed",
            Self::PrimaryLost => "primary's host lost",
        }
    }

    /// Does it, waits until everything is in service again, and tells what was measured.
    ///
    /// # Errors
    /// In words, when it does not come to its end.
    pub async fn run(self, bench: &Bench) -> Result<Told, String> {
        if self == Self::Idle {
            return Ok(Told::new());
        }
        let leader = bench.complete()?;
        bench.rows(ROWS).await?;
        bench.writer.phase(self.name());
        let since = Instant::now();
        let mut lost = None;
        match self {
            Self::Idle => {}
            Self::Switchover => {
                switch(bench, &leader).await?;
                bench.successor_of(&leader).await?;
            }
            Self::PostmasterKilled => {
                bench.act(|lab| lab.signal(&leader, Part::Postmaster, Signal::KILL))?;
            }
            Self::StandbyLost => {
                let standby = synchronous(bench)?;
                bench.lose(&standby)?;
                lost = Some(standby);
            }
            Self::AgentStopped => {
                bench.act(|lab| lab.signal(&leader, Part::Agent, Signal::STOP))?;
                away(bench, &leader, since).await?;
                bench.act(|lab| lab.signal(&leader, Part::Agent, Signal::CONT))?;
            }
            Self::AgentKilled => {
                bench.act(|lab| lab.signal(&leader, Part::Agent, Signal::KILL))?;
                away(bench, &leader, since).await?;
                bench.act(|lab| lab.start_dc("dc1", &Interrupt::default()))?;
            }
            Self::PrimaryLost => {
                bench.lose(&leader)?;
                bench.successor_of(&leader).await?;
                lost = Some(leader.clone());
            }
        }
        bench.rows(ROWS).await?;
        let pause = bench.writer.snapshot().by_phase().pop().map(|phase| phase.longest_pause);
        let pause = pause.ok_or("the ledger has no phase")?;
        bench.writer.phase("return");
        if let Some(host) = &lost {
            bench.bring_back(host)?;
        }
        bench.complete()?;
        let mut told = vec![(format!("{}: write pause, s", self.name()), pause.as_secs_f64())];
        if matches!(self, Self::AgentStopped | Self::AgentKilled | Self::PrimaryLost) {
            let two = two_writable(bench, since).as_secs_f64();
            told.push((format!("{}: two nodes accept writes, s", self.name()), two));
        }
        Ok(told)
    }
}

/// Another node must take over, and the agent stays away for its whole time.
async fn away(bench: &Bench, leader: &str, since: Instant) -> Result<(), String> {
    bench.successor_of(leader).await?;
    tokio::time::sleep(AWAY.saturating_sub(since.elapsed())).await;
    Ok(())
}

/// From the first to the last moment since then in which two nodes are proven to accept writes.
fn two_writable(bench: &Bench, since: Instant) -> Duration {
    let overlaps = bench.prober.snapshot().overlaps();
    let mine = || overlaps.iter().filter(|overlap| overlap.to >= since);
    let (from, to) = (mine().map(|o| o.from).min(), mine().map(|o| o.to).max());
    match (from, to) {
        (Some(from), Some(to)) => to.saturating_duration_since(from),
        (None, _) | (_, None) => Duration::ZERO,
    }
}

fn synchronous(bench: &Bench) -> Result<String, String> {
    let dc = node_agent_wire::DcName::new("dc1");
    let cluster = tokio::task::block_in_place(|| bench.lab.cluster(&dc))?;
    let standby = cluster.members.into_iter().find(|member| member.role == "sync_standby");
    standby.map(|member| member.name).ok_or_else(|| "no synchronous standby".to_owned())
}

async fn switch(bench: &Bench, leader: &str) -> Result<(), String> {
    let candidate = synchronous(bench)?;
    let host = bench.lab.layout.host(leader).map_err(|error| error.to_string())?;
    let body = format!("{{\"leader\": \"{leader}\", \"candidate\": \"{candidate}\"}}");
    let answer = rest::request(host.at(REST_PORT), "POST", "/switchover", &body, LIMIT).await?;
    if answer.status == 200 { Ok(()) } else { Err(format!("{} {}", answer.status, answer.body)) }
}
