//! What the commands that carry out a plan have in common: the answer is shown, consent is asked,
//! the plan is run, and the ending becomes a last line and an exit code.

use super::consent::{self, Needed};
use super::{Exit, Session};
use crate::clock::{now_us, operation_id};
use crate::execute::{self, Aborted, Context, Ending};
use crate::records::UpdateError;
use crate::render::{self, Progress};
use crate::signing::SigningKey;
use federator_core::guards::Refusal;
use federator_core::inventory::Inventory;
use federator_core::loss;
use federator_core::plan::Plan;
use federator_core::planner::{Answer, Outcome, Request};
use node_agent_wire::federation::{Operation, OperationKind, Phase};
use std::time::{Duration, Instant};

/// The request of a command.
pub(crate) fn request(session: &Session) -> Request {
    let now_us = now_us();
    Request {
        id: operation_id(now_us),
        by: session.by(),
        now_us,
        force: session.common.force,
        policies: session.federation.settings.policies.clone(),
    }
}

/// Shows what the planner answers, and carries the plan out.
pub(crate) async fn carry_out(session: &Session, inventory: Inventory, answer: Answer) -> Exit {
    print!("{}", render::checklist(&answer.checklist));
    proceed(session, inventory, answer.outcome).await
}

/// The same, where the checklist has been shown.
pub(crate) async fn proceed(session: &Session, inventory: Inventory, outcome: Outcome) -> Exit {
    match agree(session, outcome, &[]) {
        Ok(plan) => execute(session, inventory, plan, Phase::Running, None, None).await,
        Err(exit) => exit,
    }
}

/// Shows the plan, with `more` lines about it, and gets consent; or says why there is none, with
/// the exit code to end with.
pub(crate) fn agree(session: &Session, outcome: Outcome, more: &[String]) -> Result<Plan, Exit> {
    let plan = match outcome {
        Outcome::Plan(plan) => plan,
        Outcome::NothingToDo(why) => {
            println!("Nothing to do: {why}.");
            return Err(Exit::Done);
        }
        Outcome::Refused(refusals) => return Err(refused(&refusals)),
    };
    if let Err(defect) = plan.check() {
        eprintln!("error: the plan is defective and was not begun: {defect}");
        return Err(Exit::Failed);
    }
    print!("{}", render::plan(&plan));
    for line in more {
        println!("{line}");
    }
    if session.common.dry_run {
        println!("Dry run: nothing was changed.");
        return Err(Exit::Done);
    }
    let possible = plan.expected_loss.as_ref().is_some_and(loss::possible);
    let needed = if possible { Needed::Name } else { Needed::Yes };
    consent::ask(session, needed).map(|()| plan)
}

/// Says what stands in the way, before anything was changed.
pub(crate) fn refused(refusals: &[Refusal]) -> Exit {
    eprint!("{}", render::refusals(refusals));
    eprintln!("Nothing was changed.");
    let silence = refusals.iter().all(Refusal::is_silence);
    if silence { Exit::Failed } else { Exit::Refused }
}

/// Runs a plan, from its beginning or resumed. `pause_max`: the longest write pause.
pub(crate) async fn execute(
    session: &Session,
    inventory: Inventory,
    plan: Plan,
    phase: Phase,
    resumed: Option<&Operation>,
    pause_max: Option<Duration>,
) -> Exit {
    // Before anything is changed: a key that can't be read must not be found at the commit.
    let signing = match signing_key(session, &plan, phase) {
        Ok(key) => key,
        Err(why) => {
            eprintln!("error: signing_key_file: {why}");
            eprintln!("hint: correct it, or take it out of the settings to go on unsigned");
            return Exit::Failed;
        }
    };
    let progress = Progress;
    let limits = (session.limit(), session.clone_limit());
    let (kind, to, from) = (plan.kind, plan.to.clone(), plan.from.clone());
    let started = Instant::now();
    let mut context = Context::new(&session.federation, plan, inventory, &progress, limits);
    context.signing = signing;
    context.resumed = resumed.is_some();
    context.taken = resumed.is_some();
    // Of a step that goes part by part, the parts that are done are not done again.
    let journal = resumed.iter().flat_map(|operation| &operation.journal);
    context.journal = journal.filter(|line| !line.parts.is_empty()).cloned().collect();
    context.max_rate = session.common.max_rate;
    context.pause_max = pause_max;
    let ending = Box::pin(execute::run(&mut context, phase)).await;
    let took = started.elapsed().as_millis();
    match ending {
        Ending::Done => {
            println!("Done in {took} ms: {}", success(kind, &to, from.as_ref()));
            Exit::Done
        }
        Ending::LeftBehind(list) => {
            println!("Done in {took} ms: {}", success(kind, &to, from.as_ref()));
            let mut exit = Exit::Done;
            for dc in list {
                println!("{dc} did not answer and does not follow yet.");
                if from.as_ref() == Some(&dc) {
                    println!("When it is back type: federator rejoin {dc}");
                    exit = Exit::Partly;
                } else {
                    println!("Its agents follow the change when it is back: federator status");
                }
            }
            exit
        }
        Ending::NotTaken(error) => not_taken(&error),
        Ending::TurnedBack { why, back } => {
            eprintln!("error: {why}");
            turned_back(&back);
            Exit::Aborted
        }
        Ending::Partly { step, why, next } => {
            eprintln!("error: step {step}: {why}");
            eprintln!("The operation stays open. Type: {next}");
            Exit::Partly
        }
    }
}

/// What signs the evidence at the commit of a promotion, where the settings name it.
fn signing_key(session: &Session, plan: &Plan, phase: Phase) -> Result<Option<SigningKey>, String> {
    let signs = plan.kind == OperationKind::Promotion && phase == Phase::Running;
    let file = session.federation.settings.signing_key_file.as_ref().filter(|_| signs);
    file.map(|file| SigningKey::read(file)).transpose()
}

fn not_taken(error: &execute::StepError) -> Exit {
    eprintln!("error: {error}");
    let refused = matches!(error, execute::StepError::Update(UpdateError::Change(_)));
    if refused {
        eprintln!("hint: federator status shows what is in progress");
        Exit::Refused
    } else {
        Exit::Failed
    }
}

fn success(
    kind: OperationKind,
    to: &node_agent_wire::DcName,
    from: Option<&node_agent_wire::DcName>,
) -> String {
    match kind {
        OperationKind::Setup => "the standby datacenters stream".into(),
        OperationKind::Switchover => format!("{to} is the primary datacenter"),
        OperationKind::Promotion => {
            let from = from.map_or("DC", |dc| dc.as_str());
            format!("{to} is the primary datacenter; when {from} is back: federator rejoin {from}")
        }
        OperationKind::Rejoin => format!("{to} is a standby again"),
        OperationKind::Fence => format!("{to} is fenced"),
        OperationKind::Remove => {
            let from = from.map_or("the datacenter", |dc| dc.as_str());
            format!("{from} is no member of the federation any more")
        }
    }
}

/// Says what the way back led to.
pub(crate) fn turned_back(back: &Aborted) {
    match back {
        Aborted::PrimaryAgain { dc } => {
            println!(
                "Aborted before the commit: {dc} is the primary datacenter and accepts writes."
            );
        }
        Aborted::NotWritableYet { dc, seen } => {
            println!("Aborted before the commit: the fence of {dc} is lifted.");
            println!("{dc} does not accept writes yet ({seen}). Look at: federator status");
        }
        Aborted::GivenUp { dc } => {
            println!(
                "Aborted before the commit. {dc} does not answer: if it was fenced, it stays so."
            );
            println!("To go on without it: federator promote DC --attest 'REASON'");
            println!("When {dc} is back: federator resume clears its copy of the operation.");
        }
        Aborted::Closed => println!("Aborted: the operation is closed, the roles are unchanged."),
    }
}
