//! Makes a datacenter a standby cluster of the primary one: a new one with a copy of the primary's
//! configuration, a returned one as soon as none of its nodes accepts writes.

use super::context::{Context, POLL, StepError, Wait};
use super::repoint::{Source, configure, configure_under};
use super::stream::until_streaming;
use crate::records::{need_record, read_config, update_record};
use federator_core::change;
use federator_core::conditions::{FenceWord, may_write};
use federator_core::configuration::template;
use federator_core::links;
use node_agent_wire::DcName;
use node_agent_wire::federation::OperationKind;

pub(super) async fn run(context: &mut Context<'_>) -> Result<String, StepError> {
    let primary = context.plan.primary.clone();
    let federation = context.federation;
    if context.plan.kind != OperationKind::Setup {
        let (to, id) = (context.plan.to.clone(), context.plan.id.clone());
        let source = context.source_of(&to, &primary);
        let servers = servers_of(context, &source).await?;
        let winner = need_record(federation.dcs(&primary)?).await?;
        configure_under(context, &to, &servers, &winner).await?;
        update_record(federation.dcs(&to)?, |record| change::follow(record, &winner, &id)).await?;
        return Ok(format!("{to} is configured to follow {source}, its fence is lifted"));
    }
    let source = read_config(federation.dcs(&primary)?).await?;
    let source = source.ok_or_else(|| {
        StepError::Missing(format!("{primary} has no dynamic configuration to copy"))
    })?;
    let base = template(&source.value);
    let new: Vec<DcName> = context.plan.followers.iter().cloned().collect();
    let mut notes = Vec::new();
    for dc in links::in_order(&new, |dc| context.source_of(dc, &primary)) {
        let source = context.source_of(&dc, &primary);
        if new.contains(&source) {
            // There is nothing to copy before.
            until_streaming(context, &source).await?;
        }
        let servers = servers_of(context, &source).await?;
        configure(context, &dc, &servers, Some(&base)).await?;
        // One that was removed comes back: its configuration is a standby's again.
        let winner = need_record(federation.dcs(&primary)?).await?;
        let id = &context.plan.id;
        update_record(federation.dcs(&dc)?, |record| change::follow(record, &winner, id)).await?;
        notes.push(format!("{dc} is configured to follow {source}"));
    }
    Ok(notes.join("; "))
}

async fn servers_of(context: &Context<'_>, dc: &DcName) -> Result<Source, StepError> {
    let source = Source::of(context, dc, &context.plan.primary).await?;
    if source.is_empty() {
        return Err(StepError::Missing(format!("no node of {dc} publishes an address")));
    }
    Ok(source)
}

/// Waits until no node of the returned datacenter accepts writes, by its acknowledgement or by the
/// word of every agent there.
pub(super) async fn demoted(context: &mut Context<'_>) -> Result<String, StepError> {
    let to = context.plan.to.clone();
    let wait = Wait::new(context.limit);
    loop {
        let record = need_record(context.federation.dcs(&to)?).await?;
        if let FenceWord::Acknowledged(ack) = FenceWord::of(&record) {
            return Ok(format!("{} has acknowledged at {}", ack.node, ack.checkpoint));
        }
        let cluster = context.federation.cluster(&to).await?;
        let nodes = context.nodes(&cluster).await;
        let answered = cluster.members.keys().map(|name| {
            let answer = match nodes.get(name) {
                Some(Ok(node)) => Ok(node),
                Some(Err(error)) => Err(error.to_string()),
                None => Err("publishes no gRPC address".to_owned()),
            };
            (name, answer)
        });
        let open = may_write(&record, answered);
        if open.is_empty() {
            return Ok(format!("none of {} nodes accepts writes", cluster.members.len()));
        }
        let what = format!("every node of {to} to be read-only");
        wait.pause(POLL, &what, &open.join("; ")).await?;
    }
}
