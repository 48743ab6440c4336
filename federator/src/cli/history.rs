//! `federator history`, and `--verify`: the signatures of what it holds.

use super::{Exit, Session};
use crate::concurrent::{Local, all};
use crate::records::read_history;
use crate::render;
use crate::signing::{SigningKey, verify};
use federator_core::document::{Finding, judge};
use federator_core::history::{ClosedOperation, merge};
use node_agent_wire::DcName;

pub(super) async fn run(session: &Session, check: bool) -> Exit {
    let reads: Vec<Local<'_, _>> = session
        .federation
        .dcs
        .iter()
        .map(|(dc, dcs)| -> Local<'_, _> { Box::pin(async move { (dc, read_history(dcs).await) }) })
        .collect();
    let mut histories = Vec::new();
    for (dc, result) in all(reads).await {
        match result {
            Ok(history) => histories.push((dc, history)),
            Err(error) => eprintln!("warning: {error}"),
        }
    }
    if histories.is_empty() {
        eprintln!("error: no datacenter answered");
        return Exit::Failed;
    }
    if check {
        return verified(session, &histories);
    }
    let all: Vec<Vec<ClosedOperation>> = histories.into_iter().map(|(_, list)| list).collect();
    print!("{}", render::history(&merge(&all)));
    Exit::Done
}

/// Every copy is looked at: somebody may have changed only one.
fn verified(session: &Session, histories: &[(&DcName, Vec<ClosedOperation>)]) -> Exit {
    let settings = &session.federation.settings;
    let mut trusted = settings.trusted_keys.clone();
    if let Some(file) = &settings.signing_key_file {
        match SigningKey::read(file) {
            Ok(key) => trusted.push(key.public()),
            Err(why) => eprintln!("warning: signing_key_file: {why}"),
        }
    }
    let (mut promotions, mut bad) = (0_usize, 0_usize);
    for (dc, history) in histories {
        for entry in history {
            let signature = entry.document.as_ref().map(|document| verify(document, &trusted));
            let Some(finding) = judge(entry, signature, &settings.federation) else { continue };
            promotions += 1;
            let key = entry.document.as_ref().map_or("", |document| document.public_key.as_str());
            let (verdict, words) = match finding {
                Finding::Good => ("ok", format!("signed by {key}")),
                Finding::Weak(why) if key.is_empty() => ("warning", why.to_owned()),
                Finding::Weak(why) => ("warning", format!("{why}: {key}")),
                Finding::Bad(why) => {
                    bad += 1;
                    ("BAD", why)
                }
            };
            println!("  {verdict:<8} {dc}: {}, epoch {}: {words}", entry.id, entry.epoch);
        }
    }
    println!("{promotions} entries of promotions were looked at, {bad} are bad.");
    if bad > 0 { Exit::Failed } else { Exit::Done }
}
