//! Whether another datacenter that answers holds more WAL of the lost primary than the target.

use super::Request;
use crate::guards::{Checklist, Refusal};
use crate::inventory::{DcView, Inventory};
use crate::loss;
use node_agent_wire::federation::LossEstimate;
use node_agent_wire::{DcName, Lsn, TimelineId};

/// A datacenter that has more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rival {
    /// Which.
    pub dc: DcName,
    /// By so many bytes; `None` where it is on a later timeline, whose positions do not compare.
    pub bytes: Option<u64>,
    /// How far its WAL goes.
    pub end: (TimelineId, Lsn),
}

/// How far the WAL of a datacenter's leader goes.
fn end_of(view: &DcView) -> Option<(TimelineId, Lsn)> {
    let live = view.leader_node().map(|node| node.lsn).filter(|lsn| lsn.0 > 0);
    let published = view.position.as_ref().and_then(|position| position.lsn);
    Some((view.timeline()?, live.max(published)?))
}

/// The datacenters with more WAL than `to`, the one with most first. They follow the same primary,
/// so a later timeline is a later part of one history.
#[must_use]
pub fn rivals(inventory: &Inventory, from: &DcName, to: &DcName) -> Vec<Rival> {
    let own = inventory.view(to).and_then(end_of);
    let others = inventory.views().filter(|(dc, _)| *dc != from && *dc != to);
    let joined = others.filter(|(_, view)| {
        let known = inventory.view(to).and_then(DcView::record).map(|record| record.epoch);
        view.record().is_some_and(|r| r.primary == *from && Some(r.epoch) == known)
    });
    let mut found: Vec<Rival> = joined
        .filter_map(|(dc, view)| {
            let end = end_of(view)?;
            let more = own.is_none_or(|own| end > own);
            let bytes = own.filter(|own| own.0 == end.0).map(|own| end.1.bytes_since(own.1));
            more.then(|| Rival { dc: dc.clone(), bytes, end })
        })
        .collect();
    found.sort_by_key(|rival| std::cmp::Reverse(rival.end));
    found
}

/// The check. With `--force` it names what is given up.
pub(super) fn check(
    list: &mut Checklist,
    inventory: &Inventory,
    (from, to): (&DcName, &DcName),
    estimate: &LossEstimate,
    request: &Request,
) {
    if !loss::possible(estimate) {
        return; // It has everything: nobody can have more.
    }
    let others = inventory.sites.keys().filter(|dc| *dc != from && *dc != to).count();
    let found = rivals(inventory, from, to);
    let Some(most) = found.first() else {
        if others > 0 {
            list.ok("other copies", format!("none that answers holds more WAL than {to}"));
        }
        return;
    };
    let more = match most.bytes {
        Some(bytes) => format!("{bytes} bytes more WAL than {to}"),
        None => format!("WAL of timeline {}, later than that of {to}", most.end.0),
    };
    if request.force {
        let what = format!("{} holds {more}: given up by --force", most.dc);
        list.warn("other copies", what);
    } else {
        let (dc, target) = (most.dc.clone(), to.clone());
        list.refuse("other copies", Refusal::HoldsMore { dc, target, more });
    }
}
