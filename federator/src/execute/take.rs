//! Takes the operation: the record that counts first, then the others. When another operation holds
//! one of those, the first is given back.

use super::context::{Context, StepError};
use crate::records::{UpdateError, update_record};
use federator_core::change;
use node_agent_wire::federation::OperationKind;

pub(super) async fn run(context: &mut Context<'_>) -> Result<String, StepError> {
    let operation = context.plan.operation();
    let mut held: Vec<String> = Vec::new();
    for dc in context.plan.participants() {
        let target = dc == context.plan.to;
        let taken = match context.federation.dcs(&dc) {
            Ok(dcs) => {
                update_record(dcs, |record| {
                    // What was found open may have been closed meanwhile: it is not begun again.
                    if context.resumed && target {
                        change::taken(record, &operation.id)
                    } else {
                        change::take(record, &operation)
                    }
                })
                .await
            }
            Err(error) => Err(error.into()),
        };
        match taken {
            Ok(_) => held.push(dc.to_string()),
            // A lost primary need not answer: its copy only keeps others away.
            Err(UpdateError::Dcs(_))
                if !target && context.plan.kind == OperationKind::Promotion => {}
            Err(error) => {
                // Nothing was written when the very first change was refused by its rules.
                let refused = matches!(error, UpdateError::Change(_) | UpdateError::NoRecord(_));
                context.released = if target { refused } else { give_back(context).await };
                return Err(error.into());
            }
        }
    }
    Ok(format!("operation {} in the record of {}", operation.id, held.join(" and ")))
}

/// Removes the operation from wherever it is; whether nothing is left behind.
async fn give_back(context: &Context<'_>) -> bool {
    let mut clean = true;
    for dc in context.plan.participants().iter().rev() {
        let Ok(dcs) = context.federation.dcs(dc) else { continue };
        let released = update_record(dcs, |record| change::release(record, &context.plan.id)).await;
        clean &= released.is_ok();
    }
    clean
}
