//! Goal: every rule of the topology file refuses what breaks it, with line and path; the shipped
//! files pass. Method: tables of texts and the words that the error must contain.

use super::*;

const GOOD: &str = "\
name: shop
network: 127.20
settings: {ttl: 6, synchronous_mode: true}
wan: {rtt: 40ms, jitter: 2ms, loss: 0.5%, rate: 100Mbit, seed: 7}
postgresql: {version: 15, parameters: {work_mem: 8MB, jit: false, random_page_cost: 1.5}}
datacenters:
  west:
    etcd: 3
    nodes: [pg1, {name: pg2, tags: {nofailover: true}}]
  dc2:
    nodes: [pg1]
    settings: {synchronous_mode: false}
";

#[test]
fn a_full_file_is_read_in_its_order() {
    let topology = Topology::parse(GOOD).unwrap();
    let names: Vec<&str> = topology.datacenters.iter().map(|dc| dc.name.as_str()).collect();
    assert_eq!(names, ["west", "dc2"], "the order of the file decides who is first");
    assert_eq!(topology.network, "127.20".parse().unwrap());
    assert_eq!((topology.datacenters[0].etcd, topology.datacenters[1].etcd), (3, 1));
    let tags = &topology.datacenters[0].nodes[1].tags;
    assert_eq!(tags.get("nofailover"), Some(&Scalar::Bool(true)));
    assert_eq!(topology.postgresql.parameters["work_mem"], Scalar::Text("8MB".into()));
    let wan = topology.wan.unwrap();
    let words = "rtt 40ms, jitter 2ms, loss 0.5%, rate 100Mbit";
    assert_eq!((wan.shape().to_string().as_str(), wan.seed), (words, 7));
}

#[test]
fn settings_of_a_datacenter_lie_over_those_of_the_file_and_the_defaults() {
    let topology = Topology::parse(GOOD).unwrap();
    let west = topology.settings_of(&topology.datacenters[0]);
    let dc2 = topology.settings_of(&topology.datacenters[1]);
    assert_eq!((west.ttl, west.synchronous_mode), (Some(6), Some(true)));
    assert_eq!((dc2.ttl, dc2.synchronous_mode), (Some(6), Some(false)));
    assert_eq!((dc2.loop_wait, dc2.maximum_lag_on_failover), (Some(1), Some(1_048_576)));
}

#[test]
fn the_default_network_is_valid() {
    let topology = Topology::parse("name: a\ndatacenters: {dc1: {nodes: [pg1]}}").unwrap();
    assert_eq!(topology.network.to_string(), "127.20");
}

/// `from` in the good file is replaced by `to`; the error must contain every word of the list.
#[test]
fn faults_are_named_with_path_and_line() {
    let cases: &[(&str, &str, &[&str])] = &[
        ("name: shop", "nam: shop", &["unknown field `nam`", "line 1"]),
        ("name: shop\n", "", &["missing field `name`"]),
        ("name: shop", "name: Shop", &["name: \"Shop\"", "lower-case", "line 1", "example: shop"]),
        ("127.20", "10.20", &["network: \"10.20\"", "line 2", "example: 127.20"]),
        ("ttl: 6", "tll: 6", &["settings: unknown field `tll`", "line 3"]),
        ("ttl: 6", "ttl: six", &["settings.ttl: invalid type", "line 3"]),
        ("ttl: 6", "ttl: 2", &["settings: ttl is 2 s", "line 3", "example: ttl: 5"]),
        ("ttl: 6", "ttl: 6, loop_wait: 5", &["settings: loop_wait + 2", "is 7 s", "line 3"]),
        ("{synchronous_mode: false}", "{ttl: 1}", &["datacenters.dc2.settings: ttl", "line 12"]),
        ("rtt: 40ms", "rtt: 40", &["wan.rtt", "with its unit", "line 4"]),
        ("rtt: 40ms", "rtt: 40m", &["wan.rtt", "from 0 to 10 s", "line 4"]),
        ("loss: 0.5%", "los: 0.5%", &["wan: unknown field `los`", "line 4"]),
        ("loss: 0.5%", "loss: 101%", &["wan.loss", "0% to 100%", "line 4"]),
        ("rate: 100Mbit", "rate: 100MB", &["wan.rate", "example: 100Mbit", "line 4"]),
        ("etcd: 3", "etcd: 2", &["datacenters.west.etcd", "1, 3 or 5", "line 8"]),
        ("etcd: 3", "etdc: 3", &["datacenters.west: unknown field `etdc`", "line 8"]),
        ("name: pg2", "name: pg1", &["datacenters.west.nodes: node pg1 occurs twice", "line 9"]),
        ("[pg1]", "[]", &["datacenters.dc2.nodes", "empty", "line 11", "example: [pg1]"]),
        ("[pg1]", "[etcd1]", &["datacenters.dc2.nodes[0]", "name of an etcd host", "line 11"]),
        ("[pg1]", "pg1", &["datacenters.dc2.nodes", "a list of nodes", "line 11"]),
        ("tags:", "tag:", &["datacenters.west.nodes[1]", "unknown field `tag`", "line 9"]),
        ("true}}", "[1]}}", &["nofailover", "single value", "line 9"]),
        ("dc2:", "west:", &["datacenters: datacenter west occurs twice"]),
        ("work_mem: 8MB", "port: 5433", &["postgresql.parameters.port", "lab sets", "line 5"]),
        ("work_mem: 8MB", "fsync: off", &["postgresql.parameters.fsync", "power cut", "line 5"]),
    ];
    for (from, to, words) in cases {
        assert!(GOOD.contains(from), "the case replaces nothing: {from}");
        let text = GOOD.replacen(from, to, 1);
        let fault = Topology::parse(&text).expect_err(to);
        for word in *words {
            assert!(fault.contains(word), "{to}: wanted \"{word}\" in: {fault}");
        }
    }
}

#[test]
fn no_datacenter_is_refused() {
    let fault = Topology::parse("name: a\ndatacenters: {}").unwrap_err();
    assert!(fault.contains("no datacenter") && fault.contains("example"), "{fault}");
}

#[test]
fn a_wan_needs_two_sides() {
    let text = "name: a\nwan: {rtt: 40ms}\ndatacenters: {dc1: {nodes: [x]}}";
    let fault = Topology::parse(text).unwrap_err();
    assert!(
        fault.contains("wan: there is one datacenter only") && fault.contains("line 2"),
        "{fault}"
    );
    Topology::parse(&text.replace("\nwan", "\nwitness: {}\nwan")).unwrap();
}

#[test]
fn the_shipped_files_are_valid() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    for (file, datacenters, nodes) in [
        ("one-node.yaml", 1, 1),
        ("three-nodes.yaml", 1, 3),
        ("two-dc.yaml", 2, 5),
        ("two-dc-witness.yaml", 2, 3),
        ("two-dc-wan.yaml", 2, 3),
    ] {
        let (topology, _) = Topology::read(&dir.join(file)).unwrap();
        assert_eq!(topology.datacenters.len(), datacenters, "{file}");
        let count: usize = topology.datacenters.iter().map(|dc| dc.nodes.len()).sum();
        assert_eq!(count, nodes, "{file}");
    }
}

#[test]
fn a_missing_file_is_named() {
    let fault = Topology::read(Path::new("/nonexistent/topology.yaml")).unwrap_err();
    assert!(fault.to_string().contains("/nonexistent/topology.yaml"), "{fault}");
}
