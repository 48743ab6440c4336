//! `federator rejoin DC`.

use super::operation::{carry_out, request};
use super::{Exit, Session};
use crate::collect::{Depth, collect};
use federator_core::planner::rejoin;
use node_agent_wire::DcName;

pub(super) async fn run(session: &Session, dc: &DcName) -> Exit {
    let inventory = collect(&session.federation, Depth::Status, None).await;
    let answer = rejoin::plan(&inventory, dc, &request(session));
    carry_out(session, inventory, answer).await
}
