//! The parameters that are in effect: dynamic configuration, local configuration over it, and
//! the parameters that the agent owns (contract C.5) over both.

use std::collections::BTreeMap;

/// Merged settings of the server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Effective {
    /// Passed on the command line as `--name=value`; changing one needs a restart.
    pub command_line: BTreeMap<String, String>,
    /// Written to `postgresql.conf`.
    pub parameters: BTreeMap<String, String>,
    /// The whole of `pg_hba.conf`; `None` leaves the file alone.
    pub pg_hba: Option<Vec<String>>,
    /// A standby of a member uses the slot of its own name there.
    pub use_slots: bool,
    /// From `standby_cluster`: fetches WAL from an archive.
    pub restore_command: Option<String>,
    /// From `standby_cluster`: cleans the archive.
    pub archive_cleanup_command: Option<String>,
    /// From `standby_cluster`: delays replay, on the standby leader only.
    pub recovery_min_apply_delay: Option<String>,
    /// Values that were not usable, and what is used in their place.
    pub warnings: Vec<String>,
}
