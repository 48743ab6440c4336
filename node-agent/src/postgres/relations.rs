//! Names for the relations of a divergence report. The diverged server is stopped, so the
//! surviving one is asked: what existed at the fork has the same file there unless it was
//! rewritten since.

use super::divergence::Divergence;
use super::session::Session;
use super::{Error, QUERY_DEADLINE, Server};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tokio_postgres::types::ToSql;

/// The table of each file; of an index's file, the table that it belongs to.
const NAMES: &str = "
SELECT f.tablespace, f.filenode, coalesce(i.indrelid, c.oid)::regclass::text
FROM unnest($1::oid[], $2::oid[]) AS f(tablespace, filenode)
CROSS JOIN LATERAL pg_filenode_relation(f.tablespace, f.filenode) AS found(oid)
JOIN pg_class c ON c.oid = found.oid
LEFT JOIN pg_index i ON i.indexrelid = c.oid";

impl Server {
    /// Names the relations of a report as far as the server at one of `hosts` knows them, and
    /// writes the report's file again. What it does not know keeps its numbers.
    ///
    /// # Errors
    /// When no host answers, or the report can't be written.
    pub async fn name_relations(
        &self,
        report: &mut Divergence,
        hosts: &[(String, u16)],
        deadline: Duration,
    ) -> Result<(), Error> {
        let mut source = self.find_source(hosts, deadline).await?;
        let (host, port) = (source.identity.host.clone(), source.identity.port);
        let databases: BTreeSet<u32> = report.relations.iter().map(|r| r.database).collect();
        let sql = "SELECT oid, datname::text FROM pg_database WHERE datallowconn";
        let rows = source.session.rows("list its databases", sql, &[], QUERY_DEADLINE).await?;
        let names: BTreeMap<u32, String> = rows
            .iter()
            .filter_map(|row| Some((row.try_get(0).ok()?, row.try_get(1).ok()?)))
            .collect();
        for database in databases {
            // Shared relations are visible from every database.
            let Some(name) = names.get(&database).or(names.values().next()) else { continue };
            let mut target = self.remote_target(&host, port);
            target.database.clone_from(name);
            let shared = database == 0;
            match Session::connect(&target, QUERY_DEADLINE, QUERY_DEADLINE).await {
                Ok(mut session) if shared || names.contains_key(&database) => {
                    name_one(&mut session, report, database, (!shared).then_some(name)).await?;
                }
                // Dropped since, or closed to this user: the numbers stay.
                Ok(_) | Err(_) => {}
            }
        }
        self.write_report(report).await
    }
}

async fn name_one(
    session: &mut Session,
    report: &mut Divergence,
    database: u32,
    database_name: Option<&String>,
) -> Result<(), Error> {
    let files = report.relations.iter().filter(|relation| relation.database == database);
    let (tablespaces, filenodes): (Vec<u32>, Vec<u32>) =
        files.map(|relation| (relation.tablespace, relation.filenode)).unzip();
    let parameters: [&(dyn ToSql + Sync); 2] = [&tablespaces, &filenodes];
    let rows = session.rows("name its relations", NAMES, &parameters, QUERY_DEADLINE).await?;
    let mut names: BTreeMap<(u32, u32), String> = BTreeMap::new();
    for row in &rows {
        if let (Ok(tablespace), Ok(filenode), Ok(name)) =
            (row.try_get(0), row.try_get(1), row.try_get(2))
        {
            names.insert((tablespace, filenode), name);
        }
    }
    for relation in report.relations.iter_mut().filter(|r| r.database == database) {
        relation.database_name = database_name.cloned();
        relation.table = names.get(&(relation.tablespace, relation.filenode)).cloned();
    }
    Ok(())
}
