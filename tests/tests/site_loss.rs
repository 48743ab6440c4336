//! Goal: a lost datacenter is replaced on evidence only, at no more than the announced loss, and
//! never accepts a write again when it comes back with its own etcd intact: it rejoins by rewind,
//! after a report of what it discards (I7, I8).
//! Method: the walsender that serves dc2 is frozen while dc1 goes on acknowledging rows, then dc1
//! loses its power. The announced loss is compared with what the returned former primary still
//! holds, which PostgreSQL itself tells. Every node is probed all the time.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::fs;
use std::time::{Duration, Instant, SystemTime};

use federator_tests::agent_log::Mark;
use federator_tests::by_hand::freeze_link;
use federator_tests::federator::exit;
use federator_tests::patience::until;
use federator_tests::rig::{READY, ROWS, Rig};
use federator_tests::rows;
use federator_tests::store::Store;
use lab::ledger::Writer;
use lab::prober::Prober;
use lab::wait::Interrupt;
use node_agent_core::rule::Rule;
use node_agent_wire::federation::{Evidence, FederationRecord, LossEstimate};
use node_agent_wire::keys::Leaf;
use node_agent_wire::position::Position;
use node_agent_wire::{DcName, Lsn};
use serde_json::Value;

/// Rows that dc1 acknowledges while dc2 receives nothing.
const ROWS_AHEAD: u64 = 400;
/// WAL records are counted without the headers of the pages that they cross.
const WAL_PAGE_BYTES: u64 = 8192;
/// What a promotion needs when the former primary says nothing.
const ATTESTED: [&str; 8] = [
    "promote",
    "dc2",
    "--attest",
    "dc1 has no power, its building was visited",
    "--by",
    "tester",
    "--confirm",
    "shop",
];

/// The loss of dc1.
struct Loss {
    /// Its primary.
    former: String,
    /// The end of the power cut.
    cut: Instant,
    /// The same by the wall clock, microseconds since the Unix epoch.
    cut_us: i64,
    /// dc2's record before the promotion.
    record: FederationRecord,
}

/// A loss as the federator put it into words.
#[derive(Debug, Clone, Copy)]
struct Announced {
    /// At most so many bytes.
    bytes: u64,
    /// At most so many seconds.
    seconds: f64,
    /// So many bytes were missing for certain.
    known: u64,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_datacenter_costs_no_more_than_announced_and_returns_as_a_standby() {
    let rig = Rig::start("site-loss", "two-dc.yaml");
    rig.federate().await;
    let writer = rig.writer("before").await;
    let prober = rig.prober().await;
    rig.rows(&writer, 200).await;
    let loss = lose_dc1(&rig, &writer).await;

    let mut announced = refuse_what_is_not_sure(&rig).await;
    writer.phase("dc2 is primary");
    announced.extend(promote(&rig).await);
    rig.rows(&writer, 200).await;
    let lost = lost_rows(&rig, &writer).await;

    writer.phase("dc1 is back");
    let mark = Mark::now(&rig.lab);
    let end = return_of_dc1(&rig, &loss, &lost).await;
    rig.rows(&writer, 100).await;
    writer.phase("dc1 rejoins");
    let _ = rig.federator(&["rejoin", "dc1", "--yes"]).await.expect(exit::DONE);
    rig.settled("dc2").await;
    let rewound = mark.decided(&rig.lab, Rule::Rewind);
    let by_former = rewound.iter().any(|line| line.starts_with(&loss.former));
    assert!(by_former, "{} was not rewound: {rewound:#?}", loss.former);
    one_node_only_crossed(&rig, &mark, &rewound);
    let report = divergence_report(&rig, &loss.former);
    assert_report(&report, &lost, end);
    assert_within(&rig, &announced, &report, (&loss, end)).await;

    rig.rows(&writer, 200).await;
    end_of_all(&rig, writer, prober, (&loss, &lost)).await;
}

/// Of the nodes that were rewound one was rewound to dc2, and each other one to a node of dc1.
fn one_node_only_crossed(rig: &Rig, mark: &Mark, rewound: &[String]) {
    let within: BTreeSet<String> = rig.nodes_of("dc1").into_iter().collect();
    let to = mark.rewound_to(&rig.lab);
    let crossed = to.values().flatten().filter(|host| !within.contains(*host)).count();
    assert_eq!(crossed, 1, "rewound to: {to:?}");
    assert!(to.len() > 1, "one node only was rewound, nothing is shown: {rewound:#?}");
}

/// dc1 acknowledges rows that dc2 does not get, and then loses its power.
async fn lose_dc1(rig: &Rig, writer: &Writer) -> Loss {
    let former = rig.complete("dc1");
    freeze_link(rig, &former, "dc2").await;
    writer.phase("dc2 is cut off");
    rig.rows(writer, ROWS_AHEAD).await;
    let store = Store::of(&rig.lab, "dc2").await;
    until("dc2's knowledge that it is behind", ROWS, async || {
        let (text, _) = store.get(Leaf::Position).await.ok_or("dc2 has no position")?;
        let own: Position = serde_json::from_str(&text).map_err(|error| error.to_string())?;
        let seen = own.primary_seen.as_ref().map(|seen| seen.lsn);
        if seen > own.lsn { Ok(()) } else { Err(text) }
    })
    .await;
    let ended = rig.act("power cut of dc1", |lab| lab.kill_dc("dc1"));
    let (cut, cut_us) = (Instant::now(), wall_us());
    assert!(ended > 0, "nothing ran in dc1");
    writer.phase("dc1 is lost");
    rig.say(&format!("dc1 was led by {former}; {ended} processes ended"));
    Loss { former, cut, cut_us, record: store.record().await }
}

/// Without evidence, or with a bound below the estimate, nothing happens and nothing is changed; a
/// dry run changes nothing either, and announces the loss.
async fn refuse_what_is_not_sure(rig: &Rig) -> Vec<Announced> {
    let _ = rig.complete("dc2");
    let store = Store::of(&rig.lab, "dc2").await;
    let before = store.decided_keys().await;
    for key in ["federation", "config"] {
        assert!(before.keys().any(|full| full.ends_with(&format!("/{key}"))), "no key {key}");
    }
    let refused = rig.federator(&["promote", "dc2", "--yes"]).await.expect(exit::REFUSED);
    for words in ["refused:", "acknowledged:", "attested:", "Nothing was changed."] {
        assert!(refused.stderr.contains(words), "the refusal does not say: {words}");
    }
    assert_eq!(store.decided_keys().await, before, "the refused promotion changed something");

    let bounded = [&ATTESTED[..], &["--max-loss", "1"]].concat();
    let refused = rig.federator(&bounded).await.expect(exit::REFUSED);
    assert!(refused.stderr.contains("Nothing was changed."), "{refused}");
    let dry = rig.federator(&[&ATTESTED[..], &["--dry-run"]].concat()).await.expect(exit::DONE);
    assert_eq!(store.decided_keys().await, before, "a dry run changed something");
    read_only(rig, "dc2").await;
    vec![announced(&dry.stdout)]
}

/// Waits until every node of a datacenter has answered, and refused a write.
async fn read_only(rig: &Rig, dc: &str) {
    for name in rig.nodes_of(dc) {
        let (what, node) = (format!("{name} read-only"), rig.node(&name));
        let said = until(&what, READY, async || rows::refusal(&rig.access, &node).await).await;
        rig.say(&format!("{name}: {said}"));
    }
}

/// Promotes dc2 on an operator's word; the loss as it was printed before, and as it was recorded.
async fn promote(rig: &Rig) -> Vec<Announced> {
    let done = rig.federator(&ATTESTED).await.expect(exit::DONE);
    let store = Store::of(&rig.lab, "dc2").await;
    let record = store.record().await;
    assert_eq!(record.primary, DcName::new("dc2"), "{record:?}");
    let evidence = record.claim.and_then(|claim| claim.evidence);
    assert!(matches!(evidence, Some(Evidence::Attested { .. })), "{evidence:?}");
    let (text, _) = store.get(Leaf::FederationHistory).await.unwrap();
    let history: Value = serde_json::from_str(&text).unwrap();
    let last = history.as_array().and_then(|closed| closed.last()).unwrap();
    assert_eq!((&last["kind"], &last["outcome"]), (&"promotion".into(), &"done".into()));
    let recorded: LossEstimate = serde_json::from_value(last["expected_loss"].clone()).unwrap();
    let printed = announced(&done.stdout);
    assert_eq!(Some(printed.bytes), recorded.bytes_max, "printed and recorded");
    vec![printed]
}

/// Reads `Possible loss: at most 123 bytes, at most the last 4.5 s (67 bytes behind when …)`.
fn announced(output: &str) -> Announced {
    let found = || {
        let (_, rest) = output.split_once("Possible loss: at most ")?;
        let (bytes, rest) = rest.split_once(" bytes, at most the last ")?;
        let (seconds, rest) = rest.split_once(" s (")?;
        let (known, _) = rest.split_once(" bytes behind when ")?;
        let (bytes, known) = (bytes.parse().ok()?, known.parse().ok()?);
        Some(Announced { bytes, seconds: seconds.parse().ok()?, known })
    };
    found().unwrap_or_else(|| panic!("no bound of the loss in:\n{output}"))
}

/// The acknowledged rows that the new primary does not have: all those that dc1 acknowledged while
/// dc2 was cut off, and none that was acknowledged later.
async fn lost_rows(rig: &Rig, writer: &Writer) -> BTreeSet<i64> {
    let audit = rig.audit(&writer.snapshot()).await;
    for phase in &audit.phases {
        match phase.label.as_str() {
            "before" => {}
            "dc2 is cut off" => {
                let all = u64::try_from(phase.acknowledged).unwrap();
                assert!(all >= ROWS_AHEAD && phase.found == 0, "dc2 got some of:\n{audit}");
            }
            later => assert_eq!(phase.lost, Vec::<i64>::new(), "lost in \"{later}\":\n{audit}"),
        }
    }
    audit.lost().into_iter().collect()
}

/// dc1 comes back: etcd first, to see that it believes in the old epoch; then the nodes, which find
/// out by themselves that it is over. Returns where PostgreSQL sees the end of the former
/// primary's WAL.
async fn return_of_dc1(rig: &Rig, loss: &Loss, lost: &BTreeSet<i64>) -> Lsn {
    for host in rig.lab.layout.hosts.iter().filter(|h| h.dc.as_str() == "dc1" && !h.is_node()) {
        rig.act(&format!("start of {}", host.name), |lab| {
            lab.start_host(&host.name, &Interrupt::default())
        });
    }
    let store = Store::of(&rig.lab, "dc1").await;
    let old = store.record().await;
    assert_eq!((old.primary.as_str(), &old.fence), ("dc1", &None), "its own etcd, intact");
    assert_eq!(old.epoch, loss.record.epoch, "its own etcd, intact");
    let (text, _) = store.get(Leaf::Position).await.unwrap();
    let published: Position = serde_json::from_str(&text).unwrap();
    rig.start_dc("dc1");
    until("dc1's own knowledge that its epoch is over", READY, async || {
        let record = store.record().await;
        let over = record.epoch == loss.record.epoch.next() && record.primary.as_str() == "dc2";
        if over && record.fence.is_some() { Ok(()) } else { Err(format!("{record:?}")) }
    })
    .await;
    read_only(rig, "dc1").await;
    let former = rig.node(&loss.former);
    let end = until("the end of the former primary's WAL", READY, async || {
        let sql = "SELECT pg_last_wal_replay_lsn()::text";
        let end = rows::value(&rig.access, &former, sql).await?;
        let end: Lsn = end.parse().map_err(|error| format!("{error}"))?;
        if Some(end) >= published.lsn { Ok(end) } else { Err(format!("replayed to {end}")) }
    })
    .await;
    let what = format!("the rows of {}", loss.former);
    let there = until(&what, READY, async || rows::on(&rig.access, &former).await).await;
    let there: BTreeSet<i64> = there.into_iter().map(|(_, id, _, _)| id).collect();
    assert!(lost.is_subset(&there), "{} still has what is lost", loss.former);
    let status = rig.federator(&["status"]).await.expect(exit::DONE);
    for words in ["former primary", "dc1 was left behind", "federator rejoin dc1"] {
        assert!(status.stdout.contains(words), "the status does not say: {words}");
    }
    end
}

/// The only divergence report beside the data directory of a node.
fn divergence_report(rig: &Rig, node: &str) -> Value {
    let host = rig.lab.layout.host(node).unwrap();
    let files = fs::read_dir(&host.dir).unwrap().map(|entry| entry.unwrap().path());
    let begins = format!("{node}.divergence-");
    let is_report = |path: &std::path::PathBuf| {
        path.file_name().unwrap().to_string_lossy().starts_with(&begins)
    };
    let reports: Vec<_> = files.filter(is_report).collect();
    let [path] = &reports[..] else { panic!("divergence reports of {node}: {reports:?}") };
    let text = fs::read_to_string(path).unwrap();
    rig.say(&format!("{}:\n{text}", path.display()));
    serde_json::from_str(&text).unwrap()
}

fn lsn(report: &Value, key: &str) -> Lsn {
    report[key].as_str().unwrap().parse().unwrap()
}

/// The report tells everything that was discarded, and the WAL is kept.
fn assert_report(report: &Value, lost: &BTreeSet<i64>, end: Lsn) {
    assert_eq!(report["complete"], true);
    let (fork, told) = (lsn(report, "fork"), lsn(report, "end"));
    assert_eq!(report["bytes"].as_u64(), Some(told.bytes_since(fork)));
    let missing = end.bytes_since(told);
    assert!(told <= end && missing < WAL_PAGE_BYTES, "ends at {told}, PostgreSQL says {end}");
    let transactions = report["transactions"].as_u64().unwrap();
    let rows = u64::try_from(lost.len()).unwrap();
    assert!(transactions >= rows, "{transactions} transactions for {rows} lost rows");
    let relations = report["relations"].as_array().unwrap();
    let of_ledger = relations.iter().filter(|relation| relation["table"] == "public.ledger");
    let records = of_ledger.filter_map(|relation| relation["records"].as_u64()).max();
    assert!(records >= Some(rows), "{records:?} records of the ledger for {rows} lost rows");
    let kept_in = std::path::Path::new(report["kept_in"].as_str().unwrap());
    let segments = report["kept_segments"].as_array().unwrap();
    assert!(!segments.is_empty(), "no segment is kept");
    for segment in segments {
        let path = kept_in.join(segment.as_str().unwrap());
        assert!(path.is_file(), "{} is not kept", path.display());
    }
}

/// The true loss: in bytes from the fork to the end of WAL that PostgreSQL sees, in seconds from
/// the commit of the first lost transaction, which is before its acknowledgement, to the cut.
async fn assert_within(
    rig: &Rig,
    announced: &[Announced],
    report: &Value,
    (loss, end): (&Loss, Lsn),
) {
    let history = Store::of(&rig.lab, "dc2").await.history().await.unwrap();
    let fork = history.ancestors.last().unwrap().ended_at;
    assert_eq!(lsn(report, "fork"), fork, "the fork by dc2's own history");
    let bytes = end.bytes_since(fork);
    let first = report["first_commit"].as_str().unwrap();
    let sql =
        format!("SELECT (extract(epoch FROM '{first}'::timestamptz) * 1000000)::bigint::text");
    let (node, _) = rig.access.primary_within(ROWS, "site loss").await.unwrap();
    let asked = until("a time in words as a number", ROWS, async || {
        rows::value(&rig.access, &node, &sql).await
    });
    let first_us: i64 = asked.await.parse().unwrap();
    let span = Duration::from_micros(u64::try_from(loss.cut_us - first_us).unwrap());
    rig.say(&format!("the true loss: {bytes} bytes, {} ms", span.as_millis()));
    for announced in announced {
        assert!(announced.known > 0, "dc2 knew that it was behind: {announced:?}");
        assert!(announced.known <= bytes, "{announced:?}, truly {bytes} bytes");
        assert!(announced.bytes >= bytes, "{announced:?}, truly {bytes} bytes");
        assert!(announced.seconds >= span.as_secs_f64(), "{announced:?}, truly {span:?}");
    }
}

/// Everybody has the same rows; nothing else is lost; dc1 accepted nothing since the cut.
async fn end_of_all(
    rig: &Rig,
    writer: Writer,
    prober: Prober,
    (loss, lost): (&Loss, &BTreeSet<i64>),
) {
    let ledger = writer.stop().await;
    let record = prober.stop();
    rig.assert_one_primary(&record);
    for node in rig.nodes_of("dc1") {
        let writes = record.accepted_since(&node, loss.cut);
        assert!(writes.is_empty(), "{node} accepted {} writes after the loss", writes.len());
    }
    let audit = rig.audit(&ledger).await;
    let lost_now: BTreeSet<i64> = audit.lost().into_iter().collect();
    assert_eq!(&lost_now, lost, "lost since the promotion:\n{audit}");
    assert_eq!(audit.unexpected, Vec::<i64>::new(), "refused rows are there:\n{audit}");
    rows::wait_identical(&rig.access, READY).await;
}

fn wall_us() -> i64 {
    let since = SystemTime::UNIX_EPOCH.elapsed().unwrap();
    i64::try_from(since.as_micros()).unwrap()
}
