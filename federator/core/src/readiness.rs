//! Readiness: could the primary role move to a datacenter at this moment, by a planned switchover
//! and by a promotion, and what would it cost?
//!
//! Two flags, each with its reasons, from the same checks that the operations themselves make.
//! Predictions rest on what earlier operations of this federation took.

use crate::consumers::{self, Judged};
use crate::guards::{Checklist, Refusal, Verdict};
use crate::history::{ClosedOperation, Outcome};
use crate::inventory::{DcView, Inventory};
use crate::planner::{Request, promotion, switchover};
use node_agent_wire::DcName;
use node_agent_wire::federation::{LossEstimate, OperationKind};
use serde::Serialize;

/// So many of the last operations of a kind count.
const CALIBRATE_BY: usize = 5;

/// Both flags of one datacenter.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Readiness {
    /// Which.
    pub dc: DcName,
    /// A planned switchover to it.
    pub switchover: Flag,
    /// A promotion of it, if the primary datacenter were lost now.
    pub promotion: Flag,
}

/// Ready or not, why, and at which price.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Flag {
    /// Nothing stands in the way.
    pub ready: bool,
    /// What stands in the way.
    pub reasons: Vec<Refusal>,
    /// What an operator should know all the same.
    pub warnings: Vec<String>,
    /// What it would cost.
    pub predicted: Prediction,
    /// What would become of the primary's logical consumers, as far as that is known.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub consumers: Vec<Judged>,
    /// All that was looked at.
    #[serde(skip)]
    pub checklist: Checklist,
}

/// What an operation would cost.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Prediction {
    /// On so many earlier operations the times rest.
    pub measured: usize,
    /// The median write pause, in microseconds.
    pub write_pause_us: Option<i64>,
    /// The median time from begin to end, in microseconds.
    pub took_us: Option<i64>,
    /// What could be lost; `None` for a switchover, which loses nothing.
    pub loss: Option<LossEstimate>,
}

/// Both flags of `dc`; `None` for the primary datacenter and for one that is not in the settings.
#[must_use]
pub fn of(
    inventory: &Inventory,
    dc: &DcName,
    history: &[ClosedOperation],
    request: &Request,
) -> Option<Readiness> {
    if !inventory.sites.contains_key(dc) || inventory.primary() == Some(dc) {
        return None;
    }
    let planned = switchover::plan(inventory, dc, request).checklist;
    let (rehearsed, loss) = promotion::rehearse(inventory, dc, request);
    let record = inventory.view(dc).and_then(DcView::record);
    let consumers = |loss: Option<&LossEstimate>| {
        let found = record.map(|record| consumers::judge(inventory, dc, record, loss));
        found.and_then(Result::ok).unwrap_or_default()
    };
    let (kept, lossy) = (consumers(None), loss.as_ref().map(|loss| consumers(Some(loss))));
    let planned = flag(planned, predict(history, OperationKind::Switchover, None), kept);
    let lossy = lossy.unwrap_or_default();
    let rehearsed = flag(rehearsed, predict(history, OperationKind::Promotion, loss), lossy);
    Some(Readiness { dc: dc.clone(), switchover: planned, promotion: rehearsed })
}

fn flag(checklist: Checklist, predicted: Prediction, consumers: Vec<Judged>) -> Flag {
    let reasons = checklist.refusals();
    let warnings = checklist.0.iter().filter_map(|finding| match &finding.verdict {
        Verdict::Warning(note) => Some(format!("{}: {note}", finding.check)),
        Verdict::Ok(_) | Verdict::Refused(_) => None,
    });
    let warnings = warnings.collect();
    Flag { ready: reasons.is_empty(), reasons, warnings, predicted, consumers, checklist }
}

fn predict(
    history: &[ClosedOperation],
    kind: OperationKind,
    loss: Option<LossEstimate>,
) -> Prediction {
    let done = history.iter().rev().filter(|o| o.kind == kind && o.outcome == Outcome::Done);
    let last: Vec<&ClosedOperation> = done.take(CALIBRATE_BY).collect();
    let took = last.iter().map(|o| o.closed_at_us.saturating_sub(o.started_at_us).max(0));
    Prediction {
        measured: last.len(),
        write_pause_us: median(last.iter().filter_map(|o| o.write_pause_us).collect()),
        took_us: median(took.collect()),
        loss,
    }
}

/// The upper one of two middles: a prediction errs on the safe side.
fn median(mut values: Vec<i64>) -> Option<i64> {
    values.sort_unstable();
    values.get(values.len() / 2).copied()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{self, inventory, lose, node_mut, request, view};

    fn ready(inventory: &Inventory) -> (bool, bool) {
        let found = of(inventory, &"dc2".into(), &[], &request()).unwrap();
        (found.switchover.ready, found.promotion.ready)
    }

    #[test]
    fn each_flag_has_reasons_of_its_own() {
        assert_eq!(ready(&inventory()), (true, true));
        assert_eq!(of(&inventory(), &"dc1".into(), &[], &request()), None, "the primary");

        let mut lost = inventory();
        lose(&mut lost, "dc1");
        assert_eq!(ready(&lost), (false, true), "a promotion is for just that");

        let mut paused = inventory();
        node_mut(&mut paused, "dc2").replay_paused = true;
        view(&mut paused, "dc2").sql = None;
        assert_eq!(ready(&paused), (false, false));

        let mut unlinked = inventory();
        node_mut(&mut unlinked, "dc2").replication_state = String::new();
        view(&mut unlinked, "dc2").sql = None;
        let found = of(&unlinked, &"dc2".into(), &[], &request()).unwrap();
        assert!(!found.switchover.ready && found.promotion.ready);
        assert!(
            found.promotion.warnings.iter().any(|w| w.contains("does not stream")),
            "{:?}",
            found.promotion.warnings
        );
    }

    #[test]
    fn agents_facts_do_where_sql_was_not_asked() {
        let mut all = inventory();
        view(&mut all, "dc2").sql = None;
        assert_eq!(ready(&all), (true, true));
    }

    #[test]
    fn predictions_rest_on_the_last_operations_that_were_done() {
        let closed = |pause, outcome, at| {
            let operation = fixture::operation(OperationKind::Switchover, "dc1", "dc2");
            ClosedOperation::new(&operation, outcome, fixture::NOW + at, pause)
        };
        let mut history: Vec<_> =
            [900, 800, 100, 300, 200].map(|p| closed(Some(p), Outcome::Done, 1000 * p)).into();
        history.insert(0, closed(Some(5), Outcome::Done, 5));
        history.push(closed(Some(1), Outcome::Aborted, 1));
        let found = predict(&history, OperationKind::Switchover, None);
        assert_eq!((found.measured, found.write_pause_us), (5, Some(300)));
        assert_eq!(found.took_us, Some(300_000));
        let none = predict(&history, OperationKind::Promotion, None);
        assert_eq!(none, Prediction::default(), "nothing measured, nothing claimed");
    }
}
