//! The requests for a promotion with their approvals: the key `federation_approvals` in the DCS of
//! the datacenter that is to be promoted.

use crate::dcs::Dcs;
use crate::records::UpdateError;
use federator_core::approval::{ApprovalError, Requested};
use node_agent_wire::keys::Leaf;

/// How often a compare-and-set is repeated when others write the same key.
const ATTEMPTS_MAX: u32 = 20;
const KEY: &str = "federation_approvals";

/// A list that could not be changed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The DCS, or what is in it.
    #[error(transparent)]
    Update(#[from] UpdateError),
    /// The change is not allowed.
    #[error(transparent)]
    Approval(#[from] ApprovalError),
}

fn garbled(dcs: &Dcs, why: &serde_json::Error) -> UpdateError {
    UpdateError::Garbled { dc: dcs.dc().clone(), key: KEY, why: why.to_string() }
}

/// The requests.
///
/// # Errors
/// No answer, or not readable.
pub async fn read(dcs: &Dcs) -> Result<Vec<Requested>, UpdateError> {
    let Some((value, _)) = dcs.get(Leaf::FederationApprovals).await? else { return Ok(Vec::new()) };
    serde_json::from_slice(&value).map_err(|error| garbled(dcs, &error))
}

/// Changes them by compare-and-set.
///
/// # Errors
/// No answer, not readable, or the change is not allowed.
pub async fn update(
    dcs: &Dcs,
    change: impl Fn(&[Requested]) -> Result<Vec<Requested>, ApprovalError>,
) -> Result<(), StoreError> {
    for _ in 0..ATTEMPTS_MAX {
        let found = dcs.get(Leaf::FederationApprovals).await.map_err(UpdateError::from)?;
        let (before, revision) = match &found {
            Some((value, revision)) => {
                let list = serde_json::from_slice(value).map_err(|error| garbled(dcs, &error))?;
                (list, Some(*revision))
            }
            None => (Vec::new(), None),
        };
        let next = change(&before)?;
        let body = serde_json::to_string(&next).map_err(|error| garbled(dcs, &error))?;
        let put = dcs.put_if(Leaf::FederationApprovals, revision, &body).await;
        if put.map_err(UpdateError::from)? {
            return Ok(());
        }
    }
    Err(UpdateError::Contended { dc: dcs.dc().clone(), key: KEY }.into())
}
