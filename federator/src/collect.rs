//! Reads every datacenter at the same time, each with its own deadlines. One that does not answer
//! is a dated fact, not an error.

use crate::clock::now_us;
use crate::concurrent::{Local, all, within};
use crate::federation::{Federation, leader};
use crate::records::parse_record;
use crate::sql::Session;
use federator_core::inventory::{DcView, Fact, Inventory, NodeView, SqlFacts, Versioned};
use node_agent_wire::DcName;
use node_agent_wire::keys::{Leaf, LeafName};
use node_agent_wire::member::Member;
use node_agent_wire::status::SyncState;
use node_agent_wire::{MemberName, SystemId};
use std::time::Duration;

/// How long one datacenter's etcd may take for the whole read.
const DCS_LIMIT: Duration = Duration::from_millis(2000);

/// How much is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// The DCS and the agents.
    Status,
    /// And SQL on the leaders.
    Preflight,
}

/// Collects; `before` keeps the date of what has not answered since.
pub async fn collect(
    federation: &Federation,
    depth: Depth,
    before: Option<&Inventory>,
) -> Inventory {
    let reads: Vec<Local<'_, (DcName, Result<DcView, String>)>> = federation
        .dcs
        .keys()
        .map(|dc| -> Local<'_, _> {
            Box::pin(async move { (dc.clone(), datacenter(federation, dc, depth).await) })
        })
        .collect();
    let views = all(reads).await;
    let at_us = now_us();
    let dcs = views
        .into_iter()
        .map(|(dc, result)| {
            let fact = match result {
                Ok(view) => Fact::Known(view),
                Err(why) => Fact::Unknown { since_us: since(before, &dc, at_us), why },
            };
            (dc, fact)
        })
        .collect();
    Inventory {
        federation: federation.settings.federation.clone(),
        at_us,
        sites: federation.sites(),
        dcs,
    }
}

fn since(before: Option<&Inventory>, dc: &DcName, now_us: i64) -> i64 {
    match before.and_then(|inventory| inventory.dcs.get(dc)) {
        Some(Fact::Unknown { since_us, .. }) => *since_us,
        Some(Fact::Known(_)) | None => now_us,
    }
}

async fn datacenter(federation: &Federation, dc: &DcName, depth: Depth) -> Result<DcView, String> {
    let dcs = federation.dcs(dc).map_err(|error| error.to_string())?;
    let keys = within(DCS_LIMIT, "reading its etcd", dcs.snapshot())
        .await
        .map_err(|late| late.to_string())?
        .map_err(|error| error.to_string())?;
    let mut view = DcView::default();
    for (key, (value, revision)) in keys {
        match dcs.path().parse(&key) {
            Some(LeafName::Plain(leaf)) => plain(&mut view, leaf, &value, revision),
            Some(LeafName::Member(name)) => {
                let member = Member::parse(name, &value);
                view.members.insert(member.name, member.data);
            }
            None => {}
        }
    }
    let asks: Vec<Local<'_, (MemberName, Fact<NodeView>)>> = view
        .members
        .iter()
        .filter_map(|(name, data)| Some((name, data.grpc.as_ref()?)))
        .map(|(name, address)| -> Local<'_, _> {
            Box::pin(async move {
                let fact = match federation.links.status(address).await {
                    Ok(node) => Fact::Known(node),
                    Err(error) => Fact::Unknown { since_us: now_us(), why: error.to_string() },
                };
                (name.clone(), fact)
            })
        })
        .collect();
    let nodes = all(asks).await.into_iter().collect();
    view.nodes = nodes;
    if depth == Depth::Preflight {
        view.sql = leader_sql(federation, &view).await;
    }
    Ok(view)
}

fn plain(view: &mut DcView, leaf: Leaf<'_>, value: &[u8], revision: node_agent_wire::Revision) {
    match leaf {
        Leaf::Federation => match parse_record(value) {
            Ok(value) => view.record = Some(Versioned { revision, value }),
            Err(why) => view.record_error = Some(why),
        },
        Leaf::Leader => view.leader = leader(value),
        Leaf::Config => {
            view.config =
                serde_json::from_slice(value).ok().map(|value| Versioned { revision, value });
        }
        Leaf::Initialize => {
            let id = String::from_utf8_lossy(value).into_owned();
            view.initialize = (!id.is_empty()).then(|| SystemId::new(id));
        }
        Leaf::Position => view.position = serde_json::from_slice(value).ok(),
        // Unreadable: `federator history` says so.
        Leaf::FederationHistory => view.history = serde_json::from_slice(value).unwrap_or_default(),
        Leaf::Sync => {
            let sync = SyncState::parse(value);
            view.sync_standbys = sync.active().then_some(sync.sync_standby);
        }
        Leaf::Member(_)
        | Leaf::Failover
        | Leaf::History
        | Leaf::Status
        | Leaf::Failsafe
        | Leaf::FederationApprovals
        | Leaf::Grant
        | Leaf::GrantLast => {}
    }
}

async fn leader_sql(federation: &Federation, view: &DcView) -> Option<Fact<SqlFacts>> {
    let name = view.leader.as_ref()?;
    let data = view.members.get(name)?.clone();
    let (host, port) = Member { name: name.clone(), data }.postgres_address()?;
    let settings = &federation.settings;
    let facts = async {
        let session = Session::open(&host, port, &settings.superuser).await?;
        let mut facts = session.facts().await?;
        let login = Session::open(&host, port, &settings.replication).await;
        facts.replication_login_error = login.err().map(|error| error.to_string());
        Ok::<_, crate::sql::SqlError>(facts)
    };
    Some(match facts.await {
        Ok(facts) => Fact::Known(facts),
        Err(error) => Fact::Unknown { since_us: now_us(), why: error.to_string() },
    })
}
