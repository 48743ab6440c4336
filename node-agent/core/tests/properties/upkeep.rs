//! Slots, the watchdog, and standbys that leave for a restart.

use super::*;
use node_agent_core::postgres::SlotFact;
use node_agent_core::slots::SlotChange;

/// The DCS is out of reach, or has no leader: failsafe mode may carry one.
fn unled(o: &Observed) -> bool {
    dcs(o).is_none_or(|cluster| cluster.leader.is_none())
}

pub fn check_slots(o: &Observed, decision: &Decision) {
    for tend in &decision.tend {
        let Tend::Slot(change) = tend else { continue };
        let running = running(o).expect("slots change on a running server only");
        match change {
            SlotChange::Create(name) => {
                assert!(running.slots.iter().all(|s| s.name != *name) && name.as_str() != "pg1");
            }
            SlotChange::Drop(name) => {
                let free = |s: &SlotFact| !s.active && (!s.failover || s.left_over);
                assert!(running.slots.iter().any(|s| s.name == *name && free(s)));
            }
            SlotChange::CreateLogical { name, .. } => {
                assert!(!running.in_recovery, "a standby copies");
                assert!(running.slots.iter().all(|s| s.name != *name));
            }
            SlotChange::AdvanceLogical { name, to, .. } => {
                assert!(running.in_recovery, "on a primary");
                assert!(running.replay_lsn.is_some_and(|at| *to <= at), "beyond replay");
                let told = o.failsafe.told.get(name).filter(|_| unled(o));
                let told = told.or_else(|| dcs(o)?.status.slots.get(name));
                assert!(told.is_some_and(|at| at >= to), "beyond its consumer");
            }
            SlotChange::Advance(name, to) => {
                let end = if running.in_recovery { running.replay_lsn } else { Some(running.lsn) };
                assert!(end.is_some_and(|at| *to <= at), "beyond what is there");
                let at = running.slots.iter().filter(|s| s.name == *name && !s.active);
                assert!(at.clone().any(|s| s.physical && s.restart_lsn.is_none_or(|r| r < *to)));
                let promised = o.failsafe.promise.as_ref().is_some_and(|p| o.now < p.until);
                // A leader whose key is gone for the moment goes by what it said itself.
                let leads = dcs(o).is_some_and(|cluster| leads(o, cluster));
                let told = !unled(o) || promised || leads;
                assert!(told || !running.in_recovery, "nobody said so");
            }
        }
    }
}

/// Nobody leads without the watchdog where it is required, nor keeps others from leading.
pub fn check_watchdog(o: &Observed, decision: &Decision) {
    if o.watchdog_failed.is_none() || o.config.pause || dcs(o).is_none() {
        return;
    }
    let begins = matches!(
        decision.act,
        Some(Act::Acquire(_) | Act::Promote(_) | Act::StartPrimary(_) | Act::Initdb(_))
    );
    assert!(!begins, "leads without its watchdog");
    for tend in &decision.tend {
        let races = matches!(tend, Tend::AskVotes { .. })
            || (*tend == Tend::AskPeers && !writes(&o.postgres));
        assert!(!races, "{tend:?} without a right to lead");
    }
}

/// Nobody waits for a standby that restarts: the leader was asked to leave it out, and has done so
/// or has not looked for two `loop_wait`.
pub fn check_release(o: &Observed, decision: &Decision) {
    let may_write = o.postgres.may_write();
    if o.ending && dcs(o).is_some() && !may_write && !o.holds_lease() {
        assert!(decision.act.is_none(), "an agent that ends begins nothing");
    }
    let copies = decision.tend.iter().any(|t| matches!(t, Tend::CopySlots { .. }));
    let Some(cluster) = dcs(o).filter(|_| copies || decision.act == Some(Act::Restart)) else {
        return;
    };
    let sync = &cluster.sync.value;
    let led = cluster.leader.is_some() && cluster.leader == sync.leader;
    let standby = running(o).is_some_and(|r| r.in_recovery) && !leads(o, cluster);
    if led && standby && sync.sync_standby.contains(&o.me.name) && sync.leader != Some("pg1".into())
    {
        let asked = o.release_asked_at.expect("the leader was asked");
        assert!(o.now.since(asked) >= o.config.timing.loop_wait * 2, "it had no time");
    }
}
