//! Who streams from whom: what the settings wish and the state of the federation allows, beside
//! what each datacenter's configuration says now.

use crate::inventory::{DcView, Inventory};
use node_agent_wire::member::split_host_port;
use node_agent_wire::{DcName, chain};
use std::collections::BTreeSet;

/// The datacenter that `dc` is to follow while `primary` is primary. One that does not answer, is
/// fenced or is in `gone` can't be followed.
#[must_use]
pub fn planned<'i>(
    inventory: &'i Inventory,
    dc: &'i DcName,
    primary: &'i DcName,
    gone: &BTreeSet<DcName>,
) -> &'i DcName {
    let wish = |dc: &DcName| inventory.sites.get(dc).and_then(|site| site.follows.as_ref());
    let serves = |dc: &DcName| {
        let fenced = |view: &DcView| view.record().is_some_and(|r| r.fence.is_some());
        !gone.contains(dc) && inventory.view(dc).is_some_and(|view| !fenced(view))
    };
    chain::source(dc, primary, wish, serves)
}

/// The datacenter that the configuration of `dc` names as its source, by the addresses in it.
/// `None`: it follows nobody, or an address that no node of the federation has.
#[must_use]
pub fn configured<'i>(inventory: &'i Inventory, dc: &DcName) -> Option<&'i DcName> {
    let hosts = inventory.view(dc)?.dynamic().standby_cluster?.hosts();
    inventory.sites.keys().filter(|other| *other != dc).find(|other| {
        let own = addresses(inventory, other);
        hosts.iter().any(|host| own.contains(host))
    })
}

/// Every address that a datacenter's nodes have now, or had when a record was written.
fn addresses(inventory: &Inventory, dc: &DcName) -> BTreeSet<(String, u16)> {
    let seen = inventory.view(dc).map(DcView::postgres_addresses).unwrap_or_default();
    let recorded = inventory.records().filter_map(|(_, record)| record.members.get(dc));
    let recorded = recorded.flat_map(|entry| entry.nodes.values());
    let recorded = recorded.filter_map(|node| split_host_port(&node.postgres, 5432));
    seen.into_iter().chain(recorded).collect()
}

/// The datacenters in an order in which each comes after the one that it follows, as far as that
/// one is in the list.
#[must_use]
pub fn in_order(list: &[DcName], source: impl Fn(&DcName) -> DcName) -> Vec<DcName> {
    let mut ordered: Vec<DcName> = Vec::new();
    let mut left: Vec<DcName> = list.to_vec();
    while !left.is_empty() {
        let ready = |dc: &DcName| !left.contains(&source(dc));
        let (mut now, later): (Vec<DcName>, Vec<DcName>) =
            left.iter().cloned().partition(|dc| ready(dc));
        if now.is_empty() {
            // A circle, which `planned` never makes.
            ordered.extend(later);
            break;
        }
        ordered.append(&mut now);
        left = later;
    }
    ordered
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{inventory, lose, three};

    fn source(inventory: &Inventory, dc: &str, primary: &str) -> String {
        let gone = BTreeSet::new();
        planned(inventory, &dc.into(), &primary.into(), &gone).to_string()
    }

    #[test]
    fn a_cascade_is_kept_while_its_middle_serves() {
        let mut inventory = three();
        assert_eq!(source(&inventory, "dc3", "dc1"), "dc1");
        inventory.sites.get_mut(&DcName::from("dc3")).unwrap().follows = Some("dc2".into());
        assert_eq!(source(&inventory, "dc3", "dc1"), "dc2");
        assert_eq!(source(&inventory, "dc3", "dc2"), "dc2");
        let gone = BTreeSet::from(["dc2".into()]);
        let (dc3, dc1) = ("dc3".into(), "dc1".into());
        assert_eq!(planned(&inventory, &dc3, &dc1, &gone).as_str(), "dc1");
        lose(&mut inventory, "dc2");
        assert_eq!(source(&inventory, "dc3", "dc1"), "dc1");
    }

    #[test]
    fn the_source_is_told_by_its_addresses() {
        let mut inventory = inventory();
        let dc2 = DcName::from("dc2");
        assert_eq!(configured(&inventory, &dc2), Some(&"dc1".into()));
        assert_eq!(configured(&inventory, &"dc1".into()), None);
        let view = crate::fixture::view(&mut inventory, "dc2");
        let config = &mut view.config.as_mut().unwrap().value;
        config["standby_cluster"]["host"] = "virtual.example".into();
        assert_eq!(configured(&inventory, &dc2), None);
    }

    #[test]
    fn sources_come_first() {
        let list = ["dc4", "dc3", "dc2"].map(DcName::from);
        let of = |dc: &DcName| match dc.as_str() {
            "dc4" => "dc3".into(),
            "dc3" => "dc2".into(),
            _ => "dc1".into(),
        };
        assert_eq!(in_order(&list, of), ["dc2", "dc3", "dc4"].map(DcName::from));
    }
}
