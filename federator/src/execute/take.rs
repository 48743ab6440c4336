//! Takes the operation: the record that counts first, then the others. When another operation holds
//! one of those, the first is given back.

use super::context::{Context, StepError};
use crate::records::{UpdateError, update_record};
use federator_core::change::{self, AbortBegun};
use federator_core::conditions;

pub(super) async fn run(context: &mut Context<'_>) -> Result<String, StepError> {
    let operation = context.plan.operation();
    let mut held: Vec<String> = Vec::new();
    for dc in context.plan.participants() {
        let target = dc == context.plan.to;
        let taken = match context.federation.dcs(&dc) {
            Ok(dcs) => {
                let found_open = context.resumed;
                update_record(dcs, |record| change::hold(record, &operation, found_open)).await
            }
            Err(error) => Err(error.into()),
        };
        match taken {
            Ok(_) => held.push(dc.to_string()),
            Err(UpdateError::Dcs(_))
                if !conditions::take_needs(context.plan.kind, &context.plan.to, &dc) => {}
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

/// Takes the operation back from wherever it is; whether nothing is left behind. Somebody may have
/// found it open and gone on with it: so the way back is begun first, as in an abort, and what is
/// committed by now stays.
async fn give_back(context: &Context<'_>) -> bool {
    let (to, id) = (&context.plan.to, &context.plan.id);
    let Ok(target) = context.federation.dcs(to) else { return false };
    let Ok(record) = update_record(target, |record| change::begin_abort(record, id)).await else {
        return false;
    };
    let Some(proof) = AbortBegun::seen(&record, id) else { return false };
    let mut clean = true;
    for dc in context.plan.participants().iter().filter(|dc| *dc != to) {
        let Ok(dcs) = context.federation.dcs(dc) else { continue };
        let turned = update_record(dcs, |record| change::turn_back(record, &proof)).await;
        clean &= turned.is_ok();
    }
    if context.resumed && !clean {
        // Its fence may be in the datacenter that does not answer: the record that counts goes on
        // saying that it is being turned back, until somebody has lifted that.
        return false;
    }
    let released = update_record(target, |record| change::release(record, id)).await;
    clean && released.is_ok()
}
