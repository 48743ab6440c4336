//! Goal: Patroni's own command line works on a datacenter of ours as it is: list, topology,
//! switchover, edit-config.
//! Method: `patronictl` from PyPI, in a virtual environment that is kept beside the build, against
//! three nodes under load. Where PyPI cannot be reached the test prints the reason and ends.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use federator_tests::patience::until;
use federator_tests::patronictl::{Tool, install};
use federator_tests::rig::{READY, ROWS, Rig, assert_nothing_lost};
use federator_tests::rows;
use serde_json::Value;

fn leader_of(members: &[Value]) -> String {
    let found = members.iter().find(|member| member["Role"] == "Leader");
    name(found.unwrap_or_else(|| panic!("nobody leads: {members:?}")))
}

fn name(member: &Value) -> String {
    member["Member"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn patronictl_works_on_our_agents() {
    let program = match install().await {
        Ok(program) => program,
        Err(reason) => {
            println!("SKIPPED: PyPI cannot be reached from here: {reason}");
            return;
        }
    };
    let rig = Rig::start("patroni-tools", "three-nodes.yaml");
    let leader = rig.complete("dc1");
    let writer = rig.writer("before").await;
    let tool = Tool::of(&rig, program);
    let _ = tool.run(&["version"]).await;

    let members = tool.members().await;
    assert_eq!(members.len(), 3, "{members:?}");
    assert_eq!(leader_of(&members), leader);
    assert!(members.iter().all(|member| member["TL"] == 1 && member["Cluster"] == tool.scope));
    let table = tool.run(&["list"]).await.stdout;
    assert!(rig.nodes_of("dc1").iter().all(|node| table.contains(node.as_str())), "{table}");

    let tree = tool.run(&["topology"]).await.stdout;
    for node in rig.nodes_of("dc1").iter().filter(|node| **node != leader) {
        assert!(tree.contains(&format!("+ {node}")), "{node} does not hang below {leader}: {tree}");
    }

    let candidate = until("a synchronous standby in patronictl list", ROWS, async || {
        let members = tool.members().await;
        let found = members.iter().find(|member| member["Role"] == "Sync Standby");
        found.map(name).ok_or_else(|| format!("{members:?}"))
    })
    .await;
    writer.phase("switchover --force");
    let names = ["--leader", leader.as_str(), "--candidate", candidate.as_str()];
    let line = ["switchover", tool.scope.as_str(), "--force"];
    let line: Vec<&str> = line.into_iter().chain(names).collect();
    let told = tool.run(&line).await.stdout;
    assert!(told.contains(&format!("Successfully switched over to \"{candidate}\"")), "{told}");
    rig.rows(&writer, 200).await;
    assert_eq!(rig.complete("dc1"), candidate);
    assert_eq!(leader_of(&tool.members().await), candidate);

    edit_config(&rig, &tool).await;
    assert_nothing_lost(&rig.audit(&writer.stop().await).await);
    rows::wait_identical(&rig.access, READY).await;
}

/// A setting of the agents and a parameter of PostgreSQL, which must reach every node.
async fn edit_config(rig: &Rig, tool: &Tool<'_>) {
    let settings = ["-s", "maximum_lag_on_failover=2097152", "-p", "work_mem=9MB"];
    let line = ["edit-config", tool.scope.as_str(), "--force", "--quiet"];
    let line: Vec<&str> = line.into_iter().chain(settings).collect();
    let _ = tool.run(&line).await;
    let shown = tool.run(&["show-config", tool.scope.as_str()]).await.stdout;
    assert!(shown.contains("maximum_lag_on_failover: 2097152"), "{shown}");
    assert!(shown.contains("synchronous_mode: true"), "the rest is still there: {shown}");
    for node in &rig.access.nodes {
        let what = format!("work_mem from edit-config on {}", node.name);
        until(&what, ROWS, async || {
            let sql = "SELECT current_setting('work_mem')";
            let value = rows::value(&rig.access, node, sql).await?;
            if value == "9MB" { Ok(()) } else { Err(value) }
        })
        .await;
    }
}
