//! The retention runway of a link: how long a datacenter may be away before the WAL that its slot
//! holds back is gone, or fills the primary's disk. Then it needs a new base backup.
//!
//! A slot keeps WAL from its `restart_lsn` on. PostgreSQL invalidates it when it holds back more
//! than `max_slot_wal_keep_size` (manual, section 20.6.1); without that limit WAL grows until the
//! disk is full. WAL is taken to grow at the highest rate of the last minute.

use crate::inventory::{DcView, Inventory, NodeView};
use crate::links;
use crate::quote;
use crate::topology::{Problem, Severity};
use node_agent_wire::federation::Retention;
use node_agent_wire::member::state;
use node_agent_wire::{DcName, Lsn, MemberName};
use serde::Serialize;

/// What happens when the runway is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum End {
    /// The slot is invalidated: the primary goes on, the standby needs a new base backup.
    SlotLost,
    /// The disk with WAL is full: the primary stops.
    DiskFull,
    /// The slot has been invalidated already.
    Over,
}

/// The runway of one datacenter's slot on the primary's leader.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Runway {
    /// The datacenter that streams with the slot.
    pub dc: DcName,
    /// The node that keeps it.
    pub node: MemberName,
    /// Somebody streams with it at this moment.
    pub connected: bool,
    /// What it holds back, in bytes.
    pub held_bytes: u64,
    /// What it may still hold back, in bytes.
    pub left_bytes: u64,
    /// The highest rate at which WAL grew in the last minute, in bytes a second.
    pub rate: u64,
    /// Until then, in seconds at that rate; `None` while no WAL is written.
    pub left_s: Option<u64>,
    /// What happens then.
    pub end: End,
}

impl Runway {
    /// In one line.
    #[must_use]
    pub fn words(&self) -> String {
        let then = match self.end {
            End::SlotLost => "its slot is lost and it needs a new base backup",
            End::DiskFull => "the disk with WAL is full",
            End::Over => return format!("the slot on {} is lost", self.node),
        };
        match self.left_s {
            Some(left) => format!(
                "{} until {then} ({}, at {} kB/s)",
                duration(left),
                self.node,
                self.rate >> 10
            ),
            None => format!("no WAL is being written; {} MB until {then}", self.left_bytes >> 20),
        }
    }
}

/// The two largest units, as people say it.
#[must_use]
pub fn duration(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds % 86_400 / 3600),
    }
}

/// The runway of `dc`'s link, as far as the leader of the datacenter that it follows tells it.
#[must_use]
pub fn of(inventory: &Inventory, dc: &DcName) -> Option<Runway> {
    let view = inventory.view(source(inventory, dc)?)?;
    let slot = &inventory.sites.get(dc)?.slot;
    runway(view, view.leader_node()?, (slot.as_str(), needed(inventory, dc)), dc)
}

/// Where the WAL begins that `dc` needs next, by its leader that runs and gets none: a lost slot is
/// made anew, and then nothing else tells that what it kept is gone.
fn needed(inventory: &Inventory, dc: &DcName) -> Option<Lsn> {
    let view = inventory.view(dc)?;
    // A former primary needs a rejoin whatever its slot has.
    view.record().filter(|record| record.fence.is_none())?;
    let node = view.leader_node()?;
    let waits = node.state == state::RUNNING && !node.writable && node.replication_state.is_empty();
    Some(node.lsn).filter(|lsn| waits && lsn.0 > 0)
}

/// Whose slot `dc` uses: the primary's, or in a cascade that of another standby.
#[must_use]
pub fn source<'i>(inventory: &'i Inventory, dc: &DcName) -> Option<&'i DcName> {
    let primary = inventory.primary().filter(|primary| *primary != dc)?;
    Some(links::configured(inventory, dc).unwrap_or(primary))
}

fn runway(
    view: &DcView,
    node: &NodeView,
    (slot, needed): (&str, Option<Lsn>),
    dc: &DcName,
) -> Option<Runway> {
    let there = node.slots.get(slot)?;
    let passed = needed.is_some_and(|needed| !there.active && needed < there.restart_lsn);
    let over = there.wal_status == "lost" || passed;
    if !over && there.restart_lsn.0 == 0 {
        return None;
    }
    let held_bytes = if over { 0 } else { node.lsn.bytes_since(there.restart_lsn) };
    let rate = view.position.as_ref().map_or(0, |position| position.wal_rate_max);
    let limited = node.slot_wal_limit_bytes.map(|limit| limit.saturating_sub(held_bytes));
    let (left_bytes, end) = match (limited, node.wal_free_bytes) {
        (_, _) if over => (0, End::Over),
        (Some(limited), Some(free)) if free < limited => (free, End::DiskFull),
        (Some(limited), _) => (limited, End::SlotLost),
        (None, Some(free)) => (free, End::DiskFull),
        (None, None) => return None,
    };
    Some(Runway {
        dc: dc.clone(),
        node: view.leader.clone()?,
        connected: there.active,
        held_bytes,
        left_bytes,
        rate,
        left_s: left_bytes.checked_div(rate),
        end,
    })
}

/// What is wrong with a link's runway, and with the settings that its policy needs.
#[must_use]
pub fn problems(inventory: &Inventory, dc: &DcName, warning_s: u64) -> Vec<Problem> {
    let Some(runway) = of(inventory, dc) else { return Vec::new() };
    let mut list = Vec::new();
    match (runway.end, runway.left_s) {
        (End::Over, _) => list.push(Problem {
            severity: Severity::Critical,
            text: format!("{dc} can't catch up: its slot on {} is lost", runway.node),
            next: reseed(inventory, dc),
        }),
        (_, Some(left)) if left < warning_s && !runway.connected => list.push(Problem {
            severity: Severity::Critical,
            text: format!("{dc} is not connected; {}", runway.words()),
            next: format!("bring {dc} back, or give it up: {}", give_up(runway.end)),
        }),
        // While it is connected the slot moves on: a peak of writes is no reason to wake anybody.
        (_, Some(_) | None) => {}
    }
    list.extend(policy(inventory, dc, &runway));
    list
}

/// The way back of a datacenter whose slot is lost, and what it costs.
fn reseed(inventory: &Inventory, dc: &DcName) -> String {
    let back = match inventory.view(dc).and_then(DcView::leader_node) {
        Some(_) => String::new(),
        None => format!("bring {dc} back, then "),
    };
    let cost = source(inventory, dc).map(|source| quote::reseed(inventory, dc, source));
    format!("{back}federator rejoin {dc}: new copies, {}", cost.unwrap_or_default())
}

fn give_up(end: End) -> &'static str {
    match end {
        End::SlotLost | End::Over => "its slot goes by itself, and it must be reseeded",
        End::DiskFull => "set max_slot_wal_keep_size, so that the primary's disk survives",
    }
}

/// Whether the server does what the policy of the link says.
fn policy(inventory: &Inventory, dc: &DcName, runway: &Runway) -> Option<Problem> {
    let record = inventory.newest()?;
    let retention = record.members.get(dc)?.retention;
    let source = source(inventory, dc)?;
    let limit = inventory.view(source)?.leader_node()?.slot_wal_limit_bytes;
    let problem = |severity, text: String, next: &str| {
        Some(Problem { severity, text, next: next.to_owned() })
    };
    match (retention, limit) {
        (Retention::ProtectPrimary, None) => problem(
            Severity::Warning,
            format!(
                "the link of {dc} is to give way before the primary's disk is full, but \
                 max_slot_wal_keep_size is unlimited on {}",
                runway.node
            ),
            "patronictl edit-config: postgresql.parameters.max_slot_wal_keep_size",
        ),
        (Retention::ProtectPrimary, Some(_)) if runway.end == End::DiskFull => problem(
            Severity::Warning,
            format!(
                "the disk of {} is full before max_slot_wal_keep_size lets the link of {dc} go",
                runway.node
            ),
            "a lower max_slot_wal_keep_size, or more disk for WAL",
        ),
        (Retention::ProtectDr, Some(limit)) => problem(
            Severity::Notice,
            format!(
                "the link of {dc} is to be kept whatever it costs, but max_slot_wal_keep_size on \
                 {} lets it go at {} MB",
                runway.node,
                limit >> 20
            ),
            "set it to -1, or the datacenter's retention to protect-primary",
        ),
        (Retention::ProtectPrimary, Some(_)) | (Retention::ProtectDr, None) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{inventory, lose, node_mut, record_mut, view};
    use crate::inventory::{Fact, SlotKind, SlotView};
    use crate::quote::Examination;
    use node_agent_wire::Lsn;

    const MB: u64 = 1 << 20;

    /// dc2's slot holds back 100 MB; WAL grows by 1 MB a second.
    fn link(limit: Option<u64>, free: Option<u64>, status: &str, active: bool) -> Inventory {
        let mut all = inventory();
        view(&mut all, "dc1").position.as_mut().unwrap().wal_rate_max = MB;
        let node = node_mut(&mut all, "dc1");
        node.lsn = Lsn(600 * MB);
        node.slot_wal_limit_bytes = limit;
        node.wal_free_bytes = free;
        let restart_lsn = Lsn(500 * MB);
        let kind = SlotKind::Physical;
        let slot = SlotView { active, wal_status: status.into(), restart_lsn, kind };
        node.slots = [("dc2".to_owned(), slot)].into();
        all
    }

    #[test]
    fn the_first_of_two_limits_ends_it() {
        let (gb, dc) = (1024 * MB, DcName::from("dc2"));
        for (what, limit, free, status, expected) in [
            ("limit", Some(400 * MB), Some(gb), "extended", Some((300, End::SlotLost))),
            ("disk", Some(400 * MB), Some(200 * MB), "extended", Some((200, End::DiskFull))),
            ("no limit", None, Some(gb), "extended", Some((1024, End::DiskFull))),
            ("limit reached", Some(50 * MB), Some(gb), "unreserved", Some((0, End::SlotLost))),
            ("lost", Some(50 * MB), Some(gb), "lost", Some((0, End::Over))),
            ("nothing known", None, None, "reserved", None),
        ] {
            let all = link(limit, free, status, false);
            let found = of(&all, &dc).map(|r| (r.left_s.unwrap(), r.end));
            assert_eq!(found, expected, "{what}");
        }
        assert_eq!(of(&link(None, Some(gb), "reserved", true), &"dc1".into()), None);
    }

    #[test]
    fn without_wal_there_is_no_end() {
        let mut all = link(None, Some(2048 * MB), "reserved", true);
        view(&mut all, "dc1").position.as_mut().unwrap().wal_rate_max = 0;
        let runway = of(&all, &"dc2".into()).unwrap();
        assert_eq!(runway.left_s, None);
        assert!(runway.words().contains("2048 MB until the disk"), "{}", runway.words());
    }

    #[test]
    fn a_short_runway_is_a_problem_and_a_lost_slot_a_greater_one() {
        let dc = DcName::from("dc2");
        let severities = |all: &Inventory| -> Vec<Severity> {
            problems(all, &dc, 3600).iter().map(|p| p.severity).collect()
        };
        let gb = 1024 * MB;
        for (what, all, expected) in [
            ("days", link(None, Some(100 * gb), "reserved", false), vec![]),
            ("away", link(None, Some(gb), "extended", false), vec![Severity::Critical]),
            ("connected", link(None, Some(gb), "reserved", true), vec![]),
        ] {
            assert_eq!(severities(&all), expected, "{what}");
        }
        let lost = link(Some(MB), Some(100 * gb), "lost", false);
        assert_eq!(severities(&lost), [Severity::Critical, Severity::Notice]);
        let text = &problems(&lost, &dc, 3600)[0];
        assert!(text.next.starts_with("federator rejoin dc2: new copies, "), "{}", text.next);
        assert!(text.next.contains("not known: the leader of dc1 was not asked"), "{}", text.next);
        let mut asked = lost;
        let size = Examination { data_bytes: Some(90 * MB), ..Examination::default() };
        view(&mut asked, "dc1").examined = [("dc1-pg1".into(), Fact::Known(size))].into();
        let next = &problems(&asked, &dc, 3600)[0].next;
        assert!(next.contains("new copies, 90 MB, 9 s at 10 MB/s (assumed"), "{next}");
        lose(&mut asked, "dc2");
        let next = &problems(&asked, &dc, 3600)[0].next;
        assert!(next.starts_with("bring dc2 back, then federator rejoin dc2"), "{next}");
    }

    #[test]
    fn a_slot_that_was_made_anew_has_not_what_is_needed() {
        let dc = DcName::from("dc2");
        for (what, at, streams, active, over) in [
            ("behind the slot", 400, "", false, true),
            ("the slot has it", 550, "", false, false),
            ("an archive may have it", 400, "in archive recovery", false, false),
            ("it streams", 400, "streaming", true, false),
        ] {
            let mut all = link(None, Some(1024 * MB), "reserved", active);
            let node = node_mut(&mut all, "dc2");
            (node.lsn, node.replication_state) = (Lsn(at * MB), streams.to_owned());
            assert_eq!(of(&all, &dc).unwrap().end == End::Over, over, "{what}");
        }
    }

    #[test]
    fn the_server_must_do_what_the_policy_says() {
        let (dc, gb) = (DcName::from("dc2"), 1024 * MB);
        for (what, retention, limit, free, expected) in [
            ("unlimited", Retention::ProtectPrimary, None, 100, Some(Severity::Warning)),
            ("disk first", Retention::ProtectPrimary, Some(200), 100, Some(Severity::Warning)),
            ("limit first", Retention::ProtectPrimary, Some(50), 100, None),
            ("limited", Retention::ProtectDr, Some(50), 100, Some(Severity::Notice)),
            ("as it says", Retention::ProtectDr, None, 100, None),
        ] {
            let limit = limit.map(|limit: u64| limit * gb);
            let mut all = link(limit, Some(free * gb), "reserved", true);
            for site in ["dc1", "dc2"] {
                record_mut(&mut all, site).members.get_mut(&dc).unwrap().retention = retention;
            }
            let found = problems(&all, &dc, 3600);
            assert_eq!(found.first().map(|p| p.severity), expected, "{what}: {found:?}");
        }
    }

    #[test]
    fn durations_read_well() {
        let read = [59, 61, 11_520, 90_000].map(duration);
        assert_eq!(read, ["59 s", "1 min 1 s", "3 h 12 min", "1 d 1 h"]);
    }
}
