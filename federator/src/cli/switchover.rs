//! `federator switchover --to DC`.

use super::operation::{carry_out, request};
use super::{Exit, Session};
use crate::collect::{Depth, collect};
use federator_core::planner::switchover;
use node_agent_wire::DcName;

pub(super) async fn run(session: &Session, to: &DcName) -> Exit {
    let inventory = collect(&session.federation, Depth::Preflight, None).await;
    let answer = switchover::plan(&inventory, to, &request(session));
    carry_out(session, inventory, answer).await
}
