//! `federator switchover --to DC [--at TIME | --window BEGIN/END]`.

use super::operation::{agree, execute, refused, request};
use super::{Exit, Session};
use crate::clock::{moment, now_us};
use crate::collect::{Depth, collect};
use crate::interrupts::Interrupts;
use crate::render;
use crate::signing::sha256;
use federator_core::guards::Refusal;
use federator_core::inventory::Inventory;
use federator_core::plan::Plan;
use federator_core::planner::{Answer, Outcome, switchover};
use federator_core::runway;
use federator_core::window::{Again, Agreed, Place, Window, WindowError, again, line_every};
use node_agent_wire::DcName;
use node_agent_wire::federation::Phase;
use std::time::Duration;

/// Between two looks at the clock: it may be set meanwhile.
const TICK: Duration = Duration::from_millis(500);
/// Between two looks at the federation, while the window is open and something stands in the way.
const AGAIN: Duration = Duration::from_secs(5);
/// So many digits of the plan's hash are shown.
const HASH_DIGITS: usize = 12;

/// What is wanted.
pub(super) struct Wish {
    /// The new primary datacenter.
    pub(super) to: DcName,
    /// `--at`.
    pub(super) at: Option<String>,
    /// `--window`.
    pub(super) window: Option<String>,
    /// The longest write pause.
    pub(super) pause_max: Option<Duration>,
    /// Without the step `pre-sync`.
    pub(super) no_pre_sync: bool,
}

pub(super) async fn run(session: &Session, wish: &Wish) -> Exit {
    let window = match wish.window(now_us()) {
        Ok(window) => window,
        Err((option, error)) => {
            eprintln!("error: {option} {error}");
            eprintln!("Nothing was changed.");
            return Exit::Usage;
        }
    };
    let (inventory, answer) = wish.look(session).await;
    print!("{}", render::checklist(&answer.checklist));
    let agreed = match &answer.outcome {
        Outcome::Plan(plan) => Some(Agreed::of(plan, &answer.checklist)),
        Outcome::NothingToDo(_) | Outcome::Refused(_) => None,
    };
    let plan = match agree(session, answer.outcome, &wish.words(window)) {
        Ok(plan) => plan,
        Err(exit) => return exit,
    };
    let (inventory, plan) = match (window, agreed) {
        (Some(window), Some(agreed)) => match later(session, wish, window, &agreed).await {
            Ok(found) => found,
            Err(exit) => return exit,
        },
        (_, _) => (inventory, plan),
    };
    execute(session, inventory, plan, Phase::Running, None, wish.pause_max).await
}

impl Wish {
    fn window(&self, now_us: i64) -> Result<Option<Window>, (&'static str, WindowError)> {
        match (&self.at, &self.window) {
            (Some(text), _) => Window::at(text, now_us).map(Some).map_err(|e| ("--at", e)),
            (None, Some(text)) => {
                Window::between(text, now_us).map(Some).map_err(|e| ("--window", e))
            }
            (None, None) => Ok(None),
        }
    }

    async fn look(&self, session: &Session) -> (Inventory, Answer) {
        let inventory = collect(&session.federation, Depth::Preflight, None).await;
        let pre_sync = !self.no_pre_sync;
        let answer = switchover::plan_with(&inventory, &self.to, &request(session), pre_sync);
        (inventory, answer)
    }

    /// What is to be said beside the plan.
    fn words(&self, window: Option<Window>) -> Vec<String> {
        let pause = self.pause_max.map(|limit| {
            let limit = humantime::format_duration(limit);
            format!("Turned back when nothing is committed {limit} after the fence was begun.")
        });
        let window = window.map(|window| {
            let (from, to) = (moment(window.from_us), moment(window.to_us));
            format!("Begins at {from} or later, not after {to}; everything is checked again then.")
        });
        pause.into_iter().chain(window).collect()
    }
}

/// Waits until the window opens, and looks again until it is what was agreed to and nothing stands
/// in the way. Nothing is changed meanwhile, wherever it ends.
async fn later(
    session: &Session,
    wish: &Wish,
    window: Window,
    agreed: &Agreed,
) -> Result<(Inventory, Plan), Exit> {
    let mut interrupts = match Interrupts::listen() {
        Ok(interrupts) => interrupts,
        Err(error) => {
            eprintln!("error: could not listen for signals: {error}");
            return Err(Exit::Failed);
        }
    };
    let hash = sha256(&agreed.canonical());
    let short = hash.get(..HASH_DIGITS).unwrap_or(&hash);
    println!("Waiting, plan {short}; Ctrl-C ends it, and nothing is changed before it begins.");
    let waited = async {
        opens(window).await;
        checked(session, wish, window, agreed).await
    };
    tokio::select! {
        found = waited => found,
        () = interrupts.next() => {
            eprintln!("Interrupted while waiting. Nothing was changed.");
            Err(Exit::Refused)
        }
    }
}

/// Waits until the window has begun, with a line now and then.
async fn opens(window: Window) {
    let mut next = i64::MAX;
    while let Place::Ahead(left) = window.place(now_us()) {
        if left <= next {
            let seconds = u64::try_from(left / 1_000_000).unwrap_or(0);
            render::Progress.say(&format!("begins in {}", runway::duration(seconds)));
            next = left - line_every(left);
        }
        let left = Duration::from_micros(u64::try_from(left).unwrap_or(0));
        tokio::time::sleep(left.min(TICK)).await;
    }
}

async fn checked(
    session: &Session,
    wish: &Wish,
    window: Window,
    agreed: &Agreed,
) -> Result<(Inventory, Plan), Exit> {
    let mut told: Vec<Refusal> = Vec::new();
    loop {
        let (inventory, answer) = wish.look(session).await;
        let found = again(agreed, answer, &inventory);
        if let Place::Over(_) = window.place(now_us()) {
            return Err(missed(window, &told));
        }
        match found {
            Again::Begin(plan) => {
                println!("Checked again, it is the plan that was agreed to:");
                print!("{}", render::plan(&plan));
                return Ok((inventory, plan));
            }
            Again::Differs(list) => {
                eprintln!("refused: it is not the plan any more that was agreed to");
                for line in list {
                    eprintln!("detail: {line}");
                }
                eprintln!("hint: look at federator status, and type the command again");
                eprintln!("Nothing was changed.");
                return Err(Exit::Refused);
            }
            Again::NotYet(list) => {
                if list != told {
                    eprint!("{}", render::refusals(&list));
                    let end = moment(window.to_us);
                    eprintln!("Looking again every {} s, until {end}.", AGAIN.as_secs());
                    told = list;
                }
            }
        }
        tokio::time::sleep(AGAIN).await;
    }
}

/// The window has ended and nothing was begun.
fn missed(window: Window, told: &[Refusal]) -> Exit {
    let end = moment(window.to_us);
    eprintln!("refused: it may not begin after {end}, and that has passed");
    if told.is_empty() {
        eprintln!("Nothing was changed.");
        return Exit::Refused;
    }
    eprintln!("Until then stood in the way:");
    refused(told)
}
