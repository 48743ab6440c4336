//! The ledger: which rows a client was told to be committed, and whether they are still there.
//!
//! A [`Writer`] inserts rows with numbers of its own and notes the fate of each: *acknowledged*,
//! *refused* (the server said no before anything was committed) or *indeterminate* (no answer: the
//! row may be there or not, both are right). The [`Audit`] compares the notes with the table. An
//! acknowledged row that is missing is lost; nothing else is.

mod account;
mod audit;
mod writer;

pub use account::{Fate, Ledger, PhaseAccount};
pub use audit::{Audit, AuditError, PhaseAudit};
pub use writer::{Writer, WriterOptions};

/// Makes the table of rows. `run` keeps the rows of one writer apart from those of another.
pub(crate) const TABLE: &str = "CREATE TABLE IF NOT EXISTS ledger (\
     run text NOT NULL, id bigint NOT NULL, phase text NOT NULL, payload text NOT NULL, \
     PRIMARY KEY (run, id))";
