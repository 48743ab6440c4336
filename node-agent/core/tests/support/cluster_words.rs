//! What a scenario says of the DCS, the federation and the other members.

use super::healthy::{NOW, NOW_TEXT, WALL_US, ago, dcs, member, record};
use super::words::{Words, duration, history, items, lsn};
use node_agent_core::observed::{Keyed, Observed, PeerAnswer, Poll, RecordView, Standing};
use node_agent_core::time::Fact;
use node_agent_wire::dynamic::Dynamic;
use node_agent_wire::federation::{
    Claim, Confirmation, Evidence, FederationRecord, Fence, FenceAck, Isolation, Operation,
    OperationKind, Phase, PreSync,
};
use node_agent_wire::grant::GrantPolicy;
use node_agent_wire::member::Role;
use node_agent_wire::position::{FailsafeTerms, Position};
use node_agent_wire::status::{Failover, SyncState};
use node_agent_wire::{Epoch, Lsn, MemberName, Revision, SlotName, SystemId, TimelineId};
use serde_json::Value;
use std::collections::BTreeMap;

/// Applies the key when it is one of these; `false` when not.
pub fn apply(observed: &mut Observed, key: &str, value: &str) -> Result<bool, String> {
    if let Some(dc) = key.strip_prefix("peer ") {
        let fact = peer(dc, value)?;
        observed.peers.insert(dc.into(), fact);
        return Ok(true);
    }
    match key {
        "dcs" => {
            let since = ago(duration(value.strip_prefix("unknown ").unwrap_or(value))?);
            observed.cluster = Fact::Unknown { since, tried: true };
        }
        "leader" => dcs(observed).leader = name(value),
        "initialize" => {
            dcs(observed).initialize = match value {
                "none" => None,
                "empty" => Some(String::new()),
                other => Some(other.to_owned()),
            }
        }
        "config" => config(observed, value)?,
        "members" => {
            dcs(observed).members = items(value).map(member_of).collect::<Result<_, _>>()?;
        }
        "seen" => {
            for item in items(value) {
                let (name, age) = item.split_once(' ').ok_or("seen needs a name and a time")?;
                observed.members_seen.insert(name.into(), ago(duration(age)?));
            }
        }
        "failover" => dcs(observed).failover = failover(value)?,
        "status" => status(observed, value)?,
        "sync" => dcs(observed).sync = sync(value)?,
        "history" => dcs(observed).history = Some(history(value)?),
        "record" => dcs(observed).record = record_view(value)?,
        "position" => position(observed, value)?,
        "last leader" => observed.observer.last_leader = name(value),
        "poll" => observed.poll = Some(poll(value)?),
        "last record" => observed.last_record = Some(record_of("dc1", value)?),
        _ => return Ok(false),
    }
    Ok(true)
}

fn name(text: &str) -> Option<MemberName> {
    (text != "none").then(|| text.into())
}

/// The value is the dynamic configuration as JSON.
fn config(observed: &mut Observed, text: &str) -> Result<(), String> {
    let value: Value = serde_json::from_str(text).map_err(|e| e.to_string())?;
    let config = Dynamic::read(value.as_object().ok_or("config must be an object")?);
    if !config.warnings.is_empty() {
        return Err(config.warnings.join("; "));
    }
    observed.config = config.clone();
    dcs(observed).config = config;
    Ok(())
}

/// `pg3 nofailover state=stopped at=0/3000000 sync_priority=2 replicatefrom=pg2`.
fn member_of(item: &str) -> Result<(MemberName, node_agent_wire::member::Member), String> {
    let mut words = Words::of(item);
    let mut member = member(words.next()?);
    if let Some(state) = words.value::<String>("state")? {
        member.data.state = state;
    }
    member.data.timeline = words.value("timeline")?.map(TimelineId);
    if words.flag("primary") {
        member.data.role = Some(Role::Primary);
    }
    member.data.copies_slots = words.flag("copies_slots");
    if words.flag("addressless") {
        member.data.conn_url = String::new();
    }
    member.data.xlog_location = words.value("at")?;
    if let Some(priority) = words.value::<i64>("sync_priority")? {
        member.data.tags.insert("sync_priority".into(), priority.into());
    }
    if let Some(source) = words.value::<String>("replicatefrom")? {
        member.data.tags.insert("replicatefrom".into(), source.into());
    }
    for tag in ["nofailover", "nosync", "nostream", "clonefrom"] {
        if words.flag(tag) {
            member.data.tags.insert(tag.into(), true.into());
        }
    }
    words.end()?;
    Ok((member.name.clone(), member))
}

/// `pg1 -> pg2`, either side may be `any`, with an optional `at TIME`.
fn failover(text: &str) -> Result<Keyed<Failover>, String> {
    let (leader, rest) = text.split_once("->").ok_or("failover needs \"leader -> member\"")?;
    let (member, at) = match rest.split_once(" at ") {
        // The moment of the decision itself, as the healthy cluster's clock has it.
        Some((member, at)) if at.trim() == "now" => (member, Some(NOW_TEXT.to_owned())),
        Some((member, at)) => (member, Some(at.trim().to_owned())),
        None => (rest, None),
    };
    let side = |text: &str| (text.trim() != "any").then(|| MemberName::from(text.trim()));
    let value = Failover { leader: side(leader), member: side(member), scheduled_at: at };
    Ok(Keyed { value, revision: Revision(41) })
}

/// `optime 0/3000000, pg2 0/2000000, pg8 retained`: the position, then slots.
fn status(observed: &mut Observed, text: &str) -> Result<(), String> {
    for item in items(text) {
        let (name, at) = item.split_once(' ').ok_or("status needs names with positions")?;
        if at == "retained" {
            dcs(observed).status.retain_slots.insert(SlotName::from_name(name));
            continue;
        }
        let at = lsn(at)?;
        if name == "optime" {
            dcs(observed).status.optime = Some(at);
        } else {
            dcs(observed).status.slots.insert(SlotName::from_name(name), at);
        }
    }
    Ok(())
}

/// `leader pg1 standbys pg2 pg3 [quorum=1]`.
fn sync(text: &str) -> Result<Keyed<SyncState>, String> {
    let mut words = Words::of(text);
    if !words.flag("leader") {
        return Err("sync needs \"leader NAME standbys NAME…\"".into());
    }
    let leader = Some(MemberName::from(words.next()?));
    words.flag("standbys");
    let quorum = words.value("quorum")?.unwrap_or(0);
    let sync_standby = words.rest().split_whitespace().map(MemberName::from).collect();
    Ok(Keyed { value: SyncState { leader, sync_standby, quorum }, revision: Revision(42) })
}

fn record_view(text: &str) -> Result<RecordView, String> {
    if text == "none" {
        return Ok(RecordView::Absent);
    }
    if let Some(why) = text.strip_prefix("unreadable ") {
        return Ok(RecordView::Unreadable(why.to_owned()));
    }
    let value = record_of("dc1", text)?;
    Ok(RecordView::Present(Box::new(Keyed { value, revision: Revision(43) })))
}

/// `epoch 1 primary dc1 [fence] [acked] [switchover] [rejoin] [lease] [alone] [guest=NAME]
/// [handed]`,
/// and `claimed` or `confirmed` with a time.
fn record_of(dc: &str, text: &str) -> Result<FederationRecord, String> {
    let mut words = Words::of(text);
    if !words.flag("epoch") {
        return Err("a record begins with \"epoch N primary DC\"".into());
    }
    let epoch: u64 = words.next()?.parse().map_err(|_| "the epoch is not a number")?;
    words.flag("primary");
    let mut record = record(dc, epoch, words.next()?);
    if words.flag("fence") {
        record.fence = Some(Fence {
            epoch: Epoch(epoch).next(),
            operation: None,
            reason: "switchover to dc2".into(),
            by: "ann".into(),
            at_us: WALL_US,
            ack: words.flag("acked").then(|| FenceAck {
                node: "pg1".into(),
                checkpoint: Lsn(0x300_0000),
                timeline: TimelineId(1),
                system_id: SystemId::new(super::healthy::SYSTEM),
                at_us: WALL_US,
            }),
        });
    }
    if words.flag("switchover") {
        record.operation = Some(switchover(epoch));
    }
    if let (Some(guest), Some(operation)) =
        (words.value::<String>("guest")?, record.operation.as_mut())
    {
        let standby = Some(guest.as_str().into());
        operation.pre_sync = Some(PreSync { standby, request: 1, limit_ms: 10_000 });
    }
    if words.flag("handed") {
        let ack = FenceAck {
            node: "dc2-pg1".into(),
            checkpoint: Lsn(0x300_0000),
            timeline: TimelineId(1),
            system_id: SystemId::new(super::healthy::SYSTEM),
            at_us: WALL_US,
        };
        let places = (Some("dc2".into()), record.dc.clone());
        let kind = OperationKind::Switchover;
        let operation = Operation::new("op2".into(), kind, places, record.epoch, ("ann", WALL_US));
        record.operation = Some(Operation { phase: Phase::Committed, ..operation });
        record.claim = Some(Claim {
            operation: "op2".into(),
            kind,
            evidence: Some(Evidence::Acknowledged { ack }),
            further_evidence: Vec::new(),
            at_us: WALL_US,
        });
    }
    if words.flag("rejoin") {
        let kind = OperationKind::Rejoin;
        let to = record.dc.clone();
        record.operation = Some(Operation { kind, from: None, to, ..switchover(epoch) });
    }
    if words.flag("lease") {
        for entry in record.members.values_mut() {
            entry.isolation = Isolation::Lease;
        }
        record.policies.grants = Some(GrantPolicy::default());
    }
    if words.flag("alone") {
        record.members.retain(|name, _| name.as_str() == dc);
    }
    if let Some(age) = words.time("claimed")? {
        let at_us = WALL_US - micros(age);
        let (operation, kind) = ("op1".into(), OperationKind::Setup);
        record.claim =
            Some(Claim { operation, kind, evidence: None, further_evidence: Vec::new(), at_us });
    }
    if let Some(age) = words.time("confirmed")? {
        let at_us = WALL_US - micros(age);
        record.confirmed = Some(Confirmation { epoch: record.epoch, by: "ann".into(), at_us });
    }
    words.end()?;
    Ok(record)
}

fn switchover(epoch: u64) -> Operation {
    let places = (Some("dc1".into()), "dc2".into());
    let (kind, next) = (OperationKind::Switchover, Epoch(epoch).next());
    Operation::new("op2".into(), kind, places, next, ("ann", WALL_US))
}

fn micros(age: std::time::Duration) -> i64 {
    i64::try_from(age.as_micros()).expect("a scenario's times are small")
}

fn peer(dc: &str, text: &str) -> Result<Fact<FederationRecord>, String> {
    let since = ago(std::time::Duration::from_secs(5));
    Ok(match text {
        "silent" => Fact::Unknown { since, tried: true },
        "not asked" => Fact::Unknown { since, tried: false },
        other => Fact::Known { value: record_of(dc, other)?, at: NOW },
    })
}

/// `pg2 ttl 30s seen 3s [released] [unattended] [lsn=0/…] [wrote 5s]`, and
/// `[failsafe=pg1,pg2] [majority]`.
fn position(observed: &mut Observed, text: &str) -> Result<(), String> {
    let mut words = Words::of(text);
    let leader = MemberName::from(words.next()?);
    let ttl = words.time("ttl")?.ok_or("position needs a ttl")?;
    observed.observer.beat_seen_at = words.time("seen")?.map(ago);
    observed.observer.last_leader = Some(leader.clone());
    let position = Position {
        leader,
        beat: 5,
        ttl_ms: u64::try_from(ttl.as_millis()).map_err(|e| e.to_string())?,
        released: words.flag("released"),
        unattended: words.flag("unattended"),
        epoch: None,
        writable: true,
        lsn: words.value("lsn")?,
        replay_lsn: None,
        timeline: Some(TimelineId(1)),
        commit_at_us: None,
        wrote_at_us: words.time("wrote")?.map(|age| WALL_US - micros(age)),
        at_us: WALL_US,
        wal_rate_max: 0,
        primary_seen: None,
        link: None,
        failsafe: words.value::<String>("failsafe")?.map(|names| FailsafeTerms {
            members: items(&names).map(MemberName::from).collect(),
            majority: words.flag("majority"),
        }),
        consumers: None,
    };
    words.end()?;
    dcs(observed).position = Some(position);
    dcs(observed).position_revision = Revision(40);
    Ok(())
}

/// `pg2 standby 0/3000000 [tl=1] [nofailover] [priority=2] [reading] [sees=pg1], pg3 silent,
/// pg4 primary 0/1; asked 100ms`.
fn poll(text: &str) -> Result<Poll, String> {
    let (members, asked) = text.split_once(';').unwrap_or((text, "asked 100ms"));
    let mut answers = BTreeMap::new();
    for item in items(members) {
        let mut words = Words::of(item);
        let name = MemberName::from(words.next()?);
        let answer = match words.next()? {
            "silent" => PeerAnswer::Silent,
            role @ ("standby" | "primary") => PeerAnswer::Answered(Standing {
                in_recovery: role == "standby",
                lsn: lsn(words.next()?)?,
                replayed: Lsn(0),
                whole: !words.flag("reading"),
                timeline: words.value("tl")?.map(TimelineId),
                nofailover: words.flag("nofailover"),
                failover_priority: words.value("priority")?.unwrap_or(1),
                watchdog_failed: words.flag("watchdog_failed"),
                sees_primary: words.value::<String>("sees")?.map(MemberName::new),
            }),
            other => return Err(format!("unknown answer {other}")),
        };
        words.end()?;
        answers.insert(name, answer);
    }
    let asked = Words::of(asked).time("asked")?.ok_or("poll needs \"; asked TIME\"")?;
    Ok(Poll { asked_at: ago(asked), answers })
}
