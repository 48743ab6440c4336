//! Who streams from whom: every standby datacenter follows the primary one, or, in a cascade, the
//! datacenter that the settings name, for as long as that one serves.

use crate::DcName;

/// The longest chain of datacenters that is followed while looking for a circle.
const CHAIN_MAX: usize = 32;

/// The datacenter that `dc` streams from while `primary` is primary. `follows` is what the settings
/// wish, `serves` whether a datacenter can be streamed from. A wish that can't be kept, or that
/// leads back to `dc`, leads to the primary datacenter.
#[must_use]
pub fn source<'a>(
    dc: &'a DcName,
    primary: &'a DcName,
    follows: impl Fn(&DcName) -> Option<&'a DcName>,
    serves: impl Fn(&DcName) -> bool,
) -> &'a DcName {
    let wish = follows(dc).filter(|wish| *wish != dc && *wish != primary && serves(wish));
    let Some(wish) = wish else { return primary };
    let mut at = wish;
    for _ in 0..CHAIN_MAX {
        match follows(at).filter(|next| *next != at && *next != primary) {
            None => return wish,
            Some(next) if next == dc => return primary,
            Some(next) => at = next,
        }
    }
    primary
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::{BTreeMap, BTreeSet};

    #[test]
    fn a_wish_is_kept_while_its_source_serves_and_is_no_circle() {
        for (what, wishes, lost, primary, dc, expected) in [
            ("a star", "", "", "dc1", "dc3", "dc1"),
            ("a cascade", "dc3>dc2", "", "dc1", "dc3", "dc2"),
            ("its source becomes primary", "dc3>dc2", "", "dc2", "dc3", "dc2"),
            ("its source is lost", "dc3>dc2", "dc2", "dc1", "dc3", "dc1"),
            ("the end becomes primary", "dc3>dc2", "", "dc3", "dc2", "dc3"),
            ("the wish is the primary", "dc3>dc1", "", "dc1", "dc3", "dc1"),
            ("itself", "dc3>dc3", "", "dc1", "dc3", "dc1"),
            ("a chain of three", "dc4>dc3 dc3>dc2", "", "dc1", "dc4", "dc3"),
            ("a circle", "dc3>dc2 dc2>dc3", "", "dc1", "dc3", "dc1"),
            ("a circle that the primary cuts", "dc3>dc2 dc2>dc3", "", "dc2", "dc3", "dc2"),
            ("a circle of others", "dc4>dc3 dc3>dc2 dc2>dc3", "", "dc1", "dc4", "dc1"),
        ] {
            let pairs = wishes.split_whitespace().filter_map(|pair| pair.split_once('>'));
            let wishes: BTreeMap<DcName, DcName> =
                pairs.map(|(dc, of)| (dc.into(), of.into())).collect();
            let lost: BTreeSet<DcName> = lost.split_whitespace().map(DcName::from).collect();
            let (dc, primary) = (DcName::from(dc), DcName::from(primary));
            let found = source(&dc, &primary, |dc| wishes.get(dc), |dc| !lost.contains(dc));
            assert_eq!(found.as_str(), expected, "{what}");
        }
    }
}
