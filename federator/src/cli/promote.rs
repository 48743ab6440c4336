//! `federator promote DC`.

use super::approve::Asked;
use super::operation::{proceed, request};
use super::{Exit, Session};
use crate::collect::{Depth, collect};
use crate::concurrent::within;
use crate::records::read_history;
use crate::render;
use crate::settings;
use federator_core::guards::Refusal;
use federator_core::inventory::Inventory;
use federator_core::loss::MaxLoss;
use federator_core::planner::promotion::{self, Intent};
use federator_core::planner::{Answer, Outcome};
use federator_core::ways::{Measured, Way, ways};
use node_agent_wire::DcName;
use std::time::Duration;

/// How long the history may take; without it times are not predicted.
const HISTORY_LIMIT: Duration = Duration::from_secs(2);

pub(super) async fn run(
    session: &Session,
    dc: &DcName,
    (attest, max_loss): (Option<String>, Option<String>),
    request_only: bool,
) -> Exit {
    let max_loss = match max_loss.map(|text| bound(&text).map(|bound| (bound, text))).transpose() {
        Ok(max_loss) => max_loss,
        Err(why) => {
            eprintln!("error: --max-loss: {why}");
            return Exit::Usage;
        }
    };
    if attest.is_some() && session.named().is_none() {
        eprintln!("error: an attestation needs the name of who gives it");
        eprintln!("hint: add --by NAME");
        return Exit::Usage;
    }
    let inventory = collect(&session.federation, Depth::Status, None).await;
    let fencer = inventory.view(dc).and_then(|view| view.record()).is_some_and(|record| {
        let entry = session.federation.settings.datacenters.get(&record.primary);
        entry.is_some_and(|entry| entry.fencer.is_some())
    });
    let intent = Intent { attest, max_loss, fencer };
    let mut answer = promotion::plan(&inventory, dc, &intent, &request(session));
    print!("{}", render::checklist(&answer.checklist));
    print!("{}", render::ways(&alternatives(session, &inventory, dc, &answer).await));
    let record = inventory.view(dc).and_then(|view| view.record());
    if let (Outcome::Plan(plan), Some(record)) = (&mut answer.outcome, record) {
        let max_loss = intent.max_loss.as_ref().map(|(max, _)| *max);
        let asked = Asked { session, plan: &*plan, policies: &record.policies, max_loss };
        if request_only {
            return asked.store().await;
        }
        match asked.granted().await {
            Ok(approvals) => plan.approvals = approvals,
            Err(exit) => return exit,
        }
    }
    proceed(session, inventory, answer.outcome).await
}

/// What else can be done, where the primary datacenter still answers.
async fn alternatives(
    session: &Session,
    inventory: &Inventory,
    dc: &DcName,
    answer: &Answer,
) -> Vec<Way> {
    let refusals: &[Refusal] = match &answer.outcome {
        Outcome::Refused(list) => list,
        Outcome::Plan(_) | Outcome::NothingToDo(_) => &[],
    };
    let Ok(dcs) = session.federation.dcs(dc) else { return Vec::new() };
    let history = within(HISTORY_LIMIT, "the history", read_history(dcs)).await;
    let measured = match history {
        Ok(Ok(history)) => Measured::of(&history),
        Ok(Err(_)) | Err(_) => Measured::default(),
    };
    ways(inventory, dc, refusals, measured)
}

/// Bytes as in 64MB, a duration as in 30s, or both with a comma between.
fn bound(text: &str) -> Result<MaxLoss, String> {
    let mut max = MaxLoss::default();
    for part in text.split(',').map(str::trim) {
        let twice = || Err(format!("\"{text}\" bounds the same twice"));
        if let Ok(count) = settings::bytes(part) {
            if max.bytes.replace(count).is_some() {
                return twice();
            }
            continue;
        }
        let span = humantime::parse_duration(part).map_err(|_| {
            format!("\"{part}\" is neither bytes as in 64MB nor a duration as in 30s")
        })?;
        let span_us = i64::try_from(span.as_micros()).unwrap_or(i64::MAX);
        if max.span_us.replace(span_us).is_some() {
            return twice();
        }
    }
    Ok(max)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds() {
        for (text, bytes, span_us) in [
            ("8192", Some(8192), None),
            ("1MB", Some(1 << 20), None),
            ("30s", None, Some(30_000_000)),
            ("64MB,30s", Some(64 << 20), Some(30_000_000)),
            (" 1min , 1kB", Some(1024), Some(60_000_000)),
        ] {
            assert_eq!(bound(text), Ok(MaxLoss { bytes, span_us }), "{text}");
        }
        for (bad, why) in [
            ("lots", "neither bytes"),
            ("", "neither bytes"),
            ("64MB,", "neither bytes"),
            ("1MB,2MB", "the same twice"),
            ("1s,2s", "the same twice"),
        ] {
            let error = bound(bad).unwrap_err();
            assert!(error.contains(why), "{bad}: {error}");
        }
    }
}
