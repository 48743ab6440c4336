//! Site grants as the federator sees them: through the leaders' agents, which hold and watch them.

use crate::inventory::{DcView, Inventory};
use crate::topology::{Problem, Severity};
use node_agent_wire::federation::{FederationRecord, Isolation, Operation};
use node_agent_wire::grant::{GrantPolicy, Voter, majority};
use node_agent_wire::{DcName, Epoch};
use serde::{Deserialize, Serialize};

/// What the leader's agent of a datacenter says of the grants.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct GrantsView {
    /// It writes only with a majority.
    pub enforced: bool,
    /// The epoch that it holds or claims grants for.
    pub epoch: Option<Epoch>,
    /// A majority is held for so long, in milliseconds; 0: none is.
    pub left_ms: u64,
    /// Held ahead of the commit of this operation; empty otherwise.
    pub operation: String,
    /// A standby datacenter could have a majority for the next epoch in so many milliseconds, if
    /// nobody renews meanwhile.
    pub claimable_in_ms: Option<u64>,
    /// The voters.
    pub voters: Vec<SeatView>,
}

/// One voter.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SeatView {
    /// A datacenter, or `witness`.
    pub voter: String,
    /// Who has, or had, the grant; empty: nobody ever.
    pub holder: String,
    /// At which epoch.
    pub epoch: Epoch,
    /// Given back, or never granted.
    pub free: bool,
    /// It is that node's.
    pub ours: bool,
    /// Since the last renewal that was seen, in milliseconds.
    pub quiet_ms: u64,
    /// Why it does not answer; empty when it does.
    pub silent: String,
}

/// Why the grants prove nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotLeased {
    /// It may write without grants.
    #[error("isolation of {0} is manual: it may accept writes without grants")]
    Manual(DcName),
    /// Nobody looks at the voters.
    #[error("the leader's agent of {0} does not say what the voters hold")]
    NotSeen(DcName),
    /// It lives.
    #[error("{from} renews its grants: the last renewal is {} ms old", quiet_ms)]
    Renewed {
        /// Who.
        from: DcName,
        /// The age of the last renewal, by the target's clock.
        quiet_ms: u64,
    },
    /// Too few voters.
    #[error("too few voters answer {to}, or they have granted a later epoch: {detail}")]
    NoVoters {
        /// The target.
        to: DcName,
        /// Which do not answer.
        detail: String,
    },
    /// Not yet.
    #[error("{to} holds {held} of the {needed} grants that it needs for epoch {epoch}")]
    NoMajority {
        /// The target.
        to: DcName,
        /// How many it holds.
        held: usize,
        /// How many it needs.
        needed: usize,
        /// For which epoch.
        epoch: Epoch,
    },
}

fn leased(record: &FederationRecord, from: &DcName) -> Result<GrantPolicy, NotLeased> {
    match &record.policies.grants {
        Some(policy) if record.needs_grants(from) => Ok(policy.clone()),
        Some(_) | None => Err(NotLeased::Manual(from.clone())),
    }
}

/// Whether the grants of `from` run out: it has missed a renewal at so many voters that they are a
/// majority with those that are free.
///
/// # Errors
/// Why they do not, or why the target can't have them.
pub fn expiring(
    record: &FederationRecord,
    from: &DcName,
    seen: Option<&GrantsView>,
) -> Result<(), NotLeased> {
    let policy = leased(record, from)?;
    let seen = seen.ok_or_else(|| NotLeased::NotSeen(record.dc.clone()))?;
    if seen.claimable_in_ms.is_none() {
        let (to, detail) = (record.dc.clone(), silent(seen));
        return Err(NotLeased::NoVoters { to, detail });
    }
    let missed = policy.holder_ttl_ms / 2;
    let renewed = seen.voters.iter().filter(|seat| {
        seat.silent.is_empty()
            && !seat.free
            && seat.holder == from.as_str()
            && seat.quiet_ms < missed
    });
    let quiet_ms = renewed.clone().map(|seat| seat.quiet_ms).min().unwrap_or_default();
    let answering = seen.voters.iter().filter(|seat| seat.silent.is_empty()).count();
    if answering - renewed.count() < majority(record.voters().len()) {
        return Err(NotLeased::Renewed { from: from.clone(), quiet_ms });
    }
    Ok(())
}

/// The voters that have granted the operation's epoch to its target, where they are a majority.
///
/// # Errors
/// There is none (yet).
pub fn acquired(
    record: &FederationRecord,
    operation: &Operation,
    held: Option<&GrantsView>,
) -> Result<Vec<String>, NotLeased> {
    let to = || record.dc.clone();
    leased(record, operation.from.as_ref().unwrap_or(&record.primary))?;
    let view = held.ok_or_else(|| NotLeased::NotSeen(to()))?;
    let voters = record.voters();
    let meant = view.epoch == Some(operation.next_epoch)
        && view.operation == operation.id.as_str()
        && record.dc == operation.to
        && view.left_ms > 0;
    let ours = view.voters.iter().filter(|seat| {
        meant
            && seat.ours
            && seat.epoch == operation.next_epoch
            && voters.contains_key(&Voter::named(&seat.voter))
    });
    let ours: Vec<String> = ours.map(|seat| seat.voter.clone()).collect();
    let (held, needed) = (ours.len(), majority(voters.len()));
    if held < needed {
        let epoch = operation.next_epoch;
        return Err(NotLeased::NoMajority { to: to(), held, needed, epoch });
    }
    Ok(ours)
}

fn silent(seen: &GrantsView) -> String {
    let words: Vec<String> = seen
        .voters
        .iter()
        .filter(|seat| !seat.silent.is_empty())
        .map(|seat| format!("{}: {}", seat.voter, seat.silent))
        .collect();
    words.join("; ")
}

fn seconds(ms: u64) -> String {
    format!("{}.{} s", ms / 1000, ms % 1000 / 100)
}

/// When `to` can have a majority, in words.
#[must_use]
pub fn countdown(to: &DcName, seen: Option<&GrantsView>) -> String {
    match seen.and_then(|seen| seen.claimable_in_ms) {
        None => format!("{to} can't take a majority of the site grants now"),
        Some(0) => format!("{to} can take a majority of the site grants now"),
        Some(ms) => format!(
            "{to} can take a majority of the site grants in {}, if nobody renews them",
            seconds(ms.saturating_add(99))
        ),
    }
}

/// Whether any record that was read has site grants.
#[must_use]
pub fn in_records(inventory: &Inventory) -> bool {
    inventory.records().any(|(_, record)| record.policies.grants.is_some())
}

/// Whether every record says of isolation what the settings do.
#[must_use]
pub fn settled(inventory: &Inventory) -> bool {
    inventory.records().all(|(_, record)| {
        record.members.iter().all(|(dc, entry)| {
            inventory.sites.get(dc).is_none_or(|site| site.isolation == entry.isolation)
        })
    })
}

/// What the settings ask for, in words.
#[must_use]
pub fn intent(inventory: &Inventory) -> String {
    let words: Vec<String> = inventory
        .sites
        .iter()
        .map(|(dc, site)| {
            let isolation = match site.isolation {
                Isolation::Manual => "manual",
                Isolation::Lease => "lease",
            };
            format!("{dc} {isolation}")
        })
        .collect();
    format!("isolation: {}", words.join(", "))
}

/// The grants for `status`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct GrantsReport {
    /// The datacenter whose leader says so.
    pub seen_from: DcName,
    /// It holds them, or tries to.
    pub primary: bool,
    /// How many a majority is.
    pub needed: usize,
    /// What it sees.
    pub view: GrantsView,
}

/// The primary's view, or that of a standby datacenter when it is silent.
#[must_use]
pub fn report(inventory: &Inventory) -> Option<GrantsReport> {
    let primary = inventory.primary()?;
    let of = |(dc, view): (&DcName, &DcView)| {
        let seen = view.leader_node()?.grants.clone()?;
        let needed = majority(view.record()?.voters().len());
        Some(GrantsReport { seen_from: dc.clone(), primary: dc == primary, needed, view: seen })
    };
    let mut all: Vec<GrantsReport> = inventory.views().filter_map(of).collect();
    all.sort_by_key(|report| !report.primary);
    all.into_iter().next()
}

/// The same in words, one line.
#[must_use]
pub fn words(report: &GrantsReport) -> String {
    let GrantsReport { seen_from, primary, needed, view } = report;
    let count = view.voters.len();
    let ours = view.voters.iter().filter(|seat| seat.ours).count();
    let epoch = view.epoch.map_or("-".into(), |epoch| epoch.to_string());
    match (primary, view.left_ms) {
        (true, 0) => format!("{seen_from} holds no majority of the {count} voters"),
        (true, left) => format!(
            "{seen_from} holds {ours} of {count} for epoch {epoch} ({needed} needed), for {} more \
             without a renewal{}",
            seconds(left),
            if view.enforced { "" } else { "; isolation is manual, so nothing depends on them" }
        ),
        (false, _) => {
            let holders: Vec<String> = view
                .voters
                .iter()
                .map(|seat| match (seat.silent.is_empty(), seat.free) {
                    (false, _) => format!("{} does not answer", seat.voter),
                    (true, true) => format!("{} is free", seat.voter),
                    (true, false) => format!(
                        "{} renewed by {} {} ago",
                        seat.voter,
                        seat.holder,
                        seconds(seat.quiet_ms)
                    ),
                })
                .collect();
            let countdown = countdown(seen_from, Some(view));
            format!("seen from {seen_from}: {}; {countdown}", holders.join(", "))
        }
    }
}

/// What is wrong with the grants.
pub(crate) fn problems(inventory: &Inventory, list: &mut Vec<Problem>) {
    let Some(report) = report(inventory).filter(|report| report.primary) else { return };
    let (dc, view, needed) = (&report.seen_from, &report.view, report.needed);
    if view.left_ms == 0 && view.enforced {
        list.push(Problem {
            severity: Severity::Critical,
            text: format!("{dc} holds no majority of the site grants: it accepts no writes"),
            next: "bring voters back: their etcd, and the network to them".into(),
        });
    }
    let count = view.voters.len();
    for seat in view.voters.iter().filter(|seat| !seat.silent.is_empty()) {
        list.push(Problem {
            severity: Severity::Warning,
            text: format!("the voter {} does not answer {dc}: {}", seat.voter, seat.silent),
            next: format!("look at its etcd; {needed} of {count} voters must answer for writes"),
        });
    }
}

#[cfg(test)]
#[path = "grants_tests.rs"]
mod tests;
