//! What the loop knows when it begins.

use crate::apply::member_name;
use crate::clock;
use crate::observe::{Memory, WalRate};
use node_agent_core::observed::Me;
use node_agent_core::slots::SlotMemory;
use node_agent_core::starts::Starts;
use node_agent_core::time::Boot;
use node_agent_wire::config::LocalConfig;
use node_agent_wire::dynamic::Dynamic;
use node_agent_wire::member::{barred, priority, replicatefrom};
use node_agent_wire::yaml::truth;
use std::collections::BTreeMap;
use std::sync::Arc;

/// This node, from its configuration file.
#[must_use]
pub fn me(config: &LocalConfig) -> Me {
    Me {
        name: member_name(config),
        nofailover: barred(&config.tags, "nofailover", "failover_priority"),
        failover_priority: priority(&config.tags, "failover_priority"),
        may_bootstrap: !config.federation.standby,
        nostream: config.tags.get("nostream").and_then(truth).unwrap_or(false),
        replicatefrom: replicatefrom(&config.tags),
    }
}

/// The beginning: nothing has been seen yet.
#[must_use]
pub fn remember(config: &LocalConfig, dynamic: Dynamic) -> Memory {
    Memory {
        started_at: clock::boot(),
        me: me(config),
        config: dynamic,
        raw: Arc::default(),
        last_leader: None,
        poll: None,
        last_record: None,
        unknown_since: Boot(u64::MAX),
        tried: false,
        members: BTreeMap::new(),
        sync_names: None,
        start_failures: 0,
        starts: Starts::default(),
        start_error: None,
        stopped_by_us: false,
        stand_back_until: None,
        sync_names_set_at: None,
        sync_unsure: true,
        guest: None,
        stalls: Arc::default(),
        request: None,
        restart_timeout: None,
        planned: None,
        release_asked_at: None,
        ending: false,
        dynamic: None,
        dynamic_cached: None,
        slots: SlotMemory::default(),
        own_history: None,
        beginnings: None,
        vaults_swept_at: None,
        work_failed: None,
        data_generation: 0,
        found_running: true,
        dcs_last_seen_s: 0,
        wal: WalRate::default(),
    }
}
