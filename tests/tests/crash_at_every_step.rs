//! Goal: the command killed on either side of any step of a switchover or a promotion leaves
//! something that `resume` ends, and before the commit `abort` too: with exactly one primary
//! datacenter each time, and with every row that was ever acknowledged.
//! Method: one federation under load for each kind of operation, its datacenters changing places.
//! The steps are those of the plan that the command shows; at the end the history of the closed
//! operations, which no test writes, says whether a step was left out.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::fs;

use federator_core::history::{self, ClosedOperation, Outcome};
use federator_core::plan::{Step, StepKind};
use federator_core::planner::{promotion, switchover};
use federator_tests::boundary::{Boundary, Side, planned};
use federator_tests::federator::exit;
use federator_tests::patience::until;
use federator_tests::rig::{READY, Rig, assert_nothing_lost};
use federator_tests::rows;
use federator_tests::store::Store;
use lab::ledger::Writer;
use lab::prober::Prober;
use node_agent_wire::federation::{FederationRecord, OperationKind, Phase};
use node_agent_wire::keys::Leaf;
use node_agent_wire::{DcName, Epoch};
use serde_json::json;

/// Rows that must be acknowledged before a round may end.
const ROWS_AFTER: u64 = 20;
/// What `resume` and `abort` say when there is nothing for them.
const NOTHING_OPEN: &str = "Nothing to do: no operation is in progress";
/// The command's name for the way back, as a place to be killed at.
const WAY_BACK: &str = "abort";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Resume,
    Abort,
    /// An abort that is killed as well, and then brought to its end by a resume.
    KilledAbort(Side),
}

/// Every place, first with an abort where that is allowed, then with a resume.
fn rounds(steps: &[Step]) -> Vec<(Boundary, Way)> {
    let ways = |at: Boundary| {
        let back = (!at.committed).then_some((at, Way::Abort));
        back.into_iter().chain([(at, Way::Resume)])
    };
    Boundary::all(steps).into_iter().flat_map(ways).collect()
}

struct Scene {
    rig: Rig,
    prober: Prober,
    /// The datacenter that is primary between two rounds, and the one that is not.
    primary: String,
    standby: String,
    epoch: Epoch,
    /// Where the command was killed so far.
    killed_at: BTreeSet<(&'static str, Side)>,
    /// How many operations must be in the history, by their outcome.
    done: usize,
    aborted: usize,
}

impl Scene {
    async fn set(test: &'static str) -> (Self, Writer) {
        let rig = Rig::start(test, "two-dc.yaml");
        // A fencer for both, and a gap: what a promotion may have of steps, it has.
        let fenced = rig.lab.layout.dir.join("fenced");
        let script = format!("echo $FEDERATOR_OPERATION >> {}", fenced.display());
        rig.settings(|settings| {
            settings["policies"] = json!({"sequence_gap": 1000});
            for dc in ["dc1", "dc2"] {
                settings["datacenters"][dc]["fencer"] =
                    json!({"command": ["/bin/sh", "-c", script]});
            }
        });
        rig.federate().await;
        let epoch = rig.records().await["dc1"].epoch;
        let writer = rig.writer("before").await;
        let prober = rig.prober().await;
        let (primary, standby) = ("dc1".to_owned(), "dc2".to_owned());
        let killed_at = BTreeSet::new();
        let scene = Self { rig, prober, primary, standby, epoch, killed_at, done: 0, aborted: 0 };
        (scene, writer)
    }

    fn dcs(&self) -> (DcName, DcName) {
        (DcName::new(&self.primary), DcName::new(&self.standby))
    }

    /// Waits until the command may be carried out, and checks that it shows these steps.
    async fn assert_planned(&self, command: &[&str], steps: &[Step]) {
        let words = [command, &["--dry-run"]].concat();
        let known = steps.iter().map(|step| (step.kind.name().to_owned(), step.past_commit));
        let known: Vec<_> = known.collect();
        // What may be lost is known only when the target has replayed everything.
        until(&format!("the steps of {}", command.join(" ")), READY, async || {
            let done = self.rig.federator_quiet(&words).await;
            let right = done.code == Some(exit::DONE) && planned(&done.stdout) == known;
            if right { Ok(()) } else { Err(done.to_string()) }
        })
        .await;
    }

    /// Runs the command until it is killed; if it is to be resumed, kills the first attempt at that
    /// in the same place, so that a step that was done is done again.
    async fn crash(&mut self, command: &[&str], at: Boundary, way: Way) {
        self.rig.federator_crashing(command, &at.name()).await;
        self.killed_at.insert((at.kind.name(), at.side));
        self.assert_left(at).await;
        // Past the commit its step is not begun again.
        let again = at.open && (at.kind, at.side) != (StepKind::Commit, Side::After);
        if again && way == Way::Resume {
            self.rig.federator_crashing(&["resume", "--yes"], &at.name()).await;
            self.assert_left(at).await;
        }
    }

    /// The record that counts says what a crash there must leave, and what may not happen any more
    /// is refused.
    async fn assert_left(&self, at: Boundary) {
        let record = self.record_of(&self.standby).await;
        let phase = record.operation.as_ref().map(|operation| operation.phase);
        let expected = match (at.open, at.committed) {
            (false, _) => None,
            (true, true) => Some(Phase::Committed),
            (true, false) => Some(Phase::Running),
        };
        assert_eq!(phase, expected, "at {}: {record:?}", at.name());
        let epoch = if at.committed { self.epoch.next() } else { self.epoch };
        assert_eq!(record.epoch, epoch, "at {}: {record:?}", at.name());
        if at.open && at.committed {
            let _ = self.rig.federator(&["abort", "--yes"]).await.expect(exit::REFUSED);
            let after = self.record_of(&self.standby).await;
            let both = [&record, &after].map(|r| (r.epoch, &r.primary, &r.operation));
            assert_eq!(both[0], both[1], "a refused abort has changed something");
        }
    }

    /// Goes on after the crash, and returns what was said; the end is the caller's to judge.
    async fn mend(&mut self, at: Boundary, way: Way) -> String {
        let command = match way {
            Way::Resume => "resume",
            Way::Abort => "abort",
            Way::KilledAbort(side) => {
                let place = Boundary::label(WAY_BACK, side);
                self.rig.federator_crashing(&["abort", "--yes"], &place).await;
                let record = self.record_of(&self.standby).await;
                let phase = record.operation.as_ref().map(|operation| operation.phase);
                assert_eq!(phase, Some(Phase::Aborting), "{record:?}");
                "resume"
            }
        };
        let done = self.rig.federator(&[command, "--yes"]).await.expect(exit::DONE);
        assert_eq!(done.stdout.contains(NOTHING_OPEN), !at.open, "{done}");
        let again = self.rig.federator_quiet(&["resume", "--yes"]).await.expect(exit::DONE);
        assert!(again.stdout.contains(NOTHING_OPEN), "{again}");
        if at.open && way != Way::Resume {
            self.aborted += 1;
        } else if at.open || at.committed {
            self.done += 1;
        }
        done.stdout
    }

    /// The standby datacenter has become primary.
    fn moved(&mut self) {
        std::mem::swap(&mut self.primary, &mut self.standby);
        self.epoch = self.epoch.next();
    }

    /// One primary by the records, the status and every single node; clients write on.
    async fn at_rest(&self, writer: &Writer) {
        let records = self.rig.settled(&self.primary).await;
        assert_eq!(records[&self.primary].epoch, self.epoch, "{records:?}");
        self.one_writer(&self.primary).await;
        self.rig.rows(writer, ROWS_AFTER).await;
    }

    /// Waits until one node accepts writes, and checks that it is in `dc`.
    async fn one_writer(&self, dc: &str) {
        let inside = self.rig.nodes_of(dc);
        until(&format!("one writable node, in {dc}"), READY, async || {
            let writable = self.writable().await;
            if writable.len() == 1 && inside.contains(&writable[0]) {
                Ok(())
            } else {
                Err(format!("writable: {writable:?}"))
            }
        })
        .await;
    }

    /// The nodes that are no standby by PostgreSQL's own word.
    async fn writable(&self) -> Vec<String> {
        let sql = "SELECT pg_is_in_recovery()::text";
        let mut found = Vec::new();
        for node in &self.rig.access.nodes {
            if rows::value(&self.rig.access, node, sql).await.is_ok_and(|value| value == "false") {
                found.push(node.name.clone());
            }
        }
        found
    }

    async fn record_of(&self, dc: &str) -> FederationRecord {
        Store::of(&self.rig.lab, dc).await.record().await
    }

    /// Every step that an operation of this kind has ever begun was killed on both sides, but for
    /// those that another test kills, and no operation was closed twice, or in another way than the
    /// rounds say.
    async fn assert_complete(&self, kind: OperationKind, elsewhere: &[Step]) {
        let mut histories: Vec<Vec<ClosedOperation>> = Vec::new();
        for dc in [&self.primary, &self.standby] {
            let store = Store::of(&self.rig.lab, dc).await;
            let (text, _) = store.get(Leaf::FederationHistory).await.unwrap();
            histories.push(serde_json::from_str(&text).unwrap());
        }
        // A datacenter without power does not hear of the end of an operation.
        let all = history::merge(&histories);
        let closed: Vec<_> = all.iter().filter(|entry| entry.kind == kind).collect();
        let count = |o: Outcome| closed.iter().filter(|entry| entry.outcome == o).count();
        assert_eq!((count(Outcome::Done), count(Outcome::Aborted)), (self.done, self.aborted));
        let elsewhere: BTreeSet<&str> = elsewhere.iter().map(|step| step.kind.name()).collect();
        let lines = closed.iter().flat_map(|entry| &entry.steps).map(|line| line.step.as_str());
        let begun: BTreeSet<&str> = lines.filter(|step| !elsewhere.contains(step)).collect();
        let here = self.killed_at.iter().filter(|(step, _)| !elsewhere.contains(step));
        let killed_at: BTreeSet<(&str, Side)> = here.copied().collect();
        let steps: BTreeSet<&str> = killed_at.iter().map(|(step, _)| *step).collect();
        let both = |step: &&'static str| [(*step, Side::Before), (*step, Side::After)];
        assert_eq!(steps, begun, "the steps that were killed, and those that there are");
        assert_eq!(killed_at, steps.iter().flat_map(both).collect(), "not on both sides");
    }
}

impl Scene {
    /// The fencer has run in one operation, once, however often that was resumed; the same for the
    /// sequences of each of its databases.
    async fn assert_fenced_once(&self) {
        let fenced = fs::read_to_string(self.rig.lab.layout.dir.join("fenced")).unwrap();
        assert_eq!(fenced.lines().count(), 1, "{fenced}");
        let mut lines = 0;
        for dc in [&self.primary, &self.standby] {
            let (text, _) =
                Store::of(&self.rig.lab, dc).await.get(Leaf::FederationHistory).await.unwrap();
            let history: Vec<ClosedOperation> = serde_json::from_str(&text).unwrap();
            for line in history.iter().flat_map(|entry| &entry.steps) {
                let parts: BTreeSet<&String> = line.parts.iter().collect();
                assert_eq!(parts.len(), line.parts.len(), "{line:?}");
                lines += usize::from(!parts.is_empty());
            }
        }
        assert!(lines > 0, "no sequence was advanced");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_switchover_killed_anywhere_goes_on_or_back() {
    let (mut scene, writer) = Scene::set("crash-switchover").await;
    let steps = |scene: &Scene| {
        let (from, to) = scene.dcs();
        switchover::steps(&from, &to, true)
    };
    let steps_there = steps(&scene);
    // The way back has two places of its own; it has most to do when the primary is fenced.
    let fenced = Boundary::all(&steps_there).into_iter();
    let fenced = fenced.filter(|at| (at.kind, at.side) == (StepKind::Fence, Side::After));
    let killed = [Side::Before, Side::After].map(Way::KilledAbort);
    let killed = fenced.flat_map(|at| killed.map(|way| (at, way)));
    for (at, way) in killed.chain(rounds(&steps_there)) {
        let to = scene.standby.clone();
        let command = ["switchover", "--to", &to, "--yes"];
        scene.assert_planned(&command, &steps(&scene)).await;
        writer.phase(&format!("{} {way:?}", at.name()));
        scene.crash(&command, at, way).await;
        let said = scene.mend(at, way).await;
        match way {
            Way::Resume if at.open || at.committed => scene.moved(),
            Way::Abort | Way::KilledAbort(_) if at.open => {
                assert!(said.contains("and accepts writes"), "{said}");
            }
            Way::Resume | Way::Abort | Way::KilledAbort(_) => {}
        }
        scene.at_rest(&writer).await;
    }
    scene.assert_complete(OperationKind::Switchover, &[]).await;
    let ledger = writer.stop().await;
    assert_nothing_lost(&scene.rig.audit(&ledger).await);
    scene.rig.assert_one_primary(&scene.prober.snapshot());
    rows::wait_identical(&scene.rig.access, READY).await;
}

/// Why the primary datacenter is given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cause {
    /// An operator fenced it: its agents have acknowledged.
    Fenced,
    /// Its nodes are without power, its etcd answers.
    NodesLost,
    /// All of it is without power.
    AllLost,
    /// The same, and nobody states it: the fencer decides.
    ToBeFenced,
}

impl Scene {
    /// One promotion, killed and mended; whoever was fenced or lost is back at the end.
    async fn promotion(&mut self, cause: Cause, at: Boundary, way: Way) {
        let (from, to) = (self.primary.clone(), self.standby.clone());
        let attest = ["--attest", "no power"];
        let name = self.rig.lab.topology.name.to_string();
        let command = ["promote", &to, "--yes", "--confirm", &name];
        let command = match cause {
            Cause::Fenced | Cause::ToBeFenced => command.to_vec(),
            Cause::NodesLost | Cause::AllLost => [&command[..], &attest].concat(),
        };
        self.give_up(&from, cause).await;
        self.assert_planned(&command, &self.promotion_steps(cause)).await;
        self.crash(&command, at, way).await;
        let moves = at.committed || (at.open && way == Way::Resume);
        if !moves {
            assert_eq!(self.writable().await, Vec::<String>::new(), "nobody was promoted");
        }
        let said = self.mend(at, way).await;
        if moves {
            self.one_writer(&to).await;
            self.moved();
            self.bring_back(&from, cause);
            let _ = self.rig.federator(&["rejoin", &from, "--yes"]).await.expect(exit::DONE);
        } else {
            assert!(!at.open || said.contains("the roles are unchanged"), "{said}");
            self.bring_back(&from, cause);
            if cause == Cause::Fenced {
                let fence = self.record_of(&from).await.fence.unwrap();
                assert_eq!(fence.operation, None, "the operator's fence has outlived the abort");
                let lift = ["fence", &from, "--lift", "--yes"];
                let _ = self.rig.federator(&lift).await.expect(exit::DONE);
            }
        }
    }

    fn promotion_steps(&self, cause: Cause) -> Vec<Step> {
        let (from, to) = self.dcs();
        promotion::steps(
            &from,
            &to,
            promotion::Extent {
                former_answers: matches!(cause, Cause::Fenced | Cause::NodesLost),
                fencer: cause == Cause::ToBeFenced,
                grants: false,
                sequences: cause != Cause::Fenced,
            },
        )
    }

    async fn give_up(&self, dc: &str, cause: Cause) {
        match cause {
            Cause::Fenced => {
                let _ = self.rig.federator(&["fence", dc, "--yes"]).await.expect(exit::DONE);
            }
            Cause::NodesLost => {
                for node in self.rig.nodes_of(dc) {
                    self.rig.kill_host(&node);
                }
            }
            Cause::AllLost | Cause::ToBeFenced => {
                let what = format!("power cut of {dc}");
                assert!(self.rig.act(&what, |lab| lab.kill_dc(dc)) > 0, "nothing ran in {dc}");
            }
        }
    }

    fn bring_back(&self, dc: &str, cause: Cause) {
        match cause {
            Cause::Fenced => {}
            Cause::NodesLost | Cause::AllLost | Cause::ToBeFenced => self.rig.start_dc(dc),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_promotion_killed_anywhere_goes_on_or_back() {
    let (mut scene, writer) = Scene::set("crash-promotion").await;
    for (at, way) in rounds(&scene.promotion_steps(Cause::Fenced)) {
        writer.phase(&format!("{} {way:?}", at.name()));
        scene.promotion(Cause::Fenced, at, way).await;
        scene.at_rest(&writer).await;
    }
    scene.assert_complete(OperationKind::Promotion, &[]).await;
    let ledger = writer.stop().await;
    assert_nothing_lost(&scene.rig.audit(&ledger).await);
    scene.rig.assert_one_primary(&scene.prober.snapshot());
    rows::wait_identical(&scene.rig.access, READY).await;
}

/// Nobody confirms that the primary has stopped, and a row that has not arrived would be lost by
/// right: nothing is written before each loss that has not arrived.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_promotion_after_a_loss_killed_anywhere_goes_on_or_back() {
    let (mut scene, writer) = Scene::set("crash-promotion-lost").await;
    scene.rig.rows(&writer, ROWS_AFTER).await;
    let ledger = writer.stop().await;
    let at = |cause, kind, side, way| {
        let all = Boundary::all(&scene.promotion_steps(cause));
        let at = all.into_iter().find(|b| (b.kind, b.side) == (kind, side)).unwrap();
        (cause, at, way)
    };
    use Cause::{AllLost, NodesLost, ToBeFenced};
    use Side::{After, Before};
    let lost = [
        at(NodesLost, StepKind::Fence, After, Way::Abort),
        at(NodesLost, StepKind::Fence, After, Way::Resume),
        at(AllLost, StepKind::Take, After, Way::Abort),
        at(ToBeFenced, StepKind::Fencer, Before, Way::Abort),
        at(ToBeFenced, StepKind::Fencer, After, Way::Resume),
        at(AllLost, StepKind::Commit, After, Way::Resume),
        at(AllLost, StepKind::Sequences, Before, Way::Resume),
        at(AllLost, StepKind::Sequences, After, Way::Resume),
    ];
    for (cause, at, way) in lost {
        rows::wait_identical(&scene.rig.access, READY).await;
        scene.rig.say(&format!("{cause:?}, {}, {way:?}", at.name()));
        scene.promotion(cause, at, way).await;
        let writer = scene.rig.writer("after a loss").await;
        scene.at_rest(&writer).await;
        assert_nothing_lost(&scene.rig.audit(&writer.stop().await).await);
    }
    // What a promotion has of steps whatever its cause is killed in the other test.
    let common = scene.promotion_steps(Cause::Fenced);
    scene.assert_complete(OperationKind::Promotion, &common).await;
    scene.assert_fenced_once().await;
    assert_nothing_lost(&scene.rig.audit(&ledger).await);
    scene.rig.assert_one_primary(&scene.prober.snapshot());
    rows::wait_identical(&scene.rig.access, READY).await;
}
