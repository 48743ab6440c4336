//! SQL on the datacenters' leaders, every statement with a deadline.

use crate::concurrent::within;
use crate::settings::Login;
use federator_core::inventory::SqlFacts;
use federator_core::sequences::Sequence;
use node_agent_wire::{Lsn, SystemId, TimelineId};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tokio_postgres::{Config, NoTls, Row};

/// How long connecting may take.
pub const CONNECT_LIMIT: Duration = Duration::from_millis(2000);
/// How long a look at the server may take.
pub const QUERY_LIMIT: Duration = Duration::from_millis(2000);

/// How long the sequences of one database may take.
pub const SEQUENCES_LIMIT: Duration = Duration::from_secs(10);
/// How long a change of a role may take, synchronous commit included.
const CHANGE_LIMIT: Duration = Duration::from_secs(10);

/// A statement or a connection that failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what} on {address} as {user} failed: {why}")]
pub struct SqlError {
    /// What was tried.
    pub what: String,
    /// Where.
    pub address: String,
    /// As whom.
    pub user: String,
    /// What went wrong.
    pub why: String,
}

/// An open session. Its connection ends with it.
pub struct Session {
    client: tokio_postgres::Client,
    address: String,
    user: String,
}

/// How far a standby has replayed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Replay {
    /// Replayed up to here; `None` when the server is no standby.
    pub lsn: Option<Lsn>,
    /// The timeline that its WAL receiver receives; `None` without a WAL receiver.
    pub timeline: Option<TimelineId>,
}

/// PostgreSQL's own words, with the detail behind the generic "db error".
fn words(error: &tokio_postgres::Error) -> String {
    match error.as_db_error() {
        Some(db) => format!("{}: {}", db.severity(), db.message()),
        None => {
            let mut cause: &dyn std::error::Error = error;
            while let Some(inner) = cause.source() {
                cause = inner;
            }
            cause.to_string()
        }
    }
}

impl Session {
    /// Connects.
    ///
    /// # Errors
    /// No connection in time, or refused.
    pub async fn open(host: &str, port: u16, login: &Login) -> Result<Self, SqlError> {
        Self::open_database(host, port, login, None).await
    }

    /// Connects to a database; to `postgres` without one.
    ///
    /// # Errors
    /// No connection in time, or refused.
    pub async fn open_database(
        host: &str,
        port: u16,
        login: &Login,
        database: Option<&str>,
    ) -> Result<Self, SqlError> {
        let address = format!("{host}:{port}");
        let fail = |why: String| SqlError {
            what: "connecting".into(),
            address: address.clone(),
            user: login.username.clone(),
            why,
        };
        let mut config = Config::new();
        config
            .host(host)
            .port(port)
            .user(&login.username)
            .password(login.password.expose())
            .dbname(database.unwrap_or("postgres"))
            .application_name("federator")
            .connect_timeout(CONNECT_LIMIT);
        let (client, connection) = within(CONNECT_LIMIT, "connecting", config.connect(NoTls))
            .await
            .map_err(|late| fail(late.to_string()))?
            .map_err(|error| fail(words(&error)))?;
        // Ends when the client is dropped.
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "SQL connection ended");
            }
        });
        Ok(Self { client, address, user: login.username.clone() })
    }

    fn error(&self, what: &str, why: String) -> SqlError {
        SqlError {
            what: what.to_owned(),
            address: self.address.clone(),
            user: self.user.clone(),
            why,
        }
    }

    async fn rows(&self, what: &str, query: &str) -> Result<Vec<Row>, SqlError> {
        within(QUERY_LIMIT, what, self.client.query(query, &[]))
            .await
            .map_err(|late| self.error(what, late.to_string()))?
            .map_err(|error| self.error(what, words(&error)))
    }

    /// The databases that can be connected to, templates included.
    ///
    /// # Errors
    /// The statement failed or was late.
    pub async fn databases(&self) -> Result<Vec<String>, SqlError> {
        // -2 marks a database whose removal was interrupted.
        const QUERY: &str = "SELECT datname::text AS name FROM pg_catalog.pg_database \
             WHERE datallowconn AND datconnlimit <> -2 ORDER BY 1";
        let rows = self.rows("listing the databases", QUERY).await?;
        rows.iter().map(|row| self.field(row, "name")).collect()
    }

    /// Every sequence of this database.
    ///
    /// # Errors
    /// The statement failed or was late.
    pub async fn sequences(&self) -> Result<Vec<Sequence>, SqlError> {
        const QUERY: &str = "SELECT schemaname::text AS schema, sequencename::text AS name, \
             last_value, start_value, increment_by, min_value, max_value, cycle \
             FROM pg_catalog.pg_sequences ORDER BY 1, 2";
        let rows = self.rows("reading the sequences", QUERY).await?;
        let sequence = |row| {
            Ok(Sequence {
                schema: self.field(row, "schema")?,
                name: self.field(row, "name")?,
                last: self.field(row, "last_value")?,
                start: self.field(row, "start_value")?,
                increment: self.field(row, "increment_by")?,
                min: self.field(row, "min_value")?,
                max: self.field(row, "max_value")?,
                cycle: self.field(row, "cycle")?,
            })
        };
        rows.iter().map(sequence).collect()
    }

    /// Gives sequences, named by schema and name, their last values, all at once and flushed here,
    /// without waiting for a standby. One that was dropped meanwhile is passed over.
    ///
    /// # Errors
    /// The statement failed or was late: then none was changed, or all were.
    pub async fn set_sequences(&self, values: &[(String, String, i64)]) -> Result<(), SqlError> {
        const QUERY: &str = "SELECT pg_catalog.setval(id, value, true) FROM (SELECT \
             pg_catalog.to_regclass(pg_catalog.format('%I.%I', schema, name)) AS id, value FROM \
             ROWS FROM (pg_catalog.unnest($1::text[]), pg_catalog.unnest($2::text[]), \
             pg_catalog.unnest($3::int8[])) AS t (schema, name, value)) AS found \
             WHERE id IS NOT NULL";
        let what = "advancing the sequences";
        let column = |of: fn(&(String, String, i64)) -> &str| values.iter().map(of).collect();
        let (schemas, names): (Vec<&str>, Vec<&str>) =
            (column(|(schema, _, _)| schema), column(|(_, name, _)| name));
        let numbers: Vec<i64> = values.iter().map(|(_, _, value)| *value).collect();
        let advance = async {
            self.client.batch_execute("SET synchronous_commit = local").await?;
            self.client.query(QUERY, &[&schemas, &names, &numbers]).await
        };
        within(SEQUENCES_LIMIT, what, advance)
            .await
            .map_err(|late| self.error(what, late.to_string()))?
            .map_err(|error| self.error(what, words(&error)))?;
        Ok(())
    }

    async fn one(&self, what: &str, query: &str) -> Result<Row, SqlError> {
        within(QUERY_LIMIT, what, self.client.query_one(query, &[]))
            .await
            .map_err(|late| self.error(what, late.to_string()))?
            .map_err(|error| self.error(what, words(&error)))
    }

    fn field<'r, T: tokio_postgres::types::FromSql<'r>>(
        &self,
        row: &'r Row,
        name: &str,
    ) -> Result<T, SqlError> {
        row.try_get(name).map_err(|error| self.error("reading the answer", error.to_string()))
    }

    /// Where replay stands.
    ///
    /// # Errors
    /// The statement failed or was late.
    pub async fn replay(&self) -> Result<Replay, SqlError> {
        const QUERY: &str = "SELECT pg_catalog.pg_last_wal_replay_lsn()::text AS lsn, \
             (SELECT received_tli FROM pg_catalog.pg_stat_wal_receiver) AS timeline, \
             pg_catalog.pg_is_in_recovery() AS standby";
        let row = self.one("reading the replay position", QUERY).await?;
        let standby: bool = self.field(&row, "standby")?;
        let lsn: Option<String> = self.field(&row, "lsn")?;
        let timeline: Option<i32> = self.field(&row, "timeline")?;
        Ok(Replay {
            lsn: lsn.filter(|_| standby).and_then(|lsn| lsn.parse().ok()),
            timeline: timeline.and_then(|t| u32::try_from(t).ok()).map(TimelineId),
        })
    }

    /// Where the primary writes: position and timeline.
    ///
    /// # Errors
    /// The statement failed or was late, or the server is a standby.
    pub async fn written(&self) -> Result<(Lsn, TimelineId), SqlError> {
        const QUERY: &str = "SELECT lsn::text AS lsn, pg_catalog.pg_walfile_name(lsn) AS file \
             FROM pg_catalog.pg_current_wal_lsn() AS lsn";
        let what = "reading the primary's position";
        let row = self.one(what, QUERY).await?;
        let (lsn, file): (String, String) = (self.field(&row, "lsn")?, self.field(&row, "file")?);
        // A segment's name begins with its timeline, eight hexadecimal digits.
        let timeline = file.get(..8).and_then(|digits| u32::from_str_radix(digits, 16).ok());
        match (lsn.parse(), timeline) {
            (Ok(lsn), Some(timeline)) => Ok((lsn, TimelineId(timeline))),
            (_, _) => Err(self.error(what, format!("unexpected answer {lsn}, {file}"))),
        }
    }

    /// Whether commits wait for a standby, by its `application_name`.
    ///
    /// # Errors
    /// The statement failed or was late.
    pub async fn waits_for(&self, standby: &str) -> Result<bool, SqlError> {
        const QUERY: &str = "SELECT sync_state IN ('sync', 'quorum') AS waits \
             FROM pg_catalog.pg_stat_replication \
             WHERE state = 'streaming' AND lower(application_name) = lower($1)";
        let what = "looking at the standbys";
        let rows = within(QUERY_LIMIT, what, self.client.query(QUERY, &[&standby]))
            .await
            .map_err(|late| self.error(what, late.to_string()))?
            .map_err(|error| self.error(what, words(&error)))?;
        let mut waits = rows.iter().map(|row| self.field(row, "waits"));
        waits.try_fold(false, |found, waits| Ok(found || waits?))
    }

    /// What a preflight wants to know.
    ///
    /// # Errors
    /// A statement failed or was late.
    pub async fn facts(&self) -> Result<SqlFacts, SqlError> {
        const QUERY: &str = "SELECT \
             pg_catalog.current_setting('server_version_num')::int AS version, \
             pg_catalog.current_setting('data_checksums') = 'on' AS checksums, \
             pg_catalog.current_setting('wal_log_hints') = 'on' AS hints, \
             (SELECT setting::bigint FROM pg_catalog.pg_settings \
               WHERE name = 'recovery_min_apply_delay') AS delay, \
             pg_catalog.pg_is_in_recovery() AND pg_catalog.pg_is_wal_replay_paused() AS paused, \
             (SELECT status FROM pg_catalog.pg_stat_wal_receiver) AS receiver, \
             (SELECT received_tli FROM pg_catalog.pg_stat_wal_receiver) AS timeline, \
             (SELECT system_identifier::text FROM pg_catalog.pg_control_system()) AS system";
        const CAPACITY: &str = "SELECT name, setting::bigint AS value \
             FROM pg_catalog.pg_settings WHERE name IN ('max_connections', \
             'max_worker_processes', 'max_wal_senders', 'max_prepared_transactions', \
             'max_locks_per_transaction')";
        let row = self.one("looking at the settings", QUERY).await?;
        let what = "looking at the capacity settings";
        let rows = self.rows(what, CAPACITY).await?;
        let mut capacity = BTreeMap::new();
        for row in &rows {
            capacity.insert(self.field(row, "name")?, self.field(row, "value")?);
        }
        let version: i32 = self.field(&row, "version")?;
        let collation_version = match version {
            150_000.. => self.collation_version().await?,
            _ => String::new(),
        };
        let timeline: Option<i32> = self.field(&row, "timeline")?;
        let system: String = self.field(&row, "system")?;
        Ok(SqlFacts {
            server_version: u32::try_from(version).unwrap_or(0),
            data_checksums: self.field(&row, "checksums")?,
            wal_log_hints: self.field(&row, "hints")?,
            apply_delay_ms: self.field(&row, "delay")?,
            replay_paused: self.field(&row, "paused")?,
            receiver: self.field::<Option<String>>(&row, "receiver")?.unwrap_or_default(),
            received_timeline: timeline.and_then(|t| u32::try_from(t).ok()).map(TimelineId),
            system_id: SystemId::new(system),
            capacity,
            collation_version,
            replication_login_error: None,
        })
    }

    async fn collation_version(&self) -> Result<String, SqlError> {
        const QUERY: &str = "SELECT coalesce( \
             pg_catalog.pg_database_collation_actual_version(oid), '') AS version \
             FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database()";
        let row = self.one("looking at the collation", QUERY).await?;
        self.field(&row, "version")
    }

    /// Writes a WAL message in a transaction and commits it: a real write that leaves nothing
    /// behind. It is flushed here and waits for no standby.
    ///
    /// # Errors
    /// The server does not accept writes, or was late.
    pub async fn probe_write(&self) -> Result<(), SqlError> {
        const QUERY: &str = "BEGIN; SET LOCAL synchronous_commit = local; \
             SELECT pg_catalog.pg_logical_emit_message(true, 'federator', 'probe'); COMMIT";
        let what = "a probe write";
        within(QUERY_LIMIT, what, self.client.batch_execute(QUERY))
            .await
            .map_err(|late| self.error(what, late.to_string()))?
            .map_err(|error| self.error(what, words(&error)))
    }

    async fn run(&self, what: &str, statements: &str) -> Result<(), SqlError> {
        within(CHANGE_LIMIT, what, self.client.batch_execute(statements))
            .await
            .map_err(|late| self.error(what, late.to_string()))?
            .map_err(|error| self.error(what, words(&error)))
    }

    /// Makes the server read its configuration again; processes that sleep for long look around at
    /// that, the one that takes slots over from the primary among them.
    ///
    /// # Errors
    /// The statement failed or was late.
    pub async fn reload(&self) -> Result<(), SqlError> {
        self.one("reloading", "SELECT pg_catalog.pg_reload_conf()").await.map(|_| ())
    }

    /// The users of the standbys that stream from this server.
    ///
    /// # Errors
    /// The statement failed or was late.
    pub async fn replication_users(&self) -> Result<BTreeSet<String>, SqlError> {
        const QUERY: &str = "SELECT DISTINCT usename::text AS name \
             FROM pg_catalog.pg_stat_replication WHERE usename IS NOT NULL";
        let what = "looking at the standbys";
        let rows = within(QUERY_LIMIT, what, self.client.query(QUERY, &[]))
            .await
            .map_err(|late| self.error(what, late.to_string()))?
            .map_err(|error| self.error(what, words(&error)))?;
        rows.iter().map(|row| self.field(row, "name")).collect()
    }

    /// Makes a role that may replicate, with the memberships of `like`; one that is there gets the
    /// login and the password. The server is sent a SCRAM verifier, never the password.
    ///
    /// # Errors
    /// A statement failed or was late.
    pub async fn allow_replication(&self, like: &str, login: &Login) -> Result<(), SqlError> {
        let what = "making the replication role";
        let verifier =
            postgres_protocol::password::scram_sha_256(login.password.expose().as_bytes());
        let (name, secret) = (quoted(&login.username, '"'), quoted(&verifier, '\''));
        let there = "SELECT 1 FROM pg_catalog.pg_roles WHERE rolname = $1";
        let found = within(QUERY_LIMIT, what, self.client.query_opt(there, &[&login.username]))
            .await
            .map_err(|late| self.error(what, late.to_string()))?
            .map_err(|error| self.error(what, words(&error)))?;
        let verb = if found.is_some() { "ALTER" } else { "CREATE" };
        let memberships = "SELECT g.rolname::text AS name FROM pg_catalog.pg_auth_members m \
             JOIN pg_catalog.pg_roles g ON g.oid = m.roleid \
             JOIN pg_catalog.pg_roles u ON u.oid = m.member WHERE u.rolname = $1";
        let rows = within(QUERY_LIMIT, what, self.client.query(memberships, &[&like]))
            .await
            .map_err(|late| self.error(what, late.to_string()))?
            .map_err(|error| self.error(what, words(&error)))?;
        let mut statements = format!("{verb} ROLE {name} LOGIN REPLICATION PASSWORD {secret};");
        for row in &rows {
            let group: String = self.field(row, "name")?;
            statements.push_str(&format!(" GRANT {} TO {name};", quoted(&group, '"')));
        }
        self.run(what, &format!("BEGIN; {statements} COMMIT")).await
    }

    /// Takes the login and the password of a role away. What is connected stays so.
    ///
    /// # Errors
    /// The statement failed or was late.
    pub async fn retire(&self, user: &str) -> Result<(), SqlError> {
        let statement = format!("ALTER ROLE {} NOLOGIN PASSWORD NULL", quoted(user, '"'));
        self.run("taking the login of the old role away", &statement).await
    }
}

/// A name or a text as SQL has it.
fn quoted(text: &str, quote: char) -> String {
    let twice = format!("{quote}{quote}");
    format!("{quote}{}{quote}", text.replace(quote, &twice))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_texts_are_quoted() {
        assert_eq!(quoted("a\"b", '"'), "\"a\"\"b\"");
        assert_eq!(quoted("it's", '\''), "'it''s'");
    }

    #[test]
    fn a_verifier_holds_no_password() {
        let verifier = postgres_protocol::password::scram_sha_256(b"very secret");
        assert!(verifier.starts_with("SCRAM-SHA-256$") && !verifier.contains("secret"));
    }
}
