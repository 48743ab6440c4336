//! Site grants, as a scenario says them and at random.

use super::healthy::{NOW, ago};
use super::words::{Words, duration};
use node_agent_core::grant::Voter as Ballot;
use node_agent_core::grants::{Grants, Seat, Want};
use node_agent_core::observed::Observed;
use node_agent_wire::Epoch;
use node_agent_wire::grant::Voter;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::time::Duration;

/// `grants: none`, or `epoch 1 [held 12s] [asking] [silent=dc2]`.
pub fn apply(observed: &mut Observed, key: &str, value: &str) -> Result<bool, String> {
    if key != "grants" {
        return Ok(false);
    }
    observed.grants = if value == "none" { None } else { Some(of(value)?) };
    Ok(true)
}

fn of(text: &str) -> Result<Grants, String> {
    let mut words = Words::of(text);
    if !words.flag("epoch") {
        return Err("grants begin with \"epoch N\"".into());
    }
    let epoch = words.next()?.parse().map_err(|_| "the epoch is not a number")?;
    let until = match words.flag("held") {
        true => Some(NOW + duration(words.next()?)?),
        false => None,
    };
    let settled = !words.flag("asking");
    let silent: Option<String> = words.value("silent")?;
    let seats = silent.map(|voter| (Voter::named(&voter), seat(false, true))).into_iter();
    words.end()?;
    Ok(Grants { want: hold(epoch), until, settled, seats: seats.collect() })
}

pub fn hold(epoch: u64) -> Want {
    Want::Hold { epoch: Epoch(epoch), ahead_of: None }
}

pub fn seat(ours: bool, silent: bool) -> Seat {
    let ballot = Ballot { last: None, held: ours, quiet_since: ago(Duration::from_secs(1)) };
    Seat { ballot, ours, silent: silent.then(|| "no answer".to_owned()) }
}

/// What the keeper may tell, more often right than wrong.
pub fn any() -> impl Strategy<Value = Option<Grants>> {
    let until = proptest::option::weighted(0.8, (0_u64..20).prop_map(Duration::from_secs));
    let told = (1_u64..4, 0_u8..4, until, prop::bool::weighted(0.7));
    let grants = told.prop_map(|(epoch, kind, until, settled)| {
        let want = match kind {
            0 => Want::Watch { epoch: Epoch(epoch) },
            _ => hold(epoch),
        };
        Grants { want, until: until.map(|left| NOW + left), settled, seats: BTreeMap::new() }
    });
    proptest::option::weighted(0.8, grants)
}
