//! Changes of slots, beside the loop: making a logical slot waits for transactions, moving one
//! reads WAL.

use super::Hands;
use crate::clock;
use crate::jobs::{self, SlotCopy};
use crate::postgres::{Error, Server, slot_is_void};
use node_agent_core::observed::{Cluster, JobKind, Observed};
use node_agent_core::postgres::Upstream;
use node_agent_core::slots::logical::LeaderSlots;
use node_agent_core::slots::{SlotChange, clashes};
use node_agent_wire::{MemberName, SlotName};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// The leader may take this long to list its slots.
const ASK_MAX: Duration = Duration::from_secs(2);

/// One batch of changes at a time, and one question to the leader.
#[derive(Default)]
pub struct SlotDesk {
    pending: Vec<SlotChange>,
    told_of: BTreeMap<SlotName, BTreeSet<MemberName>>,
    shared: Arc<Mutex<Shared>>,
}

#[derive(Default)]
struct Shared {
    busy: bool,
    asking: bool,
    /// What was said of slots that could not be changed, so that it is said once.
    errors: BTreeMap<SlotName, String>,
    answer: Option<LeaderSlots>,
}

impl SlotDesk {
    fn shared(&self) -> MutexGuard<'_, Shared> {
        locked(&self.shared)
    }

    /// What the leader answered since the last call.
    #[must_use]
    pub fn take_answer(&self) -> Option<LeaderSlots> {
        self.shared().answer.take()
    }

    /// Notes a change; [`Hands::begin_slot_changes`] begins with it.
    pub(super) fn note(&mut self, change: SlotChange) {
        self.pending.push(change);
    }
}

fn locked(shared: &Mutex<Shared>) -> MutexGuard<'_, Shared> {
    // Plain values: none is half written when a holder panics.
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Hands {
    /// Begins with the changes of this pass, unless those of an earlier one are still under way:
    /// then the next pass decides anew.
    pub(super) fn begin_slot_changes(&mut self) {
        let changes = std::mem::take(&mut self.slots.pending);
        if changes.is_empty() || std::mem::replace(&mut self.slots.shared().busy, true) {
            return;
        }
        let (shared, server) = (self.slots.shared.clone(), self.tools.server.clone());
        let wake = self.wake.clone();
        tokio::spawn(async move {
            let mut news = false;
            for change in &changes {
                let result = carry_out(&server, change).await;
                let moved =
                    matches!(change, SlotChange::Advance(..) | SlotChange::AdvanceLogical { .. });
                news |= result.is_ok() && !moved;
                remember(&shared, change.name(), result);
            }
            locked(&shared).busy = false;
            if news {
                wake.notify_one();
            }
        });
    }

    /// Says once which names two owners claim.
    pub(super) fn warn_of_clashes(&mut self, cluster: &Cluster) {
        let found = clashes(cluster);
        for (slot, names) in found
            .iter()
            .filter(|(slot, names)| self.slots.told_of.get(*slot).is_none_or(|told| told != *names))
        {
            let names: Vec<&str> = names.iter().map(MemberName::as_str).collect();
            tracing::error!(
                slot = %slot, members = names.join(", "),
                "several claim one slot name: only one of them gets the slot; rename the others"
            );
        }
        self.slots.told_of = found;
    }

    pub(super) fn ask_slots(&self, upstream: &Upstream) {
        let Upstream::Member { name, host, port } = upstream.clone() else { return };
        if std::mem::replace(&mut self.slots.shared().asking, true) {
            return;
        }
        let (shared, server) = (self.slots.shared.clone(), self.tools.server.clone());
        let wake = self.wake.clone();
        tokio::spawn(async move {
            let at = clock::boot();
            let answer = server.slots_of(&host, port, ASK_MAX).await.map_err(|e| e.to_string());
            let news = answer.is_ok();
            {
                let mut shared = locked(&shared);
                shared.answer = Some(LeaderSlots { of: name, at, answer });
                shared.asking = false;
            }
            if news {
                wake.notify_one();
            }
        });
    }

    pub(super) fn copy_slots(
        &mut self,
        observed: &Observed,
        from: &Upstream,
        slots: BTreeSet<SlotName>,
    ) {
        let Upstream::Member { host, port, .. } = from else { return };
        let upstream = observed.following.clone().unwrap_or(Upstream::Nobody);
        let settings = self.settings(observed);
        self.applied = Some(settings.clone());
        let plan = SlotCopy { leader: (host.clone(), *port), slots, upstream };
        let work = jobs::copy_slots(self.tools.clone(), settings, plan);
        self.jobs.begin(JobKind::CopySlots, work);
    }
}

async fn carry_out(server: &Server, change: &SlotChange) -> Result<(), Error> {
    match change {
        SlotChange::Create(name) => {
            tracing::info!(slot = %name, "creating the slot");
            server.create_slot(name).await
        }
        SlotChange::CreateLogical { name, database, plugin } => {
            tracing::info!(slot = %name, database, plugin, "creating the logical slot");
            server.create_logical_slot(name, database, plugin).await
        }
        SlotChange::Drop(name) => {
            tracing::info!(slot = %name, "dropping the slot");
            server.drop_slot(name).await
        }
        SlotChange::Advance(name, to) => server.advance_slot(name, *to).await,
        SlotChange::AdvanceLogical { name, database, to } => {
            let moved = server.advance_logical_slot(name, database, *to).await;
            if let Err(error) = &moved
                && slot_is_void(error)
            {
                tracing::warn!(slot = %name, %error, "dropping the slot, to copy it again");
                return server.drop_slot(name).await;
            }
            moved
        }
    }
}

fn remember(shared: &Mutex<Shared>, name: &SlotName, result: Result<(), Error>) {
    let errors = &mut locked(shared).errors;
    match result {
        Ok(()) => {
            errors.remove(name);
        }
        Err(error) => {
            let text = format!("{error}; {}", error.hint());
            if errors.get(name) != Some(&text) {
                tracing::warn!(slot = %name, error = %text, "the slot was not changed");
                errors.insert(name.clone(), text);
            }
        }
    }
}
