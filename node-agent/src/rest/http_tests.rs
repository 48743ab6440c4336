//! Goal: what a client sees on the wire. Method: the real listener on a loopback port, a store in
//! memory, and a loop that only does what the test tells it.

use super::fake_dcs::FakeDcs;
use super::fake_loop::{Loop, fresh, keys};
use super::fixture;
use crate::clock;
use crate::view::{Ask, View};
use node_agent_wire::config::{Credentials, LocalConfig};
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot, watch};

const PATIENCE: Duration = Duration::from_secs(10);

struct Node {
    address: std::net::SocketAddr,
    dcs: Arc<FakeDcs>,
    views: watch::Sender<Arc<View>>,
    asks: mpsc::Receiver<Ask>,
    stop: Option<oneshot::Sender<()>>,
    served: tokio::task::JoinHandle<()>,
}

impl Node {
    async fn start(view: View, change: impl FnOnce(&mut LocalConfig)) -> Self {
        let Loop { handle, dcs, views, asks } = Loop::new(view, change);
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("listen");
        let address = listener.local_addr().expect("address");
        let (stop, stopped) = oneshot::channel::<()>();
        let served = tokio::spawn(super::serve(listener, handle, async {
            let _dropped_too = stopped.await;
        }));
        Self { address, dcs, views, asks, stop: Some(stop), served }
    }

    async fn primary() -> Self {
        Self::start(fixture::primary(), |_| {}).await
    }

    /// Sends the bytes and reads until the server closes.
    async fn raw(&self, request: &str) -> String {
        exchange(self.address, request).await
    }

    async fn call(&self, method: &str, path: &str, body: Option<&Value>) -> (u16, String) {
        let request = render(method, path, body);
        split(&self.raw(&request).await)
    }

    fn publish(&self, view: View) {
        self.views.send_replace(Arc::new(fresh(view)));
    }
}

fn render(method: &str, path: &str, body: Option<&Value>) -> String {
    let (length, text) = match body {
        Some(body) => {
            let text = body.to_string();
            (format!("Content-Length: {}\r\n", text.len()), text)
        }
        None => (String::new(), String::new()),
    };
    format!("{method} {path} HTTP/1.1\r\nHost: x\r\n{length}\r\n{text}")
}

async fn exchange(address: std::net::SocketAddr, request: &str) -> String {
    let conversation = async {
        let mut stream = TcpStream::connect(address).await.expect("connect");
        stream.write_all(request.as_bytes()).await.expect("write");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("read");
        answer
    };
    tokio::time::timeout(PATIENCE, conversation).await.expect("an answer that ends")
}

fn split(answer: &str) -> (u16, String) {
    let code = answer.split(' ').nth(1).and_then(|c| c.parse().ok()).expect("a status code");
    let (_, body) = answer.split_once("\r\n\r\n").expect("a blank line");
    (code, body.to_owned())
}

#[tokio::test]
async fn gets_and_checks() {
    let node = Node::primary().await;
    for (path, code) in [
        ("/", 200),
        ("/primary?x=1", 200),
        ("/replica", 503),
        ("/patroni/extra", 200),
        ("/cluster", 200),
        ("/history", 200),
        ("/config", 200),
        ("/metrics", 200),
        ("/liveness", 200),
        ("/readiness", 200),
        ("/failsafe", 502),
        ("/unheard-of", 503),
    ] {
        assert_eq!(node.call("GET", path, None).await.0, code, "GET {path}");
    }
    let (_, text) = node.call("GET", "/replica", None).await;
    let body: Value = serde_json::from_str(&text).expect("json");
    assert_eq!((&body["role"], &body["rule"]), (&json!("primary"), &json!(125)));
    let (_, text) = node.call("GET", "/cluster", None).await;
    let body: Value = serde_json::from_str(&text).expect("json");
    assert_eq!(body["members"][0]["role"], "leader");
    assert_eq!(node.call("GET", "/history", None).await.1, "[]");
}

#[tokio::test]
async fn bare_replies_and_the_end_of_the_connection() {
    let node = Node::primary().await;
    for (method, path, code) in [
        ("HEAD", "/", "200"),
        ("OPTIONS", "/primary", "200"),
        ("HEAD", "/replica", "503"),
        ("HEAD", "/patroni", "503"),
        ("GET", "/liveness", "200"),
    ] {
        let answer = node.raw(&render(method, path, None)).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {code} ")), "{method} {path}: {answer}");
        assert!(answer.ends_with("\r\n\r\n"), "{method} {path} has a body: {answer}");
        assert!(answer.to_lowercase().contains("connection: close"), "{answer}");
    }
    let old = node.raw("GET /patroni HTTP/1.0\r\n\r\n").await;
    assert!(old.starts_with("HTTP/1.0 200 OK"), "{old}");
    assert!(old.to_lowercase().contains("content-length: "), "{old}");
}

#[tokio::test]
async fn what_is_not_served_is_501_with_patronis_words() {
    let node = Node::primary().await;
    for (method, path) in [("POST", "/nonsense"), ("DELETE", "/config"), ("PUT", "/")] {
        let (code, text) = node.call(method, path, None).await;
        assert_eq!(code, 501, "{method} {path}");
        assert!(text.contains("Server does not support this operation"), "{text}");
    }
}

#[tokio::test]
async fn configuration() {
    let mut node = Node::primary().await;
    let key = "/service/shop/config";
    let patch = json!({"ttl": 20, "postgresql": {"use_slots": true}});
    let (code, text) = node.call("PATCH", "/config", Some(&patch)).await;
    let expected = json!({"ttl": 20, "loop_wait": 10, "postgresql": {"use_slots": true}});
    assert_eq!(
        (code, serde_json::from_str::<Value>(&text).expect("json")),
        (200, expected.clone())
    );
    let stored = node.dcs.value(key).expect("stored");
    assert_eq!(serde_json::from_str::<Value>(&stored).expect("json"), expected);
    assert!(matches!(node.asks.recv().await, Some(Ask::Look)), "the loop was not woken");
    assert_eq!(node.call("PATCH", "/config", Some(&json!({"ttl": "20"}))).await.0, 200);
    assert_eq!(node.dcs.value(key).as_deref(), Some(stored.as_str()), "nothing to change");

    let put = json!({"ttl": 40});
    assert_eq!(node.call("PUT", "/config", Some(&put)).await, (200, put.to_string()));
    assert_eq!(node.call("GET", "/config", None).await, (200, put.to_string()));

    node.dcs.down.store(true, Ordering::SeqCst);
    assert_eq!(node.call("PATCH", "/config", Some(&patch)).await.0, 503);
    assert_eq!(node.call("PUT", "/config", Some(&put)).await.0, 502);
    assert_eq!(node.call("GET", "/cluster", None).await.0, 503);
    node.dcs.down.store(false, Ordering::SeqCst);
    node.dcs.put(key, "[]");
    assert_eq!(node.call("PATCH", "/config", Some(&patch)).await.0, 503);
    assert_eq!(node.call("GET", "/config", None).await.0, 502);
}

#[tokio::test]
async fn bodies_that_are_refused() {
    let node = Node::primary().await;
    for (length, body, code) in [
        (None, "", 411),
        (Some(0), "", 400),
        (Some(2), "{}", 400),
        (Some(2), "[]", 400),
        (Some(1), "{", 400),
        (Some(2_000_000), "", 413),
    ] {
        let header = length.map_or_else(String::new, |l: usize| format!("Content-Length: {l}\r\n"));
        let answer =
            node.raw(&format!("PATCH /config HTTP/1.1\r\nHost: x\r\n{header}\r\n{body}")).await;
        assert_eq!(split(&answer).0, code, "{length:?} {body}");
    }
    assert_eq!(node.dcs.value("/service/shop/config").as_deref(), Some(keys()[0].1));
}

#[tokio::test]
async fn mutating_endpoints_ask_for_the_password() {
    let node = Node::start(fixture::primary(), |config| {
        config.restapi.authentication = Some(Credentials {
            username: "foo".into(),
            password: Some("bar".into()),
            ..Credentials::default()
        });
    })
    .await;
    let body = r#"{"ttl":25}"#;
    let request = |header: &str| {
        format!(
            "PATCH /config HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n{header}\r\n{body}",
            body.len()
        )
    };
    let answer = node.raw(&request("")).await;
    assert_eq!(split(&answer).0, 401);
    assert!(
        answer.to_lowercase().contains("www-authenticate: basic realm=\"patroni\""),
        "{answer}"
    );
    let right = request("Authorization: Basic Zm9vOmJhcg==\r\n");
    assert_eq!(split(&node.raw(&right).await).0, 200);
    assert_eq!(node.call("GET", "/config", None).await.0, 200);
}

#[tokio::test]
async fn a_stale_view_is_renewed_for_get_patroni() {
    let mut old = fixture::primary();
    old.observed.now = clock::boot();
    let mut node = Node::start(old, |_| {}).await;
    let mut stale = fixture::primary();
    stale.why = "stale".into();
    node.views.send_replace(Arc::new(stale));
    let address = node.address;
    let asking =
        tokio::spawn(async move { exchange(address, &render("GET", "/patroni", None)).await });
    let ask = tokio::time::timeout(PATIENCE, node.asks.recv()).await.expect("in time");
    assert!(matches!(ask, Some(Ask::Look)));
    let mut renewed = fixture::primary();
    renewed.why = "renewed".into();
    node.publish(renewed);
    let (_, text) = split(&asking.await.expect("answer"));
    let body: Value = serde_json::from_str(&text).expect("json");
    assert_eq!(body["why"], "renewed");
}

/// Sends the request, waits until it is in the DCS, plays the loop, and gives the answer.
async fn switchover(path: &str, body: &Value, play: impl FnOnce(&Node)) -> (u16, String) {
    let mut node = Node::primary().await;
    let (address, request) = (node.address, render("POST", path, Some(body)));
    let asking = tokio::spawn(async move { exchange(address, &request).await });
    let ask = tokio::time::timeout(PATIENCE, node.asks.recv()).await.expect("in time");
    assert!(matches!(ask, Some(Ask::Look)));
    let pending = node.dcs.value("/service/shop/failover").expect("written");
    assert!(pending.contains("pg2"), "{pending}");
    play(&node);
    split(&asking.await.expect("answer"))
}

#[tokio::test]
async fn switchover_and_failover_tell_what_became_of_them() {
    let planned = json!({"leader": "pg1", "candidate": "pg2"});
    let done = switchover("/switchover", &planned, |node| {
        node.dcs.put("/service/shop/leader", "pg2");
    });
    assert_eq!(done.await, (200, "Successfully switched over to \"pg2\"".into()));

    let named = json!({"member": "pg2"});
    let done = switchover("/failover", &named, |node| {
        node.dcs.put("/service/shop/leader", "pg3");
    });
    assert_eq!(done.await, (200, "Failed over to \"pg3\" instead of \"pg2\"".into()));

    let done = switchover("/switchover", &planned, |node| {
        let mut refused = fixture::primary();
        refused.rule = node_agent_core::rule::Rule::SwitchoverRefused;
        refused.why = "pg2 is not ready".into();
        node.publish(refused);
        node.dcs.put("/service/shop/failover", "{}");
    });
    assert_eq!(done.await, (503, "Switchover failed: pg2 is not ready".into()));
}

#[tokio::test]
async fn switchovers_that_are_refused_change_nothing() {
    let node = Node::primary().await;
    for (path, body, code) in [
        ("/switchover", json!({"candidate": "pg2"}), 400),
        ("/failover", json!({"leader": "pg1"}), 400),
        ("/switchover", json!({"leader": "pg1", "scheduled_at": "2030-01-01T00:00"}), 400),
        ("/switchover", json!({"leader": "pg2"}), 412),
        ("/switchover", json!({"leader": "pg1", "candidate": "pg9"}), 412),
    ] {
        assert_eq!(node.call("POST", path, Some(&body)).await.0, code, "{path} {body}");
    }
    assert_eq!(node.call("DELETE", "/switchover", None).await.0, 404);
    assert_eq!(node.dcs.value("/service/shop/failover"), None);
    node.dcs
        .put("/service/shop/failover", r#"{"leader":"pg1","scheduled_at":"2030-01-01T00:00Z"}"#);
    assert_eq!(
        node.call("DELETE", "/switchover", None).await,
        (200, "scheduled switchover deleted".into())
    );
    assert_eq!(node.dcs.value("/service/shop/failover").as_deref(), Some("{}"));
    node.dcs.down.store(true, Ordering::SeqCst);
    let body = json!({"leader": "pg1", "candidate": "pg2"});
    assert_eq!(node.call("POST", "/switchover", Some(&body)).await.0, 503);
}

#[tokio::test]
async fn restart_waits_for_the_loop() {
    let mut node = Node::primary().await;
    for (outcome, code, text) in [
        (Ok(()), 200, "restarted successfully"),
        (Err("it does not start".to_owned()), 503, "restart failed: it does not start"),
    ] {
        let address = node.address;
        let asking =
            tokio::spawn(async move { exchange(address, &render("POST", "/restart", None)).await });
        let done = loop {
            match tokio::time::timeout(PATIENCE, node.asks.recv()).await.expect("in time") {
                Some(Ask::Restart { reply: done, .. }) => break done,
                Some(Ask::Look) => node.publish(fixture::primary()),
                Some(Ask::Plan(..) | Ask::Unplan(_) | Ask::Reload | Ask::Reinitialize { .. }) => {
                    panic!("not asked for")
                }
                None => panic!("the server is gone"),
            }
        };
        assert!(done.send(outcome).is_ok());
        assert_eq!(split(&asking.await.expect("answer")), (code, text.to_owned()));
    }
    let body = json!({"restart_pending": true});
    node.publish(fixture::primary());
    assert_eq!(
        node.call("POST", "/restart", Some(&body)).await,
        (503, "restart conditions are not satisfied".into())
    );
    assert_eq!(node.call("POST", "/restart", Some(&json!({"schedule": "x"}))).await.0, 422);
    assert_eq!(node.call("POST", "/reload", None).await.0, 202);
}

#[tokio::test]
async fn one_restart_can_be_planned_and_taken_back() {
    let mut node = Node::primary().await;
    let later = json!({"schedule": "2100-01-01T00:00:00Z"});
    for (method, accepted, code, text) in [
        ("POST", true, 202, "Restart scheduled"),
        ("POST", false, 409, "Another restart is already scheduled"),
        ("DELETE", true, 200, "scheduled restart deleted"),
        ("DELETE", false, 404, "no restarts are scheduled"),
    ] {
        let address = node.address;
        let body = (method == "POST").then(|| later.clone());
        let request = render(method, "/restart", body.as_ref());
        let asking = tokio::spawn(async move { exchange(address, &request).await });
        let reply = loop {
            match tokio::time::timeout(PATIENCE, node.asks.recv()).await.expect("in time") {
                Some(Ask::Plan(planned, reply)) => {
                    assert_eq!(planned.restart.at_us, 4_102_444_800_000_000);
                    break reply;
                }
                Some(Ask::Unplan(reply)) => break reply,
                Some(Ask::Look) => node.publish(fixture::primary()),
                Some(Ask::Restart { .. } | Ask::Reload) => panic!("not asked for"),
                Some(Ask::Reinitialize { .. }) | None => panic!("the server is gone"),
            }
        };
        assert!(reply.send(accepted).is_ok());
        assert_eq!(split(&asking.await.expect("answer")), (code, text.to_owned()));
    }
}

#[tokio::test]
async fn clients_that_send_nothing_or_read_nothing_are_cut_off() {
    let short = Duration::from_millis(50);
    let hasty = super::Patience { headers: short, answer: short };
    let mut view = fixture::primary();
    // More than the sockets buffer, so that the answer can't be written before it is read.
    view.why = "x".repeat(32 * 1024 * 1024);
    let shared = Loop::new(view, |_| {});
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("listen");
    let address = listener.local_addr().expect("address");
    for sent in ["", "GET /pat", "GET /patroni HTTP/1.1\r\nHost: x\r\n\r\n"] {
        let mut client = TcpStream::connect(address).await.expect("connect");
        client.write_all(sent.as_bytes()).await.expect("write");
        let (stream, _) = listener.accept().await.expect("accept");
        let conversation = super::converse(stream, shared.handle.clone(), hasty);
        let end = tokio::time::timeout(PATIENCE, conversation).await;
        assert!(end.is_ok(), "a client that sent {sent:?} keeps its connection");
        drop(client);
    }
}

#[tokio::test]
async fn shutdown_ends_the_server_and_frees_the_port() {
    let mut node = Node::primary().await;
    drop(node.stop.take());
    tokio::time::timeout(PATIENCE, &mut node.served).await.expect("in time").expect("no panic");
    assert!(TcpStream::connect(node.address).await.is_err());
}
