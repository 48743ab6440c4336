//! After a promotion that may have lost transactions: every sequence of every database is advanced
//! by the agreed gap. A database is a part of the step, noted in the journal once it is done, so
//! that a resume goes on with the next one.

use super::context::{Context, POLL, StepError, Wait};
use crate::records::need_record;
use crate::sql::Session;
use federator_core::plan::StepKind;
use federator_core::sequences::{Advance, advance};
use node_agent_wire::DcName;
use std::collections::BTreeMap;

/// So many sequences left alone are named; the others are counted.
const NAMED_MAX: usize = 5;

pub(super) async fn run(context: &mut Context<'_>) -> Result<String, StepError> {
    let to = context.plan.to.clone();
    let gap = need_record(context.federation.dcs(&to)?).await?.policies.sequence_gap;
    let wait = Wait::new(context.limit);
    let what = format!("the sequences of {to}");
    let (mut advanced, mut here) = (0_usize, 0_usize);
    let mut alone: Vec<String> = Vec::new();
    loop {
        let mut failed = BTreeMap::new();
        match databases(context, &to).await {
            Err(error) => {
                failed.insert("every database".to_owned(), error.to_string());
            }
            Ok(list) => {
                let done = context.parts_done(StepKind::Sequences);
                for database in list.iter().filter(|database| !done.contains(database)) {
                    match one(context, &to, database, gap).await {
                        Ok((count, left)) => {
                            advanced += count;
                            here += 1;
                            alone.extend(left);
                            context.part_done(StepKind::Sequences, database).await?;
                        }
                        Err(error) => {
                            failed.insert(database.clone(), error.to_string());
                        }
                    }
                }
            }
        }
        let Some((database, why)) = failed.first_key_value() else { break };
        if wait.pause(POLL, &what, why).await.is_err() {
            // The primary works: its other steps do not wait for this one.
            let names: Vec<&str> = failed.keys().map(String::as_str).collect();
            alone.push(format!("all in {} ({database}: {why})", names.join(", ")));
            break;
        }
    }
    let before = match context.parts_done(StepKind::Sequences).len().saturating_sub(here) {
        0 => String::new(),
        count => format!(", {count} databases were done before"),
    };
    let alone = in_short(&alone);
    Ok(format!("{advanced} sequences in {here} databases advanced by {gap}{before}{alone}"))
}

async fn databases(context: &Context<'_>, to: &DcName) -> Result<Vec<String>, StepError> {
    Ok(open(context, to, None).await?.databases().await?)
}

fn in_short(alone: &[String]) -> String {
    if alone.is_empty() {
        return String::new();
    }
    let named = alone.iter().take(NAMED_MAX).cloned().collect::<Vec<_>>().join(", ");
    match alone.len().saturating_sub(NAMED_MAX) {
        0 => format!("; NOT advanced, check by hand: {named}"),
        more => format!("; NOT advanced, check by hand: {named} and {more} more"),
    }
}

async fn open(
    context: &Context<'_>,
    to: &DcName,
    database: Option<&str>,
) -> Result<Session, StepError> {
    let cluster = context.federation.cluster(to).await?;
    let (host, port) = cluster
        .leader()
        .and_then(node_agent_wire::member::Member::postgres_address)
        .ok_or_else(|| StepError::Missing(format!("{to} has no leader with an address")))?;
    let login = &context.federation.settings.superuser;
    Ok(Session::open_database(&host, port, login, database).await?)
}

/// How many were advanced, and those that have no room.
async fn one(
    context: &Context<'_>,
    to: &DcName,
    database: &str,
    gap: u64,
) -> Result<(usize, Vec<String>), StepError> {
    let session = open(context, to, Some(database)).await?;
    let (mut values, mut alone) = (Vec::new(), Vec::new());
    for sequence in session.sequences().await? {
        match advance(&sequence, gap) {
            Advance::To(value) => values.push((sequence.schema, sequence.name, value)),
            Advance::NoRoom { left } => alone.push(format!(
                "{database}: {}.{} ({left} values left)",
                sequence.schema, sequence.name
            )),
        }
    }
    session.set_sequences(&values).await?;
    Ok((values.len(), alone))
}
