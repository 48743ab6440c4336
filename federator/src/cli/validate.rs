//! `federator validate DC`: could the primary role move there now, and what would it cost?

use super::operation::request;
use super::{Exit, Session};
use crate::collect::{Depth, collect};
use crate::examine;
use crate::render;
use federator_core::guards::Refusal;
use federator_core::planner::unknown_dc;
use federator_core::readiness::{self, Flag};
use federator_core::{runway, topology};
use node_agent_wire::DcName;

pub(super) async fn run(session: &Session, dc: &DcName, strict: bool, json: bool) -> Exit {
    let mut inventory = collect(&session.federation, Depth::Preflight, None).await;
    examine::sizes(&session.federation, &mut inventory, None).await;
    let history = inventory.history();
    let Some(found) = readiness::of(&inventory, dc, &history, &request(session)) else {
        if inventory.primary() == Some(dc) {
            println!("{dc} is the primary datacenter. Validate the one that is to take over.");
            return Exit::Done;
        }
        eprint!("{}", render::refusals(&[unknown_dc(&inventory, dc)]));
        return Exit::Usage;
    };
    if json {
        match serde_json::to_string_pretty(&found) {
            Ok(text) => println!("{text}"),
            Err(error) => {
                eprintln!("error: the report has no JSON form: {error}");
                return Exit::Failed;
            }
        }
    } else {
        print!("{}", render::readiness(&found));
        if let Some(runway) = runway::of(&inventory, dc) {
            println!("{dc} may be away: {}", runway.words());
        }
    }
    let limit = session.federation.settings.policies.runway_warning_s;
    let links = runway::problems(&inventory, dc, limit);
    for problem in &links {
        eprintln!("warning: {}", problem.text);
        eprintln!("hint: {}", problem.next);
    }
    let flags = [&found.switchover, &found.promotion];
    let reasons: Vec<Refusal> = flags.iter().flat_map(|flag| flag.reasons.clone()).collect();
    let ready = reasons.is_empty();
    if !json {
        eprint!("{}", render::refusals(&once(&reasons)));
    }
    let doubts = |flag: &&Flag| !flag.warnings.is_empty();
    let grave = links.iter().any(|p| p.severity > topology::Severity::Notice);
    let doubtful = flags.iter().any(doubts) || grave;
    match (ready, strict && doubtful) {
        (true, false) => Exit::Done,
        (true, true) => {
            eprintln!("refused: --strict takes warnings for failures");
            Exit::Refused
        }
        (false, _) if reasons.iter().all(Refusal::is_silence) => Exit::Failed,
        (false, _) => Exit::Refused,
    }
}

/// What stands in the way of both is said once.
fn once(reasons: &[Refusal]) -> Vec<Refusal> {
    let mut seen: Vec<Refusal> = Vec::new();
    for reason in reasons {
        if !seen.contains(reason) {
            seen.push(reason.clone());
        }
    }
    seen
}
