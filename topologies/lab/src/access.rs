//! Client connections to PostgreSQL nodes, with deadlines, for the writer, the prober and checks.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};
use tokio_postgres::{Client, Config, NoTls};

use crate::credentials::{Password, SUPERUSER};
use crate::lab::Lab;
use crate::layout::POSTGRES_PORT;

/// How long a TCP connection may take: on one machine it is there at once or never.
pub const CONNECT_LIMIT: Duration = Duration::from_millis(200);
/// How long connecting with authentication may take. A frozen server accepts the connection (its
/// kernel does) and then says nothing.
pub const SESSION_LIMIT: Duration = Duration::from_secs(1);
/// How long a query of ours may take.
pub const QUERY_LIMIT: Duration = Duration::from_secs(1);
/// Pause between two looks for a node that accepts writes.
const SEARCH_PAUSE: Duration = Duration::from_millis(5);

/// A node as a client sees it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Node {
    /// The member's name.
    pub name: String,
    /// Where its PostgreSQL listens.
    pub address: SocketAddr,
}

/// How a client reaches a database that lives on one of several nodes.
#[derive(Debug, Clone)]
pub struct Access {
    /// All nodes of all datacenters.
    pub nodes: Vec<Node>,
    /// Database.
    pub database: String,
    /// User.
    pub user: String,
    /// Password.
    pub password: Password,
}

/// A database that could not be reached or asked.
#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    /// The server or the connection failed.
    #[error("{tried} on {node}: {}", words(source))]
    Failed {
        /// What was tried.
        tried: &'static str,
        /// On which node.
        node: String,
        /// What the server or the client said.
        source: tokio_postgres::Error,
    },
    /// No answer in time.
    #[error("{tried} on {node}: no answer within {} ms", limit.as_millis())]
    Late {
        /// What was tried.
        tried: &'static str,
        /// On which node.
        node: String,
        /// The deadline.
        limit: Duration,
    },
    /// No node accepts writes.
    #[error(
        "none of {} accepted writes within {} s\n\
         HINT: lab status and federator status show who leads",
        nodes.join(", "), limit.as_secs()
    )]
    NoPrimary {
        /// The nodes that were tried.
        nodes: Vec<String>,
        /// The deadline.
        limit: Duration,
    },
}

/// An error of tokio-postgres with the server's own words, which its `Display` leaves out.
#[must_use]
pub fn words(error: &tokio_postgres::Error) -> String {
    match error.as_db_error() {
        Some(db) => format!("{} (SQLSTATE {})", db.message(), db.code().code()),
        None => match std::error::Error::source(error) {
            Some(source) => format!("{error}: {source}"),
            None => error.to_string(),
        },
    }
}

impl Access {
    /// Access to all nodes of a lab as superuser, database `postgres`.
    #[must_use]
    pub fn to_lab(lab: &Lab) -> Self {
        let nodes = lab
            .layout
            .nodes()
            .map(|host| Node { name: host.name.clone(), address: host.at(POSTGRES_PORT) });
        Self {
            nodes: nodes.collect(),
            database: "postgres".to_owned(),
            user: SUPERUSER.to_owned(),
            password: lab.credentials.superuser.clone(),
        }
    }

    /// A session on one node, whatever its role.
    ///
    /// # Errors
    /// When there is none within [`SESSION_LIMIT`].
    pub async fn connect(&self, node: &Node, application: &str) -> Result<Client, AccessError> {
        let mut config = Config::new();
        config.hostaddr(node.address.ip()).port(node.address.port());
        config.dbname(&self.database).user(&self.user).password(self.password.reveal());
        config.application_name(application).connect_timeout(CONNECT_LIMIT);
        let tried = "connecting";
        let connected = within(tried, &node.name, SESSION_LIMIT, config.connect(NoTls)).await?;
        let (client, connection) = connected;
        // Ends with the client. An error of the connection also fails the query that waits for it.
        tokio::spawn(async move {
            let _ = connection.await;
        });
        Ok(client)
    }

    /// A session on the node that accepts writes: every node is tried side by side, again and
    /// again, so a silent one holds nobody up. Sessions on read-only nodes are kept and asked
    /// again, which notices a promotion at once.
    pub async fn find_primary(&self, application: &str) -> (Node, Client) {
        loop {
            let mut searches = JoinSet::new();
            for node in &self.nodes {
                let (access, node, name) = (self.clone(), node.clone(), application.to_owned());
                searches.spawn(async move {
                    let client = access.wait_writable(&node, &name).await;
                    (node, client)
                });
            }
            if let Some(Ok(found)) = searches.join_next().await {
                return found;
            }
            // No nodes, or a search that panicked.
            tokio::time::sleep(SEARCH_PAUSE).await;
        }
    }

    /// As [`Self::find_primary`], with a deadline.
    ///
    /// # Errors
    /// When no node accepts writes within `limit`.
    pub async fn primary_within(
        &self,
        limit: Duration,
        application: &str,
    ) -> Result<(Node, Client), AccessError> {
        let nodes = || self.nodes.iter().map(|node| node.name.clone()).collect();
        let found = timeout(limit, self.find_primary(application)).await;
        found.map_err(|_| AccessError::NoPrimary { nodes: nodes(), limit })
    }

    async fn wait_writable(&self, node: &Node, application: &str) -> Client {
        loop {
            if let Ok(client) = self.connect(node, application).await {
                loop {
                    match is_writable(&client, &node.name).await {
                        Ok(true) => return client,
                        Ok(false) => tokio::time::sleep(SEARCH_PAUSE).await,
                        Err(_) => break,
                    }
                }
            }
            tokio::time::sleep(SEARCH_PAUSE).await;
        }
    }
}

/// libpq's `target_session_attrs=read-write`.
async fn is_writable(client: &Client, node: &str) -> Result<bool, AccessError> {
    let sql = "SELECT NOT pg_is_in_recovery() AND current_setting('transaction_read_only') = 'off'";
    let row = within("asking for the role", node, QUERY_LIMIT, client.query_one(sql, &[])).await?;
    row.try_get(0).map_err(|source| AccessError::Failed {
        tried: "asking for the role",
        node: node.to_owned(),
        source,
    })
}

/// Waits for a request to PostgreSQL with a deadline. A request that passed it must not be followed
/// by another one on the same session: its answer would still be in the pipe.
///
/// # Errors
/// When the server says no, the connection breaks, or the deadline passes.
pub async fn within<T>(
    tried: &'static str,
    node: &str,
    limit: Duration,
    request: impl Future<Output = Result<T, tokio_postgres::Error>>,
) -> Result<T, AccessError> {
    match timeout(limit, request).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(source)) => Err(AccessError::Failed { tried, node: node.to_owned(), source }),
        Err(_) => Err(AccessError::Late { tried, node: node.to_owned(), limit }),
    }
}

/// Runs a statement on the primary, looking for it again until it succeeds or `limit` passes.
///
/// # Errors
/// The last failure, or that there is no primary.
pub async fn on_primary(access: &Access, sql: &str, limit: Duration) -> Result<(), AccessError> {
    let deadline = Instant::now() + limit;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let (node, client) = access.primary_within(left, "lab").await?;
        let run = within("preparing a table", &node.name, SESSION_LIMIT, client.batch_execute(sql));
        match run.await {
            Ok(()) => return Ok(()),
            Err(error) if Instant::now() >= deadline => return Err(error),
            Err(_) => tokio::time::sleep(SEARCH_PAUSE).await,
        }
    }
}
