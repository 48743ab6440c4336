//! Pieces of the facts of a view.

use crate::healthy::{self, NOW};
use crate::view::{Answer, Id, NODES, name, nodes};
use crate::wal::{Record, Wal, position};
use node_agent_core::observed::{PeerAnswer, Poll, Standing};
use node_agent_core::postgres::{ControlData, ControlState};
use node_agent_wire::MemberName;
use std::collections::BTreeMap;

/// A primary that went down is taken to have crashed unless its last record says otherwise.
pub fn control(primary: bool, wal: &Wal) -> ControlData {
    let clean = wal.records().last() == Some(Record::Shutdown);
    let state = match (primary, clean) {
        (true, true) => ControlState::ShutDown,
        (true, false) => ControlState::InProduction,
        (false, _) => ControlState::ShutDownInRecovery,
    };
    let checkpoint = if primary { wal.len().saturating_sub(1) } else { wal.len() };
    ControlData {
        timeline: wal.timeline(),
        checkpoint: position(checkpoint),
        ..healthy::control(state)
    }
}

/// What the others have answered.
pub fn poll(me: Id, answers: [Answer; NODES]) -> Poll {
    let answers: BTreeMap<MemberName, PeerAnswer> = nodes()
        .filter(|id| *id != me)
        .map(|id| {
            let answer = match answers[usize::from(id)] {
                Answer::Silent => PeerAnswer::Silent,
                Answer::Runs { primary, wal } => PeerAnswer::Answered(Standing {
                    in_recovery: !primary,
                    lsn: wal.end(),
                    whole: true,
                    replayed: wal.end(),
                    timeline: Some(wal.timeline()),
                    nofailover: false,
                    failover_priority: 1,
                    watchdog_failed: false,
                    sees_primary: None,
                }),
            };
            (name(id), answer)
        })
        .collect();
    Poll { asked_at: NOW, answers }
}
