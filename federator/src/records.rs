//! Reads and compare-and-sets of the federation record, the configuration and the history. Every
//! change is a pure function of what was read; on a conflict it is read and applied again.

use crate::dcs::{Dcs, DcsError};
use federator_core::change::{Change, ChangeError, expelled};
use federator_core::configuration::as_primary;
use federator_core::history::{self, ClosedOperation};
use federator_core::inventory::Versioned;
use node_agent_wire::DcName;
use node_agent_wire::federation::{FederationRecord, RECORD_VERSION};
use node_agent_wire::keys::Leaf;
use serde_json::{Map, Value};

/// How often a compare-and-set is repeated when others write the same key.
const ATTEMPTS_MAX: u32 = 20;

/// A value that could not be changed.
#[derive(Debug, thiserror::Error)]
pub enum UpdateError {
    /// The DCS does not answer.
    #[error(transparent)]
    Dcs(#[from] DcsError),
    /// The rules forbid it.
    #[error(transparent)]
    Change(#[from] ChangeError),
    /// There is nothing to change.
    #[error("{0} has no federation record")]
    NoRecord(DcName),
    /// It can't be read.
    #[error("the key {key} of {dc} can't be read: {why}")]
    Garbled {
        /// Whose.
        dc: DcName,
        /// Which.
        key: &'static str,
        /// Why.
        why: String,
    },
    /// Others kept writing it.
    #[error("the key {key} of {dc} was changed by others {ATTEMPTS_MAX} times in a row")]
    Contended {
        /// Whose.
        dc: DcName,
        /// Which.
        key: &'static str,
    },
}

/// Reads a record's text.
///
/// # Errors
/// Why it can't be used.
pub fn parse_record(value: &[u8]) -> Result<FederationRecord, String> {
    let record: FederationRecord =
        serde_json::from_slice(value).map_err(|error| error.to_string())?;
    if record.version > RECORD_VERSION {
        return Err(format!(
            "its format is version {}, this program knows {RECORD_VERSION}",
            record.version
        ));
    }
    Ok(record)
}

/// The record as it is now.
///
/// # Errors
/// No answer, or not readable.
pub async fn read_record(dcs: &Dcs) -> Result<Option<Versioned<FederationRecord>>, UpdateError> {
    let Some((value, revision)) = dcs.get(Leaf::Federation).await? else { return Ok(None) };
    match parse_record(&value) {
        Ok(value) => Ok(Some(Versioned { revision, value })),
        Err(why) => Err(UpdateError::Garbled { dc: dcs.dc().clone(), key: "federation", why }),
    }
}

/// The record as it is now; having none is an error.
///
/// # Errors
/// No answer, not readable, or absent.
pub async fn need_record(dcs: &Dcs) -> Result<FederationRecord, UpdateError> {
    let record = read_record(dcs).await?;
    Ok(record.ok_or_else(|| UpdateError::NoRecord(dcs.dc().clone()))?.value)
}

fn text(
    dc: &DcName,
    key: &'static str,
    value: &impl serde::Serialize,
) -> Result<String, UpdateError> {
    serde_json::to_string(value).map_err(|error| UpdateError::Garbled {
        dc: dc.clone(),
        key,
        why: error.to_string(),
    })
}

/// Changes the record; returns it as it is afterwards.
///
/// # Errors
/// No answer, a rule, or no record.
pub async fn update_record(
    dcs: &Dcs,
    change: impl Fn(&FederationRecord) -> Change,
) -> Result<FederationRecord, UpdateError> {
    for _ in 0..ATTEMPTS_MAX {
        let Some(found) = read_record(dcs).await? else {
            return Err(UpdateError::NoRecord(dcs.dc().clone()));
        };
        let Some(next) = change(&found.value)? else { return Ok(found.value) };
        let body = text(dcs.dc(), "federation", &next)?;
        if dcs.put_if(Leaf::Federation, Some(found.revision), &body).await? {
            return Ok(next);
        }
    }
    Err(UpdateError::Contended { dc: dcs.dc().clone(), key: "federation" })
}

/// Creates the record if there is none. Whether it did.
///
/// # Errors
/// No answer.
pub async fn create_record(dcs: &Dcs, record: &FederationRecord) -> Result<bool, UpdateError> {
    let body = text(dcs.dc(), "federation", record)?;
    Ok(dcs.put_if(Leaf::Federation, None, &body).await?)
}

/// The dynamic configuration as it is now.
///
/// # Errors
/// No answer, or not an object.
pub async fn read_config(dcs: &Dcs) -> Result<Option<Versioned<Map<String, Value>>>, UpdateError> {
    let Some((value, revision)) = dcs.get(Leaf::Config).await? else { return Ok(None) };
    match serde_json::from_slice(&value) {
        Ok(value) => Ok(Some(Versioned { revision, value })),
        Err(error) => Err(UpdateError::Garbled {
            dc: dcs.dc().clone(),
            key: "config",
            why: error.to_string(),
        }),
    }
}

/// Changes the dynamic configuration; `change` gets `None` where there is none yet.
///
/// # Errors
/// No answer, or not an object.
pub async fn update_config(
    dcs: &Dcs,
    change: impl Fn(Option<&Map<String, Value>>) -> Map<String, Value>,
) -> Result<(), UpdateError> {
    for _ in 0..ATTEMPTS_MAX {
        let found = read_config(dcs).await?;
        let before = found.as_ref().map(|f| &f.value);
        let next = change(before);
        if before == Some(&next) {
            return Ok(());
        }
        let body = text(dcs.dc(), "config", &next)?;
        if dcs.put_if(Leaf::Config, found.map(|f| f.revision), &body).await? {
            return Ok(());
        }
    }
    Err(UpdateError::Contended { dc: dcs.dc().clone(), key: "config" })
}

/// Changes the dynamic configuration for as long as the record `allows` it. Both are compared in
/// one transaction: who was overtaken by another operation, however late it wakes up, changes
/// nothing.
///
/// # Errors
/// No answer, not an object, no record, or the record does not allow it.
pub async fn update_config_under(
    dcs: &Dcs,
    allows: impl Fn(&FederationRecord) -> Result<(), ChangeError>,
    change: impl Fn(&Map<String, Value>) -> Map<String, Value>,
) -> Result<(), UpdateError> {
    for _ in 0..ATTEMPTS_MAX {
        let Some(record) = read_record(dcs).await? else {
            return Err(UpdateError::NoRecord(dcs.dc().clone()));
        };
        allows(&record.value)?;
        let found = read_config(dcs).await?;
        let before = found.as_ref().map(|f| f.value.clone()).unwrap_or_default();
        let next = change(&before);
        if found.is_some() && before == next {
            return Ok(());
        }
        let body = text(dcs.dc(), "config", &next)?;
        let also = Some((Leaf::Federation, record.revision));
        if dcs.put_while(Leaf::Config, found.map(|f| f.revision), &body, also).await? {
            return Ok(());
        }
    }
    Err(UpdateError::Contended { dc: dcs.dc().clone(), key: "config" })
}

/// Makes a removed datacenter a plain cluster: its record goes, and with it the fence, and so does
/// what is left of `standby_cluster`, in one transaction.
///
/// # Errors
/// No answer, no record, or it is a member still.
pub async fn dissolve(dcs: &Dcs) -> Result<(), UpdateError> {
    for _ in 0..ATTEMPTS_MAX {
        let Some(record) = read_record(dcs).await? else {
            return Err(UpdateError::NoRecord(dcs.dc().clone()));
        };
        expelled(&record.value)?;
        if let Some(held) = &record.value.operation {
            let (dc, operation) = (dcs.dc().clone(), held.id.clone());
            let (kind, by) = (held.kind, held.by.clone());
            return Err(ChangeError::Busy { dc, operation, kind, by }.into());
        }
        let found = read_config(dcs).await?;
        let next = as_primary(&found.as_ref().map(|f| f.value.clone()).unwrap_or_default());
        let body = text(dcs.dc(), "config", &next)?;
        let at = found.map(|f| f.revision);
        if dcs
            .put_and_delete((Leaf::Config, at, &body), (Leaf::Federation, record.revision))
            .await?
        {
            return Ok(());
        }
    }
    Err(UpdateError::Contended { dc: dcs.dc().clone(), key: "federation" })
}

/// The closed operations.
///
/// # Errors
/// No answer, or not readable.
pub async fn read_history(dcs: &Dcs) -> Result<Vec<ClosedOperation>, UpdateError> {
    let Some((value, _)) = dcs.get(Leaf::FederationHistory).await? else { return Ok(Vec::new()) };
    parse_history(dcs, &value)
}

fn parse_history(dcs: &Dcs, value: &[u8]) -> Result<Vec<ClosedOperation>, UpdateError> {
    serde_json::from_slice(value).map_err(|error| UpdateError::Garbled {
        dc: dcs.dc().clone(),
        key: "federation_history",
        why: error.to_string(),
    })
}

/// Appends a closed operation.
///
/// # Errors
/// No answer, or not readable.
pub async fn append_history(dcs: &Dcs, entry: &ClosedOperation) -> Result<(), UpdateError> {
    for _ in 0..ATTEMPTS_MAX {
        let found = dcs.get(Leaf::FederationHistory).await?;
        let (before, revision) = match &found {
            Some((value, revision)) => (parse_history(dcs, value)?, Some(*revision)),
            None => (Vec::new(), None),
        };
        let Some(next) = history::append(&before, entry) else { return Ok(()) };
        let body = text(dcs.dc(), "federation_history", &next)?;
        if dcs.put_if(Leaf::FederationHistory, revision, &body).await? {
            return Ok(());
        }
    }
    Err(UpdateError::Contended { dc: dcs.dc().clone(), key: "federation_history" })
}
