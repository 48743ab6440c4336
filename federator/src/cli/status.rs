//! `federator status`.

use super::operation::request;
use super::{Exit, Session};
use crate::collect::{Depth, collect};
use crate::examine;
use crate::render;
use federator_core::inventory::Inventory;
use federator_core::report;
use std::io::{IsTerminal, Write};
use std::time::Duration;

/// The pause between two looks of `--watch`.
const WATCH: Duration = Duration::from_secs(1);

pub(super) async fn run(session: &Session, json: bool, watch: bool) -> Exit {
    let mut before: Option<Inventory> = None;
    loop {
        let mut inventory = collect(&session.federation, Depth::Status, before.as_ref()).await;
        examine::sizes(&session.federation, &mut inventory, before.as_ref()).await;
        let report = report::status(&inventory, &request(session));
        let text = if json {
            match serde_json::to_string_pretty(&report) {
                Ok(text) => text + "\n",
                Err(error) => {
                    eprintln!("error: the report has no JSON form: {error}");
                    return Exit::Failed;
                }
            }
        } else {
            render::status(&report)
        };
        let mut out = std::io::stdout().lock();
        let clear = if watch && !json && out.is_terminal() { "\x1b[H\x1b[J" } else { "" };
        if write!(out, "{clear}{text}").and_then(|()| out.flush()).is_err() {
            return Exit::Done; // Nobody reads any more.
        }
        drop(out);
        if !watch {
            let silent = inventory.views().next().is_none();
            return if silent { Exit::Failed } else { Exit::Done };
        }
        before = Some(inventory);
        tokio::time::sleep(WATCH).await;
    }
}
