//! Looks, on a synchronous primary, whether sessions wait in vain for a standby, and asks that
//! standby's agent for any answer ([`node_agent_core::stall`] judges). Beside the loop: a pass that
//! takes long must not prolong a stall.

use crate::clock;
use crate::peers::Peers;
use crate::postgres::Server;
use crate::view::View;
use node_agent_core::stall::{ANSWER_MAX, LOOK_IDLE, LOOK_WAITING, Stalls};
use node_agent_core::waits::Waits;
use node_agent_wire::MemberName;
use node_agent_wire::dynamic::SynchronousMode;
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, watch};

/// How long PostgreSQL may take to be looked at.
const QUERY_MAX: Duration = Duration::from_millis(1000);

/// What the looks have found, for the loop.
#[derive(Default)]
pub struct StallBoard(Mutex<Stalls>);

impl StallBoard {
    /// Standbys that are not to be waited for.
    #[must_use]
    pub fn lost(&self) -> BTreeSet<MemberName> {
        self.with(|stalls| stalls.lost())
    }

    fn with<T>(&self, deed: impl FnOnce(&mut Stalls) -> T) -> T {
        deed(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Looks for ever.
pub async fn watch_stalls(
    server: Arc<Server>,
    peers: Peers,
    view: watch::Receiver<Arc<View>>,
    board: Arc<StallBoard>,
    wake: Arc<Notify>,
) {
    let mut lost = BTreeSet::new();
    loop {
        let seen = view.borrow().clone();
        let waiting = match awaited(&seen) {
            Some(awaited) => look(&server, &peers, &seen, &awaited, &board, &wake).await,
            None => {
                board.with(|stalls| *stalls = Stalls::default());
                false
            }
        };
        let now_lost = board.lost();
        for name in now_lost.difference(&lost) {
            tracing::warn!(
                standby = %name,
                "sessions wait for it in vain and no agent answers for it: going on without it"
            );
        }
        for name in lost.difference(&now_lost) {
            tracing::info!(standby = %name, "it acknowledges again, or its connection has ended");
        }
        lost = now_lost;
        tokio::time::sleep(if waiting { LOOK_WAITING } else { LOOK_IDLE }).await;
    }
}

/// The standbys that PostgreSQL waits for by this agent's word, while this node is a primary; also
/// when it waits for nobody any more but a standby is still counted as lost.
fn awaited(view: &View) -> Option<BTreeSet<MemberName>> {
    let running = view.running().filter(|r| !r.in_recovery)?;
    let mode = view.observed.config.effective_sync_mode();
    let on = mode != SynchronousMode::Off || view.observed.sync_names_ours;
    let awaited = Waits::read(&running.sync_names).set;
    let needed = !awaited.is_empty() || !view.observed.sync_lost.is_empty();
    (on && needed && view.observed.holds_lease()).then_some(awaited)
}

/// One look; whether sessions wait.
async fn look(
    server: &Arc<Server>,
    peers: &Peers,
    view: &View,
    awaited: &BTreeSet<MemberName>,
    board: &Arc<StallBoard>,
    wake: &Arc<Notify>,
) -> bool {
    let look = match server.sync_waits(clock::boot(), QUERY_MAX).await {
        Ok(look) => look,
        Err(error) => {
            tracing::debug!(%error, "looking for waiting sessions");
            return false;
        }
    };
    let outcome = board.with(|stalls| stalls.look(&look, awaited));
    if outcome.act {
        wake.notify_one();
    }
    let members = view.cluster().map(|cluster| &cluster.members);
    for name in outcome.ask {
        let url = members.and_then(|m| m.get(&name)).map(|m| m.data.api_url.clone());
        let (peers, board) = (peers.clone(), board.clone());
        tokio::spawn(async move {
            let asked_at = clock::boot();
            // A member without a key has lost the DCS, and its agent with it or it with its agent.
            let answered = match url {
                Some(url) => peers.lives(&url, ANSWER_MAX).await,
                None => false,
            };
            board.with(|stalls| stalls.answered(&name, asked_at, answered));
        });
    }
    look.waiting
}
