//! Goal: a promotion happens on the evidence that the federation agreed on, after a second person's
//! word, and leaves a signed account of it. Nothing less promotes anybody, or runs the fencer; a
//! fencer that fails turns everything back; after a lossy promotion no sequence hands out a value
//! that the lost datacenter may have handed out.
//! Method: one datacenter without power. The fencer is a shell script that notes that it ran, or
//! fails while a file is there. What was signed is changed in etcd afterwards.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::PathBuf;

use federator_core::history::ClosedOperation;
use federator_tests::federator::exit;
use federator_tests::patience::until;
use federator_tests::rig::{READY, ROWS, Rig};
use federator_tests::rows;
use federator_tests::store::Store;
use node_agent_wire::federation::Evidence;
use node_agent_wire::keys::Leaf;
use serde_json::json;

const TOPOLOGY: &str = "
name: shop
network: 127.20
settings: {ttl: 5, loop_wait: 1, retry_timeout: 1}
datacenters:
  dc1: {etcd: 1, nodes: [pg1]}
  dc2: {etcd: 1, nodes: [pg1]}
";
/// RFC 8410, section 10.3: the example key.
const KEY: &str = "-----BEGIN PRIVATE KEY-----
MC4CAQAwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC
-----END PRIVATE KEY-----
";
const POLICY: &str = "acknowledged or lease-expired or (fenced-by-hook and attested)";
const GAP: i64 = 1000;
/// PostgreSQL logs a sequence so many values ahead.
const LOGGED_AHEAD: i64 = 32;
const ATTESTED: [&str; 8] =
    ["promote", "dc2", "--attest", "no power", "--by", "ann", "--confirm", "shop"];

/// The files that the fencer knows.
struct Fencer {
    noted: PathBuf,
    fails: PathBuf,
}

impl Fencer {
    /// Into the settings, with everything else that is agreed beforehand.
    fn agree(rig: &Rig) -> Self {
        let dir = &rig.lab.layout.dir;
        let (noted, fails) = (dir.join("fenced"), dir.join("fencer-fails"));
        let key = dir.join("signing.pem");
        fs::write(&key, KEY).unwrap();
        let script = format!(
            "if [ -e {} ]; then echo no route to the rack >&2; exit 7; fi; \
             echo $FEDERATOR_DC is off | tee -a {}",
            fails.display(),
            noted.display()
        );
        rig.settings(|settings| {
            settings["policies"] = json!({"evidence": POLICY, "approvals": 1, "sequence_gap": GAP});
            settings["signing_key_file"] = json!(key);
            settings["datacenters"]["dc1"]["fencer"] =
                json!({"command": ["/bin/sh", "-c", script], "timeout": "20s"});
        });
        Self { noted, fails }
    }

    fn runs(&self) -> usize {
        fs::read_to_string(&self.noted).unwrap_or_default().lines().count()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_promotion_needs_what_was_agreed_and_leaves_a_signed_account() {
    let rig = Rig::start_with("guarded-promotion", TOPOLOGY);
    let fencer = Fencer::agree(&rig);
    rig.federate().await;
    let last = use_sequences(&rig).await;
    assert!(rig.act("power cut of dc1", |lab| lab.kill_dc("dc1")) > 0, "nothing ran in dc1");

    refused_without(&rig).await;
    let hash = requested(&rig).await;
    assert_eq!(fencer.runs(), 0, "nothing that was refused has run the fencer");
    approved(&rig, &hash).await;
    turned_back(&rig, &fencer).await;

    let done = rig.federator(&ATTESTED).await.expect(exit::DONE);
    assert_eq!(fencer.runs(), 1, "{done}");
    let record = Store::of(&rig.lab, "dc2").await.record().await;
    let claim = record.claim.unwrap();
    let names: Vec<&str> =
        claim.evidence.iter().chain(&claim.further_evidence).map(Evidence::name).collect();
    assert_eq!((record.primary.as_str(), names), ("dc2", vec!["fenced-by-hook", "attested"]));
    let hook = matches!(&claim.evidence, Some(Evidence::FencedByHook { output })
        if output == "dc1 is off");
    assert!(hook, "{:?}", claim.evidence);
    assert!(done.stdout.contains(&format!("advanced by {GAP}")), "{done}");
    sequences_advanced(&rig, last).await;
    verified_until_it_is_changed(&rig).await;
}

/// Makes sequences, uses them and waits until dc2 has them; the last values that were handed out:
/// of one that counts up, and of one that counts down.
async fn use_sequences(rig: &Rig) -> (i64, i64) {
    let (node, _) = rig.access.primary_within(ROWS, "sequences").await.unwrap();
    for sql in [
        "CREATE SEQUENCE up",
        "CREATE SEQUENCE down INCREMENT BY -2",
        "CREATE SEQUENCE short MAXVALUE 50",
        "CREATE SEQUENCE round MAXVALUE 10 CYCLE",
        "SELECT nextval('up'), nextval('down'), nextval('short') FROM generate_series(1, 5)",
    ] {
        rows::run(&rig.access, &node, sql).await.unwrap();
    }
    let standby = rig.node("dc2-pg1");
    let read = "SELECT last_value::text FROM up";
    until("the sequences in dc2", ROWS, async || {
        let value = rows::value(&rig.access, &standby, read).await?;
        if value.parse::<i64>().is_ok_and(|value| value >= 5) { Ok(()) } else { Err(value) }
    })
    .await;
    (5, -9)
}

/// Neither an attestation alone, nor one without the approval, promotes anybody; a dry run shows
/// the plan with the fencer and runs nothing.
async fn refused_without(rig: &Rig) {
    let store = Store::of(&rig.lab, "dc2").await;
    let before = store.record().await;
    let refused = rig.federator(&["promote", "dc2", "--yes"]).await.expect(exit::REFUSED);
    for words in [POLICY, "attested: nobody has stated", "--attest 'REASON'"] {
        assert!(refused.stderr.contains(words), "it does not say: {words}");
    }
    let refused = rig.federator(&ATTESTED).await.expect(exit::REFUSED);
    assert!(refused.stderr.contains("approved by somebody else than ann"), "{refused}");
    let dry = rig.federator(&[&ATTESTED[..], &["--dry-run"]].concat()).await.expect(exit::DONE);
    for words in ["runs the fencer of dc1", "advances every sequence", "approval", "[only forward]"]
    {
        assert!(dry.stdout.contains(words), "it does not say: {words}");
    }
    assert_eq!(store.record().await, before, "something was changed");
}

/// Asks for the approval; its hash. The same is asked for again under the same hash.
async fn requested(rig: &Rig) -> String {
    let bounded = [&ATTESTED[..], &["--max-loss", "1GB,10min", "--request"]].concat();
    let asked = rig.federator(&bounded).await.expect(exit::DONE);
    let hash = |output: &str| {
        let (_, rest) = output.split_once("federator approve ").unwrap();
        rest.split_whitespace().next().unwrap().to_owned()
    };
    let again = rig.federator_quiet(&bounded).await.expect(exit::DONE);
    assert_eq!(hash(&asked.stdout), hash(&again.stdout));
    hash(&asked.stdout)
}

/// Who asks can't approve; somebody else can, and only what they saw.
async fn approved(rig: &Rig, hash: &str) {
    let own = ["approve", hash, "--by", "Ann", "--yes"];
    let refused = rig.federator(&own).await.expect(exit::REFUSED);
    assert!(refused.stderr.contains("takes somebody else"), "{refused}");
    let _ = rig.federator(&["approve", "00000000", "--by", "bob"]).await.expect(exit::REFUSED);
    let shown = rig.federator(&["approve", hash, "--by", "bob", "--yes"]).await.expect(exit::DONE);
    for words in ["attested by ann: no power", "at most 1024 MB, at most the last 600 s", POLICY] {
        assert!(shown.stdout.contains(words), "it does not say: {words}");
    }
    let other = ["promote", "dc2", "--attest", "no network", "--by", "ann", "--confirm", "shop"];
    let void = rig.federator(&other).await.expect(exit::REFUSED);
    assert!(void.stderr.contains("is void: the evidence changed"), "{void}");
}

/// A fencer that fails: its own words are shown, the roles are as they were, and dc2 is read-only.
async fn turned_back(rig: &Rig, fencer: &Fencer) {
    let store = Store::of(&rig.lab, "dc2").await;
    let before = store.record().await;
    fs::write(&fencer.fails, "").unwrap();
    let back = rig.federator(&ATTESTED).await.expect(exit::ABORTED);
    fs::remove_file(&fencer.fails).unwrap();
    for words in ["exited with 7", "stderr: no route to the rack"] {
        assert!(back.stderr.contains(words), "it does not say: {words}");
    }
    assert_eq!(store.record().await, before, "something is left");
    assert_eq!(fencer.runs(), 0);
    let standby = rig.node("dc2-pg1");
    let read = "SELECT pg_is_in_recovery()::text";
    until("dc2 in recovery", READY, async || {
        match rows::value(&rig.access, &standby, read).await? {
            value if value == "true" => Ok(()),
            other => Err(other),
        }
    })
    .await;
}

async fn sequences_advanced(rig: &Rig, (up, down): (i64, i64)) {
    let node = rig.node("dc2-pg1");
    let next = async |name: &str| {
        let sql = format!("SELECT nextval('{name}')::text");
        let what = format!("the next value of {name}");
        let text = until(&what, ROWS, async || rows::value(&rig.access, &node, &sql).await).await;
        text.parse::<i64>().unwrap()
    };
    let (counted_up, counted_down) = (next("up").await, next("down").await);
    let ahead = GAP + LOGGED_AHEAD + 1;
    assert!((up + GAP + 1..=up + ahead).contains(&counted_up), "{counted_up}");
    assert!((down - 2 * ahead..=down - 2 * (GAP + 1)).contains(&counted_down), "{counted_down}");
    // What has no room goes on where it was; what begins anew stays within its bounds.
    assert!((6..=50).contains(&next("short").await));
    assert!((1..=10).contains(&next("round").await));
}

async fn verified_until_it_is_changed(rig: &Rig) {
    let verify = ["history", "--verify"];
    let good = rig.federator(&verify).await.expect(exit::DONE);
    for words in ["ok       dc2:", "signed by 19bf4409", " 0 are bad"] {
        assert!(good.stdout.contains(words), "it does not say: {words}");
    }
    let store = Store::of(&rig.lab, "dc2").await;
    let (text, _) = store.get(Leaf::FederationHistory).await.unwrap();
    let history: Vec<ClosedOperation> = serde_json::from_str(&text).unwrap();
    let approvers: Vec<&str> =
        history.last().unwrap().approvals.iter().map(|approval| approval.by.as_str()).collect();
    assert_eq!(approvers, ["bob"]);
    for (from, to, expected) in [
        (
            "\"by\":\"bob\"",
            "\"by\":\"eve\"",
            "the entry does not agree with the document: approvals",
        ),
        ("no power", "no doubt", "the signature is WRONG"),
    ] {
        // The last entry is the promotion; the one before it was turned back.
        let at = text.rfind(from).unwrap();
        let changed = format!("{}{to}{}", &text[..at], &text[at + from.len()..]);
        assert_ne!(changed, text);
        store.put(Leaf::FederationHistory, &changed).await;
        let bad = rig.federator(&verify).await.expect(exit::FAILED);
        assert!(bad.stdout.contains("BAD") && bad.stdout.contains(expected), "{bad}");
    }
}
