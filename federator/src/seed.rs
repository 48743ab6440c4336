//! How a new datacenter is filled, and whom it follows, as the settings say it.

use crate::settings::{Datacenter, bytes};
use federator_core::configuration::Seed;
use node_agent_wire::DcName;
use serde::Deserialize;
use std::collections::BTreeMap;

/// The section as it is written.
#[derive(Default, Deserialize)]
pub struct RawSeed {
    #[serde(default)]
    methods: Vec<String>,
    max_rate: Option<String>,
}

impl RawSeed {
    /// Reads it.
    ///
    /// # Errors
    /// The key, and what is expected there.
    pub fn read(self) -> Result<Seed, (&'static str, String)> {
        let max_rate = self.max_rate.as_deref().map(rate).transpose();
        let max_rate = max_rate.map_err(|why| ("max_rate", why))?;
        Ok(Seed { methods: self.methods, max_rate })
    }
}

/// Bytes a second that pg_basebackup can keep to (its manual: 32 kB to 1 GB).
///
/// # Errors
/// What is expected.
pub fn rate(text: &str) -> Result<u64, String> {
    let count = bytes(text)?;
    if (32 << 10..=1 << 30).contains(&count) {
        return Ok(count);
    }
    Err(format!("\"{text}\" is not a rate from 32kB to 1GB a second, as in 20MB"))
}

/// Whoever follows a datacenter names one of the settings, and no chain comes back.
///
/// # Errors
/// Which datacenter's, and what is wrong.
pub fn circles(datacenters: &BTreeMap<DcName, Datacenter>) -> Result<(), (DcName, String)> {
    let wish = |dc: &DcName| datacenters.get(dc).and_then(|entry| entry.follows.as_ref());
    for dc in datacenters.keys() {
        let Some(first) = wish(dc) else { continue };
        if !datacenters.contains_key(first) {
            return Err((dc.clone(), format!("there is no datacenter \"{first}\"")));
        }
        let mut at = dc;
        for _ in 0..datacenters.len() {
            match wish(at) {
                None => break,
                Some(next) if next == dc => {
                    return Err((dc.clone(), format!("the chain from {dc} comes back to it")));
                }
                Some(next) => at = next,
            }
        }
    }
    Ok(())
}
