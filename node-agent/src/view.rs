//! What the agent shows of itself: the last pass, published to the REST API, gRPC and metrics.
//! They answer from it and decide nothing.

use crate::dcs::{Dcs, RawCluster};
use crate::failsafe::Desk;
use crate::jobs::Gauge;
use crate::plans::Planned;
use crate::postgres::Server;
use crate::rest::access::ApiPassword;
use node_agent_core::observed::{Cluster, JobKind, Observed};
use node_agent_core::postgres::Running;
use node_agent_core::rule::Rule;
use node_agent_core::time::{Boot, Fact};
use node_agent_wire::config::LocalConfig;
use node_agent_wire::member::{MemberData, Role};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};

/// The last pass.
#[derive(Debug)]
pub struct View {
    /// The facts of the pass.
    pub observed: Observed,
    /// The keys that they were read from, for answers that need a value as it is.
    pub raw: Arc<RawCluster>,
    /// The rule that fired.
    pub rule: Rule,
    /// One line of why.
    pub why: String,
    /// What this member publishes of itself.
    pub member: MemberData,
    /// When the DCS last answered, seconds since the Unix epoch; 0 when it never did.
    pub dcs_last_seen_s: i64,
    /// How many passes have been made.
    pub passes: u64,
    /// How far the copy under way is, at the moment of reading.
    pub progress: Arc<Gauge>,
    /// How long the pass took.
    pub pass_took: Duration,
}

impl View {
    /// The cluster, when the DCS answered.
    #[must_use]
    pub fn cluster(&self) -> Option<&Cluster> {
        self.observed.cluster.known()
    }

    /// PostgreSQL, when it answers.
    #[must_use]
    pub fn running(&self) -> Option<&Running> {
        self.observed.postgres.running()
    }

    /// The role that this member publishes.
    #[must_use]
    pub fn role(&self) -> Role {
        self.member.role.unwrap_or(Role::Uninitialized)
    }

    /// Whether this node holds the leader lease at this moment, or, in maintenance mode, nobody
    /// else can hold it.
    #[must_use]
    pub fn leads(&self, now: Boot) -> bool {
        self.observed.lease.held_until.is_some_and(|until| now < until) || self.observed.lease.kept
    }

    /// Whether PostgreSQL accepts writes here.
    #[must_use]
    pub fn writable(&self) -> bool {
        self.running().is_some_and(|r| !r.in_recovery)
    }

    /// When the DCS was last read for this view.
    #[must_use]
    pub fn dcs_read_at(&self) -> Option<Boot> {
        match &self.observed.cluster {
            Fact::Known { at, .. } => Some(*at),
            Fact::Unknown { .. } => None,
        }
    }
}

/// What REST and gRPC ask of the loop.
#[derive(Debug)]
pub enum Ask {
    /// Make a pass now.
    Look,
    /// Restart PostgreSQL in its role.
    Restart {
        /// How long it may take.
        timeout: Option<Duration>,
        /// Answered when it is done, with the reason when it failed.
        reply: oneshot::Sender<Result<(), String>>,
    },
    /// Restart it later; answered whether that was noted: only one restart can be planned.
    Plan(Planned, oneshot::Sender<bool>),
    /// Forget the planned restart; answered whether there was one.
    Unplan(oneshot::Sender<bool>),
    /// Read the configuration file again.
    Reload,
    /// Replace the data directory by a new copy; answered at once with the work that is in the way.
    Reinitialize {
        /// A copy or rewind under way is cancelled.
        force: bool,
        /// By a base backup of the leader, whatever methods are configured.
        from_leader: bool,
        /// What is in the way; `None` when the request is taken.
        reply: oneshot::Sender<Option<JobKind>>,
    },
}

/// What the servers of the agent share.
#[derive(Clone)]
pub struct Handle {
    /// The local configuration.
    pub config: Arc<LocalConfig>,
    /// What guards the REST API.
    pub password: ApiPassword,
    /// The last pass. The first value is published before any server listens.
    pub view: watch::Receiver<Arc<View>>,
    /// Requests into the loop.
    pub asks: mpsc::Sender<Ask>,
    /// The DCS of this datacenter, for reads and compare-and-sets that a request is made of.
    pub dcs: Arc<dyn Dcs>,
    /// PostgreSQL on this node, for CHECKPOINT.
    pub server: Arc<Server>,
    /// The promises of failsafe mode.
    pub failsafe: Arc<Desk>,
}

impl Handle {
    /// The last published view.
    #[must_use]
    pub fn latest(&self) -> Arc<View> {
        self.view.borrow().clone()
    }

    /// Wakes the loop; a full queue means that it is awake already.
    pub fn look(&self) {
        let _full_is_fine = self.asks.try_send(Ask::Look);
    }

    /// Waits until a view fulfils `wanted`, or `deadline` passes.
    pub async fn until(
        &self,
        deadline: Duration,
        wanted: impl Fn(&View) -> bool,
    ) -> Option<Arc<View>> {
        let mut view = self.view.clone();
        let found = tokio::time::timeout(deadline, view.wait_for(|v| wanted(v))).await;
        match found {
            Ok(Ok(view)) => Some(view.clone()),
            Ok(Err(_)) | Err(_) => None,
        }
    }
}
