//! Goal: the rendered files say what the agents and the federator read. Method: render a topology
//! of two datacenters, parse the text again and compare single values by their path.

use super::*;
use crate::software::RunUser;

const TOPOLOGY: &str = "\
name: shop
settings: {ttl: 6, synchronous_mode: true}
postgresql: {parameters: {work_mem: 8MB, max_connections: 60}}
datacenters:
  dc1:
    etcd: 3
    nodes: [pg1, {name: pg2, tags: {nofailover: true}, agent: {postgresql: {database: '{name}'}}}]
    agent: {postgresql: {database: shop, pgpass: '{dir}/.pgpass'}}
  dc2: {nodes: [pg1], settings: {synchronous_mode: false}, dynamic: {ttl: 7, failsafe_mode: true}}
dynamic: {ttl: 6, postgresql: {use_slots: null, pg_hba: [local all all peer]}}
agent: {tags: {zone: '{address}'}}
";

fn rendered() -> (Vec<(String, Value)>, Value, Credentials) {
    let dir = tempfile::tempdir().unwrap();
    let credentials = Credentials::read_or_make(dir.path(), &RunUser::current()).unwrap();
    let topology = Topology::parse(TOPOLOGY).unwrap();
    let layout =
        Layout::plan(&topology, "127.20".parse().unwrap(), Path::new("/tmp/lab/shop")).unwrap();
    let context = AgentContext {
        topology: &topology,
        layout: &layout,
        postgres_bin_dir: Path::new("/usr/lib/postgresql/15/bin"),
        credentials: &credentials,
    };
    let mut agents = Vec::new();
    for dc in &topology.datacenters {
        for host in layout.hosts_of(&dc.name).filter(|host| host.is_node()) {
            let text = agent_config(&context, dc, host).unwrap();
            agents.push((host.name.clone(), serde_yaml::from_str(&text).unwrap()));
        }
    }
    let federator = federator_config(&topology, &layout).unwrap();
    (agents, serde_yaml::from_str(&federator).unwrap(), credentials)
}

fn at<'a>(value: &'a Value, path: &str) -> &'a Value {
    path.split('/').fold(value, |value, key| match key.parse::<usize>() {
        Ok(index) => &value[index],
        Err(_) => &value[key],
    })
}

fn yaml(text: &str) -> Value {
    serde_yaml::from_str(text).unwrap()
}

#[test]
fn agents_get_what_the_topology_says() {
    let (agents, _, _) = rendered();
    let names: Vec<&str> = agents.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["dc1-pg1", "dc1-pg2", "dc2-pg1"]);
    let cases = [
        (0, "scope", "shop-dc1"),
        (0, "namespace", "/service"),
        (0, "name", "dc1-pg1"),
        (0, "restapi/listen", "127.20.1.11:8008"),
        (0, "grpc/connect_address", "127.20.1.11:8009"),
        (0, "etcd3/hosts", "['127.20.1.1:2379', '127.20.1.2:2379', '127.20.1.3:2379']"),
        (0, "bootstrap/dcs/ttl", "6"),
        (0, "bootstrap/dcs/loop_wait", "1"),
        (0, "bootstrap/dcs/maximum_lag_on_failover", "1048576"),
        (0, "bootstrap/dcs/synchronous_mode", "true"),
        (0, "bootstrap/dcs/postgresql/use_pg_rewind", "true"),
        (0, "bootstrap/dcs/postgresql/use_slots", "null"),
        (0, "bootstrap/dcs/postgresql/pg_hba", "[local all all peer]"),
        (0, "bootstrap/dcs/postgresql/parameters/wal_log_hints", "'on'"),
        (0, "bootstrap/dcs/postgresql/parameters/work_mem", "8MB"),
        (0, "bootstrap/dcs/postgresql/parameters/max_connections", "60"),
        (0, "bootstrap/initdb", "[{encoding: UTF8}, data-checksums, {auth: scram-sha-256}]"),
        (0, "postgresql/listen", "127.20.1.11:5432"),
        (0, "postgresql/data_dir", "/tmp/lab/shop/dc1-pg1/data"),
        (0, "postgresql/bin_dir", "/usr/lib/postgresql/15/bin"),
        (0, "postgresql/pgpass", "/tmp/lab/shop/dc1-pg1/.pgpass"),
        (0, "postgresql/database", "shop"),
        (0, "postgresql/parameters/unix_socket_directories", "/tmp/lab/shop/dc1-pg1/run"),
        (0, "postgresql/authentication/superuser/username", "postgres"),
        (0, "tags", "{zone: 127.20.1.11}"),
        (0, "federation", "null"),
        (1, "tags", "{nofailover: true, zone: 127.20.1.12}"),
        (1, "postgresql/database", "dc1-pg2"),
        (2, "scope", "shop-dc2"),
        (2, "name", "dc2-pg1"),
        (2, "postgresql/listen", "127.20.2.11:5432"),
        (2, "bootstrap/dcs/ttl", "7"),
        (2, "bootstrap/dcs/failsafe_mode", "true"),
        (2, "postgresql/database", "null"),
        (2, "bootstrap/dcs/synchronous_mode", "false"),
        (2, "federation", "{standby: true}"),
    ];
    for (agent, path, wanted) in cases {
        let config = &agents[agent].1;
        let seen = config.get(path).unwrap_or_else(|| at(config, path));
        assert_eq!(seen, &yaml(wanted), "{} {path}", agents[agent].0);
    }
}

#[test]
fn nothing_switches_durability_off() {
    let (agents, _, _) = rendered();
    for (name, config) in agents {
        let text = serde_yaml::to_string(&config).unwrap();
        assert!(!text.contains("fsync") && !text.contains("full_page_writes"), "{name}");
    }
}

#[test]
fn the_federator_gets_files_and_no_passwords() {
    let (agents, federator, credentials) = rendered();
    let cases = [
        ("federation", "shop"),
        ("datacenters/dc1/scope", "shop-dc1"),
        ("datacenters/dc1/namespace", "/service"),
        ("datacenters/dc2/etcd", "['127.20.2.1:2379']"),
        ("credentials/superuser/username", "postgres"),
        ("credentials/superuser/password_file", "/tmp/lab/shop/secrets/superuser.pass"),
        ("credentials/replication/username", "replicator"),
    ];
    for (path, wanted) in cases {
        assert_eq!(at(&federator, path), &yaml(wanted), "{path}");
    }
    let text = serde_yaml::to_string(&federator).unwrap();
    for password in [&credentials.superuser, &credentials.replication, &credentials.rewind] {
        assert!(!text.contains(password.reveal()));
    }
    let seen = at(&agents[0].1, "postgresql/authentication/replication/password");
    assert_eq!(seen.as_str(), Some(credentials.replication.reveal()));
}

#[test]
fn the_agent_knows_every_key() {
    let (agents, _, _) = rendered();
    for (name, config) in agents {
        let text = serde_yaml::to_string(&config).unwrap();
        let value = node_agent_wire::yaml::parse(&text).unwrap();
        assert_eq!(node_agent_wire::config::unknown_keys(&value), [""; 0], "{name}");
        let read: node_agent_wire::config::LocalConfig = serde_json::from_value(value).unwrap();
        assert_eq!(read.federation.standby, name.starts_with("dc2"), "{name}");
        assert!(!read.etcd3.endpoints().is_empty(), "{name}");
        assert!(read.grpc.is_some(), "{name}");
    }
}
