//! How a primary is stopped, by why it is stopped (behaviour §10).

use crate::decision::StopMode;
use crate::observed::{Cluster, PeerAnswer, Standing};
use crate::postgres::{ControlData, ControlState};
use node_agent_wire::MemberName;
use std::collections::BTreeMap;

/// Why, in Patroni's words where it has them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DemotionMode {
    /// A switchover: another member is to take over with everything.
    Graceful,
    /// It does not start, or answers nobody: another member is to take over soon.
    Immediate,
    /// The leader key is another member's: it must not write for a moment longer.
    ImmediateNolock,
    /// The DCS is lost and the lease is nearly over.
    Offline,
    /// The cluster became a standby cluster: the leader stays leader.
    DemoteCluster,
    /// Ours: the datacenter's right to write is gone. The leader acknowledges the fence, so it
    /// keeps the key.
    Fence,
    /// Ours: this node shall not be primary, and nothing hurries.
    Leave,
}

/// One row of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Demotion {
    /// How PostgreSQL is stopped.
    pub stop: StopMode,
    /// CHECKPOINT first, so that the shutdown is short.
    pub checkpoint: bool,
    /// What becomes of the leader key.
    pub release: Release,
    /// When the stop is escalated.
    pub patience: Patience,
    /// Archive the segment that the shutdown checkpoint is in: PostgreSQL itself does not.
    pub archive: bool,
}

/// When the leader key is released. The final position goes into `/status` first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Release {
    /// It is kept.
    Never,
    /// When PostgreSQL has stopped.
    Stopped,
    /// As soon as a member that may lead has the shutdown checkpoint ([`heir`]), though PostgreSQL
    /// still waits for its archiver or for others; otherwise when it has stopped.
    HeldOrStopped,
    /// Only when such a member has it.
    Held,
}

impl Release {
    /// Whether the key may go while PostgreSQL is still ending.
    #[must_use]
    pub fn before_the_end(self) -> bool {
        match self {
            Self::HeldOrStopped | Self::Held => true,
            Self::Never | Self::Stopped => false,
        }
    }
}

/// How long a stop may take before it is escalated, to immediate and then to SIGKILL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Patience {
    /// `primary_stop_timeout` in synchronous mode: a standby has everything. Otherwise as long as
    /// it takes: what is not shipped would be lost.
    Configured,
    /// As long as it takes.
    Endless,
    /// A minute.
    Minute,
    /// Half a second.
    Short,
}

impl DemotionMode {
    /// Its row. `archives`: PostgreSQL archives its WAL by a command.
    #[must_use]
    pub fn how(self, archives: bool) -> Demotion {
        let row = |stop, checkpoint, release, patience| Demotion {
            stop,
            checkpoint,
            release,
            patience,
            archive: false,
        };
        match self {
            Self::Graceful => {
                row(StopMode::Fast, true, Release::HeldOrStopped, Patience::Configured)
            }
            Self::Immediate => row(StopMode::Immediate, false, Release::Stopped, Patience::Short),
            Self::ImmediateNolock => {
                row(StopMode::Immediate, false, Release::Never, Patience::Short)
            }
            // The guard's deadline ends what takes longer.
            Self::Offline | Self::Fence => {
                row(StopMode::Fast, false, Release::Never, Patience::Minute)
            }
            // Whoever restores from the archive must find the end there.
            Self::DemoteCluster if archives => Demotion {
                archive: true,
                ..row(StopMode::Fast, false, Release::Never, Patience::Endless)
            },
            Self::DemoteCluster => row(StopMode::Fast, false, Release::Held, Patience::Minute),
            Self::Leave => row(StopMode::Fast, false, Release::Stopped, Patience::Minute),
        }
    }

    /// Its name, as Patroni's log has it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Graceful => "graceful",
            Self::Immediate => "immediate",
            Self::ImmediateNolock => "immediate-nolock",
            Self::Offline => "offline",
            Self::DemoteCluster => "demote-cluster",
            Self::Fence => "fence",
            Self::Leave => "leave",
        }
    }
}

/// Whom the leader may leave the key to while its own PostgreSQL is still ending.
///
/// The control file says "shut down" once the shutdown checkpoint is written: no session is left,
/// and nothing can be acknowledged any more. A member that has replayed that record has every
/// byte before it. Replayed, not received: a received position may be in the middle of a record.
///
/// In synchronous mode it is one that `/sync` names, with the votes that it will need.
///
/// # Errors
/// What is waited for, in words.
pub fn heir(
    control: &ControlData,
    cluster: &Cluster,
    answers: &BTreeMap<MemberName, PeerAnswer>,
) -> Result<MemberName, String> {
    if control.state != ControlState::ShutDown {
        return Err("the shutdown checkpoint is not written yet".to_owned());
    }
    let has_it: BTreeMap<&MemberName, &Standing> = answers
        .iter()
        .filter_map(|(name, answer)| match answer {
            PeerAnswer::Answered(standing) => Some((name, standing)),
            PeerAnswer::Silent => None,
        })
        .filter(|(_, standing)| {
            standing.in_recovery
                && standing.timeline == Some(control.timeline)
                && standing.replayed > control.checkpoint
        })
        .collect();
    let sync = &cluster.sync.value;
    let votes = has_it.keys().filter(|name| sync.sync_standby.contains(**name)).count();
    let needed = usize::try_from(sync.quorum).unwrap_or(usize::MAX);
    if sync.active() && votes <= needed {
        return Err(format!(
            "{votes} synchronous members have it, {} are needed",
            needed.saturating_add(1)
        ));
    }
    let named = cluster.failover.value.member.as_ref();
    let found = has_it.iter().find(|(name, standing)| {
        named.is_none_or(|named| named == **name)
            && !standing.nofailover
            && !standing.watchdog_failed
            && cluster.members.contains_key(**name)
            && (!sync.active() || sync.covers(name))
    });
    match (found, named) {
        (Some((name, _)), _) => Ok((*name).clone()),
        (None, Some(named)) => Err(format!("{named} does not have the shutdown checkpoint yet")),
        (None, None) => Err("no member that may lead has the shutdown checkpoint yet".to_owned()),
    }
}

#[cfg(test)]
#[path = "demotion_tests.rs"]
mod tests;
