//! `federator setup`.

use super::operation::{carry_out, request};
use super::{Exit, Session};
use crate::collect::{Depth, collect};
use federator_core::planner::setup;
use node_agent_wire::DcName;

pub(super) async fn run(session: &Session, primary: Option<DcName>) -> Exit {
    let inventory = collect(&session.federation, Depth::Preflight, None).await;
    let answer = setup::plan(&inventory, primary.as_ref(), &request(session));
    carry_out(session, inventory, answer).await
}
