//! Goal: in lease mode a primary datacenter writes only while a majority of the voters grants it
//! the epoch. Losing any one voter stops no write; cut off from both others it stops before its
//! grants can be taken, and the other datacenter is promoted without anybody's word; a planned
//! switchover goes there and back, as without grants. A local failover takes the grants along.
//! Method: two datacenters and a witness under load, every node probed every 20 ms past all of it.
//! One lab for the losses and the switchovers; one with every host in a network namespace of its
//! own for the cut, where the federator runs beside dc2 and reaches dc1 as little as dc2 does.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use federator_tests::agent_log::Mark;
use federator_tests::federator::exit;
use federator_tests::isolation;
use federator_tests::patience::until;
use federator_tests::rig::{READY, ROWS, Rig, assert_nothing_lost};
use federator_tests::rows;
use federator_tests::scene::assert_in_turn;
use federator_tests::store::Store;
use lab::ledger::Writer;
use lab::namespaces::Namespaces;
use node_agent_core::rule::Rule;
use node_agent_wire::DcName;
use node_agent_wire::federation::{Evidence, Isolation};
use node_agent_wire::grant::Marker;
use node_agent_wire::keys::Leaf;
use node_agent_wire::position::Position;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, SanType};
use std::os::unix::fs::{PermissionsExt, chown};

const WITH_A_LOCAL_STANDBY: &str = "
name: shop
settings: {ttl: 5, loop_wait: 1, retry_timeout: 1, synchronous_mode: true}
federator:
  datacenters: {dc1: {isolation: lease}, dc2: {isolation: lease}}
  policies: {grant_ttl: 4s, grant_stop_max: 1s, grant_margin: 500ms}
witness: {etcd: 1}
datacenters:
  dc1: {etcd: 1, nodes: [pg1, pg2]}
  dc2: {etcd: 1, nodes: [pg1]}
";
/// What the topology's durations let a challenger wait, and some more.
const BEYOND_MS: i64 = 7000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn losing_any_one_voter_stops_no_write_and_switchovers_go_there_and_back() {
    let rig = Rig::start("grants", "two-dc-witness.yaml");
    rig.federate().await;
    for record in rig.records().await.values() {
        let leased = record.members.values().all(|entry| entry.isolation == Isolation::Lease);
        assert!(leased && record.policies.grants.is_some(), "{record:?}");
    }
    let writer = rig.writer("before").await;
    let prober = rig.prober().await;
    rig.rows(&writer, 100).await;
    for to in ["dc2", "dc1"] {
        writer.phase(&format!("switchover to {to}"));
        let _ = rig.federator(&["switchover", "--to", to, "--yes"]).await.expect(exit::DONE);
        rig.settled(to).await;
        granted_by_all(&rig, to).await;
        rig.rows(&writer, 50).await;
    }
    for lost in ["witness", "dc2"] {
        without(&rig, &writer, lost).await;
    }
    let ledger = writer.stop().await;
    let record = prober.stop();
    assert_nothing_lost(&rig.audit(&ledger).await);
    rig.assert_one_primary(&record);
    rows::wait_identical(&rig.access, READY).await;
}

async fn granted_by_all(rig: &Rig, dc: &str) {
    until("every voter's grant", ROWS, async || {
        let status = rig.status().await;
        let seats = status["grants"]["view"]["voters"].as_array().cloned().unwrap_or_default();
        let held = seats.iter().filter(|seat| seat["ours"] == true && seat["holder"] == *dc);
        if held.count() == 3 { Ok(()) } else { Err(status["grants"].to_string()) }
    })
    .await;
}

/// The primary's host is lost: another node of its datacenter leads, takes the grants over at the
/// same epoch without the wait of a challenger, and keeps them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_next_leader_of_the_same_datacenter_takes_the_grants_over() {
    let rig = Rig::start_with("grants-failover", WITH_A_LOCAL_STANDBY);
    rig.federate().await;
    let epoch = rig.records().await["dc1"].epoch;
    let former = rig.complete("dc1");
    let writer = rig.writer("before").await;
    let prober = rig.prober().await;
    granted_by_all(&rig, "dc1").await;
    rig.rows(&writer, 200).await;

    writer.phase("the primary's host is lost");
    rig.kill_host(&former);
    let lost = Instant::now();
    let successor = rig.successor_of(&former).await;
    assert!(rig.nodes_of("dc1").contains(&successor), "{successor} is in another datacenter");
    rig.rows(&writer, 100).await;
    assert_in_turn(&prober.snapshot(), &former, &successor, lost);
    let (dc1, dc2) = (Store::of(&rig.lab, "dc1").await, Store::of(&rig.lab, "dc2").await);
    for voter in [&dc1, &dc2] {
        until("the grant of the next leader", ROWS, async || {
            let now = marker(voter).await?;
            let over = now.node.as_str() == successor && now.holder == DcName::new("dc1");
            if over && now.epoch == epoch { Ok(()) } else { Err(format!("{now:?}")) }
        })
        .await;
    }
    let before = beat(&dc1).await.unwrap().at_us;
    until("beats of the next leader beyond its grants", ROWS, async || {
        let lived_ms = (beat(&dc1).await?.at_us - before) / 1000;
        if lived_ms > BEYOND_MS { Ok(()) } else { Err(format!("{lived_ms} ms")) }
    })
    .await;
    rig.rows(&writer, 50).await;

    writer.phase("the host is back");
    rig.start_dc("dc1");
    assert_eq!(rig.complete("dc1"), successor, "the return of {former} moved the leader");
    let records = rig.settled("dc1").await;
    assert_eq!(records["dc1"].epoch, epoch, "a local failover is no change of the datacenter");
    rig.rows(&writer, 50).await;
    let ledger = writer.stop().await;
    rig.assert_one_primary(&prober.stop());
    assert_nothing_lost(&rig.audit(&ledger).await);
    rows::wait_identical(&rig.access, READY).await;
}

/// A voter loses its power: the primary goes on for longer than its grants would last, and says who
/// does not answer.
async fn without(rig: &Rig, writer: &Writer, lost: &str) {
    let primary = rig.complete("dc1");
    let (mark, store) = (Mark::now(&rig.lab), Store::of(&rig.lab, "dc1").await);
    let ended = rig.act(&format!("power cut of {lost}"), |lab| lab.kill_dc(lost));
    assert!(ended > 0, "nothing ran in {lost}");
    writer.phase(&format!("without {lost}"));
    let before = beat(&store).await.unwrap().at_us;
    until("beats of the primary beyond its grants", ROWS, async || {
        let lived_ms = (beat(&store).await?.at_us - before) / 1000;
        if lived_ms > BEYOND_MS { Ok(()) } else { Err(format!("{lived_ms} ms")) }
    })
    .await;
    rig.rows(writer, 100).await;
    let stopped = mark.decided(&rig.lab, Rule::FenceDemote);
    assert!(stopped.is_empty(), "{primary} stopped without {lost}: {stopped:#?}");
    let status = rig.federator(&["status"]).await.expect(exit::DONE);
    let words = format!("the voter {lost} does not answer dc1");
    assert!(status.stdout.contains(&words), "the status does not say: {words}");
    rig.start_dc(lost);
    rig.settled("dc1").await;
    assert_eq!(rig.complete("dc1"), primary, "no failover");
}

async fn beat(store: &Store) -> Result<Position, String> {
    let (text, _) = store.get(Leaf::Position).await.ok_or("no position")?;
    serde_json::from_str(&text).map_err(|error| error.to_string())
}

fn topology(certificates: &Path) -> String {
    let dir = certificates.display();
    format!(
        "
name: shop
settings: {{ttl: 5, loop_wait: 1, retry_timeout: 1}}
federator:
  datacenters: {{dc1: {{isolation: lease}}, dc2: {{isolation: lease}}}}
  policies: {{grant_ttl: 4s, grant_stop_max: 1s, grant_margin: 500ms}}
  tls: {{cafile: {dir}/ca.crt, certfile: {dir}/host.crt, keyfile: {dir}/host.key}}
agent:
  grpc:
    listen: '{{address}}:8009'
    connect_address: '{{address}}:8009'
    cafile: {dir}/ca.crt
    certfile: {dir}/host.crt
    keyfile: {dir}/host.key
witness: {{etcd: 1}}
datacenters:
  dc1: {{etcd: 1, nodes: [pg1]}}
  dc2: {{etcd: 1, nodes: [pg1]}}
"
    )
}

/// One certificate for all hosts of a lab in namespaces, and for the federator.
fn certificates(dir: &Path) {
    fs::set_permissions(dir, fs::Permissions::from_mode(0o755)).unwrap();
    let mut authority = CertificateParams::new(Vec::new()).unwrap();
    authority.distinguished_name.push(DnType::CommonName, "authority of the lab");
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    fs::write(dir.join("ca.crt"), authority.self_signed(&key).unwrap().pem()).unwrap();
    let issuer = Issuer::from_params(&authority, &key);
    let mut host = CertificateParams::new(Vec::new()).unwrap();
    host.distinguished_name.push(DnType::CommonName, "host of the lab");
    let addresses = [1_u8, 2].map(|dc| SanType::IpAddress([198, 18, dc, 11].into()));
    host.subject_alt_names = addresses.into();
    let own = KeyPair::generate().unwrap();
    fs::write(dir.join("host.crt"), host.signed_by(&own, &issuer).unwrap().pem()).unwrap();
    let file = dir.join("host.key");
    fs::write(&file, own.serialize_pem()).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    let user = lab::software::RunUser::choose(None).unwrap();
    chown(&file, Some(user.uid), Some(user.gid)).unwrap();
}

/// Every pair of hosts, both ways, of dc1 and anywhere else.
fn pairs(rig: &Rig) -> Vec<(String, String)> {
    let hosts = &rig.lab.layout.hosts;
    let inside = hosts.iter().filter(|host| host.dc.as_str() == "dc1");
    inside
        .flat_map(|one| hosts.iter().filter(|two| two.dc != one.dc).map(move |two| (one, two)))
        .flat_map(|(one, two)| {
            [(one.name.clone(), two.name.clone()), (two.name.clone(), one.name.clone())]
        })
        .collect()
}

/// A promotion waits until dc2 has acquired the grants, and is killed there; turned back, it gives
/// them back to dc1 as they were.
async fn acquire_and_turn_back(rig: &Rig, network: &Namespaces, dc2: &Store) {
    until("a promotion that is not refused any more", ROWS, async || {
        let (_, said) = beside_dc2(rig, network, &PROMOTE, "acquire:after");
        if dc2.record().await.operation.is_some() { Ok(()) } else { Err(said) }
    })
    .await;
    let claimed = marker(dc2).await.unwrap();
    assert_eq!((claimed.holder.as_str(), claimed.released), ("dc2", false), "{claimed:?}");
    let (_, said) = beside_dc2(rig, network, &["abort", "--yes", "--confirm", "shop"], "");
    assert!(dc2.record().await.operation.is_none(), "{said}");
    until("the grant as it was before", ROWS, async || {
        let now = marker(dc2).await?;
        let back = now.holder.as_str() == "dc1" && now.released && now.operation.is_none();
        if back { Ok(()) } else { Err(format!("{now:?}")) }
    })
    .await;
}

async fn marker(store: &Store) -> Result<Marker, String> {
    let (text, _) = store.get(Leaf::GrantLast).await.ok_or("no marker")?;
    serde_json::from_str(&text).map_err(|error| error.to_string())
}

/// Runs the federator beside dc2, killed at a step's boundary where `at` names one: exit code, and
/// everything that it said.
fn beside_dc2(rig: &Rig, network: &Namespaces, words: &[&str], at: &str) -> (i32, String) {
    let mut command = Command::new("timeout");
    if !at.is_empty() {
        command.env("FEDERATOR_CRASH_AT", at);
    }
    command.arg("100").arg(rig.lab.software.program("federator"));
    command.arg("-f").arg(rig.lab.layout.federator_config()).args(words);
    let done = tokio::task::block_in_place(|| network.at("dc2-pg1", || command.output()));
    let done = done.unwrap().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let said = format!("{}{}", text(&done.stdout), text(&done.stderr));
    rig.say(&format!("$ federator {}: {:?} {at}\n{said}", words.join(" "), done.status));
    (done.status.code().unwrap_or(-1), said)
}

const PROMOTE: [&str; 6] = ["promote", "dc2", "--by", "tester", "--confirm", "shop"];

#[test]
fn a_primary_cut_off_from_the_voters_stops_before_its_grants_are_taken() {
    isolation::run(async |network| {
        let dir = tempfile::tempdir().unwrap();
        certificates(dir.path());
        let rig = Rig::start_isolated("grants-cut", &topology(dir.path()), &network);
        rig.federate().await;
        let writer = rig.writer("before").await;
        let prober = rig.prober().await;
        rig.rows(&writer, 100).await;
        let (code, said) = beside_dc2(&rig, &network, &PROMOTE, "");
        assert_eq!(code, exit::REFUSED, "{said}");
        assert!(said.contains("lease-expired: dc1 renews its grants"), "{said}");

        let (mark, cut) = (Mark::now(&rig.lab), Instant::now());
        writer.phase("dc1 is cut off");
        for (from, to) in pairs(&rig) {
            network.cut(&from, &to).unwrap();
        }
        let dc2 = Store::of(&rig.lab, "dc2").await;
        acquire_and_turn_back(&rig, &network, &dc2).await;
        let _killed = beside_dc2(&rig, &network, &PROMOTE, "acquire:before");
        let (code, said) =
            beside_dc2(&rig, &network, &["resume", "--yes", "--confirm", "shop"], "");
        assert!([exit::DONE, exit::PARTLY].contains(&code), "{said}");
        let record = dc2.record().await;
        assert_eq!(record.primary, DcName::new("dc2"), "{record:?}");
        let evidence = record.claim.and_then(|claim| claim.evidence);
        let voters = vec!["dc2".to_owned(), "witness".to_owned()];
        assert_eq!(evidence, Some(Evidence::LeaseExpired { voters }));
        writer.phase("dc2 is primary");
        rig.rows(&writer, 100).await;
        assert_in_turn(&prober.snapshot(), "dc1-pg1", "dc2-pg1", cut);
        let stopped = mark.decided(&rig.lab, Rule::FenceDemote);
        assert!(stopped.iter().any(|line| line.starts_with("dc1-pg1")), "{stopped:#?}");

        writer.phase("the network is whole again");
        for (from, to) in pairs(&rig) {
            network.heal(&from, &to).unwrap();
        }
        let dc1 = Store::of(&rig.lab, "dc1").await;
        until("dc1's own knowledge that its epoch is over", READY, async || {
            let record = dc1.record().await;
            if record.primary.as_str() == "dc2" { Ok(()) } else { Err(format!("{record:?}")) }
        })
        .await;
        until("dc2's grant in dc1", READY, async || {
            let now = marker(&dc1).await?;
            if now.holder.as_str() == "dc2" { Ok(()) } else { Err(format!("{now:?}")) }
        })
        .await;
        let _ = rig.federator(&["rejoin", "dc1", "--yes"]).await.expect(exit::DONE);
        rig.settled("dc2").await;
        rig.rows(&writer, 50).await;
        let ledger = writer.stop().await;
        rig.assert_one_primary(&prober.stop());
        let audit = rig.audit(&ledger).await;
        for phase in audit.phases.iter().filter(|phase| phase.label != "dc1 is cut off") {
            assert_eq!(phase.lost, Vec::<i64>::new(), "lost in \"{}\":\n{audit}", phase.label);
        }
        rows::wait_identical(&rig.access, READY).await;
    });
}
