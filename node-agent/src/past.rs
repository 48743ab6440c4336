//! The past of the local data directory: the history of its timeline, and how its timelines begin.

use crate::clock;
use crate::observe::Memory;
use crate::postgres::Server;
use node_agent_core::beginning::Beginnings;
use node_agent_core::postgres::Postgres;
use node_agent_core::time::Boot;
use node_agent_wire::history::TimelineHistory;
use node_agent_wire::{Lsn, TimelineId};
use std::time::Duration;

/// What a local history belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HistoryKey(TimelineId, u64);

/// How the timelines of a local history begin, and how that was found.
pub struct Begun {
    key: HistoryKey,
    known: Beginnings,
    /// When it was first looked for, and when last.
    looked: (Boot, Boot),
}

impl Begun {
    /// Whether another look is of use now. The first record of a timeline is there within moments,
    /// or its segment is gone.
    fn due(&self, timeline: TimelineId, now: Boot) -> bool {
        let (first, last) = self.looked;
        let fresh = now.since(first) < Duration::from_secs(30);
        let pause = if fresh { Duration::from_millis(300) } else { Duration::from_secs(30) };
        !self.known.contains_key(&timeline) && now.since(last) >= pause
    }
}

/// The history of the local timeline, read again when the timeline or the data directory changes.
pub async fn own_history(
    memory: &mut Memory,
    server: &Server,
    postgres: &Postgres,
) -> Option<TimelineHistory> {
    let timeline = match postgres {
        Postgres::Running(running) => running.timeline,
        Postgres::Stopped(_) | Postgres::Starting { .. } => {
            node_agent_core::divergence::own_end(postgres)?.timeline
        }
        Postgres::NoData | Postgres::Unreadable(_) | Postgres::Unresponsive { .. } => return None,
    };
    let key = HistoryKey(timeline, memory.data_generation);
    if let Some((known, history)) = &memory.own_history
        && *known == key
    {
        return Some(history.clone());
    }
    match server.history_of(None, Duration::from_secs(1)).await {
        Ok(history) if history.timeline == timeline => {
            memory.own_history = Some((key, history.clone()));
            Some(history)
        }
        Ok(_) => None,
        Err(error) => {
            tracing::debug!(%error, "the local timeline history is not readable yet");
            None
        }
    }
}

/// How the timelines of the local history begin, read again until the newest is known.
pub async fn beginnings(memory: &mut Memory, server: &Server, postgres: &Postgres) -> Beginnings {
    let (Some((key, history)), Some(end)) =
        (memory.own_history.clone(), node_agent_core::divergence::own_end(postgres))
    else {
        return Beginnings::new();
    };
    if history.timeline != end.timeline || key != HistoryKey(end.timeline, memory.data_generation) {
        return Beginnings::new();
    }
    let now = clock::boot();
    let before = memory.beginnings.as_ref().filter(|begun| begun.key == key);
    if let Some(begun) = before.filter(|begun| !begun.due(history.timeline, now)) {
        return begun.known.clone();
    }
    // Whatever a stopped server has on its disk it will find there.
    let running = matches!(postgres, Postgres::Running(_));
    let end = if running { end.lsn } else { Lsn(u64::MAX) };
    let first = before.map_or(now, |begun| begun.looked.0);
    let known = server.beginnings(&history, end).await;
    memory.beginnings = Some(Begun { key, known: known.clone(), looked: (first, now) });
    known
}
