//! A decision as the lines of a scenario.

use node_agent_core::decision::{Act, Decision, Tend};
use node_agent_core::follower::name_of;
use node_agent_core::slots::SlotChange;
use node_agent_wire::federation::FederationRecord;
use node_agent_wire::status::SyncState;

/// `=> NUMBER name`, the reason, the effects and the wake-up, one a line.
pub fn decision(decision: &Decision) -> Vec<String> {
    let mut lines = vec![
        format!("=> {} {}", decision.rule.number(), decision.rule.name()),
        format!("   why: {}", decision.why),
    ];
    lines.extend(decision.act.iter().map(|a| format!("   act: {}", act(a))));
    lines.extend(decision.tend.iter().map(|t| format!("   tend: {}", tend(t))));
    let (after, reason) = (decision.wake.after, decision.wake.reason);
    lines.push(format!("   wake: {} ms, {reason}", after.as_millis()));
    lines
}

fn act(act: &Act) -> String {
    match act {
        Act::Acquire(winner) => format!("acquire ({})", winner.why()),
        Act::Release => "release".into(),
        Act::Promote(proof) => match proof.epoch() {
            Some(epoch) => format!("promote at epoch {epoch}"),
            None => "promote".into(),
        },
        Act::StartPrimary(_) => "start primary".into(),
        Act::Demote(mode) => format!("demote {}", mode.name()),
        Act::Initdb(_) => "initdb".into(),
        Act::Clone(source) => format!("clone {}", name_of(source)),
        Act::Reinit(reinit) => {
            let lost = match reinit.diverged {
                Some((timeline, fork)) => format!(", lost from {fork} on timeline {timeline}"),
                None => String::new(),
            };
            let asked = if reinit.asked { ", asked for" } else { "" };
            let leader = if reinit.from_leader { ", from the leader" } else { "" };
            format!("reinit from {}{lost}{asked}{leader}", name_of(&reinit.source))
        }
        Act::CloneLeaderless => "clone without a leader".into(),
        Act::Leave => "leave".into(),
        Act::Rewind { source, to, timeline, fork } => {
            let hosts: Vec<String> = to.hosts.iter().map(|(h, p)| format!("{h}:{p}")).collect();
            let kind = if to.standby { ", a standby" } else { "" };
            let from = format!("from {fork} on timeline {timeline}");
            format!("rewind to {} {from}, read from {}{kind}", name_of(source), hosts.join(", "))
        }
        Act::AcknowledgeFence(ack) => {
            format!("acknowledge {} on timeline {} by {}", ack.checkpoint, ack.timeline, ack.node)
        }
        Act::Restart => "restart".into(),
    }
}

fn record_line(record: &FederationRecord) -> String {
    let fence = match &record.fence {
        Some(fence) => format!(", fence for epoch {}: {}", fence.epoch, fence.reason),
        None => String::new(),
    };
    let streamed = if record.streamed { ", streamed" } else { "" };
    format!("epoch {} primary {}{fence}{streamed}", record.epoch, record.primary)
}

fn tend(tend: &Tend) -> String {
    match tend {
        Tend::ReplaceRecord { record, over } => {
            format!("record over revision {over}: {}", record_line(record))
        }
        Tend::FollowDatacenter { hosts, slot, cascade, under } => {
            let hosts: Vec<String> = hosts.iter().map(|(h, p)| format!("{h}:{p}")).collect();
            let cascade = if *cascade { ", a cascade," } else { "" };
            format!("standby_cluster of {}{cascade} by slot {slot} under {under}", hosts.join(", "))
        }
        Tend::StartStandby(source) => format!("start standby of {}", name_of(source)),
        Tend::Follow(source) => format!("follow {}", name_of(source)),
        Tend::AskPeers => "ask peers".into(),
        Tend::AskVotes { beat, of } => {
            let names: Vec<&str> = of.iter().map(|n| n.as_str()).collect();
            format!("ask votes against beat {beat} of {}", names.join(" "))
        }
        Tend::AskHistory(source) => format!("ask history of {}", name_of(source)),
        Tend::ReadWalEnd { from, timeline } => {
            format!("read the end of WAL from {from} on timeline {timeline}")
        }
        Tend::DropRequest(why) => format!("drop the request: {why}"),
        Tend::Slot(SlotChange::Create(name)) => format!("create slot {name}"),
        Tend::Slot(SlotChange::Drop(name)) => format!("drop slot {name}"),
        Tend::Slot(SlotChange::Advance(name, to)) => format!("advance slot {name} to {to}"),
        Tend::Slot(SlotChange::CreateLogical { name, database, plugin }) => {
            format!("create slot {name} in {database} with {plugin}")
        }
        Tend::Slot(SlotChange::AdvanceLogical { name, database, to }) => {
            format!("advance slot {name} in {database} to {to}")
        }
        Tend::CopySlots { from, slots } => {
            let names: Vec<&str> = slots.iter().map(|n| n.as_str()).collect();
            format!("copy slots {} from {}", names.join(" "), name_of(from))
        }
        Tend::AskSlots(source) => format!("ask slots of {}", name_of(source)),
        Tend::WriteSync { sync, over } => format!("sync over {over}: {}", sync_line(sync)),
        Tend::DeleteSync(over) => format!("delete sync at {over}"),
        Tend::SetSyncNames(names) => format!("sync names '{names}'"),
        Tend::ClearFailover { over, why } => format!("clear failover at {over}: {why}"),
        Tend::PublishLeader => "publish leader".into(),
        Tend::DropScheduledRestart(why) => format!("drop the planned restart: {why}"),
        Tend::EndUnattended => "no longer unattended".into(),
        Tend::ApplySettings => "apply settings".into(),
    }
}

fn sync_line(sync: &SyncState) -> String {
    let standbys: Vec<&str> = sync.sync_standby.iter().map(|n| n.as_str()).collect();
    let quorum = match sync.quorum {
        0 => String::new(),
        votes => format!(" quorum {votes}"),
    };
    let leader = sync.leader.clone().unwrap_or_default();
    format!("leader {leader} standbys [{}]{quorum}", standbys.join(" "))
}
