//! Timeline histories and identities, of this server and of others, over SQL.

use super::process::Postmaster;
use super::session::{Session, Target};
use super::{Error, QUERY_DEADLINE, RemoteIdentity, Server, control, files};
use node_agent_wire::history::TimelineHistory;
use node_agent_wire::{SystemId, TimelineId};
use serde::Deserialize;
use std::time::Duration;
use tokio::task::JoinSet;

/// The checkpoint after a promotion, which PostgreSQL may spread over `checkpoint_timeout` (5 min).
const CHECKPOINT_MAX: Duration = Duration::from_secs(600);

/// Role, timeline and position, as the status query finds them.
const IDENTITY: &str = concat!(
    "
SELECT json_build_object(
  'in_recovery', r.standby,
  'system_id', (SELECT system_identifier::text FROM pg_control_system()),
  'checkpoint_timeline', (SELECT timeline_id FROM pg_control_checkpoint()),
  'timeline', ",
    super::status::timeline!(),
    ",
  'lsn', CASE WHEN r.standby
    THEN greatest(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn())
    ELSE pg_current_wal_flush_lsn() END
)::text FROM (SELECT pg_is_in_recovery() AS standby) r"
);

#[derive(Deserialize)]
struct Answer {
    in_recovery: bool,
    system_id: String,
    checkpoint_timeline: u32,
    timeline: u32,
    lsn: Option<String>,
}

/// Another server with the session that asked it.
pub(super) struct Source {
    pub(super) identity: RemoteIdentity,
    /// The timeline of its last finished checkpoint; pg_rewind reads this one.
    pub(super) checkpoint_timeline: TimelineId,
    pub(super) session: Session,
}

#[allow(clippy::needless_pass_by_value, reason = "the shape that map_err passes")]
fn bad(problem: impl ToString) -> Error {
    Error::Answer { what: "the identity query's answer".to_owned(), answer: problem.to_string() }
}

pub(super) async fn identify(target: Target, deadline: Duration) -> Result<Source, Error> {
    let mut session = Session::connect(&target, deadline, deadline).await?;
    let text = session.text("tell its identity", IDENTITY, &[], deadline).await?;
    let answer: Answer = serde_json::from_str(&text.unwrap_or_default()).map_err(bad)?;
    let lsn = answer.lsn.as_deref().unwrap_or("0/0").parse().map_err(bad)?;
    let identity = RemoteIdentity {
        host: target.host,
        port: target.port,
        system_id: SystemId::new(answer.system_id),
        in_recovery: answer.in_recovery,
        timeline: TimelineId(answer.timeline),
        lsn,
    };
    let checkpoint_timeline = TimelineId(answer.checkpoint_timeline);
    Ok(Source { identity, checkpoint_timeline, session })
}

/// The name of a history file in `pg_wal`; timeline 1 has none.
fn history_file(timeline: TimelineId) -> Option<String> {
    (timeline.0 > 1).then(|| format!("pg_wal/{:08X}.history", timeline.0))
}

fn parse(timeline: TimelineId, file: &str, text: &str) -> Result<TimelineHistory, Error> {
    TimelineHistory::parse(timeline, text).ok_or_else(|| Error::Answer {
        what: file.to_owned(),
        answer: text.chars().take(200).collect(),
    })
}

impl Source {
    /// The history of its timeline.
    pub(super) async fn history(&mut self, deadline: Duration) -> Result<TimelineHistory, Error> {
        let timeline = self.identity.timeline;
        let Some(file) = history_file(timeline) else {
            return Ok(TimelineHistory { timeline, ancestors: Vec::new() });
        };
        let sql = "SELECT convert_from(pg_read_binary_file($1::text), 'UTF8')";
        let text = self.session.text(&format!("read {file}"), sql, &[&file], deadline).await?;
        parse(timeline, &file, &text.unwrap_or_default())
    }
}

impl Server {
    /// Another server: as the user of pg_rewind when there is one, else as the superuser.
    pub(super) fn remote_target(&self, host: &str, port: u16) -> Target {
        let superuser = self.places.superuser();
        let user = self.places.rewind_user().unwrap_or(superuser);
        let user = self.towards(user, &[(host.to_owned(), port)]);
        Target {
            host: host.to_owned(),
            port,
            user: user.username,
            password: user.password,
            connection: user.connection,
            database: self.places.database.clone(),
            options: "",
        }
    }

    /// Asks all hosts at once: the first read-write one that answers; when none is read-write,
    /// the first in order that is read-only.
    pub(super) async fn find_source(
        &self,
        hosts: &[(String, u16)],
        deadline: Duration,
    ) -> Result<Source, Error> {
        let mut asked = JoinSet::new();
        for (order, (host, port)) in hosts.iter().enumerate() {
            let target = self.remote_target(host, *port);
            asked.spawn(async move {
                // The connection and the query both count.
                let server = target.shown();
                let answer = tokio::time::timeout(deadline, identify(target, deadline)).await;
                let late = || Error::Deadline {
                    what: format!("the identity of PostgreSQL at {server}"),
                    waited: deadline,
                };
                (order, answer.unwrap_or_else(|_| Err(late())))
            });
        }
        let mut standby: Option<(usize, Source)> = None;
        let mut failed: Option<(usize, Error)> = None;
        while let Some(joined) = asked.join_next().await {
            let Ok((order, answer)) = joined else { continue };
            match answer {
                Ok(source) if !source.identity.in_recovery => return Ok(source),
                Ok(source) if standby.as_ref().is_none_or(|(o, _)| order < *o) => {
                    standby = Some((order, source));
                }
                Err(error) if failed.as_ref().is_none_or(|(o, _)| order < *o) => {
                    failed = Some((order, error));
                }
                Ok(_) | Err(_) => {}
            }
        }
        match (standby, failed) {
            (Some((_, source)), _) => Ok(source),
            (None, Some((_, error))) => Err(error),
            (None, None) => Err(Error::Refused {
                action: "ask the remote server".to_owned(),
                reason: "no host was given".to_owned(),
            }),
        }
    }

    /// Who answers at these hosts, a read-write server before a read-only one.
    ///
    /// # Errors
    /// When nobody answers in time: the first host's reason.
    pub async fn remote_identity(
        &self,
        hosts: &[(String, u16)],
        deadline: Duration,
    ) -> Result<RemoteIdentity, Error> {
        Ok(self.find_source(hosts, deadline).await?.identity)
    }

    /// The history of this server (`None`; running or stopped) or of another one.
    ///
    /// # Errors
    /// When it does not answer in time, or the history file is absent or not understood.
    pub async fn history_of(
        &self,
        source: Option<(&str, u16)>,
        deadline: Duration,
    ) -> Result<TimelineHistory, Error> {
        let target = match source {
            Some((host, port)) => self.remote_target(host, port),
            None if Postmaster::find(&self.places)?.is_some() => self.local_target("")?,
            None => return self.history_at_rest().await,
        };
        let ask = async { identify(target, deadline).await?.history(deadline).await };
        tokio::time::timeout(deadline, ask).await.unwrap_or_else(|_| {
            Err(Error::Deadline { what: "a timeline history".to_owned(), waited: deadline })
        })
    }

    /// The local history file of a timeline, and when it was made, microseconds since the Unix
    /// epoch; `None` when there is none.
    #[must_use]
    pub fn history_file(&self, timeline: TimelineId) -> Option<(String, i64)> {
        let path = self.places.data(&history_file(timeline)?);
        let text = files::read(&path).ok()??;
        let made = std::fs::metadata(&path).ok()?.modified().ok()?;
        let since = made.duration_since(std::time::UNIX_EPOCH).ok()?;
        Some((text, i64::try_from(since.as_micros()).ok()?))
    }

    pub(super) async fn history_at_rest(&self) -> Result<TimelineHistory, Error> {
        let control = control::read(&self.places).await?.data;
        let timeline = control.timeline.max(control.min_recovery_timeline);
        let Some(file) = history_file(timeline) else {
            return Ok(TimelineHistory { timeline, ancestors: Vec::new() });
        };
        let path = self.places.data(&file);
        let text = files::read(&path)?.ok_or_else(|| Error::File {
            action: "read",
            path: path.clone(),
            source: std::io::ErrorKind::NotFound.into(),
        })?;
        parse(timeline, &file, &text)
    }

    /// Makes the source's control file tell its present timeline, as pg_rewind will read it: after
    /// a promotion that takes a finished checkpoint, on a standby a restartpoint.
    pub(super) async fn await_checkpoint(
        &self,
        source: &mut Source,
        deadline: Duration,
    ) -> Result<(), Error> {
        if source.checkpoint_timeline == source.identity.timeline {
            return Ok(());
        }
        let deadline = deadline.min(CHECKPOINT_MAX);
        let end = tokio::time::Instant::now() + deadline;
        let (host, port) = (source.identity.host.clone(), source.identity.port);
        let superuser = self.towards(self.places.superuser(), &[(host.clone(), port)]);
        let mut target = self.remote_target(&host, port);
        (target.user, target.password) = (superuser.username, superuser.password);
        target.connection = superuser.connection;
        // Only the superuser may; the others wait for the one that follows each promotion.
        let session = Session::connect(&target, QUERY_DEADLINE.min(deadline), deadline).await;
        let sql = "SELECT timeline_id::text FROM pg_control_checkpoint()";
        let wanted = source.identity.timeline.to_string();
        loop {
            if let Ok(session) = &session {
                // A standby has one to make only when it has replayed one.
                let asked = session.execute("run a checkpoint", "CHECKPOINT", deadline).await;
                if let Err(error) = asked {
                    tracing::debug!(%error, "waiting for a checkpoint of the source");
                }
            }
            let action = "tell its last checkpoint";
            let found = source.session.text(action, sql, &[], QUERY_DEADLINE).await?;
            if found.as_deref() == Some(wanted.as_str()) {
                return Ok(());
            }
            if tokio::time::Instant::now() >= end {
                let what = format!("{host}:{port} to finish a checkpoint on timeline {wanted}");
                return Err(Error::Deadline { what, waited: deadline });
            }
            tokio::time::sleep(super::REMOTE_POLL).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn history_files_have_hexadecimal_names() {
        assert_eq!(history_file(TimelineId(1)), None);
        assert_eq!(history_file(TimelineId(27)).as_deref(), Some("pg_wal/0000001B.history"));
        let history = parse(TimelineId(2), "f", "1\t0/3000000\tx\n").expect("history");
        assert_eq!(history.ancestors.len(), 1);
        assert!(
            parse(TimelineId(2), "pg_wal/f", "?")
                .expect_err("read")
                .to_string()
                .contains("pg_wal/f")
        );
    }
}
