//! Reading where the WAL of a stopped server ends, beside the loop: it may take a while.

use super::Hands;
use crate::jobs::told;
use node_agent_core::directory::WalEnd;
use node_agent_wire::{Lsn, TimelineId};
use std::sync::{Arc, Mutex, PoisonError};

/// One reading at a time, and what it found.
#[derive(Default)]
pub struct WalEndDesk(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    reading: bool,
    found: Option<WalEnd>,
}

impl WalEndDesk {
    /// What was found last.
    #[must_use]
    pub fn latest(&self) -> Option<WalEnd> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).found.clone()
    }
}

impl Hands {
    pub(super) fn read_wal_end(&self, from: Lsn, timeline: TimelineId) {
        let desk = self.wal_ends.0.clone();
        {
            let mut state = desk.lock().unwrap_or_else(PoisonError::into_inner);
            if std::mem::replace(&mut state.reading, true) {
                return;
            }
        }
        let (server, wake) = (self.tools.server.clone(), self.wake.clone());
        tokio::spawn(async move {
            let last_record = server.last_record(timeline, from).await.map_err(|e| told(&e));
            match &last_record {
                Ok(last) => tracing::info!(%last, %timeline, "the last record of the local WAL"),
                Err(why) => tracing::warn!(why, "the end of the local WAL is not known"),
            }
            let found = Some(WalEnd { checkpoint: from, timeline, last_record });
            *desk.lock().unwrap_or_else(PoisonError::into_inner) = State { reading: false, found };
            wake.notify_one();
        });
    }
}
