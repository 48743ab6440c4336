//! `federator resolve --keep DC`: one epoch that two datacenters claim is settled.

use super::consent::{self, Needed};
use super::{Exit, Session};
use crate::clock::{now_us, operation_id};
use crate::collect::{Depth, collect};
use crate::execute::{self, StepError};
use crate::records::UpdateError;
use crate::render::{self, Progress};
use federator_core::guards::Refusal;
use federator_core::planner::resolve::{self, ResolvePlan, Settlement};
use node_agent_wire::DcName;

pub(super) async fn run(session: &Session, keep: &DcName) -> Exit {
    let inventory = collect(&session.federation, Depth::Status, None).await;
    let plan = match resolve::plan(&inventory, keep) {
        Ok(ResolvePlan::Do(plan)) => plan,
        Ok(ResolvePlan::NothingToDo(why)) => {
            println!("Nothing to do: {why}.");
            return Exit::Done;
        }
        Err(refusal) => return refused(refusal),
    };
    show(&plan);
    if session.common.dry_run {
        println!("Dry run: nothing was changed.");
        return Exit::Done;
    }
    if let Err(exit) = consent::ask(session, Needed::Yes) {
        return exit;
    }
    let (by, id) = (session.by(), operation_id(now_us()));
    let names = (by.as_str(), &id);
    let limit = session.limit();
    match execute::resolve(&session.federation, &plan, names, limit, &Progress).await {
        Ok(record) => {
            println!("{keep} is the primary datacenter at epoch {}.", record.epoch);
            for dc in &plan.losers {
                println!("What only {dc} has is reported and kept when it returns. Next:");
                println!("    federator rejoin {dc}");
            }
            Exit::Done
        }
        Err(error @ StepError::Update(UpdateError::Change(_))) => {
            eprintln!("refused: {error}");
            eprintln!("hint: federator status");
            Exit::Refused
        }
        Err(error) => {
            eprintln!("error: {error}");
            eprintln!(
                "It is not settled yet. Type the same again: federator resolve --keep {keep}"
            );
            Exit::Partly
        }
    }
}

fn refused(refusal: Refusal) -> Exit {
    let silence = refusal.is_silence();
    eprint!("{}", render::refusals(&[refusal]));
    eprintln!("Nothing was changed.");
    if silence { Exit::Failed } else { Exit::Refused }
}

fn show(plan: &Settlement) {
    let losers: Vec<&str> = plan.losers.iter().map(DcName::as_str).collect();
    let (keep, losers) = (&plan.keep, losers.join(" and "));
    println!("Epoch {} is claimed by {keep} and {losers}. Plan:", plan.epoch);
    println!(
        "  1. decide     {keep} is kept, for good: written into the record of {}",
        plan.decides
    );
    println!("  2. give-way   {losers} is fenced, and none of its nodes accepts writes");
    println!("  3. keep       {keep} begins epoch {}, its fence is lifted", plan.epoch.next());
    println!("  4. supersede  {losers} learns of it, and waits for federator rejoin");
}
