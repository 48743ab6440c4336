//! The point of no return: one compare-and-set on the target's record.

use super::context::{Context, StepError};
use crate::clock::now_us;
use crate::records::{need_record, update_record};
use federator_core::change;
use federator_core::evidence::FencingEvidence;
use federator_core::plan::StepKind;
use node_agent_wire::federation::{Evidence, JournalEntry, OperationKind};

pub(super) async fn run(context: &mut Context<'_>) -> Result<String, StepError> {
    let evidence = evidence(context).await?;
    let now = now_us();
    let mut journal = context.journal.clone();
    for entry in journal.iter_mut().filter(|e| e.step == StepKind::Commit.name()) {
        entry.done_at_us = Some(now);
    }
    // The promotion begins with the commit: its line needs no write of its own.
    let promote = JournalEntry {
        step: StepKind::Promote.name().to_owned(),
        begun_at_us: now,
        done_at_us: None,
        note: String::new(),
    };
    journal.push(promote.clone());
    let dcs = context.federation.dcs(&context.plan.to)?;
    let id = &context.plan.id;
    let record =
        update_record(dcs, |record| change::commit(record, id, &evidence, &journal, now)).await?;
    context.journal.push(promote);
    let kind = evidence.recorded().name();
    Ok(format!("{} is primary at epoch {} ({kind})", record.primary, record.epoch))
}

/// The evidence, checked again where it can have changed since it was taken.
async fn evidence(context: &Context<'_>) -> Result<FencingEvidence, StepError> {
    let operation = context.plan.operation();
    if operation.kind == OperationKind::Promotion {
        let evidence = FencingEvidence::of(&operation)?;
        if let Evidence::Acknowledged { .. } = evidence.recorded() {
            let former = need_record(context.federation.dcs(&context.from()?)?).await?;
            change::still_acknowledged(&former, &operation.id)?;
        }
        return Ok(evidence);
    }
    let former = context
        .former
        .as_ref()
        .ok_or_else(|| StepError::Missing("the former primary has not acknowledged".into()))?;
    let target = context.inventory.view(&context.plan.to);
    let system = target.and_then(|view| view.initialize.as_ref());
    Ok(FencingEvidence::acknowledged(former, Some(&operation), system)?)
}
