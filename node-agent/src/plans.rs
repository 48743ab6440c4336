//! What operators ask of this node's PostgreSQL, until the loop carries it out: a restart now, or
//! one that is planned. A plan lives in the agent's memory and in its member key, as Patroni's
//! does; it is lost with the agent.

use crate::observe::Memory;
use crate::view::Ask;
use node_agent_core::observed::Request;
use node_agent_core::schedule::ScheduledRestart;
use serde_json::Value;
use tokio::sync::oneshot;

/// A planned restart.
#[derive(Clone, Debug, PartialEq)]
pub struct Planned {
    /// When, and on which conditions.
    pub restart: ScheduledRestart,
    /// As the member key shows it (contract A.4, `scheduled_restart`).
    pub shown: Value,
}

/// Who waits for a restart.
pub type RestartReply = oneshot::Sender<Result<(), String>>;

/// Takes a question about restarts up. `busy`: other work is under way. Gives the reply that is to
/// be sent when the restart is done.
pub fn take(memory: &mut Memory, busy: bool, ask: Ask) -> Option<RestartReply> {
    match ask {
        Ask::Restart { reply, .. } if busy => {
            let why = "another piece of work is in progress on this node";
            let _gone_is_fine = reply.send(Err(why.to_owned()));
            None
        }
        Ask::Restart { timeout, reply } => {
            memory.request = Some(Request::Restart);
            memory.restart_timeout = timeout;
            Some(reply)
        }
        Ask::Plan(planned, reply) => {
            let free = memory.planned.is_none();
            if free {
                tracing::info!(plan = %planned.shown, "a restart is planned");
                memory.planned = Some(planned);
            }
            let _gone_is_fine = reply.send(free);
            None
        }
        Ask::Unplan(reply) => {
            let was = memory.planned.take().is_some();
            if was {
                tracing::info!("the planned restart is cancelled");
            }
            let _gone_is_fine = reply.send(was);
            None
        }
        // Answered by the loop itself.
        Ask::Reinitialize { .. } | Ask::Look | Ask::Reload => None,
    }
}
