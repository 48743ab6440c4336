//! The way back before the commit: the operation is turned back in the record that counts, then the
//! former primary gets its right to write back, then the operation is closed as aborted.

use super::close::{Measured, end};
use super::context::{POLL, StepError, Wait};
use crate::clock::now_us;
use crate::crash::{self, Boundary};
use crate::federation::Federation;
use crate::records::{UpdateError, need_record, update_record};
use crate::render::Progress;
use federator_core::change::{self, AbortBegun};
use federator_core::conditions::way_back_needs;
use federator_core::history::Outcome;
use node_agent_wire::DcName;
use node_agent_wire::federation::{FederationRecord, Operation, OperationKind};
use std::time::Duration;

/// Why the way back was not gone to its end.
#[derive(Debug, thiserror::Error)]
pub enum AbortError {
    /// A record could not be changed.
    #[error(transparent)]
    Update(#[from] UpdateError),
    /// A former primary that must get its right back does not answer.
    #[error("{dc} does not answer, so its fence stays: {why}")]
    Silent {
        /// Which.
        dc: DcName,
        /// Why.
        why: UpdateError,
    },
}

/// What the way back led to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Aborted {
    /// The primary accepts writes again, or never stopped.
    PrimaryAgain {
        /// The primary.
        dc: DcName,
    },
    /// The fence is lifted, but no node accepts writes yet.
    NotWritableYet {
        /// The primary.
        dc: DcName,
        /// What was seen.
        seen: String,
    },
    /// The former primary does not answer: its fence, if it has one, stays.
    GivenUp {
        /// Which.
        dc: DcName,
    },
    /// There was no fence to lift: the operation is simply closed.
    Closed,
}

/// Turns an operation back. `give_up_silent`: a former primary that does not answer is not waited
/// for; it stays fenced, and its copy of the operation is cleared when it is back.
///
/// # Errors
/// It is committed or gone, or a datacenter that is needed does not answer.
pub async fn abort(
    federation: &Federation,
    operation: &Operation,
    limit: Duration,
    progress: &Progress,
    give_up_silent: bool,
) -> Result<Aborted, AbortError> {
    let target = federation.dcs(&operation.to).map_err(UpdateError::from)?;
    let record = update_record(target, |record| change::begin_abort(record, &operation.id)).await?;
    let Some(proof) = AbortBegun::seen(&record, &operation.id) else {
        let (dc, operation) = (operation.to.clone(), operation.id.clone());
        return Err(UpdateError::Change(change::ChangeError::Gone { dc, operation }).into());
    };
    crash::point(crash::WAY_BACK, Boundary::Before);
    let (mut others, mut given_up) = (Vec::new(), None);
    for (dc, dcs) in federation.dcs.iter().filter(|(dc, _)| **dc != operation.to) {
        match update_record(dcs, |record| change::turn_back(record, &proof)).await {
            Ok(_) => others.push(dc.clone()),
            Err(UpdateError::NoRecord(_)) => {}
            // The commit can't happen any more, so its fence does no harm where nobody is.
            Err(UpdateError::Dcs(_)) if give_up_silent && way_back_needs(operation, dc) => {
                given_up = Some(dc.clone());
            }
            Err(why @ UpdateError::Dcs(_)) if way_back_needs(operation, dc) => {
                return Err(AbortError::Silent { dc: dc.clone(), why });
            }
            Err(why @ UpdateError::Dcs(_)) => progress.say(&format!(
                "if {dc} holds a copy of the operation, it stays there for now: {why}"
            )),
            Err(error) => return Err(error.into()),
        }
    }
    let counts = record.operation.as_ref().unwrap_or(operation);
    let back = match given_up {
        Some(dc) => Aborted::GivenUp { dc },
        None => returned(federation, counts, limit).await,
    };
    crash::point(crash::WAY_BACK, Boundary::After);
    end(federation, counts, &others, Outcome::Aborted, Measured::default()).await?;
    Ok(back)
}

/// Waits until the former primary accepts writes again.
async fn returned(federation: &Federation, operation: &Operation, limit: Duration) -> Aborted {
    let dc = match (&operation.from, operation.kind) {
        (Some(dc), OperationKind::Switchover) => dc.clone(),
        (Some(_) | None, _) => return Aborted::Closed,
    };
    let wait = Wait::new(limit);
    loop {
        let seen = match writer(federation, &dc).await {
            Ok(Some(_)) => return Aborted::PrimaryAgain { dc },
            Ok(None) => "no node accepts writes".to_owned(),
            Err(error) => error.to_string(),
        };
        if wait.pause(POLL, "the former primary", &seen).await.is_err() {
            return Aborted::NotWritableYet { dc, seen };
        }
    }
}

async fn writer(federation: &Federation, dc: &DcName) -> Result<Option<String>, StepError> {
    let cluster = federation.cluster(dc).await?;
    let Some(address) = cluster.leader_grpc() else { return Ok(None) };
    let node = federation.links.status(address).await?;
    Ok(node.writable.then(|| address.to_owned()))
}

/// Clears copies of an operation that its target has closed already. Where the target has moved on
/// to a later epoch, the holder of the copy learns of it in the same change.
///
/// # Errors
/// A record could not be changed.
pub async fn clear_leftover(
    federation: &Federation,
    operation: &Operation,
    held_by: &[DcName],
) -> Result<Vec<FederationRecord>, UpdateError> {
    let target = need_record(federation.dcs(&operation.to)?).await?;
    let mut cleared = Vec::new();
    for dc in held_by {
        let dcs = federation.dcs(dc)?;
        let (by, id) = (&operation.by, Some(&operation.id));
        let record =
            update_record(dcs, |record| change::supersede(record, &target, id, by, now_us()))
                .await?;
        cleared.push(record);
    }
    Ok(cleared)
}
