//! `federator add-dc DC` and `federator remove-dc DC [--standalone]`.

use super::consent::{self, Needed};
use super::operation::{carry_out, request};
use super::{Exit, Session};
use crate::collect::{Depth, collect};
use crate::execute::{POLL, Wait};
use crate::records::{UpdateError, dissolve};
use federator_core::planner::{removal, setup};
use node_agent_wire::DcName;

pub(super) async fn add(session: &Session, dc: &DcName) -> Exit {
    let inventory = collect(&session.federation, Depth::Preflight, None).await;
    let answer = setup::plan_one(&inventory, dc, &request(session));
    carry_out(session, inventory, answer).await
}

pub(super) async fn remove(session: &Session, dc: &DcName, standalone: bool) -> Exit {
    let inventory = collect(&session.federation, Depth::Status, None).await;
    let answer = removal::plan(&inventory, dc, &request(session));
    if standalone {
        println!(
            "--standalone: when {dc} is removed, its leader is promoted. From then on {dc} is"
        );
        println!("a database of its own that goes another way: no client of this federation may");
        println!("write to it, and it must not archive into the same repository.");
        if !session.common.dry_run
            && let Err(exit) = consent::ask(session, Needed::Name)
        {
            return exit;
        }
    }
    let exit = carry_out(session, inventory, answer).await;
    if exit != Exit::Done || session.common.dry_run {
        return exit;
    }
    if standalone {
        return stand_alone(session, dc).await;
    }
    println!("{dc} is read-only and belongs to nobody. Take it out of the settings.");
    println!("To take it back: federator add-dc {dc}");
    println!("To make it a cluster of its own: federator remove-dc {dc} --standalone");
    Exit::Done
}

/// Makes a removed datacenter a plain cluster: its record and its fence go, in one transaction.
async fn stand_alone(session: &Session, dc: &DcName) -> Exit {
    let dcs = match session.federation.dcs(dc) {
        Ok(dcs) => dcs,
        Err(error) => {
            eprintln!("error: {error}");
            return Exit::Failed;
        }
    };
    match dissolve(dcs).await {
        Ok(()) => {}
        Err(UpdateError::NoRecord(_)) => println!("{dc} has no federation record any more."),
        Err(error) => {
            eprintln!("error: {error}");
            eprintln!(
                "{dc} is removed and stays read-only. Type: federator remove-dc {dc} --standalone"
            );
            return Exit::Partly;
        }
    }
    let wait = Wait::new(session.limit());
    loop {
        let inventory = collect(&session.federation, Depth::Status, None).await;
        if inventory.view(dc).is_some_and(federator_core::inventory::DcView::leader_writes) {
            println!(
                "{dc} is a cluster of its own and accepts writes. It is no member of {}.",
                session.federation.settings.federation
            );
            println!("Take it out of the settings, and give it an archive of its own.");
            return Exit::Done;
        }
        if let Err(late) = wait.pause(POLL, &format!("{dc} to accept writes"), "no writer").await {
            eprintln!("error: {late}");
            eprintln!("It is no member any more; look at its agents' logs.");
            return Exit::Partly;
        }
    }
}
