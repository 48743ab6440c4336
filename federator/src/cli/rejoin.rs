//! `federator rejoin DC [--waive-vault MEMBER...]`.

use super::operation::{carry_out, request};
use super::{Exit, Session, consent, resume};
use crate::collect::{Depth, collect};
use crate::examine;
use crate::records::update_record;
use federator_core::change;
use federator_core::inventory::Inventory;
use federator_core::planner::{Outcome, rejoin};
use federator_core::resume::{Direction, open_operations};
use node_agent_wire::federation::{Operation, OperationKind};
use node_agent_wire::{DcName, MemberName};
use std::collections::BTreeSet;

pub(super) async fn run(session: &Session, dc: &DcName, waived: BTreeSet<MemberName>) -> Exit {
    let mut inventory = collect(&session.federation, Depth::Status, None).await;
    if let Some(unknown) = stranger(&inventory, dc, &waived) {
        eprintln!("error: --waive-vault: {dc} has no member {unknown}");
        return Exit::Usage;
    }
    if let (false, Some(open)) = (waived.is_empty(), open_rejoin(&inventory, dc)) {
        return waive(session, dc, &open, &waived).await;
    }
    let request = request(session);
    let mut answer = rejoin::plan(&inventory, dc, &request);
    if let Outcome::Plan(_) = &answer.outcome {
        // What it costs is said before anything is discarded; a rate given by hand counts.
        if let (Some(rate), Some(site)) = (session.common.max_rate, inventory.sites.get_mut(dc)) {
            site.seed.max_rate = Some(rate);
        }
        examine::returning(&session.federation, &mut inventory, dc).await;
        answer = rejoin::plan(&inventory, dc, &request);
    }
    if let Outcome::Plan(plan) = &mut answer.outcome {
        warn(&waived);
        plan.waived_vaults = waived;
    }
    carry_out(session, inventory, answer).await
}

fn stranger(
    inventory: &Inventory,
    dc: &DcName,
    named: &BTreeSet<MemberName>,
) -> Option<MemberName> {
    let view = inventory.view(dc)?;
    let known = |name: &&MemberName| {
        let recorded = view.record().and_then(|r| r.members.get(dc));
        view.members.contains_key(*name) || recorded.is_some_and(|dc| dc.nodes.contains_key(*name))
    };
    named.iter().find(|name| !known(name)).cloned()
}

fn warn(waived: &BTreeSet<MemberName>) {
    for name in waived {
        println!("  warning: what only {name} has is discarded without a vault, for good");
    }
}

/// The rejoin of this datacenter that is open already: `--waive-vault` is for one that waits for a
/// vault that can't be sealed.
fn open_rejoin(inventory: &Inventory, dc: &DcName) -> Option<Operation> {
    let open = open_operations(inventory).into_iter();
    let mut ours = open.filter(|o| o.direction == Direction::Either && o.operation.to == *dc);
    ours.find(|o| o.operation.kind == OperationKind::Rejoin).map(|o| o.operation)
}

async fn waive(
    session: &Session,
    dc: &DcName,
    open: &Operation,
    waived: &BTreeSet<MemberName>,
) -> Exit {
    warn(waived);
    if session.common.dry_run {
        println!("Dry run: nothing was changed.");
        return Exit::Done;
    }
    if let Err(exit) = consent::ask(session, consent::Needed::Yes) {
        return exit;
    }
    let written = match session.federation.dcs(dc) {
        Ok(dcs) => update_record(dcs, |r| change::waive_vaults(r, &open.id, waived)).await,
        Err(error) => Err(error.into()),
    };
    match written {
        Ok(_) => resume::resume(session).await,
        Err(error) => {
            eprintln!("error: {error}");
            Exit::Failed
        }
    }
}
