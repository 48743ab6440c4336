//! The settings of site grants: the witness, isolation `lease`, and the durations.

use crate::settings::{Datacenter, default_namespace, duration};
use node_agent_wire::DcName;
use node_agent_wire::federation::Isolation;
use node_agent_wire::grant::{GrantPolicy, Witness};
use serde::Deserialize;
use std::collections::BTreeMap;

/// Renewals and etcd's whole seconds need some room.
const TTL_MIN_MS: u64 = 3000;
/// An immediate shutdown needs some time.
const STOP_MIN_MS: u64 = 500;
/// Clocks that differ by a tenth are broken.
const CLOCK_ERROR_MAX_PPM: u32 = 100_000;
/// With fewer voters the loss of any one stops writes.
const VOTERS_MIN: usize = 3;

#[derive(Deserialize)]
pub(crate) struct RawWitness {
    etcd: Vec<String>,
    #[serde(default = "default_namespace")]
    namespace: String,
}

#[derive(Default, Deserialize)]
pub(crate) struct RawGrants {
    grant_ttl: Option<String>,
    grant_stop_max: Option<String>,
    grant_margin: Option<String>,
    grant_clock_error_ppm: Option<u32>,
}

/// The policy; `None` when no datacenter is in lease mode.
///
/// # Errors
/// The key with its path, and what is wrong there.
pub(crate) fn grants(
    datacenters: &BTreeMap<DcName, Datacenter>,
    witness: Option<RawWitness>,
    raw: &RawGrants,
) -> Result<Option<GrantPolicy>, (String, String)> {
    let witness = witness.map(|w| Witness { etcd: w.etcd, namespace: w.namespace });
    if let Some(witness) = &witness {
        if witness.etcd.is_empty() || witness.etcd.iter().any(String::is_empty) {
            let why = "at least one endpoint is expected, as in [\"10.0.0.1:2379\"]";
            return Err(("witness.etcd".into(), why.into()));
        }
        if datacenters.contains_key(&DcName::from("witness")) {
            let why = "a datacenter may not be called witness where there is one";
            return Err(("datacenters.witness".into(), why.into()));
        }
        let of_a_dc = |e: &String| datacenters.iter().find(|(_, dc)| dc.etcd.contains(e));
        if let Some((dc, _)) = witness.etcd.iter().find_map(of_a_dc) {
            let why = format!("it is the etcd of {dc}: the witness must stand in another place");
            return Err(("witness.etcd".into(), why));
        }
    }
    let leased = datacenters.iter().find(|(_, dc)| dc.isolation == Isolation::Lease);
    let Some((leased, _)) = leased else { return Ok(None) };
    let voters = datacenters.len() + usize::from(witness.is_some());
    if voters < VOTERS_MIN {
        return Err((
            format!("datacenters.{leased}.isolation"),
            format!(
                "lease needs {VOTERS_MIN} voters or more, this federation has {voters}: losing any \
                 one would stop writes. Add a witness (an etcd in a third place), or use manual"
            ),
        ));
    }
    let policy = GrantPolicy { witness, ..durations(raw)? };
    Ok(Some(policy))
}

fn durations(raw: &RawGrants) -> Result<GrantPolicy, (String, String)> {
    let mut policy = GrantPolicy::default();
    let text = [
        ("grant_ttl", &raw.grant_ttl, &mut policy.holder_ttl_ms, TTL_MIN_MS),
        ("grant_stop_max", &raw.grant_stop_max, &mut policy.stop_max_ms, STOP_MIN_MS),
        ("grant_margin", &raw.grant_margin, &mut policy.margin_ms, 0),
    ];
    for (key, text, place, least) in text {
        let path = format!("policies.{key}");
        let Some(text) = text else { continue };
        let time = duration(text).map_err(|why| (path.clone(), why))?;
        let ms = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        if ms < least {
            return Err((path, format!("\"{text}\" is less than {least}ms")));
        }
        *place = ms;
    }
    if let Some(ppm) = raw.grant_clock_error_ppm {
        if ppm > CLOCK_ERROR_MAX_PPM {
            let why = format!("{ppm} is more than {CLOCK_ERROR_MAX_PPM}: such a clock is broken");
            return Err(("policies.grant_clock_error_ppm".into(), why));
        }
        policy.clock_error_ppm = ppm;
    }
    Ok(policy)
}

#[cfg(test)]
mod tests {
    use super::*;
    use node_agent_wire::SlotName;

    fn datacenters(leased: bool, names: &[&str]) -> BTreeMap<DcName, Datacenter> {
        let isolation = if leased { Isolation::Lease } else { Isolation::Manual };
        let entry = |name: &&str| {
            let entry = Datacenter {
                scope: format!("shop-{name}"),
                namespace: default_namespace(),
                etcd: vec![format!("{name}:1")],
                slot: SlotName::from_name(name),
                follows: None,
                fencer: None,
                isolation,
                retention: node_agent_wire::federation::Retention::default(),
                seed: federator_core::configuration::Seed::default(),
            };
            (DcName::from(*name), entry)
        };
        names.iter().map(entry).collect()
    }

    fn witness(etcd: &str) -> Option<RawWitness> {
        Some(RawWitness { etcd: vec![etcd.into()], namespace: default_namespace() })
    }

    #[test]
    fn lease_mode_needs_three_voters() {
        let two = ["dc1", "dc2"];
        for (what, dcs, witness, expected) in [
            ("manual", datacenters(false, &two), None, Ok(false)),
            ("manual, a witness", datacenters(false, &two), witness("w:1"), Ok(false)),
            ("two voters", datacenters(true, &two), None, Err("lease needs 3 voters or more")),
            ("a witness", datacenters(true, &two), witness("w:1"), Ok(true)),
            ("three", datacenters(true, &["dc1", "dc2", "dc3"]), None, Ok(true)),
            ("in the same place", datacenters(true, &two), witness("dc2:1"), Err("etcd of dc2")),
            ("its name", datacenters(true, &["witness"]), witness("w:1"), Err("may not be called")),
        ] {
            let found = grants(&dcs, witness, &RawGrants::default());
            match (found, expected) {
                (Ok(policy), Ok(leased)) => assert_eq!(policy.is_some(), leased, "{what}"),
                (Err((_, why)), Err(words)) => assert!(why.contains(words), "{what}: {why}"),
                (found, expected) => panic!("{what}: {found:?}, not {expected:?}"),
            }
        }
    }

    #[test]
    fn durations_that_make_no_sense_are_refused() {
        let text = |ttl: &str, stop: &str, ppm| RawGrants {
            grant_ttl: Some(ttl.into()),
            grant_stop_max: Some(stop.into()),
            grant_margin: None,
            grant_clock_error_ppm: Some(ppm),
        };
        let policy = durations(&text("4s", "1500ms", 200)).unwrap();
        let found = (policy.holder_ttl_ms, policy.stop_max_ms, policy.clock_error_ppm);
        assert_eq!(found, (4000, 1500, 200));
        for (raw, expected) in [
            (text("1s", "1s", 0), "policies.grant_ttl"),
            (text("soon", "1s", 0), "policies.grant_ttl"),
            (text("4s", "1ms", 0), "policies.grant_stop_max"),
            (text("4s", "1s", 500_000), "policies.grant_clock_error_ppm"),
        ] {
            assert_eq!(durations(&raw).unwrap_err().0, expected);
        }
    }
}
