//! Asks agents to look at their data directories, where that is needed: before a rejoin, and where
//! a slot is lost. Nothing is changed by it.

use crate::clock::now_us;
use crate::concurrent::{Local, all};
use crate::federation::Federation;
use federator_core::inventory::{DcView, Fact, Inventory};
use federator_core::quote::Examination;
use federator_core::runway::{self, End};
use node_agent_wire::{DcName, MemberName};
use std::collections::BTreeSet;
use std::time::Duration;

/// How long the look of one agent may take: it lists the files of two servers, and reads WAL.
const LIMIT: Duration = Duration::from_secs(40);
/// How long a status waits for the size of one data directory.
const SIZE_LIMIT: Duration = Duration::from_secs(4);

type Found = (MemberName, Fact<Examination>);

/// Every node of `dc`, for what following the primary datacenter would do to it, and the leader of
/// that one for its size.
pub async fn returning(federation: &Federation, inventory: &mut Inventory, dc: &DcName) {
    let Some(primary) = inventory.primary().cloned() else { return };
    let (Some(view), Some(source)) = (inventory.view(dc), inventory.view(&primary)) else { return };
    let hosts: Vec<String> =
        source.postgres_addresses().iter().map(|(host, port)| address(host, *port)).collect();
    let recorded = inventory.newest().and_then(|record| record.members.get(dc));
    let recorded = recorded.into_iter().flat_map(|entry| entry.nodes.keys());
    let names: BTreeSet<MemberName> = view.members.keys().chain(recorded).cloned().collect();
    let asks = names.iter().map(|name| ask(federation, view, name, hosts.clone(), LIMIT));
    let size = source.leader.as_ref().map(|name| ask(federation, source, name, Vec::new(), LIMIT));
    // The last answer is the size's.
    let asks: Vec<Local<'_, Found>> = asks.chain(size).collect();
    let mut found = all(asks).await;
    let sizes = found.split_off(names.len());
    keep(inventory, dc, found);
    keep(inventory, &primary, sizes);
}

/// The size of each datacenter from which another one needs new copies. What `before` knows is not
/// asked again.
pub async fn sizes(federation: &Federation, inventory: &mut Inventory, before: Option<&Inventory>) {
    let over = |dc: &&DcName| runway::of(inventory, dc).is_some_and(|r| r.end == End::Over);
    let needed: BTreeSet<DcName> = inventory
        .sites
        .keys()
        .filter(over)
        .filter_map(|dc| runway::source(inventory, dc).cloned())
        .collect();
    for dc in needed {
        let known = before.and_then(|before| before.view(&dc)).map(|view| view.examined.clone());
        let found = match known.filter(|known| !known.is_empty()) {
            Some(known) => known.into_iter().collect(),
            None => {
                let Some(view) = inventory.view(&dc) else { continue };
                let Some(leader) = &view.leader else { continue };
                vec![ask(federation, view, leader, Vec::new(), SIZE_LIMIT).await]
            }
        };
        keep(inventory, &dc, found);
    }
}

fn ask<'a>(
    federation: &'a Federation,
    view: &'a DcView,
    name: &'a MemberName,
    hosts: Vec<String>,
    limit: Duration,
) -> Local<'a, Found> {
    Box::pin(async move {
        let unknown = |why: String| Fact::Unknown { since_us: now_us(), why };
        let fact = match view.members.get(name).map(|data| data.grpc.as_ref()) {
            None => unknown("its agent has not registered since it was away".into()),
            Some(None) => unknown("it publishes no gRPC address".into()),
            Some(Some(grpc)) => match federation.links.examine(grpc, hosts, limit).await {
                Ok(found) => Fact::Known(found),
                Err(error) => unknown(error.to_string()),
            },
        };
        (name.clone(), fact)
    })
}

fn keep(inventory: &mut Inventory, dc: &DcName, found: Vec<Found>) {
    if let Some(Fact::Known(view)) = inventory.dcs.get_mut(dc) {
        view.examined.extend(found);
    }
}

fn address(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}
