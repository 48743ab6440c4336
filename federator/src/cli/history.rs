//! `federator history`.

use super::{Exit, Session};
use crate::concurrent::{Local, all};
use crate::records::read_history;
use crate::render;
use federator_core::history::merge;

pub(super) async fn run(session: &Session) -> Exit {
    let reads: Vec<Local<'_, _>> = session
        .federation
        .dcs
        .values()
        .map(|dcs| -> Local<'_, _> { Box::pin(read_history(dcs)) })
        .collect();
    let mut histories = Vec::new();
    for result in all(reads).await {
        match result {
            Ok(history) => histories.push(history),
            Err(error) => eprintln!("warning: {error}"),
        }
    }
    if histories.is_empty() {
        eprintln!("error: no datacenter answered");
        return Exit::Failed;
    }
    print!("{}", render::history(&merge(&histories)));
    Exit::Done
}
