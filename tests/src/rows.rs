//! What a node holds and whether it takes more: the ledger's table compared row by row, single
//! values, and how a standby refuses a write.

use std::time::Duration;

use lab::access::{Access, AccessError, Node, QUERY_LIMIT, within};
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use crate::patience::until;

const APPLICATION: &str = "rows";
const READ_LIMIT: Duration = Duration::from_secs(60);
const ALL: &str = "SELECT run, id, phase, payload FROM ledger ORDER BY run, id";

/// One row: run, id, phase, payload.
pub type Row = (String, i64, String, String);

/// Every row that a node has.
///
/// # Errors
/// In words: the node cannot be reached or read.
pub async fn on(access: &Access, node: &Node) -> Result<Vec<Row>, String> {
    let client = connect(access, node).await?;
    let rows = within("reading the ledger", &node.name, READ_LIMIT, client.query(ALL, &[])).await;
    let rows = rows.map_err(|error| error.to_string())?;
    let row = |row: &tokio_postgres::Row| {
        Ok((row.try_get(0)?, row.try_get(1)?, row.try_get(2)?, row.try_get(3)?))
    };
    let rows: Result<Vec<Row>, tokio_postgres::Error> = rows.iter().map(row).collect();
    rows.map_err(|error| format!("the ledger on {}: {error}", node.name))
}

/// Waits until every node has the same rows, and returns them. To be called when nobody writes.
///
/// # Panics
/// When this takes longer than `limit`; the message has the first difference.
pub async fn wait_identical(access: &Access, limit: Duration) -> Vec<Row> {
    until("the same rows on every node", limit, async || {
        let mut first: Option<(&Node, Vec<Row>)> = None;
        for node in &access.nodes {
            let rows = on(access, node).await?;
            match &first {
                None => first = Some((node, rows)),
                Some((other, expected)) => compare((&other.name, expected), (&node.name, &rows))?,
            }
        }
        first.map(|(_, rows)| rows).ok_or_else(|| "there is no node".to_owned())
    })
    .await
}

/// # Errors
/// The first difference, in words.
fn compare(a: (&str, &[Row]), b: (&str, &[Row])) -> Result<(), String> {
    let differs = a.1.iter().zip(b.1).position(|(x, y)| x != y);
    let at = match differs {
        Some(at) => at,
        None if a.1.len() == b.1.len() => return Ok(()),
        None => a.1.len().min(b.1.len()),
    };
    let (x, y) = (a.1.get(at), b.1.get(at));
    Err(format!(
        "{} has {} rows and {} has {}; the first difference is {x:?} and {y:?}",
        a.0,
        a.1.len(),
        b.0,
        b.1.len()
    ))
}

/// A session on a node, whatever its role.
///
/// # Errors
/// In words: there is none.
pub async fn connect(access: &Access, node: &Node) -> Result<Client, String> {
    access.connect(node, APPLICATION).await.map_err(|error| error.to_string())
}

/// One text value from a node.
///
/// # Errors
/// In words: the node cannot be reached, or has no such value.
pub async fn value(access: &Access, node: &Node, sql: &str) -> Result<String, String> {
    let client = connect(access, node).await?;
    let row = within("asking", &node.name, READ_LIMIT, client.query_one(sql, &[])).await;
    let row = row.map_err(|error| error.to_string())?;
    row.try_get(0).map_err(|error| format!("{sql} on {}: {error}", node.name))
}

/// Runs statements on a node.
///
/// # Errors
/// In words: the node cannot be reached, refuses, or does not end in time.
pub async fn run(access: &Access, node: &Node, sql: &str) -> Result<(), String> {
    let client = connect(access, node).await?;
    let done = within("changing", &node.name, READ_LIMIT, client.batch_execute(sql)).await;
    done.map_err(|error| error.to_string())
}

/// How a standby refuses a write, in PostgreSQL's words. The prober has made the table.
///
/// # Errors
/// In words: the node cannot be asked, or says something else.
///
/// # Panics
/// When it accepts the write, or is no standby.
pub async fn refusal(access: &Access, node: &Node) -> Result<String, String> {
    const INSERT: &str = "INSERT INTO probe (node) VALUES ('must be refused')";
    let client = connect(access, node).await?;
    let role = client.query_one("SELECT pg_is_in_recovery()", &[]);
    let row = within("asking for the role", &node.name, QUERY_LIMIT, role).await;
    let row = row.map_err(|error| error.to_string())?;
    let standby: bool = row.try_get(0).map_err(|error| error.to_string())?;
    assert!(standby, "{} is not in recovery", node.name);
    let answer = within("writing", &node.name, QUERY_LIMIT, client.batch_execute(INSERT)).await;
    match answer {
        Ok(()) => panic!("{} accepted a write", node.name),
        Err(AccessError::Failed { source, .. })
            if source.code() == Some(&SqlState::READ_ONLY_SQL_TRANSACTION) =>
        {
            Ok(lab::access::words(&source))
        }
        Err(other) => Err(other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(ids: &[i64]) -> Vec<Row> {
        ids.iter().map(|&id| ("r".into(), id, "p".into(), format!("row {id}"))).collect()
    }

    #[test]
    fn the_first_difference_is_found() {
        let cases: &[(&[i64], &[i64], Option<&str>)] = &[
            (&[1, 2], &[1, 2], None),
            (&[], &[], None),
            (&[1, 2], &[1, 3], Some("\"row 2\"")),
            (&[1, 2], &[1], Some("\"row 2\"")),
            (&[], &[7], Some("\"row 7\"")),
        ];
        for (a, b, wanted) in cases {
            let seen = compare(("a", &rows(a)), ("b", &rows(b)));
            match (seen, wanted) {
                (Ok(()), None) => {}
                (Err(seen), Some(wanted)) => assert!(seen.contains(wanted), "{seen}"),
                (seen, _) => panic!("{a:?} {b:?}: {seen:?}"),
            }
        }
    }
}
