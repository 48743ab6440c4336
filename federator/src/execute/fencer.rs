//! Runs the fencer of the former primary. That it succeeded goes into the record in the same write
//! as the step's journal line: a resume finds both, or runs it again. A fencer must bear that.

use super::context::{Context, StepError};
use crate::clock::now_us;
use crate::fencer::{self, Order};
use crate::records::{need_record, update_record};
use federator_core::change;
use federator_core::evidence::{FencingEvidence, tamed};
use federator_core::plan::StepKind;
use node_agent_wire::federation::Evidence;

pub(super) async fn run(context: &mut Context<'_>) -> Result<String, StepError> {
    let (from, id) = (context.from()?, context.plan.id.clone());
    let dcs = context.federation.dcs(&context.plan.to)?;
    let known = need_record(dcs).await?.operation.filter(|operation| operation.id == id);
    let recorded: Vec<Evidence> =
        known.iter().flat_map(|operation| operation.all_evidence().cloned()).collect();
    if recorded.iter().any(|evidence| matches!(evidence, Evidence::FencedByHook { .. })) {
        context.plan.evidence = recorded;
        return Ok(format!("the fencer of {from} has been run"));
    }
    let entry = context.federation.settings.datacenters.get(&from);
    let (entry, fencer) =
        entry.and_then(|entry| Some((entry, entry.fencer.as_ref()?))).ok_or_else(|| {
            let why = format!("the settings here name no fencer for {from}: datacenters.{from}");
            StepError::Missing(why)
        })?;
    let order = Order {
        federation: context.federation.settings.federation.clone(),
        dc: from.clone(),
        scope: entry.scope.clone(),
        target: context.plan.to.clone(),
        operation: id.clone(),
        next_epoch: context.plan.next_epoch,
    };
    let limit = fencer.timeout.as_secs_f32();
    context.progress.say(&format!("running {}, at most {limit} s", fencer.program()));
    let ended = fencer::run(fencer, &order).await?;
    let evidence = FencingEvidence::fenced_by_hook(ended.code, &ended.output).map_err(|why| {
        let complaint = tamed(&ended.complaint);
        let quoted = complaint.lines().map(|line| format!("\n    stderr: {line}"));
        let how = format!("{}: {why}{}", fencer.program(), quoted.collect::<String>());
        StepError::NotFenced { dc: from, how }
    })?;
    let note = format!("{} exited with 0", fencer.program());
    let now = now_us();
    let mut journal = context.journal.clone();
    for line in journal.iter_mut().filter(|line| line.step == StepKind::Fencer.name()) {
        line.done_at_us = Some(now);
        line.note.clone_from(&note);
    }
    let record =
        update_record(dcs, |record| change::add_evidence(record, &id, &evidence, &journal)).await?;
    context.plan.evidence =
        record.operation.iter().flat_map(|operation| operation.all_evidence().cloned()).collect();
    Ok(note)
}
