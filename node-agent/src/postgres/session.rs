//! One SQL session with a deadline on everything. A session whose query did not come back is
//! dropped: the answer would still be in the pipe.

use super::{Error, tls};
use std::collections::BTreeMap;
use std::error::Error as _;
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio_postgres::tls::MakeTlsConnect;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Config, NoTls, Row, Socket, Statement};

/// The name that Patroni's sessions have; exporters and DBAs filter by it.
const APPLICATION_NAME: &str = "Patroni heartbeat";

/// Whom to connect to, and as whom.
#[derive(Clone)]
pub(super) struct Target {
    /// A host, an address, or the directory of a Unix socket.
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) user: String,
    pub(super) password: Option<String>,
    /// libpq's parameters of the user.
    pub(super) connection: BTreeMap<String, String>,
    pub(super) database: String,
    /// More `-c name=value` options.
    pub(super) options: &'static str,
}

impl Target {
    /// For messages.
    pub(super) fn shown(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }
}

/// An open session; closed when dropped.
pub(super) struct Session {
    client: Client,
    server: String,
    driver: JoinHandle<()>,
    prepared: BTreeMap<&'static str, Statement>,
}

impl Drop for Session {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

fn parts(error: &tokio_postgres::Error) -> (Option<String>, String) {
    if let Some(db) = error.as_db_error() {
        let hint = db.hint().map(|h| format!(" ({h})")).unwrap_or_default();
        return (Some(db.code().code().to_owned()), format!("{}{hint}", db.message()));
    }
    let mut message = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        message = format!("{message}: {cause}");
        source = cause.source();
    }
    (None, message)
}

/// Whether TLS failed: rustls speaks through the input and output of the connection.
fn is_tls(error: &tokio_postgres::Error) -> bool {
    let mut source = error.source();
    while let Some(cause) = source {
        let inner = cause.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        if cause.is::<rustls::Error>() || inner.is_some_and(|inner| inner.is::<rustls::Error>()) {
            return true;
        }
        source = cause.source();
    }
    false
}

/// Connects, and drives the connection in a task of its own.
async fn open<T>(config: &Config, tls: T) -> Result<(Client, JoinHandle<()>), tokio_postgres::Error>
where
    T: MakeTlsConnect<Socket>,
    T::Stream: Send + 'static,
{
    let (client, connection) = config.connect(tls).await?;
    let driver = tokio::spawn(async move {
        // Its error reaches the queries, which report it.
        let _ = connection.await;
    });
    Ok((client, driver))
}

impl Session {
    /// Opens a session. `statement_timeout` bounds each query on the server's side as well.
    pub(super) async fn connect(
        target: &Target,
        deadline: Duration,
        statement_timeout: Duration,
    ) -> Result<Self, Error> {
        let mut config = Config::new();
        if target.host.starts_with('/') {
            config.host_path(&target.host);
        } else {
            config.host(&target.host);
        }
        config.port(target.port).user(&target.user).dbname(&target.database);
        config.application_name(APPLICATION_NAME).connect_timeout(deadline);
        config.tcp_user_timeout(deadline.max(Duration::from_secs(1)));
        if let Some(password) = &target.password {
            config.password(password);
        }
        // Asynchronous: the agent's own changes must not wait for a standby that the agent is
        // about to remove from synchronous_standby_names.
        config.options(format!(
            "-c search_path=pg_catalog -c synchronous_commit=local -c statement_timeout={} {}",
            statement_timeout.as_millis(),
            target.options
        ));
        let server = target.shown();
        // There is no TLS on a Unix socket, and libpq does not ask for it there.
        let local = target.host.starts_with('/');
        let connector = if local { None } else { tls::prepare(&target.connection, &mut config)? };
        let opening = async {
            match connector {
                Some(connector) => open(&config, connector).await,
                None => open(&config, NoTls).await,
            }
        };
        match tokio::time::timeout(deadline, opening).await {
            Ok(Ok((client, driver))) => {
                Ok(Self { client, server, driver, prepared: BTreeMap::new() })
            }
            Ok(Err(error)) => {
                let (code, message) = parts(&error);
                Err(Error::Connect { server, code, tls: is_tls(&error), message })
            }
            Err(_) => {
                let what = format!("a connection to PostgreSQL at {server}");
                Err(Error::Deadline { what, waited: deadline })
            }
        }
    }

    pub(super) fn is_closed(&self) -> bool {
        self.client.is_closed()
    }

    fn failed(&self, action: &str, error: &tokio_postgres::Error) -> Error {
        let (code, message) = parts(error);
        Error::Query { action: action.to_owned(), server: self.server.clone(), code, message }
    }

    async fn within<T>(
        &self,
        action: &str,
        deadline: Duration,
        work: impl Future<Output = Result<T, tokio_postgres::Error>>,
    ) -> Result<T, Error> {
        match tokio::time::timeout(deadline, work).await {
            Ok(result) => result.map_err(|e| self.failed(action, &e)),
            Err(_) => Err(Error::Deadline {
                what: format!("PostgreSQL at {} to {action}", self.server),
                waited: deadline,
            }),
        }
    }

    /// The rows of a query, prepared once: one round trip from the second time on.
    pub(super) async fn rows(
        &mut self,
        action: &str,
        sql: &'static str,
        parameters: &[&(dyn ToSql + Sync)],
        deadline: Duration,
    ) -> Result<Vec<Row>, Error> {
        let known = self.prepared.get(sql).cloned();
        let (statement, rows) = self
            .within(action, deadline, async {
                let statement = match known {
                    Some(statement) => statement,
                    None => self.client.prepare(sql).await?,
                };
                let rows = self.client.query(&statement, parameters).await?;
                Ok((statement, rows))
            })
            .await?;
        self.prepared.insert(sql, statement);
        Ok(rows)
    }

    /// The text of the first column of the first row; `None` for NULL or no row.
    pub(super) async fn text(
        &mut self,
        action: &str,
        sql: &'static str,
        parameters: &[&(dyn ToSql + Sync)],
        deadline: Duration,
    ) -> Result<Option<String>, Error> {
        let rows = self.rows(action, sql, parameters, deadline).await?;
        let Some(row) = rows.first() else { return Ok(None) };
        row.try_get(0).map_err(|e| self.failed(action, &e))
    }

    /// Statements without parameters or rows.
    pub(super) async fn execute(
        &self,
        action: &str,
        sql: &str,
        deadline: Duration,
    ) -> Result<(), Error> {
        self.within(action, deadline, self.client.batch_execute(sql)).await
    }
}
