//! How a primary is stopped, by why it is stopped (behaviour §10).

use crate::decision::StopMode;

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
    /// Release the leader key when it has stopped; the final position goes into `/status` first.
    pub release: bool,
    /// When the stop is escalated.
    pub patience: Patience,
}

/// How long a stop may take before it is escalated, to immediate and then to SIGKILL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Patience {
    /// `primary_stop_timeout` in synchronous mode: a standby has everything. Otherwise as long as
    /// it takes: what is not shipped would be lost.
    Configured,
    /// A minute.
    Minute,
    /// Half a second.
    Short,
}

impl DemotionMode {
    /// Its row.
    #[must_use]
    pub fn how(self) -> Demotion {
        let (stop, checkpoint, release, patience) = match self {
            Self::Graceful => (StopMode::Fast, true, true, Patience::Configured),
            Self::Immediate => (StopMode::Immediate, false, true, Patience::Short),
            Self::ImmediateNolock => (StopMode::Immediate, false, false, Patience::Short),
            // The guard's deadline ends what takes longer.
            Self::Offline => (StopMode::Fast, false, false, Patience::Minute),
            Self::DemoteCluster | Self::Fence => (StopMode::Fast, false, false, Patience::Minute),
            Self::Leave => (StopMode::Fast, false, true, Patience::Minute),
        };
        Demotion { stop, checkpoint, release, patience }
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Behaviour §10, row by row, and ours below.
    #[test]
    fn the_table_of_the_reference() {
        use DemotionMode as M;
        for (mode, stop, checkpoint, release) in [
            (M::Offline, StopMode::Fast, false, false),
            (M::Graceful, StopMode::Fast, true, true),
            (M::Immediate, StopMode::Immediate, false, true),
            (M::ImmediateNolock, StopMode::Immediate, false, false),
            (M::DemoteCluster, StopMode::Fast, false, false),
            (M::Fence, StopMode::Fast, false, false),
            (M::Leave, StopMode::Fast, false, true),
        ] {
            let how = mode.how();
            assert_eq!((how.stop, how.checkpoint, how.release), (stop, checkpoint, release));
            // Only a stop that ships everything may wait for whoever receives it.
            assert!(how.stop == StopMode::Fast || how.patience == Patience::Short, "{mode:?}");
        }
    }
}
