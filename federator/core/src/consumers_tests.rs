//! Goal: each consumer gets the verdict that its slot, the target's slot and the positions allow,
//! and what is not known is said so. Method: tables over one consumer; a healthy federation with
//! one thing changed for where the knowledge comes from.
use super::*;
use crate::fixture::{NOW, inventory, lose, node_mut, request, view};
use crate::guards::Verdict as Mark;
use crate::inventory::LogicalSlot;
use crate::planner::{promotion, switchover};
use crate::readiness;

const CDC: &str = "cdc";
/// Where the consumer is.
const AT: u64 = 4500;

fn consumer(confirmed: u64) -> Consumer {
    Consumer {
        confirmed: Some(Lsn(confirmed)),
        database: "shop".into(),
        plugin: "pgoutput".into(),
        failover: false,
        lost: None,
    }
}

fn slot(consumer: Consumer, synced: bool) -> SlotView {
    let kind = SlotKind::Logical(LogicalSlot { consumer, synced });
    SlotView { active: true, wal_status: "reserved".into(), restart_lsn: Lsn(4000), kind }
}

fn physical() -> SlotView {
    SlotView { kind: SlotKind::Physical, ..slot(consumer(AT), false) }
}

fn untold() -> SlotView {
    SlotView { kind: SlotKind::Untold, ..physical() }
}

fn with(consumer: Consumer, change: impl FnOnce(&mut Consumer)) -> Consumer {
    let mut changed = consumer;
    change(&mut changed);
    changed
}

fn lost(consumer: Consumer) -> Consumer {
    with(consumer, |c| c.lost = Some("wal_removed".into()))
}

/// In short: `kept 0`, `again 0/FA0 500`, `saw 100`, `anew Absent`, `unknown`.
fn short(verdict: &Verdict) -> String {
    match verdict {
        Verdict::Kept { behind } => format!("kept {behind}"),
        Verdict::ReadsAgain { from, bytes } => format!("again {from} {bytes}"),
        Verdict::SawWhatIsLost { bytes } => format!("saw {bytes}"),
        Verdict::MadeAnew { why, .. } => format!("anew {why:?}"),
        Verdict::Unknown { .. } => "unknown".into(),
    }
}

#[test]
fn the_verdict_on_one_consumer() {
    let plain = || consumer(AT);
    let marked = || with(plain(), |c| c.failover = true);
    let other = |change: fn(&mut Consumer)| slot(with(plain(), change), false);
    // The consumer, the target's slot, whether slots come into step before the commit, and the end
    // of the target's WAL where something beyond it is lost.
    for (what, consumer, there, in_step, end, expected) in [
        ("no slot", plain(), None, true, None, "anew Absent"),
        ("not yet", marked(), None, true, None, "anew NotTakenOver"),
        ("the same", plain(), Some(slot(consumer(AT), false)), true, None, "kept 0"),
        ("in step", marked(), Some(slot(consumer(AT), true)), true, None, "kept 0"),
        ("nearly", marked(), Some(slot(consumer(4000), true)), true, None, "kept 500"),
        (
            "lost primary",
            marked(),
            Some(slot(consumer(4000), true)),
            false,
            Some(5000),
            "again 0/FA0 500",
        ),
        ("its own slot", plain(), Some(slot(consumer(4000), false)), true, None, "again 0/FA0 500"),
        (
            "newer than known",
            marked(),
            Some(slot(consumer(4600), true)),
            false,
            Some(5000),
            "kept 0",
        ),
        ("ahead", plain(), Some(slot(consumer(4600), false)), true, None, "anew Ahead(100)"),
        (
            "beyond the end",
            plain(),
            Some(slot(consumer(4000), false)),
            false,
            Some(4400),
            "saw 100",
        ),
        ("beyond, no slot", plain(), None, false, Some(4400), "saw 100"),
        ("at the end", plain(), None, false, Some(AT), "anew Absent"),
        (
            "lost there",
            plain(),
            Some(slot(lost(consumer(4000)), true)),
            true,
            None,
            "anew Lost(\"wal_removed\")",
        ),
        (
            "lost already",
            lost(plain()),
            Some(slot(consumer(AT), true)),
            true,
            None,
            "anew LostAlready(\"wal_removed\")",
        ),
        ("a standby's", plain(), Some(physical()), true, None, "anew Other"),
        (
            "another plugin",
            plain(),
            Some(other(|c| c.plugin = "x".into())),
            true,
            None,
            "anew Other",
        ),
        (
            "another database",
            plain(),
            Some(other(|c| c.database = "x".into())),
            true,
            None,
            "anew Other",
        ),
        ("an older agent", plain(), Some(untold()), true, None, "unknown"),
        ("being made", with(plain(), |c| c.confirmed = None), None, true, None, "unknown"),
        ("being made there", plain(), Some(other(|c| c.confirmed = None)), true, None, "unknown"),
    ] {
        let slots = there.map(|there| (CDC.to_owned(), there)).into_iter().collect();
        let target = Target { slots: Ok(&slots), end: end.map(Lsn), in_step, native: false };
        let found = verdict(&SlotName::from_name(CDC), &consumer, &target, false);
        assert_eq!(short(&found), expected, "{what}");
    }
    let silent = Target { slots: Err("silent".into()), end: None, in_step: true, native: false };
    let found = verdict(&SlotName::from_name(CDC), &plain(), &silent, false);
    assert_eq!(found, Verdict::Unknown { why: "silent".into() });
}

#[test]
fn what_to_do_depends_on_the_servers_and_the_configuration() {
    let to = DcName::from("dc2");
    for (native, declared, why, expected) in [
        (false, false, Flaw::Absent, "afterwards make the slot"),
        (false, true, Flaw::Absent, "afterwards the agents of dc2 make it"),
        (true, false, Flaw::Absent, "before: failover = true for the slot"),
        (true, false, Flaw::NotTakenOver, "before: sync_replication_slots = on in dc2"),
        (true, false, Flaw::Other, "before: drop or rename"),
        (true, false, Flaw::LostAlready("x".into()), "afterwards make the slot"),
    ] {
        let judged = Judged {
            slot: SlotName::from_name(CDC),
            database: "shop".into(),
            verdict: Verdict::MadeAnew { why, native, declared },
            seen_ago_us: None,
            may_have_seen_more: false,
        };
        let words = judged.words(&to);
        assert!(words.starts_with("must be made anew: ") && words.contains(expected), "{words}");
    }
}

/// dc1 has a consumer; dc2 has taken its slot over.
fn federation(there: Option<u64>) -> Inventory {
    let mut all = inventory();
    node_mut(&mut all, "dc1").slots.insert(CDC.into(), slot(consumer(AT), false));
    let seen = view(&mut all, "dc2").position.as_mut().unwrap().primary_seen.as_mut().unwrap();
    seen.consumers = Some([(SlotName::from_name(CDC), consumer(AT))].into());
    if let Some(at) = there {
        node_mut(&mut all, "dc2").slots.insert(CDC.into(), slot(consumer(at), true));
    }
    all
}

fn judged(all: &Inventory, promotion: bool) -> Result<Vec<Judged>, String> {
    let (to, record) = (DcName::from("dc2"), crate::fixture::record("dc2", 1, "dc1"));
    let estimate = promotion::estimate(all, &to, &record, &"dc1".into(), request().now_us);
    judge(all, &to, &record, promotion.then_some(&estimate))
}

fn one(all: &Inventory, promotion: bool) -> (String, Option<i64>, bool) {
    let found = judged(all, promotion).unwrap();
    assert_eq!(found.len(), 1, "{found:?}");
    (short(&found[0].verdict), found[0].seen_ago_us, found[0].may_have_seen_more)
}

type Break = fn(&mut Inventory);
/// The verdict in short, the age of the knowledge, whether more may have been seen.
type Found = (&'static str, Option<i64>, bool);

fn beat(all: &mut Inventory, epoch: u64) {
    node_mut(all, "dc1").writable = false;
    let beat = view(all, "dc1").position.as_mut().unwrap();
    beat.epoch = Some(node_agent_wire::Epoch(epoch));
    beat.consumers = Some([(SlotName::from_name(CDC), consumer(AT))].into());
}

#[test]
fn the_best_word_about_the_consumers_counts() {
    let cases: [(&str, bool, Break, Found); 6] = [
        ("the primary's", false, |_| {}, ("kept 500", None, false)),
        ("a promotion", true, |_| {}, ("again 0/FA0 500", None, false)),
        ("its last beat", true, |i| beat(i, 1), ("again 0/FA0 500", Some(100_000), true)),
        ("a beat of another epoch", true, |i| beat(i, 9), ("again 0/FA0 500", Some(800_000), true)),
        ("what was seen", true, |i| lose(i, "dc1"), ("again 0/FA0 500", Some(800_000), true)),
        (
            "beyond what dc2 has",
            true,
            |i| {
                lose(i, "dc1");
                node_mut(i, "dc2").lsn = Lsn(4400);
                view(i, "dc2").position.as_mut().unwrap().lsn = Some(Lsn(4400));
            },
            ("saw 100", Some(800_000), true),
        ),
    ];
    for (what, promotion, change, expected) in cases {
        let mut all = federation(Some(4000));
        change(&mut all);
        let (verdict, ago, more) = one(&all, promotion);
        assert_eq!((verdict.as_str(), ago, more), expected, "{what}");
    }
}

#[test]
fn what_is_not_known_is_said_so() {
    let mut old = federation(None);
    node_mut(&mut old, "dc1").slots.insert("x".into(), untold());
    lose(&mut old, "dc1");
    let seen = |all: &mut Inventory| {
        view(all, "dc2").position.as_mut().unwrap().primary_seen.as_mut().unwrap().consumers = None;
    };
    seen(&mut old);
    assert!(judged(&old, true).unwrap_err().contains("dc1"), "{:?}", judged(&old, true));

    let mut untelling = federation(None);
    node_mut(&mut untelling, "dc1").slots.insert("x".into(), untold());
    seen(&mut untelling);
    assert!(judged(&untelling, false).is_err(), "an agent that does not tell hides consumers");

    let mut elsewhere = federation(Some(AT));
    node_mut(&mut elsewhere, "dc2").timeline = TimelineId(7);
    assert_eq!(one(&elsewhere, true).0, "unknown", "positions of two timelines");

    let mut none = inventory();
    assert_eq!(judged(&none, false), Ok(Vec::new()));
    view(&mut none, "dc1").nodes.clear();
    assert!(judged(&none, false).is_err(), "silence is not \"none\"");
}

#[test]
fn the_checklists_have_a_line_for_each_consumer() {
    let (to, request) = (DcName::from("dc2"), request());
    let line = |list: &Checklist| {
        let found: Vec<_> = list.0.iter().filter(|f| f.check == "consumer cdc").collect();
        assert_eq!(found.len(), 1, "{list:?}");
        match &found[0].verdict {
            Mark::Ok(note) => (false, note.clone()),
            Mark::Warning(note) => (true, note.clone()),
            Mark::Refused(refusal) => panic!("{refusal}"),
        }
    };
    let kept = federation(Some(4000));
    let (warned, words) = line(&switchover::plan(&kept, &to, &request).checklist);
    assert!(!warned && words.contains("500 bytes behind"), "{words}");
    let (warned, words) = line(&promotion::rehearse(&kept, &to, &request).0);
    assert!(!warned && words.contains("will read again from 0/FA0"), "{words}");

    let anew = federation(None);
    let (warned, words) = line(&switchover::plan(&anew, &to, &request).checklist);
    assert!(warned && words.contains("must be made anew: dc2 has no such slot"), "{words}");
    let ready = readiness::of(&anew, &to, &[], &request).unwrap();
    assert!(ready.switchover.ready && !ready.switchover.warnings.is_empty());
    assert_eq!(ready.switchover.consumers.len(), 1);
    let text = serde_json::to_value(&ready.switchover.consumers[0]).unwrap();
    assert_eq!((&text["slot"], &text["verdict"]), (&"cdc".into(), &"made-anew".into()), "{text}");

    let mut lost = federation(Some(4000));
    lose(&mut lost, "dc1");
    let intent = promotion::Intent::default();
    let (warned, words) = line(&promotion::plan(&lost, &to, &intent, &request).checklist);
    assert!(warned && words.contains("as of 0.8 s ago"), "{words}");
    assert_eq!(lost.at_us, NOW);
}

#[test]
fn slots_in_step_are_waited_for() {
    let mut all = federation(Some(4000));
    let reach = to_reach(node_mut(&mut all.clone(), "dc1"), node_mut(&mut all, "dc2"));
    assert_eq!(reach, [(CDC.to_owned(), Lsn(AT))].into());
    let target = node_mut(&mut all, "dc2");
    assert_eq!(short_of(&reach, target), [(CDC.to_owned(), 500)].into());
    target.slots.insert(CDC.into(), slot(consumer(AT + 1), true));
    assert!(short_of(&reach, target).is_empty());
    target.slots.remove(CDC);
    assert!(short_of(&reach, target).is_empty(), "nothing comes from waiting");
    for there in [slot(consumer(4000), false), slot(lost(consumer(4000)), true), physical()] {
        let mut all = federation(None);
        node_mut(&mut all, "dc2").slots.insert(CDC.into(), there);
        let reach = to_reach(node_mut(&mut all.clone(), "dc1"), node_mut(&mut all, "dc2"));
        assert!(reach.is_empty(), "nobody moves it: {reach:?}");
    }
}
