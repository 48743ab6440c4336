//! Whether sessions wait for synchronous replication, and how far the standbys are.

use super::{Error, Server};
use node_agent_core::stall::Look;
use node_agent_core::time::Boot;
use node_agent_wire::{Lsn, MemberName};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::time::Duration;

/// The positions are only asked for when they matter. NULL on a standby.
const QUERY: &str = "
SELECT CASE WHEN pg_is_in_recovery() THEN NULL ELSE json_build_object(
  'waiting', w.waiting,
  'written', pg_current_wal_flush_lsn(),
  'flushed', (SELECT coalesce(json_agg(json_build_array(application_name, flush_lsn)), '[]')
    FROM pg_stat_replication WHERE state = 'streaming' AND flush_lsn IS NOT NULL)
)::text END
FROM (SELECT EXISTS (SELECT FROM pg_stat_activity WHERE wait_event = 'SyncRep') AS waiting) w";

#[derive(Deserialize)]
struct Answer {
    waiting: bool,
    written: String,
    flushed: Vec<(String, String)>,
}

impl Server {
    /// One look at the primary.
    ///
    /// # Errors
    /// When the server does not answer, or not as expected.
    pub async fn sync_waits(&self, at: Boot, deadline: Duration) -> Result<Look, Error> {
        let mut session = self.borrow(deadline).await?;
        let text = session.text("show who waits for standbys", QUERY, &[], deadline).await?;
        self.give_back(session);
        match text {
            Some(text) => parse(&text, at),
            None => Ok(Look { at, ..Look::default() }),
        }
    }
}

fn parse(text: &str, at: Boot) -> Result<Look, Error> {
    let bad = |problem: String| Error::Answer {
        what: "the answer to who waits for standbys".to_owned(),
        answer: problem,
    };
    let answer: Answer = serde_json::from_str(text).map_err(|e| bad(e.to_string()))?;
    let position = |text: &str| text.parse::<Lsn>().map_err(|e| bad(e.to_string()));
    let mut flushed: BTreeMap<MemberName, Lsn> = BTreeMap::new();
    for (name, lsn) in &answer.flushed {
        let (name, lsn) = (MemberName::new(name), position(lsn)?);
        // A lost connection may still show beside the new one.
        let known = flushed.entry(name).or_default();
        *known = lsn.max(*known);
    }
    Ok(Look { at, waiting: answer.waiting, written: position(&answer.written)?, flushed })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_further_one_of_two_connections_counts() {
        let text = r#"{"waiting": true, "written": "0/9",
            "flushed": [["pg2", "0/3"], ["pg2", "0/5"], ["pg3", "0/1"]]}"#;
        let look = parse(text, Boot(7)).expect("a look");
        let expected = [("pg2".into(), Lsn(5)), ("pg3".into(), Lsn(1))].into();
        assert_eq!((look.at, look.waiting, look.written), (Boot(7), true, Lsn(9)));
        assert_eq!(look.flushed, expected);
        assert!(parse(r#"{"waiting": 1}"#, Boot(7)).is_err());
    }
}
