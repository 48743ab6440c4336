//! Questions to a source for its history.

use super::Hands;
use crate::clock;
use node_agent_core::divergence::SourceHistory;
use node_agent_core::postgres::Upstream;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// One question to a source at a time, and its answer.
#[derive(Default)]
pub struct HistoryDesk {
    /// The last answers of two upstreams, the newer first.
    answers: Arc<Mutex<Vec<SourceHistory>>>,
    asking: Arc<Mutex<bool>>,
}

impl HistoryDesk {
    /// The last answers of two upstreams, the newer first.
    #[must_use]
    pub fn latest(&self) -> (Option<SourceHistory>, Option<SourceHistory>) {
        let answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        (answers.first().cloned(), answers.get(1).cloned())
    }
}

impl Hands {
    pub(super) fn ask_history(&self, upstream: Upstream) {
        let mut asking = self.desk.asking.lock().unwrap_or_else(PoisonError::into_inner);
        if std::mem::replace(&mut *asking, true) {
            return;
        }
        drop(asking);
        let (answers, asking) = (self.desk.answers.clone(), self.desk.asking.clone());
        let (server, wake) = (self.tools.server.clone(), self.wake.clone());
        tokio::spawn(async move {
            let at = clock::boot();
            let history = history(&server, &upstream).await;
            let changed = {
                let mut known = answers.lock().unwrap_or_else(PoisonError::into_inner);
                let next = SourceHistory { upstream, at, answer: history };
                let old = known.iter().position(|s| s.upstream == next.upstream);
                let old = old.map(|index| known.remove(index));
                // The same history again is news as well: it may be that it had to be sure.
                let changed =
                    next.answer.is_ok() || old.is_none_or(|old| old.answer != next.answer);
                known.insert(0, next);
                known.truncate(2);
                changed
            };
            *asking.lock().unwrap_or_else(PoisonError::into_inner) = false;
            if changed {
                wake.notify_one();
            }
        });
    }
}

async fn history(
    server: &crate::postgres::Server,
    upstream: &Upstream,
) -> Result<node_agent_wire::history::TimelineHistory, String> {
    const ASK_MAX: Duration = Duration::from_secs(2);
    let (host, port) = match upstream {
        Upstream::Member { host, port, .. } => (host.clone(), *port),
        Upstream::Remote { hosts, cascade, .. } => {
            let who = server.remote_identity(hosts, ASK_MAX).await.map_err(|e| e.to_string())?;
            if who.in_recovery && !cascade {
                return Err(format!("{}:{} is not a primary yet", who.host, who.port));
            }
            (who.host, who.port)
        }
        Upstream::Archive { of: Some(peer) } => (peer.host.clone(), peer.port),
        Upstream::Archive { of: None } | Upstream::Nobody => {
            return Err("nobody is followed".to_owned());
        }
    };
    server.history_of(Some((&host, port)), ASK_MAX).await.map_err(|e| e.to_string())
}
