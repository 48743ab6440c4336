//! One voter: look, decide, write, count.

use super::{Shared, Told};
use crate::clock;
use crate::dcs::etcd::{Etcd, Login};
use crate::dcs::{Compare, Dcs, DcsError, Write};
use node_agent_core::grant::{Voter as Ballot, claimable_in, told_wait};
use node_agent_core::grants::{Deed, Keeper, Seat, Want, ballot, claim_is_over, deed};
use node_agent_core::lease::loop_alive;
use node_agent_core::time::Boot;
use node_agent_wire::federation::FederationRecord;
use node_agent_wire::grant::{Marker, Place, Voter};
use node_agent_wire::keys::{ClusterPath, Leaf};
use node_agent_wire::{DcName, Epoch, Revision};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// Between two looks at a voter that somebody else holds, or that did not answer.
const LOOK_PAUSE: Duration = Duration::from_millis(500);
/// The same while a majority is missing.
const HURRY: Duration = Duration::from_millis(100);
/// Somebody else has written, or the lease was gone: it is looked again.
const AGAIN: Duration = Duration::from_millis(5);
/// Nothing is to be done.
const REST: Duration = Duration::from_secs(3600);
/// The shortest that a call is given.
const CALL_MIN: Duration = Duration::from_millis(500);

/// The voter by the last look.
#[derive(Clone, Debug, Default)]
struct Look {
    marker: Option<Marker>,
    at: Revision,
    held: bool,
}

/// What the task works with.
struct Desk {
    voter: Voter,
    dcs: Etcd,
    path: ClusterPath,
    shared: Arc<Shared>,
    look: Option<Look>,
    /// When the marker's present revision was first seen, and which it is.
    quiet_since: Boot,
    shown_at: Option<Revision>,
    lease: i64,
    /// What others were told to wait, and until when that may count.
    told_wait: Option<(Duration, Boot)>,
    silent: bool,
}

/// Attends to a voter for ever.
pub(super) async fn attend(
    voter: Voter,
    place: Place,
    shared: Arc<Shared>,
    mut told: watch::Receiver<Told>,
) {
    let dc = told.borrow().dc.clone();
    let dcs = if voter == Voter::Datacenter(dc) {
        Etcd::new(&shared.own.endpoints, shared.own.login.clone())
    } else {
        Etcd::new(&place.etcd, Login::default())
    };
    let mut desk = Desk {
        voter,
        dcs,
        path: place.path,
        shared,
        look: None,
        quiet_since: clock::boot(),
        shown_at: None,
        lease: 0,
        told_wait: None,
        silent: false,
    };
    loop {
        let now = told.borrow_and_update().clone();
        let pause = desk.turn(&now).await;
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            changed = told.changed() => if changed.is_err() { return },
        }
    }
}

impl Desk {
    fn call(told: &Told) -> Duration {
        (told.terms.holder_ttl / 4).max(CALL_MIN)
    }

    /// One turn; how long to wait before the next one.
    async fn turn(&mut self, told: &Told) -> Duration {
        if told.want == Want::Nothing {
            return REST;
        }
        let alive = self.shared.limit.alive_at();
        if !loop_alive(alive, clock::boot(), told.terms.holder_ttl) {
            tracing::error!(voter = %self.voter, "the agent's loop is stuck: no grant is renewed");
            return LOOK_PAUSE;
        }
        let begun = clock::boot();
        match self.work(told).await {
            Ok(pause) => {
                if std::mem::take(&mut self.silent) {
                    tracing::info!(voter = %self.voter, "the voter answers again");
                }
                pause
            }
            Err(error) => {
                // What was written may have arrived: the next turn looks first.
                let before = self.look.take();
                if !std::mem::replace(&mut self.silent, true) {
                    tracing::warn!(voter = %self.voter, %error, "the voter does not answer");
                }
                let seat = self.seat(before.as_ref(), told, Some(error.to_string()));
                self.shared.note(&self.voter, told, seat, None);
                LOOK_PAUSE.saturating_sub(clock::boot().since(begun)).max(HURRY)
            }
        }
    }

    async fn work(&mut self, told: &Told) -> Result<Duration, DcsError> {
        let known = self.look.clone().filter(|look| renews(told, look));
        let look = match known {
            Some(look) => look,
            None => self.look(told).await?,
        };
        let now = clock::boot();
        let seen = ballot(look.marker.as_ref(), look.held, self.quiet_since);
        let keeper = Keeper {
            dc: &told.dc,
            node: &self.shared.node,
            terms: &told.terms,
            wait: told_wait(&told.terms, self.told_wait, now),
            majority_in_sight: self.majority_in_sight(told, &seen, now),
        };
        match deed(&told.want, keeper, look.marker.as_ref(), &seen, now) {
            Ok(Deed::Nothing) | Err(_) => {
                let seat = self.seat(Some(&look), told, None);
                self.shared.note(&self.voter, told, seat, None);
                Ok(match told.want {
                    Want::Hold { .. } if self.shared.table().until.is_none() => HURRY,
                    Want::Nothing
                    | Want::Watch { .. }
                    | Want::Release { .. }
                    | Want::Hold { .. } => LOOK_PAUSE,
                })
            }
            Ok(Deed::Hold(marker)) => self.hold(told, &look, marker).await,
            Ok(Deed::Free(marker)) => self.free(told, &look, marker).await,
            Ok(Deed::TurnBack(before)) => match &look.marker {
                Some(claimed) if self.over(told, claimed).await? => {
                    self.free(told, &look, before).await
                }
                Some(_) | None => Ok(LOOK_PAUSE),
            },
        }
    }

    /// Reads the voter.
    async fn look(&mut self, told: &Told) -> Result<Look, DcsError> {
        let takes = matches!(told.want, Want::Hold { .. }) && self.lease == 0;
        // Both keys begin with the name of the first.
        let prefix = self.path.key(Leaf::Grant);
        let read = self.dcs.read(&prefix, Self::call(told));
        let found = if takes {
            // The lease for the grant is asked for meanwhile.
            let lease = self.dcs.grant(whole_seconds(told), Self::call(told));
            let (found, lease) = tokio::join!(read, lease);
            self.lease = lease.unwrap_or(0);
            found?
        } else {
            read.await?
        };
        let key = self.path.key(Leaf::GrantLast);
        let marker = match found.keys.get(&key).map(|raw| serde_json::from_slice(&raw.value)) {
            None => None,
            Some(Ok(marker)) => Some(marker),
            Some(Err(error)) => {
                let why = format!("the key {key} can't be read: {error}");
                return Err(DcsError::Refused { what: "looking at the grant", why });
            }
        };
        let (at, held) =
            (found.revision_of(&key), found.keys.contains_key(&self.path.key(Leaf::Grant)));
        if self.shown_at != Some(at) {
            (self.quiet_since, self.shown_at) = (clock::boot(), Some(at));
            if let Some(marker) = &marker {
                self.shared.saw(marker);
            }
        }
        if let Some(marker) = marker.as_ref().filter(|marker| marker.holder == told.dc)
            && self.told_wait.is_none()
        {
            // Before this agent was started: a guard may still count with it.
            let wait = Duration::from_millis(marker.wait_ms);
            self.told_wait = Some((wait, clock::boot() + wait));
        }
        let look = Look { marker, at, held };
        self.look = Some(look.clone());
        Ok(look)
    }

    fn seat(&self, look: Option<&Look>, told: &Told, silent: Option<String>) -> Seat {
        let marker = look.and_then(|look| look.marker.as_ref());
        let held = look.is_some_and(|look| look.held);
        let ours = look.is_some_and(|look| renews(told, look)) && silent.is_none();
        Seat { ballot: ballot(marker, held, self.quiet_since), ours, silent }
    }

    /// Whether a majority of the voters is this datacenter's, or free for it now.
    fn majority_in_sight(&self, told: &Told, seen: &Ballot, now: Boot) -> bool {
        let Want::Hold { epoch, .. } = &told.want else { return false };
        let table = self.shared.table();
        let others = table
            .seats
            .iter()
            .filter(|(voter, seat)| **voter != self.voter && seat.silent.is_none())
            .map(|(_, seat)| &seat.ballot);
        let all = others.chain([seen]);
        let wait = claimable_in(told.voters.len(), all, &told.dc, *epoch, now, &told.terms);
        wait == Some(Duration::ZERO)
    }

    async fn hold(
        &mut self,
        told: &Told,
        look: &Look,
        mut marker: Marker,
    ) -> Result<Duration, DcsError> {
        marker.position.clone_from(&self.shared.table().position);
        if self.lease == 0 {
            self.lease = self.dcs.grant(whole_seconds(told), Self::call(told)).await?;
        }
        let (key, last) = (self.path.key(Leaf::Grant), self.path.key(Leaf::GrantLast));
        let mut conditions = vec![Compare::AtRevision(last.clone(), look.at)];
        if !mine(&told.dc, look) {
            conditions.push(Compare::Absent(key.clone()));
        }
        // A plain struct of numbers and text always has a JSON form.
        let value = serde_json::to_vec(&marker).unwrap_or_default();
        let grant = Write::Put { key, value: told.dc.as_str().into(), lease: self.lease };
        let writes = [grant, Write::put(last, value)];
        let wait = Duration::from_millis(marker.wait_ms);
        let sent = clock::boot();
        let kept = self.dcs.keep_alive(self.lease, Self::call(told));
        let (kept, written) =
            tokio::join!(kept, self.dcs.write(&conditions, &writes, Self::call(told)));
        if kept.is_err() {
            // The next turn hangs the grant on a new one.
            self.lease = 0;
        }
        match written {
            Ok(Some(at)) => {
                self.told_wait = Some((wait, sent + wait));
                let epoch = marker.epoch;
                Ok(self.renewed(told, Look { marker: Some(marker), at, held: true }, (epoch, sent)))
            }
            // Somebody has written meanwhile.
            Ok(None) => {
                self.look = None;
                Ok(AGAIN)
            }
            Err(DcsError::LeaseGone(_)) => {
                self.lease = 0;
                Ok(AGAIN)
            }
            Err(error) => Err(error),
        }
    }

    fn renewed(&mut self, told: &Told, look: Look, sent: (Epoch, Boot)) -> Duration {
        self.quiet_since = clock::boot();
        self.shown_at = Some(look.at);
        let seat = self.seat(Some(&look), told, None);
        self.look = Some(look);
        self.shared.note(&self.voter, told, seat, Some(sent));
        let next = sent.1 + told.terms.period();
        if self.lease == 0 { HURRY } else { clock::boot().until(next) }
    }

    /// The grant is nobody's from now on.
    async fn free(
        &mut self,
        told: &Told,
        look: &Look,
        marker: Option<Marker>,
    ) -> Result<Duration, DcsError> {
        self.shared.forget(&self.voter, told);
        let (key, last) = (self.path.key(Leaf::Grant), self.path.key(Leaf::GrantLast));
        let conditions = [Compare::AtRevision(last.clone(), look.at)];
        let after = match &marker {
            Some(marker) => Write::put(last, serde_json::to_vec(marker).unwrap_or_default()),
            None => Write::Delete(last),
        };
        let writes = [Write::Delete(key), after];
        let freed = self.dcs.write(&conditions, &writes, Self::call(told)).await?.is_some();
        self.look = None;
        if freed {
            tracing::info!(voter = %self.voter, "gave the site grant back");
        }
        Ok(if freed { LOOK_PAUSE } else { AGAIN })
    }

    /// Reads the own record anew: a mirror may lag behind a commit.
    async fn over(&self, told: &Told, claimed: &Marker) -> Result<bool, DcsError> {
        let Some(place) = told.voters.get(&Voter::Datacenter(told.dc.clone())) else {
            return Ok(false);
        };
        let own = Etcd::new(&self.shared.own.endpoints, self.shared.own.login.clone());
        let found = own.get(&place.path.key(Leaf::Federation), Self::call(told)).await?;
        let record: Option<FederationRecord> =
            found.and_then(|raw| serde_json::from_slice(&raw.value).ok());
        Ok(record.is_some_and(|record| claim_is_over(&record, claimed)))
    }
}

fn mine(dc: &DcName, look: &Look) -> bool {
    look.marker.as_ref().is_some_and(|marker| marker.holder == *dc)
}

/// Whether the grant is this node's for the epoch that is wanted: a renewal needs no look.
fn renews(told: &Told, look: &Look) -> bool {
    let Want::Hold { epoch, .. } = &told.want else { return false };
    let marker = look.marker.as_ref();
    look.held && marker.is_some_and(|m| m.holder == told.dc && m.epoch == *epoch && !m.released)
}

/// The lease of the grant at the voter: etcd counts in seconds.
fn whole_seconds(told: &Told) -> Duration {
    Duration::from_secs(told.terms.voter_ttl().as_millis().div_ceil(1000).try_into().unwrap_or(60))
}
