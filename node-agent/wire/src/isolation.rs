//! What a primary datacenter does that is cut off from the others.

use serde::{Deserialize, Serialize};

/// What an isolated primary does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Isolation {
    /// Isolation never stops the primary; lease evidence can't be claimed.
    #[default]
    Manual,
    /// The primary stops when it no longer holds a majority of the site grants.
    Lease,
}
