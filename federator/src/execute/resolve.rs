//! Settles one epoch that two datacenters claim. Each access may be repeated: killed anywhere, the
//! same command goes on. The kept datacenter begins the next epoch only when every other claimant
//! is fenced and none of its nodes accepts writes.

use super::context::{POLL, StepError, Wait};
use super::fence::trigger;
use crate::clock::now_us;
use crate::crash::{self, Boundary};
use crate::federation::Federation;
use crate::records::{need_record, update_record};
use crate::render::Progress;
use federator_core::change;
use federator_core::conditions::{FenceWord, may_write};
use federator_core::planner::resolve::Settlement;
use node_agent_wire::federation::{Evidence, FederationRecord, FenceAck, Resolution};
use node_agent_wire::{DcName, OperationId};
use std::time::{Duration, Instant};

/// The steps, by the names of their crash points.
const STEPS: [&str; 4] = ["decide", "give-way", "keep", "supersede"];

/// Carries a settlement out.
///
/// # Errors
/// A datacenter does not answer, another one is to be kept, or a claimant still accepts writes.
pub async fn resolve(
    federation: &Federation,
    plan: &Settlement,
    (by, id): (&str, &OperationId),
    limit: Duration,
    progress: &Progress,
) -> Result<FederationRecord, StepError> {
    let (epoch, keep) = (plan.epoch, plan.keep.clone());
    let resolution = Resolution { epoch, keep, by: by.to_owned(), at_us: now_us() };
    let mut steps = Steps { progress, index: 0, begun: Instant::now() };

    steps.begin();
    let first = federation.dcs(&plan.decides)?;
    update_record(first, |record| change::decide(record, &resolution)).await?;
    steps.done(&format!("{} is kept, by the record of {}", plan.keep, plan.decides));

    steps.begin();
    let (mut notes, mut proof) = (Vec::new(), None);
    for dc in &plan.losers {
        let dcs = federation.dcs(dc)?;
        update_record(dcs, |record| change::give_way(record, &resolution, now_us())).await?;
        let (note, ack) = until_read_only(federation, dc, &resolution, limit).await?;
        notes.push(note);
        proof = proof.or(ack);
    }
    steps.done(&notes.join("; "));

    steps.begin();
    let evidence = proof.map(|ack| Evidence::Acknowledged { ack });
    let kept = update_record(federation.dcs(&plan.keep)?, |record| {
        change::keep(record, &resolution, id, evidence.clone(), now_us())
    })
    .await?;
    steps.done(&format!("{} is primary at epoch {}", plan.keep, kept.epoch));

    steps.begin();
    for dc in &plan.losers {
        let dcs = federation.dcs(dc)?;
        update_record(dcs, |record| change::follow_kept(record, &kept, by, now_us())).await?;
    }
    steps.done("the others know of it, fenced");
    Ok(kept)
}

/// Lines and crash points.
struct Steps<'a> {
    progress: &'a Progress,
    index: usize,
    begun: Instant,
}

impl Steps<'_> {
    fn name(&self) -> &'static str {
        STEPS.get(self.index).copied().unwrap_or_default()
    }

    fn begin(&mut self) {
        self.begun = Instant::now();
        crash::point(self.name(), Boundary::Before);
    }

    fn done(&mut self, note: &str) {
        crash::point(self.name(), Boundary::After);
        let (index, took) = (self.index + 1, self.begun.elapsed());
        self.progress.step(index, STEPS.len(), self.name(), took, note);
        self.index = index;
    }
}

/// Waits until a fenced claimant has acknowledged its fence, or every agent there says that its
/// node accepts no writes.
async fn until_read_only(
    federation: &Federation,
    dc: &DcName,
    resolution: &Resolution,
    limit: Duration,
) -> Result<(String, Option<FenceAck>), StepError> {
    let cluster = federation.cluster(dc).await?;
    let (next, id) = (resolution.epoch.next(), OperationId::default());
    tokio::select! {
        result = look(federation, dc, limit) => result,
        never = trigger(federation, dc, &cluster, next, &id, limit) => match never {},
    }
}

async fn look(
    federation: &Federation,
    dc: &DcName,
    limit: Duration,
) -> Result<(String, Option<FenceAck>), StepError> {
    let wait = Wait::new(limit);
    loop {
        let record = need_record(federation.dcs(dc)?).await?;
        match FenceWord::of(&record) {
            FenceWord::Acknowledged(ack) => {
                let note = format!("{} of {dc} has stopped at {}", ack.node, ack.checkpoint);
                return Ok((note, Some(ack.clone())));
            }
            FenceWord::Awaited => {}
            FenceWord::Lifted => {
                return Err(StepError::Missing(format!("the fence of {dc} was lifted")));
            }
        }
        let cluster = federation.cluster(dc).await?;
        let mut answers = Vec::new();
        for (name, member) in &cluster.members {
            let answer = match member.data.grpc.as_deref() {
                Some(address) => federation.links.status(address).await.map_err(|e| e.to_string()),
                None => Err("publishes no gRPC address".to_owned()),
            };
            answers.push((name, answer));
        }
        let words =
            answers.iter().map(|(name, answer)| (*name, answer.as_ref().map_err(Clone::clone)));
        let open = may_write(&record, words);
        if open.is_empty() && !cluster.members.is_empty() {
            return Ok((format!("no node of {dc} accepts writes"), None));
        }
        let what = format!("every node of {dc} to be read-only");
        wait.pause(POLL, &what, &open.join("; ")).await?;
    }
}
