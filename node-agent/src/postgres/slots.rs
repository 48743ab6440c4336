//! Replication slots, and the checkpoint.

use super::{Error, QUERY_DEADLINE, Server};
use node_agent_wire::{Lsn, SlotName};
use std::time::Duration;

/// SQLSTATE `duplicate_object`.
const DUPLICATE_OBJECT: &str = "42710";
/// SQLSTATE `undefined_object`.
const UNDEFINED_OBJECT: &str = "42704";

fn has_code(error: &Error, wanted: &str) -> bool {
    matches!(error, Error::Query { code: Some(code), .. } if code == wanted)
}

impl Server {
    /// Creates a physical slot that keeps WAL from now on. Fine when it exists already.
    ///
    /// # Errors
    /// When no slot is left (`max_replication_slots`), or a logical one has the name.
    pub async fn create_slot(&self, name: &SlotName) -> Result<(), Error> {
        let mut session = self.borrow(QUERY_DEADLINE).await?;
        let action = format!("create the replication slot {name}");
        let create = "SELECT slot_name::text FROM pg_create_physical_replication_slot($1, true)";
        match session.text(&action, create, &[&name.as_str()], QUERY_DEADLINE).await {
            Ok(_) => {
                self.give_back(session);
                return Ok(());
            }
            Err(error) if has_code(&error, DUPLICATE_OBJECT) => {}
            Err(error) => return Err(error),
        }
        let kind = "SELECT slot_type FROM pg_replication_slots WHERE slot_name = $1";
        match session.text(&action, kind, &[&name.as_str()], QUERY_DEADLINE).await?.as_deref() {
            Some("physical") | None => {
                self.give_back(session);
                Ok(())
            }
            Some(other) => {
                Err(Error::Refused { action, reason: format!("a {other} slot has this name") })
            }
        }
    }

    /// Drops a slot. Fine when there is none.
    ///
    /// # Errors
    /// When it is in use.
    pub async fn drop_slot(&self, name: &SlotName) -> Result<(), Error> {
        let mut session = self.borrow(QUERY_DEADLINE).await?;
        let action = format!("drop the replication slot {name}");
        let sql = "SELECT pg_drop_replication_slot($1)::text";
        match session.text(&action, sql, &[&name.as_str()], QUERY_DEADLINE).await {
            Err(error) if !has_code(&error, UNDEFINED_OBJECT) => Err(error),
            Ok(_) | Err(_) => Ok(()),
        }
    }

    /// Moves a physical slot forward, on a standby no further than it has replayed. Nothing
    /// happens when it is there or beyond, in use, absent, or reserves no WAL.
    ///
    /// # Errors
    /// When the server refuses.
    pub async fn advance_slot(&self, name: &SlotName, to: Lsn) -> Result<(), Error> {
        let mut session = self.borrow(QUERY_DEADLINE).await?;
        let action = format!("advance the replication slot {name} to {to}");
        let sql = "
            SELECT (SELECT end_lsn FROM pg_replication_slot_advance(slot_name, target.lsn))::text
            FROM pg_replication_slots, (SELECT $2::text::pg_lsn AS lsn) target
            WHERE slot_name = $1 AND NOT active AND restart_lsn < target.lsn";
        let to = to.to_string();
        session.text(&action, sql, &[&name.as_str(), &to], QUERY_DEADLINE).await?;
        self.give_back(session);
        Ok(())
    }

    /// Whether the checkpointer waits for work, and so has read the configuration that it was told
    /// of: it is the process that makes commits wait for `synchronous_standby_names`.
    ///
    /// # Errors
    /// When the server does not answer.
    pub async fn checkpointer_attends(&self) -> Result<bool, Error> {
        let mut session = self.borrow(QUERY_DEADLINE).await?;
        let sql = "SELECT (wait_event IN ('CheckpointerMain', 'CheckpointWriteDelay'))::text
            FROM pg_stat_activity WHERE backend_type = 'checkpointer'";
        let answer = session.text("see its checkpointer", sql, &[], QUERY_DEADLINE).await?;
        self.give_back(session);
        Ok(answer.as_deref() == Some("true"))
    }

    /// A checkpoint, on a standby a restartpoint.
    ///
    /// # Errors
    /// When it takes longer than `deadline`; the server goes on with it.
    pub async fn checkpoint(&self, deadline: Duration) -> Result<(), Error> {
        self.session(deadline).await?.execute("run a checkpoint", "CHECKPOINT", deadline).await
    }
}
