//! A datacenter under load that is watched from outside, for tests that break its parts.

use std::time::Instant;

use lab::Part;
use lab::ledger::Writer;
use lab::prober::{Prober, Record};
use lab::processes::Process;

use crate::rig::{READY, Rig, assert_nothing_lost};
use crate::rows;

/// One datacenter with its primary, a writer and a prober of every node.
pub struct Scene {
    /// The lab.
    pub rig: Rig,
    /// The primary before the fault.
    pub primary: String,
    /// The load.
    pub writer: Writer,
    /// Probes of every node.
    pub prober: Prober,
}

impl Scene {
    /// Waits until the datacenter is complete, and puts it under load and watch.
    ///
    /// # Panics
    /// When it does not get there.
    pub async fn set(rig: Rig) -> Self {
        let primary = rig.complete("dc1");
        let writer = rig.writer("before").await;
        let prober = rig.prober().await;
        rig.rows(&writer, 300).await;
        writer.phase("fault");
        Self { rig, primary, writer, prober }
    }

    /// A process of the primary.
    ///
    /// # Panics
    /// When it does not run.
    #[must_use]
    pub fn part(&self, part: Part) -> Process {
        let host = self.rig.lab.layout.host(&self.primary);
        let host = host.unwrap_or_else(|error| panic!("{error}"));
        let found = self.rig.lab.process(host, part);
        found.unwrap_or_else(|| panic!("{} has no {}", self.primary, part.name()))
    }

    /// Lets everybody come back after a fault, and begins anew with whoever leads then. Nothing
    /// was written on two nodes at once up to now.
    ///
    /// # Panics
    /// When it was, or the datacenter does not become complete.
    pub async fn recover(&mut self) {
        self.rig.start_dc("dc1");
        self.primary = self.rig.complete("dc1");
        self.rig.say(&format!("{} leads now", self.primary));
        self.rig.rows(&self.writer, 100).await;
        self.rig.assert_one_primary(&self.prober.snapshot());
    }

    /// Lets everybody come back and gives the verdict.
    ///
    /// # Panics
    /// When a row is lost, two nodes accepted writes at once, or nodes differ.
    pub async fn end(self) -> Record {
        let Self { rig, writer, prober, .. } = self;
        writer.phase("after");
        rig.start_dc("dc1");
        let leader = rig.complete("dc1");
        rig.say(&format!("{leader} leads at the end"));
        rig.rows(&writer, 200).await;
        let ledger = writer.stop().await;
        let record = prober.stop();
        assert_nothing_lost(&rig.audit(&ledger).await);
        rig.assert_one_primary(&record);
        rows::wait_identical(&rig.access, READY).await;
        record
    }
}

/// Nobody accepted a write of the new primary before the former one had accepted its last.
///
/// # Panics
/// When somebody did.
pub fn assert_in_turn(record: &Record, former: &str, successor: &str, since: Instant) {
    let new = record.accepted_since(successor, since);
    let first = new.first().unwrap_or_else(|| panic!("{successor} accepted nothing"));
    let late = record.accepted_since(former, first.acked);
    let late: Vec<_> = late.iter().map(|write| write.sent - first.acked).collect();
    assert!(
        late.is_empty(),
        "{former} accepted writes sent after the first of {successor}: {late:?}"
    );
    let last = record.accepted_since(former, since).last().map(|write| write.acked);
    if let Some(last) = last {
        let pause = first.sent.saturating_duration_since(last);
        println!("{former} stopped {} ms before {successor} began", pause.as_millis());
    }
}
