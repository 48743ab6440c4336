//! What an operator types: the real planners and the real resume decision over an inventory that
//! is made from the world.

use super::agent::config_json;
use super::record::{Held, Kind, Rec, SYSTEM, SmallPhase};
use super::world::{Hand, Id, PLACES, Pg, Places, Run, Way, World};
use super::{dc, id};
use crate::wal::Wal;
use federator_core::configuration::Seed;
use federator_core::inventory::{DcView, Fact, Inventory, NodeView, Site, SqlFacts, Versioned};
use federator_core::plan::{Plan, StepKind};
use federator_core::planner::promotion::Intent as PromotionIntent;
use federator_core::planner::{Outcome, Request, fence, promotion, rejoin, switchover};
use federator_core::resume::{Direction, OpenOperation, open_operations};
use node_agent_wire::federation::{Policies, Retention};
use node_agent_wire::member::{MemberData, Role, state};
use node_agent_wire::{Epoch, MemberName, Revision, SlotName};
use std::cell::RefCell;
use std::collections::BTreeMap;

/// A command.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Command {
    /// `federator switchover --to`
    Switchover(Id),
    /// `federator promote`, with an attestation or without.
    Promote(Id, bool),
    /// `federator rejoin`
    Rejoin(Id),
    /// `federator fence`, `fence --lift` and `confirm`
    Hand(Hand, Id),
    /// `federator resume`
    Resume,
    /// `federator abort`
    Abort,
}

/// One datacenter as a federator collects it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Brief {
    rec: Rec,
    standby: Option<Id>,
    pg: Pg,
    wal: Wal,
    alive: bool,
    streams: bool,
}

type Question = (u8, Command, Places, u8, [Brief; PLACES]);

thread_local! {
    static KNOWN: RefCell<BTreeMap<Question, Option<Run>>> =
        const { RefCell::new(BTreeMap::new()) };
    static STEPS: RefCell<BTreeMap<(Kind, bool), Vec<StepKind>>> =
        const { RefCell::new(BTreeMap::new()) };
}

/// What the command begins while these datacenters do not answer; nothing when it is refused.
#[must_use]
pub fn ask(world: &World, command: Command, silent: Places) -> Option<Run> {
    let brief = |place: usize| {
        let (dc, place) = (&world.dcs[place], u8::try_from(place).unwrap_or(0));
        Brief {
            rec: dc.rec,
            standby: dc.standby,
            pg: dc.pg,
            wal: dc.wal,
            alive: dc.asked,
            streams: world.streams(place),
        }
    };
    let briefs = [brief(0), brief(1), brief(2)];
    let question = (world.count, command, silent, world.operations, briefs);
    if let Some(known) = KNOWN.with_borrow(|known| known.get(&question).copied()) {
        return known;
    }
    let run = plan(&question);
    KNOWN.with_borrow_mut(|known| known.insert(question, run));
    run
}

/// The steps of a plan of this kind.
#[must_use]
pub fn steps(kind: Kind, former_answers: bool) -> Vec<StepKind> {
    let key = (kind, former_answers);
    if let Some(known) = STEPS.with_borrow(|known| known.get(&key).cloned()) {
        return known;
    }
    let (a, b) = (dc(0), dc(1));
    let steps = match kind {
        // What comes before the fence is an optimisation: nothing rests on it.
        Kind::Switchover => switchover::steps(&a, &b, false),
        Kind::Promotion => {
            let extent = promotion::Extent { former_answers, ..promotion::Extent::default() };
            promotion::steps(&a, &b, extent)
        }
        Kind::Rejoin => rejoin::steps(&a, &b),
    };
    let kinds: Vec<StepKind> = steps.iter().map(|step| step.kind).collect();
    STEPS.with_borrow_mut(|known| known.insert(key, kinds.clone()));
    kinds
}

fn plan(question: &Question) -> Option<Run> {
    let (count, command, silent, operations, briefs) = question;
    let inventory = inventory(*count, *silent, briefs);
    let id_of = format!("op-{operations}");
    let request = Request {
        id: id_of.as_str().into(),
        by: "ann".into(),
        now_us: 0,
        force: false,
        policies: Policies::default(),
    };
    let outcome = match command {
        Command::Switchover(to) => {
            switchover::plan_with(&inventory, &dc(*to), &request, false).outcome
        }
        Command::Promote(to, attested) => {
            let attest = attested.then(|| "it is off".to_owned());
            let intent = PromotionIntent { attest, ..PromotionIntent::default() };
            promotion::plan(&inventory, &dc(*to), &intent, &request).outcome
        }
        Command::Rejoin(place) => rejoin::plan(&inventory, &dc(*place), &request).outcome,
        Command::Hand(hand, place) => return by_hand(&inventory, *hand, *place),
        Command::Resume => return resume(&inventory),
        Command::Abort => return abort(&inventory),
    };
    match outcome {
        Outcome::Plan(plan) => Some(begun(&inventory, &plan)),
        Outcome::NothingToDo(_) | Outcome::Refused(_) => None,
    }
}

fn begun(inventory: &Inventory, plan: &Plan) -> Run {
    assert_eq!(plan.check(), Ok(()), "a planner makes no defective plan");
    let mut run = of_plan(plan);
    run.orphan = open_operations(inventory)
        .into_iter()
        .find(|open| open.direction == Direction::Over && open.held_by.contains(&plan.to))
        .map(|open| Held::of(&open.operation).id);
    run
}

fn of_plan(plan: &Plan) -> Run {
    let op = Held::of(&plan.operation());
    let kinds: Vec<StepKind> = plan.steps.iter().map(|step| step.kind).collect();
    let former_answers = kinds.contains(&StepKind::Fence);
    assert_eq!(kinds, steps(op.kind, former_answers), "the steps of a plan are those of its kind");
    Run {
        op,
        primary: id(&plan.primary),
        followers: plan.followers.iter().map(id).fold(Places::default(), Places::with),
        former_answers,
        ..nothing(op.to)
    }
}

fn by_hand(inventory: &Inventory, hand: Hand, place: Id) -> Option<Run> {
    let name = dc(place);
    let planned = match hand {
        Hand::Fence => fence::plan(inventory, &name, false, "ann", 0),
        Hand::Lift => fence::plan(inventory, &name, true, "ann", 0),
        Hand::Confirm => {
            let found = fence::confirmable(inventory, &name);
            found.map(|_| fence::FencePlan::Do(String::new()))
        }
    };
    match planned {
        Ok(fence::FencePlan::Do(_)) => Some(Run { way: Way::Hand(hand), ..nothing(place) }),
        Ok(fence::FencePlan::NothingToDo(_)) | Err(_) => None,
    }
}

/// A run of no operation, at a datacenter.
fn nothing(place: Id) -> Run {
    let op = Held {
        id: 0,
        kind: Kind::Rejoin,
        from: None,
        to: place,
        next_epoch: 0,
        phase: SmallPhase::Running,
        proof: None,
    };
    Run {
        op,
        primary: place,
        followers: Places::default(),
        former_answers: false,
        found_open: false,
        committed: false,
        way: Way::Forward,
        step: 0,
        access: 0,
        former: None,
        winner: None,
        behind: Places::default(),
        copies: Places::default(),
        orphan: None,
        dark: Places::default(),
    }
}

fn open(inventory: &Inventory) -> Option<OpenOperation> {
    open_operations(inventory).into_iter().next()
}

/// `resume` in cli/resume.rs.
fn resume(inventory: &Inventory) -> Option<Run> {
    let open = open(inventory)?;
    let committed = match open.direction {
        Direction::Either => false,
        Direction::Forward => true,
        Direction::Back => return Some(go_back(&open)),
        Direction::Over => return Some(clear(&open)),
        Direction::Unknown => return None,
    };
    let plan = federator_core::planner::rebuild(&open.operation, inventory);
    plan.check().ok()?;
    Some(Run { found_open: true, committed, ..of_plan(&plan) })
}

/// `abort` in cli/resume.rs.
fn abort(inventory: &Inventory) -> Option<Run> {
    let open = open(inventory)?;
    match open.direction {
        Direction::Either | Direction::Back => Some(go_back(&open)),
        Direction::Over => Some(clear(&open)),
        Direction::Forward | Direction::Unknown => None,
    }
}

fn go_back(open: &OpenOperation) -> Run {
    let op = Held::of(&open.operation);
    Run { op, way: Way::Back, ..nothing(op.to) }
}

fn clear(open: &OpenOperation) -> Run {
    let op = Held::of(&open.operation);
    let copies = open.held_by.iter().map(id).fold(Places::default(), Places::with);
    Run { op, way: Way::Clear, copies, ..nothing(op.to) }
}

fn inventory(count: u8, silent: Places, briefs: &[Brief; PLACES]) -> Inventory {
    let site = |place: Id| Site {
        follows: None,
        isolation: node_agent_wire::federation::Isolation::Manual,
        retention: Retention::default(),
        scope: "shop".into(),
        namespace: "/service".into(),
        etcd: vec![format!("{}:2379", dc(place))],
        slot: SlotName::from_name(dc(place).as_str()),
        seed: Seed::default(),
    };
    let fact = |place: Id| match silent.has(place) {
        true => Fact::Unknown { since_us: 0, why: "no answer".into() },
        false => Fact::Known(view(count, place, &briefs[usize::from(place)])),
    };
    Inventory {
        federation: "shop".into(),
        at_us: 0,
        sites: (0..count).map(|place| (dc(place), site(place))).collect(),
        dcs: (0..count).map(|place| (dc(place), fact(place))).collect(),
    }
}

fn view(count: u8, place: Id, brief: &Brief) -> DcView {
    let name = MemberName::new(format!("{}-pg1", dc(place)));
    let writable = brief.pg == Pg::Primary;
    let runs = match brief.pg {
        Pg::Primary | Pg::Standby { .. } => true,
        Pg::Down { .. } => false,
    };
    let said = if runs { state::RUNNING } else { "stopped" };
    let node = NodeView {
        state: said.into(),
        writable,
        holds_leader_key: true,
        timeline: brief.wal.timeline(),
        lsn: brief.wal.end(),
        replay_lsn: brief.wal.end(),
        replication_state: if brief.streams { "streaming" } else { "" }.into(),
        epoch: Epoch(u64::from(brief.rec.epoch)),
        system_id: SYSTEM.into(),
        ..NodeView::default()
    };
    let member = MemberData {
        conn_url: format!("postgres://{}:5432/postgres", dc(place)),
        state: said.into(),
        role: Some(if writable { Role::Primary } else { Role::StandbyLeader }),
        grpc: Some(format!("{}:8009", dc(place))),
        ..MemberData::default()
    };
    let sql = SqlFacts {
        receiver: if brief.streams { "streaming" } else { "" }.into(),
        received_timeline: brief.streams.then(|| brief.wal.timeline()),
        system_id: SYSTEM.into(),
        ..SqlFacts::default()
    };
    let answer = match brief.alive {
        true => Fact::Known(node),
        false => Fact::Unknown { since_us: 0, why: "the agent does not answer".into() },
    };
    DcView {
        record: Some(Versioned { revision: Revision(1), value: brief.rec.real(place, count) }),
        leader: brief.alive.then(|| name.clone()),
        members: [(name.clone(), member)].into(),
        config: Some(Versioned { revision: Revision(1), value: config_json(brief.standby) }),
        initialize: Some(SYSTEM.into()),
        nodes: [(name, answer)].into(),
        sql: Some(Fact::Known(sql)),
        ..DcView::default()
    }
}
