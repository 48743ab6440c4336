//! Questions to a source for its history.

use super::Hands;
use crate::clock;
use crate::postgres::Server;
use node_agent_core::beginning::{Beginnings, SameWal, shared};
use node_agent_core::divergence::{SourceHistory, common_end, own_end};
use node_agent_core::postgres::Upstream;
use node_agent_core::time::Boot;
use node_agent_wire::history::TimelineHistory;
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
            let answer = past(&server, &upstream, at).await;
            let changed = {
                let mut known = answers.lock().unwrap_or_else(PoisonError::into_inner);
                let next = answer;
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

const ASK_MAX: Duration = Duration::from_secs(2);

/// What the upstream says of its past, beside the local one.
pub async fn past(server: &Server, upstream: &Upstream, at: Boot) -> SourceHistory {
    let silent = |why: String| SourceHistory {
        upstream: upstream.clone(),
        at,
        answer: Err(why),
        beginnings: Beginnings::new(),
        same_wal: None,
        wal_since: None,
    };
    let (host, port) = match address(server, upstream).await {
        Ok(address) => address,
        Err(why) => return silent(why),
    };
    let source = (host.as_str(), port);
    let (history, beginnings, wal_since) = match server.past_of(source, ASK_MAX).await {
        Ok(past) => past,
        Err(error) => return silent(error.to_string()),
    };
    let same_wal = same_wal(server, source, &history, &beginnings).await;
    let upstream = upstream.clone();
    SourceHistory { upstream, at, answer: Ok(history), beginnings, same_wal, wal_since }
}

/// Compares WAL where the beginning of the newest timeline that both have is not known.
async fn same_wal(
    server: &Server,
    source: (&str, u16),
    history: &TimelineHistory,
    beginnings: &Beginnings,
) -> Option<SameWal> {
    let own_history = server.history_of(None, ASK_MAX).await.ok()?;
    let step = shared(&own_history, history).into_iter().next()?;
    let own = own_end(&server.observe(clock::boot(), ASK_MAX).await)?;
    let own_beginnings = server.beginnings(&own_history, own.lsn).await;
    let known = |all: &Beginnings| all.get(&step.timeline).is_some_and(|b| b.at == step.at);
    if known(beginnings) && known(&own_beginnings) {
        return None;
    }
    let until = common_end(own, &own_history, history);
    match server.same_wal(source, step, until, ASK_MAX).await {
        Ok(compared) => compared,
        Err(error) => {
            tracing::warn!(%error, timeline = %step.timeline, "the WAL was not compared");
            None
        }
    }
}

async fn address(server: &Server, upstream: &Upstream) -> Result<(String, u16), String> {
    match upstream {
        Upstream::Member { host, port, .. } => Ok((host.clone(), *port)),
        Upstream::Remote { hosts, cascade, .. } => {
            let who = server.remote_identity(hosts, ASK_MAX).await.map_err(|e| e.to_string())?;
            if who.in_recovery && !cascade {
                return Err(format!("{}:{} is not a primary yet", who.host, who.port));
            }
            Ok((who.host, who.port))
        }
        Upstream::Archive { of: Some(peer) } => Ok((peer.host.clone(), peer.port)),
        Upstream::Archive { of: None } | Upstream::Nobody => Err("nobody is followed".to_owned()),
    }
}
