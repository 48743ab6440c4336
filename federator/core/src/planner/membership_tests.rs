//! Goal: who joins and who leaves is refused for each reason, all at once. Method: a healthy
//! federation of three with one thing changed at a time.
use super::setup::plan_one;
use super::*;
use crate::fixture::{inventory, lose, node_mut, record_mut, three, view};
use crate::inventory::SqlFacts;
use node_agent_wire::federation::Fence;
use serde_json::json;

fn request() -> Request {
    Request {
        id: "op-1".into(),
        by: "ann".into(),
        now_us: crate::fixture::NOW,
        force: false,
        policies: Policies::default(),
    }
}

fn refusals(answer: &Answer) -> Vec<String> {
    let Outcome::Refused(list) = &answer.outcome else { panic!("not refused: {answer:?}") };
    list.iter().map(ToString::to_string).collect()
}

fn planned(answer: Answer) -> Plan {
    let Answer { checklist, outcome } = answer;
    let Outcome::Plan(plan) = outcome else { panic!("no plan: {checklist:?}") };
    assert_eq!(plan.check(), Ok(()));
    plan
}

/// dc3 stands in the settings and has nothing yet.
fn before() -> Inventory {
    let mut inventory = three();
    for dc in ["dc1", "dc2"] {
        record_mut(&mut inventory, dc).members.remove(&DcName::from("dc3"));
    }
    *view(&mut inventory, "dc3") = DcView::default();
    inventory
}

/// dc3 as a removal leaves it.
fn removed() -> Inventory {
    let mut inventory = three();
    for dc in ["dc1", "dc2", "dc3"] {
        record_mut(&mut inventory, dc).members.remove(&DcName::from("dc3"));
    }
    record_mut(&mut inventory, "dc3").fence = Some(Fence {
        epoch: node_agent_wire::Epoch(1),
        operation: None,
        reason: "removed".into(),
        by: "ann".into(),
        at_us: 1,
        ack: None,
    });
    let config = &mut view(&mut inventory, "dc3").config.as_mut().unwrap().value;
    config.remove("standby_cluster");
    inventory
}

#[test]
fn one_joins_and_the_others_are_left_alone() {
    let plan = planned(plan_one(&before(), &"dc3".into(), &request()));
    assert_eq!((plan.to.as_str(), plan.primary.as_str()), ("dc3", "dc1"));
    assert_eq!(plan.followers, BTreeSet::from(["dc3".into()]));
    let again = rebuild(&plan.operation(), &before());
    assert_eq!((again.followers, again.steps.len()), (plan.followers.clone(), plan.steps.len()));
    // One that was removed comes back the same way, and by its name only.
    let back = planned(plan_one(&removed(), &"dc3".into(), &request()));
    assert_eq!(back.followers, plan.followers);
    let setup = setup::plan(&removed(), None, &request());
    assert!(matches!(setup.outcome, Outcome::NothingToDo(_)), "{setup:?}");
    let done = plan_one(&three(), &"dc3".into(), &request());
    assert!(matches!(done.outcome, Outcome::NothingToDo(_)), "{done:?}");
}

#[test]
fn all_findings_at_once() {
    let mut bad = before();
    let mut strange = view(&mut three(), "dc2").clone();
    strange.record = None;
    strange.initialize = Some("78".into());
    strange.config.as_mut().unwrap().value.remove("standby_cluster");
    strange.sql = Some(Fact::Known(SqlFacts {
        capacity: [("max_connections".to_owned(), 10)].into(),
        ..SqlFacts::default()
    }));
    *view(&mut bad, "dc3") = strange;
    let node = node_mut(&mut bad, "dc3");
    (node.writable, node.server_version) = (true, 160_001);
    let found = refusals(&plan_one(&bad, &"dc3".into(), &request()));
    for expected in [
        "member name dc2-pg1 is used twice",
        "dc3 accepts writes as a cluster of its own",
        "dc1 holds database system 77, dc3 holds 78",
        "the major version of dc3 is 16, dc1 has 15",
        "max_connections of dc3 is 10, dc1 has 100",
    ] {
        assert!(found.iter().any(|line| line.contains(expected)), "{expected}: {found:?}");
    }
    let mut fresh = before();
    for dc in ["dc1", "dc2"] {
        view(&mut fresh, dc).record = None;
    }
    let found = refusals(&plan_one(&fresh, &"dc3".into(), &request()));
    assert!(found[0].contains("there is no federation yet"), "{found:?}");
    let mut lacking = before();
    lacking.sites.remove(&DcName::from("dc2"));
    let found = refusals(&plan_one(&lacking, &"dc3".into(), &request()));
    assert!(found[0].contains("dc2 is a member of the federation and is not in"), "{found:?}");
    let found = refusals(&plan_one(&before(), &"dc9".into(), &request()));
    assert!(found[0].contains("dc9 is not a datacenter"), "{found:?}");
}

#[test]
fn another_collation_is_told_and_does_not_stand_in_the_way() {
    let mut other = three();
    record_mut(&mut other, "dc3").streamed = false;
    for (dc, version) in [("dc1", "2.36"), ("dc3", "2.31")] {
        let Some(Fact::Known(sql)) = &mut view(&mut other, dc).sql else { panic!("no SQL") };
        sql.collation_version = version.into();
    }
    let answer = plan_one(&other, &"dc3".into(), &request());
    let told = answer.checklist.0.iter().any(|finding| {
        matches!(&finding.verdict, crate::guards::Verdict::Warning(note) if note.contains("2.31"))
    });
    assert!(told, "{answer:?}");
    planned(answer);
}

#[test]
fn who_is_needed_is_not_removed() {
    let dc3 = DcName::from("dc3");
    let plan = planned(removal::plan(&three(), &dc3, &request()));
    assert_eq!((plan.to.as_str(), plan.from.as_ref()), ("dc1", Some(&dc3)));
    assert_eq!(plan.participants(), ["dc1", "dc2"].map(DcName::from));
    assert_eq!(rebuild(&plan.operation(), &three()), plan);
    // After the step "forget" the rest is still known.
    let mut late = removed();
    record_mut(&mut late, "dc1").operation = Some(plan.operation());
    assert_eq!(rebuild(&plan.operation(), &late).participants(), plan.participants());

    type Case = (&'static str, &'static str, fn(&mut Inventory));
    let cases: [Case; 5] = [
        ("dc1", "dc1 is the primary datacenter", |_| {}),
        ("dc3", "dc3 can't be told", |i| lose(i, "dc3")),
        ("dc3", "dc2 does not answer", |i| lose(i, "dc2")),
        ("dc2", "dc3 follows dc2", |i| {
            i.sites.get_mut(&DcName::from("dc3")).unwrap().follows = Some("dc2".into());
        }),
        ("dc2", "dc3 follows dc2", |i| {
            let config = &mut view(i, "dc3").config.as_mut().unwrap().value;
            config["standby_cluster"]["host"] = json!("dc2");
        }),
    ];
    for (dc, expected, change) in cases {
        let mut broken = three();
        change(&mut broken);
        let found = refusals(&removal::plan(&broken, &dc.into(), &request()));
        assert!(found.iter().any(|line| line.contains(expected)), "{expected}: {found:?}");
    }
    let mut gone = three();
    lose(&mut gone, "dc3");
    planned(removal::plan(&gone, &dc3, &Request { force: true, ..request() }));
    let done = removal::plan(&removed(), &dc3, &request());
    assert!(matches!(done.outcome, Outcome::NothingToDo(_)), "{done:?}");
    // It came back and does not know it.
    let mut unaware = three();
    for dc in ["dc1", "dc2"] {
        record_mut(&mut unaware, dc).members.remove(&dc3);
    }
    planned(removal::plan(&unaware, &dc3, &request()));
}

#[test]
fn a_removed_datacenter_takes_no_part() {
    let removed = removed();
    assert!(removed.is_removed(&"dc3".into()) && !removed.is_member(&"dc3".into()));
    assert_eq!(followers(&removed, &[&"dc1".into()]), BTreeSet::from(["dc2".into()]));
    let plan = planned(switchover::plan(&removed, &"dc2".into(), &request()));
    assert_eq!(plan.followers, BTreeSet::new());
    let problems = crate::topology::problems(&removed);
    let told = problems.iter().find(|p| p.text.contains("dc3 was removed from the federation"));
    assert!(told.is_some_and(|p| p.next.contains("federator add-dc dc3")), "{problems:?}");
    assert!(inventory().is_member(&"dc2".into()));
}
