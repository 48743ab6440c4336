//! A failover that leaves the former primary with WAL that nobody else has, so that it must be
//! rewound. For clusters without synchronous mode.

use lab::ledger::Writer;
use node_agent_core::rule::Rule;
use rustix::process::Signal;

use crate::agent_log::Mark;
use crate::patience::until;
use crate::rig::{READY, Rig};

/// Cuts the power of the primary after it has written what its walsenders no longer ship, lets the
/// datacenter fail over and the former primary come back; returns the new primary.
///
/// # Panics
/// When nobody takes over, or the former primary comes back without a rewind.
pub async fn failover_with_rewind(rig: &Rig, writer: &Writer, former: &str) -> String {
    let mark = Mark::now(&rig.lab);
    rig.signal_postgres(former, "walsender", Signal::STOP);
    rig.rows(writer, 50).await;
    rig.kill_host(former);
    let successor = rig.successor_of(former).await;
    rig.rows(writer, 50).await;
    rig.start_dc("dc1");
    until("the former primary to be rewound", READY, async || {
        let lines = mark.decided(&rig.lab, Rule::Rewind);
        if lines.is_empty() { Err("not yet".to_owned()) } else { Ok(()) }
    })
    .await;
    assert_eq!(rig.complete("dc1"), successor);
    rig.rows(writer, 50).await;
    successor
}
