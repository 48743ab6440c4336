//! Goal: what the federator sees of each call. Method: the real server on a loopback port, a real
//! client, and a loop that does what the test tells it.

use super::{GrpcError, prepare, serve};
use crate::clock;
use crate::rest::fake_loop::{Loop, fresh};
use crate::rest::fixture;
use crate::view::{Ask, View};
use node_agent_core::observed::RecordView;
use node_agent_wire::config::GrpcConfig;
use node_agent_wire::federation::{FederationRecord, Fence, FenceAck};
use node_agent_wire::proto::agent_client::AgentClient;
use node_agent_wire::proto::{FenceReply, FenceRequest, PromoteRequest, StatusRequest};
use node_agent_wire::{Epoch, Lsn, OperationId, SlotName, SystemId, TimelineId};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tonic::Code;
use tonic::transport::Channel;

const PATIENCE: Duration = Duration::from_secs(10);

struct Node {
    shared: Loop,
    client: AgentClient<Channel>,
    stop: Option<oneshot::Sender<()>>,
    served: tokio::task::JoinHandle<Result<(), GrpcError>>,
}

fn plain(listen: &str) -> GrpcConfig {
    serde_json::from_value(serde_json::json!({"listen": listen})).expect("a configuration")
}

impl Node {
    async fn start(view: View) -> Self {
        let shared = Loop::new(view, |_| {});
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("listen");
        let address = listener.local_addr().expect("address");
        let ready = prepare(listener, &plain("127.0.0.1:0")).expect("loopback");
        let (stop, stopped) = oneshot::channel::<()>();
        let served = tokio::spawn(serve(ready, shared.handle.clone(), async {
            let _dropped_too = stopped.await;
        }));
        let client = AgentClient::connect(format!("http://{address}")).await.expect("connect");
        Self { shared, client, stop: Some(stop), served }
    }

    /// Waits until the loop is asked to look.
    async fn woken(&mut self) {
        let ask = tokio::time::timeout(PATIENCE, self.shared.asks.recv()).await.expect("in time");
        assert!(matches!(ask, Some(Ask::Look)));
    }

    fn publish(&self, view: View) {
        self.shared.views.send_replace(Arc::new(fresh(view)));
    }
}

fn fenced(epoch: u64, operation: &str, acknowledged: bool) -> FederationRecord {
    let mut record = fixture::record(1, "dc1");
    record.fence = Some(Fence {
        epoch: Epoch(epoch),
        operation: Some(OperationId::from(operation)),
        reason: "switchover".into(),
        by: "ann".into(),
        at_us: 1,
        ack: acknowledged.then(|| FenceAck {
            node: "pg1".into(),
            checkpoint: Lsn(77),
            timeline: TimelineId(3),
            system_id: SystemId::new("7"),
            at_us: 2,
        }),
    });
    record
}

fn fence_request(epoch: u64, operation: &str, deadline_ms: u32) -> FenceRequest {
    FenceRequest { epoch, operation: operation.into(), deadline_ms }
}

#[tokio::test]
async fn status_says_what_the_view_says() {
    let mut view = fixture::with_record(fixture::primary(), fixture::record(4, "dc1"));
    let physical = node_agent_core::postgres::SlotFact {
        name: SlotName::from_name("dc2"),
        physical: true,
        active: true,
        restart_lsn: Some(Lsn(9)),
        confirmed_lsn: None,
        database: None,
        plugin: None,
        xmin: None,
        catalog_xmin: None,
        failover: false,
        synced: false,
        left_over: false,
        lost: false,
        invalidation: None,
        wal_status: "reserved".into(),
    };
    let logical = node_agent_core::postgres::SlotFact {
        name: SlotName::from_name("cdc"),
        physical: false,
        confirmed_lsn: Some(Lsn(8)),
        database: Some("shop".into()),
        plugin: Some("pgoutput".into()),
        failover: true,
        lost: true,
        invalidation: Some("rows_removed".into()),
        ..physical.clone()
    };
    fixture::running(&mut view).slots = vec![physical, logical];
    let mut node = Node::start(view).await;
    let status = node.client.status(StatusRequest {}).await.expect("status").into_inner();
    assert!(status.writable && status.holds_leader_key && !status.fenced);
    assert_eq!((status.name.as_str(), status.leader.as_str()), ("pg1", "pg1"));
    assert_eq!((status.epoch, status.lsn, status.timeline), (4, 0x0500_0000, 3));
    assert_eq!((status.rule, status.why.as_str()), (125, "primary on timeline 3"));
    let [physical, logical] = &status.slots[..] else { panic!("{:?}", status.slots) };
    assert_eq!((physical.restart_lsn, physical.kind.as_str()), (9, "physical"));
    assert_eq!((logical.kind.as_str(), logical.confirmed_flush_lsn), ("logical", Some(8)));
    assert_eq!((logical.database.as_str(), logical.plugin.as_str()), ("shop", "pgoutput"));
    assert_eq!((logical.failover, logical.synced), (true, false));
    assert_eq!(logical.lost, "rows_removed");
}

#[tokio::test]
async fn watch_status_sends_changes_only() {
    let mut node = Node::start(fixture::primary()).await;
    let mut stream = node.client.watch_status(StatusRequest {}).await.expect("stream").into_inner();
    let first = stream.message().await.expect("ok").expect("first");
    assert_eq!(first.why, "primary on timeline 3");
    let mut again = fixture::primary();
    again.passes += 1;
    node.publish(again);
    let mut changed = fixture::primary();
    changed.why = "something else".into();
    node.publish(changed);
    let next = tokio::time::timeout(PATIENCE, stream.message()).await.expect("in time");
    assert_eq!(next.expect("ok").expect("second").why, "something else");

    // A client that watches does not keep the server.
    drop(node.stop.take());
    let end = tokio::time::timeout(PATIENCE, &mut node.served).await.expect("in time");
    assert!(end.expect("no panic").is_ok());
}

#[tokio::test]
async fn fence_answers_with_the_acknowledgement_of_its_own_operation() {
    let mut node =
        Node::start(fixture::with_record(fixture::primary(), fixture::record(1, "dc1"))).await;
    let mut client = node.client.clone();
    let asked = tokio::spawn(async move { client.fence(fence_request(2, "op-1", 10_000)).await });
    node.woken().await;
    node.publish(fixture::with_record(fixture::standby_leader(), fenced(2, "op-1", false)));
    node.publish(fixture::with_record(fixture::standby_leader(), fenced(2, "op-1", true)));
    let reply = asked.await.expect("no panic").expect("acknowledged").into_inner();
    assert_eq!(reply, FenceReply { checkpoint_lsn: 77, timeline: 3, node: "pg1".into() });
}

#[test]
fn only_the_acknowledgement_that_was_asked_for_counts() {
    for (record, epoch, operation, expected) in [
        (fenced(2, "op-1", true), 2, "op-1", true),
        (fenced(2, "op-1", true), 2, "", true),
        (fenced(3, "op-1", true), 2, "op-1", true),
        (fenced(2, "op-1", false), 2, "op-1", false),
        (fenced(2, "op-0", true), 2, "op-1", false),
        (fenced(1, "op-1", true), 2, "op-1", false),
        (fixture::record(2, "dc1"), 2, "op-1", false),
    ] {
        let view = fixture::with_record(fixture::standby_leader(), record.clone());
        let got = super::service::acknowledged(&view, Epoch(epoch), operation).is_some();
        assert_eq!(got, expected, "{:?} asked for {epoch} {operation}", record.fence);
    }
}

#[tokio::test]
async fn what_is_not_done_in_time_is_named_with_the_rule() {
    let record = fixture::record(2, "dc1");
    let mut node = Node::start(fixture::with_record(fixture::standby_leader(), record)).await;
    let late = node.client.fence(fence_request(3, "op-1", 20)).await.expect_err("no fence");
    assert_eq!(late.code(), Code::DeadlineExceeded);
    assert!(late.message().contains("acknowledgement of the fence"), "{}", late.message());
    assert!(late.message().contains("rule 113 standby-leader: follows dc2"), "{}", late.message());
    let request = PromoteRequest { epoch: 2, operation: "op-1".into(), deadline_ms: 20 };
    let late = node.client.promote(request).await.expect_err("a standby");
    assert_eq!(late.code(), Code::DeadlineExceeded);
    assert!(late.message().contains("PostgreSQL to accept writes"), "{}", late.message());
}

#[tokio::test]
async fn an_epoch_that_is_over_is_refused_at_once_and_while_waiting() {
    let record = |epoch| fixture::record(epoch, "dc2");
    let mut node = Node::start(fixture::with_record(fixture::standby_leader(), record(5))).await;
    let refused = node.client.fence(fence_request(4, "op-1", 10_000)).await.expect_err("stale");
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert!(refused.message().contains("epoch 4 is over"), "{}", refused.message());
    let request = PromoteRequest { epoch: 4, operation: "op-1".into(), deadline_ms: 10_000 };
    let refused = node.client.promote(request.clone()).await.expect_err("stale");
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert!(node.shared.asks.try_recv().is_err(), "a refused request wakes nobody");

    let mut client = node.client.clone();
    let request = PromoteRequest { epoch: 5, ..request };
    let asked = tokio::spawn(async move { client.promote(request).await });
    node.woken().await;
    node.publish(fixture::with_record(fixture::standby_leader(), record(6)));
    let refused = asked.await.expect("no panic").expect_err("overtaken");
    assert_eq!(refused.code(), Code::FailedPrecondition);
}

#[tokio::test]
async fn promote_answers_when_writes_are_accepted_under_that_epoch() {
    let named = |view: View| fixture::with_record(view, fixture::record(3, "dc1"));
    let mut node = Node::start(named(fixture::standby_leader())).await;
    let mut client = node.client.clone();
    let request = PromoteRequest { epoch: 3, operation: "op-1".into(), deadline_ms: 10_000 };
    let asked = tokio::spawn(async move { client.promote(request).await });
    node.woken().await;
    node.publish(named(fixture::primary()));
    let reply = asked.await.expect("no panic").expect("promoted").into_inner();
    assert_eq!((reply.node.as_str(), reply.timeline), ("pg1", 3));
}

#[test]
fn promoted_needs_the_lease_the_record_and_no_fence() {
    let now = clock::boot();
    let lease = |mut view: View| {
        view.observed.lease.held_until = Some(now + Duration::from_secs(9));
        view
    };
    let ours = || lease(fixture::with_record(fixture::primary(), fixture::record(3, "dc1")));
    let promoted = |view: &View| super::service::promoted(view, Epoch(3), now);
    assert!(promoted(&ours()));
    let mut expired = ours();
    expired.observed.lease.held_until = Some(now);
    let mut no_record = ours();
    fixture::cluster(&mut no_record).record = RecordView::Absent;
    let mut unknown = ours();
    unknown.observed.cluster = fixture::unknown();
    let mut standby = ours();
    fixture::running(&mut standby).in_recovery = true;
    for (name, view) in [
        ("the lease has run out", expired),
        ("no record", no_record),
        ("the DCS can't be read", unknown),
        ("read-only", standby),
        ("fenced", lease(fixture::with_record(fixture::primary(), fenced(3, "op", false)))),
        (
            "another epoch",
            lease(fixture::with_record(fixture::primary(), fixture::record(2, "dc1"))),
        ),
        (
            "another datacenter",
            lease(fixture::with_record(fixture::primary(), fixture::record(3, "dc2"))),
        ),
    ] {
        assert!(!promoted(&view), "{name}");
    }
}

#[tokio::test]
async fn plain_is_for_loopback_and_half_a_set_of_certificates_is_refused() {
    let any = TcpListener::bind("0.0.0.0:0").await.expect("listen");
    let refused = prepare(any, &plain("0.0.0.0:0")).err().expect("refused");
    assert!(matches!(refused, GrpcError::PlainOutsideLoopback(_)), "{refused}");
    let loopback = || async { TcpListener::bind("127.0.0.1:0").await.expect("listen") };
    let mut half = plain("127.0.0.1:0");
    half.certfile = Some("/nowhere/agent.pem".into());
    let refused = prepare(loopback().await, &half).err().expect("refused");
    assert!(refused.to_string().contains("/nowhere/agent.pem"), "{refused}");
    half.certfile = None;
    half.cafile = Some("/nowhere/ca.pem".into());
    let refused = prepare(loopback().await, &half).err().expect("refused");
    assert!(refused.to_string().contains("grpc.certfile is missing"), "{refused}");
}
