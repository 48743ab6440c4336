//! What people read: tables, checklists, plans and progress lines.

use crate::clock::moment;
use comfy_table::{ContentArrangement, Table, presets};
use federator_core::change::moves_primary;
use federator_core::grants;
use federator_core::guards::{Checklist, Refusal, Verdict};
use federator_core::history::{ClosedOperation, Outcome};
use federator_core::plan::{Plan, StepKind};
use federator_core::planner::promotion::describe;
use federator_core::quote::Quote;
use federator_core::readiness::{Flag, Prediction, Readiness};
use federator_core::report::{DcRow, Lag, StatusReport};
use federator_core::runway::{End, duration};
use federator_core::topology::Severity;
use federator_core::ways::{PredictedLoss, Way};
use node_agent_wire::federation::{Evidence, OperationKind};
use std::fmt::Write as _;
use std::io::Write as _;
use std::time::Duration;

/// Where progress lines go: standard output, one line a step.
#[derive(Debug, Default)]
pub struct Progress;

impl Progress {
    fn line(text: &str) {
        let mut out = std::io::stdout().lock();
        // A closed pipe must not stop an operation half-way.
        let _ = writeln!(out, "{text}").and_then(|()| out.flush());
    }

    /// A step is done.
    pub fn step(&self, index: usize, count: usize, name: &str, took: Duration, note: &str) {
        Self::line(&format!(
            "  {index}/{count} {name:<10} ok     {:>6} ms  {note}",
            took.as_millis()
        ));
    }

    /// A step failed.
    pub fn failed(
        &self,
        index: usize,
        count: usize,
        name: &str,
        took: Duration,
        error: &dyn std::error::Error,
    ) {
        let took = took.as_millis();
        Self::line(&format!("  {index}/{count} {name:<10} failed {took:>6} ms  {error}"));
    }

    /// Anything else.
    pub fn say(&self, text: &str) {
        Self::line(&format!("      {text}"));
    }
}

/// A checklist, one line a check.
#[must_use]
pub fn checklist(list: &Checklist) -> String {
    let mut out = String::new();
    for finding in &list.0 {
        let (verdict, text) = match &finding.verdict {
            Verdict::Ok(note) => ("ok", note.clone()),
            Verdict::Warning(note) => ("warning", note.clone()),
            Verdict::Refused(refusal) => ("refused", refusal.to_string()),
        };
        let _ = writeln!(out, "  {verdict:<8} {:<18} {text}", finding.check);
    }
    out
}

/// The refusals with their hints, PostgreSQL style.
#[must_use]
pub fn refusals(list: &[Refusal]) -> String {
    let mut out = String::new();
    for refusal in list {
        let _ = writeln!(out, "refused: {refusal}");
        if let Refusal::NoEvidence { missing, .. } = refusal {
            for line in missing {
                let _ = writeln!(out, "detail: {line}");
            }
        }
        let hint = refusal.hint();
        if !hint.is_empty() {
            let _ = writeln!(out, "hint: {hint}");
        }
    }
    out
}

/// A plan.
#[must_use]
pub fn plan(plan: &Plan) -> String {
    let mut out = String::new();
    let word = match plan.kind {
        OperationKind::Switchover => "to",
        OperationKind::Setup
        | OperationKind::Promotion
        | OperationKind::Rejoin
        | OperationKind::Fence
        | OperationKind::Remove => "of",
    };
    let epoch = if moves_primary(plan.kind) {
        format!("epoch {} to {}", plan.parent.epoch, plan.next_epoch)
    } else {
        format!("epoch {}", plan.next_epoch)
    };
    let subject = match (plan.kind, &plan.from) {
        (OperationKind::Remove, Some(removed)) => removed,
        (_, _) => &plan.to,
    };
    let _ = writeln!(out, "Plan {}: {} {word} {subject} ({epoch})", plan.id, plan.kind);
    for (index, step) in plan.steps.iter().enumerate() {
        let undo = match (&step.undo, step.past_commit) {
            (_, true) => "  [only forward]".to_owned(),
            (Some(undo), false) => format!("  [undo: {undo}]"),
            (None, false) => String::new(),
        };
        let name = step.kind.name();
        let _ = writeln!(out, "  {}. {name:<10} {}{undo}", index + 1, step.effect);
    }
    let fencer = plan.steps.iter().any(|step| step.kind == StepKind::Fencer);
    if let Some(names) = evidence(&plan.evidence, fencer) {
        let _ = writeln!(out, "Evidence: {names}");
    }
    for approval in &plan.approvals {
        let _ = writeln!(out, "Approved by {}, {}", approval.by, moment(approval.at_us));
    }
    for line in plan.quote.iter().flat_map(Quote::lines) {
        let _ = writeln!(out, "{line}");
    }
    if let Some(loss) = &plan.expected_loss {
        let _ = writeln!(out, "Possible loss: {}", describe(loss));
    }
    out
}

/// The names of the evidence; `fencer`: that of the fencer is to come.
fn evidence(list: &[Evidence], fencer: bool) -> Option<String> {
    let mut names: Vec<String> = list.iter().map(|e| e.name().to_owned()).collect();
    if fencer && !names.iter().any(|name| name == "fenced-by-hook") {
        names.push("fenced-by-hook, when the fencer has exited with 0".into());
    }
    (!names.is_empty()).then(|| names.join(", "))
}

/// The ways to go on while the primary datacenter is half alive, the best first.
#[must_use]
pub fn ways(list: &[Way]) -> String {
    let mut out = String::new();
    if !list.is_empty() {
        let _ = writeln!(out, "Ways to go on, the best first:");
    }
    for (index, way) in list.iter().enumerate() {
        let loss = match &way.loss {
            PredictedLoss::Nothing => "nothing".to_owned(),
            PredictedLoss::AtMost(estimate) => describe(estimate),
            PredictedLoss::Unknown => "not known".to_owned(),
        };
        let time = way.time.us_max.map_or("not known".to_owned(), seconds);
        let _ = writeln!(out, "  {}. {}", index + 1, way.kind.as_str());
        let _ = writeln!(out, "       loss     {loss}");
        let _ = writeln!(out, "       time     {time} ({})", way.time.basis);
        for what in &way.missing {
            let _ = writeln!(out, "       missing  {what}");
        }
        let _ = writeln!(out, "       next     {}", way.next);
    }
    out
}

fn seconds(us: i64) -> String {
    format!("{}.{} s", us / 1_000_000, us % 1_000_000 / 100_000)
}

pub use federator_core::seeding::size as bytes;

fn lag(lag: &Lag) -> String {
    let span = lag.span_us.map_or("?".into(), seconds);
    let age =
        if lag.age_us > 0 { format!(" ({} ago)", seconds(lag.age_us)) } else { String::new() };
    format!("{} / {span}{age}", bytes(lag.bytes))
}

/// What the primary role could move by.
fn ready(row: &DcRow) -> String {
    let Some(ready) = &row.readiness else { return "-".into() };
    match (ready.switchover.ready, ready.promotion.ready) {
        (true, true) => "switchover, promotion",
        (true, false) => "switchover",
        (false, true) => "promotion",
        (false, false) => "no",
    }
    .to_owned()
}

/// How long it may be away.
fn runway(row: &DcRow) -> String {
    match &row.runway {
        None => "-".into(),
        Some(runway) if runway.end == End::Over => "over".into(),
        Some(runway) => runway.left_s.map_or_else(|| "no WAL written".into(), duration),
    }
}

fn cells(row: &DcRow) -> [String; 12] {
    [
        row.dc.to_string(),
        row.role.as_str().to_owned(),
        row.source.as_ref().map_or("-".into(), ToString::to_string),
        row.epoch.map_or("-".into(), |epoch| epoch.to_string()),
        row.leader.clone().unwrap_or_else(|| "-".into()),
        row.state.clone(),
        row.lag.as_ref().map_or("-".into(), lag),
        row.sync.clone(),
        row.slots.clone(),
        row.fence.clone(),
        ready(row),
        runway(row),
    ]
}

/// The status: one table, then every problem with what to type next.
#[must_use]
pub fn status(report: &StatusReport) -> String {
    let mut table = Table::new();
    table
        .load_style(presets::UTF8_FULL_CONDENSED)
        .set_content_arrangement(ContentArrangement::Disabled)
        .set_header([
            "DC",
            "Role",
            "Follows",
            "Epoch",
            "Leader",
            "State",
            "Lag",
            "Sync",
            "Slots",
            "Fence",
            "Ready for",
            "May be away",
        ]);
    for row in &report.datacenters {
        table.add_row(cells(row));
    }
    let mut out = String::new();
    let head = match (&report.primary, report.epoch) {
        (Some(primary), Some(epoch)) => format!("primary {primary} since epoch {epoch}"),
        (_, _) => "not set up".to_owned(),
    };
    let _ = writeln!(out, "Federation {}: {head}  ({})", report.federation, moment(report.at_us));
    let _ = writeln!(out, "{table}");
    if let Some(grants) = &report.grants {
        let _ = writeln!(out, "Site grants: {}", grants::words(grants));
    }
    if report.problems.is_empty() {
        let _ = writeln!(out, "No problems found.");
    }
    for problem in &report.problems {
        let mark = match problem.severity {
            Severity::Critical => "CRITICAL",
            Severity::Warning => "WARNING",
            Severity::Notice => "notice",
        };
        let _ = writeln!(out, "{mark}: {}", problem.text);
        let _ = writeln!(out, "    next: {}", problem.next);
    }
    out
}

/// Both flags with all that was looked at.
#[must_use]
pub fn readiness(readiness: &Readiness) -> String {
    let mut out = String::new();
    for (what, flag) in [("switchover", &readiness.switchover), ("promotion", &readiness.promotion)]
    {
        let verdict = if flag.ready { "ready" } else { "NOT ready" };
        let _ = writeln!(out, "{}: {verdict} for {what}", readiness.dc);
        out.push_str(&checklist(&flag.checklist));
        let _ = writeln!(out, "  predicted {}", prediction(flag));
    }
    out
}

/// What an operation would cost, and on what that rests.
fn prediction(flag: &Flag) -> String {
    let Prediction { measured, write_pause_us, took_us, loss } = &flag.predicted;
    let lost = loss.as_ref().map_or("nothing is lost".into(), |l| format!("loss {}", describe(l)));
    let ms = |us: i64| format!("{} ms", us / 1000);
    let pause = write_pause_us.map(|us| format!(", write pause {}", ms(us))).unwrap_or_default();
    match (measured, took_us) {
        (1.., Some(took)) => {
            format!("{lost}{pause}, {} in all (median of {measured} here)", seconds(*took))
        }
        (_, _) => format!("{lost}; how long it takes was not measured here yet"),
    }
}

/// The closed operations, oldest first.
#[must_use]
pub fn history(entries: &[ClosedOperation]) -> String {
    if entries.is_empty() {
        return "No operation has been closed yet.\n".into();
    }
    let mut table = Table::new();
    table
        .load_style(presets::UTF8_FULL_CONDENSED)
        .set_content_arrangement(ContentArrangement::Disabled)
        .set_header([
            "Closed",
            "Operation",
            "From",
            "To",
            "Epoch",
            "Outcome",
            "Took",
            "Write pause",
            "Evidence",
            "By",
        ]);
    for entry in entries {
        let outcome = match entry.outcome {
            Outcome::Done => "done",
            Outcome::Aborted => "aborted",
        };
        let recorded: Vec<Evidence> =
            entry.evidence.iter().chain(&entry.further_evidence).cloned().collect();
        table.add_row([
            moment(entry.closed_at_us),
            entry.kind.to_string(),
            entry.from.as_ref().map_or("-".into(), ToString::to_string),
            entry.to.to_string(),
            entry.epoch.to_string(),
            outcome.to_owned(),
            seconds(entry.closed_at_us.saturating_sub(entry.started_at_us).max(0)),
            entry.write_pause_us.map_or("-".into(), |us| format!("{} ms", us / 1000)),
            evidence(&recorded, false).unwrap_or_else(|| "-".into()),
            entry.by.clone(),
        ]);
    }
    format!("{table}\n")
}
