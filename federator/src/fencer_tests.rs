//! Goal: a fencer gets what it needs and nothing of ours, and comes to an end. Method: shells.
use super::*;

fn shell(script: &str, timeout_ms: u64) -> Fencer {
    let command = ["/bin/sh", "-c", script].map(str::to_owned).to_vec();
    Fencer { command, timeout: Duration::from_millis(timeout_ms) }
}

fn order() -> Order {
    Order {
        federation: "shop".into(),
        dc: "dc1".into(),
        scope: "shop-dc1".into(),
        target: "dc2".into(),
        operation: "op-1".into(),
        next_epoch: Epoch(5),
    }
}

async fn said(script: &str) -> Ended {
    run(&shell(script, 20_000), &order()).await.unwrap()
}

#[tokio::test(flavor = "current_thread")]
async fn it_is_told_what_to_fence_and_nothing_of_ours() {
    let ended = said("env | sort; cat").await;
    assert_eq!(ended.code, Some(0));
    for line in ["FEDERATOR_DC=dc1", "FEDERATOR_TARGET=dc2", "FEDERATOR_EPOCH=5"] {
        assert!(ended.output.lines().any(|there| there == line), "{ended:?}");
    }
    let ours = ["FEDERATOR_", "PATH=", "HOME=", "LANG=", "TZ=", "PWD=", "_=", "SHLVL="];
    let foreign = ended.output.lines().find(|line| !ours.iter().any(|name| line.starts_with(name)));
    assert_eq!(foreign, None, "cargo sets dozens of variables for this test");
    assert!(std::env::var_os("CARGO_MANIFEST_DIR").is_some(), "the test could not fail");
}

#[tokio::test(flavor = "current_thread")]
async fn how_it_ended_and_what_it_said() {
    let ended = said("echo off; echo careful >&2; exit 3").await;
    assert_eq!((ended.code, ended.output.as_str()), (Some(3), "off\ncareful\n"));
    assert_eq!(ended.complaint, "careful\n");
    assert_eq!(said("kill -9 $$").await.code, None);
    let much = said("head -c 1000000 /dev/zero | tr '\\0' x").await;
    assert_eq!((much.code, much.output.len()), (Some(0), 64 * 1024));
    let absent = Fencer { command: vec!["/does/not/exist".into()], ..shell("", 1) };
    let error = run(&absent, &order()).await.unwrap_err();
    assert!(matches!(error, FencerError::NotStarted { .. }), "{error}");
}

#[tokio::test(flavor = "current_thread")]
async fn one_that_hangs_is_killed_with_its_children() {
    let file = std::env::temp_dir().join(format!("fencer-test-{}", std::process::id()));
    let script = format!("sleep 1000 & echo $! > {}; wait", file.display());
    let error = run(&shell(&script, 500), &order()).await.unwrap_err();
    assert!(error.to_string().contains("longer than 0.5 s and was killed"), "{error}");
    let child = std::fs::read_to_string(&file).unwrap();
    std::fs::remove_file(&file).unwrap();
    let state = format!("/proc/{}/stat", child.trim());
    let gone = || match std::fs::read_to_string(&state) {
        Ok(stat) => stat.contains(") Z"),
        Err(_) => true,
    };
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    while !gone() && std::time::Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(gone() && !child.trim().is_empty(), "process {child} is left");
}

#[tokio::test(flavor = "current_thread")]
async fn a_child_that_keeps_the_output_open_does_not_hold_us() {
    let ended = said("sleep 1000 & echo off").await;
    assert_eq!(ended.code, Some(0));
}
