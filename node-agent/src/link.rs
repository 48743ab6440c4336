//! The other datacenters' records, read by every agent on its own (I7): a former primary that
//! returns must find out that its epoch is over without anybody's help.

use crate::clock;
use crate::dcs::etcd::{Etcd, Login};
use crate::dcs::{Dcs, DcsError, cluster};
use node_agent_core::abroad::Abroad;
use node_agent_core::time::{Boot, Fact};
use node_agent_wire::dynamic::Dynamic;
use node_agent_wire::federation::{DcEntry, FederationRecord};
use node_agent_wire::keys::{ClusterPath, Leaf};
use node_agent_wire::member::Member;
use node_agent_wire::position::{Position, PrimarySeen};
use node_agent_wire::{DcName, Epoch};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

/// How long one look at another datacenter may take.
const LOOK_MAX: Duration = Duration::from_millis(1000);

/// What was seen of one other datacenter.
#[derive(Clone, Debug)]
pub struct Seen {
    /// Its record.
    pub record: Fact<FederationRecord>,
    /// Its leader's position, with our wall clock at the read.
    pub position: Option<(Position, i64)>,
    /// What else was there.
    pub abroad: Abroad,
}

/// One look that got an answer.
struct Look {
    record: Option<FederationRecord>,
    abroad: Abroad,
}

type Table = Arc<Mutex<BTreeMap<DcName, Seen>>>;

/// The looks at the other datacenters, one task each.
pub struct Links {
    seen: Table,
    tasks: BTreeMap<DcName, (DcEntry, JoinHandle<()>)>,
    wake: Arc<Notify>,
    own: Arc<Mutex<(Epoch, DcName)>>,
}

impl Links {
    /// None yet; `wake` is notified when a record changes.
    #[must_use]
    pub fn new(wake: Arc<Notify>) -> Self {
        Self { seen: Table::default(), tasks: BTreeMap::new(), wake, own: Arc::default() }
    }

    /// Brings the tasks in line with the record: one for each other datacenter.
    pub fn align(&mut self, record: Option<&FederationRecord>, period: Duration) {
        let Some(record) = record else {
            self.stop_where(|_| true);
            return;
        };
        *self.own.lock().unwrap_or_else(PoisonError::into_inner) =
            (record.epoch, record.primary.clone());
        let wanted: BTreeMap<&DcName, &DcEntry> =
            record.members.iter().filter(|(dc, _)| **dc != record.dc).collect();
        let gone: Vec<DcName> = self
            .tasks
            .iter()
            .filter(|(dc, (entry, _))| {
                wanted.get(dc).is_none_or(|w| {
                    (&w.etcd, &w.scope, &w.namespace)
                        != (&entry.etcd, &entry.scope, &entry.namespace)
                })
            })
            .map(|(dc, _)| dc.clone())
            .collect();
        self.stop_where(|dc| gone.contains(dc));
        for (dc, entry) in wanted {
            if !self.tasks.contains_key(dc) {
                self.begin(dc.clone(), entry.clone(), period);
            }
        }
    }

    fn begin(&mut self, dc: DcName, entry: DcEntry, period: Duration) {
        let unknown = Seen {
            record: Fact::Unknown { since: clock::boot(), tried: false },
            position: None,
            abroad: Abroad::default(),
        };
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).insert(dc.clone(), unknown);
        let task = tokio::spawn(look_on(
            dc.clone(),
            entry.clone(),
            period,
            self.seen.clone(),
            self.own.clone(),
            self.wake.clone(),
        ));
        self.tasks.insert(dc, (entry, task));
    }

    fn stop_where(&mut self, stop: impl Fn(&DcName) -> bool) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        self.tasks.retain(|dc, (_, task)| {
            let keep = !stop(dc);
            if !keep {
                task.abort();
                seen.remove(dc);
            }
            keep
        });
    }

    /// The records as they are known now.
    #[must_use]
    pub fn records(&self) -> BTreeMap<DcName, Fact<FederationRecord>> {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.iter().map(|(dc, s)| (dc.clone(), s.record.clone())).collect()
    }

    /// What else was seen of each, at the last look that got an answer.
    #[must_use]
    pub fn abroad(&self) -> BTreeMap<DcName, Abroad> {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.iter().map(|(dc, s)| (dc.clone(), s.abroad.clone())).collect()
    }

    /// The last look at the primary datacenter's position, for the loss estimate.
    #[must_use]
    pub fn primary_seen(&self, primary: &DcName) -> Option<PrimarySeen> {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let (position, seen_at_us) = seen.get(primary)?.position.as_ref()?;
        Some(PrimarySeen {
            dc: primary.clone(),
            epoch: position.epoch.unwrap_or_default(),
            lsn: position.lsn?,
            timeline: position.timeline?,
            at_us: position.at_us,
            seen_at_us: *seen_at_us,
            wal_rate_max: position.wal_rate_max,
            consumers: position.consumers.clone(),
        })
    }
}

async fn look_on(
    dc: DcName,
    entry: DcEntry,
    period: Duration,
    table: Table,
    own: Arc<Mutex<(Epoch, DcName)>>,
    wake: Arc<Notify>,
) {
    let dcs = Etcd::new(&entry.etcd, Login::default());
    let path = ClusterPath::new(&entry.namespace, &entry.scope);
    loop {
        let begun = clock::boot();
        let look = look(&dcs, &path).await;
        let known = own.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let changed = {
            let mut table = table.lock().unwrap_or_else(PoisonError::into_inner);
            match table.get_mut(&dc) {
                Some(seen) => note(seen, look, begun, &known),
                None => return,
            }
        };
        if changed {
            wake.notify_one();
        }
        tokio::time::sleep(period).await;
    }
}

async fn look(dcs: &Etcd, path: &ClusterPath) -> Result<Look, DcsError> {
    let raw = dcs.read(path.prefix(), LOOK_MAX).await?;
    let record = raw.keys.get(&path.key(Leaf::Federation));
    let record = record.and_then(|key| serde_json::from_slice(&key.value).ok());
    let cluster = cluster::read(path, &raw, &Dynamic::default());
    let mut members: Vec<&Member> = cluster.members.values().collect();
    members.sort_by_key(|member| Some(&member.name) != cluster.leader.as_ref());
    let hosts = members.into_iter().filter_map(Member::postgres_address).collect();
    let leader = cluster.leader_member().and_then(Member::postgres_address);
    let (slots, position) = (cluster.status.slots, cluster.position);
    Ok(Look { record, abroad: Abroad { hosts, leader, slots, position } })
}

/// Takes a look into the table; whether the record's fact changed. A later epoch, or another claim
/// on this one, that was seen once stays known while its datacenter is out of reach: epochs never
/// go back.
fn note(seen: &mut Seen, look: Result<Look, DcsError>, begun: Boot, own: &(Epoch, DcName)) -> bool {
    match look {
        Ok(Look { record: Some(record), abroad }) => {
            let changed = seen.record.known() != Some(&record);
            seen.record = Fact::Known { value: record, at: begun };
            if let Some(position) = abroad.position.clone() {
                seen.position = Some((position, clock::wall_us()));
            }
            seen.abroad = abroad;
            changed
        }
        Ok(Look { record: None, .. }) | Err(_) => match &seen.record {
            Fact::Known { value, .. }
                if value.epoch > own.0 || (value.epoch == own.0 && value.primary != own.1) =>
            {
                false
            }
            Fact::Known { at, .. } => {
                seen.record = Fact::Unknown { since: *at, tried: true };
                true
            }
            Fact::Unknown { since, tried } => {
                let first = !tried;
                seen.record = Fact::Unknown { since: *since, tried: true };
                first
            }
        },
    }
}
