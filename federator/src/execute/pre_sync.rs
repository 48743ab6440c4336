//! What a switchover waits for before it stops writes: little is left for the target to receive and
//! to replay. Then commits of the primary wait for the target as well, so that little stays little
//! until the fence. Nothing rests on either: the acknowledgement of the fence is what counts.

use super::context::{Context, POLL, StepError, Wait};
use crate::federation::Cluster;
use crate::records::{UpdateError, need_record, update_record};
use crate::render::bytes;
use crate::sql::Session;
use federator_core::change::{self, ChangeError};
use federator_core::conditions::{self, Nearness, PRE_SYNC_LAG_MAX};
use node_agent_wire::{DcName, MemberName};
use std::time::{Duration, Instant};

/// How long commits may wait for the target, by the clock of the primary's agent.
const GRANTED: Duration = Duration::from_secs(10);
/// How long the agent may take to let them; without it the switchover goes on.
const GRANT_LIMIT: Duration = Duration::from_secs(3);
/// Between two looks at whether they do.
const GRANT_POLL: Duration = Duration::from_millis(20);
/// Between two lines that say how far behind the target still is.
const TELL_EVERY: Duration = Duration::from_secs(5);

pub(super) async fn run(context: &mut Context<'_>) -> Result<String, StepError> {
    let (from, to) = (context.from()?, context.plan.to.clone());
    let record = need_record(context.federation.dcs(&from)?).await?;
    if record.fence.is_some() {
        // Resumed: there is nothing left to be written.
        return Ok(format!("{from} is fenced already"));
    }
    let (behind, source) = near(context, (&from, &to)).await?;
    let note = match synchronous(context, (&from, &to), &source).await? {
        Ok(standby) => format!("commits wait for {standby}"),
        Err(why) => format!("commits do not wait for {to}: {why}"),
    };
    Ok(format!("{to} is {} behind; {note}", bytes(behind)))
}

/// Waits until the target is near enough. Returns by how much it is behind, and the session on the
/// primary.
async fn near(
    context: &mut Context<'_>,
    (from, to): (&DcName, &DcName),
) -> Result<(u64, Session), StepError> {
    let wait = Wait::new(context.limit);
    let what = format!(
        "{to} to be no more than {} behind (--no-pre-sync does without)",
        bytes(PRE_SYNC_LAG_MAX)
    );
    let mut source: Option<Session> = None;
    let mut told: Option<Instant> = None;
    loop {
        let seen = match look(context, (from, to), &mut source).await {
            Ok(Nearness::Close(behind)) => match source.take() {
                Some(session) => return Ok((behind, session)),
                None => continue,
            },
            Ok(Nearness::Behind(behind)) => format!("{} behind", bytes(behind)),
            Ok(Nearness::NotStreaming) => "it does not stream".to_owned(),
            Ok(Nearness::OtherTimeline(found)) => format!("it receives timeline {found}"),
            Err(error) => {
                // A leader may have changed; a session that is broken does not come back.
                (source, context.session) = (None, None);
                error.to_string()
            }
        };
        if told.is_none_or(|at| at.elapsed() >= TELL_EVERY) {
            context.progress.say(&format!("before writes are stopped, {to}: {seen}"));
            told = Some(Instant::now());
        }
        wait.pause(POLL, &what, &seen).await?;
    }
}

/// One look, the primary first.
async fn look(
    context: &mut Context<'_>,
    (from, to): (&DcName, &DcName),
    source: &mut Option<Session>,
) -> Result<Nearness, StepError> {
    let primary = match source.take() {
        Some(session) => session,
        None => context.leader_session(from).await?,
    };
    let written = primary.written().await?;
    *source = Some(primary);
    let target = match context.session.take() {
        Some(session) => session,
        None => context.leader_session(to).await?,
    };
    let replay = target.replay().await?;
    context.session = Some(target);
    context.timeline = replay.timeline.or(context.timeline);
    let Some(replayed) = replay.lsn else {
        return Err(StepError::Missing(format!("the leader of {to} is no standby")));
    };
    Ok(conditions::nearness(written, replayed, replay.timeline))
}

/// Asks the agents of the primary to let commits wait for the leader of the target, and waits until
/// they do. When they do not, in time, the request is taken back: the inner error says why.
async fn synchronous(
    context: &Context<'_>,
    (from, to): (&DcName, &DcName),
    source: &Session,
) -> Result<Result<MemberName, String>, StepError> {
    let cluster: Cluster = context.federation.cluster(to).await?;
    let Some(standby) = cluster.leader else {
        return Ok(Err(format!("{to} has no leader at the moment")));
    };
    let (dcs, id) = (context.federation.dcs(from)?, &context.plan.id);
    let limit_ms = u32::try_from(GRANTED.as_millis()).unwrap_or(u32::MAX);
    let asked =
        update_record(dcs, |record| change::pre_sync(record, id, Some((&standby, limit_ms)))).await;
    asked?;
    let began = Instant::now();
    let why = loop {
        let seen = match source.waits_for(standby.as_str()).await {
            Ok(true) => return Ok(Ok(standby)),
            Ok(false) => "its agent has not let them".to_owned(),
            Err(error) => error.to_string(),
        };
        if began.elapsed() >= GRANT_LIMIT {
            break seen;
        }
        tokio::time::sleep(GRANT_POLL).await;
    };
    match update_record(dcs, |record| change::pre_sync(record, id, None)).await {
        // Somebody else has gone on with the operation: the fence says the rest.
        Ok(_) | Err(UpdateError::Change(ChangeError::Fenced { .. })) => Ok(Err(why)),
        Err(error) => Err(error.into()),
    }
}
