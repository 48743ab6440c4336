//! Carries a decision out. No choices are left here.

mod act;
mod follow;
mod history;
mod slots;
mod tend;
mod vault;
mod wal_end;

pub use history::{HistoryDesk, past};
pub use slots::SlotDesk;
pub use wal_end::WalEndDesk;

use crate::checkup::Checkup;
use crate::dcs::DcsError;
use crate::dcs::mirror::Mirrored;
use crate::jobs::{Jobs, Tools};
use crate::message::Messenger;
use crate::observe::Memory;
use crate::peers::Peers;
use crate::postgres::{Effective, Error};
use crate::rest::access::ApiPassword;
use node_agent_core::decision::{Act, Decision, Tend};
use node_agent_core::observed::Observed;
use node_agent_core::slots::logical::needs_feedback;
use node_agent_core::slots::native;
use node_agent_wire::MemberName;
use node_agent_wire::config::LocalConfig;
use node_agent_wire::keys::ClusterPath;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, oneshot};

/// Everything that effects are carried out with.
pub struct Hands {
    /// The local configuration.
    pub config: Arc<LocalConfig>,
    /// The DCS of this datacenter.
    pub dcs: Arc<Mirrored>,
    /// Its keys.
    pub path: ClusterPath,
    /// PostgreSQL and the lease.
    pub tools: Tools,
    /// Long work.
    pub jobs: Jobs,
    /// Questions to sources.
    pub desk: HistoryDesk,
    /// Changes of slots.
    pub slots: SlotDesk,
    /// Questions to members.
    pub peers: Peers,
    /// How PostgreSQL is.
    pub checkup: Checkup,
    /// Questions to members in failsafe mode.
    pub messenger: Messenger,
    /// What guards the REST APIs of the members.
    pub password: ApiPassword,
    /// Wakes the loop.
    pub wake: Arc<Notify>,
    /// The settings that PostgreSQL was last given.
    pub applied: Option<Effective>,
    /// The agent is to end, and to leave PostgreSQL as it is.
    pub leaving: bool,
    /// What is being read, or was, about the end of WAL.
    pub wal_ends: WalEndDesk,
    /// Who waits for the restart.
    pub restart_reply: Option<oneshot::Sender<Result<(), String>>>,
}

impl Hands {
    /// Carries out everything.
    pub async fn apply(&mut self, memory: &mut Memory, observed: &Observed, decision: Decision) {
        let Some(cluster) = observed.cluster.known() else {
            for tend in decision.tend {
                // Failsafe mode, and a guest that nobody would take back. Everything else is a
                // matter of the DCS.
                if let Tend::Slot(change) = tend {
                    self.slots.note(change);
                } else if let Tend::SetSyncNames(names) = tend {
                    self.set_names(memory, observed, &names).await;
                }
            }
            self.begin_slot_changes();
            if let Some(act) = decision.act {
                self.act(memory, observed, None, act).await;
            }
            return;
        };
        // Stopping a primary waits for nothing; everything else comes after its preparations.
        let (urgent, act) = match decision.act {
            act @ Some(Act::Demote(_)) => (act, None),
            act => (None, act),
        };
        if let Some(act) = urgent {
            self.act(memory, observed, Some(cluster), act).await;
        }
        for tend in decision.tend {
            self.tend(memory, observed, cluster, tend).await;
        }
        self.begin_slot_changes();
        self.warn_of_clashes(cluster);
        if let Some(act) = act {
            self.act(memory, observed, Some(cluster), act).await;
        }
    }

    fn settings(&self, observed: &Observed) -> Effective {
        let mut settings = Effective::merge(&self.config, &observed.config);
        let cluster = observed.cluster.known();
        if cluster.is_some_and(|cluster| needs_feedback(observed, cluster)) {
            // Or the leader removes catalogue rows that this node's logical slots need.
            settings.parameters.insert("hot_standby_feedback".to_owned(), "on".to_owned());
        }
        let asked = settings.parameters.get(native::ASKED_BY).is_some_and(|v| native::asks(v));
        if let Some(cluster) = cluster.filter(|_| asked) {
            let (name, value) = native::setting(observed, cluster);
            settings.parameters.insert(name.to_owned(), value.to_owned());
        }
        settings
    }

    /// Keeps the copy of the dynamic configuration in the data directory up to date.
    pub async fn cache_dynamic(&self, memory: &mut Memory) {
        if memory.dynamic == memory.dynamic_cached {
            return;
        }
        let Some(object) = &memory.dynamic else { return };
        match self.tools.server.cache_dynamic(object).await {
            Ok(true) => memory.dynamic_cached.clone_from(&memory.dynamic),
            Ok(false) => {}
            Err(error) => told(Err::<(), _>(error), "copying the dynamic configuration"),
        }
    }

    fn deadline(observed: &Observed) -> Duration {
        observed.config.timing.retry_timeout
    }
}

fn note(result: Result<(), DcsError>, what: &'static str) {
    if let Err(error) = result {
        tracing::warn!(%error, what, "not done");
    }
}

fn told<T>(result: Result<T, Error>, what: &'static str) {
    if let Err(error) = result {
        tracing::warn!(%error, hint = error.hint(), what, "not done");
    }
}

/// A member's name out of the configuration.
#[must_use]
pub fn member_name(config: &LocalConfig) -> MemberName {
    MemberName::new(&config.name)
}
