//! Waits until a new or returned standby datacenter streams and all its nodes run, and says what
//! they do meanwhile.

use super::context::{Context, StepError, Wait};
use super::link::reads_from;
use crate::records::update_record;
use federator_core::change;
use federator_core::conditions::node_streams_with;
use federator_core::discarded::DiscardedWal;
use federator_core::history::MeasuredCopy;
use federator_core::inventory::NodeView;
use federator_core::links;
use federator_core::seeding::Copy;
use node_agent_wire::member::state;
use node_agent_wire::{DcName, MemberName};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// The pause between two looks.
const PAUSE: Duration = Duration::from_millis(250);
/// What is said of a base backup.
const COPYING: &str = "copying";
/// When the progress of a base backup is printed again.
const REMIND_COPY: Duration = Duration::from_secs(5);
/// When the same line is printed again.
const REMIND: Duration = Duration::from_secs(20);

pub(super) async fn run(context: &mut Context<'_>) -> Result<String, StepError> {
    let list: Vec<DcName> = context.plan.new_standbys().into_iter().collect();
    let primary = context.plan.primary.clone();
    let mut notes = Vec::new();
    for dc in &links::in_order(&list, |dc| context.source_of(dc, &primary)) {
        notes.push(until_streaming(context, dc).await?);
        let epoch = context.plan.next_epoch;
        let dcs = context.federation.dcs(dc)?;
        update_record(dcs, |record| change::mark_streamed(record, epoch)).await?;
    }
    Ok(notes.join("; "))
}

pub(super) async fn until_streaming(
    context: &Context<'_>,
    dc: &DcName,
) -> Result<String, StepError> {
    let wait = Wait::new(context.clone_limit);
    let source = context.source_of(dc, &context.plan.primary);
    let what = format!("{dc} to stream from {source}");
    let mut printed: BTreeMap<String, Instant> = BTreeMap::new();
    let mut copies = Copies { began: Instant::now(), of: BTreeMap::new() };
    let mut told: BTreeMap<MemberName, DiscardedWal> = BTreeMap::new();
    loop {
        let (ready, mut line, discarded) = look(context, dc, &mut copies).await;
        for (name, wal) in discarded {
            if told.get(&name) != Some(&wal) {
                context.progress.say(&format!("{name} gives up {wal}"));
                told.insert(name, wal);
            }
        }
        if ready {
            match reads_from(context, dc, &source).await {
                Ok(()) => return Ok(format!("{dc} streams from {source}: {line}")),
                Err(seen) => line = seen,
            }
        }
        // The position changes all the time, and some states come and go: each is printed once in
        // a while.
        let states: String = line.chars().filter(|c| !c.is_ascii_hexdigit()).collect();
        let again = if line.contains(COPYING) { REMIND_COPY } else { REMIND };
        if printed.get(&states).is_none_or(|at| at.elapsed() > again) {
            context.progress.say(&format!("{dc}: {line}"));
            printed.insert(states, Instant::now());
        }
        wait.pause(PAUSE, &what, &line).await?;
    }
}

/// How far the base backups are that were seen.
struct Copies {
    began: Instant,
    of: BTreeMap<MemberName, Copy>,
}

impl Copies {
    fn now_ms(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// The node runs on what it has copied.
    fn ended(&mut self, dc: &DcName, node: &MemberName, between: bool) -> Option<MeasuredCopy> {
        let copy = self.of.remove(node)?;
        let (bytes, took_ms) = copy.measured(self.now_ms())?;
        let took_ms = i64::try_from(took_ms).ok()?;
        Some(MeasuredCopy { dc: dc.clone(), node: node.clone(), between, bytes, took_ms })
    }

    fn saw(&mut self, name: &MemberName, node: &NodeView) -> String {
        let at = self.now_ms();
        let copy = self.of.entry(name.clone()).or_default();
        let words = copy.saw(at, node.copy_done_bytes, node.copy_total_bytes);
        format!("{name} {COPYING} {words}")
    }
}

/// What the nodes have discarded, or are about to.
type Discarded = Vec<(MemberName, DiscardedWal)>;

/// Whether the datacenter streams with all its nodes, a line about each, and what they give up.
async fn look(
    context: &Context<'_>,
    dc: &DcName,
    copies: &mut Copies,
) -> (bool, String, Discarded) {
    let cluster = match context.federation.cluster(dc).await {
        Ok(cluster) => cluster,
        Err(error) => return (false, error.to_string(), Vec::new()),
    };
    let nodes = context.nodes(&cluster).await;
    let mut ready = cluster.leader.is_some() && !cluster.members.is_empty();
    let leader = cluster.leader.as_ref().and_then(|name| nodes.get(name)?.as_ref().ok());
    let (mut words, mut discarded) = (Vec::new(), Vec::new());
    for (name, member) in &cluster.members {
        match nodes.get(name) {
            Some(Ok(node)) if node.copy_total_bytes > 0 => {
                ready = false;
                words.push(copies.saw(name, node));
            }
            Some(Ok(node)) => {
                discarded.extend(node.discarded.clone().map(|wal| (name.clone(), wal)));
                if node.state == state::RUNNING {
                    let leads = cluster.leader.as_ref() == Some(name);
                    context.copies.borrow_mut().extend(copies.ended(dc, name, leads));
                }
                let streams = node_streams_with(node, leader);
                let runs = node.state == state::RUNNING && !node.writable;
                ready &= streams;
                let doing = if streams { "streaming" } else { &node.state };
                let why = if runs || node.why.is_empty() {
                    String::new()
                } else {
                    format!(" ({})", node.why)
                };
                words.push(format!("{name} {doing} {}{why}", node.lsn));
            }
            Some(Err(_)) | None => {
                ready = false;
                words.push(format!("{name} {}, its agent does not answer", member.data.state));
            }
        }
    }
    if words.is_empty() {
        words.push("no member has registered yet".into());
    }
    (ready, words.join(", "), discarded)
}
