//! `federator rotate-credentials`: the replication user changes without dropping a link.
//!
//! Two roles take turns. The new one is made first, everybody moves to it, and the old one ends
//! last. Passwords stay in the files that the settings name, and in those of the agents: only a
//! SCRAM verifier is sent to the server.

use super::consent::{self, Needed};
use super::{Exit, Session};
use crate::collect::{Depth, collect};
use crate::concurrent::{Local, all};
use crate::execute::{POLL, StepError, Wait};
use crate::render::{self, Progress};
use crate::settings::Login;
use crate::sql;
use federator_core::guards::Refusal;
use federator_core::inventory::Inventory;
use federator_core::rotation::{self, Seen};
use node_agent_wire::member::Member;
use node_agent_wire::{DcName, MemberName};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// When what is missing is printed again.
const REMIND: Duration = Duration::from_secs(10);

pub(super) async fn run(session: &Session) -> Exit {
    let settings = &session.federation.settings;
    let old = &settings.replication;
    let Some(next) = &settings.replication_next else {
        eprintln!("error: the settings have no credentials.replication_next");
        eprintln!("hint: give it a username other than {} and a password_file", old.username);
        return Exit::Usage;
    };
    if next.username == old.username {
        eprintln!("error: credentials.replication_next must be another role than {}", old.username);
        eprintln!("hint: two roles take turns; a role has one password at a time");
        return Exit::Usage;
    }
    let inventory = collect(&session.federation, Depth::Status, None).await;
    let checklist = rotation::checklist(&inventory);
    print!("{}", render::checklist(&checklist));
    let refusals = checklist.refusals();
    if !refusals.is_empty() {
        eprint!("{}", render::refusals(&refusals));
        eprintln!("Nothing was changed.");
        let silence = refusals.iter().all(Refusal::is_silence);
        return if silence { Exit::Failed } else { Exit::Refused };
    }
    println!("Plan: replication moves from role {} to role {}", old.username, next.username);
    println!("  1. role     creates {}, or gives it the new password", next.username);
    println!("  2. login    tries it on the leader of every datacenter");
    println!("  3. agents   waits until every agent and every standby connects by it");
    println!("  4. retire   {} can't log in any more", old.username);
    if session.common.dry_run {
        println!("Dry run: nothing was changed.");
        return Exit::Done;
    }
    if let Err(exit) = consent::ask(session, Needed::Yes) {
        return exit;
    }
    match steps(session, &inventory, (old, next)).await {
        Ok(()) => {
            println!("Done. In the settings, put {} into credentials.replication", next.username);
            println!("and take credentials.replication_next out.");
            Exit::Done
        }
        Err(error) => {
            eprintln!("error: {error}");
            eprintln!("Both roles can log in. Type again: federator rotate-credentials");
            Exit::Partly
        }
    }
}

async fn steps(
    session: &Session,
    inventory: &Inventory,
    (old, next): (&Login, &Login),
) -> Result<(), StepError> {
    let missing = |what: String| StepError::Missing(what);
    let newest = inventory.newest().ok_or_else(|| missing("there is no record".into()))?;
    let progress = Progress;
    let started = Instant::now();
    let primary = leader(session, &newest.primary, &session.federation.settings.superuser).await?;
    primary.allow_replication(&old.username, next).await?;
    progress.step(1, 4, "role", started.elapsed(), &format!("{} may replicate", next.username));
    let started = Instant::now();
    for dc in newest.members.keys() {
        let wait = Wait::new(session.limit());
        while let Err(error) = leader(session, dc, next).await {
            // A standby datacenter knows the role once it has replayed it.
            wait.pause(POLL, &format!("a login on {dc}"), &error.to_string()).await?;
        }
    }
    progress.step(2, 4, "login", started.elapsed(), "works in every datacenter");
    let started = Instant::now();
    progress.say(&format!(
        "now give every agent the user {} and its password, in its file under",
        next.username
    ));
    progress.say("postgresql.authentication.replication, and let it read that again: SIGHUP");
    agents(session, &progress, (&old.username, &next.username)).await?;
    progress.step(3, 4, "agents", started.elapsed(), &format!("all connect as {}", next.username));
    let started = Instant::now();
    let primary = leader(session, &newest.primary, &session.federation.settings.superuser).await?;
    primary.retire(&old.username).await?;
    progress.step(4, 4, "retire", started.elapsed(), &format!("{} has no login", old.username));
    Ok(())
}

async fn leader(session: &Session, dc: &DcName, login: &Login) -> Result<sql::Session, StepError> {
    let cluster = session.federation.cluster(dc).await?;
    let address = cluster.leader().and_then(Member::postgres_address);
    let missing = || StepError::Missing(format!("{dc} has no leader with an address"));
    let (host, port) = address.ok_or_else(missing)?;
    Ok(sql::Session::open(&host, port, login).await?)
}

/// Waits until nobody uses the old role.
async fn agents(
    session: &Session,
    progress: &Progress,
    (old, next): (&str, &str),
) -> Result<(), StepError> {
    let wait = Wait::new(session.clone_limit());
    let mut printed: Option<(String, Instant)> = None;
    loop {
        let missing = rotation::missing(&look(session).await, old, next);
        if missing.is_empty() {
            return Ok(());
        }
        let line = missing.join("; ");
        let same = |(text, at): &(String, Instant)| *text == line && at.elapsed() < REMIND;
        if !printed.as_ref().is_some_and(same) {
            progress.say(&line);
            printed = Some((line.clone(), Instant::now()));
        }
        wait.pause(POLL, &format!("every node to connect as {next}"), &line).await?;
    }
}

/// Every node of every datacenter, by its agent and by SQL.
async fn look(session: &Session) -> BTreeMap<MemberName, Seen> {
    let inventory = collect(&session.federation, Depth::Status, None).await;
    let members = inventory.views().filter(|(dc, _)| inventory.is_member(dc));
    let asks: Vec<Local<'_, (MemberName, Seen)>> = members
        .flat_map(|(_, view)| view.members.iter().map(move |(name, data)| (view, name, data)))
        .map(|(view, name, data)| -> Local<'_, _> {
            let agent = match view.nodes.get(name) {
                Some(federator_core::inventory::Fact::Known(node)) => {
                    Ok(node.replication_user.clone())
                }
                Some(federator_core::inventory::Fact::Unknown { why, .. }) => Err(why.clone()),
                None => Err("it publishes no gRPC address".to_owned()),
            };
            let member = Member { name: name.clone(), data: data.clone() };
            Box::pin(async move {
                let senders = senders(session, &member).await;
                (member.name, Seen { agent, senders })
            })
        })
        .collect();
    let mut seen: BTreeMap<MemberName, Seen> = all(asks).await.into_iter().collect();
    // A datacenter that has fallen silent holds the rest up.
    for (dc, fact) in &inventory.dcs {
        if let federator_core::inventory::Fact::Unknown { why, .. } = fact
            && inventory.is_member(dc)
        {
            let silent = Seen { agent: Err(why.clone()), senders: Err(why.clone()) };
            seen.insert(MemberName::new(dc.to_string()), silent);
        }
    }
    seen
}

async fn senders(
    session: &Session,
    member: &Member,
) -> Result<std::collections::BTreeSet<String>, String> {
    let (host, port) = member.postgres_address().ok_or("it publishes no address")?;
    let login = &session.federation.settings.superuser;
    let open = sql::Session::open(&host, port, login).await.map_err(|error| error.to_string())?;
    open.replication_users().await.map_err(|error| error.to_string())
}
