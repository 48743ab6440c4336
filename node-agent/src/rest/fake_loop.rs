//! The other end of a [`Handle`] for the tests: a loop that does what the test tells it.

use super::access::ApiPassword;
use super::fake_dcs::FakeDcs;
use super::fixture;
use crate::clock;
use crate::dcs::Dcs;
use crate::failsafe::Desk;
use crate::postgres::Server;
use crate::view::{Ask, Handle, View};
use node_agent_wire::config::LocalConfig;
use std::sync::Arc;
use tokio::sync::{mpsc, watch};

/// A view that is fresh: taken now, with the lease for 20 s from now.
pub(crate) fn fresh(mut view: View) -> View {
    let now = clock::boot();
    if let Some(until) = view.observed.lease.held_until {
        view.observed.lease.held_until = Some(now + until.since(view.observed.now));
    }
    view.observed.now = now;
    view
}

/// Everything that the servers share, and the other ends of it.
pub(crate) struct Loop {
    pub(crate) handle: Handle,
    pub(crate) dcs: Arc<FakeDcs>,
    pub(crate) views: watch::Sender<Arc<View>>,
    pub(crate) asks: mpsc::Receiver<Ask>,
}

impl Loop {
    pub(crate) fn new(view: View, change: impl FnOnce(&mut LocalConfig)) -> Self {
        let mut config = fixture::config(view.observed.me.name.as_str());
        change(&mut config);
        let server = Arc::new(Server::new(&config).expect("server"));
        let dcs = Arc::new(FakeDcs::new(&keys()));
        let (views, receiver) = watch::channel(Arc::new(fresh(view)));
        let (ask, asks) = mpsc::channel(8);
        let handle = Handle {
            password: ApiPassword::new(config.restapi.authentication.clone()),
            config: Arc::new(config),
            view: receiver,
            asks: ask,
            dcs: Arc::clone(&dcs) as Arc<dyn Dcs>,
            server,
            failsafe: Arc::new(Desk::new(clock::boot())),
        };
        Self { handle, dcs, views, asks }
    }
}

/// The keys of the cluster that the views show.
pub(crate) fn keys() -> [(&'static str, &'static str); 5] {
    [
        ("/service/shop/config", r#"{"ttl":30,"loop_wait":10}"#),
        ("/service/shop/leader", "pg1"),
        ("/service/shop/members/pg1", r#"{"state":"running","role":"primary","api_url":"a"}"#),
        (
            "/service/shop/members/pg2",
            r#"{"state":"running","role":"replica","api_url":"b","replication_state":"streaming"}"#,
        ),
        ("/service/shop/status", r#"{"optime":83886080}"#),
    ]
}
