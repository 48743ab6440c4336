//! Effects that may be repeated.

use super::{Hands, note, told};
use crate::clock;
use crate::dcs::{Compare, Dcs, Write};
use crate::jobs;
use crate::observe::Memory;
use crate::publish;
use node_agent_core::decision::Tend;
use node_agent_core::observed::{Cluster, JobKind, Observed};
use node_agent_core::postgres::Postgres;
use node_agent_wire::dynamic::{SynchronousMode, as_standby_of};
use node_agent_wire::failsafe::VoteRequest;
use node_agent_wire::keys::Leaf;
use node_agent_wire::{MemberName, Revision};
use std::collections::BTreeSet;
use std::time::Duration;

/// Commits wait for new names once the checkpointer has read them. It does so within milliseconds
/// unless it is in the middle of an fsync; this long after the reload, and seen idle, it has.
const SYNC_NAMES_SETTLE: Duration = Duration::from_secs(1);

impl Hands {
    pub(super) async fn tend(
        &mut self,
        memory: &mut Memory,
        observed: &Observed,
        cluster: &Cluster,
        tend: Tend,
    ) {
        let server = self.tools.server.clone();
        match tend {
            Tend::ReplaceRecord { record, over } => {
                self.replace_record(observed, &record, over).await;
            }
            Tend::FollowDatacenter { hosts, slot, cascade, under } => {
                let next = |config: &_| as_standby_of(config, &hosts, &slot, cascade);
                self.follow_datacenter(memory, observed, &next, under).await;
            }
            Tend::StartStandby(upstream) => {
                let settings = self.settings(observed);
                self.applied = Some(settings.clone());
                memory.starts.begun();
                let work = jobs::start_standby(self.tools.clone(), settings, upstream);
                self.jobs.begin(JobKind::Start, work);
            }
            Tend::Follow(upstream) => {
                let settings = self.settings(observed);
                told(server.follow(&upstream, &settings).await, "following another source");
            }
            Tend::AskPeers => self.ask_peers(memory, observed).await,
            Tend::AskVotes { beat, of } => {
                self.ask_votes(memory, observed, cluster, beat, &of).await;
            }
            Tend::AskHistory(upstream) => self.ask_history(upstream),
            Tend::ReadWalEnd { from, timeline } => self.read_wal_end(from, timeline),
            Tend::DropRequest(why) => {
                tracing::info!(why, "the request for a new copy is forgotten");
                memory.request = None;
            }
            Tend::Slot(change) => self.slots.note(change),
            Tend::CopySlots { from, slots } => self.copy_slots(observed, &from, slots),
            Tend::AskSlots(upstream) => self.ask_slots(&upstream),
            Tend::WriteSync { sync, over } => {
                let value = Some(sync.to_json());
                let known = self.write_at(observed, Leaf::Sync, over, value, "/sync").await;
                memory.sync_unsure = !known;
            }
            Tend::DeleteSync(over) => {
                let known = self.write_at(observed, Leaf::Sync, over, None, "/sync").await;
                memory.sync_unsure = !known;
            }
            Tend::SetSyncNames(names) => self.set_names(memory, observed, &names).await,
            Tend::ClearFailover { over, why } => {
                tracing::info!(why, "the switchover request is cleared");
                self.write_at(observed, Leaf::Failover, over, Some("{}".into()), "/failover").await;
            }
            Tend::DropScheduledRestart(why) => {
                tracing::info!(why, "the planned restart is over");
                memory.planned = None;
            }
            Tend::EndUnattended => self.end_unattended(memory, observed, cluster).await,
            Tend::PublishLeader => self.publish_leader(memory, observed, cluster).await,
            Tend::ApplySettings => {
                let settings = self.settings(observed);
                if self.applied.as_ref() != Some(&settings) {
                    told(server.apply_settings(&settings).await, "applying settings");
                    self.applied = Some(settings);
                }
            }
        }
    }

    async fn ask_peers(&self, memory: &mut Memory, observed: &Observed) {
        // Members that have lost their key are asked too, where they answered last; those of the
        // read that this pass is made from are in the memory already.
        let members = memory.members.values().map(|(member, _)| member);
        let poll = self.peers.ask(members, &observed.me.name).await;
        memory.poll = Some(poll);
        self.wake.notify_one();
    }

    async fn ask_votes(
        &self,
        memory: &Memory,
        observed: &Observed,
        cluster: &Cluster,
        beat: Revision,
        of: &BTreeSet<MemberName>,
    ) {
        let ttl_ms = cluster.position.as_ref().map_or(0, |position| position.ttl_ms);
        let request = VoteRequest { candidate: observed.me.name.clone(), beat, ttl_ms };
        // Members that have lost their key are asked where they were seen last.
        let known = memory.members.iter().map(|(name, (m, _))| (name, &m.data.api_url));
        let urls = cluster.failsafe.iter().chain(known);
        let urls = urls.map(|(name, url)| (name.clone(), url.clone())).collect();
        let votes = crate::failsafe::ask_votes(&self.messenger, &request, of, &urls).await;
        self.tools.failsafe.voted(votes);
        self.wake.notify_one();
    }

    /// Without synchronous mode nobody is the user's own value.
    pub(super) async fn set_names(&self, memory: &mut Memory, observed: &Observed, names: &str) {
        let off = observed.config.effective_sync_mode() == SynchronousMode::Off;
        let users = off && names.is_empty();
        self.set_sync_names(memory, (!users).then_some(names)).await;
    }

    /// Sets the names; and later, when they are sure to be in force everywhere, notes the end of
    /// WAL from which on commits have waited for them.
    /// `None`: synchronous mode is off, the user's own value is restored.
    async fn set_sync_names(&self, memory: &mut Memory, names: Option<&str>) {
        let server = &self.tools.server;
        let since = memory.sync_names.as_ref().filter(|(known, _)| Some(known.as_str()) == names);
        let Some((_, since)) = since else {
            // Whatever happens now: the old position says nothing about these names.
            memory.sync_names_set_at = None;
            memory.sync_names = None;
            tracing::info!(names = names.unwrap_or("(the user's)"), "synchronous_standby_names");
            match server.set_sync_names(names).await {
                Ok(()) => memory.sync_names = names.map(|n| (n.to_owned(), clock::boot())),
                Err(error) => {
                    let hint = error.hint();
                    tracing::warn!(%error, hint, "synchronous_standby_names were not set");
                }
            }
            return;
        };
        if clock::boot().since(*since) < SYNC_NAMES_SETTLE {
            return;
        }
        match server.checkpointer_attends().await {
            Ok(true) => {}
            Ok(false) => return,
            Err(error) => {
                tracing::warn!(%error, hint = error.hint(), "asking for the checkpointer's state");
                return;
            }
        }
        let after = server.observe(clock::boot(), Duration::from_secs(1)).await;
        memory.sync_names_set_at = match after {
            Postgres::Running(running) => Some(running.lsn),
            Postgres::NoData
            | Postgres::Unreadable(_)
            | Postgres::Stopped(_)
            | Postgres::Starting { .. }
            | Postgres::Unresponsive { .. } => None,
        };
    }

    /// Whether the outcome is known: written, or refused because something else was.
    async fn write_at(
        &self,
        observed: &Observed,
        leaf: Leaf<'_>,
        over: Revision,
        value: Option<String>,
        what: &'static str,
    ) -> bool {
        let key = self.path.key(leaf);
        let write = match value {
            Some(value) => Write::put(key.clone(), value),
            None => Write::Delete(key.clone()),
        };
        let conditions =
            [Compare::AtRevision(key, over), publish::as_leader(&self.path, &observed.me.name)];
        match self.dcs.write(&conditions, &[write], Self::deadline(observed)).await {
            Ok(Some(_)) => self.wake.notify_one(),
            Ok(None) => {
                tracing::info!(what, "it changed meanwhile; looking again");
                self.wake.notify_one();
            }
            Err(error) => {
                // The next pass tries again in its time.
                tracing::warn!(what, %error, "it is not known to be written");
                return false;
            }
        }
        true
    }

    /// The mark of maintenance mode becomes a release, if it still is what was read.
    async fn end_unattended(&self, memory: &Memory, observed: &Observed, cluster: &Cluster) {
        let key = self.path.key(Leaf::Position);
        let (Some(position), Some(raw)) = (&cluster.position, memory.raw.keys.get(&key)) else {
            return;
        };
        let mut position = position.clone();
        (position.released, position.unattended, position.writable) = (true, false, false);
        let Ok(value) = serde_json::to_string(&position) else { return };
        let conditions = [
            Compare::Absent(self.path.key(Leaf::Leader)),
            Compare::AtRevision(key.clone(), raw.revision),
        ];
        let write = [Write::put(key, value)];
        let written = self.dcs.write(&conditions, &write, Self::deadline(observed)).await;
        note(written.map(|_| ()), "telling that this node does not write any more");
    }

    async fn publish_leader(&self, memory: &Memory, observed: &Observed, cluster: &Cluster) {
        let (path, raw) = (&self.path, &memory.raw);
        let config = memory.dynamic.as_ref().unwrap_or(&self.config.bootstrap.dcs);
        let mut writes = publish::leader_writes(path, observed, cluster, config);
        if let Some(own) = publish::stale_history(observed, cluster) {
            let file = self.tools.server.history_file(own.timeline);
            writes.push(publish::history(path, observed, own, raw, file.as_ref()));
        }
        if writes.is_empty() {
            return;
        }
        let mine = [publish::as_leader(&self.path, &observed.me.name)];
        let written = self.dcs.write(&mine, &writes, Self::deadline(observed)).await;
        note(written.map(|_| ()), "publishing the leader's state");
    }
}
