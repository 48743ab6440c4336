//! The point of no return: one compare-and-set on the target's record.

use super::context::{Context, StepError};
use crate::clock::now_us;
use crate::records::{need_record, update_record};
use federator_core::document::Document;
use federator_core::evidence::EvidenceSet;
use federator_core::formula::names;
use federator_core::plan::StepKind;
use federator_core::{change, conditions};
use node_agent_wire::approval::SignedDocument;
use node_agent_wire::federation::JournalEntry;

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
        parts: Vec::new(),
    };
    journal.push(promote.clone());
    let dcs = context.federation.dcs(&context.plan.to)?;
    let id = &context.plan.id;
    let document = signed(context, &evidence, now).await?;
    let record = update_record(dcs, |record| {
        change::seal(change::commit(record, id, &evidence, &journal, now), document.as_ref())
    })
    .await?;
    context.journal.push(promote);
    let kinds = names(&evidence.kinds(), ", ");
    Ok(format!("{} is primary at epoch {} ({kinds})", record.primary, record.epoch))
}

/// The evidence as one signed document, where there is a key.
async fn signed(
    context: &Context<'_>,
    evidence: &EvidenceSet,
    now_us: i64,
) -> Result<Option<SignedDocument>, StepError> {
    let Some(key) = &context.signing else { return Ok(None) };
    let record = need_record(context.federation.dcs(&context.plan.to)?).await?;
    let mut recorded = evidence.recorded().into_iter();
    let mut operation = context.plan.operation();
    operation.evidence = recorded.next();
    operation.further_evidence = recorded.collect();
    let name = &context.federation.settings.federation;
    let document = Document::of(&operation, name, &record.policies, now_us);
    Ok(Some(key.sign(document.text())))
}

/// The evidence, checked again where it can have changed since it was taken.
async fn evidence(context: &Context<'_>) -> Result<EvidenceSet, StepError> {
    let operation = context.plan.operation();
    let read = match conditions::commit_reads_former(&operation) {
        true => Some(need_record(context.federation.dcs(&context.from()?)?).await?),
        false => None,
    };
    let target = context.inventory.view(&context.plan.to);
    let system = target.and_then(|view| view.initialize.as_ref());
    let former = read.as_ref().or(context.former.as_ref());
    let mut evidence = conditions::commit_evidence(&operation, former, system)?;
    if let Some(acquired) = &context.acquired {
        // In place of the intent.
        evidence.add(acquired.clone());
    }
    Ok(evidence)
}
